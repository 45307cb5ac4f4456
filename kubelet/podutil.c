/* See podutil.h. */
#include "kubelet/podutil.h"

struct core_container *container_of_ephemeral(struct arena *a, const struct core_ephemeral_container *ec) {
    struct core_container *c = arena_zalloc(a, sizeof(*c));
    c->name = ec->name;
    c->image = ec->image;
    c->command = ec->command;
    c->args = ec->args;
    c->working_dir = ec->working_dir;
    c->ports = ec->ports;
    c->env_from = ec->env_from;
    c->env = ec->env;
    c->resources = ec->resources;
    c->volume_mounts = ec->volume_mounts;
    c->volume_devices = ec->volume_devices;
    c->termination_message_path = ec->termination_message_path;
    c->termination_message_policy = ec->termination_message_policy;
    c->image_pull_policy = ec->image_pull_policy;
    c->security_context = ec->security_context;
    c->stdin = ec->stdin;
    c->stdin_once = ec->stdin_once;
    c->tty = ec->tty;
    return c;
}

const struct core_container *pod_container(const struct core_pod *p, const char *name, enum container_kind *kind) {
    for (size_t i = 0; i < p->spec.containers.n; i++)
        if (str_eq(p->spec.containers.items[i].name, name)) {
            if (kind) *kind = CONTAINER_MAIN;
            return &p->spec.containers.items[i];
        }
    for (size_t i = 0; i < p->spec.init_containers.n; i++)
        if (str_eq(p->spec.init_containers.items[i].name, name)) {
            if (kind) *kind = CONTAINER_INIT;
            return &p->spec.init_containers.items[i];
        }
    return NULL;
}

bool pod_has_regular_init(const struct core_pod *p) {
    for (size_t i = 0; i < p->spec.init_containers.n; i++)
        if (!container_is_sidecar(&p->spec.init_containers.items[i])) return true;
    return false;
}

bool phase_terminal(const char *phase) { return str_eq(phase, "Succeeded") || str_eq(phase, "Failed"); }

bool pod_is_critical(const struct core_pod *p) {
    if (pod_is_static(p) || pod_is_mirror(p)) return true;
    return p->spec.priority && *p->spec.priority >= 2000000000;
}

static struct quantity quantity_of(const struct str_map *m, const char *resource, bool *given) {
    struct quantity q = {0};
    const char *s = str_map_get(m, resource);
    *given = s && quantity_parse(s, &q) == 0;
    return q;
}

struct quantity container_resource(const struct core_container *c, const char *resource, bool limit, bool *given) {
    bool g;
    struct quantity q = quantity_of(limit ? &c->resources.limits : &c->resources.requests, resource, &g);
    /* A request that is not given is the limit (defaulting does this for API pods, static pods come without).
     */
    if (!g && !limit) q = quantity_of(&c->resources.limits, resource, &g);
    if (given) *given = g;
    return q;
}

struct quantity container_limit(const struct core_pod *p, const struct core_container *c, const char *resource) {
    bool given;
    struct quantity q = container_resource(c, resource, true, &given);
    return q.nano > 0 || !p->spec.resources ? q : quantity_of(&p->spec.resources->limits, resource, &given);
}

int64_t container_shares(const struct core_pod *p, const struct core_container *c) {
    bool given;
    struct quantity q = quantity_of(&c->resources.requests, "cpu", &given);
    return milli_to_shares(quantity_milli(given ? q : container_limit(p, c, "cpu")));
}

/* The sum over the containers alone. */
static struct quantity containers_resource(const struct core_pod *p, const char *resource, bool limit,
                                           bool *all_given) {
    struct quantity sum = {0}, sidecars = {0}, init_max = {0};
    bool all = true, g;
    for (size_t i = 0; i < p->spec.containers.n; i++) {
        sum = quantity_add(sum, container_resource(&p->spec.containers.items[i], resource, limit, &g));
        all &= g;
    }
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *c = &p->spec.init_containers.items[i];
        struct quantity q = container_resource(c, resource, limit, &g);
        all &= g;
        if (container_is_sidecar(c)) {
            sum = quantity_add(sum, q);
            sidecars = quantity_add(sidecars, q);
            q = sidecars;
        } else {
            q = quantity_add(q, sidecars);
        }
        if (quantity_cmp(q, init_max) > 0) init_max = q;
    }
    *all_given = all;
    return quantity_cmp(init_max, sum) > 0 ? init_max : sum;
}

struct quantity pod_resource(const struct core_pod *p, const char *resource, bool limit, bool *all_given) {
    bool all = false, o;
    struct quantity sum = {0}, over = quantity_of(&p->spec.overhead, resource, &o);
    if (p->spec.resources)
        sum = quantity_of(limit ? &p->spec.resources->limits : &p->spec.resources->requests, resource, &all);
    if (!all) sum = containers_resource(p, resource, limit, &all);
    if (o && (!limit || all)) sum = quantity_add(sum, over);
    if (all_given) *all_given = all;
    return sum;
}

