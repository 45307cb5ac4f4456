# Admission webhooks: matching, order, reinvocation, failure policy, side effects, warnings, conditions.

# hook KIND NAME PATH [more YAML of the webhook]: a configuration with one webhook for ConfigMaps of namespace hooked.
hook() {
  local kind=$1 name=$2 path=$3; shift 3
  {
    cat <<END
apiVersion: admissionregistration.k8s.io/v1
kind: ${kind}WebhookConfiguration
metadata: {name: $name}
webhooks:
- name: $name.hooks.lab
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: ${PATIENCE:-20}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: hooked}}
  clientConfig: {url: "https://127.0.0.1:$HOOKS$path", caBundle: "$CA"}
END
    if [ $# -gt 0 ]; then printf '%s\n' "$@"; fi
    [[ "$*" == *rules:* ]] || echo '  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE, DELETE], resources: [configmaps]}]'
  } | kubectl apply -f - >/dev/null
}
unhook() { kubectl delete validatingwebhookconfigurations,mutatingwebhookconfigurations --all >/dev/null; }
make() { kubectl -n hooked create configmap "$1" "${@:2}"; }
remake() { kubectl -n hooked delete configmap "$1" >/dev/null 2>&1; make "$@"; }
hook_log() { jq -rs "$1" "$LOG"; }

kubectl create namespace hooked >/dev/null
hook Validating deny /deny
check_fails "a refusal" 'admission webhook "deny.hooks.lab" denied the request: no thanks' make a
check "another namespace is not asked for" kubectl -n default create configmap unasked
hook Validating deny /deny-code
check_fails "with the webhook's own code" 'denied the request: pay first' make a
check_out "the code" '"code":402' api POST /api/v1/namespaces/hooked/configmaps '{"metadata":{"name":"a"}}'
unhook
hook Validating warn /warn
check_out "warnings" 'Warning: mind the gap' sh -c 'kubectl -n hooked create configmap w 2>&1'
unhook
for bad in garbage wrong-uid status-500 slow; do
  [ $bad = slow ] && PATIENCE=1 || PATIENCE=20
  hook Validating bad "/$bad"
  check_fails "failing: $bad" 'failed calling webhook "bad.hooks.lab"' make "x-$bad"
  hook Validating bad "/$bad" '  failurePolicy: Ignore'
  check "failing and ignored: $bad" make "y-$bad"
done
unset PATIENCE
unhook
: >"$LOG"
hook Mutating b-second /patch/two '  reinvocationPolicy: IfNeeded'
hook Mutating a-first /patch/one '  reinvocationPolicy: IfNeeded'
check "patches" make m
check_out "in order of their names, and again when a later one changed something" '^/patch/one /patch/two /patch/one ?(/patch/two)?$' hook_log '[.[].path | split("?")[0]] | join(" ")'
check_out "what they made" '^2 [12]$' kubectl -n hooked get configmap m -o 'jsonpath={.metadata.labels.one} {.metadata.labels.two}'
unhook
hook Mutating once /patch/one
check "without reinvocation" make n
check_out "once" '^1$' kubectl -n hooked get configmap n -o 'jsonpath={.metadata.labels.one}'
hook Mutating once /patch-bad
check_fails "a patch that does not apply" 'Internal error occurred' make bad
hook Mutating once /patch-no-type
check_fails "a patch without a type" 'webhook returned response.patch but not response.patchType' make bad
unhook
: >"$LOG"
hook Validating all /allow
check "dry run" make dry --dry-run=server
check_out "is told" '^true$' hook_log '.[0].review.request.dryRun'
check_out "options, user, names" '^CreateOptions hooked dry configmaps CREATE ConfigMap$' hook_log '.[0].review.request | [.options.kind, .namespace, .name, .resource.resource, .operation, .object.kind] | join(" ")'
check_out "with the time-out" 'timeout=20s' hook_log '.[0].path'
: >"$LOG"
kubectl -n hooked delete configmap m >/dev/null
check_out "a deletion" '^DELETE null ConfigMap DeleteOptions$' hook_log '.[0].review.request | [.operation, (.object|tostring), .oldObject.kind, .options.kind] | join(" ")'
unhook
: >"$LOG"
hook Validating sel /deny '  objectSelector: {matchLabels: {check: "yes"}}'
check "an object that the selector leaves out" make plain
check_fails "one that it names" 'no thanks' kubectl -n hooked label configmap plain check=yes
unhook
hook Validating cond /deny '  matchConditions: [{name: not-free, expression: "!(object.metadata.name.startsWith(\"free\"))"}]'
check "matchConditions leave out" make free-1
check_fails "matchConditions let through" 'no thanks' make bound-1
check_fails "a condition that does not compile" 'matchConditions.0..expression: Invalid value.*compilation failed.*undeclared reference' \
  hook Validating cond2 /deny '  matchConditions: [{name: x, expression: "nothing.here"}]'
unhook
# matchPolicy: events.k8s.io Events are core ones
: >"$LOG"
hook Validating eq /allow '  matchPolicy: Equivalent' '  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [events]}]'
cat <<'END' | kubectl create -f - >/dev/null
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: e1, namespace: hooked}
eventTime: "2026-01-02T03:04:05.000000Z"
action: a
reason: r
type: Normal
reportingController: c
reportingInstance: i
regarding: {kind: Pod, name: p, namespace: hooked}
END
check_out "an equivalent resource, converted" '^v1 Pod events.k8s.io$' hook_log '.[0].review.request | [.object.apiVersion, .object.involvedObject.kind, .requestResource.group] | join(" ")'
hook Validating eq /deny '  matchPolicy: Exact' '  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [events]}]'
check "matchPolicy Exact takes it as it came" sh -c "kubectl -n hooked get events.v1.events.k8s.io e1 -o json | jq 'del(.metadata.resourceVersion,.metadata.uid) | .metadata.name=\"e2\"' | kubectl create -f -"
unhook
# subresources
kubectl -n hooked create deployment d --image=x >/dev/null
: >"$LOG"
hook Validating scale /allow '  rules: [{apiGroups: [apps], apiVersions: [v1], operations: [UPDATE], resources: [deployments/scale]}]'
kubectl -n hooked scale deployment d --replicas=3 >/dev/null
check_out "scale is seen as a Scale" '^Scale 3 1 scale$' hook_log '.[0].review.request | [.object.kind, .object.spec.replicas, .oldObject.spec.replicas, .subResource] | map(tostring) | join(" ")'
unhook
hook Validating cfg /deny '  rules: [{apiGroups: ["*"], apiVersions: ["*"], operations: ["*"], resources: ["*"]}]'
check "configurations are never sent" kubectl annotate validatingwebhookconfiguration cfg x=y
unhook

# Validating webhooks are asked all at once, and all of them have their say.
patient_hooks() {
  for i in 1 2 3 4 5; do
    PATIENCE=30 hook Validating "slow-$i" /slow || return
  done
}
check "webhooks with longer time-outs" patient_hooks
began=$SECONDS
check "five webhooks that take five seconds each" make five-slow
check "take less than four of them" test $((SECONDS - began)) -lt 20
unhook
hook Validating a-deny /deny
hook Validating b-warn /warn
hook Validating c-code /deny-code
check_fails "of several refusals the first is told, and warnings of others too" 'Warning: mind the gap' sh -c 'kubectl -n hooked create configmap several 2>&1'
check_fails "which is that of the first configuration" 'a-deny.hooks.lab. denied the request: no thanks' make several
unhook
