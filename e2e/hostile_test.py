#!/usr/bin/env python3
"""What a pod, an image or a registry does to harm its node is contained, and said in an event or a condition.

EXITS says how many times a container exits at once in the Job (default 60; the long run is 1000)."""
import json, os, subprocess, sys, time
from cluster import *

EXITS = int(os.environ.get("EXITS", "60"))
REGISTRY = "127.0.0.1:5099"
DISK = 1 << 30
MIB = 1 << 20


def host_path(name, path, kind):
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def on_node(c, name):
    """A pod beside the trouble still starts, quickly."""
    c.apply(pod(name, "sleep", "1000"))
    return check(f"meanwhile another pod starts ({name})", until(60, lambda: c.ready(name)), lambda: c.get("pod", name).get("status"))


def cgroup_pids(c, name):
    uid = c.get("pod", name)["metadata"]["uid"]
    out = run("sh", "-c", f"cat /proc/[0-9]*/cgroup 2>/dev/null | grep -c 'pod{uid}'").stdout
    return int(out or 0)


def registry_tests(c):
    mark = c.dir + "/escaped"
    server = subprocess.Popen(["nsenter", "--net=/run/netns/" + c.name, sys.executable, TOP + "/e2e/hostile_registry.py",
                               REGISTRY.split(":")[1], mark, str(2 * DISK)])
    try:
        free = lambda: os.statvfs(c.data).f_bavail * os.statvfs(c.data).f_frsize
        sent = lambda: json.loads(c.inside("curl", "-s", f"http://{REGISTRY}/sent").stdout or "{}")
        check("the registry answers", until(60, lambda: c.inside("curl", "-s", f"http://{REGISTRY}/sent").returncode == 0))
        before = free()
        bad = {"wrongdigest": "digest", "wrongdiff": "digest", "truncated": "", "notjson": "manifest", "huge": "", "endless": "",
               "bomb": "space", "dotdot": "", "hardlink": "", "missing": "not found"}
        c.apply(*[pod(n, image=f"{REGISTRY}/{n}:latest") for n in [*bad, "absolute", "parentlink", "stall"]])
        for name, word in bad.items():
            check(f"image {name}: an event says why it is not pulled",
                  until(180, lambda: c.event(name, "Failed", "pull", word)), lambda: c.events(name))
            check(f"image {name}: the pod waits with back-off", until(60, lambda: c.waiting(name).get("reason") in ("ErrImagePull", "ImagePullBackOff")),
                  lambda: c.main(name))
        for name in ("absolute", "parentlink"):  # the link is resolved inside the layer: harmless
            check(f"image {name} is unpacked or refused", until(60, lambda: c.event(name, "Pulled") or c.event(name, "Failed")),
                  lambda: c.events(name))
        check("no image made a file outside its layer", not os.path.exists(mark))
        check("an endless blob is cut at the size its manifest gives", sent().get("endless", 0) < 64 * MIB, sent)
        check("an endless manifest is cut too", sent().get("huge", 0) < 64 * MIB, sent)
        check("what failed leaves nothing on the disk", until(60, lambda: free() > before - 32 * MIB), lambda: f"{before} then {free()}")
        check("a registry that stalls keeps its own pod waiting only", c.waiting("stall").get("reason") == "ContainerCreating",
              lambda: c.main("stall"))
        on_node(c, "besidestall")
        r = c.kubectl("delete", "pod", "stall", "--timeout=120s")
        check("and that pod can be deleted", r.returncode == 0, r.stderr)
        check("the node stays Ready", c.condition("node", c.node, "Ready") == "True")
        c.kubectl("delete", "pod", "--all", "--timeout=120s")
    finally:
        server.kill()
        server.wait()


