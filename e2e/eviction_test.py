#!/usr/bin/env python3
"""A node that runs short of disk or memory says so, makes room, and lets the right pod go."""
import json, time
from cluster import *

MIB = 1 << 20


def writer(name, megabytes, **spec):
    return pod(name, "sh", "-c", f"dd if=/dev/zero of=/v/f bs=1M count={megabytes} 2>/dev/null; sleep 1000",
               volumes=[{"name": "v", "emptyDir": spec.pop("empty_dir", {})}], mounts=[{"name": "v", "mountPath": "/v"}], **spec)


def evicted(c, name, *words):
    def look():
        status = c.get("pod", name).get("status", {})
        return status.get("phase") == "Failed" and status.get("reason") == "Evicted" and all(w in status.get("message", "") for w in words)
    return check(f"{name} is evicted" + "".join(f", {w}" for w in words), until(180, look), lambda: c.get("pod", name).get("status"))


def taints(c):
    return [t["key"] for t in c.get("nodes")["items"][0]["spec"].get("taints", [])]


def disk(c):
    node = c.get("nodes")["items"][0]["metadata"]["name"]
    c.apply(pod("modest", "sleep", "1000"), writer("small", 20, empty_dir={"sizeLimit": "10Mi"}),
            writer("limited", 40, resources={"limits": {"ephemeral-storage": "30Mi"}}))
    check("a pod that writes little runs", until(60, lambda: c.ready("modest")))
    evicted(c, "small", "EmptyDir", "\"v\"")
    evicted(c, "limited", "ephemeral")
    check("limits of its own are no pressure of the node", c.condition("node", node, "DiskPressure") == "False")
    c.apply(writer("greedy", 850))
    check("DiskPressure is reported", until(180, lambda: c.condition("node", node, "DiskPressure") == "True"))
    c.apply(pod("late", "sleep", "1000", spec={"nodeName": node}))
    check("a pod bound to the node meanwhile is refused", until(60, lambda: c.get("pod", "late").get("status", {}).get("reason") == "Evicted"),
          lambda: c.get("pod", "late").get("status"))
    check("the node is tainted while it lasts", until(60, lambda: "node.kubernetes.io/disk-pressure" in taints(c)), lambda: taints(c))
    evicted(c, "greedy", "low on resource: ephemeral-storage", "Threshold quantity")
    check("with the condition that it was a disruption", c.condition("pod", "greedy", "DisruptionTarget") == "True",
          lambda: c.get("pod", "greedy").get("status"))
    check("an event says so too", until(60, lambda: c.event("greedy", "Evicted", "low on resource")), lambda: c.events("greedy"))
    check("the pod that writes little goes on", c.ready("modest") and c.main("modest").get("restartCount") == 0)
    check("the pressure ends after its transition period", until(180, lambda: c.condition("node", node, "DiskPressure") == "False"))
    check("and the taint goes", until(60, lambda: not taints(c)), lambda: taints(c))
    c.apply(pod("after", "sleep", "1000"))
    check("then pods start again, from the image that was kept", until(60, lambda: c.ready("after")), lambda: c.events("after"))


def memory(c):
    node = c.get("nodes")["items"][0]["metadata"]["name"]
    check("MemoryPressure is reported", until(60, lambda: c.condition("node", node, "MemoryPressure") == "True"))
    small, large = {"requests": {"memory": "1Mi"}}, {"requests": {"memory": "200Mi"}}
    c.apply(pod("besteffort", "sleep", "1000", spec={"nodeName": node}),
            *[writer(n, 30, empty_dir={"medium": "Memory"}, resources=r, spec={"nodeName": node}) for n, r in (("over", small), ("within", large))])
    check("a pod without requests is refused", until(60, lambda: c.get("pod", "besteffort")["status"].get("reason") == "Evicted"))
    evicted(c, "over", "low on resource: memory", "Container main was using")
    went = {p["metadata"]["name"]: x["lastTransitionTime"] for p in c.get("pods")["items"]
            for x in p["status"]["conditions"] if x["type"] == "DisruptionTarget"}
    check("the pod within its request does not go before", went["over"] < went.get("within", "9"), went)


with Cluster("ct-evict", data_size=1 << 30, kubelet_config={
        "evictionHard": {"nodefs.available": "15%"}, "evictionPressureTransitionPeriod": "25s"}) as cluster:
    disk(cluster)
with Cluster("ct-evict", kubelet_config={
        "evictionHard": {"nodefs.available": "1%"}, "evictionSoft": {"memory.available": "1000Gi"},
        "evictionSoftGracePeriod": {"memory.available": "45s"}, "evictionMaxPodGracePeriod": 1}) as cluster:
    memory(cluster)
finish()
