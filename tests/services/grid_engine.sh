#!/usr/bin/env bash
# A private Grid Engine on this machine, in a network namespace that has loopback only.
#   grid_engine.sh start      then run commands with  nsenter --net=/run/netns/alsge …
#   grid_engine.sh stop
# Needs root and Debian's packages, which it installs.
set -euo pipefail
action=$1
cell=/var/lib/gridengine
inside="ip netns exec alsge"
host=$(hostname)

stop() {
  for name in sge_execd sge_qmaster; do
    for id in $(ip netns pids alsge 2>/dev/null); do
      [ "$(cat "/proc/$id/comm" 2>/dev/null)" != "$name" ] || kill "$id" 2>/dev/null || true
    done
  done
  for _ in $(seq 50); do
    [ -n "$(ip netns pids alsge 2>/dev/null)" ] || break
    sleep 0.2
  done
  ip netns del alsge 2>/dev/null || true
  rm -rf /etc/netns/alsge
}
if [ "$action" = stop ]; then stop; exit 0; fi

stop
folder=$(mktemp -d)   # its manager, another user, reads the settings from here
chmod 755 "$folder"
trap 'rm -rf "$folder"' EXIT
ip netns add alsge
ip netns exec alsge ip link set lo up
# the daemons compare names: 127.0.0.1 has to be this machine's own name in there
mkdir -p /etc/netns/alsge
echo "127.0.0.1 $host localhost" > /etc/netns/alsge/hosts
if ! command -v sge_qmaster >/dev/null && [ ! -x /usr/lib/gridengine/sge_qmaster ]; then
  apt-get update -qq
  echo "gridengine-common shared/gridenginemaster string $host
gridengine-common shared/gridenginecell string default
gridengine-common shared/gridengineconfig boolean false" | debconf-set-selections
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    gridengine-master gridengine-exec gridengine-client >/dev/null 2>&1 || true
fi
export SGE_ROOT=$cell SGE_CELL=default
mkdir -p "$cell/default/common"
echo "$host" > "$cell/default/common/act_qmaster"
if [ ! -d "$cell/default/spool/qmaster" ] && [ -x /usr/share/gridengine/scripts/init_cluster ]; then
  runuser -u sgeadmin -- /usr/share/gridengine/scripts/init_cluster "$cell" default \
    /var/spool/gridengine/spooldb sgeadmin >/dev/null 2>&1 || true
fi
chown -R sgeadmin:sgeadmin "$cell/default"
manager="$inside runuser -u sgeadmin --"
$inside /usr/sbin/sge_qmaster
for _ in $(seq 100); do $inside qconf -sh >/dev/null 2>&1 && break; sleep 0.1; done
$manager qconf -am root >/dev/null 2>&1 || true
$manager qconf -ah "$host" >/dev/null 2>&1 || true
$manager qconf -as "$host" >/dev/null 2>&1 || true
# jobs of root are refused unless this is said before the first execd starts
$inside qconf -sconf global | sed 's/^min_uid .*/min_uid 0/; s/^min_gid .*/min_gid 0/' > "$folder/global"
$manager qconf -Mconf "$folder/global" >/dev/null
cat > "$folder/hosts" <<C
group_name @allhosts
hostlist $host
C
$inside qconf -Ahgrp "$folder/hosts" >/dev/null 2>&1 || true
cat > "$folder/queue" <<C
qname                 default
hostlist              @allhosts
seq_no                0
load_thresholds       NONE
suspend_thresholds    NONE
nsuspend              1
suspend_interval      00:05:00
priority              0
min_cpu_interval      00:05:00
processors            UNDEFINED
qtype                 BATCH INTERACTIVE
ckpt_list             NONE
pe_list               make
rerun                 FALSE
slots                 4
tmpdir                /tmp
shell                 /bin/bash
prolog                NONE
epilog                NONE
shell_start_mode      unix_behavior
starter_method        NONE
suspend_method        NONE
resume_method         NONE
terminate_method      NONE
notify                00:00:60
owner_list            NONE
user_lists            NONE
xuser_lists           NONE
subordinate_list      NONE
complex_values        NONE
projects              NONE
xprojects             NONE
calendar              NONE
initial_state         default
s_rt                  INFINITY
h_rt                  INFINITY
s_cpu                 INFINITY
h_cpu                 INFINITY
s_fsize               INFINITY
h_fsize               INFINITY
s_data                INFINITY
h_data                INFINITY
s_stack               INFINITY
h_stack               INFINITY
s_core                INFINITY
h_core                INFINITY
s_rss                 INFINITY
h_rss                 INFINITY
s_vmem                INFINITY
h_vmem                INFINITY
C
$inside qconf -Aq "$folder/queue" >/dev/null 2>&1 || $inside qconf -Mq "$folder/queue" >/dev/null
$inside /usr/sbin/sge_execd
for _ in $(seq 100); do
  $inside qstat -f 2>/dev/null | grep -q 'default@.* 0/0/4 .*lx' && exit 0
  sleep 0.2
done
$inside qstat -f >&2 || true
echo "Grid Engine did not come up; see /var/spool/gridengine" >&2
exit 1