def symlink_tests(c):
    secret = c.dir + "/secret"
    os.makedirs(secret)
    with open(secret + "/key", "w") as f:
        f.write("of the host")
    empty = {"name": "v", "emptyDir": {}}
    for i, target in enumerate((secret, "../../../../../../../../../.." + secret, "/etc")):
        name = f"sub{i}"
        spec = {"initContainers": [{"name": "plant", "image": "busybox:latest", "imagePullPolicy": "Never",
                                    "command": ["ln", "-s", target, "/v/x"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}
        c.apply(pod(name, "sleep", "1000", volumes=[empty], mounts=[{"name": "v", "mountPath": "/m", "subPath": "x"}], spec=spec))
        refused = until(60, lambda: c.event(name, "failed") or c.ready(name))
        leaked = c.kubectl("exec", name, "--", "cat", "/m/key").stdout
        check(f"subPath over a planted link to {target[:12]}... is refused with an event", refused is not True and refused and not leaked,
              lambda: (refused, leaked, c.events(name)))
    c.apply(pod("type", "true", volumes=[host_path("h", secret + "/key", "Directory")], mounts=[{"name": "h", "mountPath": "/h"}]),
            pod("none", "true", volumes=[host_path("h", secret + "/nothing", "File")], mounts=[{"name": "h", "mountPath": "/h"}]))
    check("hostPath of the wrong type: an event", until(60, lambda: c.event("type", "FailedMount", "hostPath type check failed")), lambda: c.events("type"))
    check("hostPath of a missing file: an event", until(60, lambda: c.event("none", "FailedMount", "hostPath type check failed")), lambda: c.events("none"))
    c.kubectl("delete", "pod", "--all", "--grace-period=0", "--force")


def size(file):
    """Of a file that may just be on its way out."""
    try:
        return os.path.getsize(file)
    except OSError:
        return 0


def process_tests(c):
    c.apply(pod("forks", "sh", "-c", "b() { b | b & }; b; sleep 1000"),
            pod("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 1; done", spec={"terminationGracePeriodSeconds": 2}),
            pod("chatty", "sh", "-c", "while :; do echo 'a line that fills the disk when nothing bounds it, 0123456789 0123456789'; done"),
            pod("hog", "sh", "-c", "x=x; while :; do x=$x$x; done", resources={"limits": {"memory": "32Mi", "cpu": "200m"}}))
    until(60, lambda: c.ready("deaf") and cgroup_pids(c, "forks"))
    time.sleep(5)
    pids = cgroup_pids(c, "forks")
    check("a fork bomb stops at the pod's limit of processes", 0 < pids <= 128, pids)
    on_node(c, "besidebomb")
    t = time.time()
    r = c.kubectl("delete", "pod", "forks", "--timeout=120s")
    check("the fork bomb can be deleted", r.returncode == 0 and cgroup_pids_gone(c, "forks"), r.stderr)
    t = time.time()
    r = c.kubectl("delete", "pod", "deaf", "--timeout=120s")
    took = time.time() - t
    check("a container that ignores SIGTERM is killed after its grace period", r.returncode == 0 and 1.5 < took < 60, f"{took:.1f} s {r.stderr}")
    check("a container beyond its memory limit is OOMKilled",
          until(60, lambda: "OOMKilled" in json.dumps(c.main("hog"))), lambda: c.main("hog"))
    folder = "/var/log/pods/default_chatty_" + c.get("pod", "chatty")["metadata"]["uid"]
    files = lambda: [os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs]
    logs = lambda: sum(size(f) for f in files())
    check("a log is rotated", until(120, lambda: len(files()) > 1), files)
    worst, written, last = 0, 0, (time.monotonic(), logs())
    for _ in range(20):
        time.sleep(1)
        now = (time.monotonic(), logs())
        worst, written, last = max(worst, now[1]), max(written, (now[1] - last[1]) / (now[0] - last[0])), now
    # what comes between two looks of the kubelet, which are 10 s apart, comes on top
    check("and stays within files x size, roughly", worst < max(200 * MIB, 20 * MIB + 20 * written), (worst, written))
    check("the newest lines are still read", until(60, lambda: "a line that fills" in c.kubectl("logs", "chatty", "--tail=1").stdout))
    c.kubectl("delete", "pod", "--all", "--timeout=120s")
    check("deleted logs leave nothing", until(60, lambda: logs() == 0), logs)


def cgroup_pids_gone(c, name):
    return not run("pgrep", "-f", "b() { b | b").stdout


def exits_test(c):
    c.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "exits"}, "spec": {
        "completions": EXITS, "parallelism": 10, "template": {"spec": {"restartPolicy": "Never", "containers": [
            {"name": "main", "image": "busybox:latest", "imagePullPolicy": "Never", "command": ["true"]}]}}}},
        pod("crash", "sh", "-c", "exit 3"))
    check(f"containers exit at once {EXITS} times, each counted",
          until(120 + 2 * EXITS, lambda: c.get("job", "exits").get("status", {}).get("succeeded") == EXITS), lambda: c.get("job", "exits").get("status"))
    check("a container that fails at once is held back",
          until(60, lambda: c.waiting("crash").get("reason") == "CrashLoopBackOff"), lambda: c.main("crash"))
    check("with its exit code", c.main("crash").get("lastState", {}).get("terminated", {}).get("exitCode") == 3, lambda: c.main("crash"))
    c.kubectl("delete", "job", "exits", "--timeout=120s")
    c.kubectl("delete", "pod", "--all", "--timeout=120s")
    containers = c.run_dir + "/shim"
    rootfs = lambda: run("sh", "-c", f"grep -c {c.dir} /proc/mounts").stdout.strip()
    check("no overlay is left of them", until(60, lambda: run("sh", "-c", f"grep {c.dir} /proc/mounts | grep -c overlay").stdout.strip() == "0"), rootfs)


