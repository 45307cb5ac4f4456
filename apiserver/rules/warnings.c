/* Warnings about objects that are valid, but use what is deprecated or does not do what it seems to. Clients
 * print them. Upstream: pkg/api/{pod,node,persistentvolume,persistentvolumeclaim,service}/warnings.go and
 * util.go. */
#include "apiserver/rules/warnings.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "pkg/base/bytes.h"

static const struct {
    const char *key, *message;
} old_labels[] = {
    {"beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"},
    {"beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"},
    {"failure-domain.beta.kubernetes.io/region",
     "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"},
    {"failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"},
    {"beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"},
    {"app.kubernetes.io/created-by", "deprecated since v1.9"},
    {"scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"},
    {"node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"},
};

static const struct {
    const char *source, *message;
    bool in_pods, in_volumes; /* warned about in pods, in PersistentVolumes */
} old_sources[] = {
    {"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", true, true},
    {"gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", true, false},
    {"scaleIO", "deprecated in v1.16, non-functional in v1.22+", true, true},
    {"flocker", "deprecated in v1.22, non-functional in v1.25+", true, false},
    {"storageos", "deprecated in v1.22, non-functional in v1.25+", true, true},
    {"quobyte", "deprecated in v1.22, non-functional in v1.25+", true, false},
    {"glusterfs", "deprecated in v1.25, non-functional in v1.26+", true, true},
    {"cephfs", "deprecated in v1.28, non-functional in v1.31+", true, true},
    {"rbd", "deprecated in v1.28, non-functional in v1.31+", true, true},
};

/* As upstream spells it. */
static const char *source_path(size_t i) {
    return str_eq(old_sources[i].source, "storageos") ? "storageOS" : old_sources[i].source;
}

static const char *old_label(const char *key) {
    for (size_t i = 0; i < ARRAY_LEN(old_labels); i++)
        if (str_eq(old_labels[i].key, key)) return old_labels[i].message;
    return NULL;
}

static void at(struct vctx *v, const struct fp *p, const char *message) {
    rules_warn(v->c, "%s: %s", fp_text(v->a, p), message);
}

static void node_terms(struct vctx *v, const struct json *terms, const struct fp *p, const char *inner) {
    const struct json *t, *r, *x;
    JSON_FOREACH(t, terms)
        JSON_FOREACH(r, json_get(inner ? json_get(t, inner) : t, "matchExpressions")) {
            const char *m = old_label(jstr(r, "key"));
            const struct fp *tp = inner ? FP(FPI(p, t_i), inner) : FPI(p, t_i);
            const struct fp *rp = FPI(FP(tp, "matchExpressions"), r_i);
            if (m) rules_warn(v->c, "%s: %s is %s", fp_text(v->a, FP(rp, "key")), jstr(r, "key"), m);
            JSON_FOREACH(x, inner ? json_get(r, "values") : NULL) {
                const char *s = str_or_empty(json_as_str(x)), *path = fp_text(v->a, FPI(FP(rp, "values"), x_i));
                if (strlen(s) > 63) rules_warn(v->c, "%s: %s is invalid, must be no more than 63 bytes", path, s);
                if (label_value_faults(s) > (strlen(s) > 63))
                    rules_warn(v->c, "%s: %s is invalid, %s", path, s, is_label_value(s));
            }
        }
}

static void scheduling(struct vctx *v, const struct json *spec, const struct fp *sp) {
    const struct json *t, *na = json_at(spec, "affinity", "nodeAffinity", NULL);
    const struct fp *ap = FP(FP(sp, "affinity"), "nodeAffinity");
    JSON_FOREACH_MEMBER(m, json_get(spec, "nodeSelector"))
        if (old_label(m->key)) at(v, FPK(FP(sp, "nodeSelector"), m->key), old_label(m->key));
    node_terms(v, json_at(na, "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms", NULL),
               FP(FP(ap, "requiredDuringSchedulingIgnoredDuringExecution"), "nodeSelectorTerms"), NULL);
    node_terms(v, json_get(na, "preferredDuringSchedulingIgnoredDuringExecution"),
               FP(ap, "preferredDuringSchedulingIgnoredDuringExecution"), "preference");
    JSON_FOREACH(t, json_get(spec, "topologySpreadConstraints")) {
        const struct fp *tp = FPI(FP(sp, "topologySpreadConstraints"), t_i);
        const char *m = old_label(jstr(t, "topologyKey"));
        if (m) rules_warn(v->c, "%s: %s is %s", fp_text(v->a, FP(tp, "topologyKey")), jstr(t, "topologyKey"), m);
        if (!jget(t, "labelSelector"))
            at(v, FP(tp, "labelSelector"), "a null labelSelector results in matching no pod");
    }
}

