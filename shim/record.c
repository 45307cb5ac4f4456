/* Records: what the shim must know after its own death, one JSON file an object. CRI's configurations are stored as
 * they came, by their descriptors. */
#include "shim.h"

struct sandbox *sandbox_alloc(struct shim *s, const char *id) {
    struct sandbox *sb = xcalloc(1, sizeof(*sb));
    snprintf(sb->id, sizeof(sb->id), "%s", id);
    sb->refs = 1;
    sb->arena = arena_new();
    sb->dir = arena_printf(sb->arena, "%s/sandboxes/%s", s->cfg.root, id);
    sb->state_dir = arena_printf(sb->arena, "%s/sandboxes/%s", s->cfg.state, id);
    pthread_mutex_init(&sb->op, NULL);
    return sb;
}

struct container *container_alloc(struct shim *s, const char *id) {
    struct container *c = xcalloc(1, sizeof(*c));
    snprintf(c->id, sizeof(c->id), "%s", id);
    c->refs = 1;
    c->arena = arena_new();
    c->dir = arena_printf(c->arena, "%s/containers/%s", s->cfg.root, id);
    c->bundle = arena_printf(c->arena, "%s/containers/%s", s->cfg.state, id);
    c->rootfs = arena_printf(c->arena, "%s/rootfs", c->bundle);
    c->reason = "";
    pthread_mutex_init(&c->op, NULL);
    return c;
}

/* Pids mean something only within one boot: a start time may come again after the next. */
static void boot_id(char out[64]) {
    if (fs_read_str("/proc/sys/kernel/random/boot_id", out, 64) < 0) out[0] = 0;
}

static bool same_boot(const struct json *o) {
    char boot[64];
    boot_id(boot);
    return str_eq(json_get_str(o, "boot"), boot);
}

int sandbox_save(struct shim *s, struct sandbox *sb, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *o = json_object(a);
    char boot[64];
    boot_id(boot);
    json_set_str(a, o, "boot", boot);
    pthread_mutex_lock(&s->lock);
    json_set_str(a, o, "id", sb->id);
    json_set_int(a, o, "createdAt", sb->created_at);
    json_set_bool(a, o, "ready", sb->ready);
    json_set_str(a, o, "ip", sb->ip);
    json_set_str(a, o, "handler", str_or_empty(sb->handler));
    json_set_int(a, o, "pausePid", sb->pause_pid);
    json_set_int(a, o, "pauseStart", (int64_t)sb->pause_start);
    json_set(a, o, "config", api_to_tree(a, &api_cri_pod_sandbox_config, sb->config));
    pthread_mutex_unlock(&s->lock);
    return fs_write_json(arena_printf(a, "%s/record.json", sb->dir), o, false, e);
}

struct sandbox *sandbox_load(struct shim *s, const char *id, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct sandbox *sb = sandbox_alloc(s, id);
    struct json *o;
    struct cri_pod_sandbox_config *config = arena_zalloc(sb->arena, sizeof(*config));
    int r = fs_read_json(a, arena_printf(a, "%s/record.json", sb->dir), &o, e);
    if (r == 0) r = api_from_tree(sb->arena, &api_cri_pod_sandbox_config, json_get(o, "config"), config, e);
    if (r == 0 && (!config->metadata || !str_eq(json_get_str(o, "id"), id))) r = err_set(e, -EINVAL, "bad record");
    if (r < 0) {
        sandbox_put(s, sb);
        return NULL;
    }
    sb->config = config;
    sb->handler = arena_strdup(sb->arena, json_get_str(o, "handler"));
    sb->created_at = json_get_int(o, "createdAt", 0);
    sb->ready = json_get_bool(o, "ready", false);
    sb->detached = !sb->ready;
    snprintf(sb->ip, sizeof(sb->ip), "%s", str_or_empty(json_get_str(o, "ip")));
    sb->pause_pid = same_boot(o) ? (pid_t)json_get_int(o, "pausePid", 0) : 0;
    sb->pause_start = (uint64_t)json_get_int(o, "pauseStart", 0);
    return sb;
}

static struct json *strings(struct arena *a, const char *const *v, size_t n) {
    struct json *out = json_array(a);
    for (size_t i = 0; i < n; i++) json_append(a, out, json_str(a, v[i]));
    return out;
}

/* Reasons are constants, so that they need no owner. */
static const char *const reasons[] = {"", "Completed", "Error", "OOMKilled", "StartError", "Unknown"};

