#!/usr/bin/env python3
"""FlowSchemas and priority levels of Kubernetes itself come back when somebody deletes or changes them, as far as they must;
those of others show whether their priority level exists. And the tables under /debug, for administrators only."""
import json, time
from lone import Lone, check, finish, until

BASE = "/apis/flowcontrol.apiserver.k8s.io/v1/"
NOTE = "apf.kubernetes.io/autoupdate-spec"
MERGE, PATCH = {"Content-Type": "application/merge-patch+json"}, {"Content-Type": "application/json-patch+json"}

def main():
    api = Lone()
    get = lambda p: api.call("GET", BASE + p).json
    uid = lambda p: get(p).get("metadata", {}).get("uid")
    spec = lambda p: get(p).get("spec", {})
    note = lambda p: get(p).get("metadata", {}).get("annotations", {}).get(NOTE)
    try:
        for p in ("flowschemas/exempt", "flowschemas/catch-all", "prioritylevelconfigurations/catch-all", "prioritylevelconfigurations/workload-low", "flowschemas/service-accounts"):
            was, before = uid(p), spec(p)
            api.call("DELETE", BASE + p)
            check(f"{p} comes back when it is deleted", until(60, lambda: uid(p) not in (None, was)) and spec(p) == before, get(p))
        before = spec("flowschemas/catch-all")
        api.call("PATCH", BASE + "flowschemas/catch-all", {"spec": {"distinguisherMethod": None}, "metadata": {"annotations": {NOTE: "false"}}}, MERGE)
        check("a mandatory one gets its spec back, whatever its annotation says", until(60, lambda: spec("flowschemas/catch-all") == before and note("flowschemas/catch-all") == "true"), get("flowschemas/catch-all"))
        check("and it is this server that did", "api-priority-and-fairness-config-producer-v1" in [m["manager"] for m in get("flowschemas/catch-all")["metadata"]["managedFields"]])
        p = "prioritylevelconfigurations/workload-high"
        before = spec(p)
        api.call("PATCH", BASE + p, {"spec": {"limited": {"nominalConcurrencyShares": 7}}}, MERGE)
        check("a suggested one that is kept up gets it back too", until(60, lambda: spec(p) == before), get(p))
        api.call("PATCH", BASE + p, {"spec": {"limited": {"nominalConcurrencyShares": 7}}, "metadata": {"annotations": {NOTE: "false"}}}, MERGE)
        api.call("PATCH", BASE + "prioritylevelconfigurations/system", {"spec": {"limited": {"nominalConcurrencyShares": 8}}, "metadata": {"annotations": {NOTE: None}}}, MERGE)
        check("one that somebody changed and that says nothing is left as it is, and says so then", until(60, lambda: note("prioritylevelconfigurations/system") == "false"), get("prioritylevelconfigurations/system"))
        check("with its change", spec("prioritylevelconfigurations/system")["limited"]["nominalConcurrencyShares"] == 8 and spec(p)["limited"]["nominalConcurrencyShares"] == 7)
        api.call("PATCH", BASE + "prioritylevelconfigurations/exempt", {"spec": {"exempt": {"nominalConcurrencyShares": 3}}}, MERGE)
        obj = lambda **k: {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "mine", **k},
                           "spec": {"priorityLevelConfiguration": {"name": "nowhere"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}}
        api.call("POST", BASE + "flowschemas", obj())
        dangling = lambda: next((c for c in get("flowschemas/mine").get("status", {}).get("conditions", []) if c["type"] == "Dangling"), {})
        check("a FlowSchema without its level dangles", until(60, lambda: dangling().get("status") == "True" and dangling()["reason"] == "NotFound"), dangling())
        level = {"metadata": {"name": "nowhere"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}}
        api.call("POST", BASE + "prioritylevelconfigurations", level)
        check("and no longer when the level comes", until(60, lambda: dangling().get("status") == "False" and dangling()["reason"] == "Found"), dangling())
        api.call("POST", BASE + "flowschemas", {**obj(), "metadata": {"name": "of-old", "annotations": {NOTE: "true"}}})
        check("what an older version had is removed", until(60, lambda: uid("flowschemas/of-old") is None))
        check("what is the operator's stays", uid("flowschemas/mine") and spec("prioritylevelconfigurations/exempt").get("exempt", {}).get("nominalConcurrencyShares") == 3)
        api.stop()
        revisions = lambda: {k["metadata"]["name"]: k["metadata"]["resourceVersion"] for r in ("flowschemas", "prioritylevelconfigurations") for k in get(r)["items"]}
        api.start()
        until(60, lambda: len(get("flowschemas").get("items", [])) >= 10)
        before = revisions()
        time.sleep(3)
        check("nothing is written when all is as it must be", revisions() == before, (before, revisions()))
        for what in ("dump_priority_levels", "dump_queues", "dump_requests"):
            r = api.call("GET", "/debug/api_priority_and_fairness/" + what)
            check(f"/debug/api_priority_and_fairness/{what}", r.status == 200 and r.text.startswith("PriorityLevelName, "), r.text[:200])
        check("not for everybody", api.call("GET", "/debug/api_priority_and_fairness/dump_queues", cert=None).status == 403)
        check("it ends cleanly", api.stop() == 0)
    finally:
        api.close()
    finish()

main()