static void pod_terms(struct vctx *v, const struct json *terms, const char *inner, const struct fp *p) {
    const struct json *t;
    JSON_FOREACH(t, terms) {
        const struct fp *tp = inner ? FP(FPI(p, t_i), inner) : FPI(p, t_i);
        if (!jget(inner ? json_get(t, inner) : t, "labelSelector"))
            at(v, FP(tp, "labelSelector"), "a null labelSelector results in matching no pod");
    }
}

static void pod_affinity(struct vctx *v, const struct json *spec, const struct fp *sp) {
    static const char *const kinds[] = {"podAffinity", "podAntiAffinity"};
    static const char required[] = "requiredDuringSchedulingIgnoredDuringExecution";
    static const char preferred[] = "preferredDuringSchedulingIgnoredDuringExecution";
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct json *a = json_at(spec, "affinity", kinds[i], NULL);
        const struct fp *ap = FP(FP(sp, "affinity"), kinds[i]);
        pod_terms(v, json_get(a, required), NULL, FP(ap, required));
        pod_terms(v, json_get(a, preferred), "podAffinityTerm", FP(ap, preferred));
    }
}

/* ---- files of a volume that lie over each other ---- */

struct file_seen {
    const char *path, *source;
};
struct files_seen {
    struct file_seen *items;
    size_t n, cap;
};

static bool lies_within(const char *x, const char *y) {
    size_t n = strlen(y);
    return strncmp(x, y, n) == 0 && (x[n] == '/' || !x[n]);
}

static const char *file_label(struct arena *a, struct file_seen f) {
    return *f.source ? arena_printf(a, "\"%s\" (%s)", f.path, f.source) : arena_printf(a, "\"%s\"", f.path);
}

static void file_at(struct vctx *v, struct files_seen *seen, const char *path, const char *source, const char *volume,
                    const char *what) {
    size_t len = strlen(path);
    while (len && path[len - 1] == '/') len--;
    struct file_seen f = {arena_strndup(v->a, path, len), source};
    for (size_t i = 0; len && i < seen->n; i++) {
        const char *o = seen->items[i].path;
        if (*o && (lies_within(f.path, o) || lies_within(o, f.path)))
            rules_warn(v->c, "volume \"%s\" (%s): overlapping paths: %s with %s", volume, what, file_label(v->a, f),
                       file_label(v->a, seen->items[i]));
    }
    ARENA_GROW(v->a, seen->items, seen->n, seen->cap);
    seen->items[seen->n++] = f;
}

static void files_of(struct vctx *v, struct files_seen *seen, const struct json *items, const char *source,
                     const char *volume, const char *what) {
    const struct json *it;
    JSON_FOREACH(it, items) file_at(v, seen, jstr(it, "path"), source, volume, what);
}

static void overlaps(struct vctx *v, const struct json *vol) {
    const char *name = jstr(vol, "name");
    const struct json *s, *src, *x;
    struct files_seen one = {0}, all = {0};
    if ((s = jget(vol, "configMap")))
        files_of(v, &one, json_get(s, "items"), "", name, arena_printf(v->a, "ConfigMap \"%s\"", jstr(s, "name")));
    if ((s = jget(vol, "secret")))
        files_of(v, &one, json_get(s, "items"), "", name, arena_printf(v->a, "Secret \"%s\"", jstr(s, "secretName")));
    if ((s = jget(vol, "downwardAPI"))) files_of(v, &one, json_get(s, "items"), "", name, "DownwardAPI");
    JSON_FOREACH(src, json_at(vol, "projected", "sources", NULL)) {
        if (!json_len(src)) {
            rules_warn(v->c, "volume \"%s\" (Projected) has no sources provided", name);
            continue;
        }
        if ((x = jget(src, "configMap")))
            files_of(v, &all, json_get(x, "items"), arena_printf(v->a, "ConfigMap \"%s\"", jstr(x, "name")), name,
                     "Projected");
        else if ((x = jget(src, "secret")))
            files_of(v, &all, json_get(x, "items"), arena_printf(v->a, "Secret \"%s\"", jstr(x, "name")), name,
                     "Projected");
        else if ((x = jget(src, "downwardAPI")))
            files_of(v, &all, json_get(x, "items"), "DownwardAPI", name, "Projected");
        else if ((x = jget(src, "serviceAccountToken")))
            file_at(v, &all, jstr(x, "path"), "ServiceAccountToken", name, "Projected");
    }
}

