/* See server_auth.h. */
#include "kubelet/server_auth.h"

enum { MAX_CACHE = 1024, MAX_TOKEN = 16384 };

struct verdict {
    int64_t until; /* mono */
    bool ok;
    char *user; /* JSON of the user's spec, for token verdicts */
};

struct server_auth {
    struct kubelet *kl;
    pthread_mutex_t lock;
    struct map tokens, access;
};

struct server_auth *server_auth_new(struct kubelet *kl) {
    struct server_auth *a = xcalloc(1, sizeof(*a));
    a->kl = kl;
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

static void verdict_free(void *p) {
    struct verdict *v = p;
    free(v->user);
    free(v);
}

void server_auth_free(struct server_auth *a) {
    if (!a) return;
    map_done_with(&a->tokens, verdict_free);
    map_done_with(&a->access, verdict_free);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

static bool cached(struct server_auth *s, struct map *m, struct arena *a, const char *key, bool *ok,
                   const char **user) {
    pthread_mutex_lock(&s->lock);
    struct verdict *v = map_get(m, key);
    bool hit = v && v->until > mono_ns();
    if (hit) {
        *ok = v->ok;
        if (user) *user = arena_strdup(a, v->user);
    }
    pthread_mutex_unlock(&s->lock);
    return hit;
}

static void remember(struct server_auth *s, struct map *m, const char *key, bool ok, const char *user, int64_t ttl_ns) {
    struct verdict *v = xcalloc(1, sizeof(*v));
    v->ok = ok;
    v->user = user ? xstrdup(user) : NULL;
    v->until = mono_ns() + ttl_ns;
    pthread_mutex_lock(&s->lock);
    if (m->n >= MAX_CACHE) {
        map_done_with(m, verdict_free);
        *m = (struct map)MAP_INIT;
    }
    struct verdict *old = map_put(m, key, v);
    if (old) verdict_free(old);
    pthread_mutex_unlock(&s->lock);
}

static int post(struct kubelet *kl, struct arena *a, const char *path, const struct json *doc, struct json **out,
                struct err *e) {
    char *body = json_text(a, doc);
    struct client_request rq = {.method = "POST", .path = path, .body = body, .body_len = strlen(body)};
    struct client_response resp = {0};
    if (!kl->client) return err_set(e, -ENOTCONN, "no API server is configured");
    int r = client_do(kl->client, &rq, &resp, e);
    if (r == 0) r = json_parse(a, resp.body, resp.len, out, NULL, e);
    client_response_done(&resp);
    return r;
}

static int unauthorized(struct err *e) { return err_status(e, 401, "Unauthorized", "Unauthorized"); }

static struct json *user_of_cert(struct arena *a, const struct http_peer *p) {
    struct json *user = json_object(a), *groups = json_array(a);
    json_set_str(a, user, "username", p->common_name);
    for (size_t i = 0; i < p->n_organizations; i++) json_append(a, groups, json_str(a, p->organizations[i]));
    json_append(a, groups, json_str(a, "system:authenticated"));
    json_set(a, user, "groups", groups);
    return user;
}

static int user_of_token(struct server_auth *s, struct arena *a, const char *token, struct json **user, struct err *e) {
    bool ok;
    const char *text = NULL;
    if (strlen(token) > MAX_TOKEN || !s->kl->cfg.webhook_auth) return unauthorized(e);
    if (!cached(s, &s->tokens, a, token, &ok, &text)) {
        struct json *doc = json_object(a), *answer;
        json_set_str(a, doc, "apiVersion", "authentication.k8s.io/v1");
        json_set_str(a, doc, "kind", "TokenReview");
        json_set_str(a, json_ensure_object(a, doc, "spec"), "token", token);
        int r = post(s->kl, a, "/apis/authentication.k8s.io/v1/tokenreviews", doc, &answer, e);
        if (r < 0) return r;
        struct json *status = json_get(answer, "status");
        ok = json_get_bool(status, "authenticated", false);
        text = ok ? json_text(a, json_get(status, "user")) : NULL;
        remember(s, &s->tokens, token, ok, text,
                 ok ? s->kl->cfg.token_ttl_ns : MIN_OF(s->kl->cfg.token_ttl_ns, s->kl->cfg.deny_ttl_ns));
    }
    if (!ok || !text) return unauthorized(e);
    return json_parse(a, text, strlen(text), user, NULL, e);
}

static int authenticate(struct server_auth *s, struct http_req *r, struct json **user, struct err *e) {
    const char *h = http_header(r, "authorization");
    if (http_peer_verified(r->peer) && !str_empty(r->peer->common_name)) {
        *user = user_of_cert(r->arena, r->peer);
        return 0;
    }
    if (h && strncasecmp(h, "Bearer ", 7) == 0) return user_of_token(s, r->arena, h + 7, user, e);
    if (!s->kl->cfg.anonymous_auth) return unauthorized(e);
    *user = json_object(r->arena);
    json_set_str(r->arena, *user, "username", "system:anonymous");
    json_append(r->arena, json_ensure_array(r->arena, *user, "groups"), json_str(r->arena, "system:unauthenticated"));
    return 0;
}

const char *server_auth_subresource(const char *path) {
    static const struct {
        const char *prefix, *subresource;
    } rows[] = {{"/stats", "stats"}, {"/metrics", "metrics"},  {"/logs", "log"},        {"/checkpoint", "checkpoint"},
                {"/pods", "pods"},   {"/runningpods", "pods"}, {"/healthz", "healthz"}, {"/configz", "configz"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = strlen(rows[i].prefix);
        if (strncmp(path, rows[i].prefix, n) == 0 && (!path[n] || path[n] == '/')) return rows[i].subresource;
    }
    return "proxy";
}

static const char *verb_of(const char *method) {
    static const char *const verbs[][2] = {{"POST", "create"}, {"GET", "get"},     {"HEAD", "get"},
                                           {"PUT", "update"},  {"PATCH", "patch"}, {"DELETE", "delete"}};
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        if (str_eq(method, verbs[i][0])) return verbs[i][1];
    return "get";
}

static bool goes_through(const struct json *user) {
    struct json *g;
    if (str_eq(json_get_str(user, "username"), "kube-apiserver-kubelet-client")) return true;
    JSON_FOREACH(g, json_get(user, "groups"))
        if (str_eq(json_as_str(g), "system:masters")) return true;
    return false;
}

static int ask_access(struct server_auth *s, struct arena *a, const struct json *user, const char *verb,
                      const char *subresource, bool *allowed, struct err *e) {
    const char *key = arena_printf(a, "%s\n%s\n%s", verb, subresource, json_text(a, user));
    if (cached(s, &s->access, a, key, allowed, NULL)) return 0;
    struct json *doc = json_object(a), *answer;
    json_set_str(a, doc, "apiVersion", "authorization.k8s.io/v1");
    json_set_str(a, doc, "kind", "SubjectAccessReview");
    struct json *spec = json_ensure_object(a, doc, "spec"), *ra = json_ensure_object(a, spec, "resourceAttributes");
    json_set_str(a, spec, "user", json_get_str(user, "username"));
    if (json_get(user, "groups")) json_set(a, spec, "groups", json_get(user, "groups"));
    if (json_get(user, "extra")) json_set(a, spec, "extra", json_get(user, "extra"));
    json_set_str(a, ra, "verb", verb);
    json_set_str(a, ra, "version", "v1");
    json_set_str(a, ra, "resource", "nodes");
    json_set_str(a, ra, "subresource", subresource);
    json_set_str(a, ra, "name", s->kl->node_name);
    int r = post(s->kl, a, "/apis/authorization.k8s.io/v1/subjectaccessreviews", doc, &answer, e);
    if (r < 0) return r;
    *allowed = json_get_bool(json_get(answer, "status"), "allowed", false);
    remember(s, &s->access, key, *allowed, NULL, *allowed ? s->kl->cfg.allow_ttl_ns : s->kl->cfg.deny_ttl_ns);
    return 0;
}

int server_auth_check(struct server_auth *s, struct http_req *r, struct err *e) {
    struct json *user;
    int rc = authenticate(s, r, &user, e);
    if (rc < 0) return rc;
    if (str_eq(s->kl->cfg.authorization_mode, "AlwaysAllow") || goes_through(user)) return 0;
    const char *sub = server_auth_subresource(r->path), *verb = verb_of(r->method);
    bool allowed = false;
    rc = ask_access(s, r->arena, user, verb, sub, &allowed, e);
    bool fine_grained = str_eq(sub, "pods") || str_eq(sub, "healthz") || str_eq(sub, "configz");
    if (rc == 0 && !allowed && fine_grained) rc = ask_access(s, r->arena, user, verb, "proxy", &allowed, e);
    if (rc < 0)
        return err_status(e, 500, "InternalError",
                          "Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)",
                          str_or_empty(json_get_str(user, "username")), verb, sub);
    if (allowed) return 0;
    return err_status(e, 403, "Forbidden", "Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[%s])",
                      str_or_empty(json_get_str(user, "username")), verb, sub);
}
