#!/usr/bin/env bash
# The cluster on a real etcd; etcd killed for ten seconds loses nothing, and the cluster goes on.
. "$(dirname "$0")/lib.sh"
cluster_up --store etcd || { fail "the cluster comes up on etcd"; finish; }
pass "the cluster comes up on etcd"
check "apply" kubectl apply -f "$TOP/manifests/hello.yaml"
check "rollout" kubectl -n hello rollout status deployment/hello --timeout=120s
check_out "etcd holds readable JSON under Kubernetes' keys" '"kind":"ConfigMap"' env ETCDCTL_API=3 etcdctl --endpoints=http://127.0.0.1:2379 get --print-value-only /registry/configmaps/hello/page
ids() { kubectl -n hello get pods -o jsonpath='{range .items[*]}{.status.containerStatuses[0].containerID}{"\n"}{end}' | sort; }
ids >"$WORK/before"
for i in $(seq 20); do kubectl -n hello create configmap "c$i" --from-literal=n="$i" >/dev/null || fail "create c$i"; done
pid=$(python3 -c 'import json, sys; print([c["pid"] for c in json.load(open(sys.argv[1])) if c["name"] == "etcd"][0])' "$RUN/components.json")
kill -STOP "$pid"; sleep 10; kill -9 "$pid"
check "writes work again" until_ok 60 kubectl -n hello create configmap after --from-literal=a=b
kept() { kubectl -n hello get configmaps -o name | grep -cE '/c[0-9]+$'; }
check_out "nothing is lost" '^20$' kept
check "the node is Ready" until_ok 60 kubectl wait --for=condition=Ready node --all --timeout=10s
ids >"$WORK/after"
check "no container was restarted" diff "$WORK/before" "$WORK/after"
check "controllers go on" kubectl -n hello scale deployment/hello --replicas=3
check "the third pod comes" kubectl -n hello rollout status deployment/hello --timeout=120s
finish
