/* The sandbox's side of podspec.h: names, DNS, hosts file, namespaces, port mappings. */
#include <limits.h>

#include "kubelet/podspec.h"
#include "kubelet/userns.h"

enum { MAX_NAMESERVERS = 3, MAX_SEARCHES = 32, HOSTNAME_MAX_LEN = 63, RESOLV_MAX = 65536 };

static void vec_add(struct arena *a, struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return;
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n] = s;
    v->items = items;
    v->n++;
}

void podspec_hostname(struct kubelet *kl, struct arena *a, const struct core_pod *p, const char **host,
                      const char **domain) {
    const char *name = str_empty(p->spec.hostname) ? p->metadata.name : p->spec.hostname;
    *domain = "";
    if (!str_empty(p->spec.hostname_override)) {
        name = p->spec.hostname_override;
    } else if (!str_empty(p->spec.subdomain)) {
        *domain = arena_printf(a, "%s.%s.svc.%s", p->spec.subdomain, p->metadata.namespace, kl->cfg.cluster_domain);
    }
    size_t n = strlen(name);
    if (n > HOSTNAME_MAX_LEN) n = HOSTNAME_MAX_LEN;
    while (n && (name[n - 1] == '-' || name[n - 1] == '.')) n--;
    *host = arena_strndup(a, name, n);
}

/* ---- DNS ---- */

/* A stub on the loopback is of no use to pods; systemd-resolved writes what is behind its own to another
 * file. */
static int read_resolv(const char *path, char **text) {
    static const char behind[] = "/run/systemd/resolve/resolv.conf";
    int r = file_read(path, RESOLV_MAX, text, NULL);
    if (r < 0 || !str_eq(path, "/etc/resolv.conf") || !strstr(*text, "nameserver 127.0.0.53")) return r;
    char *other = NULL;
    if (file_read(behind, RESOLV_MAX, &other, NULL) < 0) return r;
    free(*text);
    *text = other;
    return 0;
}

/* nameserver, search and options of the node's resolv.conf; the last search line counts. */
static void host_dns(struct kubelet *kl, struct arena *a, struct cri_dns_config *d) {
    char *text = NULL;
    if (str_empty(kl->cfg.resolv_conf) || read_resolv(kl->cfg.resolv_conf, &text) < 0) return;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *inner = NULL, *word = strtok_r(line, " \t\r", &inner);
        if (!word || *word == '#' || *word == ';') continue;
        bool search = str_eq(word, "search"), server = str_eq(word, "nameserver"), options = str_eq(word, "options");
        if (search) d->searches = (struct str_vec){0};
        if (options) d->options = (struct str_vec){0};
        while ((word = strtok_r(NULL, " \t\r", &inner))) {
            if (server) vec_add(a, &d->servers, arena_strdup(a, word));
            if (search && !str_eq(word, ".")) vec_add(a, &d->searches, arena_strdup(a, word));
            if (options) vec_add(a, &d->options, arena_strdup(a, word));
        }
    }
    free(text);
}

static void cluster_dns(struct kubelet *kl, struct arena *a, const struct core_pod *p, struct cri_dns_config *d) {
    struct str_vec host_searches = d->searches;
    d->servers = d->searches = d->options = (struct str_vec){0};
    for (size_t i = 0; i < kl->cfg.cluster_dns.n; i++) vec_add(a, &d->servers, kl->cfg.cluster_dns.items[i]);
    const char *domain = kl->cfg.cluster_domain;
    if (!str_empty(domain)) {
        vec_add(a, &d->searches, arena_printf(a, "%s.svc.%s", p->metadata.namespace, domain));
        vec_add(a, &d->searches, arena_printf(a, "svc.%s", domain));
        vec_add(a, &d->searches, domain);
    }
    for (size_t i = 0; i < host_searches.n; i++) vec_add(a, &d->searches, host_searches.items[i]);
    vec_add(a, &d->options, "ndots:5");
}

static void add_options(struct arena *a, struct str_vec *options, const struct core_pod_dns_config_option_vec *more) {
    for (size_t i = 0; i < more->n; i++) {
        const char *name = more->items[i].name, *value = more->items[i].value;
        const char *text = value ? arena_printf(a, "%s:%s", name, value) : name;
        size_t len = strlen(name);
        bool replaced = false;
        for (size_t k = 0; k < options->n && !replaced; k++) {
            const char *have = options->items[k];
            if (strncmp(have, name, len) != 0 || (have[len] && have[len] != ':')) continue;
            options->items[k] = text;
            replaced = true;
        }
        if (!replaced) vec_add(a, options, text);
    }
}

