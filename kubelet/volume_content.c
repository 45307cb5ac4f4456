/* What is in the volumes that show API objects: ConfigMaps, Secrets, the downward API, service account
 * tokens. */
#include "kubelet/volumes.h"
#include "pkg/base/bytes.h"

enum { DEFAULT_MODE = 0644, TOKEN_MODE = 0600, DEFAULT_TOKEN_SECONDS = 3600, MAX_TOKEN = 65536, DAY = 86400 };

static unsigned mode_or(const int32_t *mode, unsigned dflt) { return mode ? (unsigned)*mode & 0777 : dflt; }
static bool is_true(const bool *b) { return b && *b; }

/* ---- ConfigMaps and Secrets: keys and values, all or those named in items ---- */

struct keyed {
    const char *kind, *name, *ns;
    const char *key;
    struct bytes value;
};

struct keyed_set {
    struct keyed *items;
    size_t n, cap;
};

static void keyed_add(struct arena *a, struct keyed_set *s, const char *key, struct bytes value) {
    ARENA_GROW(a, s->items, s->n, s->cap);
    s->items[s->n++] = (struct keyed){.key = key, .value = value};
}

static int config_map_keys(struct kubelet *kl, struct arena *a, const char *ns, const char *name, struct keyed_set *out,
                           struct err *e) {
    struct core_config_map cm = {0};
    int r = objects_config_map(kl->objects, a, ns, name, &cm, e);
    if (r < 0) return r;
    for (size_t i = 0; i < cm.data.n; i++)
        keyed_add(a, out, cm.data.items[i].key,
                  (struct bytes){(const uint8_t *)cm.data.items[i].value, strlen(cm.data.items[i].value)});
    for (size_t i = 0; i < cm.binary_data.n; i++)
        keyed_add(a, out, cm.binary_data.items[i].key, cm.binary_data.items[i].value);
    return 0;
}

static int secret_keys(struct kubelet *kl, struct arena *a, const char *ns, const char *name, struct keyed_set *out,
                       struct err *e) {
    struct core_secret s = {0};
    int r = objects_secret(kl->objects, a, ns, name, &s, e);
    if (r < 0) return r;
    for (size_t i = 0; i < s.data.n; i++) keyed_add(a, out, s.data.items[i].key, s.data.items[i].value);
    return 0;
}

static const struct keyed *keyed_find(const struct keyed_set *s, const char *key) {
    for (size_t i = 0; i < s->n; i++)
        if (str_eq(s->items[i].key, key)) return &s->items[i];
    return NULL;
}

static int project_keys(struct arena *a, const struct keyed_set *s, const struct core_key_to_path_vec *items,
                        unsigned mode, bool optional, struct payload *out, struct err *e) {
    if (!items->n) {
        for (size_t i = 0; i < s->n; i++) {
            int r = payload_add(a, out, s->items[i].key, s->items[i].value, mode, -1, e);
            if (r < 0) return r;
        }
        return 0;
    }
    for (size_t i = 0; i < items->n; i++) {
        const struct core_key_to_path *k = &items->items[i];
        const struct keyed *v = keyed_find(s, k->key);
        if (!v && optional) continue;
        if (!v) return err_set(e, -ENOENT, "references non-existent config key: %s", k->key);
        int r = payload_add(a, out, k->path, v->value, mode_or(k->mode, mode), -1, e);
        if (r < 0) return r;
    }
    return 0;
}

typedef int key_source_fn(struct kubelet *kl, struct arena *a, const char *ns, const char *name, struct keyed_set *out,
                          struct err *e);

static int add_object(struct kubelet *kl, struct arena *a, const struct core_pod *pod, key_source_fn *source,
                      const char *name, const struct core_key_to_path_vec *items, unsigned mode, const bool *optional,
                      struct payload *out, struct err *e) {
    struct keyed_set s = {0};
    int r = source(kl, a, pod->metadata.namespace, name, &s, e);
    if (r == -ENOENT && is_true(optional)) return 0;
    if (r < 0) return r;
    return project_keys(a, &s, items, mode, is_true(optional), out, e);
}

