#!/usr/bin/env bash
# Storage without CSI: claims bind to folders of the node by the default StorageClass and leave nothing behind; block volumes
# of local disks; what a node says when it cannot mount NFS.
. "$(dirname "$0")/lib.sh"
trap 'at_exit; [ -n "${loop:-}" ] && losetup -d "$loop"' EXIT

cluster_up || { fail "a cluster"; finish; }
check_out "there is a default StorageClass" 'local-path \(default\) +coracle.io/local-path +Delete +WaitForFirstConsumer' kubectl get storageclass
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
YAML
sleep 1
check_out "a claim waits for its first pod" Pending kubectl get pvc data -o jsonpath='{.status.phase}'
pod() { # NAME COMMAND
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000}
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "$2"], volumeMounts: [{name: v, mountPath: /data}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
YAML
}
pod writer 'echo kept > /data/file' | kubectl apply -f - >/dev/null
check "a pod that is not root writes to it" kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/writer --timeout=120s
pv=$(kubectl get pvc data -o jsonpath='{.spec.volumeName}')
check_out "the volume is a folder of the node" 'kept' cat "$DATA/volumes/${pv}_default_data/file"
kubectl delete pod writer >/dev/null
pod reader 'cat /data/file' | kubectl apply -f - >/dev/null
check "a second pod finds the data" kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/reader --timeout=120s
check_out "and reads it" kept kubectl logs reader
kubectl delete pod reader >/dev/null
kubectl delete pvc data --wait=true >/dev/null
check "the volume goes with its claim" until_ok 60 bash -c "! kubectl get pv $pv"
soon_fails "and its folder" 'No such file' ls "$DATA/volumes/${pv}_default_data"

kubectl apply -f - >/dev/null <<'YAML'
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"], volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]
  replicas: 2
YAML
check "claims of a StatefulSet's template bind as well" kubectl rollout status statefulset/db --timeout=120s
kubectl delete statefulset db >/dev/null; kubectl delete pvc --all >/dev/null

truncate -s 4M "$WORK/disk"
loop=$(losetup -f --show "$WORK/disk")
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: raw}
spec:
  capacity: {storage: 4Mi}
  volumeMode: Block
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  claimRef: {namespace: default, name: raw}
  local: {path: $loop}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: "", volumeName: raw, resources: {requests: {storage: 4Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: raw}
spec:
  restartPolicy: Never
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "test -b /dev/xvda && printf block > /dev/xvda"], volumeDevices: [{name: v, devicePath: /dev/xvda}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: raw}}]
---
apiVersion: v1
kind: Pod
metadata: {name: nfs}
spec:
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /data}]}]
  volumes: [{name: v, nfs: {server: 127.0.0.1, path: /none}}]
YAML
check "a block volume of a local disk" kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/raw --timeout=120s
check_out "is the disk" '^block' head -c 5 "$WORK/disk"
kubectl delete pod raw >/dev/null
ln -s "$loop" "$WORK/link"
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: folder}
spec:
  capacity: {storage: 4Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  claimRef: {namespace: default, name: folder}
  local: {path: $WORK/link}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: folder}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: folder, resources: {requests: {storage: 4Mi}}}
YAML
on_disk() { # NAME COMMAND
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 1234}
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "$2"], volumeMounts: [{name: v, mountPath: /data}]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: folder}}]
YAML
}
on_disk first 'stat -c %g /data; echo kept > /data/file; sleep 3600' | kubectl apply -f - >/dev/null
check "a disk without a file system, wanted as a folder, gets one" kubectl wait --for=condition=Ready pod/first --timeout=120s
check "which is the group's" until_ok 60 bash -c 'kubectl logs first | grep -qx 1234'
on_disk second 'cat /data/file' | kubectl apply -f - >/dev/null
check "a second pod has it at the same time" kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod/second --timeout=120s
check_out "with what is in it" kept kubectl logs second
kubectl delete pod first second >/dev/null
check "nothing of it stays mounted" until_ok 60 bash -c "! grep -q '^$loop ' /proc/self/mounts"
said() { kubectl get events --field-selector involvedObject.name=nfs,reason=FailedMount -o jsonpath='{.items[*].message}' | grep -E 'nfs'; }
soon "an NFS volume that cannot be mounted is an event" 'MountVolume.SetUp failed for volume "v".*(nfs-common|mount.nfs)' said
finish
