#!/usr/bin/env bash
# CSI: a driver registers, its volumes are attached, staged and published for pods, follow the kubelet's restart, and are
# taken back in the right order. The driver is csi_driver.py; its attacher is played by this script.
. "$(dirname "$0")/lib.sh"
DRIVER=test.csi.coracle.io
DIR=$WORK/driver
mkdir -p "$DIR"
KL=$DATA/kubelet
loops() { losetup -l -n -O NAME,BACK-FILE | awk -v d="$DIR/" 'index($2, d) == 1 {print $1}'; }
trap 'kill $(jobs -p) 2>/dev/null; at_exit; loops | xargs -r losetup -d 2>/dev/null' EXIT

cluster_up || { fail "a cluster"; finish; }
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
kubectl apply -f - >/dev/null <<YAML
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: $DRIVER}
spec: {attachRequired: true, podInfoOnMount: true, fsGroupPolicy: File, volumeLifecycleModes: [Persistent, Ephemeral], tokenRequests: [{audience: test}]}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {pass: word}
YAML
/usr/bin/python3 "$(dirname "$0")/csi_driver.py" $DRIVER "$DIR" $KL/plugins_registry 2>"$WORK/driver.log" &
driver=$!
calls() { grep "\"$1\"" "$DIR/calls"; }
none() { calls "$1"; true; }
soon "the driver registers" '"registered": true' calls NotifyRegistrationStatus
soon "CSINode shows it, its id, topology and limit" "$DRIVER id-$DRIVER \[\"topology.$DRIVER/zone\"\] 7" \
  kubectl get csinode "$node" -o jsonpath='{.spec.drivers[0].name} {.spec.drivers[0].nodeID} {.spec.drivers[0].topologyKeys} {.spec.drivers[0].allocatable.count}'
soon "the Node has the label and the annotation" "z1 .*id-$DRIVER" \
  kubectl get node "$node" -o jsonpath="{.metadata.labels.topology\.test\.csi\.coracle\.io/zone} {.metadata.annotations.csi\.volume\.kubernetes\.io/nodeid}"

pv() { # NAME MODE ACCESS
  cat <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  capacity: {storage: 1Gi}
  volumeMode: $2
  accessModes: [$3]
  storageClassName: ""
  mountOptions: [noatime]
  claimRef: {namespace: default, name: $1}
  csi: {driver: $DRIVER, volumeHandle: vol-$1, fsType: ext4, volumeAttributes: {color: blue}, nodeStageSecretRef: {name: key, namespace: default}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1}
spec: {accessModes: [$3], volumeMode: $2, storageClassName: "", volumeName: $1, resources: {requests: {storage: 1Gi}}}
---
YAML
}
pod() { # NAME CLAIM COMMAND
  a_pod "$1" "securityContext: {fsGroup: 2345}
  volumes: [{name: v, persistentVolumeClaim: {claimName: $2}}]" 'volumeMounts: [{name: v, mountPath: /data}]' "$3"
}
{ pv disk Filesystem ReadWriteOnce; pod one disk 'echo hello > /data/one'; } | kubectl apply -f - >/dev/null
va() { kubectl get volumeattachments -o jsonpath='{.items[*].metadata.name}'; }
soon "the volume's attachment is asked for" '^csi-[0-9a-f]{64}$' va
sleep 1
check_empty "nothing is mounted before it is attached" none NodeStageVolume
soon "the Node says that it will use the volume" "kubernetes.io/csi/$DRIVER\^vol-disk" kubectl get node "$node" -o jsonpath='{.status.volumesInUse[*]}'
kubectl patch volumeattachment "$(va)" --subresource=status --type=merge -p '{"status":{"attached":true,"attachmentMetadata":{"devicePath":"/dev/xyz"}}}' >/dev/null
check "the pod runs once it is attached" kubectl wait --for=condition=Ready pod/one --timeout=120s
check_out "staged with context, secret, attributes and options" '"context": \{"devicePath": "/dev/xyz"\}, "secrets": \{"pass": "word"\}, "attributes": \{"color": "blue"\}, "block": false, "mode": 1, "flags": \["noatime"\], "fs": "ext4"' calls NodeStageVolume
check_out "published with what the driver wants to know of the pod" '"csi.storage.k8s.io/ephemeral": "false", "csi.storage.k8s.io/pod.name": "one"' calls NodePublishVolume
check_out "and a token of its service account" 'serviceAccount.tokens.*test.*expirationTimestamp' calls NodePublishVolume
soon "the pod's data is the volume's" hello cat "$DIR/volumes/vol-disk/one"
check_out "the fsGroup owns it" '^2345$' stat -c %g "$DIR/volumes/vol-disk"
pod two disk 'cat /data/one' | kubectl apply -f - >/dev/null
check "a second pod of the node shares it" kubectl wait --for=condition=Ready pod/two --timeout=120s
check_out "it was staged once" '^1$' bash -c "grep -c '\"NodeStageVolume\"' '$DIR/calls'"

