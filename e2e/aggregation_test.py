#!/usr/bin/env python3
"""An aggregated API server written for the test, behind an APIService of a lone API server: identity in headers, watches,
upgrades, errors, discovery and OpenAPI as one with the rest, availability. And the other direction: our own server behind
a front proxy."""
import http.server, json, os, socket, ssl, subprocess, threading, time
from lone import Lone, check, finish, free_port, until

GROUP, VERSION = "wardle.example.com", "v1alpha1"
BASE = f"/apis/{GROUP}/{VERSION}"
SCHEMA = {"type": "object", "description": "a bird", "properties": {"kind": {"type": "string"}, "apiVersion": {"type": "string"},
          "spec": {"type": "object", "description": "what a flunder is", "properties": {"reference": {"type": "string", "description": "of the flunder"}}}},
          "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": "Flunder"}]}
NAME = "com.example.wardle.v1alpha1.Flunder"
LIST = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": [
    {"name": "flunders", "singularName": "flunder", "namespaced": True, "kind": "Flunder", "verbs": ["get", "list", "create", "watch"], "shortNames": ["fl"]},
    {"name": "flunders/status", "singularName": "", "namespaced": True, "kind": "Flunder", "verbs": ["get"]}]}
GET = {"description": "read", "operationId": "readFlunder", "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/" + NAME}}}}
V2 = {"swagger": "2.0", "info": {"title": "wardle", "version": "v1"},
      "paths": {BASE + "/namespaces/{namespace}/flunders/{name}": {"get": GET}, "/apis/other.example.com/v1/x": {"get": GET}},
      "definitions": {NAME: SCHEMA, "com.example.Unused": {"type": "object"}}}
V3 = {"openapi": "3.0.0", "info": {"title": "wardle", "version": "v1"},
      "paths": {BASE + "/namespaces/{namespace}/flunders/{name}": {"get": {"operationId": "readFlunder", "x-kubernetes-action": "get",
                "x-kubernetes-group-version-kind": {"group": GROUP, "version": VERSION, "kind": "Flunder"},
                "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/" + NAME}}}}}}}},
      "components": {"schemas": {NAME: SCHEMA}}}

class Back(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    broken = False
    seen = {}
    watchers_gone = 0
    def log_message(self, *a): pass
    def answer(self, status, obj, headers=()):
        body = json.dumps(obj).encode() if not isinstance(obj, bytes) else obj
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for k, v in headers: self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        path, _, query = self.path.partition("?")
        # The aggregator asks for discovery and OpenAPI whenever it likes: only requests for objects are kept.
        if self.path.startswith(BASE + "/namespaces/"):
            Back.seen = {"path": self.path, "headers": list(self.headers.items()), "peer": self.connection.getpeercert()}
        documents = {BASE: LIST, "/openapi/v2": V2, "/openapi/v3/apis/" + GROUP + "/" + VERSION: V3,
                     "/openapi/v3": {"paths": {f"apis/{GROUP}/{VERSION}": {"serverRelativeURL": "/openapi/v3/x?hash=1"}}}}
        if Back.broken: return self.answer(500, {"kind": "Status"})
        if path in documents: return self.answer(200, documents[path])
        if "upgrade" in self.headers.get("Connection", "").lower(): return self.upgrade()
        if "watch=" in query: return self.watch()
        if path.endswith("/big"): return self.answer(200, b"x" * (8 << 20))
        if path.endswith("/flunders"): return self.answer(200, {"kind": "FlunderList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {"resourceVersion": "7"}, "items": []})
        self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no such flunder"}, [("X-Back", "end")])
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(201, json.loads(body))
    def watch(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for i in range(600):
                line = json.dumps({"type": "ADDED", "object": {"kind": "Flunder", "metadata": {"name": f"f{i}"}}}).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            Back.watchers_gone += 1
        self.close_connection = True
    def upgrade(self):
        self.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := self.connection.recv(1000): self.connection.sendall(data.upper())
        self.close_connection = True

def make_certificates(d):
    ext = d + "/ext"
    open(ext, "w").write("subjectAltName=DNS:api.wardle.svc\nextendedKeyUsage=serverAuth\n")
    run = lambda *a: subprocess.run(["openssl", *a], check=True, capture_output=True)
    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/wca.key", "-out", d + "/wca.crt", "-subj", "/CN=wardle-ca", "-days", "2")
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/w.key", "-out", d + "/w.csr", "-subj", "/CN=api.wardle.svc")
    run("x509", "-req", "-in", d + "/w.csr", "-CA", d + "/wca.crt", "-CAkey", d + "/wca.key", "-CAcreateserial", "-out", d + "/w.crt", "-days", "2", "-extfile", ext)

def start_back(d, front_ca, port):
    open(d + "/front.crt", "w").write(front_ca)
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(d + "/w.crt", d + "/w.key")
    ctx.load_verify_locations(d + "/front.crt")
    ctx.verify_mode = ssl.CERT_REQUIRED
    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        def finish_request(self, sock, addr):
            with ctx.wrap_socket(sock, server_side=True) as tls: super().finish_request(tls, addr)
        def handle_error(self, request, addr): pass
    s = Server(("127.0.0.1", port), Back)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s

def condition(api):
    o = api.call("GET", f"/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}").json
    return next(((c["status"], c["reason"]) for c in o.get("status", {}).get("conditions", [])), None)

def raw(api, text, cert="admin"):
    s = api.context(cert).wrap_socket(socket.create_connection(("127.0.0.1", api.port), timeout=60), server_hostname="localhost")
    s.sendall(text.encode())
    return s

def service(port):
    return {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "api", "namespace": "wardle"},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}}

def test_availability(api, port):
    import base64
    spec = {"group": GROUP, "version": VERSION, "groupPriorityMinimum": 2000, "versionPriority": 200,
            "service": {"namespace": "wardle", "name": "api", "port": port}, "caBundle": base64.b64encode(open(api.dir + "/wca.crt", "rb").read()).decode()}
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "wardle"}})
    r = api.call("POST", "/apis/apiregistration.k8s.io/v1/apiservices",
                 {"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": f"{VERSION}.{GROUP}"}, "spec": spec})
    check("an APIService with a service is accepted", r.status == 201, r.text)
    check("without its Service it is not available: ServiceNotFound", until(60, lambda: condition(api) == ("False", "ServiceNotFound")), condition(api))
    check("and requests are answered with 503", api.call("GET", BASE + "/namespaces/a/flunders").status == 503)
    api.call("POST", "/api/v1/namespaces/wardle/services", {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "api"}, "spec": {"ports": [{"name": "p", "port": port + 1}]}})
    check("a Service without the port: ServicePortError", until(60, lambda: condition(api) == ("False", "ServicePortError")), condition(api))
    api.call("DELETE", "/api/v1/namespaces/wardle/services/api")
    api.call("POST", "/api/v1/namespaces/wardle/services", {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "api"}, "spec": {"ports": [{"name": "p", "port": port}]}})
    check("without endpoints: MissingEndpoints", until(60, lambda: condition(api) == ("False", "MissingEndpoints")), condition(api))
    api.call("DELETE", "/api/v1/namespaces/wardle/services/api")
    api.call("POST", "/api/v1/namespaces/wardle/services", service(port))
    check("with nobody listening: FailedDiscoveryCheck", until(60, lambda: condition(api) == ("False", "FailedDiscoveryCheck")), condition(api))

