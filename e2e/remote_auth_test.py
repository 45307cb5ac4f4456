#!/usr/bin/env python3
"""Tokens and access that webhooks decide about: this test plays the webhooks. What they are asked, what is made of their
answers, how long those are kept, and what happens when they fail; with flags and with an AuthorizationConfiguration."""
import http.server, json, os, subprocess, tempfile, threading, time
from lone import Lone, check, finish, free_port, until

ssl_run = lambda *a: subprocess.run(["openssl", *a], check=True, capture_output=True)

class Hooks(http.server.BaseHTTPRequestHandler):
    asked, broken, cut = [], 0, False
    def log_message(self, *a): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Hooks.asked.append((self.path, body, self.headers.get("Authorization")))
        if Hooks.broken:
            Hooks.broken -= 1
            return self.answer(500, b"sorry")
        status = token(body["spec"]) if body["kind"] == "TokenReview" else access(body["spec"])
        self.answer(200, json.dumps({"apiVersion": body["apiVersion"], "kind": body["kind"], "status": status}).encode())
    def answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def token(spec):
    t = spec["token"]
    user = {"username": "ann", "uid": "7", "groups": ["dev"], "extra": {"example.com/x": ["1", "2"]}}
    if t == "good": return {"authenticated": True, "user": user}
    if t == "elsewhere": return {"authenticated": True, "user": user, "audiences": ["elsewhere"]}
    return {"authenticated": False, "error": "never heard of it"}

def access(spec):
    r = spec.get("resourceAttributes", {})
    if r.get("resource") == "configmaps": return {"allowed": True, "reason": "maps are free"}
    if r.get("resource") == "secrets": return {"allowed": False, "denied": True, "reason": "no secrets"}
    return {"allowed": False, "reason": "do not care"}

def kubeconfig(d, port, ca):
    path = f"{d}/hook.kubeconfig"
    json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "h", "user": "u"}}],
               "clusters": [{"name": "h", "cluster": {"server": f"https://localhost:{port}/review", "certificate-authority": ca}}],
               "users": [{"name": "u", "user": {"token": "hook-secret"}}]}, open(path, "w"))
    return path

def as_user(api, path, bearer="good", method="GET", body=None, **h):
    return api.call(method, path, body, {"Authorization": f"Bearer {bearer}", **h}, cert=None)

SELF = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
def who(api, bearer):
    r = as_user(api, "/apis/authentication.k8s.io/v1/selfsubjectreviews", bearer, "POST", SELF)
    return r.json["status"]["userInfo"] if r.status == 201 else r.status

def reviews(kind): return [b for _, b, _ in Hooks.asked if b["kind"] == kind]

def tokens(api):
    u = who(api, "good")
    check("a token's user, groups and extra", u == {"username": "ann", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"example.com/x": ["1", "2"]}}, u)
    first = Hooks.asked[0]
    check("the webhook gets a TokenReview with the API's audiences and the kubeconfig's credentials",
          first[0] == "/review" and first[1]["apiVersion"] == "authentication.k8s.io/v1" and first[1]["spec"] == {"token": "good", "audiences": ["https://kubernetes.default.svc"]} and first[2] == "Bearer hook-secret", first)
    check("a bad token is refused", who(api, "bad") == 401)
    def kept():  # on a slow machine their time may be over in between
        n, answers = len(reviews("TokenReview")), [who(api, t) for t in ("bad", "good")]
        return answers[0] == 401 and answers[1] != 401 and len(reviews("TokenReview")) == n
    check("answers are kept", until(60, kept), reviews("TokenReview"))
    check("a token for somebody else is refused", who(api, "elsewhere") == 401)
    r = api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": "elsewhere", "audiences": ["elsewhere", "more"]}})
    check("but a TokenReview for that audience knows it", r.json.get("status", {}).get("audiences") == ["elsewhere"], r.text)
    r = api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": "bad"}})
    check("the webhook's error shows in a TokenReview", "never heard" in r.json["status"].get("error", ""), r.text)
    Hooks.broken = 1
    check("an overloaded webhook is asked again", who(api, "other") == 401 and not Hooks.broken)

