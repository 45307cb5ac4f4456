#!/usr/bin/env python3
"""Controllers and scheduler beside a lone API server: type checking of admission policies."""
import os, subprocess
from lone import BUILD, Lone, check, finish, until

ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"

def policy(name, group, resources, *expressions, **more):
    rules = [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": resources}]
    return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": e} for e in expressions], **more}}

def checked(api, name, generation):
    """The status once the generation was looked at."""
    def look():
        s = api.call("GET", f"{ADMISSION}/{name}").json.get("status", {})
        return s if s.get("observedGeneration") == generation else None
    return until(60, look) or {}

def type_checking(api):
    api.call("POST", ADMISSION, policy("wrong", "apps", ["deployments", "replicasets"], "object.spec.replicas > 1", "object.replicas > 1"))
    s = checked(api, "wrong", 1)
    want = [{"fieldRef": "spec.validations[1].expression",
             "warning": "".join(f"{sep}apps/v1, Kind={k}: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n"
                                for sep, k in (("", "Deployment"), ("\n", "ReplicaSet")))}]
    check("a field that no kind has is a warning for each kind", s.get("typeChecking", {}).get("expressionWarnings") == want, s)
    api.call("PATCH", f"{ADMISSION}/wrong", [{"op": "remove", "path": "/spec/validations/1"}], {"Content-Type": "application/json-patch+json"})
    check("a new generation is checked anew", checked(api, "wrong", 2).get("typeChecking") == {}, s)
    managers = [m["manager"] for m in api.call("GET", f"{ADMISSION}/wrong").json["metadata"]["managedFields"] if m.get("subresource") == "status"]
    check("the status is the controller's", managers == ["validatingadmissionpolicy-status"], managers)

def custom_types(api):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}})
    until(60, lambda: "Widget" in api.call("GET", "/openapi/v3/apis/example.com/v1").text)
    api.call("POST", ADMISSION, policy("custom", "example.com", ["widgets"], "object.spec.size > 1 && object.metadata.labels.size() == 0",
                                       "object.spec.size == 'big'", "params.spec.size > 1 && params.spec.sise > 1",
                                       paramKind={"apiVersion": "example.com/v1", "kind": "Widget"}))
    w = checked(api, "custom", 1).get("typeChecking", {}).get("expressionWarnings", [])
    check("custom kinds and parameters are checked by their schemas",
          [x["fieldRef"] for x in w] == ["spec.validations[1].expression", "spec.validations[2].expression"], w)

def main():
    api = Lone()
    log = open(api.dir + "/controllers.log", "w")
    controllers = subprocess.Popen([BUILD + "/controllers/coracle-controllers", "--kubeconfig", api.kubeconfig(), "--leader-elect=false"], stdout=log, stderr=log)
    try:
        type_checking(api)
        custom_types(api)
    finally:
        controllers.terminate()
        controllers.wait(30)
        api.close()
    finish()

main()
