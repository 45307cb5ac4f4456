/* The Node mode: a kubelet (user system:node:NAME in the group system:nodes) may do what the ClusterRole system:node
 * says, but reads objects only when a pod bound to its node refers to them. Never denies: RBAC may still allow.
 *
 * The graph is kept as counted edges: "secrets ns/name@node" is there while some pod of the node needs the secret. A
 * pod's edges are remembered, to take them away again. PersistentVolumes are reached through the claim they are bound
 * to, and secrets named by such a volume through the volume. Mirror pods (made by kubelets themselves) give a node
 * access to nothing else. Upstream: plugin/pkg/auth/authorizer/node. */
#include "apiserver/auth/internal.h"

enum { EDGE_MAX = 1024, LINKS_MAX = 4096 /* edges of one pod */ };

struct node_links {
    char **edges; /* keys in the map of edges; of a volume: its claim first ("ns/name"), then secrets */
    size_t n, cap;
};

static void links_free(void *p) {
    struct node_links *l = p;
    if (!l) return;
    for (size_t i = 0; i < l->n; i++) free(l->edges[i]);
    free(l->edges);
    free(l);
}

static void count_up(struct map *m, const char *key) { map_put(m, key, (void *)((uintptr_t)map_get(m, key) + 1)); }

static void count_down(struct map *m, const char *key) {
    uintptr_t n = (uintptr_t)map_get(m, key);
    if (n > 1)
        map_put(m, key, (void *)(n - 1));
    else
        map_del(m, key);
}

/* ---- pods ---- */

struct pod_walk {
    struct node_graph *g;
    struct node_links *links;
    const char *ns, *node, *pod;
};

static void edge_add(struct pod_walk *w, const char *resource, const char *name) {
    if (str_empty(name) || w->links->n >= LINKS_MAX) return;
    char *key = xasprintf("%s %s/%s@%s", resource, w->ns, name, w->node);
    VEC_GROW(w->links->edges, w->links->n, w->links->cap);
    w->links->edges[w->links->n++] = key;
    count_up(&w->g->edges, key);
}

static void walk_env(struct pod_walk *w, const struct json *container) {
    const struct json *it;
    JSON_FOREACH(it, json_get(container, "envFrom")) {
        edge_add(w, "secrets", json_get_str(json_get(it, "secretRef"), "name"));
        edge_add(w, "configmaps", json_get_str(json_get(it, "configMapRef"), "name"));
    }
    JSON_FOREACH(it, json_get(container, "env")) {
        edge_add(w, "secrets", json_get_str(json_at(it, "valueFrom", "secretKeyRef", NULL), "name"));
        edge_add(w, "configmaps", json_get_str(json_at(it, "valueFrom", "configMapKeyRef", NULL), "name"));
    }
}

/* Where volume sources keep a secret's name. */
static const char *const secret_refs[][2] = {
    {"azureFile", NULL},         {"cephfs", "secretRef"},    {"cinder", "secretRef"},
    {"flexVolume", "secretRef"}, {"rbd", "secretRef"},       {"scaleIO", "secretRef"},
    {"iscsi", "secretRef"},      {"storageos", "secretRef"}, {"csi", "nodePublishSecretRef"}};

static void walk_volume(struct pod_walk *w, const struct json *v) {
    const struct json *it;
    edge_add(w, "secrets", json_get_str(json_get(v, "secret"), "secretName"));
    edge_add(w, "configmaps", json_get_str(json_get(v, "configMap"), "name"));
    edge_add(w, "persistentvolumeclaims", json_get_str(json_get(v, "persistentVolumeClaim"), "claimName"));
    if (json_get(v, "ephemeral")) {
        _cleanup_free_ char *claim = xasprintf("%s-%s", w->pod, str_or_empty(json_get_str(v, "name")));
        edge_add(w, "persistentvolumeclaims", claim);
    }
    JSON_FOREACH(it, json_at(v, "projected", "sources", NULL)) {
        edge_add(w, "secrets", json_get_str(json_get(it, "secret"), "name"));
        edge_add(w, "configmaps", json_get_str(json_get(it, "configMap"), "name"));
    }
    for (size_t i = 0; i < ARRAY_LEN(secret_refs); i++) {
        const struct json *source = json_get(v, secret_refs[i][0]);
        edge_add(w, "secrets",
                 secret_refs[i][1] ? json_get_str(json_get(source, secret_refs[i][1]), "name")
                                   : json_get_str(source, "secretName"));
    }
}