/* ---- the downward API ---- */

static int add_downward(struct arena *a, const struct core_pod *pod, const struct core_downward_api_volume_file_vec *v,
                        unsigned mode, const struct env_facts *facts, struct payload *out, struct err *e) {
    for (size_t i = 0; i < v->n; i++) {
        const struct core_downward_api_volume_file *f = &v->items[i];
        const char *text = "";
        int r;
        if (f->field_ref) {
            r = env_field_ref(a, pod, facts, f->field_ref->field_path, &text, e);
        } else if (f->resource_field_ref) {
            const struct core_container *c = pod_container(pod, f->resource_field_ref->container_name, NULL);
            if (!c) return err_set(e, -EINVAL, "container %s not found", f->resource_field_ref->container_name);
            r = env_resource_ref(a, pod, c, facts, f->resource_field_ref->resource, f->resource_field_ref->divisor,
                                 &text, e);
        } else {
            return err_set(e, -EINVAL, "downwardAPI item \"%s\" has no source", f->path);
        }
        if (r < 0) return r;
        struct bytes data = {(const uint8_t *)text, strlen(text)};
        r = payload_add(a, out, f->path, data, mode_or(f->mode, mode), -1, e);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- service account tokens ---- */

bool volume_token_times(const char *jwt, int64_t *issued, int64_t *expires) {
    const char *dot = strchr(jwt, '.'), *end = dot ? strchr(dot + 1, '.') : NULL;
    if (!end || end - dot > MAX_TOKEN) return false;
    _cleanup_arena_ struct arena *a = arena_new();
    size_t n = (size_t)(end - dot - 1), got;
    char *text = arena_alloc(a, n + 1);
    struct json *v;
    if (base64url_decode(dot + 1, n, text, &got) < 0 || json_parse(a, text, got, &v, NULL, NULL) < 0) return false;
    *issued = json_get_int(v, "iat", 0);
    *expires = json_get_int(v, "exp", 0);
    return *expires > 0;
}

int64_t volume_token_refresh_at(int64_t issued, int64_t expires) {
    int64_t at = issued + (expires - issued) * 8 / 10;
    return MIN_OF(at, issued + DAY);
}

/* The token in the volume, when it is still good for a while; or any there is, when `any`. */
static char *token_now(struct arena *a, const char *dir, const char *path, bool any) {
    _cleanup_free_ char *file = xasprintf("%s/%s", dir, path), *text = NULL;
    int64_t issued, expires;
    if (file_read(file, MAX_TOKEN, &text, NULL) < 0) return NULL;
    if (any) return arena_strdup(a, text);
    if (!volume_token_times(text, &issued, &expires)) return NULL;
    return ktime_now().sec < volume_token_refresh_at(issued, expires) ? arena_strdup(a, text) : NULL;
}

/* The one user that all containers run as; -1 when they differ or it is not said. */
static int64_t common_user(const struct core_pod *p) {
    int64_t user = -1;
    const struct core_pod_security_context *ps = p->spec.security_context;
    for (size_t i = 0; i < p->spec.containers.n + p->spec.init_containers.n; i++) {
        const struct core_container *c = i < p->spec.containers.n
                                             ? &p->spec.containers.items[i]
                                             : &p->spec.init_containers.items[i - p->spec.containers.n];
        const int64_t *u = c->security_context && c->security_context->run_as_user ? c->security_context->run_as_user
                           : ps                                                    ? ps->run_as_user
                                                                                   : NULL;
        if (!u || (user >= 0 && user != *u)) return -1;
        user = *u;
    }
    return user;
}

static int add_token(struct kubelet *kl, struct arena *a, const struct core_pod *pod,
                     const struct core_service_account_token_projection *t, unsigned mode, const char *dir,
                     struct payload *out, struct err *e) {
    char *token = token_now(a, dir, t->path, false);
    if (!token) {
        const char *audience = t->audience;
        struct client_token_request rq = {
            .ns = pod->metadata.namespace,
            .service_account = str_empty(pod->spec.service_account_name) ? "default" : pod->spec.service_account_name,
            .audiences = str_empty(audience) ? NULL : &audience,
            .n_audiences = !str_empty(audience),
            .expiration_seconds = t->expiration_seconds ? *t->expiration_seconds : DEFAULT_TOKEN_SECONDS,
            .bound_kind = "Pod",
            .bound_name = pod->metadata.name,
            .bound_uid = pod->metadata.uid,
        };
        struct client_token got = {0};
        int r = kl->client ? client_create_token(kl->client, a, &rq, &got, e)
                           : err_set(e, -ENOTCONN, "service account tokens need an API server");
        if (r == 0)
            token = arena_strdup(a, got.token);
        else if (!(token = token_now(a, dir, t->path, true))) /* an old one is better than none */
            return err_wrap(e, "failed to fetch token");
    }
    int64_t user = common_user(pod);
    const struct core_pod_security_context *ps = pod->spec.security_context;
    if (user >= 0 || (ps && ps->fs_group)) mode = TOKEN_MODE;
    return payload_add(a, out, t->path, (struct bytes){(const uint8_t *)token, strlen(token)}, mode, user, e);
}

/* ---- projected ---- */

static int add_projection(struct kubelet *kl, struct arena *a, const struct core_pod *pod,
                          const struct core_volume_projection *p, unsigned mode, const char *dir,
                          const struct env_facts *facts, struct payload *out, struct err *e) {
    if (p->secret)
        return add_object(kl, a, pod, secret_keys, p->secret->name, &p->secret->items, mode, p->secret->optional, out,
                          e);
    if (p->config_map)
        return add_object(kl, a, pod, config_map_keys, p->config_map->name, &p->config_map->items, mode,
                          p->config_map->optional, out, e);
    if (p->downward_api) return add_downward(a, pod, &p->downward_api->items, mode, facts, out, e);
    if (p->service_account_token) return add_token(kl, a, pod, p->service_account_token, mode, dir, out, e);
    if (p->cluster_trust_bundle && is_true(p->cluster_trust_bundle->optional))
        return payload_add(a, out, p->cluster_trust_bundle->path, (struct bytes){(const uint8_t *)"", 0}, mode, -1, e);
    return err_set(e, -ENOTSUP, "this kind of projection (%s) is not supported on this node",
                   p->cluster_trust_bundle ? "clusterTrustBundle"
                   : p->pod_certificate    ? "podCertificate"
                                           : "unknown");
}

int volume_content(struct kubelet *kl, struct arena *a, const struct core_pod *pod, const struct core_volume *vol,
                   const char *dir, const struct env_facts *facts, struct payload *out, struct err *e) {
    if (vol->config_map)
        return add_object(kl, a, pod, config_map_keys, vol->config_map->name, &vol->config_map->items,
                          mode_or(vol->config_map->default_mode, DEFAULT_MODE), vol->config_map->optional, out, e);
    if (vol->secret)
        return add_object(kl, a, pod, secret_keys, vol->secret->secret_name, &vol->secret->items,
                          mode_or(vol->secret->default_mode, DEFAULT_MODE), vol->secret->optional, out, e);
    if (vol->downward_api)
        return add_downward(a, pod, &vol->downward_api->items, mode_or(vol->downward_api->default_mode, DEFAULT_MODE),
                            facts, out, e);
    unsigned mode = mode_or(vol->projected->default_mode, DEFAULT_MODE);
    for (size_t i = 0; i < vol->projected->sources.n; i++) {
        int r = add_projection(kl, a, pod, &vol->projected->sources.items[i], mode, dir, facts, out, e);
        if (r < 0) return r;
    }
    return 0;
}
