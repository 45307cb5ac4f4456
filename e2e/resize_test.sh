#!/usr/bin/env bash
# In-place resize: done without a restart where there is room, deferred or infeasible where there is not, kept over a restart
# of the kubelet.
. "$(dirname "$0")/lib.sh"
cluster_up || { fail "a cluster"; finish; }
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
milli=$(kubectl get node "$node" -o jsonpath='{.status.allocatable.cpu}' | sed 's/m$//;t;s/$/000/')
pod() { a_pod "$1" '' "resources: {requests: {cpu: ${2}m, memory: 32Mi}, limits: {cpu: ${2}m, memory: 64Mi}}"; } # NAME MILLI
{ pod small 100; pod big $((milli - 400)); } | kubectl apply -f - >/dev/null
check "two pods" kubectl wait --for=condition=Ready pod/small pod/big --timeout=120s
resize() { kubectl patch pod "$1" --subresource=resize --type=strategic -p "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"$2m\"},\"limits\":{\"cpu\":\"$2m\"}}}]}}" >/dev/null; }
now() { kubectl get pod small -o jsonpath='{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].allocatedResources.cpu} {.status.containerStatuses[0].restartCount}'; }
pending() { kubectl get pod small -o jsonpath='{.status.conditions[?(@.type=="PodResizePending")].reason}'; }
resize small 200
soon "a resize that fits is done in place" '^200m 200m 0$' now
resize small 900
soon "one that does not fit now is deferred" '^Deferred$' pending
check_out "the container keeps what it has" '^200m 200m 0$' now
kill_kubelet
check "the kubelet comes back after kill -9" until_ok $SOON kubectl get --raw "/api/v1/nodes/$node/proxy/stats/summary"
sleep 2
check_out "a restarted kubelet still knows what is allocated" '^200m 200m 0$' now
check_out "and what is pending" '^Deferred$' pending
kubectl delete pod big --wait=true >/dev/null
check "room is made: it is done" until_ok 120 bash -c "kubectl get pod small -o jsonpath='{.status.containerStatuses[0].resources.limits.cpu}' | grep -qx 900m"
soon_empty "nothing is pending" pending
resize small $((milli + 1000))
soon "more than the node has is infeasible" '^Infeasible$' pending
check_out "and says why" "Node didn't have enough" kubectl get pod small -o jsonpath='{.status.conditions[?(@.type=="PodResizePending")].message}'
whole() { kubectl patch pod whole --subresource=resize --type=merge -p "{\"spec\":{\"resources\":{\"requests\":{\"cpu\":\"$1m\"},\"limits\":{\"cpu\":\"$1m\"}}}}"; }
# Of the container's own cgroup: 100 ms of a CPU are 10000 microseconds of each period.
quota() { kubectl exec whole -- sh -c 'cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null' | cut -d' ' -f1; }
quota_is() { [ "$(quota)" = "$1" ]; }
kubectl delete pod small --wait=true >/dev/null
a_pod whole 'resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}' | kubectl apply -f - >/dev/null
check "a pod with resources of its own" kubectl wait --for=condition=Ready pod/whole --timeout=120s
check "bound a container that has none" until_ok 60 quota_is 10000
check "they grow" whole 200
check "which reaches the container" until_ok 60 quota_is 20000
check "and is told" until_ok 60 bash -c "kubectl get events | grep -q 'ResizeCompleted.*Pod resize completed'"
shown() { [ "$(kubectl get pod whole -o jsonpath='{.status.resources.limits.cpu} {.status.allocatedResources.cpu}')" = "200m 200m" ]; }
check "the pod's status has them" until_ok 60 shown
whole 100 >/dev/null
check "and they shrink" until_ok 60 quota_is 10000
done_with() { [ -z "$(kubectl get pod whole -o jsonpath='{.status.conditions[?(@.type=="PodResizeInProgress")].status}')" ]; }
check "with nothing left in progress" until_ok 60 done_with
finish
