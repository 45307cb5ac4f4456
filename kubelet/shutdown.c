/* See shutdown.h. */
#include "kubelet/shutdown.h"

#include <dlfcn.h>
#include <fcntl.h>

#include "kubelet/node.h"
#include "kubelet/pods.h"

enum { CRITICAL = 2000000000, POLL_MS = 100, STATUS_MS = 300, RETRY_S = 5 };
#define LOGIND "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"

/* The part of libsystemd that is used, by name. */
typedef struct sd_bus sd_bus;
typedef struct sd_bus_message sd_bus_message;
typedef int signal_fn(sd_bus_message *m, void *arg, void *error);
struct bus_api {
    int (*sd_bus_open_system)(sd_bus **bus);
    sd_bus *(*sd_bus_flush_close_unref)(sd_bus *bus);
    int (*sd_bus_call_method)(sd_bus *bus, const char *to, const char *path, const char *interface, const char *member,
                              void *error, sd_bus_message **reply, const char *types, ...);
    int (*sd_bus_message_read)(sd_bus_message *m, const char *types, ...);
    sd_bus_message *(*sd_bus_message_unref)(sd_bus_message *m);
    int (*sd_bus_match_signal)(sd_bus *bus, void **slot, const char *from, const char *path, const char *interface,
                               const char *member, signal_fn *fn, void *arg);
    int (*sd_bus_process)(sd_bus *bus, sd_bus_message **m);
    int (*sd_bus_wait)(sd_bus *bus, uint64_t usec);
    int (*sd_bus_get_property_trivial)(sd_bus *bus, const char *to, const char *path, const char *interface,
                                       const char *member, void *error, char type, void *out);
};
static const char *const bus_symbols[] = {
    "sd_bus_open_system",         "sd_bus_flush_close_unref", "sd_bus_call_method", "sd_bus_message_read",
    "sd_bus_message_unref",       "sd_bus_match_signal",      "sd_bus_process",     "sd_bus_wait",
    "sd_bus_get_property_trivial"};

struct shutdown {
    struct kubelet *kl;
    struct shutdown_group groups[SHUTDOWN_GROUPS_MAX];
    size_t n;
    _Atomic bool active, stopping, going_down; /* going_down: logind said so, the thread has yet to act */
    struct bus_api api;
    void *library;
    pthread_t thread;
    bool listening;
    int lock_fd; /* logind waits while it is open */
};

/* ---- groups ---- */

int shutdown_groups(const struct kubelet_config *c, struct shutdown_group out[SHUTDOWN_GROUPS_MAX]) {
    int n = 0;
    for (const char *s = str_or_empty(c->shutdown_by_priority); *s; n++) {
        char *end;
        if (n >= SHUTDOWN_GROUPS_MAX) return -EINVAL;
        long long priority = strtoll(s, &end, 10);
        if (end == s || *end != '=' || priority < INT32_MIN || priority > INT32_MAX) return -EINVAL;
        s = end + 1;
        out[n] = (struct shutdown_group){(int32_t)priority, strtoll(s, &end, 10)};
        if (end == s || (*end && *end != ',') || out[n].seconds < 0) return -EINVAL;
        for (int i = n; i > 0 && out[i - 1].priority > out[i].priority; i--) {
            struct shutdown_group t = out[i];
            out[i] = out[i - 1];
            out[i - 1] = t;
        }
        s = end + (*end == ',');
    }
    if (n || c->shutdown_ns <= 0) return n;
    int64_t critical = MIN_OF(c->shutdown_critical_ns, c->shutdown_ns);
    out[0] = (struct shutdown_group){0, (c->shutdown_ns - critical) / NS_PER_SEC};
    out[1] = (struct shutdown_group){CRITICAL, critical / NS_PER_SEC};
    return 2;
}

size_t shutdown_group_of(const struct shutdown_group *g, size_t n, int32_t priority) {
    size_t at = 0;
    while (at + 1 < n && priority >= g[at + 1].priority) at++;
    return at;
}

/* ---- ending pods ---- */

static int64_t own_grace(const struct core_pod *p) {
    return p->spec.termination_grace_period_seconds ? *p->spec.termination_grace_period_seconds : 30;
}

/* Tells the pods of one group to end. */
static size_t end_group(struct shutdown *s, size_t group, struct pod_worker **all, size_t n) {
    size_t told = 0;
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        const struct core_pod *p = o->obj;
        if (all[i]->state >= WORKER_TERMINATED) continue;
        if (shutdown_group_of(s->groups, s->n, p->spec.priority ? *p->spec.priority : 0) != group) continue;
        pods_evict(s->kl->pods, all[i]->uid, "Terminated", "Pod was terminated in response to imminent node shutdown.",
                   MIN_OF(own_grace(p), s->groups[group].seconds));
        told++;
    }
    return told;
}

static bool group_ended(struct shutdown *s, size_t group, struct pod_worker **all, size_t n) {
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        const struct core_pod *p = o->obj;
        if (all[i]->state < WORKER_TERMINATED &&
            shutdown_group_of(s->groups, s->n, p->spec.priority ? *p->spec.priority : 0) == group)
            return false;
    }
    return true;
}

bool shutdown_active(const struct shutdown *s) { return s && s->active; }

