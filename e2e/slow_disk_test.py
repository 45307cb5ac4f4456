#!/usr/bin/env python3
"""A disk on which every fsync takes 0.4 s slows a node down, but nothing gives up: no program restarts, the node stays
Ready, pods start."""
import json, os, time
from cluster import *


def slow_cluster(c):
    node = c.get("nodes")["items"][0]["metadata"]["name"]
    names = [f"p{i}" for i in range(10)]
    c.apply(*[pod(n, "sleep", "1000") for n in names])
    not_ready, end = [], time.time() + 240
    while time.time() < end and not all(c.ready(n) for n in names):
        if c.condition("node", node, "Ready") != "True":
            not_ready.append(time.time())
    check("ten pods start", all(c.ready(n) for n in names), lambda: [c.main(n) for n in names])
    for i in range(20):
        if c.kubectl("create", "configmap", f"c{i}", "--from-literal=a=b").returncode:
            not_ready.append(f"configmap {i}")
    check("writes are taken", len(c.get("configmaps").get("items", [])) >= 20)
    check("the node was Ready all the time", not not_ready and c.condition("node", node, "Ready") == "True", not_ready)
    with open(c.run_dir + "/components.json") as f:
        restarts = {p["name"]: p["restarts"] for p in json.load(f)}
    check("no program gave up", not any(restarts.values()), restarts)


library = f"/tmp/slow-disk-{os.getpid()}.so"
r = run("gcc", "-shared", "-fPIC", "-o", library, TOP + "/e2e/slow_disk.c", "-ldl")
if check("the delay is compiled", r.returncode == 0, r.stderr):
    os.environ["LD_PRELOAD"] = library
    try:
        with Cluster("ct-slow") as cluster:
            os.environ.pop("LD_PRELOAD")
            slow_cluster(cluster)
    finally:
        os.environ.pop("LD_PRELOAD", None)
        os.unlink(library)
finish()
