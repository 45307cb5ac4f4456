#!/usr/bin/env bash
# NetworkPolicies: what is not allowed does not arrive; answers, the node and the pod itself go through; changes count.
. "$(dirname "$0")/lib.sh"
cluster_up || { fail "a cluster"; finish; }
pod() { # NAMESPACE NAME LABELS
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {namespace: $1, name: $2, labels: $3}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; httpd -h /www -p 81; exec httpd -f -h /www -p 80"]
    ports: [{name: web, containerPort: 80}]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
YAML
}
kubectl create namespace other >/dev/null && kubectl label namespace other team=blue >/dev/null
{ pod default web '{app: web}'; pod default friend '{app: friend}'; pod default stranger '{app: stranger}'; pod other blue '{app: friend}'
  printf 'apiVersion: v1\nkind: Service\nmetadata: {namespace: default, name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n'
} >"$WORK/pods.yaml"
kubectl apply -f "$WORK/pods.yaml" >/dev/null
check "pods run" kubectl wait --for=condition=Ready pod --all -A --timeout=120s
web=$(kubectl get pod web -o jsonpath='{.status.podIP}')
service=$(kubectl get service web -o jsonpath='{.spec.clusterIP}')

reaches() { # NAMESPACE POD ADDRESS[:PORT]
  kubectl -n "$1" exec "$2" -- timeout 3 wget -q -O - "http://$3/" 2>/dev/null | grep -q web
}
allowed() { local name=$1; shift; if until_ok 60 reaches "$@"; then pass "$name"; else fail "$name"; fi; }
blocked() { local name=$1; shift; if until_ok 60 not_reaches "$@"; then pass "$name"; else fail "$name"; fi; }
not_reaches() { ! reaches "$@"; }
policy() { # NAME SPEC...: sets what the policy says
  { printf 'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s}\nspec:\n' "$1"; shift; printf '  %s\n' "$@"; } >"$WORK/policy.yaml"
  kubectl apply -f "$WORK/policy.yaml" 2>"$WORK/warnings" >/dev/null || cat "$WORK/warnings"
}

allowed "without policies everybody reaches a pod" default stranger "$web"
policy web 'podSelector: {matchLabels: {app: web}}' 'policyTypes: [Ingress]'
check_empty "a policy is accepted without a warning" cat "$WORK/warnings"
blocked "nothing arrives that no rule allows" default stranger "$web"
blocked "not through a Service either" default stranger "$service"
allowed "the pod reaches itself through its Service" default web "$service"
check "the node reaches its pods: they stay Ready" bash -c "sleep 5; kubectl wait --for=condition=Ready pod/web --timeout=120s"
reach_host() { curl -sf --max-time 5 "http://$web/" | grep -q web; }
check "and so do its own processes" until_ok 60 reach_host

policy web 'podSelector: {matchLabels: {app: web}}' 'ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: web}]}]'
allowed "a rule allows pods by their labels" default friend "$web"
allowed "through a Service too" default friend "$service"
blocked "but not to another port" default friend "$web:81"
blocked "nor others" default stranger "$web"
blocked "nor those of other namespaces" other blue "$web"
kubectl label pod stranger --overwrite app=friend >/dev/null
allowed "a pod that gets the label is let in" default stranger "$web"
kubectl label pod stranger --overwrite app=stranger >/dev/null
blocked "and kept out when it loses it" default stranger "$web"

policy web 'podSelector: {matchLabels: {app: web}}' 'ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]'
allowed "namespaces by their labels" other blue "$web"
blocked "and no others" default friend "$web"
policy web 'podSelector: {matchLabels: {app: web}}' "ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [$(kubectl get pod stranger -o jsonpath='{.status.podIP}')/32]}}]}]"
allowed "addresses of a block" default friend "$web"
blocked "but for its exceptions" default stranger "$web"

policy web 'podSelector: {}' 'policyTypes: [Egress]' 'egress: [{to: [{podSelector: {matchLabels: {app: friend}}}]}]'
blocked "what a pod sends is kept back" default friend "$web"
check "names are still found" until_ok $SOON kubectl exec friend -- nslookup web.default.svc.cluster.local
allowed "answers of an isolated pod go out" other blue "$web"

kubectl delete networkpolicy web >/dev/null
allowed "without the policy all is as before" default stranger "$web"
policy web 'podSelector: {matchLabels: {app: web}}' 'policyTypes: [Ingress]'
blocked "it holds again" default stranger "$web"
proxy=$(pgrep -f "coracle-proxy.*$DATA" | head -n 1)
[ -n "$proxy" ] && kill -9 "$proxy"
not_for() { local end=$((SECONDS + 4)); while [ $SECONDS -lt $end ]; do ! reaches default stranger "$web" || return 1; done; }
check "also while the proxy is killed and starts again" not_for
kubectl delete networkpolicy web >/dev/null
allowed "and changes are followed afterwards" default stranger "$web"
"$CORACLE" down --purge >/dev/null
tables() { nft list tables | grep coracle || true; }
check_empty "coracle down takes the rules away" tables
finish
