/* NodeRestriction: what the user of a kubelet (system:node:NAME, of the group system:nodes) may do is bound to its own Node
 * and the pods on it. The node authorizer says which objects a kubelet may see; this says what it may write in them.
 * Upstream: plugin/pkg/admission/noderestriction. */
#include "apiserver/rules/admission.h"

#define RESTRICTION "node-restriction.kubernetes.io"

/* The node's name when the user is a kubelet. */
static const char *kubelet_node(const struct rules_ctx *c) {
    bool group = false;
    for (size_t i = 0; i < c->n_groups; i++) group |= str_eq(c->groups[i], "system:nodes");
    const char *user = str_or_empty(c->user);
    return group && str_has_prefix(user, "system:node:") ? user + strlen("system:node:") : NULL;
}

struct check {
    struct rules_ctx *c;
    const struct json *obj, *old, *any;
    const char *node, *name;
    struct err *e;
};
#define NO(...) admission_forbid(x->c, x->any, x->e, __VA_ARGS__)

static const struct json *pod_named(struct check *x, const char *name) {
    return admission_get(x->c, "", "pods", str_or_empty(x->c->ns), name);
}
static const char *node_of(const struct json *pod) { return jstr(json_get(pod, "spec"), "nodeName"); }
static const char *uid_of(const struct json *o) { return jstr(json_get(o, "metadata"), "uid"); }

/* ---- nodes ---- */

/* The part before the slash is `suffix` or ends with it behind a dot. */
static bool label_below(const char *key, const char *suffix) {
    const char *slash = strchr(key, '/');
    size_t n = slash ? (size_t)(slash - key) : 0, m = strlen(suffix);
    return n >= m && strncmp(key + n - m, suffix, m) == 0 && (n == m || key[n - m - 1] == '.');
}

static bool label_allowed(const char *key) {
    static const char *const own[] = {"kubernetes.io/hostname",
                                      "topology.kubernetes.io/zone",
                                      "topology.kubernetes.io/region",
                                      "failure-domain.beta.kubernetes.io/zone",
                                      "failure-domain.beta.kubernetes.io/region",
                                      "beta.kubernetes.io/instance-type",
                                      "node.kubernetes.io/instance-type",
                                      "kubernetes.io/os",
                                      "kubernetes.io/arch",
                                      "beta.kubernetes.io/os",
                                      "beta.kubernetes.io/arch",
                                      NULL};
    if (label_below(key, RESTRICTION)) return false;
    if (!label_below(key, "kubernetes.io") && !label_below(key, "k8s.io")) return true;
    return str_in(key, own) || label_below(key, "kubelet.kubernetes.io") || label_below(key, "node.kubernetes.io");
}

static const char *forbidden_labels(struct check *x, const struct json *now, const struct json *was) {
    _cleanup_buf_ struct buf b = {.limit = 1024};
    const struct json *sides[] = {now, was};
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH_MEMBER(m, sides[i]) {
            const struct json *other = json_get(sides[1 - i], m->key);
            bool changed = !other || (i == 0 && !json_equal(other, m->value));
            if (changed && !label_allowed(m->key)) buf_printf(&b, "%s%s", b.len ? ", " : "", m->key);
        }
    return b.len ? arena_strdup(x->c->a, b.data) : NULL;
}

static int check_node(struct check *x) {
    const struct json *now = json_at(x->obj, "metadata", "labels", NULL),
                      *was = json_at(x->old, "metadata", "labels", NULL);
    if (!str_eq(x->name, x->node)) return NO("node \"%s\" is not allowed to modify node \"%s\"", x->node, x->name);
    if (x->c->op == RULES_DELETE) return 0;
    if (x->c->op == RULES_UPDATE &&
        !jsame(json_at(x->obj, "spec", "taints", NULL), json_at(x->old, "spec", "taints", NULL)))
        return NO("node \"%s\" is not allowed to modify taints", x->node);
    if (x->c->op == RULES_UPDATE && !jsame(json_at(x->obj, "metadata", "ownerReferences", NULL),
                                           json_at(x->old, "metadata", "ownerReferences", NULL)))
        return NO("node \"%s\" is not allowed to modify ownerReferences", x->node);
    const char *bad = forbidden_labels(x, now, was);
    if (!bad) return 0;
    return x->old ? NO("is not allowed to modify labels: %s", bad)
                  : NO("node \"%s\" is not allowed to set the following labels: %s", x->node, bad);
}