struct qos_scan {
    bool any, guaranteed;
};

static void qos_requirements(struct qos_scan *s, const struct str_map *requests, const struct str_map *limits) {
    static const char *const resources[] = {"cpu", "memory"};
    for (size_t i = 0; i < ARRAY_LEN(resources); i++) {
        bool rg, lg;
        struct quantity r = quantity_of(requests, resources[i], &rg);
        struct quantity l = quantity_of(limits, resources[i], &lg);
        if (!rg && lg) r = l;
        if ((rg && r.nano > 0) || (lg && l.nano > 0)) s->any = true;
        if (!lg || l.nano == 0 || quantity_cmp(r, l) != 0) s->guaranteed = false;
    }
}

const char *pod_qos_class(const struct core_pod *p) {
    struct qos_scan s = {.guaranteed = true};
    if (p->spec.resources && (p->spec.resources->requests.n || p->spec.resources->limits.n)) {
        qos_requirements(&s, &p->spec.resources->requests, &p->spec.resources->limits);
    } else {
        for (size_t i = 0; i < p->spec.containers.n; i++)
            qos_requirements(&s, &p->spec.containers.items[i].resources.requests,
                             &p->spec.containers.items[i].resources.limits);
        for (size_t i = 0; i < p->spec.init_containers.n; i++)
            qos_requirements(&s, &p->spec.init_containers.items[i].resources.requests,
                             &p->spec.init_containers.items[i].resources.limits);
    }
    return !s.any ? "BestEffort" : s.guaranteed ? "Guaranteed" : "Burstable";
}

int64_t milli_to_shares(int64_t milli) {
    enum { MIN_SHARES = 2, MAX_SHARES = 262144 };
    if (milli <= 0) return MIN_SHARES;
    int64_t s = milli * 1024 / 1000;
    return s < MIN_SHARES ? MIN_SHARES : s > MAX_SHARES ? MAX_SHARES : s;
}

int64_t milli_to_quota(int64_t milli, int64_t period_us) {
    enum { MIN_QUOTA = 1000 };
    if (milli <= 0 || period_us <= 0) return 0;
    int64_t q = milli * period_us / 1000;
    return q < MIN_QUOTA ? MIN_QUOTA : q;
}

static int64_t memory_request(const struct core_container *c) {
    return quantity_value(container_resource(c, "memory", false, NULL));
}

/* A container's part of the memory that the pod asks for beyond what its containers do. */
static int64_t memory_share(const struct core_pod *p) {
    bool given = false;
    struct quantity own = {0};
    if (p->spec.resources) own = quantity_of(&p->spec.resources->requests, "memory", &given);
    if (!given || !own.nano) return 0;
    int64_t rest = quantity_value(own) - quantity_value(containers_resource(p, "memory", false, &given));
    return rest / (int64_t)(p->spec.containers.n + p->spec.init_containers.n);
}

/* A sidecar is not killed before the containers that it serves: it counts at least as much as the least of them. */
static int64_t memory_for_oom(const struct core_pod *p, const struct core_container *c) {
    int64_t own = memory_request(c);
    enum container_kind kind = CONTAINER_MAIN;
    pod_container(p, c->name, &kind);
    if (kind == CONTAINER_INIT && container_is_sidecar(c) && p->spec.containers.n) {
        int64_t least = memory_request(&p->spec.containers.items[0]);
        for (size_t i = 1; i < p->spec.containers.n; i++)
            least = MIN_OF(least, memory_request(&p->spec.containers.items[i]));
        own = MAX_OF(own, least);
    }
    return own + memory_share(p);
}

int oom_score_adj(const struct core_pod *p, const struct core_container *c, int64_t node_memory) {
    enum { GUARANTEED = -997, BEST_EFFORT = 1000 };
    if (pod_is_critical(p)) return GUARANTEED;
    const char *qos = pod_qos_class(p);
    if (str_eq(qos, "Guaranteed")) return GUARANTEED;
    if (str_eq(qos, "BestEffort")) return BEST_EFFORT;
    if (node_memory <= 0) return BEST_EFFORT - 1;
    int64_t adj = 1000 - (int64_t)((__int128)1000 * memory_for_oom(p, c) / node_memory);
    if (adj < 1000 + GUARANTEED) return 1000 + GUARANTEED;
    return adj == BEST_EFFORT ? BEST_EFFORT - 1 : (int)adj;
}

char *container_memory_request(struct arena *a, const struct core_container *c) {
    return arena_printf(a, "%lld", (long long)memory_request(c));
}

