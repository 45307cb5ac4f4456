/* Admission of pods: ServiceAccount, DefaultTolerationSeconds, Priority, RuntimeClass and LimitRanger.
 * Upstream: plugin/pkg/admission/{serviceaccount,defaulttolerationseconds,priority,runtimeclass,limitranger}.
 */
#include <time.h>

#include "apiserver/rules/admission.h"
#include "pkg/base/bytes.h"

#define TOKEN_PATH "/var/run/secrets/kubernetes.io/serviceaccount"
#define MIRROR "kubernetes.io/config.mirror"

enum { DEFAULT_TOLERATION_SECONDS = 300, TOKEN_EXPIRATION = 3607, SA_TRIES = 10 };

static bool creates_pod(const struct rules_ctx *c) { return c->op == RULES_CREATE && admission_is(c, "", "Pod"); }

static bool is_mirror(const struct json *pod) { return json_at(pod, "metadata", "annotations", MIRROR, NULL) != NULL; }

/* ---- ServiceAccount ---- */

/* The account; the default one is waited for, since a controller makes it when its namespace appears. */
static const struct json *find_account(struct rules_ctx *c, const char *name) {
    for (int i = 0; i < SA_TRIES; i++) {
        const struct json *sa = admission_get(c, "", "serviceaccounts", c->ns, name);
        if (sa || !str_eq(name, "default")) return sa;
        nanosleep(&(struct timespec){0, 100 * NS_PER_MS}, NULL);
    }
    return NULL;
}

static bool mounts_token(const struct json *container) {
    const struct json *m;
    JSON_FOREACH(m, json_get(container, "volumeMounts"))
        if (str_eq(json_get_str(m, "mountPath"), TOKEN_PATH)) return true;
    return false;
}

static const char token_volume[] =
    "{\"projected\":{\"sources\":[{\"serviceAccountToken\":{\"expirationSeconds\":3607,\"path\":\"token\"}},"
    "{\"configMap\":{\"name\":\"kube-root-ca.crt\",\"items\":[{\"key\":\"ca.crt\",\"path\":\"ca.crt\"}]}},"
    "{\"downwardAPI\":{\"items\":[{\"path\":\"namespace\",\"fieldRef\":{\"apiVersion\":\"v1\","
    "\"fieldPath\":\"metadata.namespace\"}}]}}],\"defaultMode\":420}}";

static void mount_token(struct rules_ctx *c, struct json *spec) {
    static const char *const lists[] = {"initContainers", "containers"};
    char suffix[6];
    struct json *volume = NULL, *k;
    const char *name = NULL;
    JSON_FOREACH(k, json_get(spec, "volumes"))
        if (str_has_prefix(jstr(k, "name"), "kube-api-access-")) name = jstr(k, "name");
    bool fresh = !name;
    if (fresh) {
        random_name(suffix, 5);
        name = arena_printf(c->a, "kube-api-access-%s", suffix);
    }
    bool used = false;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i])) {
            if (mounts_token(k)) continue;
            struct json *m = json_object(c->a);
            json_set_str(c->a, m, "name", name);
            json_set_bool(c->a, m, "readOnly", true);
            json_set_str(c->a, m, "mountPath", TOKEN_PATH);
            json_append(c->a, json_ensure_array(c->a, k, "volumeMounts"), m);
            used = true;
        }
    if (!used || !fresh || json_parse(c->a, token_volume, sizeof token_volume - 1, &volume, NULL, NULL) < 0) return;
    struct json *named = json_object(c->a);
    json_set_str(c->a, named, "name", name);
    json_set(c->a, named, "projected", json_get(volume, "projected"));
    json_append(c->a, json_ensure_array(c->a, spec, "volumes"), named);
}

int admit_service_account(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!creates_pod(c) || is_mirror(obj) || (c->rules && c->rules->no_service_accounts)) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    if (!*jstr(spec, "serviceAccountName")) {
        json_set_str(c->a, spec, "serviceAccountName", "default");
        json_set_str(c->a, spec, "serviceAccount", "default");
    }
    const char *name = jstr(spec, "serviceAccountName");
    const struct json *sa = find_account(c, name);
    if (!sa)
        return admission_forbid(c, obj, e, "error looking up service account %s/%s: serviceaccount \"%s\" not found",
                                str_or_empty(c->ns), name, name);
    const struct json *pod_says = jget(spec, "automountServiceAccountToken"),
                      *sa_says = jget(sa, "automountServiceAccountToken");
    const struct json *said = pod_says ? pod_says : sa_says;
    if (!said || !json_is(said, JSON_BOOL) || said->b) mount_token(c, spec);
    const struct json *secrets = json_get(sa, "imagePullSecrets");
    if (!json_len(json_get(spec, "imagePullSecrets")) && json_len(secrets))
        json_set(c->a, spec, "imagePullSecrets", json_clone(c->a, secrets));
    return 0;
}

