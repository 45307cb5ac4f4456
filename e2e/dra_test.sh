#!/usr/bin/env bash
# Dynamic resource allocation: a driver registers and offers devices, pods claim them (by template, by name, by extended
# resource), containers see what the driver's CDI files say, claims are released, devices go to others, tainted ones take
# their pods along; restarts of the kubelet; a driver that fails, one that is gone, one of the beta. The driver is
# dra_driver.py.
. "$(dirname "$0")/lib.sh"
DRIVER=test-$$.dra.coracle.io
DIR=$WORK/driver
mkdir -p "$DIR"
trap 'kill -9 $(jobs -p) 2>/dev/null; rm -f /var/run/cdi/$DRIVER-*; at_exit' EXIT
cluster_up || { fail "a cluster"; finish; }
KL=$DATA/kubelet
[ -d /var/lib/kubelet/plugins_registry ] && KL=/var/lib/kubelet
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
start_driver() { # [v1beta1]
  /usr/bin/python3 "$(dirname "$0")/dra_driver.py" "$DRIVER" "$node" "$DIR" "$KL" 4 "$@" >>"$WORK/driver.log" 2>&1 &
  driver=$!
}
start_driver
calls() { grep "\"$1\"" "$DIR/calls" 2>/dev/null; }
count() { calls "$1" | grep -c "$2"; true; }
ready() { kubectl wait --for=condition=Ready "$@" --timeout=120s; }
gone() { kubectl delete --wait=true --timeout=120s "$@" >/dev/null; }
slices() { kubectl get resourceslices -o name; }
claims() { kubectl get resourceclaims -o name; }
no_claims() { [ -z "$(claims)" ]; }
no_slices() { [ -z "$(slices)" ]; }
event() { kubectl get events --field-selector "involvedObject.name=$1" -o jsonpath='{range .items[*]}{.reason}: {.message}{"\n"}{end}'; }
has_event() { event "$1" | grep -qE "$2"; }
until_ok 60 calls NotifyRegistrationStatus
soon "the driver registers" '"registered": true' calls NotifyRegistrationStatus
check "and publishes its devices" until_ok 60 kubectl get resourceslice "$node-$DRIVER"

