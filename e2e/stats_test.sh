#!/usr/bin/env bash
# The node's numbers: cAdvisor's and the kubelet's metrics, the summary, the configuration, CRI's metrics.
. "$(dirname "$0")/lib.sh"
cluster_up || { fail "a cluster"; finish; }
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "dd if=/dev/zero of=/scratch/x bs=1M count=3; dd if=/dev/zero of=/layer bs=1M count=2; ping -c 3 127.0.0.1; while :; do :; done"], livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1}, resources: {limits: {cpu: 200m, memory: 64Mi}}, volumeMounts: [{name: s, mountPath: /scratch}, {name: d, mountPath: /data}]}
  volumes: [{name: s, emptyDir: {}}, {name: d, persistentVolumeClaim: {claimName: data}}]
YAML
check "a busy pod" kubectl wait --for=condition=Ready pod/busy --timeout=120s
get() { kubectl get --raw "/api/v1/nodes/$node/proxy/$1"; }
metric() { grep -E "^$1\{" "$WORK/cadvisor"; }
# What the pod does first takes its time; then it is throttled.
throttled() {
  get metrics/cadvisor > "$WORK/cadvisor" || return
  metric container_cpu_cfs_throttled_periods_total | grep -E 'container="c".* [1-9][0-9]* [0-9]+$'
}
until_ok $SOON throttled
check_out "CPU time of the container" 'container="c",cpu="total",id="/[^"]+",image="[^"]*busybox[^"]*",name="[0-9a-f]+",namespace="default",pod="busy"\} [0-9.]*[1-9]' metric container_cpu_usage_seconds_total
check_out "it is throttled" 'container="c".* [1-9][0-9]* [0-9]+$' metric container_cpu_cfs_throttled_periods_total
for m in container_memory_working_set_bytes container_memory_rss container_memory_usage_bytes container_start_time_seconds container_spec_memory_limit_bytes container_fs_usage_bytes container_processes; do
  check_out "$m" 'container="c".* [1-9]' metric $m
done
check_out "the pod's network" 'container="",interface="eth0",.*pod="busy"\} [1-9]' metric container_network_receive_bytes_total
check_out "the machine" '^machine_memory_bytes [1-9]' cat "$WORK/cadvisor"
check_empty "each metric is declared once" bash -c "grep '^# TYPE' '$WORK/cadvisor' | sort | uniq -d"
pod() { jq -e ".pods[] | select(.podRef.name==\"busy\") | $1" "$WORK/summary"; }
measured() { # volumes and layers are measured now and then
  get stats/summary > "$WORK/summary" && pod '(.volume[] | select(.name=="s") | .usedBytes >= 3000000) and .["ephemeral-storage"].usedBytes >= 5000000'
}
until_ok 150 measured
check "the summary is JSON" jq -e .node.nodeName "$WORK/summary"
check "with the pod's network" pod '.network.interfaces[0].rxBytes > 0'
check "its volume, measured" pod '.volume[] | select(.name=="s") | .usedBytes >= 3000000'
check "its share of the disk" pod '.["ephemeral-storage"].usedBytes >= 5000000'
check "its processes" pod '.process_stats.process_count > 0'
check "its container's layer" pod '.containers[0].rootfs.usedBytes >= 2000000'
check "and of the node file systems, processes and network" jq -e '.node.fs.capacityBytes > 0 and .node.rlimit.maxpid > 0 and (.node.network.interfaces | length) > 0' "$WORK/summary"
check_out "the kubelet's own metrics" 'kubelet_runtime_operations_total\{operation_type="run_pod_sandbox"\} [1-9]' get metrics
check_out "configz" '"kubeletconfig"' get configz
get metrics > "$WORK/kubelet"
for m in kubelet_running_pods kubelet_running_containers kubelet_pod_worker_duration_seconds_bucket kubelet_pod_start_duration_seconds_count \
  kubelet_pleg_relist_duration_seconds_bucket kubelet_cgroup_manager_duration_seconds_bucket storage_operation_duration_seconds_bucket \
  kubelet_runtime_operations_duration_seconds_bucket kubelet_started_pods_total kubelet_started_containers_total process_cpu_seconds_total \
  process_resident_memory_bytes kubelet_node_name kubernetes_build_info; do
  check_out "for dashboards: $m" "^$m[{ ].* ?[1-9]" grep "^$m" "$WORK/kubelet"
done
check "no line of it is malformed" bash -c "! grep -vE '^(#.*|[a-z_]+(\{[^}]*\})? [-+0-9.e]+( [0-9]+)?)\$' '$WORK/kubelet'"
soon "results of probes" 'prober_probe_total\{container="c",namespace="default",pod="busy",pod_uid="[^"]+",probe_type="Liveness",result="successful"\} [1-9]' get metrics/probes
check_out "parts of healthz" '^ok$' get healthz/ping
finish