static void repeated(struct vctx *v, const struct json *list, const char *key, const char *what, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list)
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), key), jstr(it, key))) {
                rules_warn(v->c, "%s: duplicate %s \"%s\"", fp_text(v->a, FP(FPI(p, it_i), key)), what, jstr(it, key));
                break;
            }
}

static void fractions(struct vctx *v, const struct json *list, const struct fp *p) {
    static const char *const whole[] = {"memory", "ephemeral-storage", "storage"};
    struct quantity q;
    for (size_t i = 0; i < ARRAY_LEN(whole); i++) {
        const char *s = json_get_str(list, whole[i]);
        if (s && quantity_parse(s, &q) == 0 && q.nano % 1000000000)
            rules_warn(v->c, "%s: fractional byte value \"%s\" is invalid, must be an integer",
                       fp_text(v->a, FPK(p, whole[i])), s);
    }
}

static void environment(struct vctx *v, const struct json *env, const struct fp *p) {
    const struct json *e;
    JSON_FOREACH(e, env) {
        bool seen = false;
        for (size_t j = 0; j < e_i; j++) seen |= str_eq(jstr(json_item(env, j), "name"), jstr(e, "name"));
        if (!seen) continue;
        /* a value that refers to the one it replaces is meant */
        const char *ref = arena_printf(v->a, "$(%s)", jstr(e, "name")), *value = jstr(e, "value");
        if (jget(e, "valueFrom") || str_eq(value, ref) || !strstr(value, ref))
            rules_warn(v->c, "%s: hides previous definition of \"%s\", which may be dropped when using apply",
                       fp_text(v->a, FPI(p, e_i)), jstr(e, "name"));
    }
}

/* ---- ports ---- */

struct port_seen {
    const struct json *port;
    const char *path;
};

static void compare_ports(struct vctx *v, const struct json *port, const char *path, const struct port_seen *o) {
    int64_t hp = json_get_int(port, "hostPort", 0), ohp = json_get_int(o->port, "hostPort", 0);
    const char *ip = jstr(port, "hostIP"), *oip = jstr(o->port, "hostIP");
    if (json_get_int(port, "containerPort", 0) != json_get_int(o->port, "containerPort", 0) ||
        !str_eq(jstr(port, "protocol"), jstr(o->port, "protocol")))
        return;
    if (hp == ohp && str_eq(ip, oip))
        rules_warn(v->c, "%s: duplicate port definition with %s", path, o->path);
    else if (!hp || !ohp)
        rules_warn(v->c, "%s: overlapping port definition with %s", path, o->path);
    else if (hp == ohp && !*ip != !*oip)
        rules_warn(v->c, "%s: dangerously ambiguous port definition with %s", path, o->path);
}

static void ports(struct vctx *v, const struct json *spec, const struct fp *sp) {
    static const char *const lists[] = {"initContainers", "containers"};
    struct port_seen *seen = NULL;
    size_t n = 0, cap = 0;
    const struct json *k, *port;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i]))
            JSON_FOREACH(port, json_get(k, "ports")) {
                const char *path = fp_text(v->a, FPI(FP(FPI(FP(sp, lists[i]), k_i), "ports"), port_i)),
                           *name = jstr(port, "name");
                if (*jstr(port, "hostIP") && !json_get_int(port, "hostPort", 0))
                    rules_warn(v->c,
                               "%s: hostIP set without hostPort: {Name:%s HostPort:0 ContainerPort:%lld Protocol:%s "
                               "HostIP:%s}",
                               path, name, (long long)json_get_int(port, "containerPort", 0), jstr(port, "protocol"),
                               jstr(port, "hostIP"));
                bool named = false;
                for (size_t j = 0; j < n; j++) {
                    compare_ports(v, port, path, &seen[j]);
                    if (*name && !named && str_eq(jstr(seen[j].port, "name"), name)) {
                        rules_warn(v->c,
                                   "%s: duplicate port name \"%s\" with %s, services and probes that select "
                                   "ports by "
                                   "name will use %s",
                                   path, name, seen[j].path, seen[j].path);
                        named = true;
                    }
                }
                ARENA_GROW(v->a, seen, n, cap);
                seen[n++] = (struct port_seen){port, path};
            }
}

