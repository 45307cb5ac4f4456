#include "pkg/pki/pki.h"

#include <ftw.h>
#include <sys/stat.h>

#include "pkg/base/bytes.h"
#include "pkg/pki/jwt.h"
#include "tests/test.h"

static struct ktime fake_now = {.sec = 1800000000, .set = true};
static struct ktime now_fake(void) { return fake_now; }

static const char *const orgs[] = {"system:masters", "other"};
static const char *const sans[] = {"localhost", "10.96.0.1", "0:0::1", "kubernetes.default.svc"};
static const struct pki_spec spec = {
    .cn = "admin", .orgs = orgs, .n_orgs = 2, .sans = sans, .n_sans = 4, .usages = PKI_SERVER_AUTH | PKI_CLIENT_AUTH};

static struct pki_pair make_ca(void) {
    struct pki_pair ca = {0};
    struct err e = {0};
    if (pki_ca_new("test-ca", 0, &ca, &e) < 0) TEST_FAIL("%s", e.msg);
    return ca;
}

TEST(an_issued_certificate_says_what_was_asked_for) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_pki_pair_ struct pki_pair ca = make_ca(), p = {0};
    CHECK_INT(pki_issue(&ca, &spec, &p, NULL), 0);
    struct pki_info i;
    REQUIRE(pki_inspect(a, p.cert_pem, &i, NULL) == 0);
    CHECK_STR(i.cn, "admin");
    REQUIRE(i.n_orgs == 2 && i.n_sans == 4);
    CHECK_STR(i.orgs[0], "system:masters");
    CHECK_STR(i.orgs[1], "other");
    CHECK_STR(i.sans[0], "localhost");
    CHECK_STR(i.sans[1], "10.96.0.1");
    CHECK_STR(i.sans[2], "::1");
    CHECK_INT(i.usages, PKI_SERVER_AUTH | PKI_CLIENT_AUTH | PKI_DIGITAL_SIGNATURE | PKI_KEY_ENCIPHERMENT);
    CHECK(!i.is_ca);
    CHECK_INT(i.not_after.sec - i.not_before.sec, PKI_CERT_SECONDS + 300);
    REQUIRE(pki_inspect(a, ca.cert_pem, &i, NULL) == 0);
    CHECK(i.is_ca);
    CHECK_STR(i.cn, "test-ca");
}

TEST(a_certificate_never_outlives_its_ca) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_pki_pair_ struct pki_pair ca = {0}, p = {0};
    CHECK_INT(pki_ca_new("short", 3600, &ca, NULL), 0);
    CHECK_INT(pki_issue(&ca, &spec, &p, NULL), 0);
    struct pki_info x, y;
    REQUIRE(pki_inspect(a, p.cert_pem, &x, NULL) == 0 && pki_inspect(a, ca.cert_pem, &y, NULL) == 0);
    CHECK_INT(x.not_after.sec, y.not_after.sec);
}

TEST(renewal_is_due_at_four_fifths_of_life_or_when_names_change) {
    clock_set_for_tests(now_fake, NULL);
    _cleanup_pki_pair_ struct pki_pair ca = make_ca(), other = make_ca(), p = {0};
    CHECK_INT(pki_issue(&ca, &spec, &p, NULL), 0);
    CHECK_STR(pki_renewal_reason(&p, ca.cert_pem, &spec), NULL);
    CHECK(pki_renewal_reason(&p, other.cert_pem, &spec));
    struct pki_spec more = spec;
    static const char *const more_sans[] = {"localhost", "10.96.0.2"};
    more.sans = more_sans;
    more.n_sans = 2;
    CHECK_STR(pki_renewal_reason(&p, ca.cert_pem, &more), "it lacks a name or address");
    more = spec;
    more.n_orgs = 1;
    CHECK_STR(pki_renewal_reason(&p, ca.cert_pem, &more), "its subject differs");
    struct pki_pair mixed = {.cert_pem = p.cert_pem, .key_pem = ca.key_pem};
    CHECK(pki_renewal_reason(&mixed, ca.cert_pem, &spec));
    fake_now.sec += 365 * PKI_DAY * 4 / 5 - 4000;
    CHECK_STR(pki_renewal_reason(&p, ca.cert_pem, &spec), NULL);
    fake_now.sec += 8000;
    CHECK_STR(pki_renewal_reason(&p, ca.cert_pem, &spec), "four fifths of its life have passed");
    clock_set_for_tests(NULL, NULL);
}

static int remove_one(const char *p, const struct stat *st, int type, struct FTW *f) { return remove(p); }

