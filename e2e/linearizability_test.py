#!/usr/bin/env python3
"""Clients that create, read, update, patch, delete and list a few keys at once, while API servers are killed and stopped
and etcd goes away: what they saw must be explained by one order of the calls, and every watch must have told of every
change in the store's history once and in order. On the embedded store (one server) and on etcd (two servers, each call to either).

    linearizability_test.py [--seconds N] [--store sqlite|etcd] [--seed N]    default: both stores, 12 s each
"""
import argparse
import base64
import http.client
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import linearizability
from linearizability import Event, Op, Segment
from servers import Checks, Servers

NS = "/api/v1/namespaces/default/configmaps"
PREFIX = "/registry/configmaps/default/"
KEYS = ["k0", "k1", "k2", "k3"]
CLIENTS = 6
LOST = (OSError, http.client.HTTPException, ValueError)


def rv_of(o):
    return int(o["metadata"]["resourceVersion"])


class Run:
    def __init__(self, servers, seed, stale=False):
        self.s, self.stale, self.rng = servers, stale, random.Random(seed)
        self.lock, self.done = threading.Lock(), threading.Event()
        self.ops, self.lists, self.segments, self.errors = [], [], [], []
        self.last = {k: 1 for k in KEYS}  # a resourceVersion that was seen: the base of updates
        self.faults = 0

    # ---- clients
    def request(self, rng, key, value, clients):
        """(kind, method, path, body, content type, argument) of a call."""
        path = f"{NS}/{key}"
        what = rng.choices(("get", "list", "create", "update", "patch", "delete"), (35, 10, 15, 20, 12, 8))[0]
        obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": key}, "data": {"v": value}}
        if what == "get":
            return what, "GET", path + ("?resourceVersion=0" if self.stale else ""), None, "", None
        if what == "list":
            return what, "GET", NS + "?labelSelector=run%21%3Dend" + ("&resourceVersion=0" if self.stale else ""), None, "", None
        if what == "create":
            return what, "POST", NS, obj, "application/json", value
        if what == "update":
            base = self.last[key]
            obj["metadata"]["resourceVersion"] = str(base)
            return what, "PUT", path, obj, "application/json", (value, base)
        if what == "patch":
            return what, "PATCH", path, {"data": {"v": value}}, "application/merge-patch+json", value
        return what, "DELETE", path, None, "application/json", None

    def record(self, name, key, kind, arg, call, ret, status, body):
        ops = []
        if kind == "list":
            items = {o["metadata"]["name"]: (rv_of(o), o["data"]["v"]) for o in body["items"]} if status == 200 else {}
            if status == 200:
                ops = [Op(name, "get", k, call, ret, None, 200 if k in items else 404, *items.get(k, (0, None))) for k in KEYS]
                if not self.stale:
                    self.lists.append((rv_of(body), items))
        elif status in (200, 201) and kind == "delete":
            ops = [Op(name, kind, key, call, ret, arg, 200, 0, None)]
        elif status in (200, 201):
            ops = [Op(name, kind, key, call, ret, arg, status, rv_of(body), body["data"]["v"])]
            self.last[key] = rv_of(body)
        elif status in (404, 409) and not (status == 409 and kind in ("patch", "delete")):
            ops = [Op(name, kind, key, call, ret, arg, status, 0, None)]
        elif status in (409, 429):  # refused without having looked
            pass
        elif status in (0, 500, 503, 504):
            ops = [Op(name, kind, key, call, ret, arg, 0, 0, None)] if kind != "get" else []
        else:
            self.errors.append(f"{kind} of {key} answered {status}: {body}")
        with self.lock:
            self.ops += ops

    def client(self, n, seed):
        rng, count = random.Random(seed), 0
        clients = [self.s.client(i, timeout=6) for i in range(self.s.n)]
        while not self.done.is_set():
            key, count = rng.choice(KEYS), count + 1
            value = f"{n}.{count}"
            kind, method, path, body, ct, arg = self.request(rng, key, value, clients)
            c = rng.choice(clients)
            call, status, answer = time.monotonic_ns(), 0, None
            try:
                status, answer = c.call(method, path, body, ct)
            except ConnectionRefusedError:  # nothing was sent
                time.sleep(0.02)
                continue
            except LOST:
                pass
            self.record(f"c{n}", key, kind, arg, call, time.monotonic_ns(), status, answer)
            if status == 0:
                time.sleep(0.02)

    # ---- watches
    def watch(self, name, server, rv):
        start = at = rv
        events = []
        while True:
            c = self.s.client(server, timeout=3)
            try:
                if at is None:  # 410: a server that has started anew knows nothing of before
                    start = at = rv_of(c.call("GET", NS)[1])
                    events = []
                r = c.open("GET", f"{NS}?watch=1&allowWatchBookmarks=true&resourceVersion={at}&timeoutSeconds={self.rng.choice((2, 5, 60))}")
                if r.status != 200:
                    r.read()
                    raise OSError(f"watch: {r.status}")
                for line in iter(r.readline, b""):
                    e = json.loads(line)
                    if e["type"] == "ERROR":
                        if e["object"]["code"] == 410:
                            self.segments.append((name, Segment(start, at, events)))
                            at = None
                        break
                    at = rv_of(e["object"])
                    if e["type"] == "BOOKMARK":
                        continue
                    if e["object"]["metadata"]["name"] == "end":
                        self.segments.append((name, Segment(start, at, events)))
                        return
                    events.append(Event(e["type"], e["object"]["metadata"]["name"], at, e["object"].get("data", {}).get("v")))
            except LOST + (KeyError,):
                time.sleep(0.05)
            finally:
                c.close()

    # ---- the store's own history
    def rows(self):
        """(revision, key, value or None) of all changes."""
        if not self.s.use_etcd:
            self.s.kill(0, signal.SIGTERM)
            db = sqlite3.connect(os.path.join(self.s.data_dir(), "state.db"))
            yield from db.execute("SELECT rev, key, CASE deleted WHEN 1 THEN NULL ELSE value END FROM kv WHERE key LIKE ? ORDER BY rev", (PREFIX + "%",))
            return
        b64 = lambda x: base64.b64encode(x.encode()).decode()
        ask = {"create_request": {"key": b64(PREFIX), "range_end": b64(PREFIX[:-1] + "0"), "start_revision": "1"}}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.s.etcd_port}/v3/watch", json.dumps(ask).encode(), timeout=120) as r:
            for line in r:
                for e in json.loads(line)["result"].get("events", []):
                    kv = e["kv"]
                    key = base64.b64decode(kv["key"]).decode()
                    yield int(kv["mod_revision"]), key, None if e.get("type") == "DELETE" else base64.b64decode(kv["value"])
                    if key == PREFIX + "end":
                        return

    def truth(self):
        now, out = {}, []
        for rev, key, value in self.rows():
            key = key[len(PREFIX):]
            if key not in KEYS:
                continue
            if value is None:
                out.append(Event("DELETED", key, rev, now.pop(key)))
                continue
            out.append(Event("MODIFIED" if key in now else "ADDED", key, rev, json.loads(value)["data"]["v"]))
            now[key] = out[-1].value
        return out

    # ---- faults
    def fault(self):
        s, what = self.s, self.rng.random()
        i = self.rng.randrange(s.n)
        pause = self.rng.uniform(0.2, 1.5)
        if s.use_etcd and what < 0.25:
            s.kill_etcd()
            time.sleep(pause)
            s.start_etcd()
        elif s.use_etcd and what < 0.4:
            s.etcd_proc.send_signal(signal.SIGSTOP)
            time.sleep(pause)
            s.etcd_proc.send_signal(signal.SIGCONT)
        elif what < 0.7:
            s.procs[i].send_signal(signal.SIGSTOP)
            time.sleep(pause)
            s.procs[i].send_signal(signal.SIGCONT)
        else:
            s.kill(i)
            time.sleep(pause / 3)
            s.start(i)
        self.faults += 1

    def go(self, seconds, faults=True):
        rv = rv_of(self.s.client(0).call("GET", NS)[1])
        watchers = [threading.Thread(target=self.watch, args=(f"w{i}.{j}", i, rv), daemon=True) for i in range(self.s.n) for j in range(2)]
        clients = [threading.Thread(target=self.client, args=(i, self.rng.random()), daemon=True) for i in range(CLIENTS)]
        for x in watchers + clients:
            x.start()
        end = time.time() + seconds
        while time.time() < end:
            time.sleep(self.rng.uniform(0.3, 1.0))
            if faults and time.time() < end - 1:
                self.fault()
        self.done.set()
        for x in clients:
            x.join()
        for _ in range(60):  # whatever a lost call still does is done before the end is marked
            try:
                if self.s.client(0).call("POST", NS, {"metadata": {"name": "end", "labels": {"run": "end"}}})[0] in (201, 409):
                    break
            except LOST:
                pass
            time.sleep(0.5)
        for x in watchers:
            x.join(120)
        self.errors += ["a watch never came to the end" for x in watchers if x.is_alive()]
        self.history = self.truth()
        return self.errors + linearizability.check(self.ops, self.segments, self.lists, self.history)

    def summary(self):
        unanswered = sum(op.status == 0 for op in self.ops)
        return f"{len(self.ops)} calls, {unanswered} unanswered, {len(self.lists)} lists, {len(self.history)} changes, " \
            f"{len(self.segments)} spans of watches, {self.faults} faults"


def stale_is_found(seed):
    """Reads at resourceVersion=0 may be old: the check must notice when one is."""
    with Servers(etcd=True, n=2) as s:
        return any("not linearizable" in e for e in Run(s, seed, stale=True).go(3, faults=False))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=12)
    p.add_argument("--store", choices=("sqlite", "etcd"))
    p.add_argument("--seed", type=int, default=None)
    o = p.parse_args()
    seed = o.seed if o.seed is not None else int(time.time())
    t = Checks()
    linearizability.selftest(lambda name, ok, why="": t.check("checker: " + name, ok, why))
    for store in [o.store] if o.store else ["sqlite", "etcd"]:
        with Servers(etcd=store == "etcd", n=2 if store == "etcd" else 1) as s:
            run = Run(s, seed)
            errors = run.go(o.seconds)
            t.check(f"{store}: calls are linearizable and watches complete ({run.summary()}, seed {seed})", not errors,
                    "\n".join(errors[:6]))
        if store != "etcd":
            continue
        t.check("etcd: reads that are allowed to be stale are found out", any(stale_is_found(seed + i) for i in range(10)))
    t.finish()


main()
