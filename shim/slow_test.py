#!/usr/bin/env python3
"""Drives a real coracle-shim as root: slow_test.py SHIM CRI_CLIENT BUSYBOX_IMAGE_SCRIPT

Runs in a network namespace of its own, with folders of its own below /tmp. Needs crun, conmon and busybox-static;
exits 77 (skipped) where one is missing or it is not root."""
import base64, json, os, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, urllib.parse

SHIM, CLIENT, MAKE_IMAGE = map(os.path.abspath, sys.argv[1:4])
NEEDED = ["/usr/bin/crun", "/usr/bin/conmon", "/bin/busybox"]


class Failed(Exception):
    pass


def check(cond, what):
    if not cond:
        raise Failed(what)


class Node:
    def __init__(self, name, cidr):
        self.dir = tempfile.mkdtemp(prefix=f"shim-test-{name}-", dir="/tmp")
        self.sock, self.logs, self.cgroup = f"{self.dir}/s.sock", f"{self.dir}/logs", f"/shimtest-{os.getpid()}-{name}"
        self.common = [f"--root={self.dir}/root", f"--state={self.dir}/state", f"--bridge=cb{name}{os.getpid() % 10000}",
                       f"--cgroup-root={self.cgroup}"]
        self.args = [f"--listen={self.sock}", f"--pod-cidr={cidr}"] + self.common
        self.proc = None

    def start(self):
        self.log = open(f"{self.dir}/shim.log", "a")
        self.proc = subprocess.Popen([SHIM] + self.args, stderr=self.log)
        for _ in range(200):
            if self.ok("Version"):
                return
            time.sleep(0.05)
        raise Failed("the shim does not answer: " + self.log_text())

    def kill(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)
        self.proc.wait()

    def log_text(self):
        with open(f"{self.dir}/shim.log") as f:
            return f.read()

    def run(self, method, request=None):
        return subprocess.run([CLIENT, self.sock, method, json.dumps(request or {})], capture_output=True, text=True)

    def ok(self, method):
        return self.run(method).returncode == 0

    def call(self, method, **request):
        r = self.run(method, request)
        if r.returncode:
            raise Failed(f"{method}: {r.stderr.strip()}")
        return json.loads(r.stdout)

    def fails(self, method, **request):
        r = self.run(method, request)
        check(r.returncode, f"{method} should have failed, it answered {r.stdout}")
        return r.stderr

    def pod(self, name, pid="CONTAINER", **config):
        config.setdefault("linux", {"security_context": {"namespace_options": {"pid": pid}}})
        config["linux"].setdefault("cgroup_parent", f"{self.cgroup}/pod-{name}")
        return self.call("RunPodSandbox", config={
            "metadata": {"name": name, "uid": "uid-" + name, "namespace": "default"}, "hostname": name,
            "log_directory": f"{self.logs}/{name}", **config})["pod_sandbox_id"]

    def container(self, pod, name, *command, pid="CONTAINER", security={}, resources={}, start=True, **config):
        sc = {"namespace_options": {"pid": pid}, "seccomp": {"profile_type": "RuntimeDefault"}, **security}
        cid = self.call("CreateContainer", pod_sandbox_id=pod, config={
            "metadata": {"name": name}, "image": {"image": "busybox"}, "command": list(command),
            "log_path": f"{name}/0.log", "linux": {"security_context": sc, "resources": resources}, **config})["container_id"]
        if start:
            self.call("StartContainer", container_id=cid)
        return cid

    def status(self, cid):
        return self.call("ContainerStatus", container_id=cid)["status"]

    def wait_exit(self, cid, seconds=10):
        for _ in range(seconds * 20):
            st = self.status(cid)
            if st.get("state") == "CONTAINER_EXITED":
                return st
            time.sleep(0.05)
        raise Failed(f"container {cid} does not exit")

    def exec(self, cid, *cmd, timeout=10):
        r = self.call("ExecSync", container_id=cid, cmd=list(cmd), timeout=str(timeout))
        return r.get("exit_code", 0), base64.b64decode(r.get("stdout", "")).decode(), base64.b64decode(r.get("stderr", "")).decode()

    def log_of(self, pod_name, name):
        with open(f"{self.logs}/{pod_name}/{name}/0.log") as f:
            return f.read()

    def ip(self, pod):
        return self.call("PodSandboxStatus", pod_sandbox_id=pod)["status"]["network"]["ip"]

    def cleanup(self):
        if self.proc and self.proc.poll() is None:
            self.kill(signal.SIGTERM)
            check(self.proc.returncode == 0, f"the shim ended with {self.proc.returncode} on SIGTERM: {self.log_text()[-6000:]}")
        subprocess.run([SHIM, "cleanup", "--purge-images"] + self.common, check=True)


