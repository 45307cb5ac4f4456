#!/usr/bin/env python3
"""Controllers of a lone API server, without nodes: what becomes of objects that change hands or go away."""
import os, subprocess
from lone import BUILD, Lone, check, finish, until

MERGE = {"Content-Type": "application/merge-patch+json"}
TRACKED = "batch.kubernetes.io/job-tracking"

def job(name, ns, **spec):
    return f"/apis/batch/v1/namespaces/{ns}/jobs", {"metadata": {"name": name}, "spec": {**spec, "template": {"metadata": {"labels": {"j": name}}, "spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}

def test_released_pod(api):
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "jobs"}})
    pods = "/api/v1/namespaces/jobs/pods"
    items = lambda: api.call("GET", pods).json.get("items", [])
    until(60, lambda: api.call("GET", "/api/v1/namespaces/jobs/serviceaccounts/default").status == 200)
    api.call("POST", *job("a", "jobs", parallelism=1))
    check("a Job makes a pod that is tracked", until(60, lambda: [p for p in items() if TRACKED in p["metadata"].get("finalizers", [])]), items())
    first = items()[0]["metadata"]
    api.call("PATCH", f"{pods}/{first['name']}", {"metadata": {"labels": None}}, headers=MERGE)
    mine = lambda: api.call("GET", f"{pods}/{first['name']}").json["metadata"]
    check("without its labels it is released", until(60, lambda: not mine().get("ownerReferences")), mine())
    check("and held no longer", until(60, lambda: TRACKED not in mine().get("finalizers", [])), mine())
    check("another takes its place", until(60, lambda: len(items()) == 2), items())
    api.call("DELETE", "/api/v1/namespaces/jobs")
    check("the namespace can go", until(60, lambda: api.call("GET", "/api/v1/namespaces/jobs").status == 404), api.call("GET", "/api/v1/namespaces/jobs").text)

def test_replacement(api):
    pods = "/api/v1/namespaces/default/pods"
    until(60, lambda: api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").status == 200)
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "n"}}) # pods of nodes that are not there would be collected
    path, body = job("r", "default", podReplacementPolicy="Failed", backoffLimit=3)
    api.call("POST", path, body)
    mine = lambda: [p["metadata"]["name"] for p in api.call("GET", pods + "?labelSelector=j%3Dr").json["items"]]
    until(60, mine)
    first = mine()[0]
    api.call("POST", f"{pods}/{first}/binding", {"target": {"kind": "Node", "name": "n"}})
    api.call("PATCH", f"{pods}/{first}/status", {"status": {"phase": "Running"}}, headers=MERGE)
    api.call("DELETE", f"{pods}/{first}")
    counts = lambda: {k: v for k, v in api.call("GET", path + "/r").json["status"].items() if k in ("active", "failed", "terminating") and v}
    check("a Job's pod that ends is terminating, not active", until(60, lambda: counts() == {"terminating": 1}), counts())
    check("and not replaced before its end", mine() == [first], mine())
    api.call("PATCH", f"{pods}/{first}/status", {"status": {"phase": "Failed"}}, headers=MERGE)
    check("then it has failed, and another is active", until(60, lambda: counts() == {"active": 1, "failed": 1} or counts() == {"active": 1, "failed": 1, "terminating": 1}), counts())
    api.call("DELETE", path + "/r?propagationPolicy=Background")
    for p in mine(): api.call("DELETE", f"{pods}/{p}?gracePeriodSeconds=0")

