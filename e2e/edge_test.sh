#!/usr/bin/env bash
# A node at the edge: two machines (network namespaces) on one cable, neither with a default route. The cable is pulled:
# the node restarts what dies; after a power cut, still without the API server, it starts the pods it had; once the cable
# is back it reports.
. "$(dirname "$0")/lib.sh"
SERVER=ct-server-$$ NODE=ct-node-$$ # one run does not disturb another
DATA_S=$WORK/server/data RUN_S=$WORK/server/run DATA_N=$WORK/node/data RUN_N=$WORK/node/run

server() { nsenter --net=/run/netns/$SERVER "$@"; }
node() { nsenter --net=/run/netns/$NODE "$@"; }
coracle_server() { server "$CORACLE" "$@" --data-dir "$DATA_S" --run-dir "$RUN_S"; }
coracle_node() { node "$CORACLE" "$@" --data-dir "$DATA_N" --run-dir "$RUN_N"; }
k() { server kubectl --kubeconfig "$DATA_S/admin.kubeconfig" "$@"; }

undo() {
  [ -e /run/netns/$NODE ] && coracle_node down --purge >/dev/null 2>&1
  [ -e /run/netns/$SERVER ] && coracle_server down --purge >/dev/null 2>&1
  ip netns del $NODE 2>/dev/null; ip netns del $SERVER 2>/dev/null
  rm -rf "$WORK"
}
trap undo EXIT
undo; mkdir -p "$DATA_S" "$DATA_N"
ip netns add $SERVER && ip netns add $NODE && ip link add eth0 netns $SERVER type veth peer name eth0 netns $NODE ||
  { fail "two network namespaces"; finish; }
server sh -c 'ip link set lo up; ip addr add 10.97.0.1/24 dev eth0; ip link set eth0 up'
node sh -c 'ip link set lo up; ip addr add 10.97.0.2/24 dev eth0; ip link set eth0 up'

check_out "the server comes up without a default route" 'node server Ready' coracle_server up --node-name server
check "a token" coracle_server token create --kubeconfig "$WORK/join"
check_out "the node joins" 'node edge Ready' coracle_node join "$WORK/join" --node-name edge
"$TOP/hack/busybox-image" "$WORK/busybox.tar" >/dev/null
check "it imports the image" coracle_node image import "$WORK/busybox.tar"
k apply -f - >/dev/null <<'Y'
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: "hello from the edge"}
---
apiVersion: v1
kind: Pod
metadata: {name: sensor}
spec:
  nodeName: edge
  containers:
  - name: main
    image: busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, 'echo "$GREETING" > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
    env: [{name: GREETING, valueFrom: {configMapKeyRef: {name: settings, key: greeting}}}]
    readinessProbe: {httpGet: {port: 8080, path: /index.html}, periodSeconds: 1}
Y
check "a pod of the node is ready" k wait --for=condition=Ready pod/sensor --timeout=120s
uid=$(k get pod sensor -o jsonpath='{.metadata.uid}')

# The pid of the pod's main container, by the cgroup it is in; empty when there is none.
main_pid() { grep -lsE "pod${uid//-/[-_]}" /proc/[0-9]*/cgroup | while read -r f; do
  p=${f#/proc/}; p=${p%/cgroup}; grep -qs httpd "/proc/$p/cmdline" && echo "$p"; done | head -n 1; }
answers() { local p; p=$(main_pid); [ -n "$p" ] && nsenter --net="/proc/$p/ns/net" busybox wget -qO- http://127.0.0.1:8080/index.html 2>/dev/null | grep -q 'hello from the edge'; }
other_than() { local p; p=$(main_pid); [ -n "$p" ] && [ "$p" != "$1" ]; }
check "it answers" until_ok 60 answers

# the cable is pulled
node ip link set eth0 down
before=$(main_pid)
kill -9 "$before"
check "cut off, the node restarts a container that dies" until_ok 60 other_than "$before"
check "and it answers, with its ConfigMap's value" until_ok 60 answers

# power cut: every program and every container of the node ends at once, and what a reboot empties is emptied
# shellcheck disable=SC2046
kill -9 $(cat "$RUN_N/supervisor.pid") $(python3 -c 'import json, sys; print(*[c["pid"] for c in json.load(open(sys.argv[1])) if c["pid"]])' "$RUN_N/components.json") 2>/dev/null
for f in $(grep -lsE "pod${uid//-/[-_]}" /proc/[0-9]*/cgroup); do p=${f#/proc/}; kill -9 "${p%/cgroup}" 2>/dev/null; done
# shellcheck disable=SC2009
ps -eo pid,args | grep -F "$WORK/node" | grep -v grep | awk '{print $1}' | xargs -r kill -9 2>/dev/null
awk -v w="$WORK/node" 'index($2, w) == 1 {print $2}' /proc/mounts | sort -r | xargs -r -n 1 umount -l
rm -rf "$RUN_N"
sleep 1
gone() { [ -z "$(main_pid)" ]; }
check "after the power cut nothing of the pod runs" gone
coracle_node up --wait=false >/dev/null 2>&1
check "still cut off, the node starts the pods it had" until_ok 60 answers

# the cable is back
node ip link set eth0 up
check "back on the cable the node is Ready" k wait --for=condition=Ready node/edge --timeout=120s
restarts() { local n; n=$(k get pod sensor -o jsonpath='{.status.containerStatuses[0].restartCount}') && [ "$n" -ge 1 ]; }
check "and reports the restarts" until_ok 60 restarts
check "the pod is the same object" test "$(k get pod sensor -o jsonpath='{.metadata.uid}')" = "$uid"
check "and Ready" k wait --for=condition=Ready pod/sensor --timeout=120s
check "its log is readable again" until_ok $SOON k logs sensor
k delete pod sensor --grace-period=1 --timeout=120s >/dev/null
check "it can be deleted" until_ok $SOON gone
finish
