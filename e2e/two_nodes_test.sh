#!/usr/bin/env bash
# Two more nodes, each in a network namespace of its own, join with a token; pods of one Deployment run on all of them,
# reach each other across nodes, and are reached through one Service.
. "$(dirname "$0")/lib.sh"

TAG=$$ # one run does not disturb another
undo_network() {
  for n in a b; do
    [ -e /run/netns/ct-$n-$TAG ] && nsenter --net=/run/netns/ct-$n-$TAG "$CORACLE" down --purge --data-dir "$WORK/$n/data" --run-dir "$WORK/$n/run" >/dev/null 2>&1
    ip netns del ct-$n-$TAG 2>/dev/null
  done
  for n in va vb br; do ip link del ct-$n 2>/dev/null; done
}
trap 'undo_network; at_exit' EXIT
undo_network
ip link add ct-br type bridge && ip addr add 10.99.0.1/24 dev ct-br && ip link set ct-br up || { fail "a bridge for the test"; finish; }
i=1
for n in a b; do
  i=$((i + 1))
  ip netns add ct-$n-$TAG
  ip link add ct-v$n type veth peer name eth0 netns ct-$n-$TAG
  ip link set ct-v$n master ct-br up
  nsenter --net=/run/netns/ct-$n-$TAG sh -c "ip link set lo up; ip addr add 10.99.0.$i/24 dev eth0; ip link set eth0 up; ip route add default via 10.99.0.1"
done

cluster_up --node-name server --node-ip 10.99.0.1 || { fail "the server comes up"; finish; }
pass "the server comes up"
check "a token is made" "$CORACLE" token create --kubeconfig "$WORK/join"
check_out "and listed" 'made by coracle' "$CORACLE" token list
i=1
for n in a b; do
  i=$((i + 1))
  mkdir -p "$WORK/$n"
  at() { nsenter --net=/run/netns/ct-$n-$TAG "$CORACLE" "$@" --data-dir "$WORK/$n/data" --run-dir "$WORK/$n/run"; }
  check "node $n joins" at join "$WORK/join" --node-name $n --node-ip 10.99.0.$i
  check "node $n imports the image" at image import "$WORK/busybox.tar"
done
check_out "three nodes" '^3$' bash -c 'kubectl get nodes --no-headers | grep -cw Ready'
kubectl create deployment spread --image=busybox:latest --replicas=6 --dry-run=client -o yaml -- sh -c 'hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp' |
  sed 's/image: busybox:latest/&\n        imagePullPolicy: Never/' | kubectl apply -f - >/dev/null
check "a Deployment of six rolls out" kubectl rollout status deployment/spread --timeout=120s
check_out "its pods are on all three nodes" '^3$' bash -c "kubectl get pods -l app=spread -o jsonpath='{range .items[*]}{.spec.nodeName}{\"\n\"}{end}' | sort -u | wc -l"
kubectl expose deployment spread --port=80 --target-port=8080 >/dev/null
from=$(kubectl get pods -l app=spread --field-selector spec.nodeName=a -o jsonpath='{.items[0].metadata.name}')
for n in server a b; do
  ip=$(kubectl get pods -l app=spread --field-selector spec.nodeName=$n -o jsonpath='{.items[0].status.podIP}')
  soon "a pod on a reaches one on $n" 'spread-' kubectl exec "$from" -- timeout 5 wget -qO- "http://$ip:8080/index.html"
done
soon "and the Service by name" 'spread-' kubectl exec "$from" -- sh -c 'timeout 5 wget -qO- "http://$(nslookup spread.default.svc.cluster.local | sed -n "s/^Address: //p" | head -n 1)/index.html"'
check "logs come from a node that joined" until_ok $SOON kubectl logs "$from"
finish
