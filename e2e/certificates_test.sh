#!/usr/bin/env bash
# Certificates that live for less than a minute, on a server and a node that joined it (a network namespace each): all are
# renewed while everything goes on, with no program started again. A node whose certificate ended while it was off comes
# back with its bootstrap token. Machines whose address changes are followed. A CA that is added to a file counts at once.
. "$(dirname "$0")/lib.sh"
NS_S=ct-cert-s-$$ NS_N=ct-cert-n-$$ # one run does not disturb another
DATA_S=$WORK/server/data RUN_S=$WORK/server/run DATA_N=$WORK/node/data RUN_N=$WORK/node/run

server() { nsenter --net="/run/netns/$NS_S" "$@"; }
node() { nsenter --net="/run/netns/$NS_N" "$@"; }
coracle_server() { server "$CORACLE" "$@" --data-dir "$DATA_S" --run-dir "$RUN_S"; }
coracle_node() { node "$CORACLE" "$@" --data-dir "$DATA_N" --run-dir "$RUN_N"; }
k() { server kubectl --kubeconfig "$DATA_S/admin.kubeconfig" "$@"; }

undo() {
  jobs -p | xargs -r kill 2>/dev/null
  [ -e "/run/netns/$NS_N" ] && coracle_node down --purge >/dev/null 2>&1
  [ -e "/run/netns/$NS_S" ] && coracle_server down --purge >/dev/null 2>&1
  ip netns del "$NS_N" 2>/dev/null; ip netns del "$NS_S" 2>/dev/null
  rm -rf "$WORK"
}
trap undo EXIT
undo; mkdir -p "$DATA_S" "$DATA_N"
ip netns add "$NS_S" && ip netns add "$NS_N" &&
  ip link add eth0 netns "$NS_S" type veth peer name eth0 netns "$NS_N" || { fail "two network namespaces"; finish; }
server sh -c 'ip link set lo up; ip addr add 10.98.0.1/24 dev eth0; ip link set eth0 up'
node sh -c 'ip link set lo up; ip addr add 10.98.0.2/24 dev eth0; ip link set eth0 up'
printf 'apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: true\n' > "$DATA_N/kubelet.yaml"

check_out "a server whose certificates live for 40 s" 'node server Ready' coracle_server up --node-name server --certificate-validity 40s
check "a token" coracle_server token create --kubeconfig "$WORK/join"
check_out "a node joins" 'node edge Ready' coracle_node join "$WORK/join" --node-name edge
"$TOP/hack/busybox-image" "$WORK/busybox.tar" >/dev/null
check "it imports the image" coracle_node image import "$WORK/busybox.tar"
k apply -f - >/dev/null <<'Y'
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  nodeName: edge
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, 'echo spoken; sleep 3600']}]
Y
check "a pod on it" k wait --for=condition=Ready pod/talker --timeout=120s

PEM=$DATA_N/kubelet/pki
serial() { openssl x509 -noout -serial -in "$1"; }
served() { # as the server at ADDRESS:PORT shows it, checked against the cluster's CA
  "$1" openssl s_client -connect "$2" -CAfile "$DATA_S/pki/ca.crt" -verify_return_error </dev/null 2>/dev/null | openssl x509 -noout -serial
}
pids() { python3 -c 'import json, sys; print(*[(c["name"], c["pid"], c["restarts"]) for c in json.load(open(sys.argv[1]))])' "$1/components.json"; }
check "its serving certificate is the cluster's" until_ok 60 served server 10.98.0.2:10250
client=$(serial "$PEM/kubelet-client-current.pem") serving=$(served server 10.98.0.2:10250) api=$(served server 127.0.0.1:6443)
kubelet=$(serial "$DATA_S/pki/kubelet.crt") admin=$(sha256sum < "$DATA_S/admin.kubeconfig")
programs_s=$(pids "$RUN_S") programs_n=$(pids "$RUN_N")
changed() { local now; now=$("${@:2}") && [ -n "$now" ] && [ "$now" != "$1" ]; }
for round in first second; do
  check "the kubelet's client certificate is renewed, $round time" until_ok 120 changed "$client" serial "$PEM/kubelet-client-current.pem"
  check "and the one that it serves with" until_ok 120 changed "$serving" served server 10.98.0.2:10250
  check "and the API server's" until_ok 120 changed "$api" served server 127.0.0.1:6443
  check "and that of the server's own kubelet" until_ok 120 changed "$kubelet" serial "$DATA_S/pki/kubelet.crt"
  client=$(serial "$PEM/kubelet-client-current.pem") serving=$(served server 10.98.0.2:10250) api=$(served server 127.0.0.1:6443)
  kubelet=$(serial "$DATA_S/pki/kubelet.crt")
