#!/usr/bin/env bash
# A real object store on this machine: Ceph's RADOS gateway with one monitor and one store in memory.
#
#   ceph.sh start FOLDER PORT    S3 at http://127.0.0.1:PORT, key "test", secret "testtest"
#   ceph.sh stop FOLDER
#
# Installs Debian's packages where they are missing, which takes root. Listens on the loopback only.
set -euo pipefail
command=$1 folder=$2

stop() {
    for file in "$folder"/*.pid; do
        if [ -e "$file" ]; then kill -9 "$(cat "$file")" 2>/dev/null || true; fi
    done
    rm -rf "$folder"
}

if [ "$command" = stop ]; then stop; exit; fi
port=$3
if ! command -v radosgw >/dev/null || ! command -v ceph-osd >/dev/null ||
    ! command -v ceph-mon >/dev/null || ! command -v curl >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ceph-mon ceph-osd radosgw curl >/dev/null
fi
stop
mkdir -p "$folder"/{mon,osd,log,run,rgw}
id=$(cat /proc/sys/kernel/random/uuid)
export CEPH_CONF="$folder/ceph.conf"
cat >"$CEPH_CONF" <<END
[global]
fsid = $id
mon host = 127.0.0.1
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon allow pool size one = true
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = $folder/run
log file = $folder/log/\$name.log
admin socket = $folder/run/\$name.\$pid.asok
pid file = $folder/\$name.pid
[mon]
mon data = $folder/mon
mon cluster log file = $folder/log/cluster.log
[osd]
osd data = $folder/osd
[client]
keyring = /dev/null
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $folder/rgw
rgw enable usage log = false
END
monmaptool --create --add a 127.0.0.1:6789 --fsid "$id" "$folder/monmap" >/dev/null
ceph-mon --mkfs -i a --monmap "$folder/monmap" -c "$CEPH_CONF"
ceph-mon -i a -c "$CEPH_CONF"
osd=$(cat /proc/sys/kernel/random/uuid)
# Until the monitor has elected itself it refuses whoever asks.
persistently() {
    for _ in $(seq 100); do
        if timeout 60 "$@" >"$folder/log/last" 2>&1; then return; fi
        sleep 0.2
    done
    cat "$folder/log/last" >&2
    return 1
}
persistently ceph -c "$CEPH_CONF" osd new "$osd"
persistently ceph-osd -i 0 --mkfs --osd-uuid "$osd" -c "$CEPH_CONF"
persistently ceph-osd -i 0 -c "$CEPH_CONF"
timeout 60 radosgw -n client.rgw -c "$CEPH_CONF" 2>/dev/null
for _ in $(seq 300); do
    if curl -s -o /dev/null "http://127.0.0.1:$port/"; then break; fi
    sleep 0.2
done
persistently radosgw-admin -n client.rgw -c "$CEPH_CONF" user create --uid=test \
    --display-name=test --access-key=test --secret-key=testtest
echo "S3 at http://127.0.0.1:$port, key test, secret testtest"