TEST(files_are_kept_while_good_and_keys_are_private) {
    char dir[] = "/tmp/pki-test-XXXXXX";
    REQUIRE(mkdtemp(dir));
    _cleanup_free_ char *cert = xasprintf("%s/a.crt", dir), *key = xasprintf("%s/a.key", dir),
                        *ca_crt = xasprintf("%s/ca.crt", dir), *ca_key = xasprintf("%s/ca.key", dir),
                        *sa = xasprintf("%s/sa.key", dir);
    _cleanup_pki_pair_ struct pki_pair ca = {0}, again = {0};
    CHECK_INT(pki_ensure_ca(ca_crt, ca_key, "ca", &ca, NULL), 0);
    CHECK_INT(pki_ensure_ca(ca_crt, ca_key, "ca", &again, NULL), 0);
    CHECK_STR(again.cert_pem, ca.cert_pem);
    bool renewed = false;
    CHECK_INT(pki_ensure(&ca, &spec, cert, key, &renewed, NULL), 0);
    CHECK(renewed);
    CHECK_INT(pki_ensure(&ca, &spec, cert, key, &renewed, NULL), 0);
    CHECK(!renewed);
    struct stat st;
    REQUIRE(stat(key, &st) == 0);
    CHECK_INT(st.st_mode & 0777, 0600);
    unlink(key);
    CHECK_INT(pki_ensure(&ca, &spec, cert, key, &renewed, NULL), 0);
    CHECK(renewed);
    _cleanup_free_ char *k1 = NULL, *k2 = NULL;
    CHECK_INT(pki_ensure_key(sa, "RSA", &k1, NULL), 0);
    CHECK_INT(pki_ensure_key(sa, "RSA", &k2, NULL), 0);
    CHECK_STR(k1, k2);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TEST(a_signing_request_is_parsed_and_signed) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_pki_pair_ struct pki_pair ca = make_ca();
    _cleanup_free_ char *key = NULL, *csr = NULL, *cert = NULL;
    CHECK_INT(pki_key_new("EC", &key, NULL), 0);
    CHECK_INT(pki_csr_new(key, &spec, &csr, NULL), 0);
    struct pki_csr_info i;
    REQUIRE(pki_csr_parse(a, csr, strlen(csr), &i, NULL) == 0);
    CHECK_STR(i.cn, "admin");
    CHECK_INT(i.n_orgs, 2);
    CHECK_INT(i.n_dns, 2);
    CHECK_INT(i.n_ips, 2);
    CHECK_STR(i.ips[0], "10.96.0.1");
    CHECK_INT(pki_csr_sign(&ca, csr, strlen(csr), PKI_CLIENT_AUTH | PKI_DIGITAL_SIGNATURE, 3600, &cert, NULL), 0);
    struct pki_info info;
    REQUIRE(pki_inspect(a, cert, &info, NULL) == 0);
    CHECK_STR(info.cn, "admin");
    CHECK_INT(info.n_sans, 4);
    CHECK_INT(info.usages, PKI_CLIENT_AUTH | PKI_DIGITAL_SIGNATURE);
    CHECK_INT(info.not_after.sec - info.not_before.sec, 3900);
    csr[80] = csr[80] == 'A' ? 'B' : 'A';
    CHECK_INT(pki_csr_parse(a, csr, strlen(csr), &i, NULL), -EINVAL);
    CHECK_INT(pki_csr_parse(a, "junk", 4, &i, NULL), -EINVAL);
}

/* ---- tokens ---- */

struct signing {
    char *key_pem;
    struct jwt_signer *signer;
    struct jwt_keys *keys;
};

static struct signing signing_new(const char *type) {
    struct signing s = {0};
    struct err e = {0};
    s.keys = jwt_keys_new();
    if (pki_key_new(type, &s.key_pem, &e) < 0 || jwt_signer_new(s.key_pem, &s.signer, &e) < 0 ||
        jwt_keys_add_pem(s.keys, s.key_pem, &e) < 0)
        TEST_FAIL("%s", e.msg);
    return s;
}

static void signing_done(struct signing *s) {
    free(s->key_pem);
    jwt_signer_free(s->signer);
    jwt_keys_free(s->keys);
}

