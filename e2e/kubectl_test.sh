#!/usr/bin/env bash
# kubectl old and new against one cluster: what people type, and what they see.
. "$(dirname "$0")/lib.sh"

cluster_up || { fail "the cluster comes up"; finish; }
pass "the cluster comes up"

# Everything below runs once for each kubectl.
session() {
  local K=$1 V=$2 ns=k$3
  echo "--- kubectl $V"
  check "$V apply" $K apply -f "$TOP/manifests/hello.yaml"
  check "$V rollout status" $K -n hello rollout status deployment/hello --timeout=180s
  check_out "$V get pods -A" 'hello-.*1/1 +Running' $K get pods -A
  check_out "$V get -o wide" '10\.244\.' $K -n hello get pods -o wide
  check_out "$V get nodes" 'Ready' $K get nodes
  soon "$V describe" 'Started container web|Container image' $K -n hello describe pods
  check_out "$V explain" 'containers' $K explain pod.spec
  check_out "$V explain field" 'image' $K explain deployment.spec.template.spec.containers.image
  check_out "$V api-resources" 'deployments +deploy' $K api-resources
  check_out "$V auth can-i" 'yes' $K auth can-i create pods
  check_out "$V exec" 'uid=0' $K -n hello exec deploy/hello -- id
  check_out "$V exec stdin" 'from stdin' bash -c "echo from stdin | $K -n hello exec -i deploy/hello -- cat"
  check_fails "$V exec exit code" 'exit code 7|code 7' $K -n hello exec deploy/hello -- sh -c 'exit 7'
  check_out "$V scale" 'scaled' $K -n hello scale deployment/hello --replicas=3
  check "$V rollout after scale" $K -n hello rollout status deployment/hello --timeout=180s
  check "$V create namespace" $K create namespace $ns
  until_ok $SOON $K -n $ns get serviceaccount default
  check "$V run" $K -n $ns run talker --image=busybox:latest --image-pull-policy=Never --restart=Never -- sh -c 'echo one; echo two; sleep 600'
  check "$V wait" $K -n $ns wait --for=condition=Ready pod/talker --timeout=180s
  soon "$V logs" 'two' $K -n $ns logs talker
  check_out "$V logs --tail" '^two$' $K -n $ns logs talker --tail=1
  $K -n $ns logs -f talker >"$WORK/follow.log" 2>&1 &
  local follow=$!
  soon "$V logs -f" 'two' cat "$WORK/follow.log"
  kill $follow 2>/dev/null; wait $follow 2>/dev/null
  echo "a file" > "$WORK/file"
  check "$V cp" bash -c "cd '$WORK' && $K -n $ns cp file talker:/tmp/file"
  check_out "$V cp arrived" 'a file' $K -n $ns exec talker -- cat /tmp/file
  check_out "$V rollout restart" 'restarted' $K -n hello rollout restart deployment/hello
  check "$V rollout after restart" $K -n hello rollout status deployment/hello --timeout=180s
  check_out "$V set env" 'updated' $K -n hello set env deployment/hello COLOUR=blue
  check "$V rollout after set env" $K -n hello rollout status deployment/hello --timeout=180s
  check_out "$V rollout history" 'REVISION' $K -n hello rollout history deployment/hello
  check_out "$V rollout undo" 'rolled back' $K -n hello rollout undo deployment/hello
  check "$V rollout after undo" $K -n hello rollout status deployment/hello --timeout=180s
  local port pf
  port=$(python3 "$TOP/e2e/ports.py")
  $K -n hello port-forward service/hello "$port:80" >"$WORK/pf.log" 2>&1 &
  pf=$!
  check "$V port-forward" until_ok $SOON curl -fsS --max-time 5 "http://127.0.0.1:$port/"
  kill $pf 2>/dev/null; wait $pf 2>/dev/null
  check_out "$V label" 'labeled' $K -n $ns label pod talker colour=red
  check_out "$V get by label" 'talker' $K -n $ns get pods -l colour=red
  check_fails "$V not found" 'NotFound' $K -n $ns get pod nothing
  check_fails "$V validation" 'nvalid|unknown field|required' bash -c "printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: bad, namespace: $ns}\nspec: {containers: [{name: X_, image: a}]}\n' | $K apply -f -"
  soon "$V top" '[0-9]+m .*%' $K top nodes
  check "$V delete pod" $K -n $ns delete pod talker --grace-period=1
  check "$V delete namespace" $K delete namespace $ns hello --timeout=180s
  check_fails "$V namespace is gone" 'NotFound' $K get namespace $ns
}

session kubectl "$(kubectl version --client -o json | python3 -c 'import json,sys; print(json.load(sys.stdin)["clientVersion"]["gitVersion"])')" 1
old=$(client_kubectl_120) && session "$old" v1.20.2 2 || fail "kubectl 1.20.2 is there"
middle=$(client_npm 24 kubectl) && session "$middle" v1.24 4 || fail "kubectl 1.24 is there"
new=$(client_npm 35 kubectl) && session "$new" v1.35 3 || fail "kubectl 1.35 is there"
finish
