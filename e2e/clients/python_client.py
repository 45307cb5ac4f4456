#!/usr/bin/python3
"""Debian's python3-kubernetes: create, read, update, delete, every patch type, watch, exec, logs, the dynamic client, and
leader election. Prints "ok"/"FAILED" lines and the closing line."""
import os
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import stream

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from servers import Checks

config.load_kube_config()
t, core, NS = Checks(), client.CoreV1Api(), "pyclient"


def code_of(fn, *args, **kw):
    try:
        fn(*args, **kw)
        return 200
    except ApiException as e:
        return e.status


def crud():
    core.create_namespace({"metadata": {"name": NS}})
    made = core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="c", labels={"a": "b"}), data={"k": "1"}))
    t.check("create", made.metadata.uid and made.data == {"k": "1"})
    t.check("create again is a conflict", code_of(core.create_namespaced_config_map, NS, {"metadata": {"name": "c"}}) == 409)
    made.data["k"] = "2"
    replaced = core.replace_namespaced_config_map("c", NS, made)
    t.check("replace", replaced.data["k"] == "2" and replaced.metadata.resource_version != made.metadata.resource_version)
    t.check("replace from an old version is a conflict", code_of(core.replace_namespaced_config_map, "c", NS, made) == 409)
    t.check("list by label", [c.metadata.name for c in core.list_namespaced_config_map(NS, label_selector="a=b").items] == ["c"])
    names, token = [], None
    for i in range(7):
        core.create_namespaced_config_map(NS, {"metadata": {"name": f"page{i}", "labels": {"paged": "yes"}}})
    while token != "":
        page = core.list_namespaced_config_map(NS, label_selector="paged=yes", limit=3, _continue=token)
        names += [c.metadata.name for c in page.items]
        token = page.metadata._continue or ""
    t.check("list in pages", names == [f"page{i}" for i in range(7)], str(names))
    t.check("what is not there is 404", code_of(core.read_namespaced_config_map, "nothing", NS) == 404)
    t.check("what is wrong is 422", code_of(core.create_namespaced_service, NS, {"metadata": {"name": "Bad_"}, "spec": {"ports": [{"port": 1}]}}) == 422)


def patches():
    apps = client.AppsV1Api()
    apps.create_namespaced_deployment(NS, {"metadata": {"name": "d"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "d"}}, "template": {
        "metadata": {"labels": {"a": "d"}}, "spec": {"containers": [{"name": "one", "image": "x"}, {"name": "two", "image": "y"}]}}}})
    d = apps.patch_namespaced_deployment("d", NS, {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "z"}]}}}})
    t.check("a strategic patch merges containers by name", [c.image for c in d.spec.template.spec.containers] == ["x", "z"])
    c = core.patch_namespaced_config_map("c", NS, [{"op": "replace", "path": "/data/k", "value": "3"}])
    t.check("a JSON patch", c.data["k"] == "3")
    t.check("a JSON patch that does not fit is 422", code_of(core.patch_namespaced_config_map, "c", NS, [{"op": "remove", "path": "/data/none"}]) == 422)
    core.api_client.set_default_header("Content-Type", "application/merge-patch+json")
    res = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="apps/v1", kind="Deployment")
    d = res.patch(namespace=NS, name="d", body={"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "w"}]}}}},
                  content_type="application/merge-patch+json")
    t.check("a merge patch replaces the list", [x.image for x in d.spec.template.spec.containers] == ["w"])
    core.api_client.default_headers.pop("Content-Type", None)
    s = apps.patch_namespaced_deployment_scale("d", NS, {"spec": {"replicas": 1}})
    t.check("the scale subresource", s.spec.replicas == 1)
    apps.delete_namespaced_deployment("d", NS)


def watching():
    seen, w = [], watch.Watch()
    rv = core.list_namespaced_config_map(NS).metadata.resource_version

    def follow():
        for e in w.stream(core.list_namespaced_config_map, NS, resource_version=rv, timeout_seconds=20):
            seen.append((e["type"], e["object"].metadata.name))
            if len(seen) == 3:
                w.stop()

    thread = threading.Thread(target=follow)
    thread.start()
    core.create_namespaced_config_map(NS, {"metadata": {"name": "w"}})
    core.patch_namespaced_config_map("w", NS, {"data": {"x": "y"}})
    core.delete_namespaced_config_map("w", NS)
    thread.join(25)
    t.check("a watch tells what happens", seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], str(seen))
    try:
        old = list(watch.Watch().stream(core.list_namespaced_config_map, NS, resource_version="1", timeout_seconds=5))
        t.check("a watch from long ago tells all there was, or is 410", any(e["object"].metadata.name == "w" for e in old), str(old))
    except ApiException as e: # the history has been compacted
        t.check("a watch from long ago tells all there was, or is 410", e.status == 410, str(e.status))


