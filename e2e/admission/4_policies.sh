# ValidatingAdmissionPolicy and MutatingAdmissionPolicy.

# policy NAME SPEC-YAML...: a validating policy for ConfigMaps, and a binding with Deny.
policy() {
  local name=$1; shift
  {
    printf 'apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: %s}\nspec:\n' "$name"
    [[ "$*" == *matchConstraints:* ]] || echo '  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]}'
    printf '%s\n' "$@"
  } | kubectl apply -f -
}
bind() { # NAME POLICY MORE...
  local name=$1 policy=$2; shift 2
  {
    printf 'apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {name: %s}\nspec:\n  policyName: %s\n' "$name" "$policy"
    [[ "$*" == *validationActions:* ]] || echo '  validationActions: [Deny]'
    [[ "$*" == *matchResources:* ]] || echo '  matchResources: {namespaceSelector: {matchLabels: {policed: "yes"}}}'
    printf '%s\n' "$@"
  } | kubectl apply -f -
}
unpolice() { kubectl delete validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings --all >/dev/null; }
cm() { kubectl -n policed create configmap "$@"; }

kubectl create namespace policed >/dev/null
kubectl label namespace policed policed=yes >/dev/null

policy p '  validations: [{expression: "object.data.size() <= 1", messageExpression: "\"too many: \" + string(object.data.size())", reason: Forbidden}]' >/dev/null
check "a policy without a binding does nothing" cm free --from-literal=a=1 --from-literal=b=2
bind p p >/dev/null
check "what is right" cm right --from-literal=a=1
check_fails "what is wrong" "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: too many: 2" cm wrong --from-literal=a=1 --from-literal=b=2
check_fails "an update" 'too many: 3' kubectl -n policed patch configmap right --type=merge -p '{"data":{"b":"1","c":"2"}}'
check_fails "a server-side apply" 'too many: 2' sh -c 'printf "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s, namespace: policed}\ndata: {a: one, b: two}\n" | kubectl apply --server-side -f -'
check_fails "a dry run" 'too many: 2' cm wrong --from-literal=a=1 --from-literal=b=2 --dry-run=server
check "another namespace" kubectl -n default create configmap elsewhere --from-literal=a=1 --from-literal=b=2
check_out "the reason, code and cause" '"message":"ValidatingAdmissionPolicy .p. with binding .p. denied request: too many: 2".*"code":403' api POST /api/v1/namespaces/policed/configmaps '{"metadata":{"name":"wrong"},"data":{"a":"1","b":"2"}}'
unpolice

policy p '  validations: [{expression: "false", message: " no "}]' >/dev/null
bind p p '  validationActions: [Warn, Audit]' >/dev/null
check_out "action Warn" "Warning: Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p': no" sh -c 'kubectl -n policed create configmap warned 2>&1'
unpolice
policy p '  failurePolicy: Fail' '  validations: [{expression: "object.data.missing == \"x\""}]' >/dev/null
bind p p >/dev/null
check_fails "an expression that fails" "expression 'object.data.missing == \"x\"' resulted in error: no such key: (data|missing)" cm f1
policy p '  failurePolicy: Ignore' '  validations: [{expression: "object.data.missing == \"x\""}]' >/dev/null
check "failurePolicy Ignore" cm f2
unpolice

# variables, conditions, request, oldObject, namespaceObject, authorizer
policy p '  variables:' '  - {name: len, expression: "size(object.metadata.name)"}' '  - {name: long, expression: "variables.len > 10"}' \
  '  matchConditions: [{name: not-admin, expression: "!request.name.startsWith(\"admin\")"}]' \
  '  validations:' '  - {expression: "!variables.long", message: "name too long"}' \
  '  - {expression: "namespaceObject.metadata.labels.policed == \"yes\" && request.operation in [\"CREATE\", \"UPDATE\"]"}' \
  '  - {expression: "oldObject == null || has(object.data) == has(oldObject.data)", message: "data comes and goes"}' \
  '  - {expression: "authorizer.group(\"\").resource(\"secrets\").namespace(\"policed\").check(\"create\").allowed()", message: "may not make secrets"}' >/dev/null
