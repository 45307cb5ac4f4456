/* See runtime_fake.h. */
#include "kubelet/runtime_fake.h"

#include <pthread.h>

struct fake_container {
    struct fake_container *next;
    char *name, *pod;
    struct arena *arena;
    struct cri_container_config *config;
    struct cri_container c;
    struct cri_container_status st;
    bool removed;
};
struct fake_sandbox {
    struct fake_sandbox *next;
    struct arena *arena;
    struct cri_pod_sandbox sb;
    struct cri_pod_sandbox_config *config;
    char ip[32];
};
struct fake_event {
    struct fake_event *next;
    char uid[64];
    char *container_id;
    int32_t type;
};
struct fake_runtime {
    struct runtime base;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct fake_container *containers;
    struct fake_sandbox *sandboxes;
    struct fake_event *events, **events_tail;
    struct map_images {
        char **names;
        size_t n, cap;
    } images;
    unsigned calls[RT_METHODS], next_id;
    int fail[RT_METHODS];
    int32_t exec_code;
    bool stopping;
};

static int64_t now_ns(void) { return ktime_unix_ns(ktime_now()); }

static void emit(struct fake_runtime *f, const struct str_map *labels, const char *id, int32_t type) {
    struct fake_event *ev = xcalloc(1, sizeof(*ev));
    snprintf(ev->uid, sizeof(ev->uid), "%s", str_or_empty(str_map_get(labels, LABEL_POD_UID)));
    ev->container_id = xstrdup(id);
    ev->type = type;
    *f->events_tail = ev;
    f->events_tail = &ev->next;
    pthread_cond_broadcast(&f->wake);
}

static bool selected(const struct str_map *labels, const struct str_map *sel) {
    for (size_t i = 0; i < sel->n; i++)
        if (!str_eq(str_map_get(labels, sel->items[i].key), sel->items[i].value)) return false;
    return true;
}

static struct fake_container *container_by_id(struct fake_runtime *f, const char *id) {
    for (struct fake_container *c = f->containers; c; c = c->next)
        if (str_eq(c->c.id, id)) return c;
    return NULL;
}

static struct fake_sandbox *sandbox_by_id(struct fake_runtime *f, const char *id) {
    for (struct fake_sandbox *s = f->sandboxes; s; s = s->next)
        if (str_eq(s->sb.id, id)) return s;
    return NULL;
}

static void set_state(struct fake_container *c, int32_t state) { c->c.state = c->st.state = state; }

static void exit_container(struct fake_runtime *f, struct fake_container *c, int32_t code, const char *reason) {
    set_state(c, CRI_CONTAINER_STATE_CONTAINER_EXITED);
    c->st.exit_code = code;
    c->st.reason = reason ? arena_strdup(c->arena, reason) : code ? "Error" : "Completed";
    c->st.finished_at = now_ns();
    emit(f, &c->c.labels, c->c.id, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STOPPED_EVENT);
}

/* ---- sandboxes ---- */

static int run_sandbox(struct fake_runtime *f, struct arena *a, const struct cri_run_pod_sandbox_request *rq,
                       struct cri_run_pod_sandbox_response *resp) {
    struct fake_sandbox *s = xcalloc(1, sizeof(*s));
    s->arena = arena_new();
    s->config = api_clone(s->arena, &api_cri_pod_sandbox_config, rq->config);
    unsigned n = ++f->next_id;
    snprintf(s->ip, sizeof(s->ip), "10.%u.%u.%u", 64 + (n >> 16) % 64, (n >> 8) & 255, n & 255);
    s->sb = (struct cri_pod_sandbox){.id = arena_printf(s->arena, "sandbox-%u", n),
                                     .metadata = s->config->metadata,
                                     .state = CRI_POD_SANDBOX_STATE_SANDBOX_READY,
                                     .created_at = now_ns(),
                                     .labels = s->config->labels,
                                     .annotations = s->config->annotations};
    s->next = f->sandboxes;
    f->sandboxes = s;
    resp->pod_sandbox_id = arena_strdup(a, s->sb.id);
    return 0;
}

static int sandbox_status(struct fake_runtime *f, struct arena *a, const char *id,
                          struct cri_pod_sandbox_status_response *resp, struct err *e) {
    struct fake_sandbox *s = sandbox_by_id(f, id);
    if (!s) return err_set(e, -ENOENT, "no such sandbox %s", id);
    struct cri_pod_sandbox_status st = {.id = s->sb.id,
                                        .metadata = s->sb.metadata,
                                        .state = s->sb.state,
                                        .created_at = s->sb.created_at,
                                        .labels = s->sb.labels};
    struct cri_pod_sandbox_network_status net = {.ip = s->ip};
    struct cri_namespace_option none = {0};
    struct cri_namespace ns = {.options = &none};
    struct cri_linux_pod_sandbox_status lx = {.namespaces = &ns};
    if (s->config->linux && s->config->linux->security_context && s->config->linux->security_context->namespace_options)
        ns.options = s->config->linux->security_context->namespace_options;
    st.linux = &lx;
    if (ns.options->network != CRI_NAMESPACE_MODE_NODE && s->sb.state == CRI_POD_SANDBOX_STATE_SANDBOX_READY)
        st.network = &net;
    resp->status = api_clone(a, &api_cri_pod_sandbox_status, &st);
    return 0;
}

