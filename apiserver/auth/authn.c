/* Authentication of requests and tokens. See authn.h.
 *
 * A service-account token is worth only as much as the objects it names: the account must still be the one (by uid)
 * that it was made for, and so must the pod, secret or node that it is bound to. Something that is being deleted
 * counts as gone 60 seconds after its deletionTimestamp, as upstream. */
#include "apiserver/auth/authn.h"

#include <openssl/crypto.h>

#include "apiserver/auth/internal.h"
#include "pkg/base/bytes.h"
#include "pkg/base/map.h"

enum { TOKEN_FILE_MAX = 1 << 20, DELETED_LEEWAY_SECONDS = 60 };

struct authn {
    struct authn_config c;
    struct arena *arena;   /* copies of the configuration, users of the token file */
    struct map file_users; /* token -> struct user_info */
    struct token_cache *cache;
};

/* ---- users ---- */

bool user_in_group(const struct user_info *u, const char *group) {
    for (size_t i = 0; i < u->n_groups; i++)
        if (str_eq(u->groups[i], group)) return true;
    return false;
}

struct json *user_to_json(struct arena *a, const struct user_info *u) {
    struct json *o = json_object(a);
    json_set_str(a, o, "username", u->name);
    if (!str_empty(u->uid)) json_set_str(a, o, "uid", u->uid);
    if (u->n_groups) {
        struct json *groups = json_ensure_array(a, o, "groups");
        for (size_t i = 0; i < u->n_groups; i++) json_append(a, groups, json_str(a, u->groups[i]));
    }
    if (!u->n_extra) return o;
    struct json *extra = json_ensure_object(a, o, "extra");
    for (size_t i = 0; i < u->n_extra; i++) {
        struct json *values = json_ensure_array(a, extra, u->extra[i].key);
        for (size_t k = 0; k < u->extra[i].n; k++) json_append(a, values, json_str(a, u->extra[i].values[k]));
    }
    json_sort_keys(extra, false);
    return o;
}

static void group_add(struct arena *a, struct user_info *u, const char *group) {
    u->groups = arena_realloc(a, u->groups, u->n_groups * sizeof(char *), (u->n_groups + 1) * sizeof(char *));
    u->groups[u->n_groups++] = arena_strdup(a, group);
}

static void extra_add(struct arena *a, struct user_info *u, const char *key, const char *value) {
    if (str_empty(value)) return;
    u->extra = arena_realloc(a, u->extra, u->n_extra * sizeof(*u->extra), (u->n_extra + 1) * sizeof(*u->extra));
    struct user_extra *x = &u->extra[u->n_extra++];
    *x = (struct user_extra){.key = key, .values = arena_alloc(a, sizeof(char *)), .n = 1};
    x->values[0] = arena_strdup(a, value);
}

static void user_set(struct arena *a, struct user_info *u, const char *name, const char *uid) {
    *u = (struct user_info){.name = arena_strdup(a, name), .uid = arena_strdup(a, str_or_empty(uid))};
}

/* ---- the token file ---- */

/* The next field of a CSV line (RFC 4180 quoting), or NULL at its end. */
static char *csv_field(struct arena *a, const char **p) {
    const char *s = *p;
    if (!s) return NULL;
    char *out = arena_alloc(a, strlen(s) + 1), *o = out;
    while (*s == ' ') s++;
    if (*s == '"') {
        for (s++; *s && (*s != '"' || s[1] == '"'); s++) {
            if (*s == '"') s++;
            *o++ = *s;
        }
        while (*s && *s != ',') s++;
    } else {
        while (*s && *s != ',') *o++ = *s++;
    }
    *o = 0;
    *p = *s ? s + 1 : NULL;
    return out;
}

static int token_line(struct authn *n, const char *line, int number, struct err *e) {
    struct arena *a = n->arena;
    const char *token = csv_field(a, &line), *name = csv_field(a, &line), *uid = csv_field(a, &line);
    char *groups = csv_field(a, &line), *g;
    if (str_empty(token) || str_empty(name) || !uid)
        return err_set(e, -EINVAL, "token file: line %d is not \"token,user,uid[,groups]\"", number);
    struct user_info *u = arena_alloc(a, sizeof(*u));
    user_set(a, u, name, uid);
    while ((g = strsep(&groups, ",")))
        if (*g) group_add(a, u, g);
    map_put(&n->file_users, token, u);
    return 0;
}

