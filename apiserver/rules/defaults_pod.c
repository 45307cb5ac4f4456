/* Defaults of pods, pod templates and volumes. Upstream: pkg/apis/core/v1/defaults.go and the +default
 * markers of core/v1. An absent field gets its value here once, at the first decoding; nothing downstream
 * needs to know them. */
#include <ctype.h>

#include "apiserver/rules/kinds.h"

void def_str(struct arena *a, struct json *o, const char *key, const char *v) {
    if (str_empty(json_get_str(o, key))) json_set_str(a, o, key, v);
}
void def_ptr(struct arena *a, struct json *o, const char *key, const char *v) {
    if (!jget(o, key)) json_set_str(a, o, key, v);
}
void def_int(struct arena *a, struct json *o, const char *key, int64_t v) {
    if (!jget(o, key)) json_set_int(a, o, key, v);
}
void def_bool(struct arena *a, struct json *o, const char *key, bool v) {
    if (!jget(o, key)) json_set_bool(a, o, key, v);
}
/* As def_int for Go fields without a pointer, where 0 counts as absent. */
static void def_nonzero(struct arena *a, struct json *o, const char *key, int64_t v) {
    if (json_get_int(o, key, 0) == 0) json_set_int(a, o, key, v);
}

/* The tag of an image reference is "latest", said or by default; a digest is no tag. */
static bool image_is_latest(const char *image) {
    const char *at = strchr(image, '@');
    size_t n = at ? (size_t)(at - image) : strlen(image);
    size_t slash = 0, colon = n;
    for (size_t i = 0; i < n; i++) {
        if (image[i] == '/')
            slash = i + 1, colon = n;
        else if (image[i] == ':' && i >= slash)
            colon = i;
    }
    if (colon < n) return n - colon == 7 && memcmp(image + colon, ":latest", 7) == 0;
    return !at && n > 0;
}

/* A repository's path: parts of lower-case letters and digits, with single separators between them. */
static bool repository_part(const char *s, size_t n) {
    bool any = n > 0, edge = true;
    for (size_t i = 0; i < n && any; i++) {
        bool inner = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9');
        any = inner || (!edge && i + 1 < n && strchr("._-", s[i]));
        edge = !inner && s[i] == '.';
    }
    return any;
}

/* example.com:5000 */
static bool domain_parses(const char *s, size_t n) {
    const char *port = memchr(s, ':', n);
    size_t end = port ? (size_t)(port - s) : n;
    if (*s == '[') return memchr(s, ']', n);
    for (size_t i = end + 1; i < n; i++)
        if (!isdigit((unsigned char)s[i])) return false;
    if (port && end + 1 == n) return false;
    for (size_t i = 0; i < end; i++) {
        bool edge = !i || s[i - 1] == '.' || i + 1 == end || s[i + 1] == '.';
        if (!isalnum((unsigned char)s[i]) && (edge || (s[i] != '-' && s[i] != '.'))) return false;
    }
    return end > 0;
}

static bool is_host(const char *s, size_t n) {
    if (!domain_parses(s, n)) return false;
    return memchr(s, '.', n) || memchr(s, ':', n) || (n == 9 && memcmp(s, "localhost", n) == 0);
}

/* [host/]path[:tag][@digest] */
static bool image_parses(const char *image) {
    size_t n = strcspn(image, "@"), first = strcspn(image, "/");
    const char *s = image, *end = image + n;
    for (const char *q = image; q < end; q++)
        if (!(*q > ' ' && *q < 0x7f) || strchr("!${}*()[]\"'<>|\\^`~,;=+&?#%", *q)) return false;
    if (first < n && is_host(s, first)) s += first + 1;
    const char *slash = memrchr(s, '/', (size_t)(end - s)), *colon = strchr(slash ? slash : s, ':');
    if (colon && colon < end) {
        if (colon + 1 == end || strchr(".-", colon[1])) return false;
        end = colon;
    }
    for (;;) {
        size_t part = strcspn(s, "/");
        if (part > (size_t)(end - s)) part = (size_t)(end - s);
        if (!repository_part(s, part)) return false;
        if (s + part >= end) return true;
        s += part + 1;
    }
}

enum { REPOSITORY_MAX = 255, HASH_LEN = 64 };

