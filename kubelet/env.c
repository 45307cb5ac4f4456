/* See env.h. */
#include "kubelet/env.h"

#include <ctype.h>
#include <sys/stat.h>

#include "kubelet/safepath.h"

enum { ENV_NAME_MAX = 4096 };

const char *env_get(const struct env_list *l, const char *name) {
    for (size_t i = 0; l && i < l->n; i++)
        if (str_eq(l->items[i].name, name)) return l->items[i].value;
    return NULL;
}

void env_set(struct arena *a, struct env_list *l, const char *name, const char *value) {
    for (size_t i = 0; i < l->n; i++)
        if (str_eq(l->items[i].name, name)) {
            l->items[i].value = value;
            return;
        }
    ARENA_GROW(a, l->items, l->n, l->cap);
    l->items[l->n++] = (struct env_var){name, value};
}

char *env_expand(struct arena *a, const char *s, const struct env_list *first, const struct env_list *second) {
    if (!s) return NULL;
    if (!strchr(s, '$')) return arena_strdup(a, s);
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (; *s; s++) {
        if (*s != '$' || !s[1]) {
            buf_addc(&b, *s);
            continue;
        }
        s++;
        const char *end = *s == '(' ? strchr(s, ')') : NULL;
        if (*s == '$') {
            buf_addc(&b, '$');
        } else if (!end) { /* "$x", or "$(" without an end: both as written */
            buf_addc(&b, '$');
            buf_addc(&b, *s);
        } else {
            char *name = arena_strndup(a, s + 1, (size_t)(end - s - 1));
            const char *v = env_get(first, name);
            if (!v) v = env_get(second, name);
            if (v)
                buf_adds(&b, v);
            else
                buf_printf(&b, "$(%s)", name);
            s = end;
        }
    }
    return arena_strndup(a, b.data ? b.data : "", b.len);
}

static const char *join(struct arena *a, const char *const *items, size_t n) {
    const char *s = "";
    for (size_t i = 0; i < n; i++) s = i ? arena_printf(a, "%s,%s", s, items[i]) : items[i];
    return s;
}

static int cmp_entry(const void *x, const void *y) {
    return strcmp(((const struct str_map_entry *)x)->key, ((const struct str_map_entry *)y)->key);
}

/* All labels or annotations as the downward API prints them: key="value" a line, sorted, the value as Go
 * quotes it. */
static const char *format_map(struct arena *a, const struct str_map *m) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct str_map_entry *e = arena_memdup(a, m->items, m->n * sizeof(*e));
    qsort(e, m->n, sizeof(*e), cmp_entry);
    for (size_t i = 0; i < m->n; i++) {
        buf_printf(&b, "%s%s=\"", i ? "\n" : "", e[i].key);
        for (const unsigned char *s = (const unsigned char *)e[i].value; *s; s++) {
            if (*s == '"' || *s == '\\')
                buf_printf(&b, "\\%c", *s);
            else if (*s == '\n')
                buf_adds(&b, "\\n");
            else if (*s == '\t')
                buf_adds(&b, "\\t");
            else if (*s == '\r')
                buf_adds(&b, "\\r");
            else if (*s < 0x20 || *s == 0x7f)
                buf_printf(&b, "\\x%02x", *s);
            else
                buf_addc(&b, (char)*s);
        }
        buf_addc(&b, '"');
    }
    return arena_strndup(a, b.data ? b.data : "", b.len);
}

/* metadata.labels['key'] and metadata.annotations['key'] */
static bool subscript(struct arena *a, const char *path, const char *prefix, const char **key) {
    if (!str_has_prefix(path, prefix)) return false;
    const char *s = path + strlen(prefix);
    size_t n = strlen(s);
    if (n < 4 || s[0] != '[' || s[1] != '\'' || s[n - 1] != ']' || s[n - 2] != '\'') return false;
    *key = arena_strndup(a, s + 2, n - 4);
    return true;
}