def test_resize_limits(api):
    ns = "/api/v1/namespaces/default"
    api.call("POST", ns + "/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "500m"}, "min": {"cpu": "50m"}}]}})
    api.call("POST", ns + "/pods", {"metadata": {"name": "sized"}, "spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}}]}})
    resize = lambda cpu: api.call("PATCH", ns + "/pods/sized/resize", {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]}}, headers={"Content-Type": "application/strategic-merge-patch+json"})
    check("a pod is resized within the namespace's limits", until(60, lambda: resize("300m").status == 200), resize("300m").text)
    r = resize("600m")
    check("and not beyond them", r.status == 403 and "maximum cpu usage per Container is 500m, but limit is 600m" in r.text, r.text)
    api.call("DELETE", ns + "/limitranges/l")
    api.call("POST", ns + "/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"limits.cpu": "400m"}}})
    until(60, lambda: api.call("GET", ns + "/resourcequotas/q").json.get("status", {}).get("used"))
    r = resize("500m")
    check("nor beyond its quota", r.status == 403 and "exceeded quota: q" in r.text, r.text)
    check("up to which it may grow", until(60, lambda: resize("400m").status == 200), resize("400m").text)
    api.call("DELETE", ns + "/resourcequotas/q")
    api.call("DELETE", ns + "/pods/sized?gracePeriodSeconds=0")

def test_namespace_order(api):
    ns = "/api/v1/namespaces/ordered"
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "ordered"}})
    until(60, lambda: api.call("GET", ns + "/serviceaccounts/default").status == 200)
    api.call("POST", ns + "/configmaps", {"metadata": {"name": "kept"}})
    api.call("POST", ns + "/pods", {"metadata": {"name": "p", "finalizers": ["e2e/held"]}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
    api.call("DELETE", ns)
    left = lambda: {c["type"]: c["status"] for c in api.call("GET", ns).json.get("status", {}).get("conditions", [])}
    check("a namespace says that a pod is left", until(60, lambda: left().get("NamespaceContentRemaining") == "True"), left())
    check("whose finalizer it is", until(60, lambda: "e2e/held" in api.call("GET", ns).text))
    check("nothing else goes before it", api.call("GET", ns + "/configmaps/kept").status == 200)
    api.call("PATCH", ns + "/pods/p", {"metadata": {"finalizers": None}}, headers=MERGE)
    check("then everything does", until(60, lambda: api.call("GET", ns).status == 404), api.call("GET", ns).text)

def test_storage(api):
    classes, claims = "/apis/storage.k8s.io/v1/volumeattributesclasses", "/api/v1/namespaces/default/persistentvolumeclaims"
    api.call("POST", classes, {"metadata": {"name": "gold"}, "driverName": "d.example.com", "parameters": {"a": "b"}})
    r = api.call("POST", claims, {"metadata": {"name": "k"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "gold", "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}})
    check("a claim names a volume attributes class", r.status == 201, r.text)
    api.call("DELETE", classes + "/gold")
    check("which stays as long as it does", not until(2, lambda: api.call("GET", classes + "/gold").status == 404))
    api.call("DELETE", claims + "/k")
    check("and goes after it", until(60, lambda: api.call("GET", classes + "/gold").status == 404), api.call("GET", classes + "/gold").text)
    attachments = "/apis/storage.k8s.io/v1/volumeattachments"
    api.call("POST", attachments, {"metadata": {"name": "mine"}, "spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}})
    check("an attachment that somebody made by hand is left alone", not until(2, lambda: api.call("GET", attachments + "/mine").status == 404))

def test_eviction(api):
    pods = "/api/v1/namespaces/default/pods"
    until(60, lambda: api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").status == 200)
    api.call("POST", pods, {"metadata": {"name": "e", "labels": {"b": "1"}, "finalizers": ["e2e/held"]}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
    api.call("PATCH", pods + "/e/status", {"status": {"phase": "Running"}}, headers=MERGE)
    r = api.call("POST", pods + "/e/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "e"}, "deleteOptions": {"preconditions": {"resourceVersion": "1"}}})
    check("an eviction's preconditions hold or it is refused", r.status == 409 and not api.call("GET", pods + "/e").json["status"].get("conditions"), r.text)
    rv = api.call("GET", pods + "/e").json["metadata"]["resourceVersion"]
    r = api.call("POST", pods + "/e/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "e"}, "deleteOptions": {"preconditions": {"resourceVersion": rv}}})
    p = api.call("GET", pods + "/e").json
    check("a pod that is evicted is told from one that failed", r.status == 201 and p["metadata"].get("deletionTimestamp") and
          [c["reason"] for c in p["status"]["conditions"] if c["type"] == "DisruptionTarget" and c["status"] == "True"] == ["EvictionByEvictionAPI"], p["status"])
    api.call("PATCH", pods + "/e", {"metadata": {"finalizers": None}}, headers=MERGE)

def test_stateful_set(api):
    ns = "/api/v1/namespaces/sets"
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "sets"}})
    until(60, lambda: api.call("GET", ns + "/serviceaccounts/default").status == 200)
    sets = "/apis/apps/v1/namespaces/sets/statefulsets"
    r = api.call("POST", sets, {"metadata": {"name": "s"}, "spec": {
        "replicas": 2, "serviceName": "s", "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"a": "s"}}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "template": {"metadata": {"labels": {"a": "s"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}]}})
    meta = lambda what, name: api.call("GET", f"{ns}/{what}/{name}").json.get("metadata", {})
    owners = lambda what, name: [(o["kind"], o["name"], o.get("controller")) for o in meta(what, name).get("ownerReferences", [])]
    check("a StatefulSet makes its pods", r.status == 201 and until(60, lambda: meta("pods", "s-1").get("uid")), r.text)
    mine = ("StatefulSet", "s", True)
    check("and their claims, which are its own", until(60, lambda: owners("persistentvolumeclaims", "d-s-1") == [mine]), owners("persistentvolumeclaims", "d-s-1"))
    api.call("PATCH", ns + "/pods/s-0", {"metadata": {"ownerReferences": None}}, headers=MERGE)
    check("a pod that lost its owner is adopted again", until(60, lambda: owners("pods", "s-0") == [mine]), owners("pods", "s-0"))
    api.call("PATCH", ns + "/pods/s-0", {"metadata": {"labels": {"a": "other"}}}, headers=MERGE)
    check("one that is no longer selected is released", until(60, lambda: owners("pods", "s-0") == []), owners("pods", "s-0"))
    api.call("PATCH", ns + "/pods/s-0", {"metadata": {"labels": {"a": "s"}}}, headers=MERGE)
    check("and taken back when it is", until(60, lambda: owners("pods", "s-0") == [mine]), owners("pods", "s-0"))
    first = meta("persistentvolumeclaims", "d-s-0").get("uid")
    api.call("DELETE", ns + "/persistentvolumeclaims/d-s-0")
    check("a pod that waits gets a lost claim back", until(60, lambda: meta("persistentvolumeclaims", "d-s-0").get("uid") not in (None, first)), meta("persistentvolumeclaims", "d-s-0"))
    for n in (0, 1):
        api.call("PATCH", f"{ns}/pods/s-{n}", {"metadata": {"finalizers": ["e2e/held"]}}, headers=MERGE)
        api.call("PATCH", f"{ns}/pods/s-{n}/status", {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}, headers=MERGE)
    api.call("PATCH", sets + "/s", {"spec": {"replicas": 1}}, headers=MERGE)
    check("of what is scaled away the pod owns the claim", until(60, lambda: owners("persistentvolumeclaims", "d-s-1") == [("Pod", "s-1", True)]), owners("persistentvolumeclaims", "d-s-1"))
    for n in (0, 1): api.call("PATCH", f"{ns}/pods/s-{n}", {"metadata": {"finalizers": None}}, headers=MERGE)
    api.call("DELETE", ns)

def test_quotas(api):
    ns = "/api/v1/namespaces/quotas"
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "quotas"}})
    until(60, lambda: api.call("GET", ns + "/serviceaccounts/default").status == 200)
    api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {"metadata": {"name": "gadgets.e2e.example"}, "spec": {
        "group": "e2e.example", "scope": "Namespaced", "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    gadgets = "/apis/e2e.example/v1/namespaces/quotas/gadgets"
    until(60, lambda: api.call("GET", gadgets).status == 200)
    scope = lambda name, op, values: {"scopeSelector": {"matchExpressions": [{"scopeName": name, "operator": op, **({"values": values} if values else {})}]}}
    make = lambda name, hard, more={}: api.call("POST", ns + "/resourcequotas", {"metadata": {"name": name}, "spec": {"hard": hard, **more}})
    used = lambda name: api.call("GET", f"{ns}/resourcequotas/{name}").json.get("status", {}).get("used", {})
    gold = "gold.storageclass.storage.k8s.io/persistentvolumeclaims"
    for r in (make("plain", {"count/gadgets.e2e.example": "1", "count/resourceclaims.resource.k8s.io": "5", "big.deviceclass.resource.k8s.io/devices": "3", gold: "1"}),
              make("fast", {"persistentvolumeclaims": "1"}, scope("VolumeAttributesClass", "In", ["fast"])), make("far", {"pods": "0"}, scope("CrossNamespacePodAffinity", "Exists", None))):
        check("a quota is made", r.status == 201, r.text)
    check("its use is counted", until(60, lambda: set(used("plain").values()) == {"0"} and len(used("plain")) == 4 and used("fast") and used("far")), used("plain"))
    gadget = lambda name: api.call("POST", gadgets, {"apiVersion": "e2e.example/v1", "kind": "Gadget", "metadata": {"name": name}})
    claim = lambda name, **spec: api.call("POST", ns + "/persistentvolumeclaims", {"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}, **spec}})
    devices = lambda name, n: api.call("POST", "/apis/resource.k8s.io/v1/namespaces/quotas/resourceclaims", {"metadata": {"name": name}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "big", "count": n}}]}}})
    pod = lambda name, **term: api.call("POST", ns + "/pods", {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}], "affinity": {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "labelSelector": {}, **term}]}}}})
    refused = lambda r: r.status == 403 and "exceeded quota" in r.text
    for what, first, second in (("custom resources", lambda: gadget("a"), lambda: gadget("b")), ("devices of a class", lambda: devices("a", 2), lambda: devices("b", 2)),
                                ("claims of a storage class", lambda: claim("a", storageClassName="gold"), lambda: claim("b", storageClassName="gold")),
                                ("claims of a volume attributes class", lambda: claim("c", volumeAttributesClassName="fast"), lambda: claim("d", volumeAttributesClassName="fast")),
                                ("pods with affinity across namespaces", lambda: pod("a"), lambda: pod("b", namespaces=["default"]))):
        r = first()
        check(f"{what} may be made", r.status == 201, r.text)
        r = second()
        check("up to the quota", refused(r), r.text)
    want = {"count/gadgets.e2e.example": "1", "count/resourceclaims.resource.k8s.io": "1", "big.deviceclass.resource.k8s.io/devices": "2", gold: "1"}
    check("the quota shows it all", until(60, lambda: used("plain") == want and used("fast") == {"persistentvolumeclaims": "1"}), (used("plain"), used("fast")))
    api.call("DELETE", gadgets + "/a")
    check("and what is gone again", until(60, lambda: used("plain").get("count/gadgets.e2e.example") == "0"), used("plain"))
    api.call("DELETE", ns)

def test_service_cidr(api):
    cidrs, services = "/apis/networking.k8s.io/v1/servicecidrs", "/api/v1/namespaces/default/services"
    ready = lambda n: [c["status"] for c in api.call("GET", f"{cidrs}/{n}").json.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
    service = lambda n, ip: api.call("POST", services, {"metadata": {"name": n}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
    check("the default range of Services is ready", until(60, lambda: ready("kubernetes") == ["True"]), ready("kubernetes"))
    r = service("far", "203.0.113.10")
    check("an address of no range is refused", r.status == 422 and "not in the valid range" in r.text, r.text)
    api.call("POST", cidrs, {"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}})
    check("another range becomes ready", until(60, lambda: ready("more") == ["True"]), ready("more"))
    check("and gives addresses", until(60, lambda: service("far", "203.0.113.10").status in (201, 409)), service("far", "203.0.113.10").text)
    api.call("DELETE", cidrs + "/more")
    check("it stays while one is in use", until(60, lambda: ready("more") == ["False"]), api.call("GET", cidrs + "/more").text)
    check("but gives no more", service("further", "203.0.113.11").status == 422)
    api.call("DELETE", services + "/far")
    check("and goes when none is", until(60, lambda: api.call("GET", cidrs + "/more").status == 404), api.call("GET", cidrs + "/more").text)

def test_hints(api):
    """Endpoints are hinted for their zones and nodes as the Service asks for it."""
    ns = "/api/v1/namespaces/default"
    for n in "ab":
        api.call("POST", "/api/v1/nodes", {"metadata": {"name": "zone-" + n, "labels": {"topology.kubernetes.io/zone": n}}})
        api.call("PATCH", f"/api/v1/nodes/zone-{n}/status", {"status": {"allocatable": {"cpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]}}, headers=MERGE)
        api.call("POST", ns + "/pods", {"metadata": {"name": "hint-" + n, "labels": {"h": "1"}}, "spec": {"nodeName": "zone-" + n, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "x"}]}})
        api.call("PATCH", f"{ns}/pods/hint-{n}/status", {"status": {"phase": "Running", "podIP": "10.9.0." + str(ord(n)), "podIPs": [{"ip": "10.9.0." + str(ord(n))}],
                                                                     "conditions": [{"type": "Ready", "status": "True"}]}}, headers=MERGE)
    def hints():
        eps = [e for s in api.call("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dnear").json["items"] for e in s["endpoints"] or []]
        return {e["nodeName"]: (sorted(z["name"] for z in e.get("hints", {}).get("forZones", [])), sorted(z["name"] for z in e.get("hints", {}).get("forNodes", []))) for e in eps}
    want = lambda w: until(60, lambda: hints() == w)
    api.call("POST", ns + "/services", {"metadata": {"name": "near"}, "spec": {"selector": {"h": "1"}, "ports": [{"port": 80}]}})
    check("a Service that asks for nothing has no hints", want({"zone-a": ([], []), "zone-b": ([], [])}), hints())
    api.call("PATCH", ns + "/services/near", {"spec": {"trafficDistribution": "PreferSameZone"}}, headers=MERGE)
    check("PreferSameZone hints zones", want({"zone-a": (["a"], []), "zone-b": (["b"], [])}), hints())
    api.call("PATCH", ns + "/services/near", {"spec": {"trafficDistribution": "PreferSameNode"}}, headers=MERGE)
    check("PreferSameNode nodes too", want({"zone-a": (["a"], ["zone-a"]), "zone-b": (["b"], ["zone-b"])}), hints())
    api.call("PATCH", ns + "/services/near", {"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}, "spec": {"trafficDistribution": None}}, headers=MERGE)
    check("topology-mode shares them out among the zones", want({"zone-a": (["a"], []), "zone-b": (["b"], [])}), hints())
    api.call("PATCH", ns + "/pods/hint-b/status", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, headers=MERGE)
    check("while there are enough of them", want({"zone-a": ([], []), "zone-b": ([], [])}), hints())

def main():
    api, controllers = Lone(), None
    try:
        controllers = subprocess.Popen([BUILD + "/controllers/coracle-controllers", "--kubeconfig", api.kubeconfig(), "--leader-elect=false", "--root-ca-file", api.path("ca.crt")],
                                       stdout=open(api.dir + "/controllers.log", "w"), stderr=subprocess.STDOUT)
        test_released_pod(api)
        test_replacement(api)
        test_resize_limits(api)
        test_namespace_order(api)
        test_storage(api)
        test_eviction(api)
        test_stateful_set(api)
        test_quotas(api)
        test_service_cidr(api)
        test_hints(api)
        check("the controllers still run", controllers.poll() is None)
    finally:
        if controllers:
            controllers.terminate()
            controllers.wait(20)
            if os.environ.get("KEEP_LOG"): print(open(api.dir + "/controllers.log").read())
        api.close()
    finish()

main()
