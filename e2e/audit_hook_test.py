#!/usr/bin/env python3
"""The audit webhook: events come in lists, none is lost while the receiver is away for a moment, large ones go without their
objects; and the log's mode blocking-strict."""
import http.server, json, os, ssl, subprocess, tempfile, threading, time
from lone import Lone, check, finish, free_port, until

class Receiver(http.server.BaseHTTPRequestHandler):
    lists, broken, refused = [], False, 0
    def log_message(self, *a): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if Receiver.broken: Receiver.refused += 1
        else: Receiver.lists.append(body)
        self.send_response(500 if Receiver.broken else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

def events(): return [e for l in list(Receiver.lists) for e in l["items"]]
def about(name): return [e for e in events() if e.get("objectRef", {}).get("name") == name]

def main():
    d, port = tempfile.mkdtemp(prefix="coracle-audit-"), free_port()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", d + "/h.key", "-out", d + "/h.crt", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-days", "2"], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    server.daemon_threads = True
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(d + "/h.crt", d + "/h.key")
    server.socket = ctx.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "h", "user": ""}}],
               "clusters": [{"name": "h", "cluster": {"server": f"https://localhost:{port}/events", "certificate-authority": d + "/h.crt"}}]}, open(d + "/hook.kubeconfig", "w"))
    json.dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
        {"level": "RequestResponse", "verbs": ["create", "delete"], "resources": [{"group": "", "resources": ["configmaps"]}]}, {"level": "None"}]}, open(d + "/policy.yaml", "w"))
    flags = ["--audit-policy-file", d + "/policy.yaml", "--audit-webhook-config-file", d + "/hook.kubeconfig"]
    base = "/api/v1/namespaces/default/configmaps"
    make = lambda api, name, size=1: api.call("POST", base, {"metadata": {"name": name}, "data": {"x": "y" * size}}).status
    api = Lone(*flags, "--audit-webhook-batch-max-wait", "5s", "--audit-webhook-batch-max-size", "5", "--audit-webhook-initial-backoff", "200ms", "--audit-webhook-truncate-enabled", "--audit-log-path", d + "/audit.log")
    for i in range(12): make(api, f"m{i}")
    check("events arrive", until(60, lambda: len(events()) >= 12), len(events()))
    check("in lists of no more than asked for", all(l["kind"] == "EventList" and l["apiVersion"] == "audit.k8s.io/v1" and 1 <= len(l["items"]) <= 5 for l in Receiver.lists), [len(l["items"]) for l in Receiver.lists])
    check("full ones do not wait", max(len(l["items"]) for l in Receiver.lists) == 5, [len(l["items"]) for l in Receiver.lists])
    e = about("m3")[0]
    check("an item is an event without a kind of its own", "kind" not in e and e["stage"] == "ResponseComplete" and e["responseObject"]["data"] == {"x": "y"}, e)
    check("the log has the same", len([1 for l in open(d + "/audit.log") if json.loads(l)["auditID"] == e["auditID"]]) == 1)
    Receiver.broken = True
    make(api, "patience")
    check("a list is refused", until(60, lambda: Receiver.refused))
    Receiver.broken = False
    check("a list that was refused comes again", until(60, lambda: len(about("patience")) == 1), about("patience"))
    make(api, "large", 200000)
    until(60, lambda: about("large"))
    e = about("large")[0]
    check("a large event goes without its objects", "requestObject" not in e and "responseObject" not in e and e["annotations"]["audit.k8s.io/truncated"] == "true", str(e)[:500])
    check("but not where that is not asked for", any(json.loads(l).get("requestObject", {}).get("metadata", {}).get("name") == "large" and "audit.k8s.io/truncated" not in json.loads(l)["annotations"] for l in open(d + "/audit.log")))
    make(api, "last")
    check("it ends cleanly", api.stop() == 0)
    check("and sends what waits", len(about("last")) == 1)
    api.close()
    json.dump({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["configmaps"]}]}, {"level": "None"}]}, open(d + "/policy.yaml", "w"))
    api = Lone("--audit-policy-file", d + "/policy.yaml", "--audit-log-path", "/dev/full", "--audit-log-mode", "blocking-strict")
    r = api.call("POST", base, {"metadata": {"name": "unrecorded"}})
    check("mode blocking-strict refuses what cannot be recorded", r.status == 500 and "failed to store audit event" in r.text and api.call("GET", base + "/unrecorded").status == 404, r.text)
    check("and counts it", 'apiserver_audit_error_total{plugin="log"} ' in api.call("GET", "/metrics").text and 'plugin="log"} 0' not in api.call("GET", "/metrics").text)
    api.close()
    subprocess.run(["rm", "-rf", d])
    finish()

main()
