/* See status_manager.h. */
#include "kubelet/status_manager.h"

#include <pthread.h>

#include "pkg/base/log.h"
#include "pkg/base/map.h"

enum { RETRY_MIN_MS = 250, RETRY_MAX_MS = 10000 };

struct entry {
    struct status_manager *m;
    unsigned refs; /* the table, and a request or timer in flight */
    char *uid, *ns, *name, *rv;
    struct arena *arena; /* of `status` */
    struct core_pod_status *status, *sent;
    struct arena *sent_arena, *flying_arena;
    struct core_pod_status *flying; /* what the request in flight carries */
    bool busy, finish, deleted, forgotten;
    unsigned retry_ms;
    int64_t written_rv; /* resourceVersion that the last write gave */
};

struct status_manager {
    struct client *client;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct map entries; /* uid -> struct entry */
    unsigned in_flight;
    bool stopping;
};

struct status_manager *status_manager_new(struct client *c) {
    struct status_manager *m = xcalloc(1, sizeof(*m));
    m->client = c;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->idle, NULL);
    return m;
}

static void entry_unref(struct entry *n) {
    if (--n->refs) return;
    arena_free(n->arena);
    arena_free(n->sent_arena);
    arena_free(n->flying_arena);
    free(n->uid);
    free(n->ns);
    free(n->name);
    free(n->rv);
    free(n);
}

void status_manager_free(struct status_manager *m) {
    if (!m) return;
    pthread_mutex_lock(&m->lock);
    m->stopping = true;
    while (m->in_flight) pthread_cond_wait(&m->idle, &m->lock);
    size_t it = 0;
    const char *key;
    void *value;
    while (map_next(&m->entries, &it, &key, &value)) entry_unref(value);
    map_done(&m->entries);
    pthread_mutex_unlock(&m->lock);
    pthread_cond_destroy(&m->idle);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- the patch ---- */

/* Lists that are merged by key on the server: replaced as a whole when they change. */
static void replace_list(struct arena *a, struct json *out, const char *key, const struct json *old,
                         const struct json *now) {
    const struct json *was = json_get(old, key), *is = json_get(now, key);
    if ((!json_len(was) && !json_len(is)) || (was && is && json_equal(was, is))) return;
    struct json *list = json_array(a), *item;
    struct json *directive = json_object(a);
    json_set_str(a, directive, "$patch", "replace");
    json_append(a, list, directive);
    JSON_FOREACH(item, is) json_append(a, list, item);
    json_set(a, out, key, list);
}

static void patch_conditions(struct arena *a, struct json *out, const struct json *old, const struct json *now) {
    struct json *list = json_array(a), *c, *o;
    JSON_FOREACH(c, json_get(now, "conditions")) {
        const char *type = json_get_str(c, "type");
        if (!status_condition_owned(type) && !str_eq(type, "DisruptionTarget")) continue;
        bool same = false;
        JSON_FOREACH(o, json_get(old, "conditions"))
            if (str_eq(json_get_str(o, "type"), type)) same = json_equal(o, c);
        if (same) continue;
        static const char *const cleared[] = {"reason", "message"};
        for (size_t i = 0; i < ARRAY_LEN(cleared); i++)
            if (!json_get(c, cleared[i])) json_set(a, c, cleared[i], json_null(a));
        json_append(a, list, c);
    }
    /* Those of a resize come and go. */
    JSON_FOREACH(o, json_get(old, "conditions")) {
        const char *type = json_get_str(o, "type");
        bool still = !str_has_prefix(str_or_empty(type), "PodResize");
        JSON_FOREACH(c, json_get(now, "conditions")) still |= str_eq(json_get_str(c, "type"), type);
        if (still) continue;
        struct json *gone = json_object(a);
        json_set_str(a, gone, "$patch", "delete");
        json_set_str(a, gone, "type", type);
        json_append(a, list, gone);
    }
    if (json_len(list)) json_set(a, out, "conditions", list);
}

char *status_patch(struct arena *a, const char *uid, const struct core_pod_status *old,
                   const struct core_pod_status *s) {
    static const char *const fields[] = {"observedGeneration",
                                         "phase",
                                         "message",
                                         "reason",
                                         "hostIP",
                                         "podIP",
                                         "startTime",
                                         "initContainerStatuses",
                                         "containerStatuses",
                                         "ephemeralContainerStatuses",
                                         "qosClass",
                                         "allocatedResources",
                                         "resources"};
    struct json *was = old ? api_to_tree(a, &api_core_pod_status, old) : json_object(a);
    struct json *now = api_to_tree(a, &api_core_pod_status, s), *status = json_object(a);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        struct json *w = json_get(was, fields[i]), *n = json_get(now, fields[i]);
        if (!w && !n) continue;
        if (w && n && json_equal(w, n)) continue;
        json_set(a, status, fields[i], n ? n : json_null(a));
    }
    replace_list(a, status, "hostIPs", was, now);
    replace_list(a, status, "podIPs", was, now);
    patch_conditions(a, status, was, now);
    if (!json_len(status)) return NULL;
    struct json *doc = json_object(a);
    json_set_str(a, json_ensure_object(a, doc, "metadata"), "uid", uid);
    json_set(a, doc, "status", status);
    return json_text(a, doc);
}

