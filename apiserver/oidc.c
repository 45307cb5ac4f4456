/* The provider's keys are found by discovery (ISSUER/.well-known/openid-configuration names the JWKS) when
 * the first token comes, and kept. A token that none of them verifies makes them be fetched again, so a
 * rotated key is found with its first token; at most once in REFETCH_S, whatever tokens come, so nobody can
 * make this server hammer the provider or wait for a dead one. */
#include "apiserver/oidc.h"

#include <pthread.h>

#include "pkg/base/ktime.h"
#include "pkg/http/client.h"
#include "pkg/pki/jwt.h"

enum { FETCH_MS = 5000, DOCUMENT_MAX = 1 << 20, REFETCH_S = 10, GROUPS_MAX = 1000 };

struct oidc {
    struct oidc_config c;
    char *prefix; /* of user names */
    struct http_client *http;
    pthread_rwlock_t lock;      /* of keys */
    struct jwt_keys *keys;      /* NULL: not fetched yet */
    pthread_mutex_t fetch_lock; /* one thread fetches, others wait for it */
    int64_t fetched_ns;         /* when it was last tried; 0: never */
};

/* ---- settings ---- */

static const char *claim_of(const struct oidc *o) {
    return str_empty(o->c.username_claim) ? "sub" : o->c.username_claim;
}

static char *prefix_of(const struct oidc *o) {
    if (str_eq(o->c.username_prefix, "-")) return xstrdup("");
    if (!str_empty(o->c.username_prefix)) return xstrdup(o->c.username_prefix);
    return str_eq(claim_of(o), "email") ? xstrdup("") : xasprintf("%s#", o->c.issuer);
}

static int check_config(const struct oidc_config *c, struct err *e) {
    if (!str_has_prefix(c->issuer, "https://")) return err_set(e, -EINVAL, "--oidc-issuer-url must be an https URL");
    if (str_empty(c->client_id)) return err_set(e, -EINVAL, "--oidc-issuer-url needs --oidc-client-id");
    for (size_t i = 0; i < c->required.n; i++)
        if (!strchr(c->required.items[i], '='))
            return err_set(e, -EINVAL, "--oidc-required-claim %s is not KEY=VALUE", c->required.items[i]);
    return 0;
}

int oidc_new(const struct oidc_config *c, struct oidc **out, struct err *e) {
    int rc = check_config(c, e);
    if (rc) return rc;
    struct http_client_options ho = {
        .ca_file = str_empty(c->ca_file) ? NULL : c->ca_file, .connect_ms = FETCH_MS, .idle_handles = 1};
    struct http_client *http = http_client_new(&ho, e);
    if (!http) return -EIO;
    struct oidc *o = xcalloc(1, sizeof(*o));
    o->c = *c;
    o->http = http;
    o->prefix = prefix_of(o);
    pthread_rwlock_init(&o->lock, NULL);
    pthread_mutex_init(&o->fetch_lock, NULL);
    *out = o;
    return 0;
}

void oidc_free(struct oidc *o) {
    if (!o) return;
    http_client_free(o->http);
    jwt_keys_free(o->keys);
    pthread_rwlock_destroy(&o->lock);
    pthread_mutex_destroy(&o->fetch_lock);
    free(o->prefix);
    free(o);
}

/* ---- keys ---- */

static int fetch_json(struct oidc *o, struct arena *a, const char *url, struct json **out, struct err *e) {
    _cleanup_http_resp_ struct http_resp r = {.body.limit = DOCUMENT_MAX};
    int rc = http_client_do(o->http, "GET", url, NULL, 0, NULL, 0, &r, FETCH_MS, e);
    if (rc) return rc;
    if (r.status != 200) return err_set(e, -EIO, "%s: status %d", url, r.status);
    return json_parse(a, str_or_empty(r.body.data), r.body.len, out, NULL, e);
}

static int fetch_keys(struct oidc *o, struct jwt_keys **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc, *set;
    size_t n = strlen(o->c.issuer);
    while (n && o->c.issuer[n - 1] == '/') n--;
    int rc = fetch_json(o, a, arena_printf(a, "%.*s/.well-known/openid-configuration", (int)n, o->c.issuer), &doc, e);
    if (rc) return rc;
    const char *url = json_get_str(doc, "jwks_uri");
    if (!str_eq(json_get_str(doc, "issuer"), o->c.issuer))
        return err_set(e, -EINVAL, "the provider calls itself another issuer");
    if (!url || !str_has_prefix(url, "https://")) return err_set(e, -EINVAL, "the provider names no https jwks_uri");
    if ((rc = fetch_json(o, a, url, &set, e))) return rc;
    struct jwt_keys *k = jwt_keys_new();
    rc = jwt_keys_add_jwks(k, set, e);
    if (rc)
        jwt_keys_free(k);
    else
        *out = k;
    return rc;
}

