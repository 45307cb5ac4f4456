#!/usr/bin/env python3
"""Autoscalers of a lone API server and the controllers, with a kubelet and a metrics adapter that this test plays: up,
down, bounds, conditions and events, for metrics of resources, pods, objects and external ones."""
import http.server, json, os, re, ssl, subprocess, threading, time, urllib.parse
from lone import BUILD, Lone, check, finish, free_port, until

NS = "/namespaces/default/"
# What the running pods use together: never a load whose answer lies on the edge between two numbers of replicas, as
# usage is rounded up to whole millicores.
work = {"cores": 0.19}
# Values of metrics; those that pods share get less the more of them run, so that there is one answer to stay at.
shared = lambda name, total: f"{total // max(2, sum(p.startswith(name) for p in list(running)))}m"
series = {"queue": lambda: "30", "hits": lambda: shared("hits", 1000), "load": lambda: shared("obj", 12000)}
running = set()
asked = []
began = time.time()
used, seen_at, counting = [0.0], [began], threading.Lock()

def use_until_now():
    """What each pod has used, and when: called before the number of running pods or their work changes, too. A lone pod
    of a Deployment that still starts takes half the work."""
    with counting:
        now = time.time()
        used[0] += (now - seen_at[0]) * work["cores"] / max(2, len(running))
        seen_at[0] = now
        return used[0], now

def run(name):
    use_until_now()
    running.add(name)

def set_work(cores):
    use_until_now()
    work["cores"] = cores

