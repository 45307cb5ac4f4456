/* The methods of runtime.v1.RuntimeService. Each decodes nothing and decides little: it finds the objects, calls
 * sandbox.c, container.c and friends, and shapes the answer. */
#include "idmap.h"
#include "pkg/base/flags.h"
#include "pkg/base/ktime.h"
#include "pkg/grpc/grpc.h"
#include "shim.h"

#define NEW(a, type) ((type *)arena_zalloc((a), sizeof(type)))

enum { EVENT_BATCH = 32, EVENT_WAIT_MS = 1000, EXEC_ERROR_OUTPUT_MAX = 4096 };

/* Filters that CRI's lists share. */
static bool labels_match(const struct str_map *want, const struct str_map *have) {
    for (size_t i = 0; i < want->n; i++)
        if (!str_eq(str_or_empty(want->items[i].value), str_or_empty(str_map_get(have, want->items[i].key))) ||
            !str_map_get(have, want->items[i].key))
            return false;
    return true;
}

static bool id_matches(const char *want, const char *id) { return str_empty(want) || str_has_prefix(id, want); }

/* ---- runtime ---- */

static int do_version(struct grpc_call *c, struct err *e) {
    struct cri_version_response *r = c->response;
    struct shim *s = c->arg;
    r->version = "0.1.0"; /* of the kubelet's runtime API: always this */
    r->runtime_name = "coracle";
    r->runtime_version = arena_printf(c->arena, "%s (crun %s)", CORACLE_VERSION, runtime_version(s->runtime));
    r->runtime_api_version = "v1";
    return 0;
}

static int do_status(struct grpc_call *c, struct err *e) {
    const struct cri_status_request *q = c->request;
    struct cri_status_response *r = c->response;
    struct shim *s = c->arg;
    const char *handlers[SHIM_HANDLERS_MAX + 2] = {"", "crun"};
    size_t n_handlers = 2;
    for (size_t i = 0; i < s->n_handlers; i++) handlers[n_handlers++] = s->handlers[i].name;
    const char *why = net_not_ready(s->net, c->arena);
    r->status = NEW(c->arena, struct cri_runtime_status);
    r->status->conditions.n = 2;
    r->status->conditions.items = arena_zalloc(c->arena, 2 * sizeof(struct cri_runtime_condition));
    r->status->conditions.items[0] = (struct cri_runtime_condition){.type = "RuntimeReady", .status = true};
    r->status->conditions.items[1] = (struct cri_runtime_condition){
        .type = "NetworkReady", .status = !why, .reason = why ? "NetworkPluginNotReady" : NULL, .message = why};
    r->runtime_handlers.items = arena_zalloc(c->arena, n_handlers * sizeof(struct cri_runtime_handler));
    for (size_t i = 0; i < n_handlers; i++) {
        struct cri_runtime_handler *h = &r->runtime_handlers.items[r->runtime_handlers.n++];
        h->name = handlers[i];
        h->features = NEW(c->arena, struct cri_runtime_handler_features);
        bool crun = runtime_is_crun(runtime_by_handler(s, handlers[i]));
        h->features->recursive_read_only_mounts = crun;
        h->features->user_namespaces = crun && idmap_supported();
    }
    r->features = NEW(c->arena, struct cri_runtime_features);
    r->features->supplemental_groups_policy = true;
    if (!q->verbose) return 0;
    r->info.items = arena_zalloc(c->arena, sizeof(struct str_map_entry));
    r->info.n = 1;
    struct json *o = json_object(c->arena);
    json_set_str(c->arena, o, "root", s->cfg.root);
    json_set_str(c->arena, o, "state", s->cfg.state);
    json_set_str(c->arena, o, "bridge", s->cfg.bridge);
    r->info.items[0] = (struct str_map_entry){"config", json_text(c->arena, o)};
    return 0;
}

static int do_update_runtime_config(struct grpc_call *c, struct err *e) {
    const struct cri_update_runtime_config_request *q = c->request;
    struct shim *s = c->arg;
    const struct cri_network_config *n = q->runtime_config ? q->runtime_config->network_config : NULL;
    return n ? shim_set_pod_cidr(s, n->pod_cidr, e) : 0;
}

static int do_runtime_config(struct grpc_call *c, struct err *e) {
    struct cri_runtime_config_response *r = c->response;
    r->linux = NEW(c->arena, struct cri_linux_runtime_configuration);
    r->linux->cgroup_driver = CRI_CGROUP_DRIVER_CGROUPFS;
    return 0;
}