bind p p >/dev/null
check "variables" cm short
check_fails "a variable that uses another" 'name too long' cm much-too-long-a-name
check "matchConditions" cm admin-with-a-long-name
check_fails "oldObject" 'data comes and goes' kubectl -n policed patch configmap short --type=merge -p '{"data":{"a":"b"}}'
kubectl create clusterrole cms --verb='*' --resource=configmaps >/dev/null
kubectl create clusterrolebinding cms --clusterrole=cms --user=ann >/dev/null
check_fails "authorizer" 'may not make secrets' kubectl -n policed --as=ann create configmap of-ann
unpolice

# parameters
kubectl -n policed create configmap limits --from-literal=max=2 >/dev/null
policy p '  paramKind: {apiVersion: v1, kind: ConfigMap}' '  validations: [{expression: "object.data.size() <= int(params.data.max)", messageExpression: "\"at most \" + params.data.max"}]' >/dev/null
bind p p '  paramRef: {name: limits, namespace: policed, parameterNotFoundAction: Deny}' >/dev/null
check "within the parameter" cm two --from-literal=a=1 --from-literal=b=2
check_fails "beyond it" 'at most 2' cm three --from-literal=a=1 --from-literal=b=2 --from-literal=c=3
kubectl -n policed patch configmap limits --type=merge -p '{"data":{"max":"3"}}' >/dev/null
check "the parameter changed" cm three --from-literal=a=1 --from-literal=b=2 --from-literal=c=3
bind p p '  paramRef: {name: nothing, parameterNotFoundAction: Deny}' >/dev/null
check_fails "a parameter that is missing" 'failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction' cm none
bind p p '  paramRef: {name: nothing, parameterNotFoundAction: Allow}' >/dev/null
check "is allowed to" cm none
kubectl -n policed create configmap strict --from-literal=max=0 >/dev/null
kubectl -n policed label configmap limits strict limit=yes --overwrite >/dev/null 2>&1
kubectl -n policed label configmap limits limit=yes >/dev/null 2>&1; kubectl -n policed label configmap strict limit=yes >/dev/null 2>&1
bind p p '  paramRef: {selector: {matchLabels: {limit: "yes"}}, parameterNotFoundAction: Deny}' >/dev/null
check_fails "all that a selector finds" 'at most 0' cm four --from-literal=a=1
unpolice

# wrong policies
check_fails "an expression that does not compile" 'spec.validations.0..expression: Invalid value: "objekt.x": compilation failed: ERROR: <input>:1:1: undeclared reference to .objekt.' policy w '  validations: [{expression: "objekt.x"}]'
check_fails "of the wrong type" 'must evaluate to bool but got int' policy w '  validations: [{expression: "1 + 1"}]'
check_fails "authorizer in a message" 'spec.validations.0..messageExpression.*undeclared reference to .authorizer' policy w '  validations: [{expression: "true", messageExpression: "string(authorizer != null)"}]'
check_fails "params without paramKind" 'undeclared reference to .params' policy w '  validations: [{expression: "params.x"}]'
check_fails "an annotation's type" 'must evaluate to one of .string null_type. but got int' policy w '  auditAnnotations: [{key: k, valueExpression: "1"}]'

# deletions, connections, custom resources
policy p '  matchConstraints: {resourceRules: [{apiGroups: ["*"], apiVersions: ["*"], operations: [DELETE, CONNECT], resources: ["configmaps", "pods/exec"]}]}' \
  '  validations: [{expression: "request.operation != \"CONNECT\" || object.command[0] != \"sh\"", message: "no shells"}, {expression: "oldObject == null || !has(oldObject.data)", message: "has data"}]' >/dev/null
bind p p >/dev/null
check_fails "a deletion" 'has data' kubectl -n policed delete configmap right
check "a deletion that may be" kubectl -n policed delete configmap none
check_fails "a connection" 'no shells' kubectl create --raw '/api/v1/namespaces/policed/pods/x/exec?command=sh' -f /dev/null
unpolice
cat <<'END' | kubectl apply -f - >/dev/null
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.hooks.lab}
spec:
  group: hooks.lab
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, list: {type: array, items: {type: string}}}}}}}}]
END
until_ok 60 kubectl get things
policy p '  matchConstraints: {resourceRules: [{apiGroups: [hooks.lab], apiVersions: ["*"], operations: ["*"], resources: [things]}]}' '  validations: [{expression: "request.operation == \"DELETE\" || object.spec.size < 10", messageExpression: "\"too big: \" + string(object.spec.size)"}]' >/dev/null
bind p p >/dev/null
check_fails "a custom resource" 'too big: 11' sh -c 'printf "apiVersion: hooks.lab/v1\nkind: Thing\nmetadata: {name: t, namespace: policed}\nspec: {size: 11}\n" | kubectl create -f -'
unpolice