/* Where a change of the memory restarts the container, a change of the request does; no cgroup tells it. */
static bool request_changed(const struct core_container *c, const struct rt_container *rc) {
    for (size_t i = 0; rc->memory_request && i < c->resize_policy.n; i++) {
        const struct core_container_resize_policy *p = &c->resize_policy.items[i];
        if (str_eq(p->resource_name, "memory") && str_eq(p->restart_policy, "RestartContainer"))
            return memory_request(c) != strtoll(rc->memory_request, NULL, 10);
    }
    return false;
}

unsigned container_resize_due(const struct core_pod *p, const struct core_container *c, const struct rt_container *rc) {
    if (!rc->resources) return 0;
    unsigned due = 0;
    int64_t quota = milli_to_quota(quantity_milli(container_limit(p, c, "cpu")), rc->cfs_period_us);
    int64_t memory = quantity_value(container_limit(p, c, "memory"));
    if (rc->resources->cpu_shares != container_shares(p, c) || (quota > 0 && rc->resources->cpu_quota != quota))
        due |= RESIZE_CPU;
    if ((memory > 0 && rc->resources->memory_limit_in_bytes != memory) || request_changed(c, rc)) due |= RESIZE_MEMORY;
    return due;
}

bool containers_resize_due(const struct core_pod *p, const struct rt_pod *rt) {
    for (size_t i = 0; i < p->spec.containers.n + p->spec.init_containers.n; i++) {
        const struct core_container *c = i < p->spec.containers.n
                                             ? &p->spec.containers.items[i]
                                             : &p->spec.init_containers.items[i - p->spec.containers.n];
        const struct rt_container *rc = rt_pod_find(rt, c->name, 0);
        if (rc && rc->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING && container_resize_due(p, c, rc)) return true;
    }
    return false;
}

char *container_hash(struct arena *a, const struct core_container *c) {
    uint64_t h = 0xcbf29ce484222325u;
    const char *parts[] = {c->name, c->image};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        for (const char *s = str_or_empty(parts[i]); *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
        h = (h ^ 0xff) * 0x100000001b3u;
    }
    return arena_printf(a, "%016llx", (unsigned long long)h);
}

const char *container_restart_policy(const struct core_pod *p, const struct core_container *c) {
    if (!str_empty(c->restart_policy)) return c->restart_policy;
    return str_empty(p->spec.restart_policy) ? "Always" : p->spec.restart_policy;
}

/* The first rule that the exit code matches; NULL: none. Rules count only beside a policy of the container's own. */
static const struct core_container_restart_rule *rule_for(const struct core_container *c, int32_t code) {
    for (size_t i = 0; !str_empty(c->restart_policy) && i < c->restart_policy_rules.n; i++) {
        const struct core_container_restart_rule *rule = &c->restart_policy_rules.items[i];
        if (!rule->exit_codes) continue;
        bool in = false;
        for (size_t k = 0; k < rule->exit_codes->values.n; k++) in |= rule->exit_codes->values.items[k] == code;
        if (str_eq(rule->exit_codes->operator, "In") ? in : str_eq(rule->exit_codes->operator, "NotIn") && !in)
            return rule;
    }
    return NULL;
}

enum restart_action container_restart_action(const struct core_pod *p, const struct core_container *c, int32_t code) {
    const struct core_container_restart_rule *rule = rule_for(c, code);
    if (rule && str_eq(rule->action, "Restart")) return RESTART_CONTAINER;
    if (rule && str_eq(rule->action, "RestartAllContainers")) return RESTART_ALL;
    const char *policy = container_restart_policy(p, c);
    bool again = str_eq(policy, "OnFailure") ? code != 0 : !str_eq(policy, "Never");
    return again ? RESTART_CONTAINER : RESTART_NONE;
}

bool container_should_restart(const struct core_pod *p, const struct core_container *c,
                              const struct rt_container *last) {
    if (pod_deleting(p)) return false;
    if (!last) return true;
    if (last->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING) return false;
    if (last->state != CRI_CONTAINER_STATE_CONTAINER_EXITED) return true;
    return container_restart_action(p, c, last->exit_code) != RESTART_NONE;
}

bool pod_may_restart_all(const struct core_pod *p) {
    for (size_t i = 0; i < p->spec.containers.n + p->spec.init_containers.n; i++) {
        const struct core_container *c = i < p->spec.containers.n
                                             ? &p->spec.containers.items[i]
                                             : &p->spec.init_containers.items[i - p->spec.containers.n];
        for (size_t k = 0; k < c->restart_policy_rules.n; k++)
            if (str_eq(c->restart_policy_rules.items[k].action, "RestartAllContainers")) return true;
    }
    return false;
}

char *pod_desc(struct arena *a, const struct core_pod *p) {
    return arena_printf(a, "%s_%s(%s)", p->metadata.name, p->metadata.namespace, p->metadata.uid);
}