/* ---- pods ---- */

/* What a mirror pod must not refer to: the node would come to see it. NULL, or the resource. */
static const char *refers_to(const struct json *spec) {
    static const struct {
        const char *member, *resource;
    } volumes[] = {{"secret", "secrets"},
                   {"configMap", "configmaps"},
                   {"persistentVolumeClaim", "persistentvolumeclaims"},
                   {"projected", "projected volumes"},
                   {"ephemeral", "persistentvolumeclaims"}};
    static const char *const lists[] = {"initContainers", "containers"};
    const struct json *v, *k, *it;
    if (*jstr(spec, "serviceAccountName")) return "serviceaccounts";
    JSON_FOREACH(v, json_get(spec, "volumes"))
        for (size_t i = 0; i < ARRAY_LEN(volumes); i++)
            if (jget(v, volumes[i].member)) return volumes[i].resource;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i])) {
            JSON_FOREACH(it, json_get(k, "envFrom")) return jget(it, "secretRef") ? "secrets" : "configmaps";
            JSON_FOREACH(it, json_get(k, "env")) {
                if (json_at(it, "valueFrom", "secretKeyRef", NULL)) return "secrets";
                if (json_at(it, "valueFrom", "configMapKeyRef", NULL)) return "configmaps";
            }
        }
    return json_len(json_get(spec, "resourceClaims"))     ? "resourceclaims"
           : json_len(json_get(spec, "imagePullSecrets")) ? "secrets"
                                                          : NULL;
}

static int check_owner(struct check *x) {
    const struct json *owners = json_at(x->obj, "metadata", "ownerReferences", NULL), *o = json_item(owners, 0);
    if (json_len(owners) > 1)
        return NO("node \"%s\" can only create pods with a single owner reference set to itself", x->node);
    if (!o || !str_eq(jstr(o, "apiVersion"), "v1") || !str_eq(jstr(o, "kind"), "Node") ||
        !str_eq(jstr(o, "name"), x->node))
        return NO("node \"%s\" can only create pods with an owner reference set to itself", x->node);
    if (!json_get_bool(o, "controller", false))
        return NO("node \"%s\" can only create pods with a controller owner reference set to itself", x->node);
    if (json_get_bool(o, "blockOwnerDeletion", false))
        return NO("node \"%s\" must not set blockOwnerDeletion on an owner reference", x->node);
    const struct json *n = admission_get(x->c, "", "nodes", NULL, x->node);
    if (!str_eq(uid_of(n), jstr(o, "uid")))
        return NO("node %s UID mismatch: expected %s got %s", x->node, jstr(o, "uid"), uid_of(n));
    return 0;
}

static int check_pod(struct check *x) {
    const struct json *spec = json_get(x->obj, "spec");
    if (x->c->op == RULES_DELETE)
        return str_eq(node_of(x->old), x->node)
                   ? 0
                   : NO("node \"%s\" can only delete pods with spec.nodeName set to itself", x->node);
    if (x->c->op != RULES_CREATE)
        return NO("unexpected operation \"UPDATE\", node \"%s\" can only create and delete mirror pods", x->node);
    if (!json_at(x->obj, "metadata", "annotations", "kubernetes.io/config.mirror", NULL))
        return NO(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"%s\" can only create mirror pods",
            x->node);
    if (!str_eq(jstr(spec, "nodeName"), x->node))
        return NO("node \"%s\" can only create pods with spec.nodeName set to itself", x->node);
    int rc = check_owner(x);
    const char *resource = refers_to(spec);
    if (!rc && resource) rc = NO("node \"%s\" can not create pods that reference %s", x->node, resource);
    return rc;
}

