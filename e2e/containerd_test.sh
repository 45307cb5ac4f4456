#!/usr/bin/env bash
# Our kubelet on Debian's containerd, with runc and CNI plugins: coracle up --container-runtime-endpoint. Everything is in a
# network namespace of its own, containerd with folders of its own. What containerd's configuration must hold stands below.
. "$(dirname "$0")/lib.sh"

NS=ct-containerd-$$ DIR=$WORK/c SOCKET=$WORK/c/c.sock
at() { nsenter --net=/run/netns/$NS "$@"; }
coracle() { at "$CORACLE" "$@" --data-dir "$DIR/data" --run-dir "$DIR/run"; }
kube() { at kubectl --kubeconfig "$DIR/data/admin.kubeconfig" "$@"; }
cri() { ctr -a "$SOCKET" -n k8s.io "$@"; }
undo() {
  [ -e /run/netns/$NS ] && coracle down --purge >/dev/null 2>&1
  [ -n "${CONTAINERD:-}" ] && kill "$CONTAINERD" 2>/dev/null && wait "$CONTAINERD" 2>/dev/null
  awk -v d="$WORK/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l 2>/dev/null
  ip netns del $NS 2>/dev/null
  rm -rf "$WORK"
}
trap undo EXIT

mkdir -p "$DIR/net.d" "$DIR/ipam"
# The kubelet tells containerd the node's pod CIDR, and containerd fills it into the template.
cat >"$DIR/config.toml" <<EOF
version = 2
root = "$DIR/root"
state = "$DIR/state"
[grpc]
  address = "$SOCKET"
[ttrpc]
  address = "$SOCKET.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$DIR/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$DIR/net.d"
    conf_template = "$DIR/cni.json"
EOF
cat >"$DIR/cni.json" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
 "ipam": {"type": "host-local", "dataDir": "$DIR/ipam", "ranges": [[{"subnet": "{{.PodCIDR}}"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF

ip netns add $NS || { fail "a network namespace for the test"; finish; }
at sh -c "ip link set lo up; ip link add eth0 type veth peer name eth1; ip addr add 10.99.7.1/24 dev eth0; ip link set eth0 up; ip link set eth1 up"
nsenter --net=/run/netns/$NS containerd -c "$DIR/config.toml" >"$DIR/containerd.log" 2>&1 </dev/null &
CONTAINERD=$!
until_ok 60 cri version || { fail "containerd starts" "$(tail -n 3 "$DIR/containerd.log")"; finish; }
"$TOP/hack/busybox-image" "$WORK/busybox.tar" >/dev/null
"$TOP/hack/busybox-image" "$WORK/pause.tar" registry.k8s.io/pause:3.10 sleep infinity >/dev/null
check "containerd imports an image" cri images import "$WORK/busybox.tar"
check "and one for sandboxes" cri images import "$WORK/pause.tar"

check_out "a node comes up on containerd" 'Ready' coracle up --node-name c --node-ip 10.99.7.1 --container-runtime-endpoint "unix://$SOCKET" --timeout 180s
check_out "and says what it runs on" '^containerd://' kube get node c -o 'jsonpath={.status.nodeInfo.containerRuntimeVersion}'
check "no shim runs" sh -c "! grep -qw shim $DIR/run/components.json"
check_out "coracle image list shows containerd's images" 'library/busybox:latest' coracle image list
check_fails "coracle image import says whose affair that is" 'ctr -n k8s.io images import' coracle image import "$WORK/busybox.tar"

kube create deployment web --image=busybox:latest --replicas=2 --dry-run=client -o yaml -- sh -c 'hostname >/tmp/index.html; exec httpd -f -p 8080 -h /tmp' |
  sed 's/image: busybox:latest/&\n        imagePullPolicy: Never/' | kube apply -f - >/dev/null
check "a Deployment rolls out" kube rollout status deployment/web --timeout=120s
kube expose deployment web --port=80 --target-port=8080 >/dev/null
pod=$(kube get pods -l app=web -o 'jsonpath={.items[0].metadata.name}')
check_out "exec" 'uid=0' kube exec "$pod" -- id
soon "its Service answers by name" 'web-' kube exec "$pod" -- sh -c \
  'timeout 5 wget -qO- "http://$(nslookup web.default.svc.cluster.local | sed -n "s/^Address: //p" | head -n 1)/index.html"'
kube run once --image=busybox:latest --image-pull-policy=Never --restart=Never -- sh -c 'echo said; exit 3' >/dev/null
check "a pod that fails is seen to" until_ok 60 sh -c "nsenter --net=/run/netns/$NS kubectl --kubeconfig $DIR/data/admin.kubeconfig get pod once -o 'jsonpath={.status.phase}' | grep -qx Failed"
check_out "with its exit code" '^3$' kube get pod once -o 'jsonpath={.status.containerStatuses[0].state.terminated.exitCode}'
soon "and its log" '^said$' kube logs once
soon "usage of the pods" '"podRef"' kube get --raw /api/v1/nodes/c/proxy/stats/summary

before=$(kube get pods -l app=web -o 'jsonpath={.items[*].status.containerStatuses[0].containerID}')
kill -9 "$(python3 -c "import json; print([c['pid'] for c in json.load(open('$DIR/run/components.json')) if c['name'] == 'kubelet'][0])")"
check "the kubelet comes back after kill -9" until_ok 60 coracle status
sleep 2
check_out "and finds its containers" "^$before\$" kube get pods -l app=web -o 'jsonpath={.items[*].status.containerStatuses[0].containerID}'
check "a pod is deleted" kube delete pod once --timeout=120s
check "coracle down" coracle down
check_empty "leaves containerd without containers" cri containers list -q
check_empty "and without tasks" cri tasks list -q
finish
