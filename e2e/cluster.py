"""For end-to-end tests in Python: a cluster in a network namespace and folders of its own, and a count of checks.

    with Cluster("ct-x", kubelet_config={"podPidsLimit": 200}) as c:
        c.apply(pod(...)); check("it runs", until(60, lambda: c.phase("p") == "Running"))
    finish()
"""
import json, os, shutil, signal, subprocess, sys, tempfile, time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("CORACLE_BUILD", TOP + "/build")
CORACLE = BUILD + "/cli/coracle"
counts = {True: 0, False: 0}


def check(name, ok, why=""):
    counts[bool(ok)] += 1
    print(("ok      " if ok else "FAILED  ") + name + ("" if ok else f": {why() if callable(why) else why}"), flush=True)
    return bool(ok)


def finish():
    print(f"{counts[True]} passed, {counts[False]} failed")
    sys.exit(counts[False] != 0)


def run(*args, **kw):
    return subprocess.run(args, capture_output=True, text=True, **kw)


def until(seconds, condition):
    """The condition's first true value within so many seconds, else its last one."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.1)


def pod(name, *command, image="busybox:latest", volumes=(), mounts=(), spec={}, **container):
    """A pod of one container, "main"."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1, "volumes": list(volumes), **spec, "containers": [{
            "name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "volumeMounts": list(mounts),
            **({"command": list(command)} if command else {}), **container}]}}


class Cluster:
    def __init__(self, name, kubelet_config=None, data_size=None, up=(), files={}):
        self.name = f"{name}-{os.getpid()}"  # one run does not disturb another
        self.dir = tempfile.mkdtemp(prefix=name + "-")
        self.data, self.run_dir, self.data_size, self.up_args = self.dir + "/data", self.dir + "/run", data_size, list(up)
        self.files = dict(files)  # of the data folder, as JSON (which is YAML)
        if kubelet_config:
            self.files["kubelet.yaml"] = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", **kubelet_config}

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a test that is cut short cleans up too
        run("ip", "netns", "del", self.name)
        for args in (["ip", "netns", "add", self.name], ["ip", "-n", self.name, "link", "set", "lo", "up"],
                     ["ip", "-n", self.name, "link", "add", "up0", "type", "veth", "peer", "name", "up1"],
                     ["ip", "-n", self.name, "addr", "add", "10.98.0.1/24", "dev", "up0"],
                     ["ip", "-n", self.name, "link", "set", "up0", "up"], ["ip", "-n", self.name, "link", "set", "up1", "up"]):
            subprocess.run(args, check=True)
        os.mkdir(self.data)
        if self.data_size:  # a disk of its own, that can be filled
            with open(self.dir + "/disk", "wb") as f:
                f.truncate(self.data_size)
            subprocess.run(["mkfs.ext4", "-q", self.dir + "/disk"], check=True)
            subprocess.run(["mount", "-o", "loop", self.dir + "/disk", self.data], check=True)
        for name, content in self.files.items():
            with open(f"{self.data}/{name}", "w") as f:
                json.dump(content, f)
        r = self.coracle("up", *self.up_args)
        if not check("the cluster comes up", r.returncode == 0, r.stdout + r.stderr):
            self.__exit__()
            finish()
        image = self.dir + "/busybox.tar"
        run(TOP + "/hack/busybox-image", image)
        r = self.coracle("image", "import", image)
        check("it imports an image", r.returncode == 0, r.stderr)
        until(60, lambda: self.get("serviceaccount", "default"))  # else the first pods are refused
        return self

    def __exit__(self, *_):
        if os.environ.get("KEEP"):
            print("kept:", self.dir)
            return
        self.coracle("down", "--purge")
        if self.data_size:
            run("umount", self.data)
        run("ip", "netns", "del", self.name)
        shutil.rmtree(self.dir, ignore_errors=True)

    def inside(self, *args, **kw):
        """Runs a program in the cluster's network namespace."""
        return run("nsenter", "--net=/run/netns/" + self.name, *args, **kw)

    def coracle(self, *args):
        return self.inside(CORACLE, *args, "--data-dir", self.data, "--run-dir", self.run_dir)

    def kubectl(self, *args, **kw):
        return self.inside("kubectl", "--kubeconfig", self.data + "/admin.kubeconfig", *args, **kw)

    def apply(self, *objects):
        r = self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        if r.returncode:
            check("kubectl apply", False, r.stderr)

    def get(self, *args):
        """The object or list, {} when there is none."""
        r = self.kubectl("get", *args, "-o", "json")
        return json.loads(r.stdout) if r.returncode == 0 else {}

    def phase(self, name):
        return self.get("pod", name).get("status", {}).get("phase")

    def main(self, name):
        """The status of the pod's container "main"."""
        return next((s for s in self.get("pod", name).get("status", {}).get("containerStatuses", []) if s["name"] == "main"), {})

    def ready(self, name):
        return self.main(name).get("ready")

    def waiting(self, name):
        return self.main(name).get("state", {}).get("waiting", {})

    def events(self, name):
        """"reason: message" of all events about the object."""
        items = self.get("events", "--field-selector", "involvedObject.name=" + name).get("items", [])
        return [f"{e.get('reason')}: {e.get('message')}" for e in items]

    def event(self, name, *words):
        """The first event about the object that holds all the words."""
        return next((e for e in self.events(name) if all(w.lower() in e.lower() for w in words)), None)

    def condition(self, kind, name, condition):
        return next((c["status"] for c in self.get(kind, name).get("status", {}).get("conditions", []) if c["type"] == condition), None)

    def kill(self, name):
        """kill -9 of one of coracle's programs; nothing when it has ended and is not back yet."""
        try:
            os.kill(self.components()[name], signal.SIGKILL)
        except (KeyError, ProcessLookupError):
            pass

    def components(self):
        """{name: pid} of coracle's programs."""
        with open(self.run_dir + "/components.json") as f:
            return {c["name"]: c["pid"] for c in json.load(f) if c["pid"]}