static int check_pod_status(struct check *x) {
    if (!str_eq(node_of(x->old), x->node))
        return NO("node \"%s\" can only update pod status for pods with spec.nodeName set to itself", x->node);
    if (!jsame(json_at(x->obj, "metadata", "labels", NULL), json_at(x->old, "metadata", "labels", NULL)))
        return NO("node \"%s\" cannot update labels through pod status", x->node);
    if (!jsame(json_at(x->obj, "status", "resourceClaimStatuses", NULL),
               json_at(x->old, "status", "resourceClaimStatuses", NULL)))
        return NO("node \"%s\" cannot update resource claim statues", x->node);
    if (!jsame(json_at(x->obj, "status", "extendedResourceClaimStatus", NULL),
               json_at(x->old, "status", "extendedResourceClaimStatus", NULL)))
        return NO("node \"%s\" cannot update extended resource claim status", x->node);
    return 0;
}

static int check_eviction(struct check *x) {
    return str_eq(node_of(pod_named(x, x->name)), x->node)
               ? 0
               : NO("node %s can only evict pods with spec.nodeName set to itself", x->node);
}

static int check_pods(struct check *x) {
    const char *sub = str_or_empty(x->c->subresource);
    if (!*sub) return check_pod(x);
    if (str_eq(sub, "status")) return check_pod_status(x);
    if (str_eq(sub, "eviction")) return check_eviction(x);
    return NO("unexpected pod subresource \"%s\", only 'status' and 'eviction' are allowed", sub);
}

/* ---- others ---- */

static int check_claim(struct check *x) {
    static const char *const free_parts[] = {"capacity", "conditions", "allocatedResourceStatuses",
                                             "allocatedResources"};
    if (!str_eq(x->c->subresource, "status")) return NO("may only update PVC status");
    struct json *now = json_clone(x->c->a, x->obj), *was = json_clone(x->c->a, x->old), *both[] = {now, was};
    for (size_t i = 0; i < 2; i++) {
        json_del(json_get(both[i], "metadata"), "resourceVersion");
        json_del(json_get(both[i], "metadata"), "managedFields");
        for (size_t j = 0; j < ARRAY_LEN(free_parts); j++) json_del(json_get(both[i], "status"), free_parts[j]);
    }
    return jsame(now, was)
               ? 0
               : NO("node \"%s\" is not allowed to update fields other than status.quantity and status.conditions",
                    x->node);
}

/* A projected token of that audience, or a CSI driver that asks for one, is in the pod. */
static bool pod_wants_audience(struct check *x, const struct json *pod, const char *audience) {
    const struct json *v, *src, *t;
    JSON_FOREACH(v, json_at(pod, "spec", "volumes", NULL)) {
        JSON_FOREACH(src, json_at(v, "projected", "sources", NULL))
            if (jget(src, "serviceAccountToken") &&
                str_eq(jstr(json_get(src, "serviceAccountToken"), "audience"), audience))
                return true;
        const char *driver = jstr(json_get(v, "csi"), "driver"),
                   *claim = jstr(json_get(v, "persistentVolumeClaim"), "claimName");
        if (jget(v, "ephemeral"))
            claim = arena_printf(x->c->a, "%s-%s", jstr(json_get(pod, "metadata"), "name"), jstr(v, "name"));
        const struct json *pvc = *claim ? admission_get(x->c, "", "persistentvolumeclaims", x->c->ns, claim) : NULL;
        const char *volume = jstr(json_get(pvc, "spec"), "volumeName");
        if (*volume)
            driver = jstr(json_at(admission_get(x->c, "", "persistentvolumes", NULL, volume), "spec", "csi", NULL),
                          "driver");
        if (!*driver) continue;
        JSON_FOREACH(t, json_at(admission_get(x->c, "storage.k8s.io", "csidrivers", NULL, driver), "spec",
                                "tokenRequests", NULL))
            if (str_eq(jstr(t, "audience"), audience)) return true;
    }
    return false;
}