static int token_file_read(struct authn *n, struct err *e) {
    _cleanup_free_ char *text = NULL;
    int r = file_read(n->c.token_file, TOKEN_FILE_MAX, &text, NULL), number = 0;
    if (r < 0) return err_errno(e, r, "%s", n->c.token_file);
    char *next = text, *line;
    while (r == 0 && (line = strsep(&next, "\n"))) {
        number++;
        line[strcspn(line, "\r")] = 0;
        if (*line && *line != '#') r = token_line(n, line, number, e);
    }
    return r;
}

static const char *const *strings_copy(struct arena *a, const char *const *items, size_t n) {
    const char **out = arena_alloc(a, (n + 1) * sizeof(char *));
    for (size_t i = 0; i < n; i++) out[i] = arena_strdup(a, items[i]);
    return out;
}

int authn_new(const struct authn_config *c, struct authn **out, struct err *e) {
    struct authn *n = xcalloc(1, sizeof(*n));
    n->arena = arena_new();
    n->cache = token_cache_new();
    n->c = *c;
    n->c.issuer = arena_strdup(n->arena, str_or_empty(c->issuer));
    n->c.token_file = arena_strdup(n->arena, c->token_file);
    n->c.more_issuers = strings_copy(n->arena, c->more_issuers, c->n_more_issuers);
    bool own = c->n_audiences == 0;
    n->c.audiences = strings_copy(n->arena, own ? &n->c.issuer : c->audiences, own ? 1 : c->n_audiences);
    n->c.n_audiences = own ? 1 : c->n_audiences;
    int r = str_empty(c->token_file) ? 0 : token_file_read(n, e);
    if (r < 0) {
        authn_free(n);
        return r;
    }
    *out = n;
    return 0;
}

void authn_free(struct authn *n) {
    if (!n) return;
    map_done(&n->file_users);
    token_cache_free(n->cache);
    arena_free(n->arena);
    free(n);
}

/* ---- service-account tokens ---- */

/* What a token says it is bound to must be there, be the same, and not be long deleted. */
static int object_check(struct authn *n, struct arena *a, const char *resource, const char *ns, const char *name,
                        const char *uid, const struct json **obj, struct err *e) {
    const struct json *o = n->c.get ? n->c.get(n->c.arg, a, "", resource, ns, name) : NULL;
    const struct json *meta = json_get(o, "metadata");
    if (!o || (!str_empty(uid) && !str_eq(uid, json_get_str(meta, "uid"))))
        return err_set(e, -EACCES, "the token's %s %s is gone", resource, name);
    struct ktime deleted;
    const char *at = json_get_str(meta, "deletionTimestamp");
    if (at && ktime_parse(at, &deleted) == 0 && ktime_now().sec > deleted.sec + DELETED_LEEWAY_SECONDS)
        return err_set(e, -EACCES, "the token's %s %s has been deleted", resource, name);
    if (obj) *obj = o;
    return 0;
}

/* A legacy token must still be the one in its Secret. */
static int legacy_check(struct authn *n, struct arena *a, const struct sa_token *t, const char *token, struct err *e) {
    const struct json *secret;
    int r = object_check(n, a, "secrets", t->ns, t->secret_name, NULL, &secret, e);
    if (r < 0) return r;
    if (json_at(secret, "metadata", "deletionTimestamp", NULL))
        return err_set(e, -EACCES, "the token's secret is being deleted");
    const char *b64 = json_get_str(json_get(secret, "data"), "token");
    size_t len = 0, want = strlen(token);
    char *raw = arena_alloc(a, b64 ? strlen(b64) + 1 : 1);
    if (!b64 || base64_decode(b64, strlen(b64), raw, &len) < 0 || len != want || CRYPTO_memcmp(raw, token, want) != 0)
        return err_set(e, -EACCES, "the token is not its secret's");
    return 0;
}