static void walk_pod(struct pod_walk *w, const struct json *pod) {
    const struct json *spec = json_get(pod, "spec"), *it;
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    edge_add(w, "pods", w->pod);
    if (json_get(json_at(pod, "metadata", "annotations", NULL), "kubernetes.io/config.mirror")) return;
    edge_add(w, "serviceaccounts", json_get_str(spec, "serviceAccountName"));
    JSON_FOREACH(it, json_get(spec, "imagePullSecrets")) edge_add(w, "secrets", json_get_str(it, "name"));
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(it, json_get(spec, lists[i])) walk_env(w, it);
    JSON_FOREACH(it, json_get(spec, "volumes")) walk_volume(w, it);
    JSON_FOREACH(it, json_get(spec, "resourceClaims"))
        edge_add(w, "resourceclaims", json_get_str(it, "resourceClaimName"));
    JSON_FOREACH(it, json_at(pod, "status", "resourceClaimStatuses", NULL))
        edge_add(w, "resourceclaims", json_get_str(it, "resourceClaimName"));
    edge_add(w, "resourceclaims",
             json_as_str(json_at(pod, "status", "extendedResourceClaimStatus", "resourceClaimName", NULL)));
}

void node_pod_put(struct node_graph *g, const char *ns, const char *name, const struct json *pod) {
    _cleanup_free_ char *key = xasprintf("%s/%s", ns, name);
    struct node_links *old = map_del(&g->pods, key);
    const char *node = json_get_str(json_get(pod, "spec"), "nodeName");
    if (!str_empty(node)) {
        struct pod_walk w = {
            .g = g, .links = xcalloc(1, sizeof(struct node_links)), .ns = ns, .node = node, .pod = name};
        walk_pod(&w, pod);
        map_put(&g->pods, key, w.links);
    }
    for (size_t i = 0; old && i < old->n; i++) count_down(&g->edges, old->edges[i]);
    links_free(old);
}

/* ---- volumes ---- */

static void volume_add(struct node_links *l, const char *ns, const char *name) {
    if (str_empty(name)) return;
    VEC_GROW(l->edges, l->n, l->cap);
    l->edges[l->n++] = xasprintf("%s/%s", str_or_empty(ns), name);
}

void node_volume_put(struct node_graph *g, const char *name, const struct json *pv) {
    struct node_links *old = map_del(&g->volumes, name);
    for (size_t i = 1; old && i < old->n; i++) count_down(&g->secrets, old->edges[i]);
    links_free(old);
    const struct json *spec = json_get(pv, "spec"), *claim = json_get(spec, "claimRef");
    if (str_empty(json_get_str(claim, "name"))) return;
    struct node_links *l = xcalloc(1, sizeof(*l));
    const char *ns = json_get_str(claim, "namespace");
    volume_add(l, ns, json_get_str(claim, "name"));
    static const char *const csi[] = {"nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"};
    for (size_t i = 0; i < ARRAY_LEN(csi); i++) {
        const struct json *ref = json_at(spec, "csi", csi[i], NULL);
        volume_add(l, json_get_str(ref, "namespace"), json_get_str(ref, "name"));
    }
    static const char *const others[] = {"cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        const struct json *ref = json_at(spec, others[i], "secretRef", NULL);
        const char *own = json_get_str(ref, "namespace");
        volume_add(l, str_empty(own) ? ns : own, json_get_str(ref, "name"));
    }
    const struct json *azure = json_get(spec, "azureFile");
    const char *azure_ns = json_get_str(azure, "secretNamespace");
    volume_add(l, str_empty(azure_ns) ? ns : azure_ns, json_get_str(azure, "secretName"));
    for (size_t i = 1; i < l->n; i++) count_up(&g->secrets, l->edges[i]);
    map_put(&g->volumes, name, l);
}

void node_attachment_put(struct node_graph *g, const char *name, const struct json *va) {
    free(map_del(&g->attachments, name));
    const char *node = json_get_str(json_get(va, "spec"), "nodeName");
    if (!str_empty(node)) map_put(&g->attachments, name, xstrdup(node));
}

void node_graph_init(struct node_graph *g) { g->arena = arena_new(); }

void node_graph_done(struct node_graph *g) {
    map_done(&g->edges);
    map_done(&g->secrets);
    map_done_with(&g->pods, links_free);
    map_done_with(&g->volumes, links_free);
    map_done_with(&g->attachments, free);
    arena_free(g->arena);
}

/* ---- decisions ---- */

const char *node_name_of(const struct user_info *u) {
    if (!str_has_prefix(u->name, "system:node:") || !user_in_group(u, "system:nodes")) return NULL;
    return u->name + strlen("system:node:");
}

struct question {
    const struct node_graph *g;
    struct arena *a;
    const struct authz_attrs *q;
    const char *node, *sub, *ns, *name;
    const char **reason;
};