void shutdown_run(struct shutdown *s) {
    size_t n;
    if (!s) return;
    s->active = true;
    log_info("the node shuts down: ending its pods", NULL);
    if (s->kl->node) node_wake(s->kl->node);
    struct pod_worker **all = pods_all(s->kl->pods, &n);
    for (size_t g = 0; g < s->n; g++) {
        size_t told = end_group(s, g, all, n);
        int64_t end = mono_ns() + s->groups[g].seconds * NS_PER_SEC;
        while (told && !group_ended(s, g, all, n) && mono_ns() < end) usleep(POLL_MS * 1000);
        char count[32];
        snprintf(count, sizeof(count), "%zu", told);
        if (told) log_info("pods ended", "pods", count, NULL);
    }
    for (size_t i = 0; i < n; i++) worker_unref(all[i]);
    free(all);
    usleep(STATUS_MS * 1000); /* their last statuses are on their way */
}

/* ---- logind ---- */

static bool load_bus(struct shutdown *s) {
    void **slots = (void **)(void *)&s->api;
    s->library = dlopen("libsystemd.so.0", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; s->library && i < ARRAY_LEN(bus_symbols); i++)
        if (!(slots[i] = dlsym(s->library, bus_symbols[i]))) return false;
    return s->library != NULL;
}

static int on_prepare(sd_bus_message *m, void *arg, void *error) {
    struct shutdown *s = arg;
    int start = 0;
    if (s->api.sd_bus_message_read(m, "b", &start) < 0) return 0;
    if (start)
        s->going_down = true;
    else if (s->active) { /* it was called off */
        s->active = false;
        if (s->kl->node) node_wake(s->kl->node);
    }
    return 0;
}

/* A lock that keeps the machine up while its descriptor is open. */
static int take_lock(struct shutdown *s, sd_bus *bus) {
    sd_bus_message *reply = NULL;
    int fd = -1, r = s->api.sd_bus_call_method(bus, LOGIND, "Inhibit", NULL, &reply, "ssss", "shutdown", "kubelet",
                                               "Kubelet needs time to handle node shutdown", "delay");
    if (r < 0) return r;
    r = s->api.sd_bus_message_read(reply, "h", &fd);
    if (r >= 0) s->lock_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    s->api.sd_bus_message_unref(reply);
    return r < 0 ? r : s->lock_fd;
}

static void check_delay(struct shutdown *s, sd_bus *bus) {
    uint64_t have = 0, want = 0;
    for (size_t i = 0; i < s->n; i++) want += (uint64_t)s->groups[i].seconds * 1000000;
    char text[32];
    if (s->api.sd_bus_get_property_trivial(bus, LOGIND, "InhibitDelayMaxUSec", NULL, 't', &have) < 0 || have >= want)
        return;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)(have / 1000000));
    log_warn("logind waits for shutdowns less long than pods are given (InhibitDelayMaxSec in logind.conf)", "seconds",
             text, NULL);
}

/* One connection's life; returns when it breaks. */
static int listen_once(struct shutdown *s, bool *said) {
    sd_bus *bus = NULL;
    int r = s->api.sd_bus_open_system(&bus);
    if (r >= 0)
        r = s->api.sd_bus_match_signal(bus, NULL, NULL, "/org/freedesktop/login1", "org.freedesktop.login1.Manager",
                                       "PrepareForShutdown", on_prepare, s);
    if (r >= 0) r = take_lock(s, bus);
    if (r >= 0) {
        check_delay(s, bus);
        log_info("waiting for word of a shutdown from logind", NULL);
        *said = true;
    }
    while (r >= 0 && !s->stopping) {
        r = s->api.sd_bus_process(bus, NULL);
        if (s->going_down) {
            s->going_down = false;
            shutdown_run(s);
            close(s->lock_fd); /* now it may go down */
            s->lock_fd = -1;
        }
        if (r == 0) r = s->api.sd_bus_wait(bus, NS_PER_SEC / 1000);
    }
    if (s->lock_fd >= 0) close(s->lock_fd);
    s->lock_fd = -1;
    if (bus) s->api.sd_bus_flush_close_unref(bus);
    return r;
}

static void *logind_thread(void *arg) {
    struct shutdown *s = arg;
    bool said = false;
    while (!s->stopping) {
        int r = listen_once(s, &said);
        if (s->stopping) break;
        if (said) log_warn("the connection to logind broke", "error", strerror(-r), NULL);
        said = false;
        kubelet_sleep(s->kl, RETRY_S * NS_PER_SEC);
    }
    return NULL;
}

struct shutdown *shutdown_new(struct kubelet *kl) {
    struct shutdown_group groups[SHUTDOWN_GROUPS_MAX];
    int n = shutdown_groups(&kl->cfg, groups);
    if (n < 0) log_warn("shutdownGracePeriodByPodPriority cannot be read", "value", kl->cfg.shutdown_by_priority, NULL);
    if (n <= 0) return NULL;
    struct shutdown *s = xcalloc(1, sizeof(*s));
    s->kl = kl;
    s->n = (size_t)n;
    s->lock_fd = -1;
    memcpy(s->groups, groups, sizeof(groups));
    bool bus = access("/run/dbus/system_bus_socket", F_OK) == 0 || getenv("DBUS_SYSTEM_BUS_ADDRESS");
    if (bus && load_bus(s)) s->listening = kubelet_thread(&s->thread, logind_thread, s, false) == 0;
    return s;
}

void shutdown_free(struct shutdown *s) {
    if (!s) return;
    s->stopping = true;
    if (s->listening) pthread_join(s->thread, NULL);
    free(s);
}
