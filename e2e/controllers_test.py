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
    until(20, lambda: api.call("GET", "/api/v1/namespaces/jobs/serviceaccounts/default").status == 200)
    api.call("POST", *job("a", "jobs", parallelism=1))
    check("a Job makes a pod that is tracked", until(20, lambda: [p for p in items() if TRACKED in p["metadata"].get("finalizers", [])]), items())
    first = items()[0]["metadata"]
    api.call("PATCH", f"{pods}/{first['name']}", {"metadata": {"labels": None}}, headers=MERGE)
    mine = lambda: api.call("GET", f"{pods}/{first['name']}").json["metadata"]
    check("without its labels it is released", until(20, lambda: not mine().get("ownerReferences")), mine())
    check("and held no longer", until(20, lambda: TRACKED not in mine().get("finalizers", [])), mine())
    check("another takes its place", until(20, lambda: len(items()) == 2), items())
    api.call("DELETE", "/api/v1/namespaces/jobs")
    check("the namespace can go", until(60, lambda: api.call("GET", "/api/v1/namespaces/jobs").status == 404), api.call("GET", "/api/v1/namespaces/jobs").text)

def main():
    api, controllers = Lone(), None
    try:
        controllers = subprocess.Popen([BUILD + "/controllers/coracle-controllers", "--kubeconfig", api.kubeconfig(), "--leader-elect=false", "--root-ca-file", api.path("ca.crt")],
                                       stdout=open(api.dir + "/controllers.log", "w"), stderr=subprocess.STDOUT)
        test_released_pod(api)
        check("the controllers still run", controllers.poll() is None)
    finally:
        if controllers:
            controllers.terminate()
            controllers.wait(20)
            if os.environ.get("KEEP_LOG"): print(open(api.dir + "/controllers.log").read())
        api.close()
    finish()

main()
