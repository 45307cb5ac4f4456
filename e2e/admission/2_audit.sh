# The audit log.
AUDIT=$WORK/audit.log
cat >"$WORK/policy.yaml" <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: ["/livez*", "/readyz*"]}
- {level: None, users: ["system:apiserver"]}
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
  omitManagedFields: true
- level: Request
  resources: [{group: "", resources: [serviceaccounts/token, serviceaccounts]}]
  omitStages: [ResponseStarted]
- level: Metadata
  omitStages: []
END
# entry JQ-FILTER: the values of events that match
entry() { jq -c "$1" "$AUDIT"; }
stop_server
printf 'apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]\n' >"$WORK/bad.yaml"
check_fails "a wrong policy is refused" 'rules.0..level: Unsupported value: .*Loud' timeout 60 "$BUILD/apiserver/coracle-apiserver" \
  --data-dir "$DIR" --secure-port "$PORT" --bind-address 127.0.0.1 --audit-policy-file "$WORK/bad.yaml" --audit-log-path "$AUDIT"
start_server --audit-policy-file "$WORK/policy.yaml" --audit-log-path "$AUDIT" --audit-log-maxsize 1 --audit-log-maxbackup 2

kubectl create namespace audited >/dev/null
kubectl -n audited create configmap c --from-literal=a=b >/dev/null
kubectl -n audited patch configmap c --type=merge -p '{"data":{"a":"c"}}' >/dev/null
kubectl -n audited create serviceaccount robot >/dev/null
kubectl -n audited get configmaps --as=robot --as-group=robots >/dev/null 2>&1
kubectl get --raw /readyz >/dev/null
kubectl -n audited delete configmap c >/dev/null
kubectl -n audited get secrets --watch >/dev/null 2>&1 &
WATCH=$!
watched() { [ -n "$(entry "select(.verb==\"watch\" and .objectRef.resource==\"secrets\" and .stage==\"$1\") | .stage")" ]; }
until_ok $SOON watched ResponseStarted
kill $WATCH; wait $WATCH 2>/dev/null
curl -sk -H 'Authorization: Bearer nonsense' "https://127.0.0.1:$PORT/api" >/dev/null
curl -sk -H 'Audit-ID: my-own-id' -D "$WORK/head" "https://127.0.0.1:$PORT/version" >/dev/null
until_ok $SOON watched ResponseComplete
until_ok $SOON grep -q my-own-id "$AUDIT"

check_out "every line is an event" '^true$' jq -s 'length > 10 and all(.kind == "Event" and .apiVersion == "audit.k8s.io/v1")' "$AUDIT"
check_out "a creation with its objects" '^\["audited","c",201,"b","b",null,"allow"\]$' entry 'select(.verb=="create" and .objectRef.resource=="configmaps")
  | [.objectRef.namespace,.objectRef.name,.responseStatus.code,.requestObject.data.a,.responseObject.data.a,.responseObject.metadata.managedFields,.annotations["authorization.k8s.io/decision"]]'
check_out "a patch as it was sent" '^\["patch",\{"data":\{"a":"c"\}\},"c"\]$' entry 'select(.verb=="patch" and .objectRef.resource=="configmaps") | [.verb,.requestObject,.responseObject.data.a]'
check_out "level Request has no response" '^\["robot","Request",true,null\]$' entry 'select(.verb=="create" and .objectRef.resource=="serviceaccounts" and .objectRef.namespace=="audited") | [.objectRef.name,.level,(.requestObject!=null),.responseObject]'
check_out "impersonation and a refusal" '^\["robot",\["robots","system:authenticated"\],403,"Forbidden","forbid"\]$' entry 'select(.impersonatedUser) | [.impersonatedUser.username,.impersonatedUser.groups,.responseStatus.code,.responseStatus.reason,.annotations["authorization.k8s.io/decision"]]'
check_out "what the rules leave out" '^0$' sh -c "grep -c readyz '$AUDIT'; true"
check_out "a watch has two stages" '^\["ResponseComplete","ResponseStarted"\]$' jq -cs '[.[] | select(.verb=="watch" and .objectRef.resource=="secrets") | .stage] | sort | unique' "$AUDIT"
check_out "the answer of a deletion" '^\["Success",200\]$' entry 'select(.verb=="delete" and .objectRef.resource=="configmaps") | [.responseStatus.status,.responseStatus.code]'
check_out "wrong credentials" '^\["ResponseStarted",401,"/api"\]$' entry 'select(.responseStatus.code==401) | [.stage,.responseStatus.code,.requestURI]'
check_out "the client's own id" '^\["get","/version",\["127.0.0.1"\]\]$' entry 'select(.auditID=="my-own-id") | [.verb,.requestURI,.sourceIPs]'
check_out "is told back" '^[Aa]udit-[Ii]d: my-own-id' cat "$WORK/head"
for i in 1 2 3 4 5; do
  python3 -c "import json; print(json.dumps({'apiVersion':'v1','kind':'ConfigMap','metadata':{'name':'big$i'},'data':{'x':'y'*300000}}))" |
    kubectl -n audited create -f - >/dev/null
done
soon "the file is rotated" '^2$' sh -c "ls '$WORK'/audit-20*.log | wc -l"
stop_server
start_server