int check_service_account(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!creates_pod(c) || !is_mirror(obj)) return 0;
    const struct json *spec = json_get(obj, "spec"), *v;
    if (*jstr(spec, "serviceAccountName"))
        return admission_forbid(c, obj, e, "a mirror pod may not reference service accounts");
    JSON_FOREACH(v, json_get(spec, "volumes")) {
        if (jget(v, "secret")) return admission_forbid(c, obj, e, "a mirror pod may not reference secrets");
        if (jget(v, "persistentVolumeClaim"))
            return admission_forbid(c, obj, e, "a mirror pod may not reference persistentvolumeclaims");
    }
    return 0;
}

/* ---- DefaultTolerationSeconds ---- */

static bool tolerates(const struct json *tolerations, const char *key) {
    const struct json *t;
    JSON_FOREACH(t, tolerations) {
        const char *k = jstr(t, "key"), *effect = jstr(t, "effect");
        if ((!*k || str_eq(k, key)) && (!*effect || str_eq(effect, "NoExecute"))) return true;
    }
    return false;
}

int admit_toleration_seconds(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const taints[] = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"};
    if (!admission_is(c, "", "Pod") || c->op == RULES_DELETE) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    bool missing[2];
    for (size_t i = 0; i < 2; i++) missing[i] = !tolerates(json_get(spec, "tolerations"), taints[i]);
    for (size_t i = 0; i < 2; i++) {
        if (!missing[i]) continue;
        struct json *t = json_object(c->a);
        json_set_str(c->a, t, "key", taints[i]);
        json_set_str(c->a, t, "operator", "Exists");
        json_set_str(c->a, t, "effect", "NoExecute");
        json_set_int(c->a, t, "tolerationSeconds", DEFAULT_TOLERATION_SECONDS);
        json_append(c->a, json_ensure_array(c->a, spec, "tolerations"), t);
    }
    return 0;
}

/* ---- Priority ---- */

/* Most clusters have none: that is remembered until a class changes. */
static const struct json *default_priority_class(struct rules_ctx *c) {
    struct rules *r = c->rules;
    const struct rules_lookup *l = r ? &r->lookup : NULL;
    int64_t rev = l && l->changed ? l->changed(l->arg, "scheduling.k8s.io", "priorityclasses") : 0;
    if (rev && atomic_load_explicit(&r->no_default_class, memory_order_relaxed) == rev) return NULL;
    const struct json *pc, *best = NULL;
    JSON_FOREACH(pc, admission_list(c, "scheduling.k8s.io", "priorityclasses", NULL)) {
        if (!json_get_bool(pc, "globalDefault", false)) continue;
        if (!best || json_get_int(pc, "value", 0) < json_get_int(best, "value", 0)) best = pc;
    }
    if (!best && rev) atomic_store_explicit(&r->no_default_class, rev, memory_order_relaxed);
    return best;
}

int admit_priority(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!admission_is(c, "", "Pod")) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    if (c->op == RULES_UPDATE) { /* whoever leaves them out keeps them */
        static const char *const kept[] = {"priority", "preemptionPolicy"};
        for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
            const struct json *was = json_at(old, "spec", kept[i], NULL);
            if (was && !jget(spec, kept[i])) json_set(c->a, spec, kept[i], json_clone(c->a, was));
        }
        return 0;
    }
    const char *name = jstr(spec, "priorityClassName");
    const struct json *pc = NULL;
    if (*name) {
        pc = admission_get(c, "scheduling.k8s.io", "priorityclasses", NULL, name);
        if (!pc) return admission_forbid(c, obj, e, "no PriorityClass with name %s was found", name);
    } else if ((pc = default_priority_class(c))) {
        json_set_str(c->a, spec, "priorityClassName", json_as_str(json_at(pc, "metadata", "name", NULL)));
    }
    int64_t value = json_get_int(pc, "value", 0);
    const struct json *asked = jget(spec, "priority");
    if (asked && json_as_int(asked, 0) != value)
        return admission_forbid(
            c, obj, e,
            "the integer value of priority (%lld) must not be provided in pod spec; priority admission "
            "controller computed %lld from the given PriorityClass name",
            (long long)json_as_int(asked, 0), (long long)value);
    json_set_int(c->a, spec, "priority", value);
    const char *policy = jstr(pc, "preemptionPolicy");
    if (!*policy) policy = "PreemptLowerPriority";
    const char *had = json_get_str(spec, "preemptionPolicy");
    if (had && !str_eq(had, policy))
        return admission_forbid(c, obj, e,
                                "the string value of PreemptionPolicy (%s) must not be provided in pod spec; "
                                "priority admission controller computed %s from the given PriorityClass name",
                                had, policy);
    json_set_str(c->a, spec, "preemptionPolicy", policy);
    return 0;
}