struct cri_dns_config *podspec_dns(struct kubelet *kl, struct arena *a, const struct core_pod *p, struct err *e) {
    struct cri_dns_config *d = arena_zalloc(a, sizeof(*d));
    const char *policy = str_empty(p->spec.dns_policy) ? "ClusterFirst" : p->spec.dns_policy;
    bool cluster =
        str_eq(policy, "ClusterFirstWithHostNet") || (str_eq(policy, "ClusterFirst") && !p->spec.host_network);
    if (!str_eq(policy, "None")) host_dns(kl, a, d);
    if (cluster && kl->cfg.cluster_dns.n) {
        cluster_dns(kl, a, p, d);
    } else if (cluster) {
        kubelet_event(kl, p, NULL, "Warning", "MissingClusterDNS",
                      "pod: \"%s\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"%s\" "
                      "policy. Falling back to \"Default\" policy.",
                      pod_desc(a, p), policy);
    }
    const struct core_pod_dns_config *more = p->spec.dns_config;
    if (more) {
        for (size_t i = 0; i < more->nameservers.n; i++) vec_add(a, &d->servers, more->nameservers.items[i]);
        for (size_t i = 0; i < more->searches.n; i++) vec_add(a, &d->searches, more->searches.items[i]);
        add_options(a, &d->options, &more->options);
    }
    if (d->servers.n > MAX_NAMESERVERS || d->searches.n > MAX_SEARCHES)
        kubelet_event(kl, p, NULL, "Warning", "DNSConfigForming",
                      "Nameserver or search limits were exceeded, some have been omitted");
    d->servers.n = MIN_OF(d->servers.n, (size_t)MAX_NAMESERVERS);
    d->searches.n = MIN_OF(d->searches.n, (size_t)MAX_SEARCHES);
    return d;
}

/* ---- hosts file ---- */

static void aliases(struct buf *b, const struct core_host_alias_vec *v) {
    if (!v->n) return;
    buf_adds(b, "\n# Entries added by HostAliases.\n");
    for (size_t i = 0; i < v->n; i++) {
        buf_adds(b, str_or_empty(v->items[i].ip));
        for (size_t k = 0; k < v->items[i].hostnames.n; k++) buf_printf(b, "\t%s", v->items[i].hostnames.items[k]);
        buf_addc(b, '\n');
    }
}

char *podspec_hosts(struct kubelet *kl, struct arena *a, const struct core_pod *p, const char *const *ips, size_t n) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (p->spec.host_network) {
        _cleanup_free_ char *text = NULL;
        buf_adds(&b, "# Kubernetes-managed hosts file (host network).\n");
        if (file_read("/etc/hosts", 1 << 20, &text, NULL) == 0) buf_adds(&b, text);
        aliases(&b, &p->spec.host_aliases);
        return arena_strndup(a, b.data, b.len);
    }
    const char *host, *domain;
    podspec_hostname(kl, a, p, &host, &domain);
    buf_adds(&b,
             "# Kubernetes-managed hosts file.\n"
             "127.0.0.1\tlocalhost\n"
             "::1\tlocalhost ip6-localhost ip6-loopback\n"
             "fe00::0\tip6-localnet\n"
             "fe00::0\tip6-mcastprefix\n"
             "fe00::1\tip6-allnodes\n"
             "fe00::2\tip6-allrouters\n");
    for (size_t i = 0; i < n; i++) {
        if (*domain)
            buf_printf(&b, "%s\t%s.%s\t%s\n", ips[i], host, domain, host);
        else
            buf_printf(&b, "%s\t%s\n", ips[i], host);
    }
    aliases(&b, &p->spec.host_aliases);
    return arena_strndup(a, b.data, b.len);
}

/* ---- sandbox ---- */

static void port_mappings(struct arena *a, const struct core_container_vec *v, struct cri_port_mapping_vec *out) {
    for (size_t i = 0; i < v->n; i++)
        for (size_t k = 0; k < v->items[i].ports.n; k++) {
            const struct core_container_port *p = &v->items[i].ports.items[k];
            struct cri_port_mapping *items = arena_alloc(a, (out->n + 1) * sizeof(*items));
            if (out->n) memcpy(items, out->items, out->n * sizeof(*items));
            items[out->n++] = (struct cri_port_mapping){
                .protocol = str_eq(p->protocol, "UDP")    ? CRI_PROTOCOL_UDP
                            : str_eq(p->protocol, "SCTP") ? CRI_PROTOCOL_SCTP
                                                          : CRI_PROTOCOL_TCP,
                .container_port = p->container_port,
                .host_port = p->host_port,
                .host_ip = p->host_ip,
            };
            out->items = items;
        }
}

static struct cri_int64_value *boxed(struct arena *a, const int64_t *v) {
    if (!v) return NULL;
    struct cri_int64_value *b = arena_alloc(a, sizeof(*b));
    b->value = *v;
    return b;
}

struct cri_namespace_option *podspec_namespaces(struct arena *a, const struct core_pod *p) {
    struct cri_namespace_option *o = arena_zalloc(a, sizeof(*o));
    bool shared = p->spec.share_process_namespace && *p->spec.share_process_namespace;
    o->network = p->spec.host_network ? CRI_NAMESPACE_MODE_NODE : CRI_NAMESPACE_MODE_POD;
    o->ipc = p->spec.host_ipc ? CRI_NAMESPACE_MODE_NODE : CRI_NAMESPACE_MODE_POD;
    o->pid = p->spec.host_pid ? CRI_NAMESPACE_MODE_NODE
             : shared         ? CRI_NAMESPACE_MODE_POD
                              : CRI_NAMESPACE_MODE_CONTAINER;
    return o;
}

