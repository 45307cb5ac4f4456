/* Where a client's configuration comes from: a kubeconfig file's current context, or the files a pod is
 * given. */
#include <pthread.h>

#include "client.h"
#include "pkg/base/bytes.h"
#include "pkg/yaml/yaml.h"

enum { KUBECONFIG_MAX = 4 * 1024 * 1024, SA_FILE_MAX = 64 * 1024 };
#define SA_DIR "/var/run/secrets/kubernetes.io/serviceaccount"

/* The element of a list of {name, ...} that has the name. */
static struct json *named(const struct json *list, const char *name) {
    struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_get_str(it, "name"), name)) return it;
    return NULL;
}

/* A path in a kubeconfig is relative to the file's folder. */
static const char *resolve(struct arena *a, const char *config, const char *path) {
    const char *slash = strrchr(config, '/');
    if (str_empty(path)) return NULL;
    if (path[0] == '/' || !slash) return arena_strdup(a, path);
    return arena_printf(a, "%.*s/%s", (int)(slash - config), config, path);
}

static int decode(struct arena *a, const struct json *obj, const char *key, const char **out, struct err *e) {
    const char *s = json_get_str(obj, key);
    *out = NULL;
    if (str_empty(s)) return 0;
    size_t n = strlen(s);
    char *text = arena_alloc(a, n / 4 * 3 + 4);
    if (base64_decode(s, n, text, &n) < 0) return err_set(e, -EINVAL, "%s is not base64", key);
    text[n] = 0;
    *out = text;
    return 0;
}

int client_config_from_tree(struct arena *a, const char *path, struct json *doc, struct client_config *out,
                            struct err *e) {
    const char *current = json_get_str(doc, "current-context");
    struct json *ctx = json_get(named(json_get(doc, "contexts"), str_or_empty(current)), "context");
    if (!ctx) return err_set(e, -EINVAL, "no context \"%s\"", str_or_empty(current));
    struct json *cluster = json_get(named(json_get(doc, "clusters"), json_get_str(ctx, "cluster")), "cluster");
    struct json *user = json_get(named(json_get(doc, "users"), json_get_str(ctx, "user")), "user");
    if (!cluster) return err_set(e, -EINVAL, "no cluster \"%s\"", str_or_empty(json_get_str(ctx, "cluster")));
    out->server = arena_strdup(a, json_get_str(cluster, "server"));
    out->ca_file = resolve(a, path, json_get_str(cluster, "certificate-authority"));
    out->insecure_skip_tls_verify = json_get_bool(cluster, "insecure-skip-tls-verify", false);
    out->tls_server_name = arena_strdup(a, json_get_str(cluster, "tls-server-name"));
    out->cert_file = resolve(a, path, json_get_str(user, "client-certificate"));
    out->key_file = resolve(a, path, json_get_str(user, "client-key"));
    out->token = arena_strdup(a, json_get_str(user, "token"));
    out->token_file = resolve(a, path, json_get_str(user, "tokenFile"));
    if (json_get(user, "exec") || json_get(user, "auth-provider"))
        return err_set(e, -ENOTSUP, "credential plugins are not supported");
    int r = decode(a, cluster, "certificate-authority-data", &out->ca_data, e);
    if (r == 0) r = decode(a, user, "client-certificate-data", &out->cert_data, e);
    if (r == 0) r = decode(a, user, "client-key-data", &out->key_data, e);
    return r;
}

int client_config_from_kubeconfig(struct arena *a, const char *path, struct client_config *out, struct err *e) {
    struct json *doc = NULL;
    *out = (struct client_config){0};
    int r = yaml_read_file(a, path, KUBECONFIG_MAX, &doc, e);
    if (r < 0) return r;
    r = client_config_from_tree(a, path, doc, out, e);
    return r < 0 ? err_wrap(e, "%s", path) : 0;
}

int client_new_from_kubeconfig(const char *path, const struct client_config *base, struct client **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct client_config cfg;
    int r = client_config_from_kubeconfig(a, path, &cfg, e);
    if (r < 0) return r;
    if (base) {
        cfg.user_agent = base->user_agent;
        cfg.timeout_ms = base->timeout_ms;
        cfg.max_in_flight = base->max_in_flight;
        cfg.http1 = base->http1;
    }
    return client_new(&cfg, out, e);
}

int client_config_in_cluster(struct arena *a, struct client_config *out, struct err *e) {
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    if (str_empty(host) || str_empty(port) || access(SA_DIR "/token", R_OK) != 0)
        return err_set(e, -ENOENT, "not in a cluster: no service account files or KUBERNETES_SERVICE_HOST");
    bool v6 = strchr(host, ':') != NULL;
    *out = (struct client_config){
        .server = arena_printf(a, v6 ? "https://[%s]:%s" : "https://%s:%s", host, port),
        .ca_file = SA_DIR "/ca.crt",
        .token_file = SA_DIR "/token",
    };
    return 0;
}