static void stop_sandbox(struct fake_runtime *f, struct fake_sandbox *s) {
    for (struct fake_container *c = f->containers; c; c = c->next)
        if (str_eq(c->c.pod_sandbox_id, s->sb.id) && c->c.state == CRI_CONTAINER_STATE_CONTAINER_RUNNING)
            exit_container(f, c, 137, "Error");
    s->sb.state = CRI_POD_SANDBOX_STATE_SANDBOX_NOTREADY;
    emit(f, &s->sb.labels, s->sb.id, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STOPPED_EVENT);
}

static void remove_sandbox(struct fake_runtime *f, const char *id) {
    for (struct fake_sandbox **at = &f->sandboxes; *at; at = &(*at)->next)
        if (str_eq((*at)->sb.id, id)) {
            struct fake_sandbox *s = *at;
            *at = s->next;
            arena_free(s->arena);
            free(s);
            return;
        }
}

static void list_sandboxes(struct fake_runtime *f, struct arena *a, const struct cri_list_pod_sandbox_request *rq,
                           struct cri_list_pod_sandbox_response *resp) {
    size_t cap = 0;
    for (struct fake_sandbox *s = f->sandboxes; s; s = s->next) {
        if (rq->filter && !selected(&s->sb.labels, &rq->filter->label_selector)) continue;
        ARENA_GROW(a, resp->items.items, resp->items.n, cap);
        struct cri_pod_sandbox *copy = api_clone(a, &api_cri_pod_sandbox, &s->sb);
        resp->items.items[resp->items.n++] = *copy;
    }
}

/* ---- containers ---- */

static int create_container(struct fake_runtime *f, struct arena *a, const struct cri_create_container_request *rq,
                            struct cri_create_container_response *resp, struct err *e) {
    struct fake_sandbox *s = sandbox_by_id(f, rq->pod_sandbox_id);
    if (!s || s->sb.state != CRI_POD_SANDBOX_STATE_SANDBOX_READY) return err_set(e, -ENOENT, "no such sandbox");
    struct fake_container *c = xcalloc(1, sizeof(*c));
    c->arena = arena_new();
    c->config = api_clone(c->arena, &api_cri_container_config, rq->config);
    const char *id = arena_printf(c->arena, "container-%u", ++f->next_id);
    c->c = (struct cri_container){.id = id,
                                  .pod_sandbox_id = arena_strdup(c->arena, rq->pod_sandbox_id),
                                  .metadata = c->config->metadata,
                                  .image = c->config->image,
                                  .image_ref = c->config->image->image,
                                  .created_at = now_ns(),
                                  .labels = c->config->labels,
                                  .annotations = c->config->annotations};
    c->st = (struct cri_container_status){.id = id,
                                          .metadata = c->config->metadata,
                                          .created_at = c->c.created_at,
                                          .image = c->config->image,
                                          .image_ref = c->config->image->image,
                                          .labels = c->config->labels,
                                          .annotations = c->config->annotations,
                                          .mounts = c->config->mounts,
                                          .log_path = c->config->log_path};
    c->next = f->containers;
    f->containers = c;
    resp->container_id = arena_strdup(a, id);
    return 0;
}

static void list_containers(struct fake_runtime *f, struct arena *a, const struct cri_list_containers_request *rq,
                            struct cri_list_containers_response *resp) {
    size_t cap = 0;
    for (struct fake_container *c = f->containers; c; c = c->next) {
        if (rq->filter && !selected(&c->c.labels, &rq->filter->label_selector)) continue;
        ARENA_GROW(a, resp->containers.items, resp->containers.n, cap);
        struct cri_container *copy = api_clone(a, &api_cri_container, &c->c);
        resp->containers.items[resp->containers.n++] = *copy;
    }
}

static void remove_container(struct fake_runtime *f, const char *id) {
    for (struct fake_container **at = &f->containers; *at; at = &(*at)->next)
        if (str_eq((*at)->c.id, id)) {
            struct fake_container *c = *at;
            *at = c->next;
            arena_free(c->arena);
            free(c);
            return;
        }
}

