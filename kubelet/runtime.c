/* The CRI methods as data, and what the kubelet reads from them about one pod. See runtime.h. */
#include "kubelet/runtime.h"

#include "kubelet/metrics.h"

#define R(m) \
    { &api_rpc_cri_runtime_service_##m, false }
#define I(m) \
    { &api_rpc_cri_image_service_##m, true }
const struct runtime_method_desc runtime_methods[RT_METHODS] = {
    [RT_VERSION] = R(version),
    [RT_STATUS] = R(status),
    [RT_UPDATE_RUNTIME_CONFIG] = R(update_runtime_config),
    [RT_RUNTIME_CONFIG] = R(runtime_config),
    [RT_RUN_POD_SANDBOX] = R(run_pod_sandbox),
    [RT_STOP_POD_SANDBOX] = R(stop_pod_sandbox),
    [RT_REMOVE_POD_SANDBOX] = R(remove_pod_sandbox),
    [RT_POD_SANDBOX_STATUS] = R(pod_sandbox_status),
    [RT_LIST_POD_SANDBOX] = R(list_pod_sandbox),
    [RT_CREATE_CONTAINER] = R(create_container),
    [RT_START_CONTAINER] = R(start_container),
    [RT_STOP_CONTAINER] = R(stop_container),
    [RT_REMOVE_CONTAINER] = R(remove_container),
    [RT_LIST_CONTAINERS] = R(list_containers),
    [RT_CONTAINER_STATUS] = R(container_status),
    [RT_UPDATE_CONTAINER_RESOURCES] = R(update_container_resources),
    [RT_REOPEN_CONTAINER_LOG] = R(reopen_container_log),
    [RT_EXEC_SYNC] = R(exec_sync),
    [RT_EXEC] = R(exec),
    [RT_ATTACH] = R(attach),
    [RT_PORT_FORWARD] = R(port_forward),
    [RT_LIST_CONTAINER_STATS] = R(list_container_stats),
    [RT_LIST_POD_SANDBOX_STATS] = R(list_pod_sandbox_stats),
    [RT_LIST_IMAGES] = I(list_images),
    [RT_IMAGE_STATUS] = I(image_status),
    [RT_PULL_IMAGE] = I(pull_image),
    [RT_REMOVE_IMAGE] = I(remove_image),
    [RT_IMAGE_FS_INFO] = I(image_fs_info),
};
#undef R
#undef I

void runtime_free(struct runtime *rt) {
    if (rt) rt->ops->free(rt);
}

int runtime_call_timeout(struct runtime *rt, enum runtime_method m, struct arena *a, const void *req, void *resp,
                         int64_t timeout_ns, struct err *e) {
    int64_t from = mono_ns();
    int r = rt->ops->call(rt, m, a, req, resp, timeout_ns, e);
    rt->counts[m].calls++;
    rt->counts[m].errors += r < 0;
    prom_observe(&rt->counts[m].duration, metrics_runtime_bounds, mono_ns() - from);
    return r;
}

int runtime_call(struct runtime *rt, enum runtime_method m, struct arena *a, const void *req, void *resp,
                 struct err *e) {
    return runtime_call_timeout(rt, m, a, req, resp, RUNTIME_TIMEOUT_NS, e);
}

static int32_t annotation_int(const struct str_map *m, const char *key) {
    const char *s = str_map_get(m, key);
    int64_t v = 0;
    if (s && str_to_i64(s, &v) == 0 && v >= 0 && v < INT32_MAX) return (int32_t)v;
    return 0;
}

static int read_sandbox(struct runtime *rt, struct arena *a, const struct cri_pod_sandbox *sb, struct rt_sandbox *out,
                        struct err *e) {
    *out = (struct rt_sandbox){.id = sb->id,
                               .ready = sb->state == CRI_POD_SANDBOX_STATE_SANDBOX_READY,
                               .created_at = sb->created_at,
                               .attempt = sb->metadata ? sb->metadata->attempt : 0,
                               .runtime_handler = sb->runtime_handler};
    struct cri_pod_sandbox_status_request req = {.pod_sandbox_id = sb->id};
    struct cri_pod_sandbox_status_response resp = {0};
    int r = runtime_call(rt, RT_POD_SANDBOX_STATUS, a, &req, &resp, e);
    if (r < 0) return r;
    struct cri_pod_sandbox_status *st = resp.status;
    if (!st) return 0;
    out->ready = st->state == CRI_POD_SANDBOX_STATE_SANDBOX_READY;
    if (st->linux && st->linux->namespaces && st->linux->namespaces->options)
        out->host_network = st->linux->namespaces->options->network == CRI_NAMESPACE_MODE_NODE;
    if (!st->network || str_empty(st->network->ip)) return 0;
    size_t n = st->network->additional_ips.n;
    out->ips = arena_alloc(a, (n + 1) * sizeof(*out->ips));
    out->ips[out->n_ips++] = st->network->ip;
    for (size_t i = 0; i < n; i++) {
        const char *ip = st->network->additional_ips.items[i].ip;
        if (!str_empty(ip)) out->ips[out->n_ips++] = ip;
    }
    return 0;
}

static int read_container(struct runtime *rt, struct arena *a, const struct cri_container *c, struct rt_container *out,
                          struct err *e) {
    struct cri_container_status_request req = {.container_id = c->id};
    struct cri_container_status_response resp = {0};
    int r = runtime_call(rt, RT_CONTAINER_STATUS, a, &req, &resp, e);
    if (r < 0) return r;
    struct cri_container_status *s = resp.status;
    if (!s) return err_set(e, -ENOENT, "container %s has no status", c->id);
    const struct str_map *an = &s->annotations;
    *out = (struct rt_container){
        .id = s->id,
        .name = str_map_get(&s->labels, LABEL_CONTAINER_NAME),
        .sandbox_id = c->pod_sandbox_id,
        .state = s->state,
        .created_at = s->created_at,
        .started_at = s->started_at,
        .finished_at = s->finished_at,
        .exit_code = s->exit_code,
        .reason = s->reason,
        .message = s->message,
        .image = s->image && !str_empty(s->image->user_specified_image) ? s->image->user_specified_image
                 : s->image                                             ? s->image->image
                                                                        : NULL,
        .image_ref = s->image_ref,
        .image_id = str_empty(s->image_id) ? s->image_ref : s->image_id,
        .log_path = s->log_path,
        .hash = str_map_get(an, ANNOT_HASH),
        .memory_request = str_map_get(an, ANNOT_MEMORY_REQUEST),
        .restart_count = annotation_int(an, ANNOT_RESTART_COUNT),
        .term_policy = str_map_get(an, ANNOT_TERM_POLICY),
        .user = s->user,
        .resources = s->resources ? s->resources->linux : NULL,
        .cfs_period_us = rt->cfs_period_us,
    };
    if (!out->name) out->name = s->metadata ? s->metadata->name : "";
    const char *tp = str_map_get(an, ANNOT_TERM_PATH);
    for (size_t i = 0; tp && i < s->mounts.n; i++)
        if (str_eq(s->mounts.items[i].container_path, tp)) out->term_path = s->mounts.items[i].host_path;
    return 0;
}

static int newer_sandbox(const void *x, const void *y) {
    const struct rt_sandbox *a = x, *b = y;
    if (a->created_at != b->created_at) return a->created_at > b->created_at ? -1 : 1;
    return a->attempt == b->attempt ? 0 : a->attempt > b->attempt ? -1 : 1;
}

static int newer_container(const void *x, const void *y) {
    const struct rt_container *a = x, *b = y;
    if (a->created_at != b->created_at) return a->created_at > b->created_at ? -1 : 1;
    return a->restart_count == b->restart_count ? 0 : a->restart_count > b->restart_count ? -1 : 1;
}

int runtime_pod_read(struct runtime *rt, struct arena *a, const char *uid, struct rt_pod *out, struct err *e) {
    *out = (struct rt_pod){0};
    struct str_map_entry label = {LABEL_POD_UID, uid};
    struct str_map sel = {&label, 1};
    struct cri_pod_sandbox_filter sf = {.label_selector = sel};
    struct cri_list_pod_sandbox_request sreq = {.filter = &sf};
    struct cri_list_pod_sandbox_response sresp = {0};
    int r = runtime_call(rt, RT_LIST_POD_SANDBOX, a, &sreq, &sresp, e);
    if (r < 0) return r;
    struct cri_container_filter cf = {.label_selector = sel};
    struct cri_list_containers_request creq = {.filter = &cf};
    struct cri_list_containers_response cresp = {0};
    r = runtime_call(rt, RT_LIST_CONTAINERS, a, &creq, &cresp, e);
    if (r < 0) return r;
    out->sandboxes = arena_zalloc(a, (sresp.items.n + 1) * sizeof(*out->sandboxes));
    for (size_t i = 0; i < sresp.items.n; i++) {
        r = read_sandbox(rt, a, &sresp.items.items[i], &out->sandboxes[out->n_sandboxes], e);
        if (r == -ENOENT) continue; /* removed in between */
        if (r < 0) return r;
        out->n_sandboxes++;
    }
    out->containers = arena_zalloc(a, (cresp.containers.n + 1) * sizeof(*out->containers));
    for (size_t i = 0; i < cresp.containers.n; i++) {
        r = read_container(rt, a, &cresp.containers.items[i], &out->containers[out->n_containers], e);
        if (r == -ENOENT) continue;
        if (r < 0) return r;
        out->n_containers++;
    }
    qsort(out->sandboxes, out->n_sandboxes, sizeof(*out->sandboxes), newer_sandbox);
    qsort(out->containers, out->n_containers, sizeof(*out->containers), newer_container);
    return 0;
}

const struct rt_container *rt_pod_find(const struct rt_pod *p, const char *container, unsigned skip) {
    for (size_t i = 0; i < p->n_containers; i++)
        if (str_eq(p->containers[i].name, container) && skip-- == 0) return &p->containers[i];
    return NULL;
}

const struct rt_container *rt_pod_by_id(const struct rt_pod *p, const char *id) {
    for (size_t i = 0; i < p->n_containers; i++)
        if (str_eq(p->containers[i].id, id)) return &p->containers[i];
    return NULL;
}
