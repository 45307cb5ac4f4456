"""A lone API server for end-to-end tests written in Python: started in a folder of its own, on a port of its own, with
the calls that tests need. check() counts; finish() prints the closing line that hack/test reads."""
import http.client, json, os, shutil, signal, ssl, subprocess, sys, tempfile, time
from ports import free_port

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("CORACLE_BUILD", TOP + "/build")
counts = {"passed": 0, "failed": 0}

def check(name, ok, why=""):
    counts["passed" if ok else "failed"] += 1
    print(("ok      " if ok else "FAILED  ") + name + ("" if ok else f": {why}"), flush=True)
    return ok

def finish():
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    sys.exit(1 if counts["failed"] else 0)

def until(seconds, f):
    """The first true value of f(), or its last one."""
    end = time.monotonic() + seconds
    while True:
        v = f()
        if v or time.monotonic() > end: return v
        time.sleep(0.1)

class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.text = status, headers, body
    @property
    def json(self):
        try: return json.loads(self.text)
        except ValueError: return {}

class Lone:
    def __init__(self, *flags, port=None):
        self.dir = tempfile.mkdtemp(prefix="coracle-test-")
        self.port = port or free_port()
        self.flags = list(flags)
        self.process = None
        self.start()
    def start(self):
        log = open(self.dir + "/log", "a")
        self.process = subprocess.Popen([BUILD + "/apiserver/coracle-apiserver", "--data-dir", self.dir, "--bind-address", "127.0.0.1",
                                         "--advertise-address", "10.1.2.3", "--secure-port", str(self.port), *self.flags],
                                        stdout=log, stderr=log)
        if not until(60, lambda: self.call("GET", "/readyz").status == 200):
            print(open(self.dir + "/log").read())
            raise SystemExit("the API server does not answer")
    def path(self, name): return f"{self.dir}/pki/{name}"
    def kubeconfig(self): return self.dir + "/admin.kubeconfig"
    def context(self, cert="admin"):
        ctx = ssl.create_default_context(cafile=self.path("ca.crt"))
        if cert: ctx.load_cert_chain(self.path(cert + ".crt"), self.path(cert + ".key"))
        return ctx
    def connect(self, cert="admin", timeout=60):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context(cert), timeout=timeout)
    def call(self, method, path, body=None, headers=None, cert="admin", timeout=60):
        h = {"Content-Type": "application/json", **(headers or {})}
        try:
            c = self.connect(cert, timeout)
            c.request(method, path, json.dumps(body) if isinstance(body, (dict, list)) else body, h)
            r = c.getresponse()
            return Answer(r.status, r.headers, r.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException) as e:
            return Answer(0, {}, repr(e))
    def rss_kb(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"): return int(line.split()[1])
    def cpu_seconds(self):
        f = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")
    def alive(self): return self.process.poll() is None
    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        return self.process.wait(60)
    def close(self):
        if self.alive(): self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