int env_field_ref(struct arena *a, const struct core_pod *p, const struct env_facts *f, const char *path,
                  const char **out, struct err *e) {
    const struct {
        const char *path, *value;
    } simple[] = {
        {"metadata.name", p->metadata.name},
        {"metadata.namespace", p->metadata.namespace},
        {"metadata.uid", p->metadata.uid},
        {"spec.nodeName", p->spec.node_name ? p->spec.node_name : f->node_name},
        {"spec.serviceAccountName", p->spec.service_account_name},
        {"status.hostIP", f->n_host_ips ? f->host_ips[0] : NULL},
        {"status.podIP", f->n_pod_ips ? f->pod_ips[0] : NULL},
    };
    if (str_empty(path)) return err_set(e, -EINVAL, "unsupported fieldPath: ");
    for (size_t i = 0; i < ARRAY_LEN(simple); i++)
        if (str_eq(path, simple[i].path)) {
            *out = str_or_empty(simple[i].value);
            return 0;
        }
    const char *key;
    if (str_eq(path, "status.hostIPs"))
        *out = join(a, f->host_ips, f->n_host_ips);
    else if (str_eq(path, "status.podIPs"))
        *out = join(a, f->pod_ips, f->n_pod_ips);
    else if (str_eq(path, "metadata.labels"))
        *out = format_map(a, &p->metadata.labels);
    else if (str_eq(path, "metadata.annotations"))
        *out = format_map(a, &p->metadata.annotations);
    else if (subscript(a, path, "metadata.labels", &key))
        *out = str_or_empty(str_map_get(&p->metadata.labels, key));
    else if (subscript(a, path, "metadata.annotations", &key))
        *out = str_or_empty(str_map_get(&p->metadata.annotations, key));
    else
        return err_set(e, -EINVAL, "unsupported fieldPath: %s", path);
    return 0;
}

int env_resource_ref(struct arena *a, const struct core_pod *p, const struct core_container *c,
                     const struct env_facts *f, const char *resource, const char *divisor, const char **out,
                     struct err *e) {
    bool limit = str_has_prefix(str_or_empty(resource), "limits.");
    if (!limit && !str_has_prefix(str_or_empty(resource), "requests."))
        return err_set(e, -EINVAL, "unsupported container resource : %s", str_or_empty(resource));
    const char *name = strchr(resource, '.') + 1;
    const char *text = str_map_get(limit ? &c->resources.limits : &c->resources.requests, name);
    if (!text && !limit) text = str_map_get(&c->resources.limits, name);
    /* A limit that is not set is the pod's, or what the node has. */
    if (!text && limit && p->spec.resources) text = str_map_get(&p->spec.resources->limits, name);
    if (!text && limit && f->allocatable) text = str_map_get(f->allocatable, name);
    struct quantity q = {0}, d = {0};
    if (text && quantity_parse(text, &q) < 0) return err_set(e, -EINVAL, "bad quantity \"%s\"", text);
    if (!str_empty(divisor) && quantity_parse(divisor, &d) < 0)
        return err_set(e, -EINVAL, "bad divisor \"%s\"", divisor);
    if (d.nano == 0) d.nano = 1000000000;
    __int128 v = (q.nano + d.nano - 1) / d.nano;
    *out = arena_printf(a, "%lld", (long long)v);
    return 0;
}

static char *env_name_of(struct arena *a, const char *s) {
    char *n = arena_strdup(a, s);
    for (char *p = n; *p; p++) *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    return n;
}

