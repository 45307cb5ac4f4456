#!/usr/bin/env bash
# Everything is killed at once, while pods are being made, and again while they run; then `coracle down` finds and removes
# all that is left in the kernel: processes, cgroups, mounts, network namespaces, links, addresses, rules. In a network
# namespace of its own.
. "$(dirname "$0")/lib.sh"
NS=ct-left-$$
in_ns() { nsenter --net=/run/netns/$NS "$@"; }
local_coracle() { in_ns "$CORACLE" "$@" --data-dir "$WORK/data" --run-dir "$WORK/run"; }
k() { in_ns kubectl --kubeconfig "$WORK/data/admin.kubeconfig" "$@"; }
undo() {
  [ -e /run/netns/$NS ] && local_coracle down --purge >/dev/null 2>&1
  ip netns del $NS 2>/dev/null
  rm -rf "$WORK"
}
trap undo EXIT
ip netns del $NS 2>/dev/null
ip netns add $NS && in_ns ip link add eth0 type veth peer name eth1 || { fail "a network namespace"; finish; }
in_ns sh -c 'ip link set lo up; ip link set eth1 up; ip addr add 10.94.0.1/24 dev eth0; ip link set eth0 up'

# What the namespace has; and what of the machine mentions this test's folders or one of its pods.
network() { in_ns ip -o link | awk '{print $2}'; in_ns ip -o -4 addr | awk '{print $2, $4}'; in_ns ip route; in_ns nft list tables; }
left() {
  grep -F "$WORK/" /proc/self/mountinfo | awk '{print "mount", $5}'
  while read -r uid; do
    find /sys/fs/cgroup -type d -name "*$uid*" -printf 'cgroup %p\n' 2>/dev/null
    grep -ls "$uid" /proc/[0-9]*/cgroup | sed 's/^/process /'
  done < "$WORK/uids"
  pgrep -af "$WORK/" | sed 's/^/process /' | cut -c1-120
  true
}
none_left() { [ -z "$(left)" ]; }
pods() {
  for i in $(seq 1 12); do cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: p$i, labels: {app: p}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: a, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "trap '' TERM; sleep 3600"], ports: [{containerPort: 80, hostPort: $((21850 + i))}], volumeMounts: [{name: m, mountPath: /m}, {name: e, mountPath: /e, subPath: s}]}
  - {name: b, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"]}
  volumes: [{name: m, emptyDir: {medium: Memory}}, {name: e, emptyDir: {}}]
---
YAML
  done
  printf 'apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: NodePort, selector: {app: p}, ports: [{port: 80}]}\n'
}
# Every program, the monitors and the containers, by the folders they were told and the cgroups they are in.
kill_all() {
  local pids
  pids=$(pgrep -f "$WORK/"; while read -r uid; do grep -ls "$uid" /proc/[0-9]*/cgroup | sed 's,/proc/\([0-9]*\)/.*,\1,'; done < "$WORK/uids")
  # shellcheck disable=SC2086
  kill -9 $pids 2>/dev/null
}
# A pod that was caught between its cgroup and its sandbox: the runtime has never heard of it.
between() {
  local uid=caca0000-0000-4000-8000-00000000ca5e dir
  echo $uid >> "$WORK/uids"
  mkdir -p "$WORK/data/kubelet/pods/$uid"
  for dir in /sys/fs/cgroup/kubepods/besteffort /sys/fs/cgroup/*/kubepods/besteffort; do
    [ -d "$dir" ] && mkdir -p "$dir/pod$uid"
  done
}
network > "$WORK/before"
"$TOP/hack/busybox-image" "$WORK/busybox.tar" >/dev/null
for after in 0 0.1 0.3 0.6 ready; do
  check "a cluster is up (killed after: $after)" local_coracle up --node-name left
  local_coracle image import "$WORK/busybox.tar" >/dev/null
  until_ok 60 k get serviceaccount default
  pods | k apply -f - >/dev/null
  if [ $after = ready ]; then check "all its pods run" k wait --for=condition=Ready pod --all --timeout=120s; else sleep $after; fi
  k get pods -o jsonpath='{range .items[*]}{.metadata.uid}{"\n"}{end}' > "$WORK/uids"
  kill_all
  between
  check "down" local_coracle down --purge
  soon_empty "nothing is left on the machine" left
  network > "$WORK/after"
  check "nor in the network" diff "$WORK/before" "$WORK/after"
done
finish
