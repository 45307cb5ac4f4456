/* CNI (spec 1.0): the first configuration in the folder (*.conflist, *.conf, *.json, by name) is run for each pod. The
 * plugins are programs: parameters in the environment, configuration with the previous result on stdin, result on
 * stdout. Corresponds to libcni. */
#include <netinet/in.h>

#include "fsutil.h"
#include "net.h"
#include "proc.h"

enum { CNI_TIMEOUT_MS = 60000, CNI_MAX_PLUGINS = 32, CNI_OUTPUT_MAX = 1 << 20 };

static const char *find_conf(struct arena *a, const char *dir) {
    static const char *const suffixes[] = {".conflist", ".conf", ".json"};
    const char **names;
    size_t n;
    if (str_empty(dir) || fs_list(a, dir, &names, &n) < 0) return NULL;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < ARRAY_LEN(suffixes); k++)
            if (str_has_suffix(names[i], suffixes[k])) return arena_printf(a, "%s/%s", dir, names[i]);
    return NULL;
}

bool cni_configured(const char *conf_dir) {
    if (str_empty(conf_dir) || access(conf_dir, F_OK) < 0) return false;
    _cleanup_arena_ struct arena *a = arena_new();
    return find_conf(a, conf_dir) != NULL;
}

static int load_conf(struct arena *a, const char *dir, struct json **list, struct err *e) {
    struct json *conf;
    const char *path = find_conf(a, dir);
    if (!path) return err_set(e, -ENOENT, "no CNI configuration in %s", dir);
    int r = fs_read_json(a, path, &conf, e);
    if (r < 0) return r;
    if (!json_get(conf, "plugins")) { /* a single plugin's */
        struct json *one = conf;
        conf = json_object(a);
        json_set_str(a, conf, "name", json_get_str(one, "name"));
        json_set_str(a, conf, "cniVersion", json_get_str(one, "cniVersion"));
        json_append(a, json_ensure_array(a, conf, "plugins"), one);
    }
    *list = conf;
    return 0;
}

static struct json *port_mappings(struct arena *a, const struct net_pod *p) {
    static const char *const names[] = {[IPPROTO_TCP] = "tcp", [IPPROTO_UDP] = "udp", [IPPROTO_SCTP] = "sctp"};
    struct json *out = json_array(a);
    for (size_t i = 0; i < p->n_ports; i++) {
        if (p->ports[i].host_port == 0) continue;
        struct json *m = json_object(a);
        json_set_int(a, m, "hostPort", p->ports[i].host_port);
        json_set_int(a, m, "containerPort", p->ports[i].container_port);
        json_set_str(a, m, "protocol", names[p->ports[i].protocol]);
        if (!str_empty(p->ports[i].host_ip)) json_set_str(a, m, "hostIP", p->ports[i].host_ip);
        json_append(a, out, m);
    }
    return out;
}

static int run_plugin(struct arena *a, const struct net_options *o, const char *command, const struct net_pod *p,
                      const struct json *list, const struct json *plugin, struct json *prev, struct json **result,
                      struct err *e) {
    struct json *conf = json_clone(a, plugin);
    const char *type = json_get_str(plugin, "type");
    if (!type || strchr(type, '/')) return err_set(e, -EINVAL, "CNI plugin without a type");
    json_set_str(a, conf, "name", json_get_str(list, "name"));
    json_set_str(a, conf, "cniVersion", json_get_str(list, "cniVersion"));
    if (json_get_bool(json_get(plugin, "capabilities"), "portMappings", false))
        json_set(a, json_ensure_object(a, conf, "runtimeConfig"), "portMappings", port_mappings(a, p));
    if (prev) json_set(a, conf, "prevResult", prev);
    const char *env[] = {
        arena_printf(a, "CNI_COMMAND=%s", command),
        arena_printf(a, "CNI_CONTAINERID=%s", p->id),
        arena_printf(a, "CNI_NETNS=%s/net", p->ns_dir),
        "CNI_IFNAME=eth0",
        arena_printf(a, "CNI_PATH=%s", o->cni_bin_dir),
        arena_printf(a,
                     "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;"
                     "K8S_POD_UID=%s",
                     p->namespace_, p->name, p->id, p->uid),
        NULL};
    const char *argv[] = {arena_printf(a, "%s/%s", o->cni_bin_dir, type), NULL};
    struct proc_opts po = {.argv = argv, .env = env, .in = -1, .out = -1, .err = -1};
    _cleanup_buf_ struct buf out = {.limit = CNI_OUTPUT_MAX};
    int r = proc_run(&po, json_text(a, conf), &out, NULL, CNI_TIMEOUT_MS, e);
    if (r < 0) return err_wrap(e, "CNI plugin %s", type);
    *result = NULL;
    if (out.len) json_parse(a, out.data, out.len, result, NULL, NULL);
    if (r == 0) return 0;
    const char *msg = json_get_str(*result, "msg"), *details = json_get_str(*result, "details");
    return err_set(e, -EIO, "CNI plugin %s %s: %s %s", type, command, msg ? msg : "failed", str_or_empty(details));
}

int cni_run(const struct net_options *o, bool add, const struct net_pod *p, char ip[NET_ADDR_MAX], struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *list = NULL, *prev = NULL, *result;
    int r = load_conf(a, o->cni_conf_dir, &list, e);
    if (r < 0) return add ? r : 0;
    const struct json *plugins = json_get(list, "plugins");
    size_t n = json_len(plugins);
    if (n == 0 || n > CNI_MAX_PLUGINS) return err_set(e, -EINVAL, "CNI configuration has %zu plugins", n);
    const char *cache = arena_printf(a, "%s/cni-%s.json", o->state, p->id); /* DEL gets ADD's result */
    if (!add) fs_read_json(a, cache, &prev, NULL);
    for (size_t i = 0; i < n; i++) {
        const struct json *plugin = json_item(plugins, add ? i : n - 1 - i); /* DEL in reverse order */
        int one = run_plugin(a, o, add ? "ADD" : "DEL", p, list, plugin, prev, &result, e);
        if (one < 0 && add) return one;
        if (one < 0 && r == 0) r = one;
        if (add) prev = result;
    }
    if (!add) {
        unlink(cache);
        return r;
    }
    const char *addr = json_get_str(json_item(json_get(prev, "ips"), 0), "address");
    if (!addr) return err_set(e, -EIO, "CNI plugins gave no address");
    snprintf(ip, NET_ADDR_MAX, "%.*s", (int)strcspn(addr, "/"), addr);
    return fs_write_json(cache, prev, false, e);
}