/* What has no host belongs to "library", which counts; and a bare hash is no name. */
static bool image_too_long(const char *image) {
    size_t first = strcspn(image, "/"), skip = image[first] && is_host(image, first) ? first + 1 : 0;
    size_t n = strcspn(image + skip, ":@");
    bool library = !skip && !memchr(image, '/', n);
    if (n == HASH_LEN && !image[n] && strspn(image, "0123456789abcdef") == n) return true;
    return n + (library ? strlen("library/") : 0) > REPOSITORY_MAX;
}

static const char *pull_policy(const char *image) {
    if (*image && (image_too_long(image) || !image_parses(image))) return "IfNotPresent";
    return image_is_latest(image) ? "Always" : "IfNotPresent";
}

void default_amounts(struct arena *a, struct json *list) {
    JSON_FOREACH_MEMBER(m, list) {
        struct quantity q;
        const char *s = json_as_str(m->value);
        if (!s || quantity_parse(s, &q) < 0 || q.nano % 1000000 == 0) continue;
        q.nano += q.nano > 0 ? 1000000 - q.nano % 1000000 : -(1000000 + q.nano % 1000000);
        m->value = json_str(a, quantity_format(a, q));
    }
}

static void default_http_get(struct arena *a, struct json *h) {
    if (!h) return;
    def_str(a, h, "path", "/");
    def_str(a, h, "scheme", "HTTP");
}

static void default_probe(struct arena *a, struct json *p) {
    if (!p) return;
    def_nonzero(a, p, "timeoutSeconds", 1);
    def_nonzero(a, p, "periodSeconds", 10);
    def_nonzero(a, p, "successThreshold", 1);
    def_nonzero(a, p, "failureThreshold", 3);
    default_http_get(a, jget(p, "httpGet"));
    struct json *grpc = jget(p, "grpc");
    if (grpc && !jget(grpc, "service")) json_set_str(a, grpc, "service", "");
}

static void default_container(struct arena *a, struct json *k) {
    struct json *it;
    JSON_FOREACH(it, json_get(k, "ports")) def_str(a, it, "protocol", "TCP");
    JSON_FOREACH(it, json_get(k, "env")) {
        struct json *from = jget(it, "valueFrom"), *ref = jget(from, "fieldRef"), *file = jget(from, "fileKeyRef");
        if (ref) def_str(a, ref, "apiVersion", "v1");
        if (file) def_bool(a, file, "optional", false);
        struct json *rf = jget(from, "resourceFieldRef");
        if (rf && !jget(rf, "divisor")) json_set_str(a, rf, "divisor", "0");
    }
    json_ensure_object(a, k, "resources");
    default_amounts(a, json_at(k, "resources", "limits", NULL));
    default_amounts(a, json_at(k, "resources", "requests", NULL));
    static const char *const probes[] = {"livenessProbe", "readinessProbe", "startupProbe"};
    for (size_t i = 0; i < ARRAY_LEN(probes); i++) default_probe(a, jget(k, probes[i]));
    default_http_get(a, json_at(k, "lifecycle", "postStart", "httpGet", NULL));
    default_http_get(a, json_at(k, "lifecycle", "preStop", "httpGet", NULL));
    def_str(a, k, "terminationMessagePath", "/dev/termination-log");
    def_str(a, k, "terminationMessagePolicy", "File");
    def_str(a, k, "imagePullPolicy", pull_policy(jstr(k, "image")));
}

/* ---- volumes ---- */

static const struct {
    const char *source, *member, *value; /* value as JSON text */
} volume_defaults[] = {
    {"secret", "defaultMode", "420"},
    {"configMap", "defaultMode", "420"},
    {"downwardAPI", "defaultMode", "420"},
    {"projected", "defaultMode", "420"},
    {"hostPath", "type", "\"\""},
    {"azureDisk", "cachingMode", "\"ReadWrite\""},
    {"azureDisk", "fsType", "\"ext4\""},
    {"azureDisk", "kind", "\"Shared\""},
    {"azureDisk", "readOnly", "false"},
    {"iscsi", "iscsiInterface", "\"default\""},
    {"rbd", "keyring", "\"/etc/ceph/keyring\""},
    {"rbd", "pool", "\"rbd\""},
    {"rbd", "user", "\"admin\""},
    {"scaleIO", "fsType", "\"xfs\""},
    {"scaleIO", "storageMode", "\"ThinProvisioned\""},
};

