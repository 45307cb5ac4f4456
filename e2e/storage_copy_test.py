#!/usr/bin/env python3
"""A cluster's objects move from the embedded store to etcd and back: nothing is lost, and to clients time only goes on."""
import json
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import BUILD, Checks, Servers

t = Checks()
NS = "/api/v1/namespaces/default"
KINDS = [NS + "/configmaps", NS + "/services", NS + "/secrets", "/api/v1/namespaces", "/apis/rbac.authorization.k8s.io/v1/clusterroles",
         "/apis/apps/v1/namespaces/default/deployments", "/apis/networking.k8s.io/v1/ipaddresses"]


def without_rv(o):
    return {**o, "metadata": {k: v for k, v in o["metadata"].items() if k != "resourceVersion"}}


def everything(c):
    """{(kind, name): object} and the highest resourceVersion."""
    out, top = {}, 0
    for path in KINDS:
        body = c.call("GET", path)[1]
        top = max(top, int(body["metadata"]["resourceVersion"]))
        for o in body["items"]:
            top = max(top, int(o["metadata"]["resourceVersion"]))
            out[path, o["metadata"]["name"]] = o
    return out, top


def copy(source, target, *more):
    return subprocess.run([os.path.join(BUILD, "cli/coracle"), "storage", "copy", "--from", source, "--to", target, *more],
                          capture_output=True, text=True)


def check_moved(what, c, before, top):
    after, _ = everything(c)
    t.check(f"{what}: every object is there, and the same", {k: without_rv(o) for k, o in after.items() if k in before} ==
            {k: without_rv(o) for k, o in before.items()}, str(set(before) ^ set(after))[:300])
    t.check(f"{what}: resourceVersions are higher than all before", all(int(o["metadata"]["resourceVersion"]) > top for o in after.values()))
    lines = c.open("GET", f"{NS}/configmaps?watch=1&resourceVersion={top}&timeoutSeconds=5").read().decode().splitlines()
    t.check(f"{what}: a watch from before is told to start anew", bool(lines) and json.loads(lines[0])["object"].get("code") == 410, str(lines)[:200])
    code, body = c.call("GET", f"{NS}/configmaps?resourceVersion={top}&resourceVersionMatch=Exact")
    t.check(f"{what}: and so is an exact list", code == 410, str(code))
    o = before[NS + "/configmaps", "c1"]
    code, _ = c.call("PUT", NS + "/configmaps/c1", o)
    t.check(f"{what}: an update from an old resourceVersion is a conflict", code == 409, str(code))
    code, o = c.call("PATCH", NS + "/configmaps/c1", {"data": {"moved": what}}, "application/merge-patch+json")
    t.check(f"{what}: writing goes on", code == 200 and int(o["metadata"]["resourceVersion"]) > top)
    code, o = c.call("POST", NS + "/services", {"metadata": {"name": "new" + str(top)}, "spec": {"type": "NodePort", "ports": [{"port": 1}]}})
    ports = [p.get("nodePort") for k, x in before.items() if "/services" in k[0] for p in x["spec"]["ports"]]
    t.check(f"{what}: what is allocated stays so", code == 201 and o["spec"]["ports"][0]["nodePort"] not in ports, str(o)[:200])


s = Servers(etcd=False, n=1)
with s:
    c = s.client(0)
    for i in range(300):
        c.call("POST", NS + "/configmaps", {"metadata": {"name": f"c{i}"}, "data": {"n": str(i), "text": "\u00e4\u20ac\n" * 20}})
        c.call("PATCH", f"{NS}/configmaps/c{i}", {"data": {"n": "x"}}, "application/merge-patch+json")
    for i in range(20):
        c.call("POST", NS + "/services", {"metadata": {"name": f"s{i}"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
    c.call("POST", "/apis/apps/v1/namespaces/default/deployments", {"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    before, top = everything(c)
    db, url = os.path.join(s.data_dir(), "state.db"), f"http://127.0.0.1:{s.etcd_port}"
    s.start_etcd()
    r = copy(db, url)
    t.check("a store in use is not copied", r.returncode != 0 and "in use" in r.stderr, r.stderr)
    s.kill(0, signal.SIGTERM)
    r = copy(db, url)
    t.check("from sqlite to etcd", r.returncode == 0 and "found them equal" in r.stdout, r.stdout + r.stderr)
    print(r.stdout, end="")
    r = copy(db, url)
    t.check("not over what is there", r.returncode != 0 and "--overwrite" in r.stderr, r.stderr)
    s.use_etcd = True
    s.start(0)
    c.close()
    check_moved("etcd", c, before, top)
    before, top = everything(c)
    s.kill(0, signal.SIGTERM)
    os.rename(db, db + ".old")
    r = copy(url, db)
    t.check("from etcd to sqlite", r.returncode == 0 and "found them equal" in r.stdout, r.stdout + r.stderr)
    print(r.stdout, end="")
    r = copy(url, db, "--overwrite")
    t.check("over what is there when told", r.returncode == 0 and "removed" in r.stdout, r.stdout + r.stderr)
    s.use_etcd = False
    s.start(0)
    c.close()
    check_moved("sqlite", c, before, top)
t.finish()