/* ---- pods ---- */

static void amounts(struct vctx *v, const struct json *spec, const struct fp *p) {
    fractions(v, json_at(spec, "resources", "limits", NULL), FP(FP(p, "resources"), "limits"));
    fractions(v, json_at(spec, "resources", "requests", NULL), FP(FP(p, "resources"), "requests"));
}

/* Of a claim, where only storage counts. */
static void claim_spec(struct vctx *v, const struct json *spec, const struct fp *p) {
    static const char *const lists[] = {"requests", "limits"};
    for (size_t i = 0; i < 2; i++) {
        const struct json *storage = json_at(spec, "resources", lists[i], "storage", NULL);
        struct json *only = json_object(v->a);
        if (storage) json_set(v->a, only, "storage", json_clone(v->a, storage));
        fractions(v, only, FP(FP(p, "resources"), lists[i]));
    }
}

/* Old labels of nodes in a selector. */
static void selector_labels(struct vctx *v, const struct json *sel, const struct fp *p) {
    const struct json *r;
    JSON_FOREACH(r, json_get(sel, "matchExpressions"))
        if (old_label(jstr(r, "key")))
            rules_warn(v->c, "%s: %s is %s", fp_text(v->a, FP(FPI(FP(p, "matchExpressions"), r_i), "key")),
                       jstr(r, "key"), old_label(jstr(r, "key")));
    JSON_FOREACH_MEMBER(m, json_get(sel, "matchLabels"))
        if (old_label(m->key)) at(v, FP(FP(p, "matchLabels"), m->key), old_label(m->key));
}

void warn_pod(struct vctx *v, const struct json *meta, const struct json *spec, const struct fp *p) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    static const char *const notes[][2] = {
        {"scheduler.alpha.kubernetes.io/critical-pod",
         "non-functional in v1.16+; use the \"priorityClassName\" field instead"},
        {"security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"},
        {"security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"},
        {"seccomp.security.alpha.kubernetes.io/pod",
         "non-functional in v1.27+; use the \"seccompProfile\" field instead"},
    };
    const struct fp *sp = FP(p, "spec");
    const struct json *it;
    scheduling(v, spec, sp);
    for (size_t i = 0; i < ARRAY_LEN(notes); i++)
        if (json_at(meta, "annotations", notes[i][0], NULL))
            at(v, FPK(FP(FP(p, "metadata"), "annotations"), notes[i][0]), notes[i][1]);
    JSON_FOREACH(it, json_get(spec, "volumes")) {
        const struct fp *vp = FPI(FP(sp, "volumes"), it_i);
        for (size_t i = 0; i < ARRAY_LEN(old_sources); i++)
            if (old_sources[i].in_pods && jget(it, old_sources[i].source))
                at(v, FP(vp, source_path(i)), old_sources[i].message);
        const struct json *claim = json_at(it, "ephemeral", "volumeClaimTemplate", "spec", NULL);
        if (claim) claim_spec(v, claim, FP(FP(FP(vp, "ephemeral"), "volumeClaimTemplate"), "spec"));
        overlaps(v, it);
    }
    repeated(v, json_get(spec, "hostAliases"), "ip", "ip", FP(sp, "hostAliases"));
    repeated(v, json_get(spec, "imagePullSecrets"), "name", "name", FP(sp, "imagePullSecrets"));
    JSON_FOREACH(it, json_get(spec, "imagePullSecrets"))
        if (!*jstr(it, "name")) at(v, FP(FPI(FP(sp, "imagePullSecrets"), it_i), "name"), "invalid empty name \"\"");
    fractions(v, json_get(spec, "overhead"), FP(sp, "overhead"));
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(it, json_get(spec, lists[i])) {
            const struct fp *kp = FPI(FP(sp, lists[i]), it_i);
            amounts(v, it, kp);
            environment(v, json_get(it, "env"), FP(kp, "env"));
        }
    ports(v, spec, sp);
    if (json_get_int(spec, "terminationGracePeriodSeconds", 0) < 0)
        at(v, FP(sp, "terminationGracePeriodSeconds"),
           "must be >= 0; negative values are invalid and will be treated as 1");
    pod_affinity(v, spec, sp);
    warn_pod_addresses(v, spec, sp);
}

