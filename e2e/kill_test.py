#!/usr/bin/env python3
"""kill -9 of random coracle programs while a writer creates objects: no acknowledged write is lost, no container is
restarted, and everything is Ready again soon after the last kill. KILLS says how many (default 15; the long run is 50)."""
import http.client, json, os, random, signal, ssl, subprocess, sys, threading, time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("CORACLE_BUILD", TOP + "/build")
CORACLE = BUILD + "/cli/coracle"
DATA, RUN = "/var/lib/coracle", "/run/coracle"
KILLS = int(os.environ.get("KILLS", "15"))
passed = failed = 0

def check(name, ok, why=""):
    global passed, failed
    passed, failed = (passed + 1, failed) if ok else (passed, failed + 1)
    print(("ok      " if ok else "FAILED  ") + name + ("" if ok else f": {why}"), flush=True)

def run(*args, **kw):
    return subprocess.run(args, capture_output=True, text=True, **kw)

class Api:
    def __init__(self):
        self.ctx = ssl.create_default_context(cafile=DATA + "/pki/ca.crt")
        self.ctx.load_cert_chain(DATA + "/pki/admin.crt", DATA + "/pki/admin.key")
        self.conn = None
    def call(self, method, path, body=None):
        """(status, object); status 0 when there was no answer"""
        try:
            if not self.conn:
                self.conn = http.client.HTTPSConnection("127.0.0.1", 6443, context=self.ctx, timeout=30)
            self.conn.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            r = self.conn.getresponse()
            return r.status, json.loads(r.read())
        except Exception:
            self.conn = None
            return 0, {}

acknowledged, unsure, stop = {}, set(), False

def writer():
    api, n = Api(), 0
    while not stop:
        n += 1
        name = f"w{n}"
        status, o = api.call("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": name}, "data": {"n": str(n)}})
        if status == 201:
            acknowledged[name] = o["metadata"]["resourceVersion"]
        elif status == 0 or status >= 500:
            unsure.add(name)
            time.sleep(0.05)
        if n % 7 == 0 and acknowledged:  # updates and deletions too
            victim = random.choice(list(acknowledged))
            status, o = api.call("PUT", f"/api/v1/namespaces/default/configmaps/{victim}", {"metadata": {"name": victim}, "data": {"n": "changed"}})
            if status == 200: acknowledged[victim] = o["metadata"]["resourceVersion"]
            elif status == 0 or status >= 500: unsure.add(victim)

def pods(api):
    status, o = api.call("GET", "/api/v1/namespaces/hello/pods")
    return {p["metadata"]["name"]: [(c["restartCount"], c.get("containerID"), c["ready"]) for c in p["status"].get("containerStatuses", [])]
            for p in o.get("items", [])} if status == 200 else {}

def all_ready(api):
    status, o = api.call("GET", "/api/v1/nodes")
    if status != 200 or not o["items"]: return False
    for n in o["items"]:
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", [])): return False
    p = pods(api)
    return len(p) == 2 and all(cs and all(ready for _, _, ready in cs) for cs in p.values())

def components():
    return [c for c in json.load(open(RUN + "/components.json")) if c["pid"]]

def main():
    global stop
    run(CORACLE, "down", "--purge")
    r = run(TOP + "/hack/up", env={**os.environ, "CORACLE_BUILD": BUILD})
    check("the cluster is up", r.returncode == 0, r.stdout[-300:] + r.stderr[-300:])
    if r.returncode: return
    api = Api()
    before = pods(api)
    t = threading.Thread(target=writer, daemon=True)
    t.start()
    seed = os.environ.get("SEED") or str(random.randrange(10**6))
    random.seed(seed)
    kills = {}
    for _ in range(KILLS):
        time.sleep(random.uniform(0.3, 1.5))
        alive = components()
        if not alive:
            check("the supervisor keeps programs running", False, open(DATA + "/log/supervisor.log").read()[-1500:])
            return
        c = random.choice(alive)
        kills[c["name"]] = kills.get(c["name"], 0) + 1
        try: os.kill(c["pid"], signal.SIGKILL)
        except ProcessLookupError: pass
    last = time.time()
    print("killed:", kills, "acknowledged writes:", len(acknowledged), "seed:", seed, flush=True)
    while not all_ready(api) and time.time() - last < 120: time.sleep(0.1)
    took = time.time() - last
    check(f"everything is Ready again soon after the last kill ({took:.1f} s)", took < 60)
    stop = True
    t.join()
    lost = []
    for name, rv in acknowledged.items():
        if name in unsure: continue
        status, o = api.call("GET", f"/api/v1/namespaces/default/configmaps/{name}")
        if status != 200 or o["metadata"]["resourceVersion"] != rv: lost.append((name, rv, status, o.get("metadata", {}).get("resourceVersion")))
    check(f"no acknowledged write is lost ({len(acknowledged)} written)", acknowledged and not lost, lost[:5])
    after = pods(api)
    ids = lambda m: sorted((n, [(r, i) for r, i, _ in cs]) for n, cs in m.items())
    check("no container was restarted", before and ids(before) == ids(after), f"{before} became {after}")

try:
    main()
finally:
    run(CORACLE, "down", "--purge")
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