static void service_vars(struct arena *a, const struct core_service *s, struct env_list *out) {
    const char *n = env_name_of(a, s->metadata.name), *ip = s->spec.cluster_ip;
    const struct core_service_port_vec *ports = &s->spec.ports;
    const char *url_ip = strchr(ip, ':') ? arena_printf(a, "[%s]", ip) : ip;
    env_set(a, out, arena_printf(a, "%s_SERVICE_HOST", n), ip);
    env_set(a, out, arena_printf(a, "%s_SERVICE_PORT", n), arena_printf(a, "%d", ports->items[0].port));
    for (size_t i = 0; i < ports->n; i++)
        if (!str_empty(ports->items[i].name))
            env_set(a, out, arena_printf(a, "%s_SERVICE_PORT_%s", n, env_name_of(a, ports->items[i].name)),
                    arena_printf(a, "%d", ports->items[i].port));
    for (size_t i = 0; i < ports->n; i++) {
        const struct core_service_port *p = &ports->items[i];
        const char *proto = str_empty(p->protocol) ? "TCP" : p->protocol;
        char *lower = arena_strdup(a, proto);
        for (char *c = lower; *c; c++) *c = (char)tolower((unsigned char)*c);
        const char *url = arena_printf(a, "%s://%s:%d", lower, url_ip, p->port);
        if (i == 0) env_set(a, out, arena_printf(a, "%s_PORT", n), url);
        const char *prefix = arena_printf(a, "%s_PORT_%d_%s", n, p->port, proto);
        env_set(a, out, prefix, url);
        env_set(a, out, arena_printf(a, "%s_PROTO", prefix), lower);
        env_set(a, out, arena_printf(a, "%s_PORT", prefix), arena_printf(a, "%d", p->port));
        env_set(a, out, arena_printf(a, "%s_ADDR", prefix), ip);
    }
}

void env_services(struct arena *a, const struct core_service *const *services, size_t n, const char *ns, bool links,
                  struct env_list *out) {
    const struct core_service *master = NULL;
    bool own_kubernetes = false;
    for (size_t i = 0; i < n; i++) {
        const struct core_service *s = services[i];
        if (str_empty(s->spec.cluster_ip) || str_eq(s->spec.cluster_ip, "None") || !s->spec.ports.n) continue;
        bool is_master = str_eq(s->metadata.namespace, "default") && str_eq(s->metadata.name, "kubernetes");
        if (is_master) master = s;
        if (links && str_eq(s->metadata.namespace, ns)) {
            service_vars(a, s, out);
            own_kubernetes |= str_eq(s->metadata.name, "kubernetes");
        }
    }
    if (master && !own_kubernetes) service_vars(a, master, out);
}

/* Relaxed names: printable ASCII without '=' (upstream's RelaxedEnvironmentVariableValidation). */
static bool valid_name(const char *s) {
    if (!*s) return false;
    for (const unsigned char *p = (const unsigned char *)s; *p; p++)
        if (*p < 0x20 || *p > 0x7e || *p == '=') return false;
    return true;
}

struct env_build {
    struct arena *a;
    const struct env_input *in;
    struct env_list vars, services;
    const char *skipped;
};

static void from_key(struct env_build *b, const char *prefix, const char *key, const char *value) {
    const char *name = arena_printf(b->a, "%s%s", str_or_empty(prefix), key);
    if (valid_name(name))
        env_set(b->a, &b->vars, name, value);
    else
        b->skipped = b->skipped ? arena_printf(b->a, "%s, %s", b->skipped, name) : name;
}

static bool is_optional(const bool *o) { return o && *o; }

static const char *text_of(struct arena *a, struct bytes v) { return arena_strndup(a, (const char *)v.p, v.n); }

static int env_from(struct env_build *b, const struct core_env_from_source *f, struct err *e) {
    const char *ns = b->in->pod->metadata.namespace;
    if (f->config_map_ref) {
        struct core_config_map cm = {0};
        int r = objects_config_map(b->in->objects, b->a, ns, f->config_map_ref->name, &cm, e);
        if (r == -ENOENT && is_optional(f->config_map_ref->optional)) return 0;
        if (r < 0) return r;
        for (size_t i = 0; i < cm.data.n; i++) from_key(b, f->prefix, cm.data.items[i].key, cm.data.items[i].value);
    } else if (f->secret_ref) {
        struct core_secret s = {0};
        int r = objects_secret(b->in->objects, b->a, ns, f->secret_ref->name, &s, e);
        if (r == -ENOENT && is_optional(f->secret_ref->optional)) return 0;
        if (r < 0) return r;
        for (size_t i = 0; i < s.data.n; i++)
            from_key(b, f->prefix, s.data.items[i].key, text_of(b->a, s.data.items[i].value));
    }
    return 0;
}