/* Calls that name a container by its id. */
static int container_call(struct fake_runtime *f, enum runtime_method m, struct arena *a, const void *req, void *resp,
                          struct err *e) {
    const char *id = *(const char *const *)req; /* container_id is the first field of all of them */
    struct fake_container *c = container_by_id(f, id);
    if (!c) return err_set(e, -ENOENT, "no such container %s", str_or_empty(id));
    if (m == RT_START_CONTAINER) {
        set_state(c, CRI_CONTAINER_STATE_CONTAINER_RUNNING);
        c->st.started_at = now_ns();
        emit(f, &c->c.labels, c->c.id, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STARTED_EVENT);
    } else if (m == RT_STOP_CONTAINER) {
        if (c->c.state == CRI_CONTAINER_STATE_CONTAINER_RUNNING) exit_container(f, c, 0, NULL);
    } else if (m == RT_REMOVE_CONTAINER) {
        remove_container(f, id);
    } else if (m == RT_CONTAINER_STATUS) {
        ((struct cri_container_status_response *)resp)->status = api_clone(a, &api_cri_container_status, &c->st);
    } else if (m == RT_EXEC_SYNC) {
        ((struct cri_exec_sync_response *)resp)->exit_code = f->exec_code;
    }
    return 0;
}

/* ---- images ---- */

static bool has_image(struct fake_runtime *f, const char *name) {
    for (size_t i = 0; i < f->images.n; i++)
        if (str_eq(f->images.names[i], name)) return true;
    return false;
}

static int image_call(struct fake_runtime *f, enum runtime_method m, struct arena *a, const void *req, void *resp,
                      struct err *e) {
    if (m == RT_IMAGE_STATUS) {
        const struct cri_image_status_request *rq = req;
        if (!has_image(f, rq->image->image)) return 0;
        struct cri_image *img = arena_zalloc(a, sizeof(*img));
        img->id = arena_strdup(a, rq->image->image);
        img->size = 1000;
        ((struct cri_image_status_response *)resp)->image = img;
    } else if (m == RT_PULL_IMAGE) {
        const struct cri_pull_image_request *rq = req;
        if (strstr(rq->image->image, "missing")) return err_set(e, -ENOENT, "%s: not found", rq->image->image);
        if (!has_image(f, rq->image->image)) {
            VEC_GROW(f->images.names, f->images.n, f->images.cap);
            f->images.names[f->images.n++] = xstrdup(rq->image->image);
        }
        ((struct cri_pull_image_response *)resp)->image_ref = arena_strdup(a, rq->image->image);
    }
    return 0;
}

static void status(struct arena *a, struct cri_status_response *resp) {
    struct cri_runtime_condition c[] = {{.type = "RuntimeReady", .status = true},
                                        {.type = "NetworkReady", .status = true}};
    resp->status = arena_zalloc(a, sizeof(*resp->status));
    resp->status->conditions.items = arena_memdup(a, c, sizeof(c));
    resp->status->conditions.n = ARRAY_LEN(c);
}

static int dispatch(struct fake_runtime *f, enum runtime_method m, struct arena *a, const void *req, void *resp,
                    struct err *e) {
    const char *first = req ? *(const char *const *)req : NULL;
    struct fake_sandbox *s;
    switch (m) {
        case RT_VERSION:
            *(struct cri_version_response *)resp = (struct cri_version_response){"0.1.0", "fake", "0.1.0", "v1"};
            return 0;
        case RT_STATUS: status(a, resp); return 0;
        case RT_RUN_POD_SANDBOX: return run_sandbox(f, a, req, resp);
        case RT_POD_SANDBOX_STATUS: return sandbox_status(f, a, first, resp, e);
        case RT_STOP_POD_SANDBOX:
            if ((s = sandbox_by_id(f, first))) stop_sandbox(f, s);
            return 0;
        case RT_REMOVE_POD_SANDBOX: remove_sandbox(f, first); return 0;
        case RT_LIST_POD_SANDBOX: list_sandboxes(f, a, req, resp); return 0;
        case RT_CREATE_CONTAINER: return create_container(f, a, req, resp, e);
        case RT_LIST_CONTAINERS: list_containers(f, a, req, resp); return 0;
        case RT_START_CONTAINER:
        case RT_STOP_CONTAINER:
        case RT_REMOVE_CONTAINER:
        case RT_CONTAINER_STATUS:
        case RT_EXEC_SYNC: return container_call(f, m, a, req, resp, e);
        case RT_EXEC:
        case RT_ATTACH:
        case RT_PORT_FORWARD: return err_set(e, -ENOSYS, "simulated containers have no processes");
        default: return image_call(f, m, a, req, resp, e);
    }
}

