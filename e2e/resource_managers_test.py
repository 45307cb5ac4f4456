#!/usr/bin/env python3
"""CPU, memory and topology manager: a Guaranteed pod gets CPUs for itself and everybody else leaves them, what is given away
survives kill -9 of the kubelet and is free when the pod has ended; devices near to the pod; pods that cannot have what they
must; settings that do not fit the state files; what the PodResources API and the metrics tell."""
import json, os, subprocess, sys
from cluster import *

NODE_MEMORY = int(next(l for l in open("/proc/meminfo") if l.startswith("MemTotal")).split()[1])
CONFIG = {"cpuManagerPolicy": "static", "reservedSystemCPUs": "0", "cpuManagerReconcilePeriod": "2s", "memoryManagerPolicy": "Static",
          "topologyManagerPolicy": "single-numa-node", "systemReserved": {"memory": "300Mi"}, "evictionHard": {"memory.available": "100Mi"},
          "reservedMemory": [{"numaNode": 0, "limits": {"memory": "400Mi"}}]}
RESOURCE = "test.coracle.io/thing"
SLEEP = ("sleep", "3600")


def guaranteed(cpu, **more):
    return {"limits": {"cpu": str(cpu), "memory": "32Mi", **more}}


def cpus_of(c, name, container="main"):
    """The list of CPUs that a container may run on, as the kernel has it."""
    out = c.kubectl("exec", name, "-c", container, "--", "grep", "Cpus_allowed_list", "/proc/self/status").stdout
    return out.split(":")[1].strip() if ":" in out else out


def ranges(cpus):
    """{0, 1, 3} as "0-1,3"."""
    parts = []
    for x in sorted(cpus):
        if parts and parts[-1][1] == x - 1:
            parts[-1][1] = x
        else:
            parts.append([x, x])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in parts)


def state(c, manager="cpu"):
    with open(f"{c.data}/kubelet/{manager}_manager_state") as f:
        return json.load(f)


def podresources(c, *args):
    r = run("/usr/bin/python3", TOP + "/e2e/pod_resources.py", c.data + "/kubelet/pod-resources/kubelet.sock", *args)
    return json.loads(r.stdout) if r.stdout.startswith("{") else {"error": r.stderr}


def metrics(c, name):
    node = c.get("nodes")["items"][0]["metadata"]["name"]
    out = c.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics").stdout
    return [float(l.split()[-1]) for l in out.splitlines() if l.startswith(name + "{") or l.startswith(name + " ")]