/* One key of a ConfigMap: 1 and *value, 0 when it is optional and absent, or an error. */
static int config_map_key(struct env_build *b, const struct core_config_map_key_selector *k, const char **value,
                          struct err *e) {
    const char *ns = b->in->pod->metadata.namespace;
    struct core_config_map cm = {0};
    int r = objects_config_map(b->in->objects, b->a, ns, k->name, &cm, e);
    if (r == -ENOENT && is_optional(k->optional)) return 0;
    if (r < 0) return r;
    *value = str_map_get(&cm.data, k->key);
    if (*value) return 1;
    if (is_optional(k->optional)) return 0;
    return err_set(e, -ENOENT, "couldn't find key %s in ConfigMap %s/%s", k->key, ns, k->name);
}

static int secret_key(struct env_build *b, const struct core_secret_key_selector *k, const char **value,
                      struct err *e) {
    const char *ns = b->in->pod->metadata.namespace;
    struct core_secret s = {0};
    int r = objects_secret(b->in->objects, b->a, ns, k->name, &s, e);
    if (r == -ENOENT && is_optional(k->optional)) return 0;
    if (r < 0) return r;
    for (size_t i = 0; i < s.data.n; i++)
        if (str_eq(s.data.items[i].key, k->key)) {
            *value = text_of(b->a, s.data.items[i].value);
            return 1;
        }
    if (is_optional(k->optional)) return 0;
    return err_set(e, -ENOENT, "couldn't find key %s in Secret %s/%s", k->key, ns, k->name);
}

/* ---- files of variables ---- */

/* One line of *text, without its end; NULL at the end of the text. Cuts in place. */
static char *next_line(char **text) {
    char *line = *text;
    if (!line || !*line) return NULL;
    size_t n = strcspn(line, "\n");
    *text = line[n] ? line + n + 1 : NULL;
    if (n && line[n - 1] == '\r') line[n - 1] = '\0';
    line[n] = '\0';
    return line;
}

/* What follows an opening quote up to the closing one, over several lines if need be. */
static int quoted_value(struct arena *a, char *rest, char **text, int *line_number, const char **value, struct err *e) {
    int began = *line_number;
    const char *sum = "";
    for (char *close; !(close = strchr(rest, '\'')); (*line_number)++) {
        sum = arena_printf(a, "%s%s\n", sum, rest);
        rest = next_line(text);
        if (!rest) return err_set(e, -EINVAL, "line %d: the value's quote is not closed", began);
    }
    size_t n = strcspn(rest, "'");
    const char *after = rest + n + 1;
    after += strspn(after, " \t");
    if (*after && *after != '#') return err_set(e, -EINVAL, "line %d: text after the closing quote", *line_number);
    *value = arena_printf(a, "%s%.*s", sum, (int)n, rest);
    return 0;
}

int env_file_value(struct arena *a, char *text, const char *key, const char **value, struct err *e) {
    int number = 0;
    *value = "";
    for (char *line; (line = next_line(&text));) {
        number++;
        line += strspn(line, " \t");
        if (!*line || *line == '#') continue;
        size_t n = strcspn(line, "=");
        if (!line[n] || n == 0 || line[n - 1] == ' ' || line[n - 1] == '\t')
            return err_set(e, -EINVAL, "line %d is not NAME='VALUE'", number);
        bool wanted = strlen(key) == n && strncmp(line, key, n) == 0;
        char *rest = line + n + 1;
        if (*rest == ' ' || *rest == '\t') { /* an empty value, as a shell would see it */
            if (wanted) return 0;
            continue;
        }
        const char *found = "";
        if (*rest != '\'') return err_set(e, -EINVAL, "line %d: the value has to stand in single quotes", number);
        int r = quoted_value(a, rest + 1, &text, &number, &found, e);
        if (r < 0) return r;
        if (!wanted) continue;
        *value = found;
        return 0;
    }
    return 0;
}

