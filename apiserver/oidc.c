/* The provider's keys are found by discovery (ISSUER/.well-known/openid-configuration names the JWKS) when
 * the first token comes, and kept. A token that none of them verifies makes them be fetched again, so a
 * rotated key is found with its first token; at most once in REFETCH_S, whatever tokens come, so nobody can
 * make this server hammer the provider or wait for a dead one. */
#include "apiserver/oidc.h"

#include <pthread.h>

#include "apiserver/claims.h"
#include "pkg/base/ktime.h"
#include "pkg/http/client.h"
#include "pkg/pki/jwt.h"
#include "pkg/yaml/yaml.h"

enum { FETCH_MS = 5000, DOCUMENT_MAX = 1 << 20, REFETCH_S = 10, CONFIG_MAX = 1 << 20, PROVIDERS_MAX = 64 };

struct provider {
    char *issuer, *discovery_url; /* NULL: by the issuer */
    char *algorithms;             /* comma-separated */
    struct json *audiences;       /* in the arena */
    struct arena *arena;
    struct claim_map *map;
    struct http_client *http;
    pthread_rwlock_t lock;      /* of keys */
    struct jwt_keys *keys;      /* NULL: not fetched yet */
    pthread_mutex_t fetch_lock; /* one thread fetches, others wait for it */
    int64_t fetched_ns;         /* when it was last tried; 0: never */
};
struct oidc {
    struct provider *providers[PROVIDERS_MAX];
    size_t n;
    struct oidc_anonymous anonymous;
    struct arena *arena;
};

/* ---- settings ---- */

static void provider_free(struct provider *p) {
    if (!p) return;
    http_client_free(p->http);
    jwt_keys_free(p->keys);
    claim_map_free(p->map);
    pthread_rwlock_destroy(&p->lock);
    pthread_mutex_destroy(&p->fetch_lock);
    arena_free(p->arena);
    free(p->issuer);
    free(p->discovery_url);
    free(p->algorithms);
    free(p);
}

void oidc_free(struct oidc *o) {
    if (!o) return;
    for (size_t i = 0; i < o->n; i++) provider_free(o->providers[i]);
    arena_free(o->arena);
    free(o);
}

/* A JWTAuthenticator. */
static int provider_new(const struct json *jwt, const char *algorithms, const char *ca_file, struct provider **out,
                        struct err *e) {
    const struct json *issuer = json_get(jwt, "issuer");
    const char *url = str_or_empty(json_get_str(issuer, "url")), *discovery = json_get_str(issuer, "discoveryURL"),
               *ca = json_get_str(issuer, "certificateAuthority");
    struct claim_map *map;
    if (!str_has_prefix(url, "https://") || strpbrk(url, "?#@"))
        return err_set(e, -EINVAL, "issuer.url: Invalid value: \"%s\": URL scheme must be https", url);
    if (!str_empty(discovery) && (!str_has_prefix(discovery, "https://") || str_eq(url, discovery)))
        return err_set(e, -EINVAL, "issuer.discoveryURL: must be an https URL other than the issuer's");
    if (!json_len(json_get(issuer, "audiences"))) return err_set(e, -EINVAL, "issuer.audiences: Required value");
    if (json_len(json_get(issuer, "audiences")) > 1 && !str_eq(json_get_str(issuer, "audienceMatchPolicy"), "MatchAny"))
        return err_set(e, -EINVAL, "issuer.audienceMatchPolicy: must be MatchAny for multiple audiences");
    if (json_get_str(issuer, "egressSelectorType"))
        return err_set(e, -EINVAL, "issuer.egressSelectorType: egress selectors are not supported");
    int rc = claim_map_new(jwt, &map, e);
    if (rc) return rc;
    struct http_client_options ho = {.ca_file = str_empty(ca_file) ? NULL : ca_file,
                                     .ca_pem = str_empty(ca) ? NULL : ca,
                                     .connect_ms = FETCH_MS,
                                     .idle_handles = 1};
    struct http_client *http = http_client_new(&ho, e);
    struct provider *p = xcalloc(1, sizeof(*p));
    p->http = http;
    p->map = map;
    p->issuer = xstrdup(url);
    p->discovery_url = str_empty(discovery) ? NULL : xstrdup(discovery);
    p->algorithms = xstrdup(algorithms);
    p->arena = arena_new_sized(256);
    p->audiences = json_clone(p->arena, json_get(issuer, "audiences"));
    pthread_rwlock_init(&p->lock, NULL);
    pthread_mutex_init(&p->fetch_lock, NULL);
    if (!http) {
        provider_free(p);
        return -EIO;
    }
    *out = p;
    return 0;
}

