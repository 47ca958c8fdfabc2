#!/usr/bin/env bash
# An SSH server of its own on 127.0.0.1 and 127.0.0.2, which stand for two machines; nobody's keys
# or settings are touched.
#   ssh.sh start FOLDER PORT    the key to log in with is FOLDER/key, the servers' are in
#                               FOLDER/known_hosts
#   ssh.sh stop FOLDER
# Needs root and Debian's package, which it installs.
set -euo pipefail
action=$1 folder=$2

if [ "$action" = stop ]; then
  [ ! -s "$folder/pid" ] || kill "$(cat "$folder/pid")"
  exit 0
fi
port=$3
if [ ! -x /usr/sbin/sshd ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    openssh-server >/dev/null
fi
mkdir -p "$folder" /run/sshd
for name in host key; do ssh-keygen -q -t ed25519 -N '' -f "$folder/$name"; done
cp "$folder/key.pub" "$folder/authorized_keys"
for address in 127.0.0.1 127.0.0.2; do
  echo "[$address]:$port $(cut -d ' ' -f 1,2 "$folder/host.pub")"
done >"$folder/known_hosts"
# StrictModes would refuse keys below a folder that everybody may write, as /tmp is.
cat >"$folder/settings" <<C
Port $port
ListenAddress 127.0.0.1
ListenAddress 127.0.0.2
HostKey $folder/host
PidFile $folder/pid
AuthorizedKeysFile $folder/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
C
/usr/sbin/sshd -f "$folder/settings" -E "$folder/log"