static int file_key(struct env_build *b, const struct core_file_key_selector *k, const char **value, struct err *e) {
    const char *root = str_map_get(&b->in->volume_paths, k->volume_name);
    if (!root) return err_set(e, -ENOENT, "cannot find the volume \"%s\" referenced by FileKeyRef", k->volume_name);
    /* the path is the pod's: what it leads to is opened without leaving the volume */
    _cleanup_close_ int at = safepath_open(root, k->path, false, 0, e);
    if (at < 0) return err_wrap(e, "couldn't parse env file");
    char opened[64];
    snprintf(opened, sizeof(opened), "/proc/self/fd/%d", at);
    struct stat st;
    _cleanup_free_ char *text = NULL;
    int r = stat(opened, &st) < 0 ? -errno
            : S_ISREG(st.st_mode) ? file_read(opened, ENV_FILE_MAX, &text, NULL)
                                  : -EINVAL;
    if (r < 0) return err_errno(e, r, "couldn't parse env file %s", k->path);
    r = env_file_value(b->a, text, k->key, value, e);
    if (r < 0) return err_wrap(e, "couldn't parse env file %s", k->path);
    if (**value) return 1;
    if (is_optional(k->optional)) return 0;
    return err_set(e, -ENOENT, "environment variable key \"%s\" not found in file \"%s\"", k->key, k->path);
}

/* As config_map_key. */
static int value_from(struct env_build *b, const struct core_env_var_source *s, const char **value, struct err *e) {
    const struct env_input *in = b->in;
    int r;
    if (s->field_ref) {
        r = env_field_ref(b->a, in->pod, &in->facts, s->field_ref->field_path, value, e);
        return r < 0 ? r : 1;
    }
    if (s->resource_field_ref) {
        const struct core_container *c = in->container;
        const char *name = s->resource_field_ref->container_name;
        if (!str_empty(name)) c = pod_container(in->pod, name, NULL);
        if (!c) return err_set(e, -EINVAL, "container %s not found", name);
        r = env_resource_ref(b->a, in->pod, c, &in->facts, s->resource_field_ref->resource,
                             s->resource_field_ref->divisor, value, e);
        return r < 0 ? r : 1;
    }
    if (s->config_map_key_ref) return config_map_key(b, s->config_map_key_ref, value, e);
    if (s->secret_key_ref) return secret_key(b, s->secret_key_ref, value, e);
    if (s->file_key_ref) return file_key(b, s->file_key_ref, value, e);
    return err_set(e, -ENOTSUP, "this source of an environment variable is not supported");
}

int env_make(struct arena *a, const struct env_input *in, struct env_list *out, const char **skipped, struct err *e) {
    struct env_build b = {.a = a, .in = in};
    bool links = !in->pod->spec.enable_service_links || *in->pod->spec.enable_service_links;
    env_services(a, in->services, in->n_services, in->pod->metadata.namespace, links, &b.services);
    const struct core_container *c = in->container;
    for (size_t i = 0; i < c->env_from.n; i++) {
        int r = env_from(&b, &c->env_from.items[i], e);
        if (r < 0) return r;
    }
    for (size_t i = 0; i < c->env.n; i++) {
        const struct core_env_var *v = &c->env.items[i];
        const char *value = "";
        if (!str_empty(v->value)) {
            value = env_expand(a, v->value, &b.vars, &b.services);
        } else if (v->value_from) {
            int r = value_from(&b, v->value_from, &value, e);
            if (r < 0) return r;
            if (r == 0) continue;
        }
        env_set(a, &b.vars, v->name, value);
    }
    for (size_t i = 0; i < b.services.n; i++)
        if (!env_get(&b.vars, b.services.items[i].name))
            env_set(a, &b.vars, b.services.items[i].name, b.services.items[i].value);
    *out = b.vars;
    *skipped = b.skipped;
    return 0;
}
