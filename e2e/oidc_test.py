#!/usr/bin/env python3
"""ID tokens of an OpenID Connect provider that this test plays: who they make of their bearer, what is refused, and keys
that are rotated."""
import base64, http.server, json, ssl, subprocess, threading, time, os, tempfile
from lone import BUILD, Lone, check, finish, free_port, until

b64 = lambda b: base64.urlsafe_b64encode(b).rstrip(b"=").decode()
ssl_run = lambda *a, data=None: subprocess.run(["openssl", *a], input=data, check=True, capture_output=True).stdout

class Key:
    def __init__(self, d, kid, kind):
        self.kid, self.kind, self.file = kid, kind, f"{d}/{kid}.pem"
        if kind == "RSA": ssl_run("genrsa", "-out", self.file, "2048")
        else: ssl_run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.file)
        self.alg = "RS256" if kind == "RSA" else "ES256"
    def jwk(self):
        if self.kind == "RSA":
            n = bytes.fromhex(ssl_run("rsa", "-in", self.file, "-noout", "-modulus").decode().split("=")[1].strip())
            return {"kty": "RSA", "kid": self.kid, "use": "sig", "n": b64(n), "e": "AQAB"}
        point = ssl_run("ec", "-in", self.file, "-pubout", "-outform", "DER")[-64:]
        return {"kty": "EC", "crv": "P-256", "kid": self.kid, "x": b64(point[:32]), "y": b64(point[32:])}
    def token(self, claims, alg=None):
        text = b64(json.dumps({"alg": alg or self.alg, "kid": self.kid}).encode()) + "." + b64(json.dumps(claims).encode())
        sig = ssl_run("dgst", "-sha256", "-sign", self.file, data=text.encode())
        if self.kind == "EC": # DER to r | s
            r = sig[4:4 + sig[3]]; s = sig[6 + sig[3]:]
            sig = r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0")
        return text + "." + b64(sig)