int container_save(struct shim *s, struct container *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *o = json_object(a), *groups = json_array(a);
    char boot[64];
    boot_id(boot);
    json_set_str(a, o, "boot", boot);
    pthread_mutex_lock(&s->lock);
    const struct {
        const char *key;
        int64_t v;
    } numbers[] = {{"createdAt", c->created_at},
                   {"startedAt", c->started_at},
                   {"finishedAt", c->finished_at},
                   {"exitCode", c->exit_code},
                   {"state", c->state},
                   {"pid", c->proc.pid},
                   {"pidStart", (int64_t)c->proc.pid_start},
                   {"monitor", c->proc.monitor},
                   {"monitorStart", (int64_t)c->proc.monitor_start},
                   {"stopSignal", c->stop_signal},
                   {"uid", c->user.uid},
                   {"gid", c->user.gid}};
    const char *const texts[][2] = {{"id", c->id},
                                    {"sandbox", c->sandbox->id},
                                    {"reason", c->reason},
                                    {"message", c->message},
                                    {"logPath", c->log_path},
                                    {"cgroup", c->cgroup},
                                    {"imageID", c->image_id},
                                    {"imageRef", c->image_ref}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) json_set_str(a, o, texts[i][0], str_or_empty(texts[i][1]));
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) json_set_int(a, o, numbers[i].key, numbers[i].v);
    for (size_t i = 0; i < c->user.groups.n; i++) json_append(a, groups, json_int(a, c->user.groups.items[i]));
    json_set(a, o, "groups", groups);
    json_set(a, o, "layers", strings(a, c->layers, c->n_layers));
    if (c->resources) json_set(a, o, "resources", api_to_tree(a, &api_cri_linux_container_resources, c->resources));
    json_set(a, o, "config", api_to_tree(a, &api_cri_container_config, c->config));
    pthread_mutex_unlock(&s->lock);
    return fs_write_json(arena_printf(a, "%s/record.json", c->dir), o, false, e);
}

static void load_numbers(struct container *c, const struct json *o) {
    c->created_at = json_get_int(o, "createdAt", 0);
    c->started_at = json_get_int(o, "startedAt", 0);
    c->finished_at = json_get_int(o, "finishedAt", 0);
    c->exit_code = (int32_t)json_get_int(o, "exitCode", 0);
    c->state = (int32_t)json_get_int(o, "state", 0);
    c->proc.pid = (pid_t)json_get_int(o, "pid", 0);
    c->proc.pid_start = (uint64_t)json_get_int(o, "pidStart", 0);
    c->proc.monitor = (pid_t)json_get_int(o, "monitor", 0);
    c->proc.monitor_start = (uint64_t)json_get_int(o, "monitorStart", 0);
    if (!same_boot(o)) c->proc = (struct runtime_proc){0};
    c->stop_signal = (int)json_get_int(o, "stopSignal", 15);
    c->user.uid = (uint32_t)json_get_int(o, "uid", 0);
    c->user.gid = (uint32_t)json_get_int(o, "gid", 0);
}

static int load_fields(struct container *c, const struct json *o, struct err *e) {
    struct arena *a = c->arena;
    struct cri_container_config *config = arena_zalloc(a, sizeof(*config));
    int r = api_from_tree(a, &api_cri_container_config, json_get(o, "config"), config, e);
    if (r < 0) return r;
    c->config = config;
    load_numbers(c, o);
    const char *log = json_get_str(o, "logPath");
    c->log_path = str_empty(log) ? NULL : arena_strdup(a, log);
    c->cgroup = arena_strdup(a, json_get_str(o, "cgroup"));
    c->image_id = arena_strdup(a, json_get_str(o, "imageID"));
    c->image_ref = arena_strdup(a, json_get_str(o, "imageRef"));
    c->layers = json_str_array(a, json_get(o, "layers"), &c->n_layers);
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (str_eq(reasons[i], json_get_str(o, "reason"))) c->reason = reasons[i];
    snprintf(c->message, sizeof(c->message), "%s", str_or_empty(json_get_str(o, "message")));
    const struct json *groups = json_get(o, "groups"), *res = json_get(o, "resources");
    c->user.groups.items = arena_alloc(a, (json_len(groups) + 1) * sizeof(int64_t));
    c->user.groups.n = json_len(groups);
    for (size_t i = 0; i < json_len(groups); i++) c->user.groups.items[i] = json_as_int(json_item(groups, i), 0);
    struct cri_linux_container_resources *resources = arena_zalloc(a, sizeof(*resources));
    if (!res) return 0;
    c->resources = resources;
    return api_from_tree(a, &api_cri_linux_container_resources, res, resources, e);
}

struct container *container_load(struct shim *s, const char *id, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct container *c = container_alloc(s, id);
    struct json *o = NULL;
    int r = fs_read_json(a, arena_printf(a, "%s/record.json", c->dir), &o, e);
    if (r == 0) r = load_fields(c, o, e);
    if (r == 0 && (!c->config->metadata || !str_eq(json_get_str(o, "id"), id))) r = err_set(e, -EINVAL, "bad record");
    if (r == 0 && !(c->sandbox = sandbox_get(s, json_get_str(o, "sandbox"), e))) r = -ENOENT;
    if (r == 0) return c;
    container_put(s, c);
    return NULL;
}
