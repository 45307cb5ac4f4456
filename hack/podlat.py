#!/usr/bin/env python3
"""podlat.py N: pod POST to Ready, N pods one at a time and 20 at once, seen by a watch. Prints tab-separated rows."""
import http.client, json, ssl, sys, threading, time

D = "/var/lib/coracle"

def connect():
    ctx = ssl.create_default_context(cafile=D + "/pki/ca.crt")
    ctx.load_cert_chain(D + "/pki/admin.crt", D + "/pki/admin.key")
    return http.client.HTTPSConnection("127.0.0.1", 6443, context=ctx, timeout=60)

def call(c, method, path, body=None):
    c.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    r = c.getresponse()
    return r.status, json.loads(r.read())

def pod(name):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox:latest", "imagePullPolicy": "Never", "command": ["sleep", "1000"]}]}}

ready, gone, cond = {}, {}, threading.Condition()

def watch():
    c = connect()
    c.request("GET", "/api/v1/namespaces/default/pods?watch=1")
    for line in c.getresponse():
        now, ev = time.monotonic(), json.loads(line)
        o = ev["object"]
        name = o["metadata"].get("name")
        with cond:
            if ev["type"] == "DELETED": gone[name] = now
            elif any(x["type"] == "Ready" and x["status"] == "True" for x in o.get("status", {}).get("conditions", [])): ready.setdefault(name, now)
            cond.notify_all()

def wait(table, names, seconds=60):
    with cond:
        if not cond.wait_for(lambda: all(n in table for n in names), seconds):
            sys.exit(f"timed out waiting for {[n for n in names if n not in table]}")

def pct(xs, p):
    xs = sorted(xs)
    return xs[min(len(xs) - 1, int(len(xs) * p))] * 1000

def main():
    n, c = int(sys.argv[1]) if len(sys.argv) > 1 else 20, connect()
    for _ in range(100):
        if call(c, "GET", "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200: break
        time.sleep(0.1)
    threading.Thread(target=watch, daemon=True).start()
    time.sleep(0.3)
    start, end = [], []
    for i in range(n):
        t = time.monotonic()
        status, o = call(c, "POST", "/api/v1/namespaces/default/pods", pod(f"one-{i}"))
        if status != 201: sys.exit(f"POST: {status} {o}")
        wait(ready, [f"one-{i}"])
        start.append(ready[f"one-{i}"] - t)
        t = time.monotonic()
        call(c, "DELETE", f"/api/v1/namespaces/default/pods/one-{i}")
        wait(gone, [f"one-{i}"])
        end.append(gone[f"one-{i}"] - t)
    print(f"pod POST to Ready, one at a time, p50 / p99, ms\t{pct(start, .5):.0f} / {pct(start, .99):.0f}\t551 (p50)")
    print(f"pod DELETE to gone (no grace), p50, ms\t{pct(end, .5):.0f}\t-")
    names = [f"many-{i}" for i in range(20)]
    t = time.monotonic()
    for name in names: call(c, "POST", "/api/v1/namespaces/default/pods", pod(name))
    wait(ready, names)
    print(f"20 pods at once, until all Ready, ms\t{(max(ready[x] for x in names) - t) * 1000:.0f}\t4900")
    for name in names: call(c, "DELETE", f"/api/v1/namespaces/default/pods/{name}")
    wait(gone, names)

if __name__ == "__main__":
    main()