kill_kubelet
check "the kubelet comes back after kill -9" until_ok $SOON kubectl get --raw "/api/v1/nodes/$node/proxy/stats/summary"
sleep 2
check "after a restart of the kubelet both pods are Ready" kubectl wait --for=condition=Ready pod/one pod/two --timeout=120s
check_out "and nothing was published again" '^2$' bash -c "grep -c '\"NodePublishVolume\"' '$DIR/calls'"

kubectl delete pod one --wait=true >/dev/null
check_empty "the first pod's end leaves it staged" none NodeUnstageVolume
kubectl delete pod two --wait=true >/dev/null
check "the last one's does not" until_ok $SOON calls NodeUnstageVolume
soon_empty "then it is detached" va
soon_empty "and the Node shows it no more" kubectl get node "$node" -o jsonpath='{.status.volumesInUse}{.status.volumesAttached}'

kubectl patch csidriver $DRIVER --type=merge -p '{"spec":{"attachRequired":false}}' >/dev/null 2>&1 ||
  { kubectl delete csidriver $DRIVER >/dev/null; kubectl create -f - >/dev/null <<YAML
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: $DRIVER}
spec: {attachRequired: false, volumeLifecycleModes: [Persistent, Ephemeral]}
YAML
}
{ pv raw Block ReadWriteOnce
  a_pod block 'volumes: [{name: v, persistentVolumeClaim: {claimName: raw}}]' 'volumeDevices: [{name: v, devicePath: /dev/xvda}]' 'echo raw > /dev/xvda'
  a_pod inline "volumes: [{name: v, csi: {driver: $DRIVER, volumeAttributes: {size: small}}}]" 'volumeMounts: [{name: v, mountPath: /data}]' 'touch /data/x'
  a_pod nodriver 'volumes: [{name: v, csi: {driver: none.example.com}}]' 'volumeMounts: [{name: v, mountPath: /data}]'
} | kubectl apply -f - >/dev/null
check "a block volume and an inline volume without attaching" kubectl wait --for=condition=Ready pod/block pod/inline --timeout=120s
soon "the container wrote to the device" '^raw' head -c 3 "$DIR/volumes/vol-raw.img"
check_out "the inline volume was published, not staged" '"staging": "".*"size": "small"' calls NodePublishVolume
soon "a missing driver is an event" 'none.example.com' kubectl get events --field-selector involvedObject.name=nodriver -o jsonpath="{.items[*].message}"
kubectl delete pod block inline nodriver --wait=true >/dev/null
soon "all that was published is unpublished" '^4 4$' bash -c "echo \$(grep -c '\"NodePublishVolume\"' '$DIR/calls') \$(grep -c '\"NodeUnpublishVolume\"' '$DIR/calls')"
soon_empty "no mount is left" bash -c "grep 'kubernetes.io~csi\|kubernetes.io/csi' /proc/self/mountinfo | grep -F '$DATA'; true"
kill $driver; wait $driver 2>/dev/null
soon_empty "a driver that goes leaves the CSINode" kubectl get csinode "$node" -o jsonpath='{.spec.drivers[*].name}'
finish