# mutating
mutating() { # NAME REINVOCATION MUTATION-YAML...
  local name=$1 again=$2; shift 2
  {
    cat <<END
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: $name}
spec: {policyName: $name, matchResources: {namespaceSelector: {matchLabels: {policed: "yes"}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: $name}
spec:
  reinvocationPolicy: $again
END
    [[ "$*" == *matchConstraints:* ]] || echo '  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}'
    printf '%s\n' "$@"
  } | kubectl apply -f -
}
mutating m Never '  mutations:' '  - patchType: ApplyConfiguration' '    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {\"made-by\": \"policy\"}}, data: {\"name\": object.metadata.name}}"}' >/dev/null
cm m1 --from-literal=a=b >/dev/null
check_out "an apply configuration" '^policy m1 b$' kubectl -n policed get configmap m1 -o 'jsonpath={.metadata.labels.made-by} {.data.name} {.data.a}'
mutating m Never '  mutations:' '  - patchType: JSONPatch' '    jsonPatch: {expression: "[JSONPatch{op: \"add\", path: \"/metadata/annotations\", value: {}}, JSONPatch{op: \"add\", path: \"/metadata/annotations/\" + jsonpatch.escapeKey(\"a/b\"), value: \"c\"}]"}' >/dev/null
cm m2 >/dev/null
check_out "a JSON patch" '^\{"a/b":"c"\}$' kubectl -n policed get configmap m2 -o 'jsonpath={.metadata.annotations}'
mutating m Never '  mutations:' '  - patchType: JSONPatch' '    jsonPatch: {expression: "[JSONPatch{op: \"test\", path: \"/metadata/name\", value: \"other\"}, JSONPatch{op: \"add\", path: \"/metadata/labels\", value: {\"x\": \"y\"}}]"}' >/dev/null
cm m3 >/dev/null
check_out "a test that fails" '^null$' sh -c 'kubectl -n policed get configmap m3 -o json | jq -c .metadata.labels'
mutating m Never '  mutations:' '  - patchType: JSONPatch' '    jsonPatch: {expression: "[JSONPatch{op: \"remove\", path: \"/no/such/path\"}]"}' >/dev/null
check_fails "a patch that does not apply" "policy 'm' with binding 'm' denied request: JSON Patch:" cm m4
mutating m Never '  mutations:' '  - {patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{spec: Object.spec{list: [\"a\"]}}"}}' \
  '  matchConstraints: {resourceRules: [{apiGroups: [hooks.lab], apiVersions: ["*"], operations: ["*"], resources: [things]}]}' >/dev/null 2>&1
check_fails "operations that cannot be mutated" 'Unsupported value: "DELETE"' mutating w Never '  mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[]"}}]' '  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [DELETE], resources: [configmaps]}]}'
check_fails "atomic lists" 'may not mutate atomic arrays, maps or structs: .spec.list' sh -c 'printf "apiVersion: hooks.lab/v1\nkind: Thing\nmetadata: {name: t, namespace: policed}\nspec: {size: 1}\n" | kubectl create -f -'
unpolice
mutating a IfNeeded '  mutations:' '  - {patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {\"rounds\": has(object.metadata.labels) && \"rounds\" in object.metadata.labels ? object.metadata.labels.rounds + \"I\" : \"I\"}}}"}}' >/dev/null
mutating b Never '  mutations:' '  - {patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {\"b\": \"was-here\"}}}"}}' >/dev/null
cm m5 >/dev/null
check_out "reinvocation" '^II was-here$' kubectl -n policed get configmap m5 -o 'jsonpath={.metadata.labels.rounds} {.metadata.labels.b}'
check_fails "a mutation of the wrong type" 'must evaluate to Object but got string' mutating w Never '  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "\"x\""}}]'
unpolice
kubectl delete crd things.hooks.lab >/dev/null