static struct oidc *set_new(void) {
    struct oidc *o = xcalloc(1, sizeof(*o));
    o->arena = arena_new_sized(256);
    o->anonymous.enabled = true;
    return o;
}

/* ---- flags: as a JWTAuthenticator ---- */

static void mapping(struct arena *a, struct json *mappings, const char *what, const char *claim, const char *prefix) {
    struct json *o = json_ensure_object(a, mappings, what);
    json_set_str(a, o, "claim", claim);
    json_set_str(a, o, "prefix", prefix);
}

static const char *prefix_of(struct arena *a, const struct oidc_config *c, const char *claim) {
    if (str_eq(c->username_prefix, "-")) return "";
    if (!str_empty(c->username_prefix)) return c->username_prefix;
    return str_eq(claim, "email") ? "" : arena_printf(a, "%s#", c->issuer);
}

static int from_flags(struct arena *a, const struct oidc_config *c, struct json **out, struct err *e) {
    const char *claim = str_empty(c->username_claim) ? "sub" : c->username_claim;
    struct json *jwt = *out = json_object(a), *issuer = json_ensure_object(a, jwt, "issuer");
    if (!str_has_prefix(c->issuer, "https://")) return err_set(e, -EINVAL, "--oidc-issuer-url must be an https URL");
    if (str_empty(c->client_id)) return err_set(e, -EINVAL, "--oidc-issuer-url needs --oidc-client-id");
    json_set_str(a, issuer, "url", c->issuer);
    json_append(a, json_ensure_array(a, issuer, "audiences"), json_str(a, c->client_id));
    struct json *mappings = json_ensure_object(a, jwt, "claimMappings");
    mapping(a, mappings, "username", claim, prefix_of(a, c, claim));
    if (!str_empty(c->groups_claim)) mapping(a, mappings, "groups", c->groups_claim, str_or_empty(c->groups_prefix));
    for (size_t i = 0; i < c->required.n; i++) {
        const char *item = c->required.items[i], *eq = strchr(item, '=');
        if (!eq) return err_set(e, -EINVAL, "--oidc-required-claim %s is not KEY=VALUE", item);
        struct json *r = json_object(a);
        json_set(a, r, "claim", json_strn(a, item, (size_t)(eq - item)));
        json_set_str(a, r, "requiredValue", eq + 1);
        json_append(a, json_ensure_array(a, jwt, "claimValidationRules"), r);
    }
    return 0;
}

int oidc_new(const struct oidc_config *c, struct oidc **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct oidc *o = set_new();
    struct json *jwt;
    int rc = from_flags(a, c, &jwt, e);
    if (!rc)
        rc = provider_new(jwt, str_empty(c->algorithms) ? "RS256" : c->algorithms, c->ca_file, &o->providers[0], e);
    if (rc) {
        oidc_free(o);
        return rc;
    }
    o->n = 1;
    *out = o;
    return 0;
}

/* ---- a configuration file ---- */

static void read_anonymous(struct oidc *o, const struct json *x) {
    const struct json *list = json_get(x, "conditions"), *it;
    if (!json_is(x, JSON_OBJECT)) return;
    o->anonymous = (struct oidc_anonymous){.configured = true, .enabled = json_get_bool(x, "enabled", false)};
    o->anonymous.paths = arena_alloc(o->arena, (json_len(list) + 1) * sizeof(char *));
    JSON_FOREACH(it, list)
        o->anonymous.paths[o->anonymous.n_paths++] = arena_strdup(o->arena, str_or_empty(json_get_str(it, "path")));
}

static int read_file(struct oidc *o, const struct json *doc, const char *own_issuer, struct err *e) {
    const struct json *it;
    if (!str_eq(json_get_str(doc, "kind"), "AuthenticationConfiguration"))
        return err_set(e, -EINVAL, "no AuthenticationConfiguration");
    read_anonymous(o, json_get(doc, "anonymous"));
    JSON_FOREACH(it, json_get(doc, "jwt")) {
        const char *url = json_get_str(json_get(it, "issuer"), "url");
        int rc = 0;
        if (o->n == PROVIDERS_MAX) return err_set(e, -EINVAL, "jwt: must have at most %d items", PROVIDERS_MAX);
        for (size_t i = 0; !rc && i < o->n; i++)
            if (str_eq(o->providers[i]->issuer, url))
                rc = err_set(e, -EINVAL, "issuer.url: Duplicate value: \"%s\"", url);
        if (!rc && str_eq(url, own_issuer))
            rc = err_set(e, -EINVAL, "issuer.url: URL must not overlap with disallowed issuers: [%s]", own_issuer);
        if (!rc) rc = provider_new(it, "RS256,ES256", NULL, &o->providers[o->n], e);
        if (rc) return err_wrap(e, "jwt[%zu]", it_i), rc;
        o->n++;
    }
    return 0;
}

