#!/usr/bin/env python3
"""Two API servers on one etcd: no address or port is given out twice, each sees the other's writes at once, roles and
custom resources follow, the Service "kubernetes" points at the servers that live, and a server that was cut off while
history was compacted goes on with what there is."""
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import BUILD, Checks, Servers

t = Checks()
NS = "/api/v1/namespaces/default"
IPS = "/apis/networking.k8s.io/v1/ipaddresses"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
APISERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1.two.example.com"


def service(name, kind="NodePort", **spec):
    return {"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}], **spec}}


def both(fn, n, threads=8):
    """fn(client, i) for i < n on several threads, by turns on either server."""
    local = threading.local()

    def one(i):
        if not hasattr(local, "clients"):
            local.clients = [s.client(0), s.client(1)]
        return fn(local.clients[i % 2], i)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(n)))


def allocation(a, b):
    made = both(lambda c, i: c.call("POST", NS + "/services", service(f"s{i}", "NodePort" if i % 4 < 2 else "ClusterIP")), 160)
    t.check("Services are made on both servers at once", all(code == 201 for code, _ in made), str([m for m in made if m[0] != 201][:1]))
    ips = [o["spec"]["clusterIP"] for code, o in made if code == 201]
    ports = [p["nodePort"] for code, o in made if code == 201 for p in o["spec"]["ports"] if "nodePort" in p]
    t.check("no cluster IP is given out twice", len(set(ips)) == len(ips) == 160)
    t.check("no node port is given out twice", len(set(ports)) == len(ports) == 80)
    kept = {o["metadata"]["name"] for o in b.call("GET", IPS)[1]["items"]}
    t.check("every cluster IP has its IPAddress", set(ips) <= kept)
    wins = both(lambda c, i: c.call("POST", NS + "/services", service(f"static{i}", clusterIP=f"10.96.1.{i // 2}",
                                    ports=[{"port": 80, "nodePort": 31000 + i // 2}])), 40)
    codes = [tuple(sorted((wins[i][0], wins[i + 1][0]))) for i in range(0, 40, 2)]
    t.check("of two that want the same address and port one gets it", all(c in ((201, 422), (422, 422)) for c in codes), str(codes))
    t.check("and usually one does", codes.count((201, 422)) > 10, str(codes))
    both(lambda c, i: c.call("DELETE", f"{NS}/services/s{i}"), 160)
    left = {o["metadata"]["name"] for o in a.call("GET", IPS)[1]["items"]}
    t.check("deleted Services give their addresses back", not left & set(ips), str(list(left & set(ips))[:3]))
    port = ports[0]
    code, o = b.call("POST", NS + "/services", service("again", ports=[{"port": 80, "nodePort": port}]))
    t.check("and their ports", code == 201, o.get("message", ""))
    code, o = a.call("PATCH", NS + "/services/again", {"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}}, "application/merge-patch+json")
    code, o = b.call("POST", NS + "/services", service("again2", ports=[{"port": 80, "nodePort": port}]))
    t.check("a Service that turns ClusterIP gives its port back", code == 201, o.get("message", ""))


def repair(a, b):
    old = {"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {
        "name": "10.96.9.9", "uid": "6f3f1d2c-0000-4000-8000-000000000001", "creationTimestamp": "2020-01-01T00:00:00Z",
        "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "nobody"}}}
    s.etcdctl("put", "/registry/ipaddresses/10.96.9.9", data=json.dumps(old))
    ip = a.call("GET", NS + "/services/again")[1]["spec"]["clusterIP"]
    a.call("DELETE", f"{IPS}/{ip}")
    s.kill(1, signal.SIGTERM)
    s.start(1)
    b.close()
    t.until("a leaked address is given back", 60, lambda: a.call("GET", IPS + "/10.96.9.9")[0] == 404)
    t.until("a Service gets its IPAddress back", 60, lambda: a.call("GET", f"{IPS}/{ip}")[0] == 200)


def fresh_reads(a, b):
    stale = 0
    a.call("POST", NS + "/configmaps", {"metadata": {"name": "fresh"}, "data": {"n": "-1"}})
    for i in range(200):
        w, r = (a, b) if i % 2 else (b, a)
        w.call("PATCH", NS + "/configmaps/fresh", {"data": {"n": str(i)}}, "application/merge-patch+json")
        if i % 3:
            seen = r.call("GET", NS + "/configmaps/fresh")[1]["data"]["n"]
        else:
            seen = [o["data"]["n"] for o in r.call("GET", NS + "/configmaps")[1]["items"] if o["metadata"]["name"] == "fresh"][0]
        stale += seen != str(i)
    t.check("a read on one server sees the write that the other has answered", stale == 0, f"{stale} of 200 were stale")
    version = a.call("GET", NS + "/configmaps/fresh")[1]["metadata"]["resourceVersion"]
    codes = both(lambda c, i: c.call("PUT", NS + "/configmaps/fresh", {"metadata": {"name": "fresh", "resourceVersion": version}, "data": {"w": str(i)}})[0], 16)
    t.check("of updates from one resourceVersion a single one gets through", sorted(codes) == [200] + [409] * 15, str(codes))


def roles(a, b):
    bob = s.client(1, headers={"Impersonate-User": "bob"})
    pods = NS + "/pods"
    t.check("bob may nothing", bob.call("GET", pods)[0] == 403)
    a.call("POST", RBAC + "/namespaces/default/roles", {"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]})
    a.call("POST", RBAC + "/namespaces/default/rolebindings", {"metadata": {"name": "bob"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
                                                              "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]})
    t.until("a role given on one server counts on the other", 60, lambda: bob.call("GET", pods)[0] == 200)
    a.call("DELETE", RBAC + "/namespaces/default/rolebindings/bob")
    t.until("and so does taking it away", 60, lambda: bob.call("GET", pods)[0] == 403)


def definitions(a, b):
    crd = {"metadata": {"name": "things.two.example.com"}, "spec": {
        "group": "two.example.com", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}}]}}
    things = "/apis/two.example.com/v1/namespaces/default/things"
    code, o = a.call("POST", CRDS, crd)
    t.check("a definition is made on one server", code == 201, o.get("message", ""))
    t.until("the other serves it", 60, lambda: b.call("GET", things)[0] == 200)
    t.until("its APIService is there", 60, lambda: a.call("GET", APISERVICE)[0] == 200)
    both(lambda c, i: c.call("POST", things, {"apiVersion": "two.example.com/v1", "kind": "Thing", "metadata": {"name": f"t{i}"}, "spec": {"n": i}}), 20)
    seen = [len(c.call("GET", things)[1]["items"]) for c in (a, b)]
    t.check("both show all its objects", seen == [20, 20], str(seen))
    code, o = b.call("POST", things, {"apiVersion": "two.example.com/v1", "kind": "Thing", "metadata": {"name": "bad"}, "spec": {"n": "x"}})
    t.check("both check them", code == 422, str(code))
    rv = [a.call("GET", f"{CRDS}/things.two.example.com")[1]["metadata"]["resourceVersion"] for _ in range(2) if not time.sleep(1)]
    t.check("the servers do not write its status in turns", rv[0] == rv[1])
    b.call("DELETE", f"{CRDS}/things.two.example.com")
    t.until("it goes with its objects", 60, lambda: a.call("GET", f"{CRDS}/things.two.example.com")[0] == 404)
    t.until("and is served by none", 60, lambda: a.call("GET", things)[0] == 404 and b.call("GET", things)[0] == 404)
    t.until("nor has it an APIService", 60, lambda: a.call("GET", APISERVICE)[0] == 404)


def addresses(c):
    subsets = c.call("GET", NS + "/endpoints/kubernetes")[1].get("subsets", [])
    return sorted(x["ip"] for sub in subsets for x in sub["addresses"])


def presence(a, b):
    t.until("the Service kubernetes points at both servers", 60, lambda: addresses(a) == ["192.0.2.1", "192.0.2.2"])
    leases = a.call("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?labelSelector=apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver")[1]["items"]
    t.check("each has its Lease", len(leases) == 2, str(len(leases)))
    s.kill(1, signal.SIGTERM)
    t.until("a server that stops takes itself out", 10, lambda: addresses(a) == ["192.0.2.1"])
    s.start(1)
    b.close()
    t.until("and comes back", 60, lambda: addresses(a) == ["192.0.2.1", "192.0.2.2"])
    s.kill(1)
    t.until("one that is killed is taken out by the other", 60, lambda: addresses(a) == ["192.0.2.1"])
    s.start(1)
    b.close()


def flood(ns, kind, n, body):
    """n creations from each of the two servers at once: the status codes."""
    codes, lock, gate = [], threading.Lock(), threading.Barrier(8)

    def run(server, k):
        c = s.client(server)
        gate.wait()
        for i in range(n // 4):
            code = c.call("POST", f"/api/v1/namespaces/{ns}/{kind}", body(f"x{server}-{k}-{i}"))[0]
            with lock:
                codes.append(code)
        c.close()
    threads = [threading.Thread(target=run, args=(server, k)) for server in (0, 1) for k in range(4)]
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    return codes


def quotas(a, b):
    """Two servers together let no more in than the quota has room for, and no less."""
    ns = "/api/v1/namespaces/limited"
    a.call("POST", "/api/v1/namespaces", {"metadata": {"name": "limited"}})
    a.call("POST", ns + "/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "10", "secrets": "7"}}})
    a.call("POST", ns + "/resourcequotas", {"metadata": {"name": "r"}, "spec": {"hard": {"count/configmaps": "12"}}})
    t.until("the other server knows the quota", 60, lambda: len(b.call("GET", ns + "/resourcequotas")[1]["items"]) == 2)
    for kind, room in (("configmaps", 10), ("secrets", 7)):
        codes = flood("limited", kind, 20, lambda name: {"metadata": {"name": name}})
        have = len(a.call("GET", f"{ns}/{kind}")[1]["items"])
        t.check(f"{room} {kind} of 40 fit", have == room and codes.count(201) == room and codes.count(403) == 40 - room, f"{have} stored, {sorted(codes)}")
    used = lambda name: b.call("GET", f"{ns}/resourcequotas/{name}/status")[1].get("status", {}).get("used", {})
    t.check("what is used is charged at once", used("q") == {"count/configmaps": "10", "secrets": "7"} and used("r") == {"count/configmaps": "10"}, f"{used('q')} {used('r')}")
    name = a.call("GET", f"{ns}/configmaps")[1]["items"][0]["metadata"]["name"]
    a.call("DELETE", f"{ns}/configmaps/{name}")
    t.check("a place that is free is given out, though nobody corrects the charge", b.call("POST", f"{ns}/configmaps", {"metadata": {"name": "late"}})[0] == 201)
    code, body = b.call("POST", f"{ns}/configmaps", {"metadata": {"name": "later"}})
    t.check("and once", code == 403 and "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=10, limited: count/configmaps=10" in body["message"], body)
    controllers = subprocess.Popen([BUILD + "/controllers/coracle-controllers", "--kubeconfig", s.data_dir() + "/admin.kubeconfig", "--leader-elect=false", "--secure-port", "0"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        a.call("DELETE", f"{ns}/configmaps/late")
        t.until("the controller corrects it", 60, lambda: used("q").get("count/configmaps") == "9" and used("r").get("count/configmaps") == "9")
        codes = flood("limited", "configmaps", 20, lambda name: {"metadata": {"name": "y" + name}})
        t.check("and does not let more in meanwhile", codes.count(201) == 1 and len(a.call("GET", f"{ns}/configmaps")[1]["items"]) == 10, sorted(codes))
        t.until("the status shows it", 60, lambda: used("q").get("count/configmaps") == "10")
    finally:
        controllers.terminate()
        controllers.wait()


def cut_off(a, b):
    """Server 0 sleeps while etcd goes away and comes back, and its place in history is compacted."""
    a.call("POST", NS + "/configmaps", {"metadata": {"name": "before"}})
    rv = a.call("GET", NS + "/configmaps")[1]["metadata"]["resourceVersion"]
    watch = s.client(0, timeout=120)
    stream = watch.open("GET", f"{NS}/configmaps?watch=1&resourceVersion={rv}")
    s.procs[0].send_signal(signal.SIGSTOP)
    s.kill_etcd()
    s.start_etcd()
    b.close()
    t.until("the other server goes on after etcd's restart", 60, lambda: b.call("POST", NS + "/configmaps", {"metadata": {"name": "after"}})[0] in (201, 409))
    b.call("DELETE", NS + "/configmaps/before")
    rev = b.call("POST", NS + "/configmaps", {"metadata": {"name": "later"}})[1]["metadata"]["resourceVersion"]
    s.etcdctl("compact", rev)
    s.procs[0].send_signal(signal.SIGCONT)
    a.close()
    t.until("a server behind a compaction is ready again", 60, lambda: a.call("GET", "/readyz")[0] == 200)

    def names(c):
        return sorted(o["metadata"]["name"] for o in c.call("GET", NS + "/configmaps")[1]["items"])

    t.until("and shows what there is", 60, lambda: names(a) == names(b) and "later" in names(a) and "before" not in names(a))
    lines = [json.loads(x) for x in stream.read().decode().splitlines()]
    t.check("its watches end with 410", bool(lines) and lines[-1]["type"] == "ERROR" and lines[-1]["object"]["code"] == 410, str(lines)[-300:])
    a.close()
    b.call("PATCH", NS + "/configmaps/later", {"data": {"n": "1"}}, "application/merge-patch+json")
    t.check("it follows again", a.call("GET", NS + "/configmaps/later")[1].get("data") == {"n": "1"})


with Servers(etcd=True, n=2) as s:
    one, two = s.client(0), s.client(1)
    for part in (presence, allocation, repair, fresh_reads, quotas, roles, definitions, cut_off):
        part(one, two)
t.finish()