static void default_volume_source(struct arena *a, struct json *v) {
    for (size_t i = 0; i < ARRAY_LEN(volume_defaults); i++) {
        struct json *source = jget(v, volume_defaults[i].source), *value;
        const char *t = volume_defaults[i].value;
        if (!source || jget(source, volume_defaults[i].member)) continue;
        if (json_parse(a, t, strlen(t), &value, NULL, NULL) == 0) json_set(a, source, volume_defaults[i].member, value);
    }
}

static void default_downward_items(struct arena *a, struct json *items) {
    struct json *it;
    JSON_FOREACH(it, items) {
        struct json *ref = jget(it, "fieldRef"), *rf = jget(it, "resourceFieldRef");
        if (ref) def_str(a, ref, "apiVersion", "v1");
        if (rf && !jget(rf, "divisor")) json_set_str(a, rf, "divisor", "0");
    }
}

static void default_volume(struct arena *a, struct json *v) {
    size_t sources = 0;
    JSON_FOREACH_MEMBER(m, v) sources += !str_eq(m->key, "name") && m->value->type != JSON_NULL;
    if (!sources) json_ensure_object(a, v, "emptyDir");
    default_volume_source(a, v);
    default_downward_items(a, json_at(v, "downwardAPI", "items", NULL));
    struct json *it, *image = jget(v, "image");
    JSON_FOREACH(it, json_at(v, "projected", "sources", NULL)) {
        default_downward_items(a, json_at(it, "downwardAPI", "items", NULL));
        struct json *token = jget(it, "serviceAccountToken");
        if (token) def_int(a, token, "expirationSeconds", 3600);
    }
    if (image) def_str(a, image, "pullPolicy", pull_policy(jstr(image, "reference")));
    struct json *claim = json_at(v, "ephemeral", "volumeClaimTemplate", "spec", NULL);
    if (claim) default_pvc_spec(a, claim);
}

void default_volumes(struct arena *a, struct json *volumes) {
    struct json *v;
    JSON_FOREACH(v, volumes) default_volume(a, v);
}

void default_pvc_spec(struct arena *a, struct json *spec) {
    if (!spec) return;
    def_ptr(a, spec, "volumeMode", "Filesystem");
    default_amounts(a, json_at(spec, "resources", "requests", NULL));
    default_amounts(a, json_at(spec, "resources", "limits", NULL));
}

/* ---- pods ---- */

void default_pod_spec(struct rules_ctx *c, struct json *spec) {
    struct arena *a = c->a;
    struct json *it;
    default_volumes(a, json_get(spec, "volumes"));
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(it, json_get(spec, lists[i])) default_container(a, it);
    def_str(a, spec, "restartPolicy", "Always");
    def_int(a, spec, "terminationGracePeriodSeconds", 30);
    def_str(a, spec, "dnsPolicy", "ClusterFirst");
    json_ensure_object(a, spec, "securityContext");
    def_str(a, spec, "schedulerName", "default-scheduler");
    /* the deprecated alias and the field it stands for say the same */
    if (jget(spec, "serviceAccount") && !jget(spec, "serviceAccountName"))
        json_set_str(a, spec, "serviceAccountName", jstr(spec, "serviceAccount"));
    if (!str_empty(json_get_str(spec, "serviceAccountName")))
        json_set_str(a, spec, "serviceAccount", jstr(spec, "serviceAccountName"));
    default_amounts(a, json_get(spec, "overhead"));
    /* a template that uses the node's network uses the node's ports */
    if (!json_get_bool(spec, "hostNetwork", false)) return;
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH(it, json_get(spec, lists[i])) {
            struct json *port;
            JSON_FOREACH(port, json_get(it, "ports"))
                def_nonzero(a, port, "hostPort", json_get_int(port, "containerPort", 0));
        }
}

void default_pod_template(struct rules_ctx *c, struct json *tmpl) {
    if (!tmpl) return;
    default_pod_spec(c, json_ensure_object(c->a, tmpl, "spec"));
}

