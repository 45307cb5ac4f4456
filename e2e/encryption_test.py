#!/usr/bin/env python3
"""Encryption at rest: what stands in the store, on sqlite and on etcd; keys that are rotated; a server without the key."""
import base64, glob, json, os, subprocess, tempfile
from lone import BUILD, Lone, check, finish, free_port, until
from servers import Servers

key = lambda c: base64.b64encode(c * 32).decode()
provider = lambda kind, *names: {kind: {"keys": [{"name": n, "secret": key(n[-1:].encode())} for n in names]}}
SECRETS = "/api/v1/namespaces/default/secrets"
secret = lambda name: {"metadata": {"name": name}, "data": {"word": base64.b64encode(b"sesame-" + name.encode()).decode()}}
word = lambda name: secret(name)["data"]["word"]

def config(path, *resources):
    json.dump({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": list(resources)}, open(path, "w"))

def in_file(api, text):
    """What stands in the database once it is closed."""
    api.stop()
    found = any(text.encode() in open(f, "rb").read() for f in glob.glob(api.dir + "/state.db*"))
    api.start()
    return found

def sqlite(d):
    path = d + "/e.yaml"
    entry = lambda *providers: {"resources": ["secrets", "*.apps", "widgets.example.com"], "providers": list(providers)}
    config(path, entry(provider("aesgcm", "key-a"), {"identity": {}}))
    api = Lone()
    api.call("POST", SECRETS, secret("early"))
    check("without a configuration a secret stands there as it is", in_file(api, word("early")))
    api.flags = ["--encryption-provider-config", path]
    api.stop()
    api.start()
    api.call("POST", SECRETS, secret("one"))
    api.call("POST", "/apis/apps/v1/namespaces/default/controllerrevisions", {"metadata": {"name": "r"}, "revision": 1, "data": {"word": "sesame-revision"}})
    api.call("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "c"}, "data": {"word": "open-to-all"}})
    same = lambda name: api.call("GET", f"{SECRETS}/{name}").json.get("data", {}).get("word") == word(name)
    check("it is read back, and so is what was there before", same("one") and same("early"))
    check("nobody reads it in the store", not in_file(api, word("one")) and not in_file(api, "sesame-revision") and in_file(api, "k8s:enc:aesgcm:v1:key-a:"))
    check("nor is it there for those that were not named", in_file(api, "open-to-all"))
    check("and after a start it is all there", same("one") and same("early"))
    config(path, entry(provider("secretbox", "key-b"), provider("aesgcm", "key-a"), {"identity": {}}))
    api.stop()
    api.start()
    for name in ("one", "early"):
        o = api.call("GET", f"{SECRETS}/{name}").json
        api.call("PUT", f"{SECRETS}/{name}", o)
    r = api.call("GET", "/apis/apps/v1/namespaces/default/controllerrevisions/r").json
    api.call("PUT", "/apis/apps/v1/namespaces/default/controllerrevisions/r", r)
    check("an update that changes nothing writes by the new key", api.call("GET", f"{SECRETS}/one").json["metadata"]["resourceVersion"] != o["metadata"]["resourceVersion"])
    o = api.call("GET", f"{SECRETS}/one").json
    api.call("PUT", f"{SECRETS}/one", o)
    check("once", api.call("GET", f"{SECRETS}/one").json["metadata"]["resourceVersion"] == o["metadata"]["resourceVersion"])
    config(path, entry(provider("secretbox", "key-b")))
    api.stop()
    api.start()
    check("then the old key is not needed any more", same("one") and same("early") and len(api.call("GET", SECRETS).json["items"]) == 2)
    api.stop()
    for name, bad, words in (("without the key", entry(provider("secretbox", "key-c")), "cannot be decrypted"), ("with an unknown resource", {"resources": ["nothings"], "providers": [{"identity": {}}]}, "no such resource"),
                             ("with a provider that nobody knows", entry({"rot13": {"name": "k"}}), "unknown provider")):
        config(path, bad)
        p = subprocess.run([BUILD + "/apiserver/coracle-apiserver", "--data-dir", api.dir, "--secure-port", str(free_port()), *api.flags], capture_output=True, text=True, timeout=60)
        check(f"{name} the server does not start, and says why", p.returncode != 0 and words in p.stderr, p.stderr[-300:])
    api.close()

def etcd(d):
    path = d + "/all.yaml"
    config(path, {"resources": ["configmaps"], "providers": [{"identity": {}}]}, {"resources": ["*.*"], "providers": [provider("aescbc", "key-d")]})
    with Servers(etcd=True, n=2, args=["--encryption-provider-config", path]) as s:
        a, b = s.client(0), s.client(1)
        rv = a.call("GET", SECRETS)[1]["metadata"]["resourceVersion"]
        a.call("POST", SECRETS, secret("shared"))
        a.call("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "plain"}})
        check("another server reads it", b.call("GET", f"{SECRETS}/shared")[1].get("data", {}).get("word") == word("shared"))
        r = b.open("GET", f"{SECRETS}?watch=1&timeoutSeconds=5&resourceVersion={rv}")
        events = [json.loads(x) for x in r.read().decode().splitlines()]
        check("and its watches show it", [(e["type"], e["object"]["data"]["word"]) for e in events if e["object"]["metadata"]["name"] == "shared"] == [("ADDED", word("shared"))], events)
        kept = subprocess.run(["etcdctl", "--endpoints", f"http://127.0.0.1:{s.etcd_port}", "get", "--prefix", "/registry/"], capture_output=True, env={**os.environ, "ETCDCTL_API": "3"}).stdout
        check("etcd has it by the key, and what an earlier entry names as it is", b"k8s:enc:aescbc:v1:key-d:" in kept and b'"kind":"Secret"' not in kept and b'"kind":"ClusterRole"' not in kept and b'"name":"plain"' in kept)

def main():
    d = tempfile.mkdtemp(prefix="coracle-enc-")
    sqlite(d)
    etcd(d)
    subprocess.run(["rm", "-rf", d])
    finish()

main()
