#!/usr/bin/env bash
# A machine that goes down: logind says so, pods end by priority within their time, then logind's lock is given back.
. "$(dirname "$0")/lib.sh"
mkdir -p "$WORK/bus"
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$WORK/bus/socket
cat > "$WORK/bus/conf" <<XML
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=$WORK/bus/socket</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
XML
dbus-daemon --config-file="$WORK/bus/conf" --nofork 2>"$WORK/bus/log" &
bus=$!
trap 'kill $bus $logind 2>/dev/null; at_exit' EXIT
until_ok 60 test -S "$WORK/bus/socket"
/usr/bin/python3 "$(dirname "$0")/logind.py" "$WORK/bus" 2>"$WORK/bus/logind.log" &
logind=$!
until_ok $SOON test -s "$WORK/bus/there" || { fail "a logind" "$(tail -n 3 "$WORK/bus/logind.log")"; finish; }
printf 'kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nshutdownGracePeriod: 20s\nshutdownGracePeriodCriticalPods: 5s\n' > "$WORK/kubelet.yaml"
cluster_down >/dev/null 2>&1
mkdir -p "$DATA" && cp "$WORK/kubelet.yaml" "$DATA/kubelet.yaml"
{ "$CORACLE" up && "$TOP/hack/busybox-image" "$WORK/busybox.tar" >/dev/null && "$CORACLE" image import "$WORK/busybox.tar" >/dev/null && until_ok $SOON kubectl get serviceaccount -n kube-system default; } || { fail "a cluster"; finish; }
soon "the kubelet has logind wait" '^shutdown kubelet delay$' cat "$WORK/bus/inhibit"
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
pod() { # NAME EXTRA
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: kube-system}
spec:
  terminationGracePeriodSeconds: 3
  $2
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "trap 'date +%s%N > /out/$1; exit 0' TERM; touch /out/$1-waits; while :; do sleep 0.1; done"], volumeMounts: [{name: o, mountPath: /out}]}]
  volumes: [{name: o, hostPath: {path: $WORK/bus}}]
---
YAML
}
{ pod ordinary ''; pod critical 'priorityClassName: system-node-critical'; } | kubectl apply -f - >/dev/null
check "two pods run" kubectl -n kube-system wait --for=condition=Ready pod/ordinary pod/critical --timeout=120s
until_ok $SOON test -e "$WORK/bus/ordinary-waits" -a -e "$WORK/bus/critical-waits"
kill -USR1 $logind
check "the lock is given back when the pods have ended" until_ok 60 test -s "$WORK/bus/down"
check_out "both ended by themselves" '^2$' bash -c "ls '$WORK/bus/ordinary' '$WORK/bus/critical' | wc -l"
check "the ordinary one first" test "$WORK/bus/ordinary" -ot "$WORK/bus/critical"
soon "their status says why" 'Failed Terminated Pod was terminated in response to imminent node shutdown' kubectl -n kube-system get pod ordinary -o jsonpath='{.status.phase} {.status.reason} {.status.message}'
soon "with the condition for disruptions" 'TerminationByKubelet' kubectl -n kube-system get pod ordinary -o jsonpath='{.status.conditions[?(@.type=="DisruptionTarget")].reason}'
soon "the node is not Ready" 'node is shutting down' kubectl get node "$node" -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'
finish