static int bound_check(struct authn *n, struct arena *a, const struct sa_token *t, struct err *e) {
    const struct json *pod = NULL;
    int r = 0;
    if (t->secret_name) r = object_check(n, a, "secrets", t->ns, t->secret_name, t->secret_uid, NULL, e);
    if (r == 0 && t->pod_name) r = object_check(n, a, "pods", t->ns, t->pod_name, t->pod_uid, &pod, e);
    /* Beside a pod the node is a mere statement; bound to a node alone, it must exist. */
    if (r == 0 && t->node_name && !t->pod_name && !t->secret_name)
        r = object_check(n, a, "nodes", NULL, t->node_name, t->node_uid, NULL, e);
    return r;
}

static void sa_user(struct arena *a, const struct sa_token *t, struct user_info *out) {
    user_set(a, out, arena_printf(a, "system:serviceaccount:%s:%s", t->ns, t->name), t->uid);
    group_add(a, out, "system:serviceaccounts");
    group_add(a, out, arena_printf(a, "system:serviceaccounts:%s", t->ns));
    if (t->jti) extra_add(a, out, "authentication.kubernetes.io/credential-id", arena_printf(a, "JTI=%s", t->jti));
    extra_add(a, out, "authentication.kubernetes.io/node-name", t->node_name);
    extra_add(a, out, "authentication.kubernetes.io/node-uid", t->node_uid);
    extra_add(a, out, "authentication.kubernetes.io/pod-name", t->pod_name);
    extra_add(a, out, "authentication.kubernetes.io/pod-uid", t->pod_uid);
}

static bool has(const char *const *items, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(items[i], s)) return true;
    return false;
}

static bool issuer_known(const struct authn *n, const char *issuer) {
    return str_eq(issuer, "kubernetes/serviceaccount") || str_eq(issuer, n->c.issuer) ||
           has(n->c.more_issuers, n->c.n_more_issuers, issuer);
}

/* Which of the wanted audiences the token has. Tokens of the legacy form are for the API. */
static int audiences_match(struct authn *n, struct arena *a, const struct sa_token *t, const char *const *want,
                           size_t n_want, struct json **matched, struct err *e) {
    const char *const *have = t->n_audiences ? t->audiences : n->c.audiences;
    size_t n_have = t->n_audiences ? t->n_audiences : n->c.n_audiences;
    struct json *list = json_array(a);
    for (size_t i = 0; i < n_have; i++)
        if (has(want, n_want, have[i])) json_append(a, list, json_str(a, have[i]));
    if (json_len(list) == 0) return err_set(e, -EACCES, "token audiences are not for this request");
    if (matched) *matched = list;
    return 0;
}

static int sa_token_check(struct authn *n, struct arena *a, const char *token, const char *const *want, size_t n_want,
                          struct user_info *out, struct json **matched, struct err *e) {
    struct json *claims;
    struct sa_token t;
    int r = jwt_verify(n->c.keys, a, token, &claims, e);
    if (r < 0 || (r = sa_token_parse(a, claims, &t, e)) < 0) return r;
    const char *problem = jwt_times_problem(claims, ktime_now());
    if (problem) return err_set(e, -EACCES, "%s", problem);
    if (!issuer_known(n, t.issuer)) return err_set(e, -EACCES, "token of an unknown issuer");
    if (!t.legacy && !t.expires.set) return err_set(e, -EACCES, "token without an end");
    if ((r = audiences_match(n, a, &t, want, n_want, matched, e)) < 0) return r;
    if ((r = object_check(n, a, "serviceaccounts", t.ns, t.name, t.uid, NULL, e)) < 0) return r;
    if ((r = t.legacy ? legacy_check(n, a, &t, token, e) : bound_check(n, a, &t, e)) < 0) return r;
    sa_user(a, &t, out);
    return 0;
}

/* ---- bootstrap tokens ---- */

static bool all_of(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9'))) return false;
    return true;
}

/* "abcdef.0123456789abcdef" */
static bool bootstrap_form(const char *t) {
    return strlen(t) == 23 && t[6] == '.' && all_of(t, 6) && all_of(t + 7, 16);
}

