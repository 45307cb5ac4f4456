/* Authentication on a small cluster held as JSON texts. */
#include <fcntl.h>

#include "apiserver/auth/internal.h"
#include "pkg/base/bytes.h"
#include "pkg/pki/pki.h"
#include "tests/test.h"

/* ---- a cluster to look things up in ---- */

static struct { const char *resource, *ns, *name, *json; } objects[16];
static size_t n_objects;

static void object_put(const char *resource, const char *ns, const char *name, const char *json) {
    objects[n_objects].resource = resource;
    objects[n_objects].ns = ns;
    objects[n_objects].name = name;
    objects[n_objects++].json = json;
}

static const struct json *get(void *arg, struct arena *a, const char *group, const char *resource, const char *ns,
                              const char *name) {
    struct json *v = NULL;
    for (size_t i = 0; i < n_objects; i++)
        if (str_eq(objects[i].resource, resource) && str_eq(objects[i].ns, ns) && str_eq(objects[i].name, name))
            json_parse(a, objects[i].json, strlen(objects[i].json), &v, NULL, NULL);
    return v;
}

struct setup {
    struct arena *a;
    char *key;
    struct jwt_signer *signer;
    struct jwt_keys *keys;
    struct authn *authn;
};

static void setup_done(struct setup *s) {
    authn_free(s->authn);
    jwt_keys_free(s->keys);
    jwt_signer_free(s->signer);
    free(s->key);
    arena_free(s->a);
    n_objects = 0;
}
#define _setup_ _cleanup_(setup_done)

static struct setup setup_new(const char *token_file) {
    struct setup s = {.a = arena_new(), .keys = jwt_keys_new()};
    struct err e = {0};
    if (pki_key_new("EC", &s.key, &e) < 0 || jwt_signer_new(s.key, &s.signer, &e) < 0 ||
        jwt_keys_add_pem(s.keys, s.key, &e) < 0)
        TEST_FAIL("%s", e.msg);
    struct authn_config c = {.issuer = "https://us",
                             .keys = s.keys,
                             .token_file = token_file,
                             .anonymous = true,
                             .bootstrap_tokens = true,
                             .get = get};
    if (authn_new(&c, &s.authn, &e) < 0) TEST_FAIL("%s", e.msg);
    return s;
}

/* "name [group,group]", or the error. */
static const char *who(struct setup *s, const struct authn_request *r) {
    struct user_info u;
    struct err e = {0};
    if (authn_request(s->authn, s->a, r, &u, &e) < 0) return arena_printf(s->a, "%d", e.status);
    const char *out = arena_printf(s->a, "%s [", u.name);
    for (size_t i = 0; i < u.n_groups; i++) out = arena_printf(s->a, "%s%s%s", out, i ? "," : "", u.groups[i]);
    return arena_printf(s->a, "%s]", out);
}

static const char *who_token(struct setup *s, const char *token) {
    struct authn_request r = {.authorization = arena_printf(s->a, "Bearer %s", token)};
    return who(s, &r);
}

static const char *sa_sign(struct setup *s, const struct sa_token *t) {
    char *token = NULL;
    if (jwt_sign(s->signer, s->a, sa_token_claims(s->a, t, ktime_now()), &token, NULL) < 0) TEST_FAIL("sign");
    return token;
}

/* ---- authentication ---- */

TEST(a_verified_certificate_is_the_user) {
    _setup_ struct setup s = setup_new(NULL);
    const char *orgs[] = {"system:masters"};
    struct authn_request r = {
        .cert_given = true, .cert_verified = true, .cert_cn = "admin", .cert_orgs = orgs, .n_cert_orgs = 1};
    CHECK_STR(who(&s, &r), "admin [system:masters,system:authenticated]");
    r.cert_verified = false;
    CHECK_STR(who(&s, &r), "401");
}

TEST(no_credentials_are_anonymous_and_wrong_ones_are_refused) {
    _setup_ struct setup s = setup_new(NULL);
    struct authn_request r = {0};
    CHECK_STR(who(&s, &r), "system:anonymous [system:unauthenticated]");
    r.authorization = "Basic abc";
    CHECK_STR(who(&s, &r), "system:anonymous [system:unauthenticated]");
    CHECK_STR(who_token(&s, "nonsense"), "401");
    CHECK_STR(who_token(&s, "a.b.c"), "401");
}

static const char *const audience[] = {"https://us"}, *const other_audience[] = {"vault"};
static const struct sa_token plain = {.issuer = "https://us",
                                      .audiences = audience,
                                      .n_audiences = 1,
                                      .ns = "ns",
                                      .name = "sa",
                                      .uid = "u1",
                                      .expires_in = 600};