/* ---- sandboxes ---- */

static int do_run_pod_sandbox(struct grpc_call *c, struct err *e) {
    const struct cri_run_pod_sandbox_request *q = c->request;
    struct cri_run_pod_sandbox_response *r = c->response;
    char id[SHIM_ID + 1];
    int rc = sandbox_run(c->arg, q->config, q->runtime_handler, id, e);
    if (rc == 0) r->pod_sandbox_id = arena_strdup(c->arena, id);
    return rc;
}

/* Stopping and removing what is not there is success, says CRI. */
static int with_sandbox(struct shim *s, const char *id, int (*fn)(struct shim *, struct sandbox *, struct err *),
                        struct err *e) {
    struct sandbox *sb = sandbox_get(s, id, NULL);
    int rc = sb ? fn(s, sb, e) : 0;
    sandbox_put(s, sb);
    return rc;
}

static int do_stop_pod_sandbox(struct grpc_call *c, struct err *e) {
    return with_sandbox(c->arg, ((const struct cri_stop_pod_sandbox_request *)c->request)->pod_sandbox_id, sandbox_stop,
                        e);
}

static int do_remove_pod_sandbox(struct grpc_call *c, struct err *e) {
    return with_sandbox(c->arg, ((const struct cri_remove_pod_sandbox_request *)c->request)->pod_sandbox_id,
                        sandbox_remove, e);
}

