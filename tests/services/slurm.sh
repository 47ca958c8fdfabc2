#!/usr/bin/env bash
# A private Slurm on this machine, reachable from this machine only: munged, slurmctld, N slurmd.
#   slurm.sh start FOLDER [NODES] [CPUS]      then  export SLURM_CONF=FOLDER/slurm.conf
#   slurm.sh stop FOLDER
# Needs root and Debian's packages, which it installs.
set -euo pipefail
action=$1 folder=$2 nodes=${3:-2} cpus=${4:-2}
host=$(hostname -s)
export SLURM_CONF="$folder/slurm.conf"

stop() {
  for file in "$folder"/pid/slurmd.*.pid "$folder"/pid/slurmctld.pid "$folder"/pid/munged.pid; do
    [ ! -s "$file" ] || kill "$(cat "$file")" 2>/dev/null || true
  done
}
if [ "$action" = stop ]; then stop; exit 0; fi

if ! command -v slurmctld >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm slurm-client munge >/dev/null
fi
install -d -m 0755 "$folder" "$folder"/{state,log,pid,munge-run}
install -d -m 0700 "$folder/munge"
(umask 077; head -c 128 /dev/urandom > "$folder/munge/munge.key")
cat > "$SLURM_CONF" <<C
ClusterName=atomlake
SlurmctldHost=$host(127.0.0.1)
SlurmctldAddr=127.0.0.1
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge-run/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/pid/slurmctld.pid
SlurmdPidFile=$folder/pid/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
# without these every daemon listens on all addresses
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
# nodes may claim more than this machine has
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=600
KillWait=2
InactiveLimit=0
SlurmctldTimeout=10
SlurmdTimeout=10
PropagateResourceLimits=NONE
C
for i in $(seq "$nodes"); do
  echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=$cpus RealMemory=8000 State=UNKNOWN" >> "$SLURM_CONF"
done
echo "PartitionName=main Nodes=ALL Default=YES MaxTime=24:00:00 State=UP OverSubscribe=NO" >> "$SLURM_CONF"
munged --force --key-file="$folder/munge/munge.key" --socket="$folder/munge-run/socket" \
  --pid-file="$folder/pid/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
slurmctld -f "$SLURM_CONF"
for i in $(seq "$nodes"); do
  mkdir -p "$folder/spool.n$i"
  slurmd -f "$SLURM_CONF" -N "n$i"
done
for _ in $(seq 300); do
  [ "$(sinfo -h -o %T -N 2>/dev/null | grep -c '^idle$')" -ge "$nodes" ] && exit 0
  sleep 0.1
done
echo "Slurm did not come up; see $folder/log" >&2
exit 1