static void requests_from_limits(struct arena *a, struct json *containers) {
    struct json *k;
    JSON_FOREACH(k, containers) {
        struct json *res = json_get(k, "resources"), *limits = jget(res, "limits");
        if (!json_len(limits)) continue;
        struct json *requests = json_ensure_object(a, res, "requests");
        JSON_FOREACH_MEMBER(m, limits)
            if (!json_get(requests, m->key)) json_set(a, requests, m->key, json_clone(a, m->value));
    }
}

/* Sum of the containers' requests of a resource against the largest of the init containers'; false: none
 * asks. */
static bool pod_request(const struct json *spec, const char *resource, struct quantity *out) {
    struct quantity sum = {0}, q, max_init = {0};
    bool any = false;
    const struct json *k;
    JSON_FOREACH(k, json_get(spec, "containers")) {
        const char *s = json_as_str(json_at(k, "resources", "requests", resource, NULL));
        if (!s || quantity_parse(s, &q) < 0) continue;
        if (!any) sum.format = q.format;
        sum = quantity_add(sum, q);
        any = true;
    }
    JSON_FOREACH(k, json_get(spec, "initContainers")) {
        const char *s = json_as_str(json_at(k, "resources", "requests", resource, NULL));
        if (!s || quantity_parse(s, &q) < 0) continue;
        if (!any) sum.format = q.format;
        any = true;
        if (str_eq(json_get_str(k, "restartPolicy"), "Always")) {
            sum = quantity_add(sum, q);
        } else if (quantity_cmp(q, max_init) > 0) {
            max_init = q;
        }
    }
    *out = quantity_cmp(max_init, sum) > 0 ? max_init : sum;
    return any;
}

/* Requests of the pod as a whole, where it has limits: what the containers ask together, else the limit. */
static void default_pod_requests(struct arena *a, struct json *spec) {
    struct json *res = jget(spec, "resources"), *limits = jget(res, "limits");
    if (!json_len(limits)) return;
    struct json *requests = json_ensure_object(a, res, "requests");
    static const char *const supported[] = {"cpu", "memory"};
    for (size_t i = 0; i < ARRAY_LEN(supported); i++) {
        struct quantity q;
        if (!json_get(requests, supported[i]) && pod_request(spec, supported[i], &q))
            json_set_str(a, requests, supported[i], quantity_format(a, q));
    }
    JSON_FOREACH_MEMBER(m, limits)
        if (!json_get(requests, m->key) &&
            (str_in(m->key, ONE_OF("cpu", "memory")) || str_has_prefix(m->key, "hugepages-")))
            json_set(a, requests, m->key, json_clone(a, m->value));
    if (!json_len(requests)) json_del(res, "requests");
}

DEFAULTS_FN(pod) {
    struct arena *a = c->a;
    struct json *spec = json_ensure_object(a, obj, "spec");
    default_pod_spec(c, spec);
    requests_from_limits(a, json_get(spec, "containers"));
    requests_from_limits(a, json_get(spec, "initContainers"));
    default_pod_requests(a, spec);
    def_bool(a, spec, "enableServiceLinks", true);
    struct json *status = jget(obj, "status");
    if (status) {
        const struct json *first = json_item(json_get(status, "podIPs"), 0);
        if (first && *jstr(status, "podIP") && !str_eq(jstr(first, "ip"), jstr(status, "podIP")))
            json_del(status, "podIPs"); /* of two that differ the older member counts */
        sync_one_and_many(a, status, "podIP", "podIPs", "ip");
    }
    struct json *st;
    static const char *const lists[] = {"containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(st, json_at(obj, "status", lists[i], NULL)) {
            default_amounts(a, json_get(st, "allocatedResources"));
            default_amounts(a, json_at(st, "resources", "limits", NULL));
            default_amounts(a, json_at(st, "resources", "requests", NULL));
        }
    default_amounts(a, json_at(status, "resources", "limits", NULL));
    default_amounts(a, json_at(status, "resources", "requests", NULL));
    default_amounts(a, json_get(status, "allocatedResources"));
}

DEFAULTS_FN(pod_template_object) { default_pod_template(c, json_ensure_object(c->a, obj, "template")); }
