#!/usr/bin/env python3
"""Watches over WebSocket, as a browser makes them: events as messages, selectors, errors, pings, goodbyes of either side."""
import base64, json, os, socket, struct
from lone import Lone, check, finish, until

class Socket:
    """A WebSocket client, as far as a watch needs one."""
    def __init__(self, api, path, headers=(), cert="admin", key=None):
        raw = socket.create_connection(("127.0.0.1", api.port), 30)
        self.s = api.context(cert).wrap_socket(raw, server_hostname="127.0.0.1")
        self.s.settimeout(30)
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{api.port}", "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: " + (key or base64.b64encode(os.urandom(16)).decode()), *headers]
        self.s.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.buf = b""
        while b"\r\n\r\n" not in self.buf: self.more()
        head, self.buf = self.buf.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])
        self.head = head.decode()
    def more(self):
        got = self.s.recv(65536)
        if not got: raise EOFError
        self.buf += got
    def take(self, n):
        while len(self.buf) < n: self.more()
        out, self.buf = self.buf[:n], self.buf[n:]
        return out
    def frame(self):
        b = self.take(2)
        n = b[1] & 127
        if n == 126: n = struct.unpack(">H", self.take(2))[0]
        elif n == 127: n = struct.unpack(">Q", self.take(8))[0]
        return b[0] & 15, self.take(n)
    def send(self, op, data=b""):
        mask = os.urandom(4)
        self.s.sendall(bytes([0x80 | op, 0x80 | len(data)]) + mask + bytes(c ^ mask[i % 4] for i, c in enumerate(data)))
    def event(self):
        while True:
            op, data = self.frame()
            if op == 1: return json.loads(data)
            if op == 8: return None
    def close(self): self.s.close()

BASE = "/api/v1/namespaces/default/configmaps"

def main():
    api = Lone()
    make = lambda name, size=1, **labels: api.call("POST", BASE, {"metadata": {"name": name, "labels": labels}, "data": {"x": "y" * size}})
    names = lambda ws, n: [(e["type"], e["object"]["metadata"]["name"]) for e in (ws.event() for _ in range(n))]
    open_watches = lambda: next((float(l.split()[1]) for l in api.call("GET", "/metrics").text.splitlines() if l.startswith("apiserver_registered_watchers ")), -1)
    try:
        make("before")
        rv = api.call("GET", BASE).json["metadata"]["resourceVersion"]
        idle = open_watches()
        ws = Socket(api, f"{BASE}?watch=1&resourceVersion={rv}")
        check("the upgrade", ws.status == 101 and "connection: upgrade" in ws.head.lower() and "transfer-encoding" not in ws.head.lower() and "connection: close" not in ws.head.lower(), ws.head)
        make("one")
        make("large", 300000)
        api.call("DELETE", BASE + "/one")
        check("each event is a message, however long", names(ws, 3) == [("ADDED", "one"), ("ADDED", "large"), ("DELETED", "one")])
        ws.send(9, b"are you there")
        check("a ping is answered", ws.frame() == (10, b"are you there"))
        ws.send(1, b"whatever")
        make("after")
        check("what the client says is not minded", names(ws, 1) == [("ADDED", "after")])
        ws.send(8, struct.pack(">H", 1000))
        op, data = ws.frame()
        check("its goodbye is returned", op == 8 and data[:2] == struct.pack(">H", 1000), (op, data))
        try: rest = ws.s.recv(10)
        except OSError: rest = b""
        check("and the connection closed", rest == b"")
        check("the watch is gone", until(60, lambda: open_watches() <= idle), (open_watches(), idle))
        ws = Socket(api, f"{BASE}?watch=1&resourceVersion={rv}&labelSelector=a%3Db&timeoutSeconds=10")
        make("unseen")
        make("seen", a="b")
        check("selectors", names(ws, 1) == [("ADDED", "seen")])
        check("the time-out ends it with a goodbye", ws.event() is None)
        ws.close()
        ws = Socket(api, f"{BASE}?watch=1", ["Accept: application/json;as=Table;v=v1;g=meta.k8s.io"])
        check("as tables", ws.event()["object"]["kind"] == "Table")
        ws.s.close()
        check("a client that just goes leaves nothing", until(60, lambda: open_watches() <= idle), (open_watches(), idle))
        token = api.call("POST", "/api/v1/namespaces/kube-system/serviceaccounts", {"metadata": {"name": "w"}}) and api.call("POST", "/api/v1/namespaces/kube-system/serviceaccounts/w/token", {"spec": {}}).json["status"]["token"]
        api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"metadata": {"name": "w"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                                                                                    "subjects": [{"kind": "ServiceAccount", "name": "w", "namespace": "kube-system"}]})
        protocol = "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()
        go = lambda: Socket(api, f"{BASE}?watch=1", [f"Sec-WebSocket-Protocol: {protocol}, base64.binary.k8s.io"], cert=None)
        check("a browser's token in the protocols", until(60, lambda: go().status == 101))
        ws = go()
        check("the other protocol is told back", "sec-websocket-protocol: base64.binary.k8s.io" in ws.head.lower(), ws.head)
        ws.close()
        check("who may not is refused before the upgrade", Socket(api, "/api/v1/secrets?watch=1", [f"Sec-WebSocket-Protocol: {protocol}"], cert=None).status == 403)
        check("a bad handshake", Socket(api, f"{BASE}?watch=1", key="short").status == 400)
        check("the API server ends cleanly", api.stop() == 0)
    finally:
        api.close()
    finish()

main()
