#!/usr/bin/env python3
"""kill -9 of the shim, the kubelet and containers' monitors at random while pods come and go; then a power cut.
Afterwards nothing is left over, and exit codes and restart counts are what the containers did.

SECONDS says how long pods churn (default 60; the long run is 600), PODS how many there are at a time (default 25; 50)."""
import glob, json, os, random, re, signal, sys, threading, time
from cluster import *

DURATION, PODS = int(os.environ.get("SECONDS", "60")), int(os.environ.get("PODS", "25"))
SEED = os.environ.get("SEED") or str(random.randrange(10**6))
random.seed(SEED)
LOST = (137, 255)  # exit codes of containers whose monitor was killed before it could tell


def cmdlines():
    """{pid: command line} of all processes."""
    out = {}
    for f in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(f, "rb") as h:
                out[int(f.split("/")[2])] = h.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass
    return out


def monitors(c):
    return [pid for pid, line in cmdlines().items() if "conmon" in line.split(" ")[0] and c.dir in line]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False


START_LOG = {}  # the volume where containers write a line at each start


def finishing(i, code, seconds):
    """Ends once, with a known code."""
    return pod(f"once{i}", "sh", "-c", f"echo x >> /starts/once{i}; sleep {seconds}; exit {code}", spec={"restartPolicy": "Never"},
               **START_LOG)


def restarting(i, seconds):
    """Ends and is started again."""
    return pod(f"again{i}", "sh", "-c", f"echo x >> /starts/again{i}; sleep {seconds}; exit 1", **START_LOG)


def serving(i):
    return pod(f"stays{i}", "sleep", "100000", spec={"terminationGracePeriodSeconds": 0})


class Churn:
    def __init__(self, c):
        self.c, self.n, self.codes, self.ids, self.stop = c, 0, {}, set(), threading.Event()
        self.starts = c.dir + "/starts"
        os.mkdir(self.starts)
        START_LOG.update(volumes=[{"name": "s", "hostPath": {"path": self.starts}}], mounts=[{"name": "s", "mountPath": "/starts"}])

    def one(self):
        self.n += 1
        kind = random.random()
        if kind < 0.4:
            code = random.choice([0, 1, 7, 42])
            self.codes[f"once{self.n}"] = code
            return finishing(self.n, code, round(random.uniform(0.2, 8), 1))
        return restarting(self.n, round(random.uniform(1, 6), 1)) if kind < 0.6 else serving(self.n)

    def run(self):
        while not self.stop.is_set():
            pods = self.c.get("pods").get("items", [])
            self.ids |= {p["metadata"]["uid"] for p in pods}
            alive = [p["metadata"]["name"] for p in pods if not p["metadata"].get("deletionTimestamp")]
            missing = PODS - len(alive)
            if missing > 0:
                self.c.apply(*[self.one() for _ in range(min(missing, 8))])
            gone = [n for n in random.sample(alive, min(len(alive), 3)) if not n.startswith("again")]
            if gone:
                for n in gone:
                    self.codes.pop(n, None)
                self.c.kubectl("delete", "pod", "--wait=false", *gone)
            time.sleep(0.3)


def pods_by_name(c):
    return {p["metadata"]["name"]: p for p in c.get("pods").get("items", [])}


def main_of(p):
    return (p["status"].get("containerStatuses") or [{}])[0]


def settled(c):
    """Every pod is done or ready (or waits for its restart)."""
    for name, p in pods_by_name(c).items():
        if p["metadata"].get("deletionTimestamp"):
            return False
        m = main_of(p)
        waits = m.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        if p["status"].get("phase") not in ("Succeeded", "Failed") and not m.get("ready") and not waits:
            return False
    return True


def starts(churn, name):
    try:
        with open(f"{churn.starts}/{name}") as f:
            return len(f.read()) // 2
    except FileNotFoundError:
        return 0


def check_codes(churn, unsure):
    wrong = []
    for name, p in pods_by_name(churn.c).items():
        done = main_of(p).get("state", {}).get("terminated")
        if name not in churn.codes or not done:
            continue
        ok = done["exitCode"] == churn.codes[name] or (unsure and done["exitCode"] in LOST)
        phase = "Succeeded" if done["exitCode"] == 0 else "Failed"
        if not ok or p["status"]["phase"] != phase or starts(churn, name) > 1:
            wrong.append((name, churn.codes[name], done, p["status"]["phase"], starts(churn, name)))
    check("exit codes are those of the containers, which ran once", not wrong, wrong[:3])


def check_restarts(churn):
    wrong = []
    before = {name: starts(churn, name) for name in pods_by_name(churn.c)}
    for name, p in pods_by_name(churn.c).items():
        if not name.startswith("again") or not before.get(name):
            continue
        ran, counted = starts(churn, name), main_of(p).get("restartCount", -1) + 1
        # a start may be killed before its line; the last one before the status was read may not be in it yet
        if not before[name] - 1 <= counted <= ran + 2:
            wrong.append((name, before[name], ran, counted))
    check("restart counts are those of the containers", not wrong, wrong[:3])