def pods():
    core.create_namespaced_pod(NS, {"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "c", "image": "busybox:latest", "imagePullPolicy": "Never", "command": ["sh", "-c", "echo from the log; exec sleep 600"]}]}})
    t.until("a pod runs", 60, lambda: core.read_namespaced_pod("p", NS).status.phase == "Running")
    run = lambda *cmd, **kw: stream(core.connect_get_namespaced_pod_exec, "p", NS, command=list(cmd), stderr=True, stdin=False, stdout=True, tty=False, **kw)
    t.check("exec", run("echo", "from exec") == "from exec\n")
    t.check("exec with much output", len(run("sh", "-c", "head -c 300000 /dev/zero | tr '\\\\0' x")) == 300000)
    s = stream(core.connect_get_namespaced_pod_exec, "p", NS, command=["sh"], stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
    s.write_stdin("echo a; echo b >&2; exit 3\n")
    s.run_forever(timeout=60)
    t.check("exec with stdin, stderr and an exit code", (s.read_stdout(), s.read_stderr(), s.returncode) == ("a\n", "b\n", 3))
    t.until("log", 60, lambda: core.read_namespaced_pod_log("p", NS) == "from the log\n")
    core.delete_namespaced_pod("p", NS)
    t.until("the pod goes", 60, lambda: code_of(core.read_namespaced_pod, "p", NS) == 404)


def dynamic_client():
    dyn = dynamic.DynamicClient(client.ApiClient())
    crds = dyn.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    crds.create(body={"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "pets.py.example.com"}, "spec": {
        "group": "py.example.com", "scope": "Namespaced", "names": {"plural": "pets", "singular": "pet", "kind": "Pet"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}})

    def pets():
        try:
            dyn.resources.invalidate_cache()
            return dyn.resources.get(api_version="py.example.com/v1", kind="Pet")
        except dynamic.exceptions.ResourceNotFoundError:
            return None

    t.until("a new kind is discovered", 60, lambda: pets() is not None)
    res = pets()
    res.create(namespace=NS, body={"apiVersion": "py.example.com/v1", "kind": "Pet", "metadata": {"name": "cat"}, "spec": {"legs": 4}})
    t.check("its objects", res.get(namespace=NS, name="cat").spec.legs == 4)
    res.patch(namespace=NS, name="cat", body={"spec": {"legs": 3}}, content_type="application/merge-patch+json")
    t.check("are patched", [p.spec.legs for p in res.get(namespace=NS).items] == [3])
    res.delete(namespace=NS, name="cat")
    crds.delete(name="pets.py.example.com")
    try:
        left = res.get(namespace=NS).items
    except ApiException as e:  # the kind has gone with them
        left = [] if e.status == 404 else [e]
    t.check("and deleted", left == [], str(left))


def election():
    order, lock = [], threading.Lock()

    def candidate(name):
        def lead():
            with lock:
                order.append(name)

        c = electionconfig.Config(ConfigMapLock("leader", NS, name), lease_duration=30, renew_deadline=20, retry_period=1, onstarted_leading=lead, onstopped_leading=None)
        threading.Thread(target=leaderelection.LeaderElection(c).run, daemon=True).start()

    candidate("first")
    t.until("a candidate becomes the leader", 60, lambda: order == ["first"])
    candidate("second")
    time.sleep(3)
    t.check("of two candidates one leads", order == ["first"], str(order))


for part in (crud, patches, watching, pods, dynamic_client, election):
    try:
        part()
    except Exception as e:
        t.check(part.__name__, False, f"{e!r} {e}"[:1500])
core.delete_namespace(NS)
t.until("the namespace goes", 60, lambda: code_of(core.read_namespace, NS) == 404)
print(f"{t.passed} passed, {t.failed} failed", flush=True)
os._exit(1 if t.failed else 0)  # candidates still run