template() { # NAME 'request' ['more of devices']
  cat <<YAML
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: $1}
spec: {spec: {devices: {requests: [$2]${3:+, $3}}}}
---
YAML
}
exactly() { echo "{name: $1, exactly: {deviceClassName: things, allocationMode: ExactCount, count: $2${3:+, $3}}}"; }
{ cat <<YAML
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: things}
spec:
  selectors: [{cel: {expression: "device.driver == '$DRIVER'"}}]
  extendedResourceName: $DRIVER/thing
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: common}
spec: {devices: {requests: [$(exactly r 1)]}}
---
YAML
  template one "$(exactly r 1)"
  template four "$(exactly r 4)"
  template big "$(exactly r 1 "selectors: [{cel: {expression: \"device.capacity['$DRIVER'].memory.compareTo(quantity('4Gi')) >= 0\"}}]")"
  template pair "$(exactly r 1), $(exactly q 1)" "constraints: [{matchAttribute: $DRIVER/side}]"
  template some "{name: r, firstAvailable: [{name: lots, deviceClassName: things, allocationMode: ExactCount, count: 9}, {name: few, deviceClassName: things, allocationMode: ExactCount, count: 2}]}"
} | kubectl apply -f - >/dev/null
pod() { # NAME TEMPLATE
  a_pod "$1" "resourceClaims: [{name: dev, resourceClaimTemplateName: $2}]" "resources: {claims: [{name: dev}]}"
}
env_of() { kubectl exec "$1" -c "${2:-c}" -- sh -c 'env | grep ^DEVICE_ | sort | tr "\n" " "'; }

# ---- from a template
pod one one | kubectl apply -f - >/dev/null
check "a pod with a claim from a template" ready pod/one
check_out "its container has the device's environment" '^DEVICE_r=dev-[0-3] $' env_of one
dev=$(env_of one | sed 's/.*=//; s/ //')
check "the device node" kubectl exec one -- test -c "/dev/$dev"
check "and the mount" kubectl exec one -- test -f /driver/calls
claim=$(kubectl get pod one -o jsonpath='{.status.resourceClaimStatuses[0].resourceClaimName}')
check_out "the pod's status names the claim" '^one-dev-.....$' echo "$claim"
soon "which is allocated and reserved" "allocated,reserved" kubectl get resourceclaim "$claim"
check_out "and prepared once" '^1$' count Prepare "$claim"
check_out "the PodResources API tells of it" "\"claim\": \"$claim\", \"devices\": \[\{\"driver\": \"$DRIVER\", \"device\": \"$dev\", \"cdi\": \[\"$DRIVER/test=[^\"]*-$dev\"\]" \
  /usr/bin/python3 "$(dirname "$0")/pod_resources.py" "$KL/pod-resources/kubelet.sock" list
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: dev, resourceClaimTemplateName: pair}]
  containers:
  - {name: c, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"], resources: {claims: [{name: dev, request: q}]}}
  - {name: without, image: busybox:latest, imagePullPolicy: Never, command: [sleep, "3600"]}
YAML
check "a pod with two devices of one side" ready pod/two
check_out "a container gets those of the request it names" '^DEVICE_q=dev-[0-3] $' env_of two
check_out "and a container without claims none" '^none$' kubectl exec two -c without -- sh -c 'env | grep ^DEVICE_ || echo none'
sides() { kubectl get resourceclaim "$(kubectl get pod two -o jsonpath='{.status.resourceClaimStatuses[0].resourceClaimName}')" -o jsonpath='{range .status.allocation.devices.results[*]}{.device} {end}'; }
check_out "the constraint holds" '^(dev-0 dev-2|dev-2 dev-0|dev-1 dev-3|dev-3 dev-1) $' sides

# ---- not enough
pod four four | kubectl apply -f - >/dev/null
check "too many devices are wanted" until_ok 60 has_event four 'FailedScheduling: 0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: '
gone pod/two pod/one
check "devices of pods that went are given to who waits" ready pod/four
gone pod/four
only_common() { [ "$(claims)" = resourceclaim.resource.k8s.io/common ]; }
check "what was made for pods is deleted" until_ok 60 only_common
soon "each claim that was prepared is undone" '^3 3$' sh -c "grep -c '\"Prepare' '$DIR/calls' | tr '\n' ' '; grep -c '\"Unprepare' '$DIR/calls'"
soon_empty "and its CDI file is gone" sh -c "ls /var/run/cdi/$DRIVER-* 2>/dev/null; true"

# ---- what can be asked for
{ pod big big; pod some some; } | kubectl apply -f - >/dev/null
check "devices by capacity, and by alternatives" ready pod/big pod/some
check_out "the one that is big enough" '^DEVICE_r=dev-3 $' env_of big
check_out "the alternative that there is" '^DEVICE_r_few=dev-1 $|^DEVICE_r_few=dev-[012] $' env_of some
gone pod/big pod/some
{ for p in a b; do a_pod $p "resourceClaims: [{name: dev, resourceClaimName: common}]" "resources: {claims: [{name: dev}]}"; done; } | kubectl apply -f - >/dev/null
check "two pods share a claim that has a name" ready pod/a pod/b
check_out "it is prepared once" '^1$' count Prepare '"common"'
gone pod/a
check_out "and stays while one of them runs" '^0$' count Unprepare '"common"'
gone pod/b
soon "then it is undone" '^1$' count Unprepare '"common"'
check "and free" until_ok 60 sh -c "kubectl get resourceclaim common | grep -q pending"
a_pod extended '' "resources: {limits: {$DRIVER/thing: \"2\"}}" | kubectl apply -f - >/dev/null
check "an extended resource that a class stands behind" ready pod/extended
check_out "gives devices too" '^DEVICE_container_0_request_0=dev-[0-3] $' env_of extended
gone pod/extended
kubectl create namespace admins >/dev/null
kubectl label namespace admins resource.kubernetes.io/admin-access=true >/dev/null
{ template all "{name: r, exactly: {deviceClassName: things, allocationMode: All, adminAccess: true}}"
  pod watcher all
} | kubectl apply -n admins -f - >/dev/null
pod four four | kubectl apply -f - >/dev/null
check "administrators look at devices that others have" ready -n admins pod/watcher
check "which have them all the same" ready pod/four
gone -n admins pod/watcher
gone pod/four
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: short}
spec:
  restartPolicy: Never
  resourceClaims: [{name: dev, resourceClaimTemplateName: one}]
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, 'env'], resources: {claims: [{name: dev}]}}]
YAML
check "a pod that ends" until_ok 60 sh -c "kubectl get pod short -o jsonpath='{.status.phase}' | grep -q Succeeded"
check "releases its claim" until_ok 60 only_common
gone pod/short

# ---- trouble
echo "out of order" >"$DIR/fail"
pod sick one | kubectl apply -f - >/dev/null
check "a driver that cannot prepare is told of" until_ok 60 has_event sick 'FailedPrepareDynamicResources: Failed to prepare dynamic resources: .*NodePrepareResources failed for ResourceClaim sick-dev-.....: out of order'
rm "$DIR/fail"
check "and asked again" ready pod/sick
kill_kubelet
check "after kill -9 of the kubelet the pod runs on" until_ok 60 kubectl exec sick -- true
gone pod/sick
soon "and what was prepared is undone" '^1$' count Unprepare sick-dev
check "slices come back after the kubelet's start" until_ok 60 kubectl get resourceslice "$node-$DRIVER"
{ pod here four; } | kubectl apply -f - >/dev/null
check "devices go on being given" ready pod/here
echo NoExecute >"$DIR/taint"
check "a device that breaks takes its pod along" kubectl wait --for=delete pod/here --timeout=120s
pod late four | kubectl apply -f - >/dev/null
check "and is not given any more" until_ok 60 has_event late 'cannot allocate all claims'
rm "$DIR/taint"
check "until it is well again" ready pod/late
gone pod/late
kill -9 $driver
wait $driver 2>/dev/null
check "the slices of a driver that is gone go" until_ok 120 no_slices
start_driver v1beta1
check "a driver that speaks v1beta1" until_ok 60 kubectl get resourceslice "$node-$DRIVER"
pod beta one | kubectl apply -f - >/dev/null
check "gives devices as well" ready pod/beta
gone pod/beta
finish
