/* Making and removing pods, many at a time. Requests of a batch are sent together, so that the server commits
 * them together. */
#include <pthread.h>

#include "util.h"

void pod_from_template(struct arena *a, const struct core_pod_template_spec *t, const struct owner *o,
                       struct core_pod *out) {
    *out = (struct core_pod){0};
    out->metadata.namespace = o->meta->namespace;
    out->metadata.generate_name = arena_printf(a, "%s-", o->meta->name);
    out->metadata.labels = t->metadata.labels;
    out->metadata.annotations = t->metadata.annotations;
    out->metadata.finalizers = t->metadata.finalizers;
    out->metadata.owner_references.items = owner_ref_new(a, o, true);
    out->metadata.owner_references.n = 1;
    out->spec = t->spec;
}

/* ---- requests sent together ---- */

struct batch {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t left;
};

struct call {
    struct batch *b;
    int result;
    struct err e;
    char *body;
};

static void call_done(void *arg, int result, const struct client_response *r, struct err *e) {
    struct call *c = arg;
    pthread_mutex_lock(&c->b->lock);
    c->result = result;
    err_move(&c->e, e);
    if (r->body) c->body = xstrndup(r->body, r->len);
    if (--c->b->left == 0) pthread_cond_signal(&c->b->cond);
    pthread_mutex_unlock(&c->b->lock);
}

/* Sends n requests and waits for all. */
static void run_batch(struct client *c, const struct client_request *rq, struct call *calls, size_t n) {
    struct batch b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, n};
    for (size_t i = 0; i < n; i++) {
        calls[i] = (struct call){.b = &b};
        client_do_async(c, &rq[i], call_done, &calls[i]);
    }
    pthread_mutex_lock(&b.lock);
    while (b.left) pthread_cond_wait(&b.cond, &b.lock);
    pthread_mutex_unlock(&b.lock);
    pthread_cond_destroy(&b.cond);
    pthread_mutex_destroy(&b.lock);
}

/* ---- creating ---- */

static const char *created_name(struct arena *a, const char *body) {
    struct core_pod p;
    if (!body || api_from_json(a, &api_core_pod, body, strlen(body), &p, NULL) < 0) return "";
    return str_or_empty(p.metadata.name);
}

/* Events for one creation; true when it succeeded. */
static bool created(const struct pod_control *p, struct arena *a, struct call *c, struct err *e) {
    const struct owner *o = &p->owner;
    bool ok = c->result == 0;
    if (ok) {
        event_record_obj(p->events, o->resource, o->meta, "Normal", "SuccessfulCreate", "Created pod: %s",
                         created_name(a, c->body));
    } else {
        if (!client_err_namespace_terminating(&c->e))
            event_record_obj(p->events, o->resource, o->meta, "Warning", "FailedCreate", "Error creating: %s",
                             c->e.msg);
        err_move(e, &c->e);
    }
    err_done(&c->e);
    free(c->body);
    return ok;
}

size_t pod_control_create_many(const struct pod_control *p, struct arena *a, const struct core_pod *pod, size_t n,
                               struct err *e) {
    _cleanup_buf_ struct buf body = BUF_INIT;
    struct core_pod copy = *pod;
    copy.kind = "Pod";
    copy.api_version = "v1";
    api_to_json(&body, &api_core_pod, &copy);
    struct client_request one = {.method = "POST",
                                 .body = body.data,
                                 .body_len = body.len,
                                 .cause = p->cause,
                                 .path = client_path(a, &client_pods, pod->metadata.namespace, NULL, NULL)};
    size_t made = 0, sent = 0;
    for (size_t size = 1; sent < n; size *= 2) {
        size = MIN_OF(size, n - sent);
        _cleanup_free_ struct call *calls = xcalloc(size, sizeof(*calls));
        _cleanup_free_ struct client_request *rq = xcalloc(size, sizeof(*rq));
        for (size_t i = 0; i < size; i++) rq[i] = one;
        run_batch(p->m->client, rq, calls, size);
        size_t good = 0;
        for (size_t i = 0; i < size; i++) good += created(p, a, &calls[i], e);
        made += good;
        sent += size;
        if (good < size) break;
    }
    return made;
}

int pod_control_create(const struct pod_control *p, struct arena *a, const struct core_pod *pod, struct err *e) {
    _cleanup_err_ struct err local = {0};
    if (pod_control_create_many(p, a, pod, 1, &local) == 1) return 0;
    int code = local.code;
    err_move(e, &local);
    return code;
}

/* ---- deleting ---- */

size_t pod_control_delete_many(const struct pod_control *p, struct arena *a, struct object **pods, size_t n,
                               void (*failed)(void *arg, const struct object *pod), void *arg, struct err *e) {
    if (!n) return 0;
    _cleanup_free_ struct call *calls = xcalloc(n, sizeof(*calls));
    _cleanup_free_ struct client_request *rq = xcalloc(n, sizeof(*rq));
    for (size_t i = 0; i < n; i++) {
        const char *body =
            arena_printf(a, "{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"preconditions\":{\"uid\":\"%s\"}}",
                         str_or_empty(pods[i]->meta->uid));
        rq[i] = (struct client_request){
            .method = "DELETE",
            .body = body,
            .body_len = strlen(body),
            .cause = p->cause,
            .path = client_path(a, &client_pods, pods[i]->meta->namespace, pods[i]->meta->name, NULL)};
    }
    run_batch(p->m->client, rq, calls, n);
    size_t bad = 0;
    const struct owner *o = &p->owner;
    for (size_t i = 0; i < n; i++) {
        struct call *c = &calls[i];
        if (c->result == 0) {
            event_record_obj(p->events, o->resource, o->meta, "Normal", "SuccessfulDelete", "Deleted pod: %s",
                             pods[i]->meta->name);
        } else {
            if (failed) failed(arg, pods[i]);
            if (!client_err_not_found(&c->e) && c->e.status != 409) {
                event_record_obj(p->events, o->resource, o->meta, "Warning", "FailedDelete", "Error deleting: %s",
                                 c->e.msg);
                bad++;
                err_move(e, &c->e);
            }
        }
        err_done(&c->e);
        free(c->body);
    }
    return bad;
}

int pod_control_delete(const struct pod_control *p, const struct core_pod *pod, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct object fake = {.meta = &pod->metadata}, *list[] = {&fake};
    _cleanup_err_ struct err local = {0};
    if (pod_control_delete_many(p, a, list, 1, NULL, NULL, &local) == 0) return 0;
    int code = local.code;
    err_move(e, &local);
    return code;
}
