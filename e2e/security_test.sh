#!/usr/bin/env bash
# What sets a container apart from the host: user namespaces with id-mapped volumes, AppArmor refused where there is none,
# supplementary groups, sysctls, read-only mounts, /proc.
. "$(dirname "$0")/lib.sh"
cluster_up || { fail "a cluster"; finish; }
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
check_out "the Node says what its runtime can do" '"recursiveReadOnlyMounts":true,"userNamespaces":true' kubectl get node "$node" -o jsonpath='{.status.runtimeHandlers[0].features}'
check_out "and that group policies are honoured" 'true' kubectl get node "$node" -o jsonpath='{.status.features.supplementalGroupsPolicy}'
{ a_pod own 'hostUsers: false
  volumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]' 'volumeMounts: [{name: v, mountPath: /data}, {name: m, mountPath: /mem}]' 'touch /data/mine /mem/mine && chown 5:5 /data/mine && touch /etc/new && hostname'
  a_pod own2 'hostUsers: false' 'tty: false' 'true'
  a_pod armour 'securityContext: {appArmorProfile: {type: RuntimeDefault}}' 'tty: false' 'true'
  a_pod groups 'securityContext: {runAsUser: 1000, runAsGroup: 1000, supplementalGroups: [4321], supplementalGroupsPolicy: Strict, sysctls: [{name: net.ipv4.ip_local_port_range, value: 2000 3000}]}' 'tty: false' 'true'
  a_pod sysctl 'securityContext: {sysctls: [{name: kernel.msgmax, value: \"1\"}]}' 'tty: false' 'true' | sed 's/\\"/"/g'
  a_pod rro 'volumes: [{name: v, hostPath: {path: /tmp}}]' 'volumeMounts: [{name: v, mountPath: /data, readOnly: true, recursiveReadOnly: Enabled}]' 'true'
} > "$WORK/pods.yaml"
kubectl apply -f "$WORK/pods.yaml" >/dev/null
check "pods with user namespaces run" kubectl wait --for=condition=Ready pod/own pod/own2 --timeout=120s
check_out "root inside" '^0$' kubectl exec own -- id -u
check_out "is nobody outside" '^ +0 +[1-9][0-9]{4,} +65536$' kubectl exec own -- cat /proc/self/uid_map
check_out "files of the image belong to root" '^0 0$' kubectl exec own -- stat -c '%u %g' /bin/busybox
soon "files in volumes keep ids of inside" '^5 5$' kubectl exec own -- stat -c '%u %g' /data/mine
check_out "on the host too" '^5 5$' bash -c "stat -c '%u %g' $DATA/kubelet/pods/*/volumes/kubernetes.io~empty-dir/v/mine /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/v/mine 2>/dev/null | head -n 1"
maps() { for p in own own2; do kubectl exec $p -- cat /proc/self/uid_map; done | sort -u | wc -l; }
check_out "two pods have different ids" '^2$' maps
soon "their network works" 'nobody|64 bytes|0% packet loss' kubectl exec own -- ping -c 1 -W 2 "$(kubectl get pod own2 -o jsonpath='{.status.podIP}')"
if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ]; then
  soon "a pod that wants AppArmor is refused without it" 'Failed AppArmor Pod was rejected: Cannot enforce AppArmor' kubectl get pod armour -o jsonpath='{.status.phase} {.status.reason} {.status.message}'
fi
check "pods with groups, sysctls and read-only mounts run" kubectl wait --for=condition=Ready pod/groups pod/rro --timeout=120s
check_out "only the groups asked for" '^1000 4321$' kubectl exec groups -- id -G
check_out "the sysctl is set" '2000.*3000' kubectl exec groups -- cat /proc/sys/net/ipv4/ip_local_port_range
soon "an unsafe one is refused" 'SysctlForbidden' kubectl get pod sysctl -o jsonpath='{.status.reason}'
check_fails "recursively read-only" 'Read-only file system' kubectl exec rro -- touch /data/x
check_out "and the status says so" 'Enabled' kubectl get pod rro -o jsonpath='{.status.containerStatuses[0].volumeMounts[?(@.name=="v")].recursiveReadOnly}'
if [ -x /usr/sbin/runc ]; then
  kubectl apply -f - >/dev/null <<'YAML'
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: with-runc}
handler: runc
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: unknown}
handler: unknown
YAML
  { a_pod classed 'runtimeClassName: with-runc' 'tty: false' 'echo from runc'; a_pod odd 'runtimeClassName: unknown' 'tty: false' 'true'; } | kubectl apply -f - >/dev/null
  check "a runtime class picks the runtime" kubectl wait --for=condition=Ready pod/classed --timeout=120s
  check_out "exec works in it" '^classed$' kubectl exec classed -- hostname
  check "runc knows it" bash -c "[ -n \"\$(ls '$RUN/shim/runc')\" ]"
  soon "an unknown handler is an event" 'no runtime for handler' kubectl get events --field-selector involvedObject.name=odd -o jsonpath="{.items[*].message}"
fi
kubectl delete pods --all --wait=true >/dev/null
check "no id-mapped mount is left" until_ok 60 bash -c "! grep -q idmapped /proc/self/mountinfo"
finish