TEST(tokens_of_both_algorithms_verify_and_forged_ones_do_not) {
    static const char *const types[] = {"RSA", "EC"};
    for (int i = 0; i < 2; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        _cleanup_(signing_done) struct signing s = signing_new(types[i]), other = signing_new(types[i]);
        struct json *claims = json_object(a), *got = NULL;
        json_set_str(a, claims, "iss", "me");
        char *token = NULL;
        CHECK_INT(jwt_sign(s.signer, a, claims, &token, NULL), 0);
        CHECK_INT(jwt_verify(s.keys, a, token, &got, NULL), 0);
        CHECK(json_equal(claims, got));
        CHECK_STR(jwt_unverified_issuer(a, token), "me");
        CHECK_INT(jwt_verify(other.keys, a, token, &got, NULL), -EACCES);
        char *bad = arena_strdup(a, token);
        char *at = strchr(bad, '.') + 3;
        *at = *at == 'A' ? 'B' : 'A';
        CHECK_INT(jwt_verify(s.keys, a, bad, &got, NULL), -EACCES);
        *strrchr(bad, '.') = 0;
        CHECK_INT(jwt_verify(s.keys, a, bad, &got, NULL), -EACCES);
    }
}

TEST(a_token_cannot_choose_another_algorithm) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_(signing_done) struct signing s = signing_new("RSA");
    static const char none[] = "{\"alg\":\"none\"}", payload[] = "{\"iss\":\"me\"}";
    char h[64], p[64];
    base64url_encode(none, sizeof(none) - 1, h);
    base64url_encode(payload, sizeof(payload) - 1, p);
    struct json *got;
    CHECK_INT(jwt_verify(s.keys, a, arena_printf(a, "%s.%s.", h, p), &got, NULL), -EACCES);
    CHECK_INT(jwt_verify(s.keys, a, "abc", &got, NULL), -EACCES);
    CHECK_INT(jwt_verify(s.keys, a, "", &got, NULL), -EACCES);
}

TEST(key_sets_take_public_keys_and_list_each_once) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_(signing_done) struct signing s = signing_new("RSA"), t = signing_new("EC");
    _cleanup_free_ char *pub = NULL, *pub2 = NULL;
    CHECK_INT(pki_key_public(s.key_pem, &pub, NULL), 0);
    CHECK_INT(pki_key_public(t.key_pem, &pub2, NULL), 0);
    struct jwt_keys *k = jwt_keys_new();
    CHECK_INT(jwt_keys_add_pem(k, arena_printf(a, "%s%s%s", pub, pub2, s.key_pem), NULL), 0);
    CHECK_INT(jwt_keys_add_pem(k, "nothing", NULL), -EINVAL);
    struct json *doc = jwt_keys_jwks(k, a);
    CHECK_INT(json_len(json_get(doc, "keys")), 2);
    CHECK_STR(json_get_str(json_item(json_get(doc, "keys"), 0), "kty"), "RSA");
    CHECK_STR(json_get_str(json_item(json_get(doc, "keys"), 0), "e"), "AQAB");
    CHECK_STR(json_get_str(json_item(json_get(doc, "keys"), 1), "crv"), "P-256");
    CHECK_INT(strlen(json_get_str(json_item(json_get(doc, "keys"), 1), "x")), 43);
    CHECK_STR(json_text(a, jwt_keys_algorithms(k, a)), "[\"ES256\",\"RS256\"]");
    jwt_keys_free(k);
}

TEST(service_account_claims_survive_a_round_trip) {
    _cleanup_arena_ struct arena *a = arena_new();
    static const char *const aud[] = {"https://kubernetes.default.svc"};
    struct sa_token t = {.issuer = "https://issuer",
                         .audiences = aud,
                         .n_audiences = 1,
                         .ns = "default",
                         .name = "sa",
                         .uid = "u1",
                         .pod_name = "p",
                         .pod_uid = "u2",
                         .node_name = "n",
                         .node_uid = "u3",
                         .jti = "id",
                         .expires_in = 3607,
                         .warn_after_in = 3600};
    struct json *claims = sa_token_claims(a, &t, fake_now);
    struct sa_token got;
    CHECK_INT(sa_token_parse(a, claims, &got, NULL), 0);
    CHECK_STR(got.ns, "default");
    CHECK_STR(got.pod_name, "p");
    CHECK_STR(got.node_uid, "u3");
    CHECK_INT(got.expires.sec, fake_now.sec + 3607);
    CHECK_STR(jwt_times_problem(claims, fake_now), NULL);
    struct ktime later = fake_now;
    later.sec += 3608;
    CHECK_STR(jwt_times_problem(claims, later), "token has expired");
    later.sec = fake_now.sec - 3600;
    CHECK(jwt_times_problem(claims, later));
    json_set_str(a, claims, "sub", "system:serviceaccount:kube-system:admin");
    CHECK_INT(sa_token_parse(a, claims, &got, NULL), -EACCES);
    t.legacy = true;
    t.secret_name = "s";
    claims = sa_token_claims(a, &t, fake_now);
    CHECK_INT(sa_token_parse(a, claims, &got, NULL), 0);
    CHECK_STR(got.secret_name, "s");
    CHECK(got.legacy);
}