/* A value of a Secret's data as text; "" when absent. */
static const char *secret_text(struct arena *a, const struct json *secret, const char *key) {
    const char *b64 = json_get_str(json_get(secret, "data"), key);
    size_t len = 0;
    char *raw = arena_alloc(a, b64 ? strlen(b64) + 1 : 1);
    if (!b64 || base64_decode(b64, strlen(b64), raw, &len) < 0 || memchr(raw, 0, len)) return "";
    raw[len] = 0;
    return raw;
}

static int bootstrap_check(struct authn *n, struct arena *a, const char *token, struct user_info *out, struct err *e) {
    const char *id = arena_strndup(a, token, 6), *want = token + 7;
    const char *name = arena_printf(a, "bootstrap-token-%s", id);
    const struct json *s = n->c.get ? n->c.get(n->c.arg, a, "", "secrets", "kube-system", name) : NULL;
    if (!s || json_at(s, "metadata", "deletionTimestamp", NULL) ||
        !str_eq(json_get_str(s, "type"), "bootstrap.kubernetes.io/token"))
        return err_set(e, -EACCES, "no such bootstrap token");
    const char *have = secret_text(a, s, "token-secret");
    if (strlen(have) != 16 || CRYPTO_memcmp(have, want, 16) != 0 || !str_eq(secret_text(a, s, "token-id"), id))
        return err_set(e, -EACCES, "no such bootstrap token");
    const char *end = secret_text(a, s, "expiration");
    struct ktime t;
    if (*end && (ktime_parse(end, &t) < 0 || ktime_cmp(t, ktime_now()) <= 0))
        return err_set(e, -EACCES, "the bootstrap token has expired");
    if (!str_eq(secret_text(a, s, "usage-bootstrap-authentication"), "true"))
        return err_set(e, -EACCES, "the bootstrap token is not for authentication");
    user_set(a, out, arena_printf(a, "system:bootstrap:%s", id), "");
    group_add(a, out, "system:bootstrappers");
    char *extra = arena_strdup(a, secret_text(a, s, "auth-extra-groups")), *g;
    while ((g = strsep(&extra, ","))) {
        if (!*g) continue;
        if (!str_has_prefix(g, "system:bootstrappers:"))
            return err_set(e, -EACCES, "the bootstrap token has a bad group");
        group_add(a, out, g);
    }
    return 0;
}

/* ---- tokens and requests ---- */

static int own_check(struct authn *n, struct arena *a, const char *token, const char *const *want, size_t n_want,
                     struct user_info *out, struct json **matched, struct err *e) {
    if (strlen(token) > JWT_MAX) return err_set(e, -EACCES, "token is too long");
    if (n->c.keys && strchr(token, '.') && !bootstrap_form(token) && issuer_known(n, jwt_unverified_issuer(a, token)))
        return sa_token_check(n, a, token, want, n_want, out, matched, e);
    /* The others say nothing about audiences: they are for the API. */
    struct sa_token api = {0};
    int r = audiences_match(n, a, &api, want, n_want, matched, e);
    if (r < 0) return r;
    struct user_info *u = map_get(&n->file_users, token);
    if (u) {
        *out = *u;
        return 0;
    }
    if (n->c.bootstrap_tokens && bootstrap_form(token)) return bootstrap_check(n, a, token, out, e);
    if (n->c.ask)
        return n->c.ask(n->c.arg, a, token, strchr(token, '.') ? jwt_unverified_issuer(a, token) : NULL, out, e);
    return err_set(e, -EACCES, "unknown token");
}

static int token_check(struct authn *n, struct arena *a, const char *token, const char *const *want, size_t n_want,
                       struct user_info *out, struct json **matched, struct err *e) {
    if (!n->c.review) return own_check(n, a, token, want, n_want, out, matched, e);
    if (own_check(n, a, token, want, n_want, out, matched, NULL) == 0) return 0;
    *out = (struct user_info){0};
    return n->c.review(n->c.arg, a, token, want, n_want, n->c.audiences, n->c.n_audiences, out, matched, e);
}

void authn_authenticated(struct arena *a, struct user_info *u) {
    if (user_in_group(u, "system:authenticated") || user_in_group(u, "system:unauthenticated")) return;
    const char **groups = arena_alloc(a, (u->n_groups + 1) * sizeof(char *));
    for (size_t i = 0; i < u->n_groups; i++) groups[i] = u->groups[i];
    groups[u->n_groups++] = "system:authenticated";
    u->groups = groups;
}