/* ---- other kinds ---- */

static void warn_volume(struct vctx *v, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *sp = FP(NULL, "spec");
    node_terms(v, json_at(spec, "nodeAffinity", "required", "nodeSelectorTerms", NULL),
               FP(FP(FP(sp, "nodeAffinity"), "required"), "nodeSelectorTerms"), NULL);
    if (json_at(obj, "metadata", "annotations", "volume.beta.kubernetes.io/storage-class", NULL))
        at(v, FPK(FP(FP(NULL, "metadata"), "annotations"), "volume.beta.kubernetes.io/storage-class"),
           "deprecated since v1.8; use \"storageClassName\" attribute instead");
    if (str_eq(jstr(spec, "persistentVolumeReclaimPolicy"), "Recycle"))
        at(v, FP(sp, "persistentVolumeReclaimPolicy"),
           "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic "
           "provisioning.");
    for (size_t i = 0; i < ARRAY_LEN(old_sources); i++)
        if (old_sources[i].in_volumes && jget(spec, old_sources[i].source))
            at(v, FP(sp, source_path(i)), old_sources[i].message);
}

static void warn_claim(struct vctx *v, const struct json *obj) {
    if (json_at(obj, "metadata", "annotations", "volume.beta.kubernetes.io/storage-class", NULL))
        at(v, FPK(FP(FP(NULL, "metadata"), "annotations"), "volume.beta.kubernetes.io/storage-class"),
           "deprecated since v1.8; use \"storageClassName\" attribute instead");
    claim_spec(v, json_get(obj, "spec"), FP(NULL, "spec"));
}

