/* The CPUs that containers run on: as they are made, and as what is shared changes. A thread compares what runs with what
 * should be: when something was given away or taken back, and every cpuManagerReconcilePeriod. Upstream: cpu_manager.go
 * (reconcileState). */
#include <time.h>

#include "kubelet/cm/cm_internal.h"

void cm_container(struct cm *c, struct arena *a, const struct core_pod *p, const struct core_container *of,
                  struct cri_linux_container_resources *r) {
    if (!c || !c->machine) return;
    pthread_mutex_lock(&c->lock);
    struct cpuset cpus = cpu_manager_cpus(c->cpu, p->metadata.uid, of->name),
                  own = cpu_manager_own(c->cpu, p->metadata.uid, of->name),
                  nodes = {{memory_manager_nodes(c->memory, p->metadata.uid, of->name)}};
    pthread_mutex_unlock(&c->lock);
    if (!cpuset_empty(&cpus)) r->cpuset_cpus = cpuset_text(a, &cpus);
    if (!cpuset_empty(&nodes)) r->cpuset_mems = cpuset_text(a, &nodes);
    if (!cpuset_empty(&own)) r->cpu_quota = -1;
}

bool cm_exclusive(struct cm *c, const char *uid, const char *container) {
    if (!c || !c->cpu_exclusive) return false;
    struct cpuset own = cm_own_cpus(c, uid, container);
    return !cpuset_empty(&own);
}

struct cpuset cm_own_cpus(struct cm *c, const char *uid, const char *container) {
    if (!c || !c->machine) return (struct cpuset){0};
    pthread_mutex_lock(&c->lock);
    struct cpuset own = cpu_manager_own(c->cpu, uid, container);
    pthread_mutex_unlock(&c->lock);
    return own;
}

struct cpuset cm_allocatable_cpus(struct cm *c) {
    if (!c || !c->machine) return (struct cpuset){0};
    pthread_mutex_lock(&c->lock);
    struct cpuset all = cpu_manager_allocatable(c->cpu);
    pthread_mutex_unlock(&c->lock);
    return all;
}

struct memory_block *cm_memory(struct cm *c, struct arena *a, const char *uid, const char *container, size_t *n) {
    *n = 0;
    if (!c || !c->machine) return NULL;
    pthread_mutex_lock(&c->lock);
    struct memory_block *blocks = memory_manager_blocks(c->memory, a, uid, container, n);
    pthread_mutex_unlock(&c->lock);
    return blocks;
}

struct memory_block *cm_allocatable_memory(struct cm *c, struct arena *a, size_t *n) {
    *n = 0;
    if (!c || !c->machine) return NULL;
    pthread_mutex_lock(&c->lock);
    struct memory_block *blocks = memory_manager_allocatable(c->memory, a, n);
    pthread_mutex_unlock(&c->lock);
    return blocks;
}

void cm_started(struct cm *c, const struct core_pod *p, const char *container, const char *id, const char *cpus) {
    if (!c || !c->cpu_exclusive) return;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&c->lock);
    struct cpuset now = cpu_manager_cpus(c->cpu, p->metadata.uid, container);
    free(map_put(&c->moved, id, xstrdup(str_or_empty(cpus))));
    if (!str_eq(cpuset_text(a, &now), cpus)) { /* they changed while it was being made */
        c->dirty = true;
        pthread_cond_broadcast(&c->wake);
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- moving ---- */

static bool move(struct cm *c, struct arena *a, const struct cri_container *x, const char *cpus) {
    struct cri_linux_container_resources r = {.cpuset_cpus = cpus};
    struct cri_update_container_resources_request rq = {.container_id = x->id, .linux = &r};
    struct cri_update_container_resources_response rs = {0};
    _cleanup_err_ struct err e = {0};
    int rc = runtime_call(c->kl->rt, RT_UPDATE_CONTAINER_RESOURCES, a, &rq, &rs, &e);
    if (rc < 0 && rc != -ENOENT)
        log_warn("cannot move a container to other CPUs", "container", x->id, "cpus", cpus, "error", e.msg, NULL);
    return rc == 0;
}

/* Where a container should run; NULL: it does already. */
static const char *should_run(struct cm *c, struct arena *a, const struct cri_container *x) {
    const char *uid = str_map_get(&x->labels, LABEL_POD_UID), *name = str_map_get(&x->labels, LABEL_CONTAINER_NAME);
    if (!uid || !name) return NULL;
    pthread_mutex_lock(&c->lock);
    struct cpuset cpus = cpu_manager_cpus(c->cpu, uid, name);
    const char *text = cpuset_text(a, &cpus);
    bool there = str_eq(text, map_get(&c->moved, x->id));
    pthread_mutex_unlock(&c->lock);
    return there || !*text ? NULL : text;
}

/* Those that run no more need not be remembered. */
static void forget_ended(struct cm *c, const struct cri_list_containers_response *list) {
    struct map now = MAP_INIT;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < list->containers.n; i++) {
        const char *id = list->containers.items[i].id;
        char *text = map_del(&c->moved, id);
        if (text) map_put(&now, id, text);
    }
    map_done_with(&c->moved, free);
    c->moved = now;
    pthread_mutex_unlock(&c->lock);
}

static bool move_all(struct cm *c) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_container_state_value running = {.state = CRI_CONTAINER_STATE_CONTAINER_RUNNING};
    struct cri_container_filter filter = {.state = &running};
    struct cri_list_containers_request rq = {.filter = &filter};
    struct cri_list_containers_response list = {0};
    bool ok = true;
    if (runtime_call(c->kl->rt, RT_LIST_CONTAINERS, a, &rq, &list, NULL) < 0) return false;
    for (size_t i = 0; i < list.containers.n && !c->kl->stopping; i++) {
        const struct cri_container *x = &list.containers.items[i];
        const char *cpus = should_run(c, a, x);
        if (!cpus) continue;
        if (!move(c, a, x, cpus)) {
            ok = false;
            continue;
        }
        pthread_mutex_lock(&c->lock);
        free(map_put(&c->moved, x->id, xstrdup(cpus)));
        pthread_mutex_unlock(&c->lock);
    }
    forget_ended(c, &list);
    return ok;
}

void *cm_move_thread(void *arg) {
    struct cm *c = arg;
    pthread_mutex_lock(&c->lock);
    while (!c->stopping) {
        c->dirty = false;
        pthread_mutex_unlock(&c->lock);
        move_all(c);
        pthread_mutex_lock(&c->lock);
        int64_t end = mono_ns() + c->kl->cfg.cpu_reconcile_ns;
        struct timespec ts = {(time_t)(end / NS_PER_SEC), (long)(end % NS_PER_SEC)};
        while (!c->dirty && !c->stopping && mono_ns() < end) pthread_cond_timedwait(&c->wake, &c->lock, &ts);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}
