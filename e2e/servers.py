"""Lone API servers for the tests: on sqlite, or several on one etcd, in a scratch folder, on free ports of loopback.

    with Servers(etcd=True, n=2) as s:
        code, body = s.client(0).call("GET", "/api/v1/pods")
"""
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

from ports import free_port

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("CORACLE_BUILD", os.path.join(TOP, "build"))


class Client:
    """One connection to one server; not for several threads at once."""

    def __init__(self, port, context, timeout=60, headers=None):
        self.port, self.context, self.timeout, self.headers = port, context, timeout, headers or {}
        self.conn = None

    def close(self):
        if self.conn:
            self.conn.close()
        self.conn = None

    def open(self, method, path, body=None, content_type="application/json", headers=None):
        """Sends; gives the response to be read. Raises OSError or http.client.HTTPException."""
        if not self.conn:
            self.conn = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=self.timeout)
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        h = {"Content-Type": content_type, "User-Agent": "e2e", **self.headers, **(headers or {})}
        try:
            self.conn.request(method, path, data, h)
            return self.conn.getresponse()
        except Exception:
            self.close()
            raise

    def call(self, method, path, body=None, content_type="application/json", headers=None):
        try:
            r = self.open(method, path, body, content_type, headers)
            text = r.read()
        except Exception:
            self.close()
            raise
        try:
            return r.status, json.loads(text)
        except ValueError:
            return r.status, {"text": text.decode(errors="replace")}


class Servers:
    def __init__(self, etcd=True, n=1, args=()):
        self.dir = tempfile.mkdtemp(prefix="coracle-servers-")
        self.use_etcd, self.n, self.args = etcd, n, list(args)
        self.ports = [free_port() for _ in range(n)]
        self.etcd_port, self.etcd_peer = free_port(), free_port()
        self.procs, self.etcd_proc = [None] * n, None

    def __enter__(self):
        try:
            if self.use_etcd:
                self.start_etcd()
            for i in range(self.n):  # one after the other: the first makes the certificates
                self.start(i)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc):
        for i in range(self.n):
            self.kill(i)
        self.kill_etcd()
        if exc[0] is None:
            shutil.rmtree(self.dir, ignore_errors=True)

    # ---- etcd
    def start_etcd(self, wait=True):
        url, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer}"
        log = open(os.path.join(self.dir, "etcd.log"), "ab")
        self.etcd_proc = subprocess.Popen(
            ["etcd", "--data-dir", os.path.join(self.dir, "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"], stdout=log, stderr=log)
        end = time.time() + 60
        while wait:
            try:
                socket.create_connection(("127.0.0.1", self.etcd_port), 1).close()
                return
            except OSError:
                if time.time() > end:
                    raise RuntimeError("etcd does not start: " + log.name)
                time.sleep(0.05)

    def kill_etcd(self):
        if self.etcd_proc:
            self.etcd_proc.send_signal(signal.SIGCONT)
            self.etcd_proc.kill()
            self.etcd_proc.wait()
        self.etcd_proc = None

    def etcdctl(self, *args, data=None):
        return subprocess.run(["etcdctl", "--endpoints", f"http://127.0.0.1:{self.etcd_port}", *args], input=data, text=True,
                              capture_output=True, check=True, env={**os.environ, "ETCDCTL_API": "3"}).stdout

    # ---- API servers
    def data_dir(self):
        return os.path.join(self.dir, "data")

    def start(self, i, wait=True):
        log = open(os.path.join(self.dir, f"apiserver{i}.log"), "ab")
        argv = [os.path.join(BUILD, "apiserver/coracle-apiserver"), "--data-dir", self.data_dir(), "--secure-port", str(self.ports[i]),
                "--bind-address", "127.0.0.1", "--advertise-address", f"192.0.2.{i + 1}", *self.args]
        if self.use_etcd:
            argv += ["--etcd-servers", f"http://127.0.0.1:{self.etcd_port}"]
        self.procs[i] = subprocess.Popen(argv, stdout=log, stderr=log)
        if wait:
            self.wait_ready(i)

    def wait_ready(self, i, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            try:
                if self.client(i, timeout=3).call("GET", "/readyz")[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            if self.procs[i].poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"server {i} does not become ready:\n" + open(os.path.join(self.dir, f"apiserver{i}.log")).read()[-2000:])

    def kill(self, i, sig=signal.SIGKILL):
        if self.procs[i]:
            self.procs[i].send_signal(signal.SIGCONT)
            self.procs[i].send_signal(sig)
            self.procs[i].wait()
        self.procs[i] = None

    def context(self, cert=True):
        pki = os.path.join(self.data_dir(), "pki")
        c = ssl.create_default_context(cafile=os.path.join(pki, "ca.crt"))
        c.check_hostname = False
        if cert:
            c.load_cert_chain(os.path.join(pki, "admin.crt"), os.path.join(pki, "admin.key"))
        return c

    def client(self, i=0, timeout=60, headers=None):
        return Client(self.ports[i], self.context(), timeout, headers)


class Checks:
    """ok/FAILED lines and the closing line that hack/test counts."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, ok, why=""):
        if ok:
            self.passed += 1
            print("ok     ", name, flush=True)
        else:
            self.failed += 1
            print("FAILED ", name + (f": {why}" if why else ""), flush=True)
        return ok

    def until(self, name, seconds, fn):
        """Passes as soon as fn() is true."""
        end, last = time.time() + seconds, None
        while time.time() < end:
            try:
                if fn():
                    return self.check(name, True)
            except (OSError, http.client.HTTPException, KeyError) as e:
                last = e
            time.sleep(0.1)
        return self.check(name, False, f"not within {seconds} s" + (f" ({last!r})" if last else ""))

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        raise SystemExit(1 if self.failed else 0)