static enum authz_decision no(struct question *x, const char *reason) {
    *x->reason = reason;
    return AUTHZ_NO_OPINION;
}

static bool verb_in(const struct question *x, const char *const *verbs) {
    for (; *verbs; verbs++)
        if (str_eq(*verbs, x->q->verb)) return true;
    return false;
}
#define VERBS(...) ((const char *const[]){__VA_ARGS__, NULL})

static bool edge_has(const struct question *x, const char *resource, const char *ns_name) {
    return map_has(&x->g->edges, arena_printf(x->a, "%s %s@%s", resource, ns_name, x->node));
}

static bool volume_reached(const struct question *x, const char *pv) {
    const struct node_links *l = map_get(&x->g->volumes, pv);
    return l && edge_has(x, "persistentvolumeclaims", l->edges[0]);
}

/* A secret that some volume names, when the volume belongs to a pod of the node. */
static bool secret_by_volume(const struct question *x, const char *ns_name) {
    if (!map_has(&x->g->secrets, ns_name)) return false;
    const char *pv;
    void *value;
    for (size_t it = 0; map_next(&x->g->volumes, &it, &pv, &value);) {
        const struct node_links *l = value;
        for (size_t i = 1; i < l->n; i++)
            if (str_eq(l->edges[i], ns_name) && volume_reached(x, pv)) return true;
    }
    return false;
}

static bool related(const struct question *x) {
    const char *r = str_or_empty(x->q->resource);
    if (str_eq(r, "persistentvolumes")) return volume_reached(x, x->name);
    if (str_eq(r, "volumeattachments")) return str_eq(map_get(&x->g->attachments, x->name), x->node);
    const char *ns_name = arena_printf(x->a, "%s/%s", x->ns, x->name);
    return edge_has(x, r, ns_name) || (str_eq(r, "secrets") && secret_by_volume(x, ns_name));
}

static enum authz_decision by_relation(struct question *x) {
    if (!*x->name) return no(x, "No Object name found");
    if (related(x)) return AUTHZ_ALLOW;
    return no(x, arena_printf(x->a, "no relationship found between node '%s' and this object", x->node));
}

static enum authz_decision decide_read(struct question *x) {
    if (!verb_in(x, VERBS("get", "list", "watch"))) return no(x, "can only read resources of this type");
    if (*x->sub) return no(x, "cannot read subresource");
    if (!*x->ns) return no(x, "can only read namespaced object of this type");
    return by_relation(x);
}

static enum authz_decision decide_get(struct question *x) {
    if (!verb_in(x, VERBS("get"))) return no(x, "can only get individual resources of this type");
    return *x->sub ? no(x, "cannot get subresource") : by_relation(x);
}

static enum authz_decision decide_claim(struct question *x) {
    if (!str_eq(x->sub, "status")) return decide_get(x);
    if (!verb_in(x, VERBS("update", "patch"))) return no(x, "can only get/update/patch this type");
    return by_relation(x);
}

static enum authz_decision decide_service_account(struct question *x) {
    if (verb_in(x, VERBS("get")) && !*x->sub) return decide_read(x);
    if (!verb_in(x, VERBS("create")) || !*x->name)
        return no(x, "can only create tokens for individual service accounts");
    if (!str_eq(x->sub, "token")) return no(x, "can only create token subresource of serviceaccount");
    return by_relation(x);
}

static enum authz_decision decide_lease(struct question *x) {
    if (!verb_in(x, VERBS("get", "create", "update", "patch", "delete")))
        return no(x, "can only get, create, update, patch, or delete a node lease");
    if (!str_eq(x->ns, "kube-node-lease"))
        return no(x, "can only access leases in the \"kube-node-lease\" system namespace");
    if (!verb_in(x, VERBS("create")) && !str_eq(x->name, x->node))
        return no(x, "can only access node lease with the same name as the requesting node");
    return AUTHZ_ALLOW;
}

static enum authz_decision decide_csinode(struct question *x) {
    if (!verb_in(x, VERBS("get", "create", "update", "patch", "delete")))
        return no(x, "can only get, create, update, patch, or delete a CSINode");
    if (*x->sub) return no(x, "cannot authorize CSINode subresources");
    if (!verb_in(x, VERBS("create")) && !str_eq(x->name, x->node))
        return no(x, "can only access CSINode with the same name as the requesting node");
    return AUTHZ_ALLOW;
}

