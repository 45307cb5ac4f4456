"""The webhooks of admission_test.sh: an HTTPS server whose path says how it answers.

  hook_server.py PORT CERT KEY LOG

POSTed reviews are appended to LOG, one JSON line {"path", "review"} each. Paths:
  /convert            HostPort objects of hooks.lab between v1 {host, port} and v2 {hostPort}
  /convert-fail       refuses; /convert-rename changes the name; /convert-few returns nothing
  /allow /deny /deny-code /warn /slow /garbage /wrong-uid /status-500
  /patch/KEY          sets the label KEY to one more than it was
  /patch-bad          a patch that does not apply; /patch-no-type lacks its type
  /annotate           an audit annotation
"""
import base64
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, CERT, KEY, LOG = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
lock = threading.Lock()


def convert(obj, want):
    obj = json.loads(json.dumps(obj))
    have, spec = obj["apiVersion"].split("/")[1], obj.get("spec", {})
    target = want.split("/")[1]
    if have != target and target == "v2":
        obj["spec"] = {"hostPort": "%s:%s" % (spec.get("host", ""), spec.get("port", ""))}
    elif have != target:
        host, _, port = spec.get("hostPort", ":").partition(":")
        obj["spec"] = {"host": host, "port": port}
    obj["apiVersion"] = want
    obj["metadata"].setdefault("labels", {})["converted-to"] = target
    obj["metadata"]["generation"] = 999  # not ours to change
    return obj


def conversion(path, review):
    req = review["request"]
    objects = [convert(o, req["desiredAPIVersion"]) for o in req["objects"]]
    result = {"status": "Success"}
    if path == "/convert-fail":
        result, objects = {"status": "Failure", "message": "not today"}, []
    if path == "/convert-rename":
        for o in objects:
            o["metadata"]["name"] = "other"
    if path == "/convert-few":
        objects = []
    return {"uid": req["uid"], "result": result, "convertedObjects": objects}


def patch(ops):
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(ops).encode()).decode()}


def admission(path, review):
    req = review["request"]
    obj = req.get("object") or {}
    out = {"uid": req["uid"], "allowed": True}
    if path.startswith("/deny"):
        out["allowed"] = False
        out["status"] = {"message": "no thanks"}
        if path == "/deny-code":
            out["status"] = {"code": 402, "message": "pay first", "reason": "PaymentRequired"}
    elif path == "/warn":
        out["warnings"] = ["mind the gap", "and the step"]
    elif path == "/annotate":
        out["auditAnnotations"] = {"seen": "yes"}
    elif path == "/slow":
        time.sleep(5)
    elif path == "/wrong-uid":
        out["uid"] = "another"
    elif path.startswith("/patch/"):
        key = path.split("/")[2]
        labels = obj.get("metadata", {}).get("labels")
        ops = [] if labels else [{"op": "add", "path": "/metadata/labels", "value": {}}]
        n = int((labels or {}).get(key, "0")) + 1
        ops.append({"op": "add", "path": "/metadata/labels/" + key, "value": str(n)})
        out.update(patch(ops))
    elif path == "/patch-bad":
        out.update(patch([{"op": "remove", "path": "/spec/nothing/here"}]))
    elif path == "/patch-no-type":
        out["patch"] = patch([])["patch"]
    return out


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        review = json.loads(body)
        with lock, open(LOG, "a") as log:
            log.write(json.dumps({"path": self.path, "review": review}) + "\n")
        status, answer = 200, {"apiVersion": review["apiVersion"], "kind": review["kind"]}
        answer["response"] = (conversion if path.startswith("/convert") else admission)(path, review)
        if path == "/status-500":
            status, answer = 500, "broken"
        data = b"garbage" if path == "/garbage" else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that hang up


server = Server(("127.0.0.1", PORT), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERT, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
