#include "pkg/serving/delegate.h"

#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

enum { MAX_CACHE = 1024, MAX_TOKEN = 16384, REVIEW_MS = 10000 };

struct verdict {
    int64_t until; /* mono */
    bool ok;
    char *user; /* JSON, for verdicts about tokens */
};

struct delegate {
    struct delegate_config c;
    pthread_mutex_t lock;
    struct map tokens, access; /* of struct verdict */
};

struct delegate *delegate_new(const struct delegate_config *c) {
    struct delegate *d = xcalloc(1, sizeof(*d));
    d->c = *c;
    pthread_mutex_init(&d->lock, NULL);
    return d;
}

static void verdict_free(void *p) {
    struct verdict *v = p;
    free(v->user);
    free(v);
}

void delegate_free(struct delegate *d) {
    if (!d) return;
    map_done_with(&d->tokens, verdict_free);
    map_done_with(&d->access, verdict_free);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* ---- what was answered before ---- */

static bool cached(struct delegate *d, struct map *m, struct arena *a, const char *key, bool *ok, const char **user) {
    pthread_mutex_lock(&d->lock);
    struct verdict *v = map_get(m, key);
    bool hit = v && v->until > mono_ns();
    if (hit) {
        *ok = v->ok;
        if (user) *user = arena_strdup(a, v->user);
    }
    pthread_mutex_unlock(&d->lock);
    return hit;
}

static void remember(struct delegate *d, struct map *m, const char *key, bool ok, const char *user, int64_t ttl_ns) {
    struct verdict *v = xcalloc(1, sizeof(*v));
    v->ok = ok;
    v->user = user ? xstrdup(user) : NULL;
    v->until = mono_ns() + ttl_ns;
    pthread_mutex_lock(&d->lock);
    if (m->n >= MAX_CACHE) {
        map_done_with(m, verdict_free);
        *m = (struct map)MAP_INIT;
    }
    struct verdict *old = map_put(m, key, v);
    if (old) verdict_free(old);
    pthread_mutex_unlock(&d->lock);
}

/* ---- reviews ---- */

/* Posts the review; *status is what the server says of it. */
static int review(struct client *client, struct arena *a, const char *group, const char *kind, const char *resource,
                  struct json *spec, struct json **status, struct err *e) {
    struct json *doc = json_object(a), *answer;
    if (!client) return err_set(e, -ENOTCONN, "no API server is configured");
    json_set_str(a, doc, "apiVersion", arena_printf(a, "%s/v1", group));
    json_set_str(a, doc, "kind", kind);
    json_set(a, doc, "spec", spec);
    const char *body = json_text(a, doc);
    struct client_request rq = {.method = "POST",
                                .path = arena_printf(a, "/apis/%s/v1/%s", group, resource),
                                .body = body,
                                .body_len = strlen(body),
                                .timeout_ms = REVIEW_MS};
    struct client_response resp = {0};
    int r = client_do(client, &rq, &resp, e);
    if (r == 0) r = json_parse(a, resp.body, resp.len, &answer, NULL, e);
    client_response_done(&resp);
    if (r == 0) *status = json_get(answer, "status");
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

static int user_of_token(struct delegate *d, struct client *client, struct arena *a, const char *token,
                         struct json **user, struct err *e) {
    bool ok;
    const char *text = NULL;
    if (strlen(token) > MAX_TOKEN || !d->c.token_reviews) return unauthorized(e);
    if (!cached(d, &d->tokens, a, token, &ok, &text)) {
        struct json *spec = json_object(a), *status;
        json_set_str(a, spec, "token", token);
        int r = review(client, a, "authentication.k8s.io", "TokenReview", "tokenreviews", spec, &status, e);
        if (r < 0) return r;
        ok = json_get_bool(status, "authenticated", false);
        text = ok ? json_text(a, json_get(status, "user")) : NULL;
        remember(d, &d->tokens, token, ok, text, ok ? d->c.token_ttl_ns : MIN_OF(d->c.token_ttl_ns, d->c.deny_ttl_ns));
    }
    if (!ok || !text) return unauthorized(e);
    return json_parse(a, text, strlen(text), user, NULL, e);
}

int delegate_user(struct delegate *d, struct client *client, struct http_req *r, struct json **user, struct err *e) {
    const char *h = http_header(r, "authorization");
    if (http_peer_verified(r->peer) && !str_empty(r->peer->common_name)) {
        *user = user_of_cert(r->arena, r->peer);
        return 0;
    }
    if (h && strncasecmp(h, "Bearer ", 7) == 0) return user_of_token(d, client, r->arena, h + 7, user, e);
    if (!d->c.anonymous) return unauthorized(e);
    *user = json_object(r->arena);
    json_set_str(r->arena, *user, "username", "system:anonymous");
    json_append(r->arena, json_ensure_array(r->arena, *user, "groups"), json_str(r->arena, "system:unauthenticated"));
    return 0;
}

int delegate_may(struct delegate *d, struct client *client, struct arena *a, const struct json *user,
                 const char *attributes, struct json *what, bool *allowed, struct err *e) {
    static const char *const members[] = {"uid", "groups", "extra"};
    const char *key = arena_printf(a, "%s\n%s", json_text(a, what), json_text(a, user));
    if (cached(d, &d->access, a, key, allowed, NULL)) return 0;
    struct json *spec = json_object(a), *status;
    json_set_str(a, spec, "user", json_get_str(user, "username"));
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        if (json_get(user, members[i])) json_set(a, spec, members[i], json_get(user, members[i]));
    json_set(a, spec, attributes, what);
    int r = review(client, a, "authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", spec, &status, e);
    if (r < 0) return r;
    *allowed = json_get_bool(status, "allowed", false);
    remember(d, &d->access, key, *allowed, NULL, *allowed ? d->c.allow_ttl_ns : d->c.deny_ttl_ns);
    return 0;
}