int check_priority_class(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!admission_is(c, "scheduling.k8s.io", "PriorityClass") || c->op == RULES_DELETE) return 0;
    const struct json *pc;
    const char *name = json_as_str(json_at(obj, "metadata", "name", NULL));
    if (!json_get_bool(obj, "globalDefault", false)) return 0;
    JSON_FOREACH(pc, admission_list(c, "scheduling.k8s.io", "priorityclasses", NULL)) {
        const char *other = json_as_str(json_at(pc, "metadata", "name", NULL));
        if (json_get_bool(pc, "globalDefault", false) && !str_eq(other, name))
            return admission_forbid(c, obj, e,
                                    "PriorityClass %s is already marked as default. Only one default can exist", other);
    }
    return 0;
}

/* ---- RuntimeClass ---- */

int admit_runtime_class(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!creates_pod(c)) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec"), *t;
    const char *name = json_get_str(spec, "runtimeClassName");
    if (!name) return 0;
    if (!*name) return err_status(e, 500, "", "resource name may not be empty");
    if (is_path_segment(name))
        return err_status(e, 500, "", "invalid resource name \"%s\": [%s]", name, is_path_segment(name));
    const struct json *rc = admission_get(c, "node.k8s.io", "runtimeclasses", NULL, name);
    if (!rc) return admission_forbid(c, obj, e, "pod rejected: RuntimeClass \"%s\" not found", name);
    const struct json *overhead = json_at(rc, "overhead", "podFixed", NULL), *sched = json_get(rc, "scheduling");
    if (overhead) {
        if (jget(spec, "overhead") && !json_equal(json_get(spec, "overhead"), overhead))
            return admission_forbid(c, obj, e,
                                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead");
        json_set(c->a, spec, "overhead", json_clone(c->a, overhead));
    }
    JSON_FOREACH_MEMBER(m, json_get(sched, "nodeSelector")) {
        struct json *sel = json_ensure_object(c->a, spec, "nodeSelector");
        const char *has = json_get_str(sel, m->key);
        if (has && !str_eq(has, json_as_str(m->value)))
            return admission_forbid(
                c, obj, e, "conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s",
                m->key, json_as_str(m->value), m->key, has);
        json_set(c->a, sel, m->key, json_clone(c->a, m->value));
    }
    JSON_FOREACH(t, json_get(sched, "tolerations"))
        json_append(c->a, json_ensure_array(c->a, spec, "tolerations"), json_clone(c->a, t));
    return 0;
}

int check_runtime_class(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!creates_pod(c)) return 0;
    const struct json *spec = json_get(obj, "spec");
    if (!*jstr(spec, "runtimeClassName") && jget(spec, "overhead"))
        return admission_forbid(c, obj, e,
                                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead");
    return 0;
}

/* ---- LimitRanger ---- */

static void default_limits(struct rules_ctx *c, struct json *container, const struct json *item) {
    struct json *res = json_ensure_object(c->a, container, "resources");
    static const char *const pairs[][2] = {{"requests", "defaultRequest"}, {"limits", "default"}};
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH_MEMBER(m, json_get(item, pairs[i][1])) {
            struct json *list = json_ensure_object(c->a, res, pairs[i][0]);
            if (!json_get(list, m->key)) json_set(c->a, list, m->key, json_clone(c->a, m->value));
        }
}

int admit_limit_ranger(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const lists[] = {"containers", "initContainers"};
    const struct json *lr, *item;
    struct json *k;
    if (!creates_pod(c)) return 0;
    JSON_FOREACH(lr, admission_list(c, "", "limitranges", c->ns))
        JSON_FOREACH(item, json_at(lr, "spec", "limits", NULL)) {
            if (!str_eq(jstr(item, "type"), "Container")) continue;
            for (size_t i = 0; i < ARRAY_LEN(lists); i++)
                JSON_FOREACH(k, json_at(obj, "spec", lists[i], NULL)) default_limits(c, k, item);
        }
    return 0;
}

struct limit_check {
    struct rules_ctx *c;
    struct buf *why;
    const char *type; /* "Container", "Pod", "PersistentVolumeClaim" */
};

static void complain(struct limit_check *k, const char *fmt, ...) _printf_(2, 3);
static void complain(struct limit_check *k, const char *fmt, ...) {
    va_list ap;
    if (k->why->len) buf_adds(k->why, ", ");
    va_start(ap, fmt);
    buf_vprintf(k->why, fmt, ap);
    va_end(ap);
}

