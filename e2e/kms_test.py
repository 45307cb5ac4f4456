#!/usr/bin/python3
"""Encryption by a key management plugin, which is this program: what stands in the store, a key that changes, a plugin that
is away or not well; and a configuration that is read again while the server runs."""
import base64, glob, hashlib, json, os, shutil, subprocess, tempfile
import grpc_server
from grpc_server import fields, put, text
from lone import BUILD, Lone, check, finish, free_port, until

SECRETS = "/api/v1/namespaces/default/secrets"
word = lambda name: base64.b64encode(b"sesame-" + name.encode()).decode()
secret = lambda name: {"metadata": {"name": name}, "data": {"word": word(name)}}

class Plugin:
    """Its keys are made of their names; what it encrypts says by which."""
    def __init__(self, path):
        self.path, self.key, self.healthy = path, "key-1", "ok"
        self.calls = {"Status": 0, "Encrypt": 0, "Decrypt": 0}
        self.start()
    def start(self):
        self.server = grpc_server.serve(self.path, ["v2.KeyManagementService"], [{"Status": self.status, "Encrypt": self.encrypt, "Decrypt": self.decrypt}])
    def stop(self): self.server.stop(0).wait()
    def mix(self, key, data):
        pad = hashlib.sha512(key.encode()).digest()
        return bytes(a ^ pad[i % len(pad)] for i, a in enumerate(data))
    def status(self, q):
        self.calls["Status"] += 1
        return put(1, "v2") + put(2, self.healthy) + put(3, self.key)
    def encrypt(self, q):
        self.calls["Encrypt"] += 1
        note = put(1, "note.example.com") + put(2, b"n\x00te")
        return put(1, self.mix(self.key, q[1][0])) + put(2, self.key) + put(3, note)
    def decrypt(self, q):
        self.calls["Decrypt"] += 1
        notes = [fields(x) for x in q.get(4, [])]
        if [(text(n, 1), n[2][0]) for n in notes] != [("note.example.com", b"n\x00te")]: raise ValueError("other annotations")
        return put(1, self.mix(text(q, 3), q[1][0]))

def config(path, *providers, resources=("secrets",)):
    doc = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [{"resources": list(resources), "providers": list(providers)}]}
    with open(path + ".new", "w") as f: json.dump(doc, f)
    os.rename(path + ".new", path)

def kms(plugin, **more): return {"kms": {"apiVersion": "v2", "name": "vault", "endpoint": "unix://" + plugin.path, "timeout": "20s", **more}}

def in_file(api, what):
    """Whether the database holds it once it is closed."""
    api.stop()
    found = any(what.encode() in open(f, "rb").read() for f in glob.glob(api.dir + "/state.db*"))
    api.start()
    return found

def plugin_at_work(d, p):
    path = d + "/kms.json"
    config(path, kms(p), {"identity": {}})
    api = Lone("--encryption-provider-config", path)
    same = lambda name: api.call("GET", f"{SECRETS}/{name}").json.get("data", {}).get("word") == word(name)
    for name in ("one", "two", "three"): api.call("POST", SECRETS, secret(name))
    check("what is written is read back", same("one") and same("two"))
    check("a key is made once, not for every object", p.calls["Encrypt"] == 1, p.calls)
    check("nobody reads it in the store", not in_file(api, word("one")) and in_file(api, "k8s:enc:kms:v2:vault:"))
    check("after a start the plugin is asked for the keys that were used, once each", same("one") and same("three") and p.calls["Decrypt"] <= 4, p.calls)
    well = lambda: "[+]kms-providers ok" in api.call("GET", "/readyz?verbose").text and api.call("GET", "/healthz/kms-providers").text == "ok"
    check("health tells of the plugin", until(60, well), api.call("GET", "/readyz?verbose").text[-300:])
    p.key = "key-2"
    api.stop()
    api.start()
    o = api.call("GET", f"{SECRETS}/one").json
    again = api.call("PUT", f"{SECRETS}/one", o).json
    check("with another key of the plugin an update that changes nothing writes anew", again["metadata"]["resourceVersion"] != o["metadata"]["resourceVersion"])
    check("once", api.call("PUT", f"{SECRETS}/one", again).json["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"])
    check("and what the old key encrypted is still read", same("one") and same("two"))
    p.healthy = "no"
    sick = until(60, lambda: "[-]kms-providers failed" in api.call("GET", "/readyz?verbose").text)
    check("a plugin that is not well fails its check", sick)
    check("but for some minutes the key it gave is used", api.call("POST", SECRETS, secret("four")).status == 201 and same("four"))
    p.healthy = "ok"
    check("until it is well again", until(60, lambda: api.call("GET", "/readyz").status == 200))
    p.stop()
    check("without the plugin what was read before is read, and health tells of it", same("one") and until(60, lambda: api.call("GET", "/readyz").status == 500))
    p.start()
    check("it is found again", until(60, lambda: api.call("GET", "/readyz").status == 200))
    api.close()

def reloaded(d, p):
    path = d + "/reload.json"
    key = lambda c: base64.b64encode(c * 32).decode()
    box = {"secretbox": {"keys": [{"name": "box", "secret": key(b"b")}]}}
    config(path, {"identity": {}})
    api = Lone("--encryption-provider-config", path, "--encryption-provider-config-automatic-reload")
    same = lambda name: api.call("GET", f"{SECRETS}/{name}").json.get("data", {}).get("word") == word(name)
    log = lambda: open(api.dir + "/log").read()
    loads = lambda n: until(60, lambda: log().count("encryption configuration reloaded") >= n)
    api.call("POST", SECRETS, secret("plain"))
    config(path, box, {"identity": {}})
    check("a configuration that changes is taken up", loads(1))
    api.call("POST", SECRETS, secret("boxed"))
    check("and old and new are read", same("plain") and same("boxed"))
    open(path, "w").write("nonsense")
    check("one that is no good is not", until(60, lambda: "reloading the encryption configuration" in log()) and same("boxed"))
    config(path, kms(p), box, {"identity": {}})
    check("a plugin can come to it", loads(2))
    api.call("POST", SECRETS, secret("vaulted"))
    check("it has its check of health", until(60, lambda: api.call("GET", "/readyz/kms-providers").text == "ok"))
    check("each object is as the configuration of its time wanted it", same("plain") and same("boxed") and same("vaulted") and in_file(api, "k8s:enc:secretbox:v1:box:") and in_file(api, "k8s:enc:kms:v2:vault:") and not in_file(api, word("vaulted")))
    api.close()

def refused(d, p):
    for name, bad, words in (("of version 1", kms(p, apiVersion="v1"), "apiVersion: Unsupported value"), ("without a name", kms(p, name=""), "name: Required value"), ("over TCP", kms(p, endpoint="tcp://127.0.0.1:1"), "unsupported scheme"),
                             ("with a timeout that is none", kms(p, timeout="-1s"), "should be a positive value")):
        path = d + "/bad.json"
        config(path, bad)
        r = subprocess.run([BUILD + "/apiserver/coracle-apiserver", "--data-dir", d + "/bad", "--secure-port", str(free_port()), "--encryption-provider-config", path], capture_output=True, text=True, timeout=60)
        check(f"a plugin {name} is refused", r.returncode != 0 and words in r.stderr, r.stderr[-300:])

def main():
    d = tempfile.mkdtemp(prefix="coracle-kms-")
    p = Plugin(d + "/plugin.sock")
    plugin_at_work(d, p)
    reloaded(d, p)
    refused(d, p)
    p.stop()
    shutil.rmtree(d)
    finish()

main()