/* ---- sending ---- all with the lock held; callbacks take it themselves */

static void advance(struct entry *n);

static void retry_later(void *arg) {
    struct entry *n = arg;
    struct status_manager *m = n->m;
    pthread_mutex_lock(&m->lock);
    n->busy = false;
    m->in_flight--;
    if (!m->stopping) advance(n);
    entry_unref(n);
    pthread_cond_broadcast(&m->idle);
    pthread_mutex_unlock(&m->lock);
}

static void flying_drop(struct entry *n) {
    arena_free(n->flying_arena);
    n->flying_arena = NULL;
    n->flying = NULL;
}

/* metadata.resourceVersion of an answer. */
static int64_t rv_of(const struct client_response *resp) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v;
    int64_t rv = 0;
    if (!resp || !resp->body || json_parse(a, resp->body, resp->len, &v, NULL, NULL) < 0) return 0;
    const char *s = json_as_str(json_at(v, "metadata", "resourceVersion", NULL));
    return s && str_to_i64(s, &rv) == 0 ? rv : 0;
}

static void on_answer(void *arg, int result, const struct client_response *resp, struct err *e) {
    struct entry *n = arg;
    struct status_manager *m = n->m;
    pthread_mutex_lock(&m->lock);
    bool was_status = n->flying != NULL;
    bool settled = result == 0 || (e && (e->status == 404 || e->status == 409 || e->status == 403 || e->status == 422));
    if (settled && was_status) {
        arena_free(n->sent_arena);
        n->sent_arena = n->flying_arena;
        n->sent = n->flying;
        n->flying_arena = NULL;
        n->flying = NULL;
        if (result == 0) n->written_rv = rv_of(resp);
    }
    flying_drop(n);
    if (settled && !was_status) n->deleted = true;
    /* 404 and 409: the pod has gone, or another has taken its name. */
    if (result < 0 && settled && e->status != 404 && e->status != 409)
        log_warn("pod status was refused", "pod", n->name, "namespace", n->ns, "error", e->msg, NULL);
    if (!settled && !m->stopping && !n->forgotten) { /* the server is away: keep the request slot until the timer */
        n->retry_ms = n->retry_ms ? MIN_OF(n->retry_ms * 2, (unsigned)RETRY_MAX_MS) : RETRY_MIN_MS;
        client_call_later(m->client, (int64_t)n->retry_ms * NS_PER_MS, retry_later, n);
        pthread_mutex_unlock(&m->lock);
        return;
    }
    n->retry_ms = 0;
    n->busy = false;
    m->in_flight--;
    if (!m->stopping) advance(n);
    entry_unref(n);
    pthread_cond_broadcast(&m->idle);
    pthread_mutex_unlock(&m->lock);
}