def accesses(api):
    r = as_user(api, "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dx&labelSelector=tier+in+(a,b),!old,app!%3Dz")
    check("what the webhook allows", r.status == 200, r.text)
    q = reviews("SubjectAccessReview")[-1]
    want = {"user": "ann", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"example.com/x": ["1", "2"]},
            "resourceAttributes": {"namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps", "name": "x",
                                   "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]},
                                   "labelSelector": {"requirements": [{"key": "app", "operator": "NotIn", "values": ["z"]}, {"key": "old", "operator": "DoesNotExist"},
                                                                      {"key": "tier", "operator": "In", "values": ["a", "b"]}]}}}
    check("the webhook gets a SubjectAccessReview", q["spec"] == want and q["apiVersion"] == "authorization.k8s.io/v1", q)
    r = as_user(api, "/api/v1/namespaces/default/secrets")
    check("what it denies", r.status == 403 and "no secrets" in r.json["message"], r.text)
    n = len(reviews("SubjectAccessReview"))
    as_user(api, "/api/v1/namespaces/default/secrets")
    check("decisions are kept", len(reviews("SubjectAccessReview")) == n)
    r = as_user(api, "/api/v1/namespaces/default/pods")
    check("what it has no opinion about is refused with its reason", r.status == 403 and "do not care" in r.json["message"], r.text)
    check("administrators are not asked about", api.call("GET", "/api/v1/nodes").status == 200 and len(reviews("SubjectAccessReview")) == n + 1)
    check("other paths", as_user(api, "/some/path").status == 403 and reviews("SubjectAccessReview")[-1]["spec"]["nonResourceAttributes"] == {"path": "/some/path", "verb": "get"})
    Hooks.broken = 99
    r = as_user(api, "/api/v1/namespaces/default/services")
    check("a webhook that fails is an internal error", r.status == 500 and "sorry" in r.text, r.text)
    r = api.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {"user": "u", "resourceAttributes": {"verb": "get", "resource": "leases"}}})
    check("and an evaluationError in a review", not r.json["status"]["allowed"] and "sorry" in r.json["status"].get("evaluationError", ""), r.text)
    Hooks.broken = 0

def structured(d, config, tokens_file):
    def hook(name, policy, *conditions):
        return {"type": "Webhook", "name": name, "webhook": {"authorizedTTL": "5m", "unauthorizedTTL": "30s", "timeout": "30s", "subjectAccessReviewVersion": "v1",
                "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": policy, "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": config},
                "matchConditions": [{"expression": c} for c in conditions]}}
    def write(*authorizers):
        json.dump({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": list(authorizers)}, open(d + "/authz.yaml", "w"))
    write(hook("dev", "Deny", "'dev' in request.groups", "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'default'"),
          {"type": "RBAC", "name": "rbac"})
    api = Lone("--authorization-config", d + "/authz.yaml", "--token-auth-file", tokens_file)
    n = len(reviews("SubjectAccessReview"))
    check("who the conditions leave out is not asked about", as_user(api, "/api/v1/namespaces/default/configmaps", "bob").status == 403 and len(reviews("SubjectAccessReview")) == n)
    check("who they mean is", as_user(api, "/api/v1/namespaces/default/configmaps", "carl").status == 200 and len(reviews("SubjectAccessReview")) == n + 1)
    check("RBAC comes after the webhook", as_user(api, "/api", "carl").status == 200)
    Hooks.broken = 99
    r = as_user(api, "/api/v1/namespaces/default/endpoints", "carl")
    check("failurePolicy Deny", r.status == 500, r.text)
    Hooks.broken = 0
    api.close()
    for name, bad, words in [("a condition that is no bool", [hook("x", "Deny", "request.user")], "must evaluate to bool"), ("an unknown failure policy", [hook("x", "Maybe")], "failurePolicy"),
                             ("an unknown type", [{"type": "Magic", "name": "x"}], "Magic"), ("no authorizers", [], "at least one")]:
        write(*bad)
        p = subprocess.run([os.environ.get("CORACLE_BUILD", os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/build") + "/apiserver/coracle-apiserver", "--data-dir", d + "/data",
                            "--secure-port", str(free_port()), "--authorization-config", d + "/authz.yaml"], capture_output=True, text=True, timeout=60)
        check(f"{name} is refused at the start", p.returncode != 0 and words in p.stderr, p.stderr[-300:])

def main():
    d, port = tempfile.mkdtemp(prefix="coracle-hooks-"), free_port()
    ssl_run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", d + "/h.key", "-out", d + "/h.crt", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Hooks)
    server.daemon_threads = True
    import ssl
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(d + "/h.crt", d + "/h.key")
    server.socket = ctx.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = kubeconfig(d, port, d + "/h.crt")
    open(d + "/tokens", "w").write("bob,bob,1\ncarl,carl,2,dev\n")
    api = Lone("--authentication-token-webhook-config-file", config, "--authentication-token-webhook-version", "v1")
    tokens(api)
    api.close()
    api = Lone("--authentication-token-webhook-config-file", config, "--authorization-mode", "Webhook", "--authorization-webhook-config-file", config,
               "--authorization-webhook-version", "v1")
    accesses(api)
    api.close()
    structured(d, config, d + "/tokens")
    subprocess.run(["rm", "-rf", d])
    finish()

main()
