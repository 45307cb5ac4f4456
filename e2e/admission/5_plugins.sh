# Built-in admission plugins: pod security, node restriction, certificate signers, topology labels.
pod() { # NAME SPEC
  printf '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s","namespace":"secure"},"spec":%s}' "$1" "$2" | kubectl create -f - "${@:3}"
}
PLAIN='{"containers":[{"name":"c","image":"i"}]}'
kubectl create namespace secure >/dev/null
api POST /api/v1/namespaces/secure/serviceaccounts '{"metadata":{"name":"default"}}' >/dev/null
kubectl label namespace secure pod-security.kubernetes.io/enforce=restricted >/dev/null
check_fails "restricted, in detail" 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false \(container "c" must set securityContext.allowPrivilegeEscalation=false\), unrestricted capabilities \(container "c" must set securityContext.capabilities.drop=\["ALL"\]\), runAsNonRoot != true \(pod or container "c" must set securityContext.runAsNonRoot=true\), seccompProfile \(pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"\)' pod a "$PLAIN"
check_out "workloads are warned about" 'Warning: would violate PodSecurity "restricted:latest": allowPrivilegeEscalation' sh -c 'kubectl -n secure create deployment d --image=i 2>&1'
check "a restricted pod" pod b '{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},"containers":[{"name":"c","image":"i","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}'
kubectl label namespace secure --overwrite pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/enforce-version=v1.7 >/dev/null
check_fails "an older version" 'violates PodSecurity "restricted:v1.7": runAsNonRoot != true' pod a "$PLAIN"
kubectl label namespace secure --overwrite pod-security.kubernetes.io/enforce=privileged pod-security.kubernetes.io/enforce-version- >/dev/null
check "privileged" pod host1 '{"hostPID":true,"containers":[{"name":"c","image":"i"}]}'
check "privileged again" pod host2 '{"hostPID":true,"containers":[{"name":"c","image":"i"}]}'
check_out "a stricter level warns of pods" 'Warning: host1 \(and 1 other pod\): host namespaces' sh -c 'kubectl label namespace secure --overwrite pod-security.kubernetes.io/enforce=baseline 2>&1'
check_fails "a wrong level" 'metadata.labels\[pod-security.kubernetes.io/warn\]: Invalid value: "loose": must be one of privileged, baseline, restricted' kubectl label namespace secure pod-security.kubernetes.io/warn=loose

kubectl create clusterrole all --verb='*' --resource='*.*' >/dev/null
kubectl create clusterrolebinding node-all --clusterrole=all --group=system:nodes >/dev/null
AS=(--as=system:node:n1 --as-group=system:nodes)
for n in n1 n2; do api POST /api/v1/nodes "{\"metadata\":{\"name\":\"$n\",\"labels\":{\"topology.kubernetes.io/zone\":\"z-$n\"}}}" >/dev/null; done
check_fails "another node" 'node "n1" is not allowed to modify node "n2"' kubectl label node n2 a=b "${AS[@]}"
check_fails "a restricted label" 'is not allowed to modify labels: node-restriction.kubernetes.io/x' kubectl label node n1 node-restriction.kubernetes.io/x=y "${AS[@]}"
check_fails "labels of the system" 'is not allowed to modify labels: node-role.kubernetes.io/master' kubectl label node n1 node-role.kubernetes.io/master= "${AS[@]}"
check "a kubelet's label" kubectl label node n1 node.kubernetes.io/x=y "${AS[@]}"
check_fails "a plain pod" 'node "n1" can only create mirror pods' pod p "$PLAIN" "${AS[@]}"
check_fails "a token for nobody" 'node requested token not bound to a pod' kubectl -n secure create token default "${AS[@]}"
check_out "a binding takes the zone along" '^z-n2$' sh -c "echo '{\"metadata\":{\"name\":\"b\"},\"target\":{\"kind\":\"Node\",\"name\":\"n2\"}}' | kubectl create --raw /api/v1/namespaces/secure/pods/b/binding -f - >/dev/null && kubectl -n secure get pod b -o 'jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}'"
check_fails "a token for a pod elsewhere" 'scheduled on a different node' kubectl -n secure create token default --bound-object-kind=Pod --bound-object-name=b --bound-object-uid="$(kubectl -n secure get pod b -o 'jsonpath={.metadata.uid}')" "${AS[@]}"

openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=system:masters/CN=eve -keyout /dev/null -out "$WORK/eve.csr" 2>/dev/null
csr() { # NAME SIGNER
  printf '{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"%s"},"spec":{"request":"%s","signerName":"%s","usages":["client auth"]}}' \
    "$1" "$(base64 -w0 <"$WORK/eve.csr")" "$2" | kubectl create -f -
}
check_fails "nobody signs for system:masters" 'use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed' csr eve kubernetes.io/kube-apiserver-client
check "another signer" csr eve lab.example/own
kubectl create clusterrole csrs --verb='*' --resource=certificatesigningrequests,certificatesigningrequests/approval >/dev/null
kubectl create clusterrolebinding csrs --clusterrole=csrs --user=ann >/dev/null
check_fails "approval needs the signer" 'user not permitted to approve requests with signerName "lab.example/own"' kubectl certificate approve eve --as=ann
printf 'apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: csrs2}\nrules: [{apiGroups: [certificates.k8s.io], resources: [signers], resourceNames: ["lab.example/*"], verbs: [approve]}]\n' | kubectl apply -f - >/dev/null
kubectl create clusterrolebinding csrs2 --clusterrole=csrs2 --user=ann >/dev/null
check "with the signer's domain" kubectl certificate approve eve --as=ann