def check_nothing_left(c, ids):
    c.kubectl("delete", "pods", "--all", "--timeout=120s")
    check("all pods are gone", until(60, lambda: not c.get("pods").get("items")))
    left = lambda *what: [l for l in what if l]
    procs = lambda: [l for l in cmdlines().values() if c.dir in l and ("conmon" in l or "crun" in l)]
    check("no monitor or runtime process is left", until(60, lambda: not procs()), lambda: procs()[:3])
    with_pods = lambda path: [l.split()[1] for l in open(path) if c.dir in l and re.search(r"overlay|/volumes/|merged|rootfs", l)]
    check("no mount of a pod is left", until(60, lambda: not with_pods("/proc/mounts")), lambda: with_pods("/proc/mounts")[:5])
    groups = lambda: [d for d in glob.glob("/sys/fs/cgroup/**/pod*", recursive=True) if any(u in d or u.replace("-", "_") in d for u in ids)]
    check("no cgroup of a pod is left", until(90, lambda: not groups()), lambda: groups()[:5])
    links = lambda: [l for l in c.inside("ip", "-o", "link", "show", "type", "veth").stdout.splitlines() if " up0" not in l and " up1" not in l]
    check("no link of a pod is left", until(60, lambda: not links()), lambda: links()[:3])
    folders = lambda: [d for d in glob.glob(c.data + "/kubelet/pods/*")]
    check("no folder of a pod is left", until(90, lambda: not folders()), lambda: folders()[:3])
    names = [f"ip{i}" for i in range(3)]
    c.apply(*[pod(n, "sleep", "1000") for n in names])
    check("the node still takes pods", until(60, lambda: all(c.ready(n) for n in names)), lambda: c.get("pods"))
    addresses = [c.get("pod", n)["status"].get("podIP") for n in names]
    held = lambda: os.listdir(c.run_dir + "/shim/ipam")
    check("no address is held by nobody", until(60, lambda: sorted(held()) == sorted(addresses)), lambda: (addresses, sorted(held())[:9]))
    c.kubectl("delete", "pods", "--all", "--timeout=120s")


def power_cut(c):
    names = [f"survives{i}" for i in range(5)]
    c.apply(*[pod(n, "sleep", "100000") for n in names])
    check("pods run before the power cut", until(60, lambda: all(c.ready(n) for n in names)))
    uids = [c.get("pod", n)["metadata"]["uid"] for n in names]
    with open(c.run_dir + "/supervisor.pid") as f:
        kill(int(f.read()))
    for pid in c.components().values():
        kill(pid)
    for f in glob.glob("/proc/[0-9]*/cgroup"):
        try:
            with open(f) as h:
                text = h.read()
        except OSError:
            continue
        if any(u in text or u.replace("-", "_") in text for u in uids):
            kill(int(f.split("/")[2]))
    for pid in monitors(c):
        kill(pid)
    r = c.coracle("up")
    check("coracle starts again", r.returncode == 0, r.stdout + r.stderr)
    # what the API has of them may still be of before: that they are ready says nothing without the restart
    again = lambda n: (lambda m: m.get("ready") and m.get("restartCount", 0) >= 1)(c.main(n))
    check("the pods come back", until(120, lambda: all(again(n) for n in names)), lambda: [c.main(n) for n in names])
    check("as the same pods, restarted once",
          [c.get("pod", n)["metadata"]["uid"] for n in names] == uids and all(c.main(n)["restartCount"] == 1 for n in names),
          lambda: [c.main(n) for n in names])


def main():
    with Cluster("ct-chaos", up=["--node-name", "chaos"]) as c:
        churn = Churn(c)
        t = threading.Thread(target=churn.run)
        t.start()
        kills = {}
        for phase, victims in (("programs", ("shim", "kubelet")), ("monitors too", ("shim", "kubelet", "monitor"))):
            end, turn = time.time() + DURATION / 2, []
            while time.time() < end:
                time.sleep(random.uniform(0.5, 3))
                turn = turn or random.sample(victims, len(victims))
                name = turn.pop()
                pids = monitors(c) if name == "monitor" else [c.components().get(name, 0)]
                if pids and pids[0] and kill(random.choice(pids)):
                    kills[name] = kills.get(name, 0) + 1
            if phase == "programs":
                check_codes(churn, unsure=False)
        churn.stop.set()
        t.join()
        print("killed:", kills, "pods:", churn.n, "seed:", SEED, flush=True)
        check("pods were made and programs killed", churn.n > PODS and all(kills.get(k) for k in ("shim", "kubelet", "monitor")), kills)
        check("after the last kill every pod settles", until(180, lambda: settled(c)),
              lambda: [(n, p["status"]) for n, p in pods_by_name(c).items()
                       if p["status"].get("phase") not in ("Succeeded", "Failed") and not main_of(p).get("ready")][:2])
        check_codes(churn, unsure=True)
        check_restarts(churn)
        check_nothing_left(c, churn.ids)
        power_cut(c)


main()
finish()
