/* Tokens that a webhook knows (--authentication-token-webhook-config-file). */
#include "apiserver/auth/remote.h"

struct token_webhook {
    struct remote *remote;
    struct remote_cache *cache;
    char *version;
    int64_t ttl_ns;
};

int token_webhook_new(const struct token_webhook_config *c, struct token_webhook **out, struct err *e) {
    struct remote *r;
    if (!str_eq(c->version, "v1") && !str_eq(c->version, "v1beta1"))
        return err_set(e, -EINVAL, "--authentication-token-webhook-version must be v1 or v1beta1");
    int rc = remote_new(c->file, 0, &r, e);
    if (rc) return rc;
    struct token_webhook *w = xcalloc(1, sizeof(*w));
    *w = (struct token_webhook){r, remote_cache_new(), xstrdup(c->version), c->ttl_ns};
    *out = w;
    return 0;
}

void token_webhook_free(struct token_webhook *w) {
    if (!w) return;
    remote_free(w->remote);
    remote_cache_free(w->cache);
    free(w->version);
    free(w);
}

static const char **strings_of(struct arena *a, const struct json *list, size_t *n) {
    const char **out = arena_alloc(a, (json_len(list) + 1) * sizeof(*out));
    const struct json *it;
    *n = 0;
    JSON_FOREACH(it, list)
        if (json_as_str(it)) out[(*n)++] = json_as_str(it);
    return out;
}

static void user_of(struct arena *a, const struct json *u, struct user_info *out) {
    const struct json *extra = json_get(u, "extra");
    *out = (struct user_info){.name = str_or_empty(json_get_str(u, "username")),
                              .uid = str_or_empty(json_get_str(u, "uid"))};
    out->groups = strings_of(a, json_get(u, "groups"), &out->n_groups);
    out->extra = arena_alloc(a, (json_len(extra) + 1) * sizeof(*out->extra));
    JSON_FOREACH_MEMBER(m, extra) {
        struct user_extra *x = &out->extra[out->n_extra++];
        x->key = m->key;
        x->values = strings_of(a, m->value, &x->n);
    }
}

static bool listed(const char *const *list, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(list[i], s)) return true;
    return false;
}

/* The wanted audiences that the token is for; a webhook that names none speaks for the API. */
static struct json *audiences_of(struct arena *a, const struct json *status, const char *const *want, size_t n_want,
                                 const char *const *api, size_t n_api) {
    size_t n;
    const char *const *have = strings_of(a, json_get(status, "audiences"), &n);
    struct json *out = json_array(a);
    if (!n) {
        have = api;
        n = n_api;
    }
    for (size_t i = 0; i < n; i++)
        if (listed(want, n_want, have[i])) json_append(a, out, json_str(a, have[i]));
    return out;
}

int token_webhook_check(struct token_webhook *w, struct arena *a, const char *token, const char *const *want,
                        size_t n_want, const char *const *api, size_t n_api, struct user_info *out,
                        struct json **matched, struct err *e) {
    struct json *body = json_object(a), *spec;
    json_set_str(a, body, "kind", "TokenReview");
    json_set(a, body, "apiVersion", json_strf(a, "authentication.k8s.io/%s", w->version));
    spec = json_ensure_object(a, body, "spec");
    json_set_str(a, spec, "token", token);
    struct json *list = json_ensure_array(a, spec, "audiences");
    for (size_t i = 0; i < n_want; i++) json_append(a, list, json_str(a, want[i]));
    const char *question = json_text(a, spec);
    struct json *status = remote_cache_get(w->cache, a, question);
    if (!status) {
        int rc = remote_review(w->remote, a, body, &status, e);
        if (rc) return rc;
        remote_cache_put(w->cache, question, status, w->ttl_ns);
    }
    struct json *fit = audiences_of(a, status, want, n_want, api, n_api);
    if (!json_len(fit)) return err_set(e, -EACCES, "token audiences are not for this request");
    if (!json_get_bool(status, "authenticated", false)) {
        const char *why = json_get_str(status, "error");
        return err_set(e, -EACCES, "%s", str_empty(why) ? "unknown token" : why);
    }
    user_of(a, json_get(status, "user"), out);
    if (matched) *matched = fit;
    return 0;
}
