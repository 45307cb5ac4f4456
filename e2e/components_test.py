#!/usr/bin/env python3
"""Controllers and scheduler beside a lone API server: type checking of admission policies, and what the programs say of
themselves on their ports."""
import http.client, re, signal, ssl, subprocess
from lone import BUILD, Lone, check, finish, free_port, until

ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"

def policy(name, group, resources, *expressions, **more):
    rules = [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": resources}]
    return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": e} for e in expressions], **more}}

def checked(api, name, generation):
    """The status once the generation was looked at."""
    def look():
        s = api.call("GET", f"{ADMISSION}/{name}").json.get("status", {})
        return s if s.get("observedGeneration") == generation else None
    return until(60, look) or {}

def type_checking(api):
    api.call("POST", ADMISSION, policy("wrong", "apps", ["deployments", "replicasets"], "object.spec.replicas > 1", "object.replicas > 1"))
    s = checked(api, "wrong", 1)
    want = [{"fieldRef": "spec.validations[1].expression",
             "warning": "".join(f"{sep}apps/v1, Kind={k}: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n"
                                for sep, k in (("", "Deployment"), ("\n", "ReplicaSet")))}]
    check("a field that no kind has is a warning for each kind", s.get("typeChecking", {}).get("expressionWarnings") == want, s)
    api.call("PATCH", f"{ADMISSION}/wrong", [{"op": "remove", "path": "/spec/validations/1"}], {"Content-Type": "application/json-patch+json"})
    check("a new generation is checked anew", checked(api, "wrong", 2).get("typeChecking") == {}, s)
    managers = [m["manager"] for m in api.call("GET", f"{ADMISSION}/wrong").json["metadata"]["managedFields"] if m.get("subresource") == "status"]
    check("the status is the controller's", managers == ["validatingadmissionpolicy-status"], managers)

def custom_types(api):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}})
    until(60, lambda: "Widget" in api.call("GET", "/openapi/v3/apis/example.com/v1").text)
    api.call("POST", ADMISSION, policy("custom", "example.com", ["widgets"], "object.spec.size > 1 && object.metadata.labels.size() == 0",
                                       "object.spec.size == 'big'", "params.spec.size > 1 && params.spec.sise > 1",
                                       paramKind={"apiVersion": "example.com/v1", "kind": "Widget"}))
    w = checked(api, "custom", 1).get("typeChecking", {}).get("expressionWarnings", [])
    check("custom kinds and parameters are checked by their schemas",
          [x["fieldRef"] for x in w] == ["spec.validations[1].expression", "spec.validations[2].expression"], w)

class Program:
    def __init__(self, api, name, *flags):
        self.api, self.port, self.plain = api, free_port(), free_port()
        log = open(f"{api.dir}/{name}.log", "w")
        self.process = subprocess.Popen([f"{BUILD}/{name}/coracle-{name}", "--kubeconfig", api.kubeconfig(), "--secure-port", str(self.port), "--healthz-port", str(self.plain),
                                         "--client-ca-file", api.path("ca.crt"), *flags], stdout=log, stderr=log)
    def get(self, path, token=None, cert=None, tls=True, method="GET"):
        try:
            if tls:
                ctx = ssl.create_default_context()
                ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE # self-signed
                if cert: ctx.load_cert_chain(self.api.path(cert + ".crt"), self.api.path(cert + ".key"))
                c = http.client.HTTPSConnection("127.0.0.1", self.port, context=ctx, timeout=60)
            else:
                c = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=60)
            c.request(method, path, headers={"Authorization": "Bearer " + token} if token else {})
            r = c.getresponse()
            return r.status, r.read().decode()
        except (OSError, http.client.HTTPException) as e:
            return 0, repr(e)
    def metrics(self):
        """Samples by name with labels, and the text."""
        text = self.get("/metrics", cert="admin")[1]
        return {m[1]: float(m[2]) for m in re.finditer(r"^([^#\s][^\s]*(?:{[^\n]*})?) (\S+)$", text, re.M)}, text
    def rss_kb(self): return next(int(l.split()[1]) for l in open(f"/proc/{self.process.pid}/smaps_rollup") if l.startswith("Pss:"))
    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

def well_formed(text):
    """Every sample has its type before it, and nothing stands twice."""
    types, seen, bad = {}, set(), []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            if name in types: bad.append("again " + name)
            types[name] = kind
        elif line and not line.startswith("#"):
            series = line.rsplit(" ", 1)[0]
            base = re.sub(r"{.*", "", series)
            if base not in types and re.sub(r"_(bucket|sum|count)$", "", base) not in types: bad.append("no type " + base)
            if series in seen: bad.append("twice " + series)
            seen.add(series)
    return bad

