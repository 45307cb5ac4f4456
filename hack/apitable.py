#!/usr/bin/env python3
"""apitable.py FILE: the API server's rows of hack/bench as a table. FILE has a JSON object a line, as the load programs print them.

Operations are per CPU second of the server. "ratio" says how many times better than Kubernetes, "ok" whether the figure
that must be reached is."""
import json
import sys

# label, what it is, which figure, Kubernetes' figure, what must be reached (None: no line is drawn), whether less is better
ROWS = [
    ("wrk_get_configmap_16", "GET ConfigMap, HTTP/1.1, 16 connections", "ops_per_cpu_s", 1550, 20000, False),
    ("h2_get_configmap_16streams", "GET ConfigMap, HTTP/2, 16 streams", "ops_per_cpu_s", 1520, 20000, False),
    ("wrk_get_pod_16", "GET Pod, HTTP/1.1, 16 connections", "ops_per_cpu_s", None, None, False),
    ("wrk_list_1000_pods_4", "LIST 1,000 pods, 4 connections", "ops_per_cpu_s", 22, 500, False),
    ("post_configmap_1", "POST ConfigMap, 1 connection", "ops_per_cpu_s", 435, None, False),
    ("post_configmap_16", "POST ConfigMap, 16 connections", "ops_per_cpu_s", 776, 4000, False),
    ("post_configmap_64", "POST ConfigMap, 64 connections", "ops_per_cpu_s", 805, 4000, False),
    ("mergepatch_configmap_16", "merge PATCH, 16 connections", "ops_per_cpu_s", 580, 3000, False),
    ("mergepatch_configmap_64", "merge PATCH, 64 connections", "ops_per_cpu_s", 646, 3000, False),
    ("post_pod_16_x1000", "POST Pod, 16 connections", "ops_per_cpu_s", 470, 2500, False),
    ("delete_configmap_16", "DELETE ConfigMap, 16 connections", "ops_per_cpu_s", None, None, False),
    ("watch_100x500_burst", "watch, 100 x 500 events at once: deliveries", "deliveries_per_cpu_s", 20500, 200000, False),
    ("watch_100x500_50ps", "watch, 100 x 500 events at 50/s: deliveries", "deliveries_per_cpu_s", None, None, False),
    ("startup", "exec to /readyz, first start, s", "value", 2.2, 0.3, True),
    ("startup_again", "exec to /readyz, second start, s", "value", None, 0.3, True),
    ("idle_mb", "memory idle (PSS), MB", "value", 295, 10, True),
    ("scaled_mb", "memory with 100 nodes and 1,000 pods (PSS), MB", "value", 405, 25, True),
    ("after_mb", "memory after the load (PSS), MB", "value", None, None, True),
    ("watchers_mb", "memory with 10,000 watchers (PSS), MB", "value", None, 300, True),
    ("watcher_kb", "memory of one watcher (PSS), kB", "value", None, None, True),
    ("deploy", "Deployment, 1,000 replicas, 100 nodes: all bound, s", "last_bound_s", 5.8, 1, True),
    ("store_txn_1", "store alone: transactions/s, 1 thread", "txn_per_s", None, None, False),
    ("store_txn_64", "store alone: transactions/s, 64 threads", "txn_per_s", None, None, False),
    ("store_txn_256", "store alone: transactions/s, 256 threads", "txn_per_s", None, 8000, False),
]


def show(x):
    return "-" if x is None else f"{x:,.0f}" if x >= 1000 else f"{x:g}"


def main():
    found = {}
    with open(sys.argv[1], encoding="utf-8") as f:
        for line in f:
            if '"label"' in line:
                r = json.loads(line)
                found[r["label"]] = r
    line = "{:<48} {:>10} {:>10} {:>10} {:>7}  {}".format
    print(line("the API server alone, per CPU second", "coracle", "Kubernetes", "must reach", "ratio", ""))
    missing = 0
    for label, what, figure, theirs, must, less in ROWS:
        r = found.get(label)
        if not r:
            missing += 1
            print(line(what, "missing", show(theirs), show(must), "", ""))
            continue
        x = r.get(figure) or 0
        if theirs is None or not x:
            ratio = ""
        else:
            ratio = f"{theirs / x if less else x / theirs:.1f}x"
        ok = "" if must is None else "ok" if (x <= must if less else x >= must) else "BELOW"
        bad = {k: v for k, v in r.get("status", {}).items() if not k.startswith("2")}
        print(line(what, show(x), show(theirs), show(must), ratio, ok + (f" statuses {bad}" if bad else "")))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