static bool any_privileged(const struct core_container_vec *v) {
    for (size_t i = 0; i < v->n; i++) {
        const struct core_security_context *s = v->items[i].security_context;
        if (s && s->privileged && *s->privileged) return true;
    }
    return false;
}

static struct cri_linux_pod_sandbox_config *linux_config(struct kubelet *kl, struct arena *a,
                                                         const struct core_pod *p) {
    struct cri_linux_pod_sandbox_config *l = arena_zalloc(a, sizeof(*l));
    struct cri_linux_sandbox_security_context *s = arena_zalloc(a, sizeof(*s));
    l->cgroup_parent = cgroups_pod_parent(kl->cgroups, a, p);
    l->security_context = s;
    s->namespace_options = podspec_namespaces(a, p);
    s->privileged = any_privileged(&p->spec.containers) || any_privileged(&p->spec.init_containers);
    s->seccomp = arena_zalloc(a, sizeof(*s->seccomp)); /* the pause process: runtime default */
    s->seccomp->profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_RUNTIME_DEFAULT;
    const struct core_pod_security_context *sc = p->spec.security_context;
    if (sc) {
        s->run_as_user = boxed(a, sc->run_as_user);
        s->run_as_group = boxed(a, sc->run_as_group);
        s->supplemental_groups = sc->supplemental_groups;
        l->sysctls.items = arena_zalloc(a, (sc->sysctls.n + 1) * sizeof(*l->sysctls.items));
        for (size_t i = 0; i < sc->sysctls.n; i++) {
            char *name = arena_strdup(a, sc->sysctls.items[i].name);
            for (char *c = name; *c; c++)
                if (*c == '/') *c = '.';
            l->sysctls.items[l->sysctls.n++] = (struct str_map_entry){name, sc->sysctls.items[i].value};
        }
    }
    l->resources = arena_zalloc(a, sizeof(*l->resources));
    bool all;
    l->resources->cpu_shares = milli_to_shares(quantity_milli(pod_resource(p, "cpu", false, NULL)));
    int64_t quota = milli_to_quota(quantity_milli(pod_resource(p, "cpu", true, &all)), kl->rt->cfs_period_us);
    if (all && quota) l->resources->cpu_quota = quota;
    l->resources->cpu_period = kl->cfg.cfs_period_ns / 1000;
    int64_t memory = quantity_value(pod_resource(p, "memory", true, &all));
    if (all) l->resources->memory_limit_in_bytes = memory;
    return l;
}

static struct str_map with_pod_labels(struct arena *a, const struct core_pod *p) {
    const struct str_map_entry own[] = {{LABEL_POD_NAME, p->metadata.name},
                                        {LABEL_POD_NAMESPACE, p->metadata.namespace},
                                        {LABEL_POD_UID, p->metadata.uid}};
    struct str_map m = {.items = arena_alloc(a, (p->metadata.labels.n + ARRAY_LEN(own)) * sizeof(*m.items))};
    for (size_t i = 0; i < p->metadata.labels.n; i++)
        if (!str_has_prefix(p->metadata.labels.items[i].key, "io.kubernetes.pod."))
            m.items[m.n++] = p->metadata.labels.items[i];
    for (size_t i = 0; i < ARRAY_LEN(own); i++) m.items[m.n++] = own[i];
    return m;
}

struct cri_pod_sandbox_config *podspec_sandbox(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                                               uint32_t attempt, struct err *e) {
    struct cri_pod_sandbox_config *c = arena_zalloc(a, sizeof(*c));
    c->metadata = arena_zalloc(a, sizeof(*c->metadata));
    *c->metadata = (struct cri_pod_sandbox_metadata){
        .name = p->metadata.name, .uid = p->metadata.uid, .namespace = p->metadata.namespace, .attempt = attempt};
    if (!p->spec.host_network) {
        const char *host, *domain;
        podspec_hostname(kl, a, p, &host, &domain);
        bool fqdn = p->spec.set_hostname_as_fqdn && *p->spec.set_hostname_as_fqdn && *domain;
        c->hostname = fqdn ? arena_printf(a, "%s.%s", host, domain) : host;
        if (strlen(c->hostname) > 64) {
            err_set(e, -EINVAL,
                    "failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long "
                    "(64 characters is the max, %zu characters requested)",
                    c->hostname, strlen(c->hostname));
            return NULL;
        }
    }
    c->log_directory = kubelet_pod_log_dir(kl, a, p);
    c->dns_config = podspec_dns(kl, a, p, e);
    port_mappings(a, &p->spec.containers, &c->port_mappings);
    port_mappings(a, &p->spec.init_containers, &c->port_mappings);
    c->labels = with_pod_labels(a, p);
    c->annotations = p->metadata.annotations;
    c->linux = linux_config(kl, a, p);
    if (userns_wanted(p) && !kl->fake &&
        userns_of(kl, a, p, &c->linux->security_context->namespace_options->userns_options, e) < 0)
        return NULL;
    return c;
}