TEST(service_account_tokens_live_as_long_as_what_they_name) {
    _setup_ struct setup s = setup_new(NULL);
    struct sa_token t = plain;
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), "401");
    object_put("serviceaccounts", "ns", "sa", "{\"metadata\":{\"uid\":\"u1\"}}");
    const char *good =
        "system:serviceaccount:ns:sa [system:serviceaccounts,system:serviceaccounts:ns,system:authenticated]";
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), good);
    t.uid = "u2";
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), "401");
    t = plain;
    t.pod_name = "p";
    t.pod_uid = "pu";
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), "401");
    object_put("pods", "ns", "p", "{\"metadata\":{\"uid\":\"pu\"}}");
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), good);
    objects[n_objects - 1].json = "{\"metadata\":{\"uid\":\"pu\",\"deletionTimestamp\":\"2020-01-01T00:00:00Z\"}}";
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), "401");
    t = plain;
    t.issuer = "https://them";
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), "401");
    t = plain;
    t.expires_in = -10;
    CHECK_STR(who_token(&s, sa_sign(&s, &t)), "401");
}

TEST(tokens_for_another_audience_are_not_for_the_api) {
    _setup_ struct setup s = setup_new(NULL);
    object_put("serviceaccounts", "ns", "sa", "{\"metadata\":{\"uid\":\"u1\"}}");
    struct sa_token t = plain;
    t.audiences = other_audience;
    const char *token = sa_sign(&s, &t);
    CHECK_STR(who_token(&s, token), "401");
    struct user_info u;
    struct json *matched = NULL;
    CHECK_INT(authn_token(s.authn, s.a, token, other_audience, 1, &u, &matched, NULL), 0);
    CHECK_STR(json_text(s.a, matched), "[\"vault\"]");
    CHECK_INT(authn_token(s.authn, s.a, token, audience, 1, &u, NULL, NULL), -EACCES);
}

TEST(legacy_tokens_must_still_be_in_their_secret) {
    _setup_ struct setup s = setup_new(NULL);
    object_put("serviceaccounts", "ns", "sa", "{\"metadata\":{\"uid\":\"u1\"}}");
    struct sa_token t = plain;
    t.legacy = true;
    t.secret_name = "st";
    const char *token = sa_sign(&s, &t);
    char *b64 = arena_alloc(s.a, base64_encoded_len(strlen(token)) + 1);
    base64_encode(token, strlen(token), b64);
    CHECK_STR(who_token(&s, token), "401");
    object_put("secrets", "ns", "st", arena_printf(s.a, "{\"data\":{\"token\":\"%s\"}}", b64));
    CHECK(str_has_prefix(who_token(&s, token), "system:serviceaccount:ns:sa"));
    objects[n_objects - 1].json = "{\"data\":{\"token\":\"eA==\"}}";
    CHECK_STR(who_token(&s, token), "401");
}

#define B64_ID "YWJjZGVm"                     /* abcdef */
#define B64_SECRET "MDEyMzQ1Njc4OWFiY2RlZg==" /* 0123456789abcdef */
#define BOOTSTRAP(extra)                                                                                               \
    "{\"type\":\"bootstrap.kubernetes.io/token\",\"data\":{\"token-id\":\"" B64_ID "\",\"token-secret\":\"" B64_SECRET \
    "\",\"usage-bootstrap-authentication\":\"dHJ1ZQ==\"" extra "}}"

TEST(bootstrap_tokens_are_checked_against_their_secret) {
    _setup_ struct setup s = setup_new(NULL);
    CHECK_STR(who_token(&s, "abcdef.0123456789abcdef"), "401");
    object_put("secrets", "kube-system", "bootstrap-token-abcdef", BOOTSTRAP(""));
    CHECK_STR(who_token(&s, "abcdef.0123456789abcdef"),
              "system:bootstrap:abcdef [system:bootstrappers,system:authenticated]");
    CHECK_STR(who_token(&s, "abcdef.0123456789abcdee"), "401");
    objects[0].json = BOOTSTRAP(",\"expiration\":\"MjAyMC0wMS0wMVQwMDowMDowMFo=\""); /* 2020 */
    CHECK_STR(who_token(&s, "abcdef.0123456789abcdef"), "401");
    objects[0].json =
        BOOTSTRAP(",\"auth-extra-groups\":\"c3lzdGVtOmJvb3RzdHJhcHBlcnM6eA==\""); /* system:bootstrappers:x */
    CHECK_STR(who_token(&s, "abcdef.0123456789abcdef"),
              "system:bootstrap:abcdef [system:bootstrappers,system:bootstrappers:x,system:authenticated]");
}

TEST(the_token_file_gives_users_and_groups) {
    char path[] = "/tmp/auth-test-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "secret,jane,1,\"dev,ops\"\nother , bob,2\n";
    CHECK_INT(fd_write_all(fd, text, sizeof(text) - 1), 0);
    close(fd);
    {
        _setup_ struct setup s = setup_new(path);
        CHECK_STR(who_token(&s, "secret"), "jane [dev,ops,system:authenticated]");
        CHECK_STR(who_token(&s, "secret"), "jane [dev,ops,system:authenticated]");
        CHECK_STR(who_token(&s, "secre"), "401");
    }
    unlink(path);
}