def disk_test(c):
    c.apply(pod("steady", "sleep", "10000"))
    until(60, lambda: c.ready("steady"))
    before = c.main("steady").get("containerID")
    written = []
    for i in range(5):
        if c.kubectl("create", "configmap", f"before{i}", "--from-literal=a=b").returncode == 0:
            written.append(f"before{i}")
    filler = c.data + "/filler"
    run("dd", "if=/dev/zero", "of=" + filler, "bs=1M")
    r = None
    for i in range(40):  # the store may still have some room in its files
        big = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"full{i}"}, "data": {"a": "x" * 500000}}
        r = c.kubectl("create", "-f", "-", input=json.dumps(big))
        if r.returncode == 0:
            written.append(f"full{i}")
        else:
            break
    check("with a full disk a write is refused with a reason", r.returncode != 0 and ("space" in r.stderr or "full" in r.stderr), r.stderr)
    check("reads are answered", c.get("configmap", "before0").get("data", {}).get("a") == "b")
    check("DiskPressure is reported or the write of it refused",
          until(60, lambda: c.condition("node", c.node, "DiskPressure") == "True" or r.returncode != 0))
    os.unlink(filler)
    check("with room again writes are taken", until(60, lambda: c.kubectl("create", "configmap", "after", "--from-literal=a=b").returncode == 0))
    missing = [n for n in written if not c.get("configmap", n)]
    check(f"no acknowledged write is lost ({len(written)})", not missing, missing)
    check("the node is Ready again", until(60, lambda: c.condition("node", c.node, "Ready") == "True"))
    state = c.main("steady")
    check("a running container was left alone or evicted, not lost",
          state.get("containerID") == before or c.phase("steady") == "Failed", state)


def main():
    config = {"podPidsLimit": 100, "containerLogMaxSize": "2Mi", "containerLogMaxFiles": 3,
              "evictionHard": {"memory.available": "100Mi", "nodefs.available": "5%"}}
    with Cluster("ct-hostile", kubelet_config=config, data_size=DISK) as c:
        c.node = c.get("nodes")["items"][0]["metadata"]["name"]
        only = sys.argv[1:]
        for test in (registry_tests, symlink_tests, process_tests, exits_test, disk_test):
            if not only or test.__name__ in only:
                test(c)


main()
finish()
