"""A registry on loopback whose images do what images must not. GET /v2/NAME/... where NAME is the kind of harm."""
import gzip, hashlib, http.server, io, json, sys, tarfile, threading, time, zlib


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(*entries):
    """(name, type, data or link target)"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, kind, value in entries:
            i = tarfile.TarInfo(name)
            i.type, i.mode = kind, 0o755
            data = value if kind == tarfile.REGTYPE else b""
            i.size = len(data)
            if kind != tarfile.REGTYPE:
                i.linkname = value
            t.addfile(i, io.BytesIO(data))
    return out.getvalue()


def bomb(size):
    """A gzip stream of a tar with one file of so many zeros, and the digest of what it unpacks to."""
    i = tarfile.TarInfo("zeros")
    i.size = size
    z, digest, out = zlib.compressobj(1, zlib.DEFLATED, 31), hashlib.sha256(), []
    chunks = [i.tobuf()] + [bytes(1 << 20)] * (size >> 20) + [bytes(1024)]
    for c in chunks:
        digest.update(c)
        out.append(z.compress(c))
    return b"".join(out) + z.flush(), "sha256:" + digest.hexdigest()


class Image:
    def __init__(self, layer, diff_id=None, compressed=False, claim=None):
        self.layer = layer if compressed else gzip.compress(layer)
        self.config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
                                  "rootfs": {"type": "layers", "diff_ids": [diff_id or sha(layer)]}}).encode()
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha(self.config), "size": len(self.config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": claim or sha(self.layer),
                        "size": len(self.layer)}]}).encode()


SYM, LNK, REG, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE, tarfile.DIRTYPE
GOOD = tar(("bin", DIR, ""), ("bin/true", REG, b"#!nothing\n"))


def images(mark, bomb_bytes):
    """mark: the absolute path of a file that no image may make."""
    return {
        "dotdot": Image(tar(("../" * 12 + mark.lstrip("/"), REG, b"escaped"))),
        "absolute": Image(tar(("out", SYM, "/"), ("out" + mark, REG, b"escaped"))),
        "parentlink": Image(tar(("out", SYM, "../" * 12), ("out" + mark, REG, b"escaped"))),
        "hardlink": Image(tar(("etc", DIR, ""), ("etc/stolen", LNK, "../" * 12 + "etc/shadow"))),
        "bomb": Image(*bomb(bomb_bytes), compressed=True),
        "wrongdigest": Image(GOOD, claim=sha(b"something else")),
        "wrongdiff": Image(GOOD, diff_id=sha(b"something else")),
        "truncated": Image(GOOD), "stall": Image(GOOD), "endless": Image(GOOD), "notjson": Image(GOOD), "huge": Image(GOOD),
    }


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    images = {}
    sent = {}  # bytes by name

    def log_message(self, *_):
        pass

    def reply(self, status, body, length=None, kind="application/octet-stream"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = True

    def answer(self):
        parts = self.path.strip("/").split("/")
        if parts == ["sent"]:
            return self.reply(200, json.dumps(self.sent).encode())
        name, image = parts[1], self.images.get(parts[1])
        if not image:
            return self.reply(404, b"{}")
        if parts[2] == "manifests":
            if name == "notjson":
                return self.reply(200, b"{" * 100000, kind="application/vnd.oci.image.manifest.v1+json")
            if name == "huge":
                return self.endless(name)
            return self.reply(200, image.manifest, kind="application/vnd.oci.image.manifest.v1+json")
        if parts[3] == sha(image.config):
            return self.reply(200, image.config)
        if name == "stall":
            self.reply(200, image.layer[:10], length=len(image.layer))
            time.sleep(600)
        elif name == "truncated":
            self.reply(200, image.layer[:len(image.layer) // 2], length=len(image.layer))
        elif name == "endless":
            self.endless(name)
        else:
            self.reply(200, image.layer)

    def endless(self, name):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while True:
            self.wfile.write(bytes(1 << 20))
            self.sent[name] = self.sent.get(name, 0) + (1 << 20)


if __name__ == "__main__":  # PORT MARK BOMB-BYTES
    Registry.images = images(sys.argv[2], int(sys.argv[3]))
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Registry).serve_forever()
