"""A registry on loopback for e2e/pull_test.py. The repository's name says how it behaves:

    good      as it should            breaks   each answer without a Range ends in the middle
    slow      2 MB a second           basic    wants user:password (so does basic2)
    bearer    wants a token, which it gives for user:password       identity   for the identity token "I"

The large blobs of "good" go out once two are wanted, so that a client on a fast machine is not done with the one before it
asks for the other.

GET /counts: per repository, how many bytes of blobs went out and how many were in flight at once."""
import base64, hashlib, http.server, io, json, random, sys, tarfile, threading, time, urllib.parse

LAYERS, LAYER_BYTES = 6, 3 << 20


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(seed):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        i = tarfile.TarInfo(f"data{seed}")
        i.size = LAYER_BYTES
        t.addfile(i, io.BytesIO(random.Random(seed).randbytes(LAYER_BYTES)))
    return out.getvalue()


class Image:
    def __init__(self, seed):
        layers = [layer(seed * 100 + i) for i in range(LAYERS)]
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]},
                             "rootfs": {"type": "layers", "diff_ids": [sha(x) for x in layers]}}).encode()
        kind = "application/vnd.oci.image."
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
            "config": {"mediaType": kind + "config.v1+json", "digest": sha(config), "size": len(config)},
            "layers": [{"mediaType": kind + "layer.v1.tar", "digest": sha(x), "size": len(x)} for x in layers]}).encode()
        self.blobs = {sha(x): x for x in [config, *layers]}


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    images, counts, lock = {}, {}, threading.Lock()

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"{}", **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def basic(self):
        return self.headers.get("Authorization") == "Basic " + base64.b64encode(b"user:password").decode()

    def may(self, repo):
        auth = self.headers.get("Authorization")
        if repo.startswith("basic") and not self.basic():
            return self.reply(401, WWW_Authenticate='Basic realm="x"')
        if repo in ("bearer", "identity") and auth != f"Bearer token-{repo}":
            realm = f"http://{self.headers['Host']}/token"
            return self.reply(401, WWW_Authenticate=f'Bearer realm="{realm}",service="test",scope="repository:{repo}:pull"')
        return True

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        good = form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == ["I"] and form.get("service") == ["test"]
        self.reply(200 if good else 401, json.dumps({"access_token": "token-identity"}).encode() if good else b"{}")

    def do_GET(self):
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self):
        url = urllib.parse.urlparse(self.path)
        parts = url.path.strip("/").split("/")
        if parts == ["counts"]:
            return self.reply(200, json.dumps(self.counts).encode())
        if parts == ["token"]:
            return self.reply(200, json.dumps({"token": "token-bearer"}).encode()) if self.basic() else self.reply(401)
        repo, image = parts[1], self.images.get(parts[1])
        if not image:
            return self.reply(404)
        if not self.may(repo):
            return
        if parts[2] == "manifests":
            with self.lock:
                self.counts.setdefault(repo, {"bytes": 0, "now": 0, "most": 0})["ns"] = urllib.parse.parse_qs(url.query).get("ns")
            return self.reply(200, image.manifest, Content_Type="application/vnd.oci.image.manifest.v1+json")
        self.blob(repo, image.blobs[parts[3]])

    def blob(self, repo, data):
        with self.lock:
            c = self.counts.setdefault(repo, {"bytes": 0, "now": 0, "most": 0})
            c["now"] += 1
            c["most"] = max(c["most"], c["now"])
        try:
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            wait_until = time.monotonic() + 5
            while repo == "good" and len(data) > 1 << 20 and c["most"] < 2 and time.monotonic() < wait_until:
                time.sleep(0.01)
            end = len(data) // 2 if repo == "breaks" and not start and len(data) > 1 << 20 else len(data)
            for at in range(start, end, 1 << 16):
                piece = data[at:min(at + (1 << 16), end)]
                self.wfile.write(piece)
                with self.lock:
                    c["bytes"] += len(piece)
                if repo == "slow":
                    time.sleep(len(piece) / 2e6)
            self.close_connection |= end < len(data)
        finally:
            with self.lock:
                c["now"] -= 1


if __name__ == "__main__":
    for n, name in enumerate(["good", "breaks", "slow", "basic", "basic2", "bearer", "identity", "mirrored"]):
        Registry.images[name] = Image(n)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Registry).serve_forever()