static void warn_service(struct vctx *v, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec");
    const char *type = jstr(spec, "type");
    bool headless = str_eq(jstr(spec, "clusterIP"), "None");
    if (json_at(obj, "metadata", "annotations", "service.kubernetes.io/topology-aware-hints", NULL))
        rules_warn(v->c,
                   "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use "
                   "service.kubernetes.io/topology-mode instead");
    if (!headless && !str_eq(type, "ExternalName") && json_len(json_get(spec, "externalIPs")))
        rules_warn(v->c, "spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    if (headless && *jstr(spec, "loadBalancerIP"))
        rules_warn(v->c, "spec.loadBalancerIP is ignored for headless services");
    if (headless && json_len(json_get(spec, "externalIPs")))
        rules_warn(v->c, "spec.externalIPs is ignored for headless services");
    if (headless && !str_eq(jstr(spec, "sessionAffinity"), "None"))
        rules_warn(v->c, "spec.SessionAffinity is ignored for headless services");
    if (str_eq(type, "ExternalName") && json_len(json_get(spec, "externalIPs")))
        rules_warn(v->c, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    if (!str_eq(type, "ExternalName") && *jstr(spec, "externalName"))
        rules_warn(v->c, "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    if (str_eq(jstr(spec, "trafficDistribution"), "PreferClose"))
        rules_warn(v->c, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
}

static void warn_storage_capacity(struct vctx *v, const struct json *obj) {
    selector_labels(v, json_get(obj, "nodeTopology"), FP(NULL, "nodeTopology"));
}

static void warn_runtime_class(struct vctx *v, const struct json *obj) {
    JSON_FOREACH_MEMBER(m, json_at(obj, "scheduling", "nodeSelector", NULL))
        if (old_label(m->key)) at(v, FP(FP(NULL, "scheduling"), "nodeSelector"), old_label(m->key));
}

/* A certificate and key that do not belong together, or are none, are stored all the same. */
static const char *tls_fault(const char *cert, size_t n_cert, const char *key, size_t n_key) {
    BIO *c = BIO_new_mem_buf(cert, (int)n_cert), *k = BIO_new_mem_buf(key, (int)n_key);
    X509 *x = c ? PEM_read_bio_X509(c, NULL, NULL, NULL) : NULL;
    EVP_PKEY *p = k ? PEM_read_bio_PrivateKey(k, NULL, NULL, NULL) : NULL;
    const char *bad = !x                                  ? "tls: failed to find any PEM data in certificate input"
                      : !p                                ? "tls: failed to find any PEM data in key input"
                      : X509_check_private_key(x, p) != 1 ? "tls: private key does not match public key"
                                                          : NULL;
    ERR_clear_error();
    X509_free(x);
    EVP_PKEY_free(p);
    BIO_free(c);
    BIO_free(k);
    return bad;
}

static const char *decoded(struct arena *a, const struct json *data, const char *key, size_t *n) {
    const struct json *s = json_get(data, key);
    *n = 0;
    if (!json_is(s, JSON_STRING)) return "";
    char *out = arena_alloc(a, s->n + 1);
    return base64_decode(s->str, s->n, out, n) < 0 ? "" : out;
}

static void warn_secret(struct vctx *v, const struct json *obj) {
    size_t n_cert, n_key;
    if (!str_eq(jstr(obj, "type"), "kubernetes.io/tls")) return;
    const char *cert = decoded(v->a, json_get(obj, "data"), "tls.crt", &n_cert);
    const char *key = decoded(v->a, json_get(obj, "data"), "tls.key", &n_key);
    const char *bad = tls_fault(cert, n_cert, key, n_key);
    if (bad) rules_warn(v->c, "%s", bad);
}

static void warn_node(struct vctx *v, const struct json *obj) {
    if (*jstr(json_get(obj, "spec"), "externalID"))
        rules_warn(v->c, "spec.externalID: this field is deprecated, and is unused by Kubernetes");
}

static void warn_stateful_set(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *claim, *history = json_at(obj, "spec", "revisionHistoryLimit", NULL);
    JSON_FOREACH(claim, json_at(obj, "spec", "volumeClaimTemplates", NULL)) {
        const struct fp *p = FPI(FP(FP(NULL, "spec"), "volumeClaimTemplates"), claim_i);
        claim_spec(v, json_get(claim, "spec"), old ? FP(p, "Spec") : p); /* as upstream names them */
    }
    if (json_as_int(history, 0) < 0)
        rules_warn(v->c,
                   "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is "
                   "recommended");
}

/* Names that become those of pods, and hostnames. */
void warn_name(struct vctx *v, const struct json *obj) {
    const char *name = jstr(json_get(obj, "metadata"), "name"), *bad = is_dns1123_label(name);
    bool pod = str_eq(v->c->kind, "Pod"), longer = strlen(name) > 63;
    static const char *const kinds[] = {"Pod", "Deployment", "ReplicaSet", "CronJob", "Job", "ReplicationController",
                                        NULL};
    if (!bad || !str_in(v->c->kind, kinds)) return;
    rules_warn(v->c,
               "metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is "
               "recommended: [%s%s%s]",
               pod ? "the Pod's hostname" : "Pod names and hostnames",
               longer ? "must be no more than 63 characters" : "", longer && strchr(name, '.') ? " " : "",
               strchr(name, '.') ? "must not contain dots" : "");
}

void warn_object(struct vctx *v, const struct json *obj, const struct json *old) {
    static const struct {
        const char *group, *kind;
        void (*fn)(struct vctx *, const struct json *);
    } rows[] = {
        {"", "PersistentVolume", warn_volume},
        {"", "PersistentVolumeClaim", warn_claim},
        {"", "Service", warn_service},
        {"", "Node", warn_node},
        {"", "Secret", warn_secret},
        {"storage.k8s.io", "CSIStorageCapacity", warn_storage_capacity},
        {"node.k8s.io", "RuntimeClass", warn_runtime_class},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (str_eq(rows[i].kind, v->c->kind) && str_eq(rows[i].group, str_or_empty(v->c->group))) rows[i].fn(v, obj);
    warn_addresses(v, obj);
    if (str_eq(v->c->kind, "StatefulSet")) warn_stateful_set(v, obj, old);
    if (str_eq(v->c->group, "admissionregistration.k8s.io") &&
        str_has_suffix(jstr(json_get(obj, "metadata"), "name"), ".static.k8s.io"))
        rules_warn(v->c,
                   "metadata.name: names ending with \".static.k8s.io\" are reserved for static manifest-based "
                   "configurations and cannot be managed via the API");
}