int oidc_new_from_file(const char *path, const char *own_issuer, struct oidc **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc = NULL;
    int rc = yaml_read_file(a, path, CONFIG_MAX, &doc, e);
    if (rc) return rc;
    struct oidc *o = set_new();
    if ((rc = read_file(o, doc, own_issuer, e))) {
        oidc_free(o);
        return err_wrap(e, "%s", path), rc;
    }
    *out = o;
    return 0;
}

const struct oidc_anonymous *oidc_anonymous(const struct oidc *o) { return &o->anonymous; }

/* ---- keys ---- */

static int fetch_json(struct provider *o, struct arena *a, const char *url, struct json **out, struct err *e) {
    _cleanup_http_resp_ struct http_resp r = {.body.limit = DOCUMENT_MAX};
    int rc = http_client_do(o->http, "GET", url, NULL, 0, NULL, 0, &r, FETCH_MS, e);
    if (rc) return rc;
    if (r.status != 200) return err_set(e, -EIO, "%s: status %d", url, r.status);
    return json_parse(a, str_or_empty(r.body.data), r.body.len, out, NULL, e);
}

static int fetch_keys(struct provider *o, struct jwt_keys **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc, *set;
    size_t n = strlen(o->issuer);
    while (n && o->issuer[n - 1] == '/') n--;
    const char *known = arena_printf(a, "%.*s/.well-known/openid-configuration", (int)n, o->issuer);
    int rc = fetch_json(o, a, o->discovery_url ? o->discovery_url : known, &doc, e);
    if (rc) return rc;
    const char *url = json_get_str(doc, "jwks_uri");
    if (!str_eq(json_get_str(doc, "issuer"), o->issuer))
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
static bool refresh(struct provider *o, int64_t before) {
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

static int verify(struct provider *o, struct arena *a, const char *token, struct json **claims, struct err *e) {
    pthread_rwlock_rdlock(&o->lock);
    int rc = o->keys ? jwt_verify(o->keys, a, token, claims, e) : -EACCES;
    pthread_rwlock_unlock(&o->lock);
    return rc;
}

/* ---- tokens ---- */

/* The algorithm in the token's header is one that was allowed; jwt_verify has matched it with its key. */
static bool algorithm_allowed(struct provider *o, struct arena *a, const char *token) {
    size_t n = strcspn(token, "."), len = 0;
    char *raw = arena_alloc(a, n + 4), *list = arena_strdup(a, o->algorithms), *item;
    struct json *h = NULL;
    if (base64url_decode(token, n, raw, &len) || json_parse(a, raw, len, &h, NULL, NULL)) return false;
    while ((item = strsep(&list, ",")))
        if (str_eq(item, json_get_str(h, "alg"))) return true;
    return false;
}

static bool is_audience(const struct provider *o, const char *name) {
    const struct json *x;
    JSON_FOREACH(x, o->audiences)
        if (name && str_eq(json_as_str(x), name)) return true;
    return false;
}

static bool has_audience(const struct provider *o, const struct json *aud) {
    const struct json *x;
    if (is_audience(o, json_as_str(aud))) return true;
    JSON_FOREACH(x, aud)
        if (is_audience(o, json_as_str(x))) return true;
    return false;
}

int oidc_check(struct oidc *set, struct arena *a, const char *token, const char *issuer, struct user_info *out,
               struct err *e) {
    struct json *claims = NULL;
    struct provider *o = NULL;
    int64_t now = mono_ns();
    for (size_t i = 0; issuer && i < set->n && !o; i++)
        if (str_eq(issuer, set->providers[i]->issuer)) o = set->providers[i];
    if (!o) return err_set(e, -EACCES, "oidc: another issuer");
    if (!algorithm_allowed(o, a, token)) return err_set(e, -EACCES, "oidc: the token's algorithm is not accepted");
    int rc = verify(o, a, token, &claims, e);
    if (rc && refresh(o, now)) rc = verify(o, a, token, &claims, e);
    if (rc) return err_set(e, -EACCES, "oidc: the token cannot be verified");
    const char *problem = json_get(claims, "exp") ? jwt_times_problem(claims, ktime_now()) : "token without an end";
    if (problem) return err_set(e, -EACCES, "oidc: %s", problem);
    if (!str_eq(json_get_str(claims, "iss"), o->issuer) || !has_audience(o, json_get(claims, "aud")))
        return err_set(e, -EACCES, "oidc: the token is for somebody else");
    return claim_map_user(o->map, a, claims, out, e);
}