def websocket(url, protocol, sends=()):
    """Frames that come back, as {channel: bytes}."""
    u = urllib.parse.urlparse(url)
    s = socket.create_connection((u.hostname, u.port), timeout=10)
    s.sendall((f"GET {u.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
               f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n").encode())
    f = s.makefile("rb")
    head = f.readline()
    check(b" 101 " in head, f"upgrade answered {head}")
    while f.readline() != b"\r\n":
        pass
    for channel, data in sends:
        p = bytes([channel]) + data
        s.sendall(bytes([0x82, 0x80 | len(p), 0, 0, 0, 0]) + p)
    out = {}
    while True:
        h = f.read(2)
        if len(h) < 2 or h[0] & 15 == 8:
            return out
        n = h[1] & 127
        n = struct.unpack(">H", f.read(2))[0] if n == 126 else struct.unpack(">Q", f.read(8))[0] if n == 127 else n
        p = f.read(n)
        if p:
            out[p[0]] = out.get(p[0], b"") + p[1:]


# ---- tests: functions of a node, run in order ----

def images_are_imported_listed_and_found(n):
    subprocess.run([MAKE_IMAGE, f"{n.dir}/bb.tar", "docker.io/library/busybox:latest"], check=True, stdout=subprocess.DEVNULL)
    out = subprocess.run([SHIM, "image", "import", f"{n.dir}/bb.tar", f"--listen={n.sock}"], check=True, capture_output=True, text=True).stdout
    check("docker.io/library/busybox:latest" in out, f"import says {out}")
    images = n.call("ListImages")["images"]
    check(len(images) == 1 and images[0]["repo_tags"] == ["docker.io/library/busybox:latest"], f"images: {images}")
    for name in ("busybox", "docker.io/library/busybox", images[0]["id"], images[0]["id"][7:19]):
        check(n.call("ImageStatus", image={"image": name}).get("image", {}).get("id") == images[0]["id"], f"not found as {name}")
    check("image" not in n.call("ImageStatus", image={"image": "nothing:here"}), "an unknown image was found")
    check(int(n.call("ImageFsInfo")["image_filesystems"][0]["used_bytes"]["value"]) > 1000000, "image file system is empty")


def a_container_runs_logs_and_says_how_it_ended(n):
    p = n.pod("p1")
    c = n.container(p, "c", "sh", "-c", "echo out; echo err >&2; exit 3")
    st = n.wait_exit(c)
    check(st.get("exit_code") == 3 and st["reason"] == "Error", f"status {st}")
    check(int(st["finished_at"]) >= int(st["started_at"]) >= int(st["created_at"]), "times are out of order")
    log = n.log_of("p1", "c")
    check(" stdout F out\n" in log and " stderr F err\n" in log, f"log {log!r}")
    ok = n.container(p, "ok", "true")
    check(n.wait_exit(ok)["reason"] == "Completed", "true is not Completed")
    n.call("RemovePodSandbox", pod_sandbox_id=p)
    check(not n.call("ListContainers").get("containers"), "containers are left")


def what_is_asked_for_is_what_the_process_sees(n):
    p = n.pod("p2", linux={"sysctls": {"net.ipv4.ip_unprivileged_port_start": "99"}}, dns_config={"servers": ["10.1.2.3"], "searches": ["a.b"]})
    os.makedirs(f"{n.dir}/vol/sub")
    c = n.container(p, "c", "sleep", "1000", working_dir="/tmp", envs=[{"key": "K", "value": base64.b64encode(b"v w").decode()}],
                    mounts=[{"container_path": "/vol/sub", "host_path": f"{n.dir}/vol/sub"},
                            {"container_path": "/vol", "host_path": f"{n.dir}/vol", "readonly": True}],
                    security={"run_as_user": {"value": "1000"}, "run_as_group": {"value": "2000"}, "supplemental_groups": ["3000"],
                              "readonly_rootfs": True, "no_new_privs": True, "capabilities": {"drop_capabilities": ["ALL"]}})
    code, out, err = n.exec(c, "sh", "-c", 'echo "$K"; pwd; id -u; id -g; id -G; hostname; cat /etc/resolv.conf; '
                            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status")
    lines = out.split("\n")
    check(lines[:6] == ["v w", "/tmp", "1000", "2000", "2000 3000", "p2"], f"saw {lines}")
    for want in ("search a.b", "nameserver 10.1.2.3", "99", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        check(want in lines, f"{want!r} not in {lines}")
    check(n.exec(c, "sh", "-c", "touch /x || touch /vol/x")[0] != 0, "read-only is writable")
    for refused in (["unshare", "-U", "true"], ["mount", "-t", "tmpfs", "x", "/tmp"]):
        check(n.exec(c, *refused)[0] != 0, f"{refused} was allowed")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def exec_has_codes_output_and_a_timeout(n):
    p = n.pod("p3")
    c = n.container(p, "c", "sleep", "1000")
    check(n.exec(c, "sh", "-c", "echo a; echo b >&2; exit 9") == (9, "a\n", "b\n"), "wrong answer")
    t = time.time()
    check(n.exec(c, "sh", "-c", "sleep 50 & echo hi")[1] == "hi\n" and time.time() - t < 4, "waits for a child in the background")
    check(n.exec(c, "sh", "-c", "dd if=/dev/zero bs=1000000 count=3 2>/dev/null")[1] == "\0" * 3000000, "output is lost")
    check("not found" in n.fails("ExecSync", container_id=c, cmd=["nothing"], timeout="5"), "a missing program is no error")
    t = time.time()
    check("timed out" in n.fails("ExecSync", container_id=c, cmd=["sleep", "100"], timeout="1"), "no timeout")
    check(time.time() - t < 4, "the timeout took too long")
    check("sleep 100" not in n.exec(c, "ps", "-o", "args")[1].replace("sleep 1000", ""), "the timed out command still runs")
    r = websocket(n.call("Exec", container_id=c, cmd=["sh", "-c", "cat; exit 2"], stdin=True, stdout=True)["url"],
                  "v5.channel.k8s.io", [(0, b"hello"), (255, b"\0")])
    check(r[1] == b"hello" and b'"NonZeroExitCode"' in r[3], f"exec stream: {r}")
    r = websocket(n.call("Exec", container_id=c, cmd=["sh"], stdin=True, stdout=True, tty=True)["url"], "v5.channel.k8s.io",
                  [(4, b'{"Width":91,"Height":37}'), (0, b"sleep 0.3; stty size; exit\n")])
    check(b"37 91" in r[1] and b'"Success"' in r[3], f"exec with terminal: {r}")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def a_container_is_stopped_by_its_signal_then_killed(n):
    p = n.pod("p4")
    polite = n.container(p, "polite", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
    rude = n.container(p, "rude", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    time.sleep(0.2)
    n.call("StopContainer", container_id=polite, timeout="5")
    check(n.status(polite).get("exit_code") == 7, "the signal was not delivered")
    t = time.time()
    n.call("StopContainer", container_id=rude, timeout="1")
    check(0.9 < time.time() - t < 4 and n.status(rude)["exit_code"] == 137, "not killed after the grace period")
    n.call("StopContainer", container_id=rude, timeout="1")
    n.call("RemovePodSandbox", pod_sandbox_id=p)
    n.call("StopPodSandbox", pod_sandbox_id=p)


def memory_limits_kill_and_updates_take_effect(n):
    p = n.pod("p5")
    c = n.container(p, "oom", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", resources={"memory_limit_in_bytes": "20971520"})
    st = n.wait_exit(c)
    check(st["reason"] == "OOMKilled" and st["exit_code"] == 137, f"status {st}")
    c = n.container(p, "upd", "sleep", "1000", resources={"memory_limit_in_bytes": "50000000", "cpu_shares": "512"})
    n.call("UpdateContainerResources", container_id=c, linux={"memory_limit_in_bytes": str(64 << 20)})
    check(n.status(c)["resources"]["linux"]["memory_limit_in_bytes"] == str(64 << 20), "status shows the old limit")
    stats = n.call("ContainerStats", container_id=c)["stats"]
    total = int(stats["memory"]["working_set_bytes"]["value"]) + int(stats["memory"]["available_bytes"]["value"])
    check(total == 64 << 20, f"limit in effect: {total}")
    check(len(n.call("ListContainerStats")["stats"]) == 1, "stats of other than the running container")
    check(n.call("PodSandboxStats", pod_sandbox_id=p)["stats"]["linux"]["network"]["default_interface"]["name"] == "eth0", "no network stats")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def pods_reach_each_other_and_host_ports_open(n):
    a = n.pod("net-a", port_mappings=[{"container_port": 80, "host_port": 18080}])
    b = n.pod("net-b")
    n.container(a, "web", "sh", "-c", "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w")
    c = n.container(b, "client", "sleep", "1000")
    ip = n.ip(a)
    check(n.ip(b) != ip, "two pods have one address")
    for _ in range(50):
        # not wget: in Debian's static busybox it crashes while resolving
        code, out, err = n.exec(c, "sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {ip} 80")
        if "page" in out:
            break
        time.sleep(0.1)
    check("page" in out, f"the other pod does not answer: {err}")
    for target in ("127.0.0.1", ip.rsplit(".", 1)[0] + ".1"):
        with socket.create_connection((target, 18080), timeout=3) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            check(b"page" in s.makefile("rb").read(), f"host port at {target}")
    for x in (a, b):
        n.call("RemovePodSandbox", pod_sandbox_id=x)
    try:
        socket.create_connection(("127.0.0.1", 18080), timeout=1).close()
        raise Failed("the host port is still open")
    except OSError:
        pass


def a_shared_process_namespace_is_shared(n):
    p = n.pod("share", pid="POD")
    n.container(p, "a", "sleep", "12345", pid="POD")
    c = n.container(p, "b", "sleep", "1000", pid="POD")
    check("sleep 12345" in n.exec(c, "ps", "-o", "args")[1], "the other container's process is not seen")
    n.call("StopPodSandbox", pod_sandbox_id=p)
    check(n.call("PodSandboxStatus", pod_sandbox_id=p)["status"]["state"] == "SANDBOX_NOTREADY", "still ready")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def host_namespaces_are_the_hosts(n):
    host = {"network": "NODE", "pid": "NODE", "ipc": "NODE"}
    p = n.pod("host", linux={"security_context": {"namespace_options": host}})
    c = n.container(p, "c", "sleep", "1000", security={"namespace_options": host, "privileged": True})
    _, out, _ = n.exec(c, "sh", "-c", "for i in net pid ipc uts; do readlink /proc/self/ns/$i; done; ls /sys/class/net; cat /etc/resolv.conf")
    mine = [os.readlink(f"/proc/self/ns/{i}") for i in ("net", "pid", "ipc")]
    check(out.split("\n")[:3] == mine, f"{out} is not {mine}")
    check(not n.call("PodSandboxStatus", pod_sandbox_id=p)["status"]["network"].get("ip"), "a host-network pod has an address of its own")
    check(os.path.exists(f"/proc/{os.getpid()}") and n.exec(c, "ls", f"/proc/{os.getpid()}")[0] == 0, "host processes are not seen")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def images_are_volumes(n):
    p = n.pod("imgvol")
    c = n.container(p, "c", "sleep", "1000", mounts=[{"container_path": "/img", "image": {"image": "busybox"}, "image_sub_path": "etc"}])
    check("root:x:0" in n.exec(c, "cat", "/img/passwd")[1] and n.exec(c, "touch", "/img/x")[0] != 0, "not the image, or writable")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def cni_plugins_are_used_when_configured(n):
    conf, bins = f"{n.dir}/net.d", "/usr/lib/cni"
    if not os.path.exists(f"{bins}/bridge"):
        return
    os.makedirs(conf)
    with open(f"{conf}/10-test.conflist", "w") as f:
        json.dump({"cniVersion": "0.4.0", "name": "test", "plugins": [
            {"type": "bridge", "bridge": "cnitest", "isGateway": True, "ipMasq": False,
             "ipam": {"type": "host-local", "dataDir": f"{n.dir}/cni", "ranges": [[{"subnet": "10.79.0.0/24"}]]}}]}, f)
    plain = n.args
    n.kill()
    n.args = plain + [f"--cni-conf-dir={conf}", f"--cni-bin-dir={bins}"]
    n.start()
    p = n.pod("cni")
    check(n.ip(p).startswith("10.79.0."), f"address {n.ip(p)}")
    n.call("RemovePodSandbox", pod_sandbox_id=p)
    check(not [x for x in os.listdir(f"{n.dir}/cni/test") if x.startswith("10.79")], "the address was not given back")
    n.kill()
    n.args = plain
    n.start()
    subprocess.run(["ip", "link", "del", "cnitest"], check=True)


def start_failures_are_told(n):
    p = n.pod("fail")
    c = n.container(p, "c", "/no/such/program", start=False)
    n.fails("StartContainer", container_id=c)
    st = n.status(c)
    check(st["state"] == "CONTAINER_EXITED" and st["reason"] == "StartError" and st["exit_code"] == 128 and "no/such" in st["message"], f"{st}")
    n.fails("CreateContainer", pod_sandbox_id=p, config={"metadata": {"name": "x"}, "image": {"image": "absent"}})
    n.fails("CreateContainer", pod_sandbox_id="0" * 64, config={"metadata": {"name": "x"}, "image": {"image": "busybox"}})
    n.fails("ContainerStatus", container_id="0" * 64)
    n.call("RemovePodSandbox", pod_sandbox_id=p)
    n.call("RemoveContainer", container_id="0" * 64)


def logs_are_reopened(n):
    p = n.pod("logs")
    c = n.container(p, "c", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    path = f"{n.logs}/logs/c/0.log"
    time.sleep(0.3)
    os.rename(path, path + ".1")
    n.call("ReopenContainerLog", container_id=c)
    time.sleep(0.5)
    check(os.path.exists(path) and "tick" in open(path).read(), "no new log")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def events_tell_of_starts_and_ends(n):
    got = []
    ev = subprocess.Popen([CLIENT, n.sock, "GetContainerEvents"], stdout=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: got.extend(json.loads(l) for l in ev.stdout), daemon=True).start()
    time.sleep(0.5)
    p = n.pod("ev")
    c = n.container(p, "c", "true")
    n.wait_exit(c)
    n.call("RemovePodSandbox", pod_sandbox_id=p)
    time.sleep(1)
    ev.kill()
    ev.wait()
    mine = [e.get("container_event_type", "CONTAINER_CREATED_EVENT") for e in got if e["container_id"] == c]
    check(mine == ["CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"], f"events {mine}")


def a_killed_shim_finds_everything_again(n):
    p = n.pod("crash")
    runs = n.container(p, "runs", "sleep", "1000")
    ends = n.container(p, "ends", "sh", "-c", "sleep 0.6; exit 5")
    made = n.container(p, "made", "sleep", "1000", start=False)
    lost = n.container(p, "lost", "sleep", "1000")
    pid = json.loads(n.call("ContainerStatus", container_id=lost, verbose=True)["info"]["info"])["pid"]
    monitor = int(open(f"{n.dir}/state/containers/{lost}/conmon.pid").read())
    ip = n.ip(p)
    n.kill()
    n.args = [a for a in n.args if not a.startswith("--pod-cidr")]  # it is remembered
    for half in ("root/sandboxes/", "state/sandboxes/", "root/containers/", "state/containers/"):
        os.makedirs(f"{n.dir}/{half}{'f' * 64}")
    os.kill(monitor, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    n.start()
    check(n.status(runs)["state"] == "CONTAINER_RUNNING" and n.exec(runs, "true")[0] == 0, "the running container is lost")
    check(n.status(ends)["exit_code"] == 5, "the exit code is lost")
    check(n.status(lost)["state"] == "CONTAINER_EXITED" and n.status(lost)["exit_code"] == 255, "a dead container without monitor runs")
    check(n.status(made).get("state", "CONTAINER_CREATED") == "CONTAINER_CREATED", "the created container is lost")
    n.call("StartContainer", container_id=made)
    check(n.ip(p) == ip, "the pod's address changed")
    check(not os.path.exists(f"{n.dir}/root/containers/{'f' * 64}") and not os.path.exists(f"{n.dir}/state/sandboxes/{'f' * 64}"), "leftovers stay")
    late = n.container(p, "late", "true")
    check(n.wait_exit(late).get("exit_code", 0) == 0, "a container started after the restart")
    n.call("StopContainer", container_id=runs, timeout="0")
    check(n.status(runs)["exit_code"] == 137, "exits after a restart are not noticed")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def after_a_reboot_nothing_runs_but_all_is_known(n):
    p = n.pod("boot", pid="POD")
    runs = n.container(p, "runs", "sleep", "1000", pid="POD")
    made = n.container(p, "made", "sleep", "1000", start=False, pid="POD")
    n.kill()
    for pid in filter(str.isdigit, os.listdir("/proc")):  # what a power cut does to processes, mounts and /run
        try:
            ours = n.dir in open(f"/proc/{pid}/cmdline").read()
            ours |= any(n.cgroup in l for l in open(f"/proc/{pid}/cgroup"))
        except OSError:
            continue
        if ours and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    for line in reversed(open("/proc/mounts").read().splitlines()):
        if n.dir in line:
            subprocess.run(["umount", "-l", line.split()[1]], check=True)
    shutil.rmtree(f"{n.dir}/state")
    for kind in ("sandboxes", "containers"):
        for i in os.listdir(f"{n.dir}/root/{kind}"):
            path = f"{n.dir}/root/{kind}/{i}/record.json"
            text = open(path).read()
            boot = open("/proc/sys/kernel/random/boot_id").read().strip()
            check(boot in text, "the record names no boot")
            open(path, "w").write(text.replace(boot, "another"))
    n.start()
    check(n.call("PodSandboxStatus", pod_sandbox_id=p)["status"]["state"] == "SANDBOX_NOTREADY", "the sandbox is ready")
    for c in (runs, made):
        st = n.status(c)
        check(st["state"] == "CONTAINER_EXITED" and st["exit_code"] == 255, f"{st}")
    n.call("RemovePodSandbox", pod_sandbox_id=p)
    p = n.pod("boot2")
    n.container(p, "c", "sleep", "1000")
    n.call("RemovePodSandbox", pod_sandbox_id=p)


def it_may_be_killed_at_any_moment(n):
    for delay in (0.01, 0.03, 0.05, 0.08, 0.12, 0.2):
        def work():
            try:
                p = n.pod(f"chaos{int(delay * 1000)}")
                n.container(p, "c", "sleep", "1000")
            except (Failed, json.JSONDecodeError):
                pass
        t = threading.Thread(target=work)
        t.start()
        time.sleep(delay)
        n.kill()
        t.join()
        n.start()
        for pod in n.call("ListPodSandbox").get("items", []):
            n.call("RemovePodSandbox", pod_sandbox_id=pod["id"])
    check(not n.call("ListContainers").get("containers"), "containers are left")
    for d in ("root/sandboxes", "root/containers", "state/sandboxes", "state/containers", "state/ipam"):
        check(os.listdir(f"{n.dir}/{d}") == [], f"left in {d}: {os.listdir(f'{n.dir}/{d}')}")


def images_are_pulled_from_a_registry(n):
    if not all(map(shutil.which, ("docker-registry", "skopeo"))):
        return
    with open(f"{n.dir}/reg.yml", "w") as f:
        f.write(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {n.dir}/reg}}}}\nhttp: {{addr: 127.0.0.1:5099}}\n")
    reg = subprocess.Popen(["docker-registry", "serve", f"{n.dir}/reg.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", 5099), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        subprocess.run(["skopeo", "copy", "--dest-tls-verify=false", "--format=oci", f"docker-archive:{n.dir}/bb.tar", "docker://127.0.0.1:5099/team/bb:1"],
                       check=True, stdout=subprocess.DEVNULL)
        n.call("RemoveImage", image={"image": "busybox"})
        ref = n.call("PullImage", image={"image": "127.0.0.1:5099/team/bb:1"})["image_ref"]
        im = n.call("ImageStatus", image={"image": "127.0.0.1:5099/team/bb:1"})["image"]
        check(im["id"] == ref and im["repo_digests"][0].startswith("127.0.0.1:5099/team/bb@sha256:"), f"{im}")
        check(n.call("ImageStatus", image={"image": im["repo_digests"][0]})["image"]["id"] == ref, "not found by digest")
        check("not found" in n.fails("PullImage", image={"image": "127.0.0.1:5099/team/none:1"}), "a missing image was pulled")
    finally:
        reg.kill()
        reg.wait()


def two_shims_share_a_machine(n):
    other = Node("o", "10.78.2.0/24")
    try:
        other.start()
        subprocess.run([SHIM, "image", "import", f"{n.dir}/bb.tar", f"--listen={other.sock}"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([SHIM, "image", "import", f"{n.dir}/bb.tar", f"--listen={n.sock}"], check=True, stdout=subprocess.DEVNULL)
        p, q = n.pod("one"), other.pod("two")
        n.container(p, "c", "sleep", "1000")
        c = other.container(q, "c", "sleep", "1000")
        other.cleanup()
        check(len(n.call("ListContainers")["containers"]) == 1, "the other shim's cleanup hurt this one")
        n.call("RemovePodSandbox", pod_sandbox_id=p)
    finally:
        other.cleanup()
        shutil.rmtree(other.dir)


def cleanup_leaves_nothing(n):
    check("Sanitizer" not in n.log_text() and "runtime error" not in n.log_text(), n.log_text()[-6000:])
    n.kill(signal.SIGTERM)
    check(n.proc.returncode == 0, f"ended with {n.proc.returncode} on SIGTERM: {n.log_text()[-6000:]}")
    n.start()
    p = n.pod("end", pid="POD")
    n.container(p, "c", "sleep", "1000", pid="POD")
    n.kill()
    t = time.time()
    n.cleanup()
    check(time.time() - t < 8, "cleanup is slow")
    check(n.dir not in open("/proc/mounts").read(), "mounts are left")
    check(not os.path.exists(f"{n.dir}/state") and not os.path.exists(f"{n.dir}/root"), "folders are left")
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    check(links.count("\n") == 1, f"links are left: {links}")
    check("coracle" not in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout, "rules are left")
    found = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-name", n.cgroup[1:]], capture_output=True, text=True).stdout
    check(not found, f"cgroups are left: {found}")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            cmd = open(f"/proc/{pid}/cmdline").read()
        except OSError:
            continue
        check(n.dir not in cmd or int(pid) == os.getpid(), f"process {pid} is left: {cmd}")


TESTS = [images_are_imported_listed_and_found, a_container_runs_logs_and_says_how_it_ended,
         what_is_asked_for_is_what_the_process_sees, exec_has_codes_output_and_a_timeout,
         a_container_is_stopped_by_its_signal_then_killed, memory_limits_kill_and_updates_take_effect,
         pods_reach_each_other_and_host_ports_open, a_shared_process_namespace_is_shared, host_namespaces_are_the_hosts,
         images_are_volumes, cni_plugins_are_used_when_configured, start_failures_are_told,
         logs_are_reopened, events_tell_of_starts_and_ends, a_killed_shim_finds_everything_again,
         after_a_reboot_nothing_runs_but_all_is_known, it_may_be_killed_at_any_moment, images_are_pulled_from_a_registry, two_shims_share_a_machine, cleanup_leaves_nothing]


def main():
    if os.geteuid() or not all(map(os.path.exists, NEEDED)):
        print("skipped: needs root, crun, conmon and busybox-static")
        return 77
    if "SHIM_TEST_NETNS" not in os.environ:
        os.environ["SHIM_TEST_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "--net"] + [sys.executable] + sys.argv)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    chosen = sys.argv[4:]
    n, failed = Node("t", "10.78.1.0/24"), 0
    try:
        n.start()
        for test in TESTS:
            if chosen and test not in (TESTS[0], TESTS[-1]) and not any(c in test.__name__ for c in chosen):
                continue
            t = time.time()
            try:
                test(n)
                print(f"ok     {test.__name__} ({time.time() - t:.1f} s)", flush=True)
            except (Failed, KeyError, OSError, subprocess.CalledProcessError) as e:
                failed += 1
                print(f"FAILED {test.__name__}: {type(e).__name__} {e}", flush=True)
                if n.proc.poll() is not None and test is not cleanup_leaves_nothing:
                    n.start()
    finally:
        if failed:
            print(n.log_text()[-3000:])
        n.cleanup()
        shutil.rmtree(n.dir, ignore_errors=True)
    return failed != 0


sys.exit(main())