done
logs() { k logs talker | grep -q spoken && k exec talker -- true; }
check "logs and exec work with all of them renewed" until_ok 60 logs
check "the administrator's kubeconfig is renewed too" changed "$admin" eval 'sha256sum < "$DATA_S/admin.kubeconfig"'
check_out "nothing was started again on the server" "^$(printf '%s' "$programs_s" | sed 's/[][().*]/\\&/g')\$" pids "$RUN_S"
check_out "nor on the node" "^$(printf '%s' "$programs_n" | sed 's/[][().*]/\\&/g')\$" pids "$RUN_N"
k create deployment later --image=busybox:latest --replicas=2 --dry-run=client -o yaml -- sleep 3600 |
  sed 's/image: busybox:latest/&\n        imagePullPolicy: Never/; s/      containers:/      nodeName: edge\n      terminationGracePeriodSeconds: 1\n&/' | k apply -f - >/dev/null
check "controllers, scheduler and kubelet still work" k rollout status deployment/later --timeout=120s
soon "both nodes are Ready" '^2$' bash -c "nsenter --net=/run/netns/$NS_S kubectl --kubeconfig '$DATA_S/admin.kubeconfig' get nodes --no-headers | grep -cw Ready"
none_old() { [ "$(k get csr -o json | /usr/bin/python3 -c '
import json, sys, datetime
print(sum(1 for c in json.load(sys.stdin)["items"] if (datetime.datetime.utcnow() - datetime.datetime.fromisoformat(c["metadata"]["creationTimestamp"][:-1])).total_seconds() > 75))')" = 0 ]; }
check "requests whose certificates have ended are cleaned away" until_ok 60 none_old

# the node is off for longer than its certificate lives
check "the node goes down" coracle_node down --keep-pods
ended() { ! openssl x509 -noout -checkend 0 -in "$PEM/kubelet-client-current.pem" >/dev/null; }
check "its certificate ends" until_ok 90 ended
coracle_node join --wait=false >/dev/null
check "it asks with its bootstrap token again" until_ok 90 changed "$(serial "$PEM/kubelet-client-current.pem")" serial "$PEM/kubelet-client-current.pem"
check "logs are there again" until_ok 90 logs

# addresses change
node sh -c 'ip addr add 10.98.0.22/24 dev eth0; ip addr del 10.98.0.2/24 dev eth0; ip addr show dev eth0 | grep -q 10.98.0.22 || ip addr add 10.98.0.22/24 dev eth0'
address() { k get node "$1" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'; }
follows() { [ "$(address "$1")" = "$2" ]; }
check "the Node follows its machine's address" until_ok 120 follows edge 10.98.0.22
check "its serving certificate too" until_ok 90 served server 10.98.0.22:10250
check "logs through the new address" until_ok 60 logs
server sh -c 'ip addr add 10.98.0.11/24 dev eth0; ip addr del 10.98.0.1/24 dev eth0; ip addr show dev eth0 | grep -q 10.98.0.11 || ip addr add 10.98.0.11/24 dev eth0'
endpoint() { k get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[*]}' | grep -qx 10.98.0.11; }
check "the API server follows its own" until_ok 60 endpoint
names_it() { server openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName | grep -q 10.98.0.11; }
check "its certificate names the new one" until_ok 60 names_it
check "the server's Node too" until_ok 60 follows server 10.98.0.11
through_service() { server curl -sk --max-time 5 https://10.96.0.1/version | grep -q major; }
check "the Service kubernetes leads there" until_ok 60 through_service
check "and coracle up again agrees" coracle_server up

# the node joins again, with a file that knows the new address
check "a new file for nodes" coracle_server token create --kubeconfig "$WORK/join2"
check "the node stops" coracle_node down --keep-pods
check_out "and joins the server at its new address" 'node edge Ready' coracle_node join "$WORK/join2"
check "logs are there once more, of the same container" until_ok 60 logs
check_out "which nobody has restarted" '^0$' k get pod talker -o jsonpath='{.status.containerStatuses[0].restartCount}'

# a CA that is added to the file of client CAs
mkdir "$WORK/lone"
ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=$1" -keyout "$WORK/lone/$1.key" -out "$WORK/lone/$1.crt" 2>/dev/null; }
ca one; ca two
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=system:masters/CN=jane -keyout "$WORK/lone/jane.key" 2>/dev/null |
  openssl x509 -req -days 1 -CA "$WORK/lone/two.crt" -CAkey "$WORK/lone/two.key" -CAcreateserial -out "$WORK/lone/jane.crt" 2>/dev/null
cp "$WORK/lone/one.crt" "$WORK/lone/cas.crt"
nsenter --net="/run/netns/$NS_S" "$BUILD/apiserver/coracle-apiserver" --data-dir "$WORK/lone/data" --secure-port 6555 --client-ca-file "$WORK/lone/cas.crt" >"$WORK/lone/log" 2>&1 &
whoami() { server curl -sk --max-time 5 --cert "$WORK/lone/jane.crt" --key "$WORK/lone/jane.key" https://127.0.0.1:6555/api/v1/namespaces | grep -q "$1"; }
check "a certificate of an unknown CA is refused" until_ok 60 whoami Unauthorized
cat "$WORK/lone/two.crt" >> "$WORK/lone/cas.crt"
check "once its CA is in the file it counts" until_ok 60 whoami NamespaceList
finish
