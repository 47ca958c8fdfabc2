#!/usr/bin/env bash
# Hosts as network namespaces on a bridge that lives in a namespace of its own: nothing of it
# touches the real network.  hub is 10.77.0.1, the hosts are 10.77.0.11, 10.77.0.12, …
#   network.sh start [HOSTS]
#   network.sh cut HOST | mend HOST     packets vanish, as when a switch fails
#   network.sh stop
set -euo pipefail
action=$1
case $action in
  start)
    hosts=${2:-3}
    command -v ip >/dev/null || { apt-get update -qq; apt-get install -y -qq iproute2 >/dev/null; }
    ip netns add alhub
    ip netns exec alhub ip link set lo up
    ip netns exec alhub ip link add bridge type bridge
    ip netns exec alhub ip addr add 10.77.0.1/24 dev bridge
    ip netns exec alhub ip link set bridge up
    for i in $(seq "$hosts"); do
      ip netns add "alhost$i"
      ip link add "alv$i" netns alhub type veth peer name eth0 netns "alhost$i"
      ip netns exec alhub ip link set "alv$i" master bridge up
      ip netns exec "alhost$i" ip link set lo up
      ip netns exec "alhost$i" ip addr add "10.77.0.1$i/24" dev eth0
      ip netns exec "alhost$i" ip link set eth0 up
    done ;;
  cut) ip netns exec alhub ip link set "alv$2" down ;;
  mend) ip netns exec alhub ip link set "alv$2" up ;;
  stop)
    for name in $(ip netns list | awk '{print $1}' | grep -E '^al(hub|host[0-9]+)$'); do
      ip netns del "$name"
    done ;;
esac
