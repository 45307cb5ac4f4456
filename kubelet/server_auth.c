/* See server_auth.h. */
#include "kubelet/server_auth.h"

#include "pkg/serving/delegate.h"

struct server_auth {
    struct kubelet *kl;
    struct delegate *delegate;
};

struct server_auth *server_auth_new(struct kubelet *kl) {
    const struct kubelet_config *c = &kl->cfg;
    const struct delegate_config d = {.token_reviews = c->webhook_auth,
                                      .anonymous = c->anonymous_auth,
                                      .token_ttl_ns = c->token_ttl_ns,
                                      .allow_ttl_ns = c->allow_ttl_ns,
                                      .deny_ttl_ns = c->deny_ttl_ns};
    struct server_auth *a = xcalloc(1, sizeof(*a));
    a->kl = kl;
    a->delegate = delegate_new(&d);
    return a;
}

void server_auth_free(struct server_auth *a) {
    if (!a) return;
    delegate_free(a->delegate);
    free(a);
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
    struct json *what = json_object(a);
    json_set_str(a, what, "verb", verb);
    json_set_str(a, what, "version", "v1");
    json_set_str(a, what, "resource", "nodes");
    json_set_str(a, what, "subresource", subresource);
    json_set_str(a, what, "name", s->kl->node_name);
    return delegate_may(s->delegate, s->kl->client, a, user, "resourceAttributes", what, allowed, e);
}

int server_auth_check(struct server_auth *s, struct http_req *r, struct err *e) {
    struct json *user;
    int rc = delegate_user(s->delegate, s->kl->client, r, &user, e);
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
