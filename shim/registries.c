#include "registries.h"

#include "pkg/base/util.h"
#include "pkg/yaml/yaml.h"

enum { REGISTRIES_FILE_MAX = 1 << 20 };

static bool is_local(const char *host) {
    return str_has_prefix(host, "localhost:") || str_eq(host, "localhost") || str_has_prefix(host, "127.") ||
           str_has_prefix(host, "[::1]");
}

static bool is_insecure(const char *list, const char *host) {
    size_t n = strlen(host);
    for (const char *l = str_or_empty(list); *l;) {
        size_t len = strcspn(l, ", ");
        if (len == n && memcmp(l, host, n) == 0) return true;
        l += len;
        l += strspn(l, ", ");
    }
    return is_local(host);
}

static int load(struct arena *a, const char *path, struct json **out, struct err *e) {
    *out = NULL;
    if (str_empty(path) || access(path, F_OK) < 0) return 0;
    int r = yaml_read_file(a, path, REGISTRIES_FILE_MAX, out, e);
    if (r < 0) return r;
    if (json_is(*out, JSON_NULL)) *out = NULL;
    if (*out && !json_is(*out, JSON_OBJECT)) return err_set(e, -EINVAL, "%s: mirrors and configs expected", path);
    return 0;
}

/* "https://h:1/x" is "h:1" */
static const char *host_of(struct arena *a, const char *url) {
    const char *s = strstr(url, "://");
    s = s ? s + 3 : url;
    return arena_strndup(a, s, strcspn(s, "/"));
}

static int configure(struct arena *a, const struct json *file, const char *host, struct registry_endpoint *ep,
                     struct err *e) {
    const struct json *configs = json_get(file, "configs"), *c = json_get(configs, host);
    if (!c) c = json_get(configs, "*");
    const struct json *auth = json_get(c, "auth"), *tls = json_get(c, "tls");
    if ((auth && !json_is(auth, JSON_OBJECT)) || (tls && !json_is(tls, JSON_OBJECT)))
        return err_set(e, -EINVAL, "registries: configs[%s]: auth and tls are maps", host);
    ep->username = json_get_str(auth, "username");
    ep->password = json_get_str(auth, "password");
    ep->auth = json_get_str(auth, "auth");
    ep->identity_token = json_get_str(auth, "identity_token");
    ep->ca_file = json_get_str(tls, "ca_file");
    ep->cert_file = json_get_str(tls, "cert_file");
    ep->key_file = json_get_str(tls, "key_file");
    ep->skip_verify = json_get_bool(tls, "insecure_skip_verify", false);
    return 0;
}

/* An endpoint's address as it is written: a path of its own replaces /v2. */
static int add_mirror(struct arena *a, const struct json *file, const char *url, const char *ns,
                      struct registry_endpoint *out, size_t *n, struct err *e) {
    if (!str_has_prefix(url, "http://") && !str_has_prefix(url, "https://"))
        return err_set(e, -EINVAL, "registries: endpoint \"%s\" of %s should start with http:// or https://", url, ns);
    if (*n == REGISTRY_ENDPOINTS_MAX - 1) return err_set(e, -E2BIG, "registries: %s has too many endpoints", ns);
    const char *rest = strstr(url, "://") + 3, *path = strchr(rest, '/');
    size_t len = strlen(url);
    while (len && url[len - 1] == '/') len--;
    struct registry_endpoint *ep = &out[(*n)++];
    *ep = (struct registry_endpoint){.ns = ns};
    ep->base = arena_printf(a, "%.*s%s", (int)len, url, path && path[1] ? "" : "/v2");
    return configure(a, file, host_of(a, url), ep, e);
}

int registries_endpoints(struct arena *a, const char *path, const char *insecure, const char *host,
                         struct registry_endpoint *out, size_t *n, struct err *e) {
    struct json *file, *url;
    *n = 0;
    int r = load(a, path, &file, e);
    if (r < 0) return r;
    const struct json *mirrors = json_get(file, "mirrors"), *m = json_get(mirrors, host);
    if (!m) m = json_get(mirrors, "*");
    if (json_len(json_get(m, "rewrite")))
        return err_set(e, -EINVAL, "registries: rewrite rules (of %s) are not supported", host);
    JSON_FOREACH(url, json_get(m, "endpoint")) {
        const char *text = json_as_str(url);
        if (!text) return err_set(e, -EINVAL, "registries: endpoints of %s are a list of addresses", host);
        if ((r = add_mirror(a, file, text, host, out, n, e)) < 0) return r;
    }
    struct registry_endpoint *own = &out[(*n)++];
    *own = (struct registry_endpoint){0};
    own->base = arena_printf(a, "%s://%s/v2", is_insecure(insecure, host) ? "http" : "https",
                             str_eq(host, "docker.io") ? "registry-1.docker.io" : host);
    return configure(a, file, host, own, e);
}
