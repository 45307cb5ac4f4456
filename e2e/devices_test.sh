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
until_ok 15 bash -c "[ \"\$(kubectl get node $node -o jsonpath='{.status.allocatable.test\.coracle\.io/thing}')\" = 4 ]"
check_out "the node has the devices" '^4$' amount capacity
pod() { a_pod "$1" '' "resources: {limits: {$RESOURCE: \"$2\"}}"; } # NAME COUNT
pod one 2 | kubectl apply -f - >/dev/null
check "a pod gets two" kubectl wait --for=condition=Ready pod/one --timeout=20s
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
sleep 1
check_out "three more are too many" Pending kubectl get pod three -o jsonpath='{.status.phase}'
kubectl delete pod three >/dev/null
kill -USR1 $plugin
check "an unhealthy one is not allocatable" until_ok 15 bash -c "[ \"\$(kubectl get node $node -o jsonpath='{.status.allocatable.test\.coracle\.io/thing}')\" = 3 ]"
check_out "but still there" '^4$' amount capacity
kill_kubelet
check "after a restart of the kubelet the plugin registers again" until_ok 15 bash -c "[ \$(grep -c Register '$WORK/calls') = 2 ]"
sleep 1
pod two 1 | kubectl apply -f - >/dev/null
check "a second pod" kubectl wait --for=condition=Ready pod/two --timeout=20s
check_out "gets one that is free" '^DEVICES=d1$' kubectl exec two -- sh -c 'env | grep DEVICES'
kubectl delete pod one two --wait=true >/dev/null
pod again 3 | kubectl apply -f - >/dev/null
check "devices of pods that went are free" kubectl wait --for=condition=Ready pod/again --timeout=20s
kill $plugin
check "without its plugin nothing is allocatable" until_ok 15 bash -c "[ \"\$(kubectl get node $node -o jsonpath='{.status.allocatable.test\.coracle\.io/thing}')\" = 0 ]"
kubectl patch node "$node" --subresource=status --type=merge -p '{"status":{"capacity":{"example.com/ticket":"2"},"allocatable":{"example.com/ticket":"2"}}}' >/dev/null
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: ticket}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"], resources: {limits: {example.com/ticket: "1"}}}]
YAML
check "an extended resource that an operator added" kubectl wait --for=condition=Ready pod/ticket --timeout=20s
finish
