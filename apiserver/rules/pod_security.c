/* PodSecurity: what a namespace's labels ask of its pods.
 *
 *   pod-security.kubernetes.io/enforce, -version    refuses pods
 *                              audit, -version      notes it in the audit log, for pods and workloads
 *                              warn, -version       warns, for pods and workloads; without it as enforce
 *
 * Labels that say nothing sensible are refused with the namespace; where they are there already, enforce counts as
 * restricted, the others as privileged. A namespace whose enforce becomes stricter is told of the pods it has that would
 * not fit. Upstream: pod-security-admission/admission. */
#include "apiserver/rules/admission.h"
#include "apiserver/rules/pod_standards.h"

enum { PODS_CHECKED_MAX = 3000 };

#define LABEL "pod-security.kubernetes.io/"

static const char *const levels[] = {"privileged", "baseline", "restricted"};

struct policy_of {
    struct pod_standard enforce, audit, warn;
    bool wrong;
    struct vctx faults;
};

static bool parse_level(const char *s, enum pod_level *out) {
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        if (str_eq(s, levels[i])) {
            *out = (enum pod_level)i;
            return true;
        }
    return false;
}

static bool parse_minor(const char *s, int *out) {
    int64_t n;
    *out = POD_VERSION_LATEST;
    if (str_eq(s, "latest")) return true;
    bool zeros = str_has_prefix(s, "v1.0") && s[4];
    if (!str_has_prefix(s, "v1.") || zeros || s[3] == '+' || str_to_i64(s + 3, &n) || n < 0 || n >= POD_VERSION_LATEST)
        return false;
    *out = (int)n;
    return true;
}

/* One mode's labels; `otherwise`: the level when it is a wrong one. */
static void read_mode(struct policy_of *p, const struct json *labels, const char *mode, enum pod_level otherwise,
                      struct pod_standard *out, bool *has_level, bool *has_version) {
    struct arena *a = p->faults.a;
    const char *level = arena_printf(a, LABEL "%s", mode), *version = arena_printf(a, LABEL "%s-version", mode);
    const struct json *l = json_get(labels, level), *v = json_get(labels, version);
    const struct fp *at = FP(FP(NULL, "metadata"), "labels");
    *out = (struct pod_standard){POD_PRIVILEGED, POD_VERSION_LATEST};
    *has_level = l != NULL;
    *has_version = v != NULL;
    if (l && !parse_level(str_or_empty(json_as_str(l)), &out->level)) {
        out->level = otherwise;
        *has_level = false;
        v_invalid(&p->faults, FPK(at, level), l, "must be one of privileged, baseline, restricted");
    }
    if (v && !parse_minor(str_or_empty(json_as_str(v)), &out->minor))
        v_invalid(&p->faults, FPK(at, version), v, "must be \"latest\" or \"v1.x\"");
}

static struct policy_of read_policy(struct rules_ctx *c, const struct json *labels) {
    struct policy_of p = {.faults = {.c = c, .a = c->a}};
    bool enforced, warned, warned_version, other;
    read_mode(&p, labels, "enforce", POD_RESTRICTED, &p.enforce, &enforced, &other);
    read_mode(&p, labels, "audit", POD_PRIVILEGED, &p.audit, &other, &other);
    read_mode(&p, labels, "warn", POD_PRIVILEGED, &p.warn, &warned, &warned_version);
    warned |= json_get(labels, LABEL "warn") != NULL;
    p.wrong = p.faults.n > 0;
    if (!warned && enforced && p.enforce.level > p.warn.level) {
        p.warn.level = p.enforce.level;
        if (!warned_version) p.warn.minor = p.enforce.minor;
    }
    return p;
}

/* "restricted:latest" */
static const char *standard_text(struct arena *a, struct pod_standard s) {
    return s.minor == POD_VERSION_LATEST ? arena_printf(a, "%s:latest", levels[s.level])
                                         : arena_printf(a, "%s:v1.%d", levels[s.level], s.minor);
}

/* ---- namespaces ---- */

struct violators {
    const char *why, *first;
    size_t n;
};

static int by_text(const void *x, const void *y) { return strcmp(*(char *const *)x, *(char *const *)y); }

/* Existing pods that the new level would refuse, those with the same faults in one line. */
static void warn_of_pods(struct rules_ctx *c, const char *ns, struct pod_standard s) {
    struct arena *a = c->a;
    struct violators *found = NULL;
    size_t n = 0, cap = 0;
    const struct json *pods = admission_list(c, "", "pods", ns), *pod;
    JSON_FOREACH(pod, pods) {
        const char *name = jstr(json_get(pod, "metadata"), "name"), *why;
        if (pod_i >= PODS_CHECKED_MAX) break;
        if (!(why = pod_standard_violations(a, s, json_get(pod, "metadata"), json_get(pod, "spec"), false))) continue;
        size_t at = 0;
        while (at < n && !str_eq(found[at].why, why)) at++;
        if (at == n) {
            ARENA_GROW(a, found, n, cap);
            found[n++] = (struct violators){why, name, 0};
        }
        if (strcmp(name, found[at].first) < 0) found[at].first = name;
        found[at].n++;
    }
    if (json_len(pods) > PODS_CHECKED_MAX)
        rules_warn(c, "new PodSecurity enforce level only checked against the first %d of %zu existing pods",
                   PODS_CHECKED_MAX, json_len(pods));
    if (n)
        rules_warn(c, "existing pods in namespace \"%s\" violate the new PodSecurity enforce level \"%s\"", ns,
                   standard_text(a, s));
    const char **lines = arena_alloc(a, (n + 1) * sizeof(*lines));
    for (size_t i = 0; i < n; i++) {
        const char *others =
            found[i].n == 1 ? ""
                            : arena_printf(a, " (and %zu other pod%s)", found[i].n - 1, found[i].n == 2 ? "" : "s");
        lines[i] = arena_printf(a, "%s%s: %s", found[i].first, others, found[i].why);
    }
    if (n) qsort(lines, n, sizeof(*lines), by_text);
    for (size_t i = 0; i < n; i++) rules_warn(c, "%s", lines[i]);
}