static int check_audience(struct check *x, const struct json *spec, const struct json *pod) {
    const struct json *list = json_get(spec, "audiences");
    const struct rules_lookup *l = &x->c->rules->lookup;
    if (json_len(list) > 1) return NO("node may only request 0 or 1 audiences");
    const char *audience = str_or_empty(json_as_str(json_item(list, 0))), *reason;
    if (pod_wants_audience(x, pod, audience)) return 0;
    struct rules_ask ask = {.verb = "request-serviceaccounts-token-audience",
                            .group = "",
                            .resource = audience,
                            .subresource = "",
                            .ns = x->c->ns,
                            .name = x->name};
    if (!l->authorize || !x->c->who || l->authorize(l->arg, x->c->a, x->c->who, &ask, &reason)) return 0;
    return NO("audience \"%s\" not found in pod spec volume, %s is not authorized to request tokens for this audience",
              audience, x->c->user);
}

static int check_token(struct check *x) {
    if (x->c->op != RULES_CREATE || !str_eq(x->c->subresource, "token")) return 0;
    const struct json *spec = json_get(x->obj, "spec"), *ref = jget(spec, "boundObjectRef");
    if (!str_eq(jstr(ref, "apiVersion"), "v1") || !str_eq(jstr(ref, "kind"), "Pod") || !*jstr(ref, "name"))
        return NO("node requested token not bound to a pod");
    if (!*jstr(ref, "uid")) return NO("node requested token with a pod binding without a uid");
    const struct json *pod = pod_named(x, jstr(ref, "name"));
    if (!pod) {
        err_status(x->e, 404, "NotFound", "pods \"%s\" not found", jstr(ref, "name"));
        err_details(x->e, NULL, "pods", jstr(ref, "name"));
        return -ENOENT;
    }
    if (!str_eq(jstr(ref, "uid"), uid_of(pod)))
        return NO(
            "the UID in the bound object reference (%s) does not match the UID in record. The object might have been "
            "deleted and then recreated",
            jstr(ref, "uid"));
    if (!str_eq(node_of(pod), x->node)) return NO("node requested token bound to a pod scheduled on a different node");
    return check_audience(x, spec, pod);
}

static int check_lease(struct check *x) {
    if (!str_eq(x->c->ns, "kube-node-lease"))
        return NO("can only access leases in the \"kube-node-lease\" system namespace");
    return str_eq(x->name, x->node) ? 0 : NO("can only access node lease with the same name as the requesting node");
}

static int check_csi_node(struct check *x) {
    return str_eq(x->name, x->node) ? 0 : NO("can only access CSINode with the same name as the requesting node");
}

static int check_slice(struct check *x) {
    if (x->c->op == RULES_UPDATE || str_eq(node_of(x->any), x->node)) return 0;
    return NO("can only %s ResourceSlice with the same NodeName as the requesting node",
              x->c->op == RULES_CREATE ? "create" : "delete");
}

int check_node_restriction(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const struct {
        const char *group, *resource;
        int (*fn)(struct check *x);
    } table[] = {{"", "pods", check_pods},
                 {"", "nodes", check_node},
                 {"", "persistentvolumeclaims", check_claim},
                 {"", "serviceaccounts", check_token},
                 {"coordination.k8s.io", "leases", check_lease},
                 {"storage.k8s.io", "csinodes", check_csi_node},
                 {"resource.k8s.io", "resourceslices", check_slice}};
    struct check x = {.c = c, .obj = obj, .old = old, .any = obj ? obj : old, .node = kubelet_node(c), .e = e};
    if (!x.node || c->op == RULES_CONNECT) return 0;
    x.name = c->name ? c->name : jstr(json_get(x.any, "metadata"), "name");
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (str_eq(table[i].group, str_or_empty(c->group)) && str_eq(table[i].resource, c->resource))
            return table[i].fn(&x);
    return 0;
}
