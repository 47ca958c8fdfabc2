#!/usr/bin/env bash
# Make an authority and a certificate for one cluster: authority.pem, cluster.pem, cluster.key.
#
#   cluster/certificates.sh FOLDER [DAYS]
#
# Start the scheduler and the workers with them,
#
#   dask scheduler --protocol tls --tls-ca-file F/authority.pem --tls-cert F/cluster.pem --tls-key F/cluster.key
#   dask worker tls://HOST:8786 --nthreads 1 --tls-ca-file … --tls-cert … --tls-key …
#
# and name the same files in the recipe (cluster: {kind: address, certificates: …}). Whoever has
# cluster.key can run anything as you. The key of the authority is not kept: make new
# certificates before these end.
set -euo pipefail
folder=${1:?usage: certificates.sh FOLDER [DAYS]}
days=${2:-365}
umask 077
mkdir -p "$folder"
cd "$folder"
for file in authority.pem cluster.pem cluster.key; do
  [ ! -e "$file" ] || { echo "$folder/$file exists; remove it first" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curve="ec -pkeyopt ec_paramgen_curve:prime256v1"
openssl req -x509 -newkey $curve -nodes -days "$days" -subj "/CN=atomlake authority" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -keyout "$work/authority.key" -out authority.pem 2>/dev/null
openssl req -newkey $curve -nodes -subj "/CN=atomlake cluster" \
  -keyout cluster.key -out "$work/cluster.csr" 2>/dev/null
openssl x509 -req -in "$work/cluster.csr" -CA authority.pem -CAkey "$work/authority.key" \
  -CAcreateserial -CAserial "$work/serial" -days "$days" -out cluster.pem 2>/dev/null
openssl verify -CAfile authority.pem cluster.pem >/dev/null
echo "$PWD: authority.pem cluster.pem cluster.key, valid for $days days"