static int fake_call(struct runtime *base, enum runtime_method m, struct arena *a, const void *req, void *resp,
                     int64_t timeout_ns, struct err *e) {
    struct fake_runtime *f = CONTAINER_OF(base, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    f->calls[m]++;
    int r = f->fail[m] ? err_set(e, f->fail[m], "told to fail") : dispatch(f, m, a, req, resp, e);
    pthread_mutex_unlock(&f->lock);
    return r;
}

static int fake_events(struct runtime *base, runtime_event_fn *fn, void *arg, struct err *e) {
    struct fake_runtime *f = CONTAINER_OF(base, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    while (!f->stopping) {
        struct fake_event *ev = f->events;
        if (!ev) {
            pthread_cond_wait(&f->wake, &f->lock);
            continue;
        }
        f->events = ev->next;
        if (!f->events) f->events_tail = &f->events;
        pthread_mutex_unlock(&f->lock);
        struct cri_pod_sandbox_metadata md = {.uid = ev->uid};
        struct cri_pod_sandbox_status sb = {.metadata = &md};
        struct cri_container_event_response r = {
            .container_id = ev->container_id, .container_event_type = ev->type, .pod_sandbox_status = &sb};
        fn(arg, &r);
        free(ev->container_id);
        free(ev);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static void fake_shutdown(struct runtime *base) {
    struct fake_runtime *f = CONTAINER_OF(base, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_broadcast(&f->wake);
    pthread_mutex_unlock(&f->lock);
}

static void fake_free(struct runtime *base) {
    struct fake_runtime *f = CONTAINER_OF(base, struct fake_runtime, base);
    while (f->containers) remove_container(f, f->containers->c.id);
    while (f->sandboxes) remove_sandbox(f, f->sandboxes->sb.id);
    for (struct fake_event *ev = f->events, *next; ev; ev = next) {
        next = ev->next;
        free(ev->container_id);
        free(ev);
    }
    for (size_t i = 0; i < f->images.n; i++) free(f->images.names[i]);
    free(f->images.names);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static const struct runtime_ops fake_ops = {fake_call, fake_events, fake_shutdown, fake_free};

struct runtime *runtime_fake_new(void) {
    struct fake_runtime *f = xcalloc(1, sizeof(*f));
    f->base.ops = &fake_ops;
    f->events_tail = &f->events;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wake, NULL);
    return &f->base;
}

/* ---- what tests do to it ---- */

static struct fake_container *running(struct fake_runtime *f, const char *pod, const char *container) {
    for (struct fake_container *c = f->containers; c; c = c->next)
        if (str_eq(c->config->metadata->name, container) && str_eq(str_map_get(&c->c.labels, LABEL_POD_NAME), pod) &&
            c->c.state == CRI_CONTAINER_STATE_CONTAINER_RUNNING)
            return c;
    return NULL;
}

bool runtime_fake_exit(struct runtime *rt, const char *pod_name, const char *container, int32_t code,
                       const char *reason) {
    struct fake_runtime *f = CONTAINER_OF(rt, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    struct fake_container *c = running(f, pod_name, container);
    if (c) exit_container(f, c, code, reason);
    pthread_mutex_unlock(&f->lock);
    return c != NULL;
}

void runtime_fake_kill_sandbox(struct runtime *rt, const char *pod_name) {
    struct fake_runtime *f = CONTAINER_OF(rt, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    for (struct fake_sandbox *s = f->sandboxes; s; s = s->next)
        if (str_eq(s->sb.metadata->name, pod_name)) stop_sandbox(f, s);
    pthread_mutex_unlock(&f->lock);
}

void runtime_fake_fail(struct runtime *rt, enum runtime_method m, int code) {
    struct fake_runtime *f = CONTAINER_OF(rt, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    f->fail[m] = code;
    pthread_mutex_unlock(&f->lock);
}

unsigned runtime_fake_calls(struct runtime *rt, enum runtime_method m) {
    struct fake_runtime *f = CONTAINER_OF(rt, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    unsigned n = f->calls[m];
    pthread_mutex_unlock(&f->lock);
    return n;
}

unsigned runtime_fake_count(struct runtime *rt, const char *pod_name, const char *container) {
    struct fake_runtime *f = CONTAINER_OF(rt, struct fake_runtime, base);
    unsigned n = 0;
    pthread_mutex_lock(&f->lock);
    for (struct fake_container *c = f->containers; c; c = c->next)
        n +=
            str_eq(c->config->metadata->name, container) && str_eq(str_map_get(&c->c.labels, LABEL_POD_NAME), pod_name);
    pthread_mutex_unlock(&f->lock);
    return n;
}

void runtime_fake_exec_result(struct runtime *rt, int32_t code) {
    struct fake_runtime *f = CONTAINER_OF(rt, struct fake_runtime, base);
    pthread_mutex_lock(&f->lock);
    f->exec_code = code;
    pthread_mutex_unlock(&f->lock);
}
