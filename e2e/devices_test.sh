#!/usr/bin/env bash
# Device plugins: capacity, allocation by preference, what the plugin adds to the container, health, a restart of the kubelet,
# devices freed; extended resources without a plugin.
. "$(dirname "$0")/lib.sh"
RESOURCE=test.coracle.io/thing
trap 'kill $(jobs -p) 2>/dev/null; at_exit' EXIT
cluster_up || { fail "a cluster"; finish; }
KL=$DATA/kubelet
[ -d /var/lib/kubelet/device-plugins ] && KL=/var/lib/kubelet
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
/usr/bin/python3 "$(dirname "$0")/device_plugin.py" $RESOURCE $KL/device-plugins 4 0 >"$WORK/calls" 2>"$WORK/plugin.log" &
plugin=$!
amount() { kubectl get node "$node" -o jsonpath="{.status.$1.test\.coracle\.io/thing}"; }
has() { [ "$(amount allocatable)" = "$1" ]; }
until_ok $SOON has 4
soon "the node has the devices" '^4$' amount capacity
pod() { a_pod "$1" '' "resources: {limits: {$RESOURCE: \"$2\"}}"; } # NAME COUNT
pod one 2 | kubectl apply -f - >/dev/null
check "a pod gets two" kubectl wait --for=condition=Ready pod/one --timeout=120s
check_out "those that the plugin prefers" '^DEVICES=d3,d2$' kubectl exec one -- sh -c 'env | grep DEVICES'
check "with their device nodes" kubectl exec one -- test -c /dev/test0
check "and mounts" kubectl exec one -- test -e /plugin/kubelet.sock
check_out "the plugin was told before the start" '"ids": \["d3", "d2"\]' grep PreStartContainer "$WORK/calls"
resources() { /usr/bin/python3 "$(dirname "$0")/pod_resources.py" "$KL/pod-resources/kubelet.sock" "$@"; }
given='"default/one/c": \{"devices": \[\{"resource": "test.coracle.io/thing", "ids": \["d.*\]\}, \{.*"ids": \["d[23]"\], "nodes": \[0\]\}\]'
check_out "the PodResources API lists what containers have" "$given" resources list
check_out "and gets it of one pod" "$given" resources get default one
check_fails "of none that is not there" 'pod nobody in namespace default not found' resources get default nobody
check_out "and what could be had" '("nodes": \[0\].*){4}' resources allocatable
pod three 3 | kubectl apply -f - >/dev/null
soon "three more are too many" 'Pending.*Insufficient test.coracle.io/thing' kubectl get pod three -o jsonpath='{.status.phase}{.status.conditions[*].message}'
kubectl delete pod three >/dev/null
# gets NAME COUNT: a pod gets devices; one that the kubelet refused, as it did not have them yet, goes for another.
gets() {
  pod "$1" "$2" | kubectl apply -f - >/dev/null
  kubectl wait --for=condition=Ready "pod/$1" --timeout=20s || { kubectl delete pod "$1" --wait=true; false; }
}
kill -USR1 $plugin
check "an unhealthy one is not allocatable" until_ok $SOON has 3
check_out "but still there" '^4$' amount capacity
kill_kubelet
check "after a restart of the kubelet the plugin registers again" until_ok 60 bash -c "[ \$(grep -c Register '$WORK/calls') = 2 ]"
check "a second pod" until_ok 120 gets two 1
check_out "gets one that is free" '^DEVICES=d1$' kubectl exec two -- sh -c 'env | grep DEVICES'
kubectl delete pod one two --wait=true >/dev/null
check "devices of pods that went are free" until_ok 120 gets again 3
kill $plugin
check "without its plugin nothing is allocatable" until_ok $SOON has 0
kubectl patch node "$node" --subresource=status --type=merge -p '{"status":{"capacity":{"example.com/ticket":"2"},"allocatable":{"example.com/ticket":"2"}}}' >/dev/null
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: ticket}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"], resources: {limits: {example.com/ticket: "1"}}}]
YAML
check "an extended resource that an operator added" kubectl wait --for=condition=Ready pod/ticket --timeout=120s
finish