static enum authz_decision decide_node(struct question *x) {
    if (str_eq(x->sub, "status")) return verb_in(x, VERBS("update", "patch")) ? AUTHZ_ALLOW : AUTHZ_NO_OPINION;
    if (*x->sub) return AUTHZ_NO_OPINION;
    if (verb_in(x, VERBS("create", "update", "patch"))) return AUTHZ_ALLOW; /* NodeRestriction looks at the name */
    if (!verb_in(x, VERBS("get", "list", "watch"))) return AUTHZ_NO_OPINION;
    if (str_eq(x->name, x->node)) return AUTHZ_ALLOW;
    if (!*x->name)
        return no(x, arena_printf(x->a, "node '%s' cannot read all nodes, only its own Node object", x->node));
    return no(x, arena_printf(x->a, "node '%s' cannot read '%s', only its own Node object", x->node, x->name));
}

/* The field selector asks for field=NODE, maybe beside other requirements. */
static bool selects_own(const struct question *x, const char *field) {
    const struct authz_selector *s = &x->q->fields;
    for (size_t i = 0; i < s->n; i++) {
        const struct authz_requirement *r = &s->items[i];
        if (str_eq(r->key, field) && str_eq(r->op, "In") && r->n_values == 1 && str_eq(r->values[0], x->node))
            return true;
    }
    return false;
}

static enum authz_decision decide_pod(struct question *x) {
    if (str_eq(x->sub, "status")) return verb_in(x, VERBS("update", "patch")) ? AUTHZ_ALLOW : AUTHZ_NO_OPINION;
    if (str_eq(x->sub, "eviction")) return verb_in(x, VERBS("create")) ? AUTHZ_ALLOW : AUTHZ_NO_OPINION;
    if (*x->sub) return AUTHZ_NO_OPINION;
    if (verb_in(x, VERBS("get"))) return by_relation(x);
    if (verb_in(x, VERBS("create", "delete")))
        return AUTHZ_ALLOW; /* mirror pods: NodeRestriction looks at the object */
    if (!verb_in(x, VERBS("list", "watch"))) return AUTHZ_NO_OPINION;
    if (selects_own(x, "spec.nodeName")) return AUTHZ_ALLOW;
    return *x->name ? by_relation(x) : no(x, "can only list/watch pods with spec.nodeName field selector");
}

static enum authz_decision decide_slice(struct question *x) {
    if (*x->sub) return no(x, "cannot authorize ResourceSlice subresources");
    if (verb_in(x, VERBS("create", "get", "update", "patch", "delete"))) return AUTHZ_ALLOW;
    if (selects_own(x, "spec.nodeName")) return AUTHZ_ALLOW;
    return no(x, "can only list/watch/deletecollection resourceslices with nodeName field selector");
}

static const struct special {
    const char *group, *resource;
    enum authz_decision (*decide)(struct question *x);
    bool graph; /* pods of the node matter */
} special[] = {
    {"", "secrets", decide_read, true},
    {"", "configmaps", decide_read, true},
    {"", "persistentvolumeclaims", decide_claim, true},
    {"", "persistentvolumes", decide_get, true},
    {"resource.k8s.io", "resourceclaims", decide_get, true},
    {"storage.k8s.io", "volumeattachments", decide_get, false},
    {"", "serviceaccounts", decide_service_account, true},
    {"coordination.k8s.io", "leases", decide_lease, false},
    {"storage.k8s.io", "csinodes", decide_csinode, false},
    {"resource.k8s.io", "resourceslices", decide_slice, false},
    {"", "nodes", decide_node, false},
    {"", "pods", decide_pod, true},
};

static const struct special *special_find(const struct authz_attrs *q) {
    for (size_t i = 0; q->resource_request && i < ARRAY_LEN(special); i++)
        if (str_eq(special[i].resource, q->resource) && str_eq(special[i].group, str_or_empty(q->group)))
            return &special[i];
    return NULL;
}

bool node_asks_graph(const struct authz_attrs *q) {
    const struct special *s = special_find(q);
    return s && s->graph && node_name_of(q->user);
}

enum authz_decision node_decide(const struct node_graph *g, struct arena *a, const struct authz_attrs *q,
                                const char **reason) {
    const char *node = node_name_of(q->user);
    if (!node) return AUTHZ_NO_OPINION;
    struct question x = {.g = g,
                         .a = a,
                         .q = q,
                         .node = node,
                         .reason = reason,
                         .sub = str_or_empty(q->subresource),
                         .ns = str_or_empty(q->ns),
                         .name = str_or_empty(q->name)};
    if (!*node) return no(&x, arena_printf(a, "unknown node for user \"%s\"", q->user->name));
    const struct special *s = special_find(q);
    if (s) return s->decide(&x);
    for (size_t i = 0; i < g->rules.n; i++)
        if (rule_allows(&g->rules.items[i], q)) return AUTHZ_ALLOW;
    return AUTHZ_NO_OPINION;
}