int authn_token(struct authn *n, struct arena *a, const char *token, const char *const *audiences, size_t n_audiences,
                struct user_info *out, struct json **matched, struct err *e) {
    int r = token_check(n, a, token, n_audiences ? audiences : n->c.audiences,
                        n_audiences ? n_audiences : n->c.n_audiences, out, matched, e);
    if (r == 0) authn_authenticated(a, out);
    return r;
}

static void cert_user(struct arena *a, const struct authn_request *r, struct user_info *out) {
    user_set(a, out, r->cert_cn, r->cert_uid);
    for (size_t i = 0; i < r->n_cert_orgs; i++) group_add(a, out, r->cert_orgs[i]);
    if (!str_empty(r->cert_sha256))
        extra_add(a, out, "authentication.kubernetes.io/credential-id",
                  arena_printf(a, "X509SHA256=%s", r->cert_sha256));
}

/* The token of "Bearer TOKEN"; NULL for other schemes. */
static const char *bearer(struct arena *a, const char *authorization) {
    if (!authorization) return NULL;
    while (*authorization == ' ') authorization++;
    if (strncasecmp(authorization, "bearer ", 7) != 0) return NULL;
    const char *t = authorization + 7;
    while (*t == ' ') t++;
    size_t n = strcspn(t, " ");
    return n ? arena_strndup(a, t, n) : NULL;
}

static const char *token_of(struct arena *a, const struct authn_request *r) {
    const char *token = bearer(a, r->authorization);
    return !token && !str_empty(r->websocket_token) ? r->websocket_token : token;
}

/* Those of the legacy form are worth as much as their Secret, at any moment: they are not kept. */
static bool signed_by_us(struct arena *a, const struct authn *n, const char *token) {
    const char *issuer =
        n->c.keys && !bootstrap_form(token) && strchr(token, '.') ? jwt_unverified_issuer(a, token) : NULL;
    return issuer && !str_eq(issuer, "kubernetes/serviceaccount") && issuer_known(n, issuer);
}

/* Vouched for by somebody else. */
static bool foreign(struct arena *a, const struct authn *n, const char *token) {
    if ((!n->c.ask && !n->c.review) || bootstrap_form(token) || map_has(&n->file_users, token)) return false;
    const char *issuer = strchr(token, '.') ? jwt_unverified_issuer(a, token) : NULL;
    return !issuer || !issuer_known(n, issuer);
}

bool authn_quick(struct authn *n, struct arena *a, const struct authn_request *r) {
    if (r->cert_verified && !str_empty(r->cert_cn)) return true;
    const char *token = token_of(a, r);
    if (!token || strlen(token) > JWT_MAX || map_has(&n->file_users, token)) return true;
    if (bootstrap_form(token) && !n->c.review) return true;
    struct user_info u;
    return token_cache_get(n->cache, a, token, &u);
}

int authn_request(struct authn *n, struct arena *a, const struct authn_request *r, struct user_info *out,
                  struct err *e) {
    if (r->cert_verified && !str_empty(r->cert_cn)) {
        cert_user(a, r, out);
        authn_authenticated(a, out);
        return 0;
    }
    const char *token = token_of(a, r);
    bool listed = token && map_has(&n->file_users, token);
    if (token && !listed && strlen(token) <= JWT_MAX && token_cache_get(n->cache, a, token, out)) return 0;
    if (token && authn_token(n, a, token, NULL, 0, out, NULL, NULL) == 0) {
        if (signed_by_us(a, n, token) || foreign(a, n, token)) token_cache_put(n->cache, token, out);
        return 0;
    }
    bool wrong = token || (r->cert_given && !r->cert_verified);
    bool may = n->c.anonymous &&
               (!n->c.n_anonymous_paths || has(n->c.anonymous_paths, n->c.n_anonymous_paths, str_or_empty(r->path)));
    if (wrong || !may) return err_status(e, 401, "Unauthorized", "Unauthorized");
    user_set(a, out, "system:anonymous", "");
    group_add(a, out, "system:unauthenticated");
    return 0;
}