static void send_request(struct entry *n, const struct client_request *rq) {
    n->busy = true;
    n->refs++;
    n->m->in_flight++;
    client_do_async(n->m->client, rq, on_answer, n);
}

static void send_delete(struct arena *a, struct entry *n) {
    const char *body = arena_printf(a,
                                    "{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"gracePeriodSeconds\":0,"
                                    "\"preconditions\":{\"uid\":\"%s\"}}",
                                    n->uid);
    struct client_request rq = {.method = "DELETE",
                                .path = client_path(a, &client_pods, n->ns, n->name, NULL),
                                .body = body,
                                .body_len = strlen(body),
                                .cause = n->rv};
    send_request(n, &rq);
}

static void advance(struct entry *n) {
    if (n->busy || n->forgotten || !n->m->client) return;
    _cleanup_arena_ struct arena *a = arena_new();
    char *patch = n->status ? status_patch(a, n->uid, n->sent, n->status) : NULL;
    if (!patch) {
        if (n->finish && !n->deleted) send_delete(a, n);
        return;
    }
    n->flying_arena = arena_new();
    n->flying = api_clone(n->flying_arena, &api_core_pod_status, n->status);
    struct client_request rq = {.method = "PATCH",
                                .path = client_path(a, &client_pods, n->ns, n->name, "status"),
                                .body = patch,
                                .body_len = strlen(patch),
                                .content_type = "application/strategic-merge-patch+json",
                                .cause = n->rv};
    send_request(n, &rq);
}

static struct entry *entry_of(struct status_manager *m, const struct core_pod *pod) {
    struct entry *n = map_get(&m->entries, pod->metadata.uid);
    if (n) return n;
    n = xcalloc(1, sizeof(*n));
    n->m = m;
    n->refs = 1;
    n->uid = xstrdup(pod->metadata.uid);
    n->ns = xstrdup(pod->metadata.namespace);
    n->name = xstrdup(pod->metadata.name);
    n->sent_arena = arena_new(); /* what the API server showed when the pod was first seen */
    n->sent = api_clone(n->sent_arena, &api_core_pod_status, &pod->status);
    map_put(&m->entries, n->uid, n);
    return n;
}

void status_manager_set(struct status_manager *m, const struct core_pod *pod, const struct core_pod_status *s) {
    pthread_mutex_lock(&m->lock);
    struct entry *n = entry_of(m, pod);
    free(n->rv);
    n->rv = pod->metadata.resource_version ? xstrdup(pod->metadata.resource_version) : NULL;
    struct arena *a = arena_new();
    n->status = api_clone(a, &api_core_pod_status, s);
    arena_free(n->arena);
    n->arena = a;
    advance(n);
    pthread_mutex_unlock(&m->lock);
}

void status_manager_observe(struct status_manager *m, const struct core_pod *pod) {
    int64_t rv = 0;
    if (!pod->metadata.resource_version || str_to_i64(pod->metadata.resource_version, &rv) < 0) return;
    pthread_mutex_lock(&m->lock);
    struct entry *n = map_get(&m->entries, pod->metadata.uid);
    if (n && n->status && !n->busy && !n->forgotten && rv > n->written_rv) {
        arena_free(n->sent_arena);
        n->sent_arena = arena_new();
        n->sent = api_clone(n->sent_arena, &api_core_pod_status, &pod->status);
        advance(n);
    }
    pthread_mutex_unlock(&m->lock);
}

void status_manager_finish(struct status_manager *m, const struct core_pod *pod) {
    pthread_mutex_lock(&m->lock);
    struct entry *n = entry_of(m, pod);
    n->finish = true;
    advance(n);
    pthread_mutex_unlock(&m->lock);
}

void status_manager_forget(struct status_manager *m, const char *uid) {
    pthread_mutex_lock(&m->lock);
    struct entry *n = map_del(&m->entries, uid);
    if (n) {
        n->forgotten = true;
        entry_unref(n);
    }
    pthread_mutex_unlock(&m->lock);
}
