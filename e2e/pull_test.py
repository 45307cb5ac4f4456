#!/usr/bin/env python3
"""Pulling: layers side by side, what broke off goes on where it ended, logins, mirrors."""
import json, os, subprocess, sys, threading, time
from cluster import *

HOST = "127.0.0.1:5098"
SIZE = 6 * (3 << 20)


def main(c, server):
    counts = lambda repo: json.loads(c.inside("curl", "-s", f"http://{HOST}/counts").stdout or "{}").get(repo, {})
    pull = lambda name, *args: c.coracle("image", "pull", name, *args)
    check("the registry answers", until(60, lambda: c.inside("curl", "-s", f"http://{HOST}/counts").returncode == 0))

    r = pull(f"{HOST}/good:latest")
    check("an image is pulled", r.returncode == 0, r.stderr)
    check("its layers side by side", counts("good")["most"] > 1, counts("good"))
    sent = counts("good")["bytes"]
    r = pull(f"{HOST}/good:latest")
    check("again: nothing that is there is fetched", r.returncode == 0 and counts("good")["bytes"] - sent < 1 << 20, counts("good"))

    r = pull(f"{HOST}/breaks:latest")
    check("answers that break off are gone on with", r.returncode == 0, r.stderr)
    check("from where they ended", counts("breaks")["bytes"] < SIZE * 1.05, counts("breaks"))

    t = threading.Thread(target=lambda: pull(f"{HOST}/slow:latest"))
    t.start()
    until(60, lambda: counts("slow").get("bytes", 0) > SIZE / 3)
    c.kill("shim")
    t.join()
    before = counts("slow")["bytes"]
    until(60, lambda: c.coracle("image", "list").returncode == 0)
    r = pull(f"{HOST}/slow:latest")
    check("a pull that kill -9 ended is done by the next one", r.returncode == 0, r.stderr)
    check("which fetches only what was missing", counts("slow")["bytes"] < SIZE + (2 << 20), f"{before} then {counts('slow')}")
    partial = os.listdir(c.data + "/containers/partial")
    check("no part of a blob is left", not partial, partial)

    threads = [threading.Thread(target=lambda: pull(f"{HOST}/bearer:latest", "--creds", "user:password")) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check("pulls of one image at once are one", 0 < counts("bearer")["bytes"] < SIZE * 1.05, counts("bearer"))
    r = pull(f"{HOST}/bearer:latest")
    check("a token is had for a login only", r.returncode != 0 and ("denied" in r.stderr or "token" in r.stderr), r.stderr)
    r = pull(f"{HOST}/basic:latest", "--creds", "user:wrong")
    check("a wrong password is said so", r.returncode != 0 and ("denied" in r.stderr or "refuses" in r.stderr), r.stderr)
    r = pull(f"{HOST}/basic:latest", "--creds", "user:password")
    check("basic authentication", r.returncode == 0, r.stderr)
    r = pull(f"{HOST}/identity:latest")
    check("an identity token from registries.yaml", r.returncode == 0, r.stderr)
    r = pull("registry.invalid/mirrored:latest")
    check("a mirror stands in for a registry out of reach", r.returncode == 0, r.stderr)
    check("and is told which one", counts("mirrored")["ns"] == ["registry.invalid"], counts("mirrored"))
    c.apply(pod("run", image="registry.invalid/mirrored:latest"))
    check("a pod uses the image under the registry's name", until(60, lambda: c.event("run", "already present") or c.event("run", "Pulled")),
          lambda: c.events("run"))
    with open(c.data + "/registries.yaml", "w") as f:
        f.write("mirrors:\n  good.invalid: {endpoint: [nonsense]}\n")
    r = pull("good.invalid/good:latest")
    check("a bad registries.yaml is explained, without a restart", r.returncode != 0 and "nonsense" in r.stderr, r.stderr)


with Cluster("ct-pull", files={"registries.yaml": {
        "mirrors": {"registry.invalid": {"endpoint": ["http://127.0.0.1:1", f"http://{HOST}"]}},
        "configs": {HOST: {"auth": {"identity_token": "I"}}}}}) as cluster:
    registry = subprocess.Popen(["nsenter", "--net=/run/netns/" + cluster.name, sys.executable, TOP + "/e2e/pull_registry.py", HOST.split(":")[1]])
    try:
        main(cluster, registry)
    finally:
        registry.kill()
        registry.wait()
finish()
