#!/usr/bin/env bash
# CSI volumes in trouble: they grow under a running pod, are wanted on two nodes at once, and are found again, or taken back,
# by a kubelet that was killed: file systems, block devices and inline volumes. The test plays the driver's controller.
. "$(dirname "$0")/lib.sh"
DRIVER=vol.csi.coracle.io
DIR=$WORK/driver
mkdir -p "$DIR"
trap 'kill -CONT "$(cat "$RUN/supervisor.pid" 2>/dev/null)" 2>/dev/null; kill $(jobs -p) 2>/dev/null; at_exit' EXIT
cluster_up || { fail "a cluster"; finish; }
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
kubectl apply -f - >/dev/null <<YAML
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: $DRIVER}
spec: {attachRequired: true, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: growing}
provisioner: $DRIVER
allowVolumeExpansion: true
YAML
/usr/bin/python3 "$(dirname "$0")/csi_driver.py" $DRIVER "$DIR" "$DATA/kubelet/plugins_registry" 2>"$WORK/driver.log" &
until_ok 60 kubectl get csinode "$node" -o jsonpath='{.spec.drivers[0].name}'
calls() { grep "\"$1\"" "$DIR/calls"; }
count() { grep -c "\"$1\"" "$DIR/calls"; }
volume() { # NAME MODE
  cat <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  capacity: {storage: 1Gi}
  volumeMode: $2
  accessModes: [ReadWriteOnce]
  storageClassName: growing
  claimRef: {namespace: default, name: $1}
  csi: {driver: $DRIVER, volumeHandle: vol-$1}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1}
spec: {accessModes: [ReadWriteOnce], volumeMode: $2, storageClassName: growing, volumeName: $1, resources: {requests: {storage: 1Gi}}}
---
YAML
}
mounted() { a_pod "$1" "volumes: [{name: v, persistentVolumeClaim: {claimName: $2}}]" 'volumeMounts: [{name: v, mountPath: /data}]' "$3"; }
attach_all() { # as the driver's attacher does
  local va
  for va in $(kubectl get volumeattachments -o jsonpath='{range .items[?(@.status.attached!=true)]}{.metadata.name}{"\n"}{end}'); do
    kubectl patch volumeattachment "$va" --subresource=status --type=merge -p '{"status":{"attached":true}}' >/dev/null
  done
}
(while sleep 0.3; do attach_all; done) 2>/dev/null &

{ volume disk Filesystem; volume raw Block
  mounted user disk 'echo kept > /data/x'
  a_pod block 'volumes: [{name: v, persistentVolumeClaim: {claimName: raw}}]' 'volumeDevices: [{name: v, devicePath: /dev/xvda}]' 'echo raw > /dev/xvda'
  a_pod inline "volumes: [{name: v, csi: {driver: $DRIVER}}]" 'volumeMounts: [{name: v, mountPath: /data}]' 'touch /data/x'
} | kubectl apply -f - >/dev/null
check "pods with a file system, a block device and an inline volume" kubectl wait --for=condition=Ready pod/user pod/block pod/inline --timeout=120s

# the claim grows; the driver's resizer makes the volume bigger; the file system on the node is the kubelet's affair
kubectl patch pvc disk --type=merge -p '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}' >/dev/null
kubectl patch pv disk --type=merge -p '{"spec":{"capacity":{"storage":"2Gi"}}}' >/dev/null
kubectl patch pvc disk --subresource=status --type=merge -p '{"status":{"conditions":[{"type":"FileSystemResizePending","status":"True"}]}}' >/dev/null
grown() { [ "$(kubectl get pvc disk -o jsonpath='{.status.capacity.storage} {.status.conditions}')" = "2Gi " ]; }
check "a volume grows under a running pod" until_ok 120 grown
check_out "the driver was asked, once" '^1$' count NodeExpandVolume
check_out "for the new size, where the pod has it" '"volume": "vol-disk", "path": ".*/mount", "size": 2147483648' calls NodeExpandVolume
happened() { kubectl get events --field-selector involvedObject.name=user -o jsonpath='{.items[*].reason}' | grep -q FileSystemResizeSuccessful; }
check "an event says so" until_ok 60 happened
check_out "nothing was started again" '^0$' kubectl get pod user -o jsonpath='{.status.containerStatuses[0].restartCount}'

# a second node wants it too
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Node
metadata: {name: elsewhere, annotations: {csi.volume.kubernetes.io/nodeid: '{"$DRIVER":"id"}'}}
YAML
mounted second disk true | sed 's/^spec:/&\n  nodeName: elsewhere/' | kubectl apply -f - >/dev/null
multi() { kubectl get events --field-selector involvedObject.name=second,reason=FailedAttachVolume -o jsonpath='{.items[*].message}' | grep -q 'Multi-Attach error for volume "disk"'; }
check "a volume for one node is not attached to another: an event" until_ok 60 multi
check_empty "nor asked for" kubectl get volumeattachments -o jsonpath='{.items[?(@.spec.nodeName=="elsewhere")].metadata.name}'
kubectl delete pod second --force --grace-period=0 >/dev/null 2>&1
kubectl delete node elsewhere >/dev/null

# killed while all are in use
published=$(count NodePublishVolume)
kill_kubelet
check "after kill -9 of the kubelet the pods are Ready" until_ok 60 kubectl wait --for=condition=Ready pod/user pod/block pod/inline --timeout=20s
answers() { kubectl exec user -- cat /data/x 2>/dev/null | grep -q kept; }
check "with their volumes" until_ok 60 answers
check_out "which were not published again" "^$published\$" count NodePublishVolume
# killed, and the pods deleted before it is back
kill -STOP "$(cat "$RUN/supervisor.pid")"
kill_kubelet
kubectl delete pod user block inline --force --grace-period=0 >/dev/null 2>&1
kill -CONT "$(cat "$RUN/supervisor.pid")"
taken_back() { [ "$(count NodeUnpublishVolume)" = "$published" ]; }
check "what was deleted meanwhile is unpublished" until_ok 120 taken_back
check "and unstaged" until_ok 60 calls NodeUnstageVolume
no_mount() { ! grep -E 'kubernetes.io~csi|kubernetes.io/csi|volumeDevices' /proc/self/mountinfo | grep -q "$DATA"; }
check "no mount is left" until_ok 60 no_mount
no_loop() { [ -z "$(losetup -l -n -O BACK-FILE | grep -F "$DIR")" ]; }
check "no loop device either" until_ok 60 no_loop
detached() { [ -z "$(kubectl get volumeattachments -o name)" ]; }
check "and they are detached" until_ok 120 detached
gone() { [ -z "$(ls "$DATA/kubelet/pods")" ]; }
check "nor a pod's folder" until_ok 60 gone
mounted again disk 'cat /data/x' | kubectl apply -f - >/dev/null
check "the next pod has the volume with what was in it" kubectl wait --for=condition=Ready pod/again --timeout=120s
soon "as it was" kept kubectl logs again
finish