static bool less(const char *x, const char *y) {
    struct quantity a, b;
    return quantity_parse(x, &a) == 0 && quantity_parse(y, &b) == 0 && quantity_cmp(a, b) < 0;
}

static void check_item(struct limit_check *k, const struct json *item, const struct json *requests,
                       const struct json *limits) {
    JSON_FOREACH_MEMBER(m, json_get(item, "min")) {
        const char *bound = json_as_str(m->value), *r = json_get_str(requests, m->key),
                   *l = json_get_str(limits, m->key);
        if (!r)
            complain(k, "minimum %s usage per %s is %s. No request is specified", m->key, k->type, bound);
        else if (less(r, bound))
            complain(k, "minimum %s usage per %s is %s, but request is %s", m->key, k->type, bound, r);
        if (l && less(l, bound))
            complain(k, "minimum %s usage per %s is %s, but limit is %s", m->key, k->type, bound, l);
    }
    JSON_FOREACH_MEMBER(m, json_get(item, "max")) {
        const char *bound = json_as_str(m->value), *r = json_get_str(requests, m->key),
                   *l = json_get_str(limits, m->key);
        bool claim = str_eq(k->type, "PersistentVolumeClaim");
        if (!l && !claim)
            complain(k, "maximum %s usage per %s is %s. No limit is specified", m->key, k->type, bound);
        else if (l && less(bound, l))
            complain(k, "maximum %s usage per %s is %s, but limit is %s", m->key, k->type, bound, l);
        if (r && less(bound, r))
            complain(k, "maximum %s usage per %s is %s, but request is %s", m->key, k->type, bound, r);
    }
    JSON_FOREACH_MEMBER(m, json_get(item, "maxLimitRequestRatio")) {
        int64_t r = quantity_str_milli(json_get_str(requests, m->key)),
                l = quantity_str_milli(json_get_str(limits, m->key));
        int64_t ratio = quantity_str_milli(json_as_str(m->value));
        if (!r || !l)
            complain(k,
                     "%s max limit to request ratio per %s is %s, but no request or limit is specified or "
                     "request is 0",
                     m->key, k->type, json_as_str(m->value));
        else if (l / (double)r * 1000 > (double)ratio)
            complain(k, "%s max limit to request ratio per %s is %s, but provided ratio is %f", m->key, k->type,
                     json_as_str(m->value), l / (double)r);
    }
}

static struct json *pod_sum(struct arena *a, const struct json *spec, const char *which) {
    struct json *sum = json_object(a);
    const struct json *k;
    JSON_FOREACH(k, json_get(spec, "containers"))
        JSON_FOREACH_MEMBER(m, json_at(k, "resources", which, NULL)) {
            struct quantity x, y;
            const char *have = json_get_str(sum, m->key);
            if (quantity_parse(str_or_empty(json_as_str(m->value)), &x) < 0) continue;
            if (have && quantity_parse(have, &y) == 0) x = quantity_add(x, y);
            json_set_str(a, sum, m->key, quantity_format(a, x));
        }
    return sum;
}

int check_limit_ranger(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const lists[] = {"containers", "initContainers"};
    const struct json *lr, *item, *k;
    bool resized =
        c->op == RULES_UPDATE && str_eq(c->subresource, "resize") && str_empty(c->group) && str_eq(c->kind, "Pod");
    bool pod = creates_pod(c) || resized, claim = c->op == RULES_CREATE && admission_is(c, "", "PersistentVolumeClaim");
    if (!pod && !claim) return 0;
    _cleanup_buf_ struct buf why = {.limit = ERR_MSG_MAX};
    const struct json *spec = json_get(obj, "spec");
    JSON_FOREACH(lr, admission_list(c, "", "limitranges", c->ns))
        JSON_FOREACH(item, json_at(lr, "spec", "limits", NULL)) {
            struct limit_check ck = {c, &why, jstr(item, "type")};
            if (claim && str_eq(ck.type, "PersistentVolumeClaim"))
                check_item(&ck, item, json_at(spec, "resources", "requests", NULL),
                           json_at(spec, "resources", "limits", NULL));
            if (pod && str_eq(ck.type, "Pod"))
                check_item(&ck, item, pod_sum(c->a, spec, "requests"), pod_sum(c->a, spec, "limits"));
            for (size_t i = 0; pod && str_eq(ck.type, "Container") && i < ARRAY_LEN(lists); i++)
                JSON_FOREACH(k, json_get(spec, lists[i]))
                    check_item(&ck, item, json_at(k, "resources", "requests", NULL),
                               json_at(k, "resources", "limits", NULL));
        }
    return why.len ? admission_forbid(c, obj, e, "%s", why.data) : 0;
}
