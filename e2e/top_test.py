#!/usr/bin/env python3
"""metrics.k8s.io of a lone API server, with kubelets that this test plays: rates, lists, selectors, Tables, kubectl top,
and what is answered while nothing is known."""
import http.server, json, ssl, subprocess, threading, time
from lone import Lone, check, finish, free_port, until

class Kubelet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    down = False
    scrapes = 0
    began = time.time()
    def log_message(self, *a): pass
    def do_GET(self):
        if Kubelet.down: return self.send_error(500)
        Kubelet.scrapes += 1
        now = time.time()
        ms, cpu = int(now * 1000), now - Kubelet.began
        rows = [f"node_cpu_usage_seconds_total {100 + cpu * 0.5:.6f} {ms}", f"node_memory_working_set_bytes {1 << 30} {ms}"]
        for pod, container, cores, memory in (("web", "a", 0.25, 10 << 20), ("web", "b", 0.1, 6 << 20), ("other", "c", 0.0, 1000)):
            l = f'container="{container}",namespace="default",pod="{pod}"'
            rows += [f"container_cpu_usage_seconds_total{{{l}}} {7 + cpu * cores:.6f} {ms}", f"container_memory_working_set_bytes{{{l}}} {memory} {ms}",
                     f"container_start_time_seconds{{{l}}} {Kubelet.began - 500:.3f}"]
        body = ("# HELP x y\n" + "\n".join(rows) + "\n").encode() if self.path == "/metrics/resource" else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def start_kubelet(d, port):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/k.key", "-out", d + "/k.crt", "-subj", "/CN=kubelet", "-days", "2"], check=True, capture_output=True)
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(d + "/k.crt", d + "/k.key")
    s = http.server.ThreadingHTTPServer(("127.0.0.1", port), Kubelet)
    s.daemon_threads = True
    s.socket = ctx.wrap_socket(s.socket, server_side=True)
    threading.Thread(target=s.serve_forever, daemon=True).start()

def make_objects(api, port):
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "n1", "labels": {"zone": "a"}}})
    api.call("PATCH", "/api/v1/nodes/n1/status", {"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
             "capacity": {"cpu": "4", "memory": "8Gi"}, "allocatable": {"cpu": "4", "memory": "8Gi"}}}, headers={"Content-Type": "application/merge-patch+json"})
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "n2", "labels": {"zone": "b"}}})
    api.call("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    for name in ("web", "other", "pending"):
        r = api.call("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": name, "labels": {"app": name}}, "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "x"}]}})
        if r.status != 201: print(r.text)
        if name != "pending": api.call("PATCH", f"/api/v1/namespaces/default/pods/{name}/status", {"status": {"phase": "Running"}}, headers={"Content-Type": "application/merge-patch+json"})

def milli(q): return float(q[:-1]) / {"n": 1e6, "u": 1e3, "m": 1}[q[-1]] if q[-1] in "num" else float(q) * 1000

def main():
    api, port = Lone("--serve-resource-metrics"), free_port()
    base = "/apis/metrics.k8s.io/v1beta1"
    kubectl = lambda *a: subprocess.run(["kubectl", "--kubeconfig", api.kubeconfig(), *a], capture_output=True, text=True)
    try:
        make_objects(api, port)
        r = api.call("GET", base + "/nodes")
        check("with no kubelet in reach the list is empty", r.status == 200 and r.json["items"] == [], r.text)
        r = api.call("GET", base + "/nodes/n1")
        check("and one node is 404", r.status == 404 and r.json["message"] == 'nodes.metrics.k8s.io "n1" not found', r.text)
        start_kubelet(api.dir, port)
        check("metrics come once the kubelet answers", until(60, lambda: api.call("GET", base + "/nodes/n1").status == 200))
        n = api.call("GET", base + "/nodes/n1").json
        check("a node's rate is that between two samples", abs(milli(n["usage"]["cpu"]) - 500) < 15, n)
        check("memory is the working set", n["usage"]["memory"] == "1Gi" and n["metadata"]["labels"] == {"zone": "a"} and n["window"].endswith("s"), n)
        r = api.call("GET", base + "/namespaces/default/pods/web").json
        got = {c["name"]: (round(milli(c["usage"]["cpu"]), -1), c["usage"]["memory"]) for c in r.get("containers", [])}
        check("a pod's containers one by one", got == {"a": (250, "10Mi"), "b": (100, "6Mi")}, r)
        names = lambda path: [o["metadata"]["name"] for o in api.call("GET", base + path).json["items"]]
        check("pods that run are listed", names("/namespaces/default/pods") == ["other", "web"], names("/namespaces/default/pods"))
        check("label selectors choose by the pods' labels", names("/pods?labelSelector=app%3Dweb") == ["web"])
        check("and field selectors by name", names("/pods?fieldSelector=metadata.name%3Dother") == ["other"])
        check("and nodes", names("/nodes?labelSelector=zone%3Db") == [] and names("/nodes?labelSelector=zone%3Da") == ["n1"])
        check("a pod that is not there is 404", api.call("GET", base + "/namespaces/default/pods/x").json["message"] == 'pods.metrics.k8s.io "default/x" not found')
        check("writing is 405", api.call("POST", base + "/nodes", {}).status == 405)
        t = api.call("GET", base + "/namespaces/default/pods", headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}).json
        check("a Table has metrics-server's columns", [c["name"] for c in t["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"] and t["rows"][1]["cells"][2] == "16Mi", t)
        out = kubectl("top", "nodes")
        check("kubectl top nodes", "n1" in out.stdout and "12%" in out.stdout and "1024Mi" in out.stdout, out.stdout + out.stderr)
        out = kubectl("top", "pods", "--containers")
        check("kubectl top pods --containers", "10Mi" in out.stdout and any(x in out.stdout for x in ("250m", "249m", "251m")), out.stdout + out.stderr)
        out = kubectl("get", "apiservices", "v1beta1.metrics.k8s.io").stdout
        check("the APIService is there, Local and Available", "Local" in out and "True" in out, out)
        check("kubectl api-resources and explain know it", "NodeMetrics" in kubectl("api-resources").stdout and "what a container uses" in (e := kubectl("explain", "pods.containers", "--api-version=metrics.k8s.io/v1beta1")).stdout + kubectl("explain", "--api-version=metrics.k8s.io/v1beta1", "pods.containers.usage").stdout or "quantity" in e.stdout, e.stdout + e.stderr)
        check("viewers may read it", kubectl("auth", "can-i", "list", "pods.metrics.k8s.io", "--as=ann", "--as-group=g").stdout.strip() == "no" and
              "metrics.k8s.io" in json.dumps(api.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregated-metrics-reader").json))
        before, began = Kubelet.scrapes, time.monotonic()
        for _ in range(50): api.call("GET", base + "/nodes")
        scraped, took = Kubelet.scrapes - before, time.monotonic() - began
        check("questions do not reach the kubelet one by one", scraped <= 2 + took / 10, (scraped, took))
        r = api.call("PATCH", "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io", {"spec": {"service": {"namespace": "kube-system", "name": "metrics-server", "port": 443}, "insecureSkipTLSVerify": True}}, headers={"Content-Type": "application/merge-patch+json"})
        check("a metrics-server takes over", r.status == 200 and until(60, lambda: api.call("GET", base + "/nodes").status == 503), r.text)
        check("the API server ends cleanly", api.stop() == 0)
    finally:
        api.close()
    finish()

main()