static int check_namespace(struct rules_ctx *c, const struct json *obj, const struct json *old, struct err *e) {
    const struct json *labels = json_at(obj, "metadata", "labels", NULL),
                      *before = json_at(old, "metadata", "labels", NULL);
    const char *name = jstr(json_get(obj, "metadata"), "name");
    struct policy_of now = read_policy(c, labels), was = read_policy(c, before);
    bool same = old && now.faults.n == was.faults.n;
    for (size_t i = 0; same && i < now.faults.n; i++)
        same = str_eq(now.faults.items[i].message, was.faults.items[i].message);
    if (now.wrong && !same) return v_finish(&now.faults, name, e);
    if (!old || now.enforce.level == POD_PRIVILEGED) return 0;
    if (now.enforce.minor == was.enforce.minor && now.enforce.level <= was.enforce.level) return 0;
    warn_of_pods(c, name, now.enforce);
    return 0;
}

/* ---- pods and workloads ---- */

/* The pod's template in a workload. */
static const struct json *template_of(const struct rules_ctx *c, const struct json *obj) {
    static const char *const workloads[] = {
        "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController", NULL};
    if (!str_empty(c->subresource)) return NULL;
    if (str_in(c->kind, workloads)) return json_at(obj, "spec", "template", NULL);
    if (str_eq(c->kind, "CronJob")) return json_at(obj, "spec", "jobTemplate", "spec", "template", NULL);
    return admission_is(c, "", "PodTemplate") ? json_get(obj, "template") : NULL;
}

/* Labels, images and tolerations may change without a new look. */
static bool significant(const struct json *obj, const struct json *old) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    const struct json *now = json_get(obj, "spec"), *was = json_get(old, "spec"), *k;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *x = json_get(now, lists[i]), *y = json_get(was, lists[i]);
        if (json_len(x) != json_len(y)) return true;
        JSON_FOREACH(k, x)
            if (!jsame(json_get(k, "securityContext"), json_get(json_item(y, k_i), "securityContext")) ||
                !jsame(json_get(k, "ports"), json_get(json_item(y, k_i), "ports")))
                return true;
    }
    return false;
}

static int evaluate(struct rules_ctx *c, const struct json *obj, const struct json *meta, const struct json *spec,
                    bool pod, struct err *e) {
    const struct json *ns = admission_get(c, "", "namespaces", NULL, str_or_empty(c->ns));
    struct policy_of p = read_policy(c, json_at(ns, "metadata", "labels", NULL));
    const char *why;
    if (p.wrong)
        rules_annotate(c, LABEL "error", "Failed to parse policy: %s: %s", p.faults.items[0].field,
                       p.faults.items[0].message);
    if (pod) rules_annotate(c, LABEL "enforce-policy", "%s", standard_text(c->a, p.enforce));
    if ((why = pod_standard_violations(c->a, p.audit, meta, spec, true)))
        rules_annotate(c, LABEL "audit-violations", "would violate PodSecurity \"%s\": %s",
                       standard_text(c->a, p.audit), why);
    if (pod && (why = pod_standard_violations(c->a, p.enforce, meta, spec, true)))
        return admission_forbid(c, obj, e, "violates PodSecurity \"%s\": %s", standard_text(c->a, p.enforce), why);
    if ((why = pod_standard_violations(c->a, p.warn, meta, spec, true)))
        rules_warn(c, "would violate PodSecurity \"%s\": %s", standard_text(c->a, p.warn), why);
    return 0;
}

int check_pod_security(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const ignored[] = {"exec",        "attach", "binding", "eviction", "log",
                                          "portforward", "proxy",  "status",  NULL};
    if (!obj || c->op == RULES_DELETE) return 0;
    if (admission_is(c, "", "Namespace")) return check_namespace(c, obj, old, e);
    if (!c->namespaced) return 0;
    bool pod = str_empty(c->group) && str_eq(c->kind, "Pod");
    if (pod && (str_in(str_or_empty(c->subresource), ignored) || (c->op == RULES_UPDATE && !significant(obj, old))))
        return 0;
    const struct json *holder = pod ? obj : template_of(c, obj), *spec = json_get(holder, "spec");
    return spec ? evaluate(c, obj, json_get(holder, "metadata"), spec, pod, e) : 0;
}