static void fill_container_statuses(struct shim *s, struct arena *a, const char *sandbox,
                                    struct cri_container_status_vec *out) {
    struct container **all;
    size_t n;
    container_all(s, a, sandbox, &all, &n);
    out->items = arena_zalloc(a, (n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < n; i++) {
        out->items[out->n++] = *container_status(s, a, all[i]);
        container_put(s, all[i]);
    }
}

static int do_pod_sandbox_status(struct grpc_call *c, struct err *e) {
    const struct cri_pod_sandbox_status_request *q = c->request;
    struct cri_pod_sandbox_status_response *r = c->response;
    struct shim *s = c->arg;
    struct sandbox *sb = sandbox_get(s, q->pod_sandbox_id, e);
    if (!sb) return -ENOENT;
    r->status = sandbox_status(s, c->arena, sb);
    r->timestamp = ktime_unix_ns(ktime_now());
    fill_container_statuses(s, c->arena, sb->id, &r->containers_statuses);
    sandbox_put(s, sb);
    return 0;
}

static int do_list_pod_sandbox(struct grpc_call *c, struct err *e) {
    const struct cri_pod_sandbox_filter *f = ((const struct cri_list_pod_sandbox_request *)c->request)->filter;
    struct cri_list_pod_sandbox_response *r = c->response;
    struct shim *s = c->arg;
    struct sandbox **all;
    size_t n;
    sandbox_all(s, c->arena, &all, &n);
    r->items.items = arena_zalloc(c->arena, (n + 1) * sizeof(*r->items.items));
    for (size_t i = 0; i < n; i++) {
        struct cri_pod_sandbox_status *st = sandbox_status(s, c->arena, all[i]);
        sandbox_put(s, all[i]);
        if (f && !id_matches(f->id, st->id)) continue;
        if (f && f->state && f->state->state != st->state) continue;
        if (f && !labels_match(&f->label_selector, &st->labels)) continue;
        r->items.items[r->items.n++] = (struct cri_pod_sandbox){.id = st->id,
                                                                .metadata = st->metadata,
                                                                .state = st->state,
                                                                .created_at = st->created_at,
                                                                .labels = st->labels,
                                                                .annotations = st->annotations,
                                                                .runtime_handler = st->runtime_handler};
    }
    return 0;
}

static int do_update_pod_sandbox_resources(struct grpc_call *c, struct err *e) {
    const struct cri_update_pod_sandbox_resources_request *q = c->request;
    struct sandbox *sb = sandbox_get(c->arg, q->pod_sandbox_id, e);
    sandbox_put(c->arg, sb);
    return sb ? 0 : -ENOENT; /* the pod's cgroup is the kubelet's; there is no process of ours in it */
}

/* ---- containers ---- */

static int do_create_container(struct grpc_call *c, struct err *e) {
    const struct cri_create_container_request *q = c->request;
    struct cri_create_container_response *r = c->response;
    char id[SHIM_ID + 1];
    struct sandbox *sb = sandbox_get(c->arg, q->pod_sandbox_id, e);
    if (!sb) return -ENOENT;
    int rc = container_create(c->arg, sb, q->config, id, e);
    if (rc == 0) r->container_id = arena_strdup(c->arena, id);
    sandbox_put(c->arg, sb);
    return rc;
}

static int do_start_container(struct grpc_call *c, struct err *e) {
    struct container *ct =
        container_get(c->arg, ((const struct cri_start_container_request *)c->request)->container_id, e);
    if (!ct) return -ENOENT;
    int rc = container_start(c->arg, ct, e);
    container_put(c->arg, ct);
    return rc;
}

static int do_stop_container(struct grpc_call *c, struct err *e) {
    const struct cri_stop_container_request *q = c->request;
    struct container *ct = container_get(c->arg, q->container_id, NULL);
    int rc = ct ? container_stop(c->arg, ct, q->timeout, e) : 0;
    container_put(c->arg, ct);
    return rc;
}

static int do_remove_container(struct grpc_call *c, struct err *e) {
    struct container *ct =
        container_get(c->arg, ((const struct cri_remove_container_request *)c->request)->container_id, NULL);
    int rc = ct ? container_remove(c->arg, ct, e) : 0;
    container_put(c->arg, ct);
    return rc;
}

static int do_list_containers(struct grpc_call *c, struct err *e) {
    const struct cri_container_filter *f = ((const struct cri_list_containers_request *)c->request)->filter;
    struct cri_list_containers_response *r = c->response;
    struct shim *s = c->arg;
    struct container **all;
    size_t n;
    container_all(s, c->arena, NULL, &all, &n);
    r->containers.items = arena_zalloc(c->arena, (n + 1) * sizeof(*r->containers.items));
    for (size_t i = 0; i < n; i++) {
        const char *sandbox = arena_strdup(c->arena, all[i]->sandbox->id);
        struct cri_container_status *st = container_status(s, c->arena, all[i]);
        container_put(s, all[i]);
        if (f && (!id_matches(f->id, st->id) || !id_matches(f->pod_sandbox_id, sandbox))) continue;
        if (f && f->state && f->state->state != st->state) continue;
        if (f && !labels_match(&f->label_selector, &st->labels)) continue;
        r->containers.items[r->containers.n++] = (struct cri_container){.id = st->id,
                                                                        .pod_sandbox_id = sandbox,
                                                                        .metadata = st->metadata,
                                                                        .image = st->image,
                                                                        .image_ref = st->image_ref,
                                                                        .state = st->state,
                                                                        .created_at = st->created_at,
                                                                        .labels = st->labels,
                                                                        .annotations = st->annotations,
                                                                        .image_id = st->image_id};
    }
    return 0;
}

static int do_container_status(struct grpc_call *c, struct err *e) {
    const struct cri_container_status_request *q = c->request;
    struct cri_container_status_response *r = c->response;
    struct shim *s = c->arg;
    struct container *ct = container_get(s, q->container_id, e);
    if (!ct) return -ENOENT;
    r->status = container_status(s, c->arena, ct);
    if (q->verbose) {
        struct json *o = json_object(c->arena);
        pthread_mutex_lock(&s->lock);
        json_set_int(c->arena, o, "pid", ct->proc.pid);
        json_set_str(c->arena, o, "sandboxID", ct->sandbox->id);
        json_set_str(c->arena, o, "bundle", ct->bundle);
        json_set_str(c->arena, o, "cgroup", ct->cgroup);
        pthread_mutex_unlock(&s->lock);
        r->info.items = arena_zalloc(c->arena, sizeof(struct str_map_entry));
        r->info.n = 1;
        r->info.items[0] = (struct str_map_entry){"info", json_text(c->arena, o)};
    }
    container_put(s, ct);
    return 0;
}

static int do_update_container_resources(struct grpc_call *c, struct err *e) {
    const struct cri_update_container_resources_request *q = c->request;
    struct container *ct = container_get(c->arg, q->container_id, e);
    if (!ct) return -ENOENT;
    int rc = container_update(c->arg, ct, q->linux, e);
    container_put(c->arg, ct);
    return rc;
}

static int do_reopen_container_log(struct grpc_call *c, struct err *e) {
    struct shim *s = c->arg;
    struct container *ct =
        container_get(s, ((const struct cri_reopen_container_log_request *)c->request)->container_id, e);
    if (!ct) return -ENOENT;
    pthread_mutex_lock(&s->lock);
    bool running = ct->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
    pthread_mutex_unlock(&s->lock);
    int rc = running ? runtime_reopen_log(runtime_of(s, ct), ct->bundle, ct->log_path, e)
                     : err_set(e, -EINVAL, "container is not running");
    container_put(s, ct);
    return rc;
}

/* ---- exec, attach, port-forward ---- */

static int do_exec_sync(struct grpc_call *c, struct err *e) {
    const struct cri_exec_sync_request *q = c->request;
    struct cri_exec_sync_response *r = c->response;
    _cleanup_buf_ struct buf out = {.limit = EXEC_OUTPUT_MAX / 2}, err = {.limit = EXEC_OUTPUT_MAX / 4};
    struct container *ct = container_get(c->arg, q->container_id, e);
    if (!ct) return -ENOENT;
    int rc = container_exec_sync(c->arg, ct, &q->cmd, q->timeout, &out, &err, &r->exit_code, e);
    container_put(c->arg, ct);
    r->stdout = (struct bytes){arena_memdup(c->arena, out.data ? out.data : "", out.len), out.len};
    r->stderr = (struct bytes){arena_memdup(c->arena, err.data ? err.data : "", err.len), err.len};
    return rc;
}

static int do_exec(struct grpc_call *c, struct err *e) {
    struct shim *s = c->arg;
    return streaming_exec(s->streaming, c->arena, c->request, &((struct cri_exec_response *)c->response)->url, e);
}

static int do_attach(struct grpc_call *c, struct err *e) {
    struct shim *s = c->arg;
    return streaming_attach(s->streaming, c->arena, c->request, &((struct cri_attach_response *)c->response)->url, e);
}

static int do_port_forward(struct grpc_call *c, struct err *e) {
    struct shim *s = c->arg;
    return streaming_port_forward(s->streaming, c->arena, c->request,
                                  &((struct cri_port_forward_response *)c->response)->url, e);
}

/* ---- statistics ---- */

static int do_container_stats(struct grpc_call *c, struct err *e) {
    struct container *ct =
        container_get(c->arg, ((const struct cri_container_stats_request *)c->request)->container_id, e);
    if (!ct) return -ENOENT;
    ((struct cri_container_stats_response *)c->response)->stats = container_stats(c->arg, c->arena, ct);
    container_put(c->arg, ct);
    return 0;
}

static int do_list_container_stats(struct grpc_call *c, struct err *e) {
    const struct cri_container_stats_filter *f = ((const struct cri_list_container_stats_request *)c->request)->filter;
    struct cri_list_container_stats_response *r = c->response;
    struct shim *s = c->arg;
    struct container **all;
    size_t n;
    container_all(s, c->arena, NULL, &all, &n);
    r->stats.items = arena_zalloc(c->arena, (n + 1) * sizeof(*r->stats.items));
    for (size_t i = 0; i < n; i++) {
        struct container *ct = all[i];
        pthread_mutex_lock(&s->lock);
        bool running = ct->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
        pthread_mutex_unlock(&s->lock);
        bool wanted = running && (!f || (id_matches(f->id, ct->id) && id_matches(f->pod_sandbox_id, ct->sandbox->id) &&
                                         labels_match(&f->label_selector, &ct->config->labels)));
        if (wanted) r->stats.items[r->stats.n++] = *container_stats(s, c->arena, ct);
        container_put(s, ct);
    }
    return 0;
}

static int do_pod_sandbox_stats(struct grpc_call *c, struct err *e) {
    struct sandbox *sb =
        sandbox_get(c->arg, ((const struct cri_pod_sandbox_stats_request *)c->request)->pod_sandbox_id, e);
    if (!sb) return -ENOENT;
    ((struct cri_pod_sandbox_stats_response *)c->response)->stats = sandbox_stats(c->arg, c->arena, sb);
    sandbox_put(c->arg, sb);
    return 0;
}

static int do_list_pod_sandbox_stats(struct grpc_call *c, struct err *e) {
    const struct cri_pod_sandbox_stats_filter *f =
        ((const struct cri_list_pod_sandbox_stats_request *)c->request)->filter;
    struct cri_list_pod_sandbox_stats_response *r = c->response;
    struct shim *s = c->arg;
    struct sandbox **all;
    size_t n;
    sandbox_all(s, c->arena, &all, &n);
    r->stats.items = arena_zalloc(c->arena, (n + 1) * sizeof(*r->stats.items));
    for (size_t i = 0; i < n; i++) {
        bool wanted =
            all[i]->ready &&
            (!f || (id_matches(f->id, all[i]->id) && labels_match(&f->label_selector, &all[i]->config->labels)));
        if (wanted) r->stats.items[r->stats.n++] = *sandbox_stats(s, c->arena, all[i]);
        sandbox_put(s, all[i]);
    }
    return 0;
}

static int do_metric_descriptors(struct grpc_call *c, struct err *e) {
    struct cri_list_metric_descriptors_response *r = c->response;
    metrics_describe(c->arena, &r->descriptors);
    return 0;
}

static int do_sandbox_metrics(struct grpc_call *c, struct err *e) {
    struct cri_list_pod_sandbox_metrics_response *r = c->response;
    struct shim *s = c->arg;
    struct sandbox **all;
    size_t n;
    sandbox_all(s, c->arena, &all, &n);
    r->pod_metrics.items = arena_zalloc(c->arena, (n + 1) * sizeof(*r->pod_metrics.items));
    for (size_t i = 0; i < n; i++) {
        struct cri_pod_sandbox_metrics m = {0};
        if (all[i]->ready) {
            metrics_of_sandbox(s, c->arena, all[i], &m);
            r->pod_metrics.items[r->pod_metrics.n++] =
                *(struct cri_pod_sandbox_metrics *)api_clone(c->arena, &api_cri_pod_sandbox_metrics, &m);
        }
        sandbox_put(s, all[i]);
    }
    return 0;
}

/* ---- events ---- */

static int send_event(struct grpc_call *c, const struct event *ev, struct err *e) {
    struct shim *s = c->arg;
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_container_event_response m = {
        .container_id = ev->id, .container_event_type = ev->type, .created_at = ev->at_ns};
    struct sandbox *sb = sandbox_get(s, ev->sandbox, NULL);
    if (sb) {
        m.pod_sandbox_status = sandbox_status(s, a, sb);
        fill_container_statuses(s, a, sb->id, &m.containers_statuses);
    }
    sandbox_put(s, sb);
    return grpc_stream_send(c, &m, e);
}

static int do_get_container_events(struct grpc_call *c, struct err *e) {
    struct shim *s = c->arg;
    struct event batch[EVENT_BATCH];
    uint64_t seq = 0;
    while (!grpc_call_cancelled(c) && !s->stopping) {
        size_t n = event_wait(s, &seq, batch, EVENT_BATCH, EVENT_WAIT_MS);
        for (size_t i = 0; i < n; i++) {
            int r = send_event(c, &batch[i], e);
            if (r < 0) return grpc_call_cancelled(c) ? 0 : r; /* a listener that leaves is no failure */
        }
    }
    return 0;
}

#define RPC(name) &api_rpc_cri_runtime_service_##name
const struct grpc_method cri_runtime_methods[] = {
    {RPC(version), do_version},
    {RPC(status), do_status},
    {RPC(update_runtime_config), do_update_runtime_config},
    {RPC(runtime_config), do_runtime_config},
    {RPC(run_pod_sandbox), do_run_pod_sandbox},
    {RPC(stop_pod_sandbox), do_stop_pod_sandbox},
    {RPC(remove_pod_sandbox), do_remove_pod_sandbox},
    {RPC(pod_sandbox_status), do_pod_sandbox_status},
    {RPC(list_pod_sandbox), do_list_pod_sandbox},
    {RPC(update_pod_sandbox_resources), do_update_pod_sandbox_resources},
    {RPC(create_container), do_create_container},
    {RPC(start_container), do_start_container},
    {RPC(stop_container), do_stop_container},
    {RPC(remove_container), do_remove_container},
    {RPC(list_containers), do_list_containers},
    {RPC(container_status), do_container_status},
    {RPC(update_container_resources), do_update_container_resources},
    {RPC(reopen_container_log), do_reopen_container_log},
    {RPC(exec_sync), do_exec_sync},
    {RPC(exec), do_exec},
    {RPC(attach), do_attach},
    {RPC(port_forward), do_port_forward},
    {RPC(container_stats), do_container_stats},
    {RPC(list_container_stats), do_list_container_stats},
    {RPC(pod_sandbox_stats), do_pod_sandbox_stats},
    {RPC(list_pod_sandbox_stats), do_list_pod_sandbox_stats},
    {RPC(list_metric_descriptors), do_metric_descriptors},
    {RPC(list_pod_sandbox_metrics), do_sandbox_metrics},
    {RPC(get_container_events), do_get_container_events},
};
const size_t cri_runtime_methods_n = ARRAY_LEN(cri_runtime_methods);