def test_requests(api):
    r = api.call("GET", BASE + "/namespaces/a/flunders?limit=5", headers={"X-Remote-User": "evil", "X-Remote-Group": "system:evil", "Accept": "application/json;as=Table, */*"})
    h = Back.seen["headers"]
    check("a list comes from the back end", r.status == 200 and r.json.get("kind") == "FlunderList", r.text)
    check("path and query arrive as sent", Back.seen["path"] == BASE + "/namespaces/a/flunders?limit=5", Back.seen["path"])
    check("the user is named, and only by us", [v for k, v in h if k.lower() == "x-remote-user"] == ["kubernetes-admin"], h)
    check("and the groups", sorted(v for k, v in h if k.lower() == "x-remote-group") == ["system:authenticated", "system:masters"], h)
    check("the client certificate is the front proxy's", "front-proxy-client" in str(Back.seen["peer"]), Back.seen["peer"])
    r = api.call("GET", BASE + "/namespaces/a/flunders", headers={"Impersonate-User": "ann", "Impersonate-Group": "g1", "Impersonate-Extra-Scopes": "a", "Authorization": "Bearer x"})
    check("whoever has no right to it is refused here", r.status == 403, r.status)
    api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "fl"}, "rules": [{"apiGroups": [GROUP], "resources": ["flunders"], "verbs": ["*"]}]})
    api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"metadata": {"name": "fl"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "fl"},
             "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]})
    r = until(60, lambda: (x := api.call("GET", BASE + "/namespaces/a/flunders", headers={"Impersonate-User": "ann", "Impersonate-Group": "g1", "Impersonate-Extra-acme.com%2fscopes": "a"})).status == 200 and x)
    h = [(k.lower(), v) for k, v in Back.seen["headers"]]
    check("an impersonated user goes on under that name, with extra", r and ("x-remote-user", "ann") in h and ("x-remote-extra-acme.com%2fscopes", "a") in h, h)
    check("credentials stay here", not any(k in ("authorization", "impersonate-user") for k, _ in h), h)
    r = api.call("GET", BASE + "/namespaces/a/flunders/x")
    check("errors of the back end come as they are", r.status == 404 and r.json.get("message") == "no such flunder" and r.headers.get("X-Back") == "end", r.text)
    r = api.call("POST", BASE + "/namespaces/a/flunders", {"kind": "Flunder", "n": "y" * 100000})
    check("bodies go both ways", r.status == 201 and len(r.json.get("n", "")) == 100000, r.status)
    r = api.call("GET", BASE + "/namespaces/a/big")
    check("8 MB are streamed", len(r.text) == 8 << 20, len(r.text))
    c = api.connect()
    c.request("GET", BASE + "/namespaces/a/flunders?watch=true")
    start, resp = time.time(), c.getresponse()
    lines = [json.loads(resp.readline()) for _ in range(3)]
    check("a watch streams", lines[2]["object"]["metadata"]["name"] == "f2" and time.time() - start < 30, lines)
    c.sock and c.sock.close(); resp.close(); c.close()
    check("and ends at the back end when the client goes", until(60, lambda: Back.watchers_gone >= 1), Back.watchers_gone)
    s = raw(api, f"GET {BASE}/namespaces/a/flunders/x/shell HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    head = s.recv(4096)
    s.sendall(b"hello")
    check("an upgrade passes through", b"101" in head.split(b"\r\n")[0] and s.recv(100) == b"HELLO", head)
    s.close()

def test_documents(api):
    groups = until(60, lambda: (g := [g["name"] for g in api.call("GET", "/apis").json["groups"]]) and GROUP in g and g) or []
    check("the group is listed after built-in ones", GROUP in groups and groups.index(GROUP) > groups.index("apps"), groups)
    check("/apis/GROUP is there", api.call("GET", f"/apis/{GROUP}").json.get("preferredVersion", {}).get("version") == VERSION)
    def discovered():
        doc = api.call("GET", "/apis", headers={"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}).json
        return next((i for i in doc["items"] if i["metadata"]["name"] == GROUP), {"versions": [{}]})["versions"][0]
    until(60, lambda: discovered().get("freshness") == "Current" and discovered().get("resources"))
    item = discovered()
    res = item.get("resources", [{}])[0]
    check("the aggregated document has its resources", item.get("freshness") == "Current" and res.get("resource") == "flunders" and
          res["responseKind"] == {"group": GROUP, "version": VERSION, "kind": "Flunder"} and res["subresources"][0]["subresource"] == "status", item)
    def v2(): return api.call("GET", "/openapi/v2").json
    doc = until(60, lambda: (d := v2()) and NAME in d["definitions"] and d)
    check("OpenAPI v2 is merged", doc and BASE + "/namespaces/{namespace}/flunders/{name}" in doc["paths"])
    check("without what is not the version's", doc and "/apis/other.example.com/v1/x" not in doc["paths"] and "com.example.Unused" not in doc["definitions"] and "io.k8s.api.core.v1.Pod" in doc["definitions"])
    paths = until(60, lambda: (p := api.call("GET", "/openapi/v3").json["paths"]) and f"apis/{GROUP}/{VERSION}" in p and p) or {}
    check("OpenAPI v3 has the document", f"apis/{GROUP}/{VERSION}" in paths)
    url = paths.get(f"apis/{GROUP}/{VERSION}", {}).get("serverRelativeURL", "/x")
    check("which is the back end's", NAME in api.call("GET", url).json.get("components", {}).get("schemas", {}))
    k = lambda *a: subprocess.run(["kubectl", "--kubeconfig", api.kubeconfig(), *a], capture_output=True, text=True)
    check("kubectl api-resources shows it", "flunders" in k("api-resources", "--api-group=" + GROUP).stdout)
    check("kubectl explain knows it", "of the flunder" in (r := k("explain", "flunders.spec")).stdout, r.stderr)
    check("kubectl get apiservices says Available", "True" in k("get", "apiservices", f"{VERSION}.{GROUP}").stdout)

def test_front_proxy(api):
    who = lambda cert, **h: api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"},
                                     headers={k.replace("_", "-"): v for k, v in h.items()}, cert=cert)
    u = who("front-proxy-client", X_Remote_User="bob", X_Remote_Group="dev", X_Remote_Uid="42").json["status"]["userInfo"]
    check("a front proxy names the user", u["username"] == "bob" and u["uid"] == "42" and sorted(u["groups"]) == ["dev", "system:authenticated"], u)
    u = who("admin", X_Remote_User="bob").json["status"]["userInfo"]
    check("others cannot", u["username"] == "kubernetes-admin", u)
    check("without a name it is nobody", who("front-proxy-client").status == 401)

def main():
    api = Lone()
    port = free_port()
    try:
        make_certificates(api.dir)
        data = api.call("GET", "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").json["data"]
        check("the CAs are published for extension servers", "BEGIN" in data["client-ca-file"] and json.loads(data["requestheader-allowed-names"]) == ["front-proxy-client"])
        test_availability(api, port)
        server = start_back(api.dir, data["requestheader-client-ca-file"], port)
        check("once it answers it is available: Passed", until(60, lambda: condition(api) == ("True", "Passed")), condition(api))
        test_requests(api)
        test_documents(api)
        test_front_proxy(api)
        Back.broken = True
        check("a back end that fails becomes unavailable", until(60, lambda: condition(api) == ("False", "FailedDiscoveryCheck")), condition(api))
        Back.broken = False
        check("and available again", until(60, lambda: condition(api) == ("True", "Passed")), condition(api))
        api.call("DELETE", f"/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}")
        check("without the APIService the group is gone", until(60, lambda: api.call("GET", BASE).status == 404) and GROUP not in api.call("GET", "/apis").text)
        server.shutdown()
        check("the API server ends cleanly", api.stop() == 0)
    finally:
        api.close()
    finish()

main()