def ports(api, p, name):
    check(f"{name}: /healthz is for everyone", until(60, lambda: p.get("/healthz") == (200, "ok")), p.get("/healthz"))
    check(f"{name}: and without TLS where asked for", p.get("/livez", tls=False) == (200, "ok") and p.get("/readyz", tls=False)[0] == 200)
    check(f"{name}: /metrics is not", p.get("/metrics")[0] == 403, p.get("/metrics"))
    check(f"{name}: a wrong token", p.get("/metrics", token="wrong")[0] == 401)
    check(f"{name}: a certificate of an administrator", p.get("/metrics", cert="admin")[0] == 200)
    check(f"{name}: other paths and methods", p.get("/other", cert="admin")[0] == 404 and p.get("/metrics", cert="admin", method="POST")[0] == 405)
    token = api.call("POST", "/api/v1/namespaces/default/serviceaccounts/scraper/token", {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}).json["status"]["token"]
    check(f"{name}: a token without the right to", p.get("/metrics", token=token)[0] == 403)
    api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "scraper"}, "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]})
    api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"metadata": {"name": "scraper"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scraper"},
                                                                                "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": "default"}]})
    check(f"{name}: and with it", until(60, lambda: p.get("/metrics", token=token)[0] == 200))
    api.call("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/scraper")
    m, text = p.metrics()
    check(f"{name}: the text is well formed", not well_formed(text), well_formed(text))
    common = ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds", "rest_client_requests_total", "rest_client_request_duration_seconds_bucket", "kubernetes_build_info")
    check(f"{name}: the metrics of every program", all(("\n" + n) in text for n in common), [n for n in common if "\n" + n not in text])

def controller_metrics(api, p):
    m, text = p.metrics()
    q = '{name="validatingadmissionpolicy-status"}'
    names = ("adds_total", "depth", "retries_total", "unfinished_work_seconds", "longest_running_processor_seconds", "queue_duration_seconds_count", "work_duration_seconds_count", "work_duration_seconds_sum")
    check("workqueue metrics", all(f"workqueue_{n}{q}" in m for n in names), [n for n in names if f"workqueue_{n}{q}" not in m])
    at_rest = lambda m: m.get("workqueue_adds_total" + q, 0) >= 3 and m.get("workqueue_work_duration_seconds_count" + q) == m.get("workqueue_queue_duration_seconds_count" + q) and m["workqueue_depth" + q] == 0
    check("they count", until(60, lambda: at_rest(p.metrics()[0])), {k: v for k, v in p.metrics()[0].items() if q in k and "bucket" not in k})
    check("and the lease is held", until(60, lambda: p.metrics()[0].get('leader_election_master_status{name="kube-controller-manager"}') == 1))
    sent = [v for k, v in m.items() if k.startswith("rest_client_requests_total") and 'method="PATCH"' in k and 'code="200"' in k]
    check("requests by code and method", sum(sent) >= 3, sent)

def pod(name, cpu): return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}}

def scheduler_metrics(api, p):
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
    api.call("PATCH", "/api/v1/nodes/n1/status", {"status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}, "conditions": [{"type": "Ready", "status": "True"}]}}, {"Content-Type": "application/merge-patch+json"})
    for n in ("a", "b"): api.call("POST", "/api/v1/namespaces/default/pods", pod(n, "500m"))
    api.call("POST", "/api/v1/namespaces/default/pods", pod("big", "7"))
    api.call("POST", "/api/v1/namespaces/default/pods", {**pod("gated", "1m"), "spec": {**pod("x", "1m")["spec"], "schedulingGates": [{"name": "example.com/g"}]}})
    done = lambda m: m.get('scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"}') == 2 and m.get('scheduler_pending_pods{queue="unschedulable"}') == 1 and m.get('scheduler_pending_pods{queue="gated"}') == 1
    check("attempts and pending pods", until(60, lambda: done(p.metrics()[0])), p.metrics()[1][:1500])
    m, text = p.metrics()
    r = 'profile="default-scheduler",result="scheduled"'
    check("durations of attempts", m.get("scheduler_scheduling_attempt_duration_seconds_count{%s}" % r) == 2 and 0 < m["scheduler_scheduling_attempt_duration_seconds_sum{%s}" % r] < 60, {k: v for k, v in m.items() if "attempt_duration" in k})
    tried = {k: v for k, v in m.items() if k.startswith("scheduler_pod_scheduling_sli_duration_seconds_count{attempts=")} # again when the node was not known yet
    check("end to end", sum(tried.values()) == 2 and m.get("scheduler_pod_scheduling_attempts_count") == 2, tried)
    inside = lambda m: (m.get("scheduler_scheduling_algorithm_duration_seconds_count", 0) >= 2 and m.get('scheduler_cache_size{type="nodes"}') == 1 and m.get('scheduler_cache_size{type="pods"}') == 2
                        and m.get('scheduler_framework_extension_point_duration_seconds_count{extension_point="Bind",profile="default-scheduler",status="Success"}') == 2)
    check("the algorithm, the points, the cache", until(60, lambda: inside(p.metrics()[0])), {k: v for k, v in m.items() if "cache_size" in k or "algorithm" in k})
    check("pods that came", m.get('scheduler_queue_incoming_pods_total{event="PodAdd",queue="active"}', 0) >= 3)
    check("preemption", until(60, lambda: p.metrics()[0].get("scheduler_preemption_attempts_total", 0) >= 1))

def main():
    api = Lone("--disable-admission-plugins", "ServiceAccount")
    controllers = Program(api, "controllers")
    scheduler = Program(api, "scheduler", "--leader-elect=false")
    try:
        api.call("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "scraper"}})
        type_checking(api)
        custom_types(api)
        print("PSS in kB before the first scrape:", controllers.rss_kb(), scheduler.rss_kb())
        ports(api, controllers, "controllers")
        controller_metrics(api, controllers)
        ports(api, scheduler, "scheduler")
        scheduler_metrics(api, scheduler)
        print("and after:", controllers.rss_kb(), scheduler.rss_kb())
        check("both end when told to", controllers.stop() == 0 and scheduler.stop() == 0)
    finally:
        for p in (controllers, scheduler):
            if p.process.poll() is None: p.process.kill()
        api.close()
    finish()

main()
