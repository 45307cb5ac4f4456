#!/usr/bin/python3
"""nodebench.py COUNT: the node's rows of hack/bench on a running cluster, tab-separated: sandbox and container in the shim
alone, COUNT pods at once (memory a pod, idle CPU, how fast they go), and a pull of 200 MB beside skopeo's."""
import gzip, hashlib, io, json, os, resource, shutil, subprocess, sys, tarfile, tempfile, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/../e2e")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import podlat

TOP = os.path.dirname(os.path.abspath(__file__)) + "/.."
CORACLE = os.environ.get("CORACLE_BUILD", TOP + "/build") + "/cli/coracle"
TICK = os.sysconf("SC_CLK_TCK")


def row(what, value, peer=""):
    print(f"{what}\t{value}\t{peer}", flush=True)


def p50(xs):
    return sorted(xs)[len(xs) // 2] * 1000


# ---- the shim alone ----

def shim_rows():
    import grpc
    from grpc_server import fields, put, text
    with grpc.insecure_channel("unix:/run/coracle/shim.sock") as channel:
        def call(method, request):
            return fields(channel.unary_unary("/runtime.v1.RuntimeService/" + method)(request, timeout=60))
        start, stop = [], []
        for i in range(30):
            meta = put(1, put(1, f"bench-{i}") + put(2, f"bench-uid-{i}") + put(3, "bench"))
            sandbox_config = meta + put(8, b"")
            t = time.monotonic()
            sandbox = text(call("RunPodSandbox", put(1, sandbox_config)), 1)
            config = put(1, put(1, "c")) + put(2, put(1, "busybox:latest")) + put(3, "sleep") + put(3, "1000")
            container = text(call("CreateContainer", put(1, sandbox) + put(2, config) + put(3, sandbox_config)), 1)
            call("StartContainer", put(1, container))
            start.append(time.monotonic() - t)
            t = time.monotonic()
            call("StopPodSandbox", put(1, sandbox))
            call("RemovePodSandbox", put(1, sandbox))
            stop.append(time.monotonic() - t)
        row("shim alone: sandbox + container to started, p50 ms", f"{p50(start):.0f}", "170-230 (containerd)")
        row("shim alone: stop and remove both, p50 ms", f"{p50(stop):.0f}")


# ---- many pods ----

def proc(pid, name):
    try:
        return open(f"/proc/{pid}/{name}").read()
    except OSError:
        return ""


def programs():
    """Our programs, and the monitors of containers."""
    own = [c["pid"] for c in json.load(open("/run/coracle/components.json")) if c["pid"]]
    monitors = [int(p) for p in os.listdir("/proc") if p.isdigit() and proc(p, "comm").strip() == "conmon"]
    return own, monitors


def pss(pids):
    return sum(int(line.split()[1]) for p in pids for line in proc(p, "smaps_rollup").splitlines() if line.startswith("Pss:"))


def cpu(pids):
    return sum(sum(map(int, proc(p, "stat").rsplit(")", 1)[1].split()[11:13])) for p in pids if proc(p, "stat"))


def available():
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable"))


def pod_rows(count):
    c = podlat.connect()
    threading.Thread(target=podlat.watch, daemon=True).start()
    time.sleep(0.5)
    own, monitors = programs()
    free, used = available(), pss(own + monitors)
    names = [f"many-{i}" for i in range(count)]
    t = time.monotonic()
    for n in names:
        podlat.call(c, "POST", "/api/v1/namespaces/default/pods", podlat.pod(n))
    podlat.wait(podlat.ready, names, 120)
    row(f"{count} pods at once: last Ready, s", f"{time.monotonic() - t:.1f}")
    time.sleep(15)
    own, monitors = programs()
    now = pss(own + monitors)
    row(f"{count} pods: PSS of ours and monitors, a pod, KiB", f"{(now - used) / count:.0f}")
    row(f"{count} pods: all memory, a pod, KiB (MemAvailable)", f"{(free - available()) / count:.0f}", "<= 1,536 (aim)")
    row(f"{count} pods: PSS, everything", f"{pss(own) / 1024:.1f} MB")
    before = cpu(own + monitors)
    time.sleep(20)
    row(f"{count} pods: idle CPU, % of a core", f"{(cpu(own + monitors) - before) / TICK / 20 * 100:.2f}")
    t = time.monotonic()
    for n in names:
        podlat.call(c, "DELETE", f"/api/v1/namespaces/default/pods/{n}")
    podlat.wait(podlat.gone, names, 120)
    import grpc
    with grpc.insecure_channel("unix:/run/coracle/shim.sock") as channel:
        while channel.unary_unary("/runtime.v1.RuntimeService/ListPodSandbox")(b"") and time.monotonic() - t < 120:
            time.sleep(0.1)
    row(f"{count} pods deleted: nothing of them left, s", f"{time.monotonic() - t:.1f}")


# ---- a pull ----

def layout(folder, megabytes, layers):
    """An OCI layout of an image of random bytes, which do not compress."""
    os.makedirs(folder + "/blobs/sha256")

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        open(f"{folder}/blobs/sha256/{digest}", "wb").write(data)
        return {"digest": "sha256:" + digest, "size": len(data)}
    descriptors, diffs = [], []
    for i in range(layers):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as t:
            info = tarfile.TarInfo(f"data{i}")
            info.size = megabytes * (1 << 20) // layers
            t.addfile(info, io.BytesIO(os.urandom(info.size)))
        diffs.append("sha256:" + hashlib.sha256(raw.getvalue()).hexdigest())
        descriptors.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **blob(gzip.compress(raw.getvalue(), 1))})
    config = blob(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}}).encode())
    manifest = blob(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json", **config}, "layers": descriptors}).encode())
    json.dump({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest}]},
              open(folder + "/index.json", "w"))
    json.dump({"imageLayoutVersion": "1.0.0"}, open(folder + "/oci-layout", "w"))


def pull_rows():
    work, port = tempfile.mkdtemp(), 5099
    layout(work + "/image", 200, 4)
    with open(work + "/registry.yml", "w") as f:
        f.write(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {work}/registry}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n")
    registry = subprocess.Popen(["docker-registry", "serve", work + "/registry.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        name = f"127.0.0.1:{port}/big:1"
        for _ in range(50):
            if subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{work}/image", "docker://" + name],
                              stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.2)
        subprocess.run(["sync"])
        before, t = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + name, f"dir:{work}/copy"], check=True)
        subprocess.run(["sync", "-f", work])
        took, after = time.monotonic() - t, resource.getrusage(resource.RUSAGE_CHILDREN)
        peer = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        shim = [x["pid"] for x in json.load(open("/run/coracle/components.json")) if x["name"] == "shim"]
        ticks, t = cpu(shim), time.monotonic()
        subprocess.run([CORACLE, "image", "pull", name], check=True, stdout=subprocess.DEVNULL)
        row("pull of 200 MB, unpacked and synced (skopeo: copied), s", f"{time.monotonic() - t:.2f}", f"{took:.2f} (skopeo)")
        row("pull of 200 MB, CPU s", f"{(cpu(shim) - ticks) / TICK:.2f}", f"{peer:.2f} (skopeo)")
    finally:
        registry.terminate()
        registry.wait()
        shutil.rmtree(work)


if __name__ == "__main__":
    shim_rows()
    pod_rows(int(sys.argv[1]) if len(sys.argv) > 1 else 110)
    pull_rows()