def exclusive(c, last):
    everything = ranges(range(last + 1))
    c.apply(pod("before", *SLEEP))
    check("a pod that shares runs", until(60, lambda: c.ready("before")), lambda: c.events("before"))
    check("on all CPUs", cpus_of(c, "before") == everything, lambda: cpus_of(c, "before"))
    c.apply(pod("own", *SLEEP, resources=guaranteed(1)))
    check("a Guaranteed pod with one CPU runs", until(60, lambda: c.ready("own")), lambda: c.events("own"))
    own = cpus_of(c, "own")
    check("on one CPU that is not reserved", own.isdigit() and own != "0", own)
    rest = ranges(set(range(last + 1)) - {int(own or 0)})
    check("the other pod leaves it", until(60, lambda: cpus_of(c, "before") == rest), lambda: (rest, cpus_of(c, "before")))
    quota = c.kubectl("exec", "own", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null").stdout
    check("its own CPU has no quota", quota.strip() == "-1" or quota.startswith("max"), quota)
    c.apply(pod("after", *SLEEP))
    check("a pod that comes later shares too", until(60, lambda: c.ready("after")), lambda: c.events("after"))
    check("what is left", cpus_of(c, "after") == rest, lambda: (rest, cpus_of(c, "after")))
    uid = c.get("pod", "own")["metadata"]["uid"]
    check("the state file says so", state(c)["entries"] == {uid: {"main": own}} and state(c)["defaultCpuSet"] == rest and
          state(c)["policyName"] == "static" and state(c)["checksum"], lambda: state(c))
    block = state(c, "memory")["entries"][uid]["main"]
    check("so does the memory manager's", block == [{"numaAffinity": [0], "type": "memory", "size": 32 << 20}], block)
    mems = c.kubectl("exec", "own", "--", "grep", "Mems_allowed_list", "/proc/self/status").stdout
    check("its memory is of the NUMA node", mems.split()[-1] == "0", mems)
    had = podresources(c, "list")
    check("the PodResources API tells", had["default/own/main"] == {
        "devices": [], "cpus": [int(own)], "memory": [{"type": "memory", "size": 32 << 20, "nodes": [0]}]} and not had["default/after/main"]["cpus"], had)
    check("and what could be had", podresources(c, "allocatable")["cpus"] == list(range(1, last + 1)), lambda: podresources(c, "allocatable"))
    check("so do the metrics", metrics(c, "kubelet_cpu_manager_exclusive_cpu_allocation_count") == [1.0] and
          metrics(c, "kubelet_cpu_manager_shared_pool_size_millicores") == [1000.0 * (last - 1)] and
          metrics(c, "kubelet_memory_manager_pinning_requests_total") == [1.0] and
          metrics(c, "kubelet_cpu_manager_pinning_requests_total") == [1.0], lambda: metrics(c, "kubelet_cpu_manager_pinning_requests_total"))
    return own, rest, everything


def refused(c):
    """Pods that ask for more than is left of what cannot be shared."""
    c.apply(pod("much", *SLEEP, spec={"nodeName": c.get("nodes")["items"][0]["metadata"]["name"]}, resources=guaranteed(os.cpu_count())))
    gone = lambda name: c.get("pod", name).get("status", {})
    check("a pod with too many CPUs is refused", until(60, lambda: gone("much").get("phase") == "Failed"), lambda: gone("much"))
    check("for the reason that there are not so many", gone("much").get("reason") in ("OutOfcpu", "TopologyAffinityError") and
          gone("much")["message"].startswith("Pod was rejected: "), lambda: gone("much"))
    c.kubectl("delete", "pod", "much", "--wait=true")


def survives(c, own, rest, everything):
    c.kill("kubelet")
    c.apply(pod("next", *SLEEP))
    check("after kill -9 of the kubelet a new pod runs", until(60, lambda: c.ready("next")), lambda: c.events("next"))
    check("beside the CPU that is given away", cpus_of(c, "next") == rest and cpus_of(c, "own") == own, lambda: (cpus_of(c, "next"), cpus_of(c, "own")))
    c.kubectl("delete", "pod", "own", "--wait=true")
    check("when the pod has ended its CPU is for all again", until(60, lambda: cpus_of(c, "next") == everything and cpus_of(c, "before") == everything),
          lambda: (cpus_of(c, "next"), state(c)))
    check("and its state is gone", "entries" not in state(c) and "entries" not in state(c, "memory"), lambda: state(c))


def init_containers(c, last):
    """What an init container had is used again by the main one; a sidecar keeps its own."""
    c.apply(pod("staged", *SLEEP, spec={"initContainers": [
        {"name": "prepare", "image": "busybox:latest", "imagePullPolicy": "Never", "command": ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"],
         "resources": guaranteed(1)}]}, resources=guaranteed(1)))
    check("a pod with an init container runs", until(60, lambda: c.ready("staged")), lambda: c.events("staged"))
    was = c.kubectl("logs", "staged", "-c", "prepare").stdout.split()[-1:]
    check("on the CPU that the init container had", [cpus_of(c, "staged")] == was, lambda: (was, cpus_of(c, "staged")))
    c.kubectl("delete", "pod", "staged", "--wait=true")


def devices(c):
    folder = c.data + "/kubelet/device-plugins"
    with open(c.dir + "/plugin.log", "w") as log:
        plugin = subprocess.Popen(["/usr/bin/python3", TOP + "/e2e/device_plugin.py", RESOURCE, folder, "2", "0"], stdout=log, stderr=log)
    try:
        node = c.get("nodes")["items"][0]["metadata"]["name"]
        check("devices of a NUMA node", until(60, lambda: c.get("node", node)["status"]["allocatable"].get(RESOURCE) == "2"))
        c.apply(pod("device", *SLEEP, resources=guaranteed(1, **{RESOURCE: 1})))
        check("a pod gets a device, a CPU and memory", until(60, lambda: c.ready("device")), lambda: c.events("device"))
        has = podresources(c, "get", "default", "device").get("default/device/main", {})
        check("of the same NUMA node", has and has["devices"][0]["nodes"] == [0] and len(has["cpus"]) == 1 and has["memory"][0]["nodes"] == [0], has)
        check("aligned allocations are counted", metrics(c, "kubelet_container_aligned_compute_resources_count")[0] >= 1,
              lambda: metrics(c, "kubelet_container_aligned_compute_resources_count"))
        c.kubectl("delete", "pod", "device", "--wait=true")
    finally:
        plugin.kill()
        plugin.wait()


def settings(c):
    def again(why, **fields):
        with open(c.data + "/kubelet.yaml", "w") as f:
            json.dump({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", **CONFIG, **fields}, f)
        c.kill("kubelet")
        return until(60, lambda: why in open(c.data + "/log/kubelet.log").read())
    check("another policy than the state file's: the kubelet says what to do",
          again('please drain this node and delete the CPU manager checkpoint file', cpuManagerPolicy="none"))
    check("reserved memory that does not add up", again("is not equal to the", reservedMemory=[{"numaNode": 0, "limits": {"memory": "1Gi"}}]))
    check("a NUMA node that is not there", again("does not exist on this machine", reservedMemory=[{"numaNode": 7, "limits": {"memory": "400Mi"}}]))
    check("an alpha option without its gate", again("CPUManagerPolicyAlphaOptions", cpuManagerPolicyOptions={"align-by-socket": "true"}))
    check("an unknown policy", again("must be one of: none, best-effort, restricted, single-numa-node", topologyManagerPolicy="best"))


def main(c):
    last = os.cpu_count() - 1
    given = exclusive(c, last)
    refused(c)
    survives(c, *given)
    init_containers(c, last)
    devices(c)
    settings(c)


if os.cpu_count() < 2:
    check("a machine with one CPU has none to give away", True)
else:
    with Cluster(f"rm{os.getpid()}", kubelet_config=CONFIG) as cluster:
        main(cluster)
finish()