class Provider(http.server.BaseHTTPRequestHandler):
    issuer, keys, fetched, down = "", [], 0, False
    def log_message(self, *a): pass
    def do_GET(self):
        if Provider.down: return self.send_error(503)
        if self.path == "/keys": Provider.fetched += 1
        doc = {"/.well-known/openid-configuration": {"issuer": Provider.issuer, "jwks_uri": Provider.issuer + "/keys"}, "/keys": {"keys": [k.jwk() for k in Provider.keys]}}.get(self.path)
        body = json.dumps(doc).encode()
        self.send_response(200 if doc else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def structured(d, rsa, claims):
    """The same provider, by an AuthenticationConfiguration with expressions."""
    def start(jwt, **more):
        json.dump({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [jwt], **more}, open(d + "/authn.yaml", "w"))
        return Lone("--authentication-config", d + "/authn.yaml")
    def who(**c):
        r = api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}, {"Authorization": "Bearer " + rsa.token(claims(**c))}, cert=None)
        return r.json["status"]["userInfo"] if r.status == 201 else r.status
    issuer = {"url": Provider.issuer, "audiences": ["kubernetes", "other"], "audienceMatchPolicy": "MatchAny", "certificateAuthority": open(d + "/p.crt").read()}
    api = start({"issuer": issuer, "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"}, {"expression": "claims.exp - claims.nbf <= 86400", "message": "lives too long"}],
                 "claimMappings": {"username": {"expression": "claims.sub + '@' + claims.hd"}, "groups": {"expression": "claims.groups.filter(g, g != 'ops').map(g, 'x:' + g)"}, "uid": {"claim": "oid"},
                                   "extra": [{"key": "example.com/tenant", "valueExpression": "claims.?tenant.orValue('')"}, {"key": "example.com/roles", "valueExpression": "claims.roles"}]},
                 "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "system is reserved"}]}, anonymous={"enabled": True, "conditions": [{"path": "/readyz"}]})
    try:
        now = int(time.time())
        u = who(nbf=now, oid="42", roles=["a", ""], tenant="")
        check("expressions make name, groups, uid and extra", u == {"username": "ann@example.com", "uid": "42", "groups": ["x:dev", "system:authenticated"], "extra": {"example.com/roles": ["a"]}}, u)
        check("another of the audiences", who(nbf=now, roles=[], tenant="t", aud="other") != 401)
        for why, c in (("that breaks a rule", dict(nbf=now - 90000, roles=[])), ("without a claim that a rule reads", dict(roles=[])), ("whose user breaks a rule", dict(nbf=now, roles=[], sub="system:x")),
                       ("without a claim that a mapping reads", dict(nbf=now)), ("with a claim of the wrong type", dict(nbf=now, roles=7)), ("with a wrong claim", dict(nbf=now, roles=[], hd="evil.com"))):
            check(f"a token {why} is refused", who(**c) == 401, who(**c))
        check("anonymous requests have their paths", api.call("GET", "/readyz", cert=None).status == 200 and api.call("GET", "/version", cert=None).status == 401)
    finally:
        api.close()
    for name, change, words in (("no prefix", {"claimMappings": {"username": {"claim": "sub"}}}, "prefix is required"), ("an email that is not verified", {"claimMappings": {"username": {"expression": "claims.email"}}}, "email_verified"),
                                ("an expression that is none", {"claimMappings": {"username": {"expression": "claims."}}}, "compilation failed"), ("a reserved key", {"claimMappings": {"username": {"claim": "sub", "prefix": ""}, "extra": [{"key": "k8s.io/x", "valueExpression": "'a'"}]}}, "reserved"),
                                ("another scheme", {"issuer": {**issuer, "url": "http://x"}, "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}, "https")):
        json.dump({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{"issuer": issuer, **change}]}, open(d + "/authn.yaml", "w"))
        p = subprocess.run([BUILD + "/apiserver/coracle-apiserver", "--data-dir", d + "/data", "--secure-port", str(free_port()), "--authentication-config", d + "/authn.yaml"], capture_output=True, text=True, timeout=60)
        check(f"{name} is refused at the start", p.returncode != 0 and words in p.stderr, p.stderr[-300:])

def main():
    d, port = tempfile.mkdtemp(prefix="coracle-oidc-"), free_port()
    ssl_run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/p.key", "-out", d + "/p.crt", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2")
    Provider.issuer = f"https://localhost:{port}"
    rsa, ec, other = Key(d, "r1", "RSA"), Key(d, "e1", "EC"), Key(d, "r2", "RSA")
    Provider.keys = [rsa, ec]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Provider)
    server.daemon_threads = True
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(d + "/p.crt", d + "/p.key")
    server.socket = ctx.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api = Lone("--oidc-issuer-url", Provider.issuer, "--oidc-client-id", "kubernetes", "--oidc-ca-file", d + "/p.crt", "--oidc-groups-claim", "groups", "--oidc-groups-prefix", "oidc:",
               "--oidc-required-claim", "hd=example.com", "--oidc-signing-algs", "RS256,ES256")
    claims = lambda **c: {"iss": Provider.issuer, "aud": "kubernetes", "sub": "ann", "exp": int(time.time()) + 600, "hd": "example.com", "groups": ["dev", "ops"], **c}
    def who(token):
        r = api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}, {"Authorization": "Bearer " + token}, cert=None)
        return r.json["status"]["userInfo"] if r.status == 201 else r.status
    try:
        u = who(rsa.token(claims()))
        check("an RS256 token names its bearer, with the issuer before the name", u != 401 and u["username"] == Provider.issuer + "#ann", u)
        check("groups have their prefix", u != 401 and sorted(u["groups"]) == ["oidc:dev", "oidc:ops", "system:authenticated"], u)
        u = who(ec.token(claims(sub="eve", groups="one", aud=["x", "kubernetes"])))
        check("ES256, one group, several audiences", u != 401 and u["username"].endswith("#eve") and "oidc:one" in u["groups"], u)
        before = Provider.fetched
        for i in range(5): who(rsa.token(claims(sub=f"u{i}")))
        check("keys are kept", Provider.fetched == before, Provider.fetched - before)
        for why, t in (("for another client", rsa.token(claims(aud="other"))), ("that has ended", rsa.token(claims(exp=int(time.time()) - 60))), ("without an end", rsa.token({k: v for k, v in claims().items() if k != "exp"})),
                       ("without a required claim", rsa.token(claims(hd="evil.com"))), ("of another issuer", rsa.token(claims(iss="https://evil"))), ("without a name", rsa.token(claims(sub=""))),
                       ("with another signature", rsa.token(claims())[:-8] + "AAAAAAAA"), ("that says its key is of another kind", rsa.token(claims(), alg="ES256")), ("without a signature", b64(b'{"alg":"none"}') + "." + b64(json.dumps(claims()).encode()) + "."),
                       ("of an unknown key", other.token(claims()))):
            check(f"a token {why} is refused", who(t) == 401, who(t))
        Provider.keys = [other]
        check("a new key is found by its first token, within the pause between looks", until(60, lambda: who(other.token(claims(sub=f"n{time.time()}"))) != 401))
        check("and the old one is forgotten", who(rsa.token(claims(sub="late"))) == 401)
        Provider.down = True
        check("kept keys do without the provider", who(other.token(claims(sub="down"))) != 401)
        start = time.time()
        for i in range(20): who(rsa.token(claims(sub=f"flood{i}")))
        check("tokens that cannot be verified do not wait for it", time.time() - start < 60, time.time() - start)
        check("service account tokens go on", api.call("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": {}}).status in (201, 404))
        check("the API server ends cleanly", api.stop() == 0)
    finally:
        api.close()
    Provider.down, Provider.keys = False, [rsa, ec]
    structured(d, rsa, claims)
    finish()

main()