class Played(http.server.BaseHTTPRequestHandler):
    """A kubelet's /metrics/resource, and the adapter of custom.metrics.k8s.io and external.metrics.k8s.io."""
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def answer(self, body, kind="application/json", status=200):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def resource_metrics(self):
        each, now = use_until_now()
        rows = [f"node_cpu_usage_seconds_total {each:.6f} {int(now * 1000)}", f"node_memory_working_set_bytes 1000000 {int(now * 1000)}"]
        for pod in sorted(running):
            l = f'container="c",namespace="default",pod="{pod}"'
            rows += [f"container_cpu_usage_seconds_total{{{l}}} {100 + each:.6f} {int(now * 1000)}",
                     f"container_memory_working_set_bytes{{{l}}} 1000000 {int(now * 1000)}", f"container_start_time_seconds{{{l}}} {began - 9000:.3f}"]
        self.answer("\n".join(rows) + "\n", "text/plain")
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/metrics/resource": return self.resource_metrics()
        part = url.path.split("/")
        if len(part) <= 4:
            return self.answer({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "/".join(part[2:]), "resources": []})
        asked.append(urllib.parse.unquote(self.path))
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        value = series.get(part[-1])
        if not value: return self.answer({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no such metric", "reason": "NotFound", "code": 404}, status=404)
        names = sorted(running) if part[-2] == "*" else [part[-2]]
        self.answer({"kind": "MetricValueList", "apiVersion": "/".join(part[2:4]), "metadata": {}, "items": [
            {"describedObject": {"kind": "Pod", "name": n}, "metric": {"name": part[-1]}, "metricName": part[-1], "timestamp": at, "value": value()} for n in names]})

def serve(d, port):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/k.key", "-out", d + "/k.crt", "-subj", "/CN=played", "-days", "2"], check=True, capture_output=True)
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(d + "/k.crt", d + "/k.key")
    s = http.server.ThreadingHTTPServer(("127.0.0.1", port), Played)
    s.daemon_threads = True
    s.socket = ctx.wrap_socket(s.socket, server_side=True)
    threading.Thread(target=s.serve_forever, daemon=True).start()

MERGE = {"Content-Type": "application/merge-patch+json"}
HPAS, DEPLOYMENTS = "/apis/autoscaling/v2" + NS + "horizontalpodautoscalers", "/apis/apps/v1" + NS + "deployments"

def make_objects(api, port):
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
    api.call("PATCH", "/api/v1/nodes/n1/status", {"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}, headers=MERGE)
    until(60, lambda: api.call("GET", "/api/v1" + NS + "serviceaccounts/default").status == 200)
    api.call("POST", "/api/v1" + NS + "services", {"metadata": {"name": "adapter"}, "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}})
    for group, version in (("custom", "v1beta2"), ("external", "v1beta1")):
        g = group + ".metrics.k8s.io"
        api.call("POST", "/apis/apiregistration.k8s.io/v1/apiservices", {"metadata": {"name": f"{version}.{g}"}, "spec": {"group": g, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                 "insecureSkipTLSVerify": True, "service": {"namespace": "default", "name": "adapter", "port": port}}})

def play_kubelet(api, stop):
    """Pods run as soon as they exist, an hour ago."""
    then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began - 3600))
    while not stop.is_set():
        items = api.call("GET", "/api/v1" + NS + "pods").json.get("items", [])
        use_until_now()
        running.intersection_update(p["metadata"]["name"] for p in items)
        for p in items:
            name = p["metadata"]["name"]
            if p["metadata"].get("deletionTimestamp"): api.call("DELETE", "/api/v1" + NS + "pods/" + name, {"gracePeriodSeconds": 0})
            if name in running or not p["metadata"]["labels"].get("run"): continue
            api.call("POST", "/api/v1" + NS + f"pods/{name}/binding", {"target": {"kind": "Node", "name": "n1"}})
            api.call("PATCH", "/api/v1" + NS + f"pods/{name}/status", {"status": {"phase": "Running", "startTime": then, "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": then}]}}, headers=MERGE)
            run(name)
        stop.wait(0.2)

def deployment(api, name, replicas, **labels):
    labels = {"app": name, **labels}
    r = api.call("POST", DEPLOYMENTS, {"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": labels},
                 "spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "100m"}}}]}}}})
    if r.status != 201: print(r.text)

def autoscaler(api, name, metrics, target=None, down={}, **spec):
    r = api.call("POST", HPAS, {"metadata": {"name": name}, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target or name}, "maxReplicas": 10, "metrics": metrics,
                 "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, **down}}, **spec}})
    if r.status != 201: print(r.text)

CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}

def main():
    api, port = Lone("--serve-resource-metrics"), free_port()
    stop, controllers = threading.Event(), None
    replicas = lambda name: api.call("GET", DEPLOYMENTS + "/" + name).json["spec"].get("replicas")
    status = lambda name: api.call("GET", HPAS + "/" + name).json.get("status", {})
    def condition(name, kind): return next(((c["status"], c["reason"]) for c in status(name).get("conditions", []) if c["type"] == kind), None)
    def message(name, kind): return next((c["message"] for c in status(name).get("conditions", []) if c["type"] == kind), "")
    def events(name): return {(e["reason"], e["message"]) for e in api.call("GET", "/api/v1" + NS + "events").json["items"] if e["involvedObject"].get("name") == name}
    def becomes(what, name, n, seconds=90): check(what, until(seconds, lambda: replicas(name) == n), f"{replicas(name)}: {status(name)} {sorted(running)}")
    try:
        serve(api.dir, port)
        controllers = subprocess.Popen([BUILD + "/controllers/coracle-controllers", "--kubeconfig", api.kubeconfig(), "--leader-elect=false", "--horizontal-pod-autoscaler-sync-period=1s",
                                        "--root-ca-file", api.path("ca.crt")], stdout=open(api.dir + "/controllers.log", "w"), stderr=subprocess.STDOUT)
        make_objects(api, port)
        threading.Thread(target=play_kubelet, args=(api, stop), daemon=True).start()

        autoscaler(api, "lost", [CPU])
        check("without its target: FailedGetScale", until(60, lambda: condition("lost", "AbleToScale") == ("False", "FailedGetScale")), status("lost"))
        check("which is named", 'deployments.apps "lost" not found' in message("lost", "AbleToScale"), message("lost", "AbleToScale"))
        api.call("DELETE", HPAS + "/lost")

        deployment(api, "web", 2, run="yes")
        until(60, lambda: len(running) == 2)
        autoscaler(api, "web", [CPU], down={"selectPolicy": "Disabled"})
        becomes("nearly twice the target: twice the pods", "web", 4)
        check("an event says why", until(60, lambda: ("SuccessfulRescale", "New size: 4; reason: cpu resource utilization (percentage of request) above target") in events("web")), events("web"))
        check("usage on target changes nothing: ScalingActive", until(90, lambda: condition("web", "ScalingActive") == ("True", "ValidMetricFound") and
              abs(status("web")["currentMetrics"][0]["resource"]["current"]["averageUtilization"] - 48) <= 2), status("web"))
        s = status("web")
        check("the status tells replicas", s["currentReplicas"] == s["desiredReplicas"] == replicas("web"), s)
        check("and the mean", re.fullmatch(r"(4[6-9]|50)m", s["currentMetrics"][0]["resource"]["current"]["averageValue"]), s)
        set_work(0.04)
        check("down is disabled: ScaleDownLimit", until(90, lambda: condition("web", "ScalingLimited") == ("True", "ScaleDownLimit")) and replicas("web") == 4, status("web"))
        until(90, lambda: status("web")["currentMetrics"][0]["resource"]["current"]["averageUtilization"] < 15)
        api.call("PATCH", HPAS + "/web", {"spec": {"behavior": {"scaleDown": {"selectPolicy": "Max"}}}}, headers=MERGE)
        becomes("a fifth of the target: one pod", "web", 1)
        check("an event says so", until(60, lambda: any(r == "SuccessfulRescale" and m.endswith("All metrics below target") for r, m in events("web"))), events("web"))
        row = lambda: subprocess.run(["kubectl", "--kubeconfig", api.kubeconfig(), "get", "hpa", "web"], capture_output=True, text=True).stdout
        check("kubectl get hpa shows usage and target", until(60, lambda: re.search(r"cpu: \d+%/50%\s+1\s+10\s+1\s", row())), row())
        api.call("PATCH", HPAS + "/web", {"spec": {"minReplicas": 3}}, headers=MERGE)
        becomes("a higher minimum counts at once", "web", 3, 20)
        check("for that reason", until(60, lambda: ("SuccessfulRescale", "New size: 3; reason: Current number of replicas below Spec.MinReplicas") in events("web")), events("web"))
        api.call("PATCH", HPAS + "/web", {"spec": {"minReplicas": 2, "maxReplicas": 2}}, headers=MERGE)
        becomes("so does a lower maximum", "web", 2, 20)
        autoscaler(api, "rival", [CPU], target="web")
        check("two for the same pods: AmbiguousSelector", until(60, lambda: condition("rival", "ScalingActive") == ("False", "AmbiguousSelector")), status("rival"))
        for name in ("rival", "web"): api.call("DELETE", HPAS + "/" + name)
        api.call("PATCH", DEPLOYMENTS + "/web/scale", {"spec": {"replicas": 0}}, headers=MERGE)

        deployment(api, "queue", 2, run="yes")
        autoscaler(api, "queue", [{"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"q": "a b"}}}, "target": {"type": "AverageValue", "averageValue": "5"}}}])
        becomes("an external value is shared among pods", "queue", 6)
        check("its selector is asked for", any(a.endswith("/queue?labelSelector=q=a b") for a in asked), asked[:3])
        series["queue"] = lambda: "10"
        becomes("and they get fewer with it", "queue", 2)
        del series["queue"]
        check("a metric that nobody has: FailedGetExternalMetric", until(60, lambda: condition("queue", "ScalingActive") == ("False", "FailedGetExternalMetric")), status("queue"))
        check("leaves the workload alone", replicas("queue") == 2)
        api.call("DELETE", HPAS + "/queue")

        deployment(api, "hits", 2, run="yes")
        autoscaler(api, "hits", [{"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "250m"}}}])
        becomes("a metric of the pods", "hits", 4)
        api.call("DELETE", HPAS + "/hits")
        api.call("PATCH", DEPLOYMENTS + "/hits/scale", {"spec": {"replicas": 0}}, headers=MERGE)
        check("at zero replicas", until(60, lambda: not any(p.startswith("hits") for p in running)))
        autoscaler(api, "hits", [CPU])
        check("scaling is off: ScalingDisabled", until(60, lambda: condition("hits", "ScalingActive") == ("False", "ScalingDisabled")), status("hits"))
        deployment(api, "obj", 2, run="yes")
        autoscaler(api, "obj", [{"type": "Object", "object": {"metric": {"name": "load"}, "describedObject": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "target": {"type": "Value", "value": "2"}}}])
        becomes("a metric of an object", "obj", 6)
        check("which is asked for by its resource", any("/deployments.apps/web/load" in a for a in asked), asked[-3:])
        check("the controllers still run", controllers.poll() is None)
    finally:
        stop.set()
        if controllers:
            controllers.terminate()
            controllers.wait(20)
            if os.environ.get("KEEP_LOG"): print(open(api.dir + "/controllers.log").read())
        api.close()
    finish()

main()