/* Fetches unless that was tried lately; true when there are keys that were fetched after `before`. */
static bool refresh(struct oidc *o, int64_t before) {
    struct jwt_keys *k = NULL;
    pthread_mutex_lock(&o->fetch_lock);
    bool lately = o->fetched_ns && mono_ns() - o->fetched_ns < REFETCH_S * NS_PER_SEC;
    bool by_others = o->fetched_ns > before;
    if (!lately) {
        int rc = fetch_keys(o, &k, NULL);
        o->fetched_ns = mono_ns();
        if (rc) k = NULL;
    }
    if (k) {
        pthread_rwlock_wrlock(&o->lock);
        jwt_keys_free(o->keys);
        o->keys = k;
        pthread_rwlock_unlock(&o->lock);
    }
    pthread_mutex_unlock(&o->fetch_lock);
    return k || by_others;
}

static int verify(struct oidc *o, struct arena *a, const char *token, struct json **claims, struct err *e) {
    pthread_rwlock_rdlock(&o->lock);
    int rc = o->keys ? jwt_verify(o->keys, a, token, claims, e) : -EACCES;
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* ---- claims ---- */

/* The algorithm in the token's header is one that was allowed; jwt_verify has matched it with its key. */
static bool algorithm_allowed(struct oidc *o, struct arena *a, const char *token) {
    size_t n = strcspn(token, "."), len = 0;
    char *raw = arena_alloc(a, n + 4), *list = arena_strdup(a, str_empty(o->c.algorithms) ? "RS256" : o->c.algorithms),
         *item;
    struct json *h = NULL;
    if (base64url_decode(token, n, raw, &len) || json_parse(a, raw, len, &h, NULL, NULL)) return false;
    while ((item = strsep(&list, ",")))
        if (str_eq(item, json_get_str(h, "alg"))) return true;
    return false;
}

static bool has_audience(const struct json *aud, const char *want) {
    struct json *x;
    if (str_eq(json_as_str(aud), want)) return true;
    JSON_FOREACH(x, aud) {
        if (str_eq(json_as_str(x), want)) return true;
    }
    return false;
}

static const char *required_missing(struct oidc *o, struct arena *a, const struct json *claims) {
    for (size_t i = 0; i < o->c.required.n; i++) {
        const char *item = o->c.required.items[i], *eq = strchr(item, '=');
        const char *have = json_get_str(claims, arena_strndup(a, item, (size_t)(eq - item)));
        if (!str_eq(have, eq + 1)) return item;
    }
    return NULL;
}

static int read_groups(struct oidc *o, struct arena *a, const struct json *claims, struct user_info *u, struct err *e) {
    const struct json *g = str_empty(o->c.groups_claim) ? NULL : json_get(claims, o->c.groups_claim);
    const char *prefix = str_or_empty(o->c.groups_prefix);
    struct json *x;
    u->groups = arena_alloc(a, (json_len(g) + 2) * sizeof(char *));
    if (!g) return 0;
    if (json_as_str(g))
        u->groups[u->n_groups++] = arena_printf(a, "%s%s", prefix, json_as_str(g));
    else if (!json_is(g, JSON_ARRAY) || json_len(g) > GROUPS_MAX)
        return err_set(e, -EACCES, "oidc: the groups are no list of strings");
    JSON_FOREACH(x, g) {
        if (!json_as_str(x)) return err_set(e, -EACCES, "oidc: a group is no string");
        u->groups[u->n_groups++] = arena_printf(a, "%s%s", prefix, json_as_str(x));
    }
    return 0;
}

int oidc_check(struct oidc *o, struct arena *a, const char *token, const char *issuer, struct user_info *out,
               struct err *e) {
    struct json *claims = NULL;
    int64_t now = mono_ns();
    if (!str_eq(issuer, o->c.issuer)) return err_set(e, -EACCES, "oidc: another issuer");
    if (!algorithm_allowed(o, a, token)) return err_set(e, -EACCES, "oidc: the token's algorithm is not accepted");
    int rc = verify(o, a, token, &claims, e);
    if (rc && refresh(o, now)) rc = verify(o, a, token, &claims, e);
    if (rc) return err_set(e, -EACCES, "oidc: the token cannot be verified");
    const char *problem = json_get(claims, "exp") ? jwt_times_problem(claims, ktime_now()) : "token without an end";
    if (problem) return err_set(e, -EACCES, "oidc: %s", problem);
    if (!str_eq(json_get_str(claims, "iss"), o->c.issuer) || !has_audience(json_get(claims, "aud"), o->c.client_id))
        return err_set(e, -EACCES, "oidc: the token is for somebody else");
    if ((problem = required_missing(o, a, claims))) return err_set(e, -EACCES, "oidc: claim %s is missing", problem);
    const char *name = json_get_str(claims, claim_of(o));
    if (str_empty(name)) return err_set(e, -EACCES, "oidc: claim %s does not name a user", claim_of(o));
    if (str_eq(claim_of(o), "email") && !json_get_bool(claims, "email_verified", true))
        return err_set(e, -EACCES, "oidc: the email is not verified");
    *out = (struct user_info){.name = arena_printf(a, "%s%s", o->prefix, name), .uid = ""};
    return read_groups(o, a, claims, out, e);
}
