# Conversion webhooks of CustomResourceDefinitions.

# crd PATH STORAGE-VERSION
crd() {
  cat <<END
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hostports.hooks.lab}
spec:
  group: hooks.lab
  scope: Namespaced
  names: {plural: hostports, singular: hostport, kind: HostPort, shortNames: [hp]}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {url: "https://127.0.0.1:$HOOKS$1", caBundle: "$CA"}
  versions:
  - name: v1
    served: true
    storage: $([ "$2" = v1 ] && echo true || echo false)
    selectableFields: [{jsonPath: .spec.host}]
    additionalPrinterColumns: [{name: Host, type: string, jsonPath: .spec.host}]
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {host: {type: string}, port: {type: string}, proto: {type: string, default: tcp}}
          status: {type: object, properties: {ok: {type: boolean}}}
  - name: v2
    served: true
    storage: $([ "$2" = v2 ] && echo true || echo false)
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {hostPort: {type: string}}}
          status: {type: object, properties: {ok: {type: boolean}}}
END
}
hp() { # NAME HOST PORT, as v1
  printf 'apiVersion: hooks.lab/v1\nkind: HostPort\nmetadata: {name: %s}\nspec: {host: %s, port: "%s"}\n' "$@"
}
v1() { kubectl get hostports.v1.hooks.lab "$@"; }
v2() { kubectl get hostports.v2.hooks.lab "$@"; }
calls() { grep -c '"path": "/convert' "$LOG" 2>/dev/null; }

crd /convert v1 | kubectl apply -f - >/dev/null
check "the definition is established" kubectl wait --for=condition=Established crd/hostports.hooks.lab --timeout=120s
until_ok 60 kubectl get hostports.v2.hooks.lab
for i in 1 2 3; do hp "a$i" "h$i" "8$i" | kubectl apply -f - >/dev/null; done
check_out "the version it was written in" '^h1 81 tcp hooks.lab/v1$' v1 a1 -o 'jsonpath={.spec.host} {.spec.port} {.spec.proto} {.apiVersion}{"\n"}'
check_out "another version is converted" '^h1:81 hooks.lab/v2$' v2 a1 -o 'jsonpath={.spec.hostPort} {.apiVersion}{"\n"}'
check_out "labels may change" '^v2 1$' v2 a1 -o 'jsonpath={.metadata.labels.converted-to} {.metadata.generation}{"\n"}'
: >"$LOG"
hp a4 h4 84 | kubectl apply -f - >/dev/null
hp a5 h5 85 | kubectl apply -f - >/dev/null
: >"$LOG"
check_out "a list is converted" 'h1:81 h2:82 h3:83 h4:84 h5:85' v2 -o 'jsonpath={.items[*].spec.hostPort}'
check_out "in one review" '^1 [2-5]$' python3 -c "
import json
r = [json.loads(l) for l in open('$LOG')]
print(len(r), len(r[0]['review']['request']['objects']))"
: >"$LOG"
v2 >/dev/null
check_out "and is converted once only" '^0$' echo "$(calls)"
check_out "printed columns" 'a1 +h1' v1
check_out "a field selector sees the client's version" '^a3$' v1 --field-selector spec.host=h3 -o 'jsonpath={.items[*].metadata.name}'

cat >"$WORK/hp2.yaml" <<'END'
apiVersion: hooks.lab/v2
kind: HostPort
metadata: {name: b1}
spec: {hostPort: "x:1"}
END
check "created in the other version" kubectl create -f "$WORK/hp2.yaml"
check_out "stored in the storage version" '^x 1$' v1 b1 -o 'jsonpath={.spec.host} {.spec.port}{"\n"}'
check "patched in the other version" kubectl patch hostports.v2.hooks.lab b1 --type=merge -p '{"spec":{"hostPort":"y:2"}}'
check_out "the patch is stored" '^y 2$' v1 b1 -o 'jsonpath={.spec.host} {.spec.port}{"\n"}'
sed -i 's/x:1/z:3/' "$WORK/hp2.yaml"
check "applied in the other version" kubectl apply --server-side --force-conflicts -f "$WORK/hp2.yaml"
check_out "what was applied is stored" '^z 3$' v1 b1 -o 'jsonpath={.spec.host} {.spec.port}{"\n"}'
check "status in the other version" kubectl patch hostports.v2.hooks.lab b1 --subresource=status --type=merge -p '{"status":{"ok":true}}'
check_out "status is stored" '^true z$' v1 b1 -o 'jsonpath={.status.ok} {.spec.host}{"\n"}'

kubectl get hostports.v2.hooks.lab --watch -o 'jsonpath={.metadata.name}={.spec.hostPort}{"\n"}' >"$WORK/watch" 2>&1 &
WATCH=$!
until_ok $SOON grep -q '^a5=h5:85$' "$WORK/watch"
kubectl patch hostports.v1.hooks.lab a1 --type=merge -p '{"spec":{"port":"99"}}' >/dev/null
kubectl delete hostports.v1.hooks.lab a2 >/dev/null
until_ok $SOON grep -q '^a1=h1:99$' "$WORK/watch"
kill $WATCH; wait $WATCH 2>/dev/null
check_out "a watch begins with converted objects" '^a5=h5:85$' cat "$WORK/watch"
check_out "and converts what changes" '^a1=h1:99$' cat "$WORK/watch"

crd /convert v2 | kubectl apply -f - >/dev/null
soon "storedVersions keeps both" '^\["v1","v2"\]$' kubectl get crd hostports.hooks.lab -o 'jsonpath={.status.storedVersions}'
check_out "objects of the old storage version" '^h3:83$' v2 a3 -o 'jsonpath={.spec.hostPort}'
check "a write stores them anew" kubectl annotate hostports.v2.hooks.lab a3 touched=yes
check_out "and the old version shows them still" '^h3 83 yes$' v1 a3 -o 'jsonpath={.spec.host} {.spec.port} {.metadata.annotations.touched}'
stop_server
start_server
check_out "after a restart: what is in the old version" '^h4:84$' v2 a4 -o 'jsonpath={.spec.hostPort}'
check_out "after a restart: what is in the new version" '^h3$' v1 a3 -o 'jsonpath={.spec.host}'

crd /convert-fail v2 | kubectl apply -f - >/dev/null
soon_fails "a refusal is an error" 'conversion webhook for hooks.lab/v1, Kind=HostPort failed: not today' v2 a4
check_fails "in a list too" 'conversion webhook for hooks.lab/v1, Kind=HostPort failed: not today' v2
crd /convert-rename v2 | kubectl apply -f - >/dev/null
soon_fails "the name may not change" 'returned invalid object.*must have the same name: a4 != other' v2 a4
crd /convert-few v2 | kubectl apply -f - >/dev/null
soon_fails "objects may not get lost" 'returned 0 objects, expected 1' v2 a4
crd /convert v2 | kubectl apply -f - >/dev/null
until_ok $SOON v2 a4
check "instances go" kubectl delete hp --all
check "and the definition" kubectl delete crd hostports.hooks.lab
