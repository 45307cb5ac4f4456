/* The authorizer: RBAC, the Node mode, and the objects that a cluster starts with. */
#include "apiserver/auth/authz.h"
#include "apiserver/auth/bootstrap.h"
#include "apiserver/auth/internal.h"
#include "tests/test.h"

/* ---- RBAC ---- */

static struct authz *authz_make(const char *modes) {
    struct authz *z = NULL;
    struct err e = {0};
    if (authz_new(modes, NULL, &z, &e) < 0) TEST_FAIL("%s", e.msg);
    return z;
}

static void feed(struct authz *z, const char *resource, const char *ns, const char *name, const char *json) {
    bool core = str_eq(resource, "pods") || str_eq(resource, "persistentvolumes");
    authz_feed(z,
               core                                    ? ""
               : str_eq(resource, "volumeattachments") ? "storage.k8s.io"
                                                       : "rbac.authorization.k8s.io",
               resource, ns, name, json, json ? strlen(json) : 0);
}

static const char *groups_jane[] = {"dev", "system:authenticated"};
static const struct user_info jane = {.name = "jane", .uid = "", .groups = groups_jane, .n_groups = 2};
static const char *groups_root[] = {"system:masters"};
static const struct user_info root = {.name = "root", .uid = "", .groups = groups_root, .n_groups = 1};
static const struct user_info robot = {.name = "system:serviceaccount:ns:sa", .uid = ""};

static bool can(struct authz *z, const struct user_info *u, const char *verb, const char *group, const char *resource,
                const char *sub, const char *ns, const char *name) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz_attrs q = {.user = u,
                            .verb = verb,
                            .resource_request = true,
                            .group = group,
                            .version = "v1",
                            .resource = resource,
                            .subresource = sub,
                            .ns = ns,
                            .name = name};
    return authz_decide(z, a, &q, NULL) == AUTHZ_ALLOW;
}

static bool can_path(struct authz *z, const struct user_info *u, const char *path) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz_attrs q = {.user = u, .verb = "get", .path = path};
    return authz_decide(z, a, &q, NULL) == AUTHZ_ALLOW;
}

static const char reader_role[] =
    "{\"rules\":[{\"verbs\":[\"get\",\"list\"],\"apiGroups\":[\"\"],\"resources\":[\"pods\",\"pods/log\"]},"
    "{\"verbs\":[\"get\"],\"apiGroups\":[\"apps\"],\"resources\":[\"*/scale\"]},"
    "{\"verbs\":[\"update\"],\"apiGroups\":[\"\"],\"resources\":[\"configmaps\"],\"resourceNames\":[\"mine\"]}]}";

TEST(rules_allow_what_they_name_and_no_more) {
    struct authz *z = authz_make("RBAC");
    feed(z, "clusterroles", NULL, "reader", reader_role);
    CHECK(!can(z, &jane, "get", "", "pods", "", "ns", "p"));
    feed(z, "rolebindings", "ns", "b",
         "{\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"reader\"},\"subjects\":[{\"kind\":\"Group\","
         "\"name\":\"dev\"}]}");
    CHECK(can(z, &jane, "get", "", "pods", "", "ns", "p"));
    CHECK(can(z, &jane, "get", "", "pods", "log", "ns", "p"));
    CHECK(!can(z, &jane, "get", "", "pods", "exec", "ns", "p"));
    CHECK(!can(z, &jane, "get", "", "pods", "", "other", "p"));
    CHECK(!can(z, &jane, "list", "", "pods", "", "", ""));
    CHECK(!can(z, &jane, "delete", "", "pods", "", "ns", "p"));
    CHECK(!can(z, &jane, "get", "apps", "pods", "", "ns", "p"));
    CHECK(can(z, &jane, "get", "apps", "deployments", "scale", "ns", "d"));
    CHECK(!can(z, &jane, "get", "apps", "deployments", "", "ns", "d"));
    CHECK(can(z, &jane, "update", "", "configmaps", "", "ns", "mine"));
    CHECK(!can(z, &jane, "update", "", "configmaps", "", "ns", "yours"));
    CHECK(!can(z, &jane, "update", "", "configmaps", "", "ns", ""));
    CHECK(can(z, &root, "delete", "any", "thing", "", "ns", "x"));
    feed(z, "rolebindings", "ns", "b", NULL);
    CHECK(!can(z, &jane, "get", "", "pods", "", "ns", "p"));
    authz_free(z);
}

TEST(bindings_follow_changes_and_match_every_kind_of_subject) {
    struct authz *z = authz_make("RBAC");
    feed(z, "roles", "ns", "r", "{\"rules\":[{\"verbs\":[\"*\"],\"apiGroups\":[\"*\"],\"resources\":[\"*\"]}]}");
    feed(z, "rolebindings", "ns", "b",
         "{\"roleRef\":{\"kind\":\"Role\",\"name\":\"r\"},\"subjects\":[{\"kind\":\"ServiceAccount\","
         "\"name\":\"sa\"}]}");
    CHECK(can(z, &robot, "delete", "x", "y", "z", "ns", "n"));
    CHECK(!can(z, &robot, "delete", "x", "y", "z", "other", "n"));
    feed(z, "rolebindings", "ns", "b",
         "{\"roleRef\":{\"kind\":\"Role\",\"name\":\"r\"},\"subjects\":[{\"kind\":\"User\",\"name\":\"jane\"}]}");
    CHECK(!can(z, &robot, "delete", "x", "y", "z", "ns", "n"));
    CHECK(can(z, &jane, "delete", "x", "y", "z", "ns", "n"));
    feed(z, "roles", "ns", "r", NULL);
    CHECK(!can(z, &jane, "delete", "x", "y", "z", "ns", "n"));
    feed(z, "clusterroles", NULL, "urls",
         "{\"rules\":[{\"verbs\":[\"get\"],\"nonResourceURLs\":[\"/healthz\",\"/apis/*\"]}]}");
    feed(z, "clusterrolebindings", NULL, "u",
         "{\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"urls\"},\"subjects\":[{\"kind\":\"User\","
         "\"name\":\"jane\"}]}");
    CHECK(can_path(z, &jane, "/healthz"));
    CHECK(can_path(z, &jane, "/apis/apps"));
    CHECK(!can_path(z, &jane, "/healthz/x"));
    CHECK(!can_path(z, &robot, "/healthz"));
    authz_free(z);
}

TEST(refusals_use_the_words_of_kubernetes) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz *z = authz_make("Node,RBAC");
    _cleanup_err_ struct err e = {0};
    struct authz_attrs q = {
        .user = &jane, .verb = "list", .resource_request = true, .group = "", .resource = "pods", .ns = "default"};
    CHECK(authz_check(z, a, &q, &e) < 0);
    CHECK_INT(e.status, 403);
    CHECK_STR(e.msg,
              "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace "
              "\"default\"");
    err_done(&e);
    q = (struct authz_attrs){.user = &jane,
                             .verb = "get",
                             .resource_request = true,
                             .group = "apps",
                             .resource = "deployments",
                             .subresource = "scale",
                             .name = "d"};
    authz_check(z, a, &q, &e);
    CHECK_STR(
        e.msg,
        "deployments.apps \"d\" is forbidden: User \"jane\" cannot get resource \"deployments/scale\" in API group "
        "\"apps\" at the cluster scope");
    err_done(&e);
    q = (struct authz_attrs){.user = &jane, .verb = "get", .path = "/x<y"};
    authz_check(z, a, &q, &e);
    CHECK_STR(e.msg, "forbidden: User \"jane\" cannot get path \"/x&lt;y\"");
    struct authz *bad = NULL;
    CHECK_INT(authz_new("RBAC,Magic", NULL, &bad, NULL), -EINVAL);
    authz_free(z);
}

static struct json *parse(struct arena *a, const char *text) {
    struct json *v = NULL;
    if (json_parse(a, text, strlen(text), &v, NULL, NULL) < 0) TEST_FAIL("not JSON: %s", text);
    return v;
}

TEST(nobody_grants_what_he_does_not_hold) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz *z = authz_make("RBAC");
    feed(z, "clusterroles", NULL, "reader", reader_role);
    feed(z, "rolebindings", "ns", "b",
         "{\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"reader\"},\"subjects\":[{\"kind\":\"User\","
         "\"name\":\"jane\"}]}");
    struct json *ok = parse(a,
                            "{\"kind\":\"Role\",\"metadata\":{\"name\":\"x\",\"namespace\":\"ns\"},"
                            "\"rules\":[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"pods\"]}]}");
    struct json *more =
        parse(a,
              "{\"kind\":\"Role\",\"metadata\":{\"name\":\"x\",\"namespace\":\"ns\"},\"rules\":[{\"verbs\":[\"get\","
              "\"delete\",\"patch\"],\"apiGroups\":[\"\"],\"resources\":[\"pods\"]}]}");
    _cleanup_err_ struct err e = {0};
    CHECK_INT(authz_check_role_write(z, a, &jane, ok, NULL, &e), 0);
    CHECK(authz_check_role_write(z, a, &jane, more, NULL, &e) < 0);
    CHECK_STR(e.msg,
              "roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"jane\" (groups=[\"dev\" "
              "\"system:authenticated\"]) is "
              "attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], "
              "Verbs:[\"delete\" \"patch\"]}");
    err_done(&e);
    CHECK_INT(authz_check_role_write(z, a, &jane, more, more, &e), 0);
    CHECK_INT(authz_check_role_write(z, a, &root, more, NULL, &e), 0);
    struct json *bind = parse(a,
                              "{\"kind\":\"RoleBinding\",\"metadata\":{\"name\":\"y\",\"namespace\":\"ns\"},"
                              "\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"all\"}}");
    CHECK(authz_check_binding_write(z, a, &jane, bind, NULL, &e) < 0);
    CHECK_INT(e.status, 404);
    err_done(&e);
    feed(z, "clusterroles", NULL, "all",
         "{\"rules\":[{\"verbs\":[\"*\"],\"apiGroups\":[\"*\"],\"resources\":[\"*\"]}]}");
    CHECK(authz_check_binding_write(z, a, &jane, bind, NULL, &e) < 0);
    CHECK_INT(e.status, 403);
    feed(z, "roles", "ns", "binder",
         "{\"rules\":[{\"verbs\":[\"bind\"],\"apiGroups\":[\"rbac.authorization.k8s.io\"],"
         "\"resources\":[\"clusterroles\"],\"resourceNames\":[\"all\"]}]}");
    feed(z, "rolebindings", "ns", "c",
         "{\"roleRef\":{\"kind\":\"Role\",\"name\":\"binder\"},\"subjects\":[{\"kind\":\"User\",\"name\":\"jane\"}]}");
    CHECK_INT(authz_check_binding_write(z, a, &jane, bind, NULL, NULL), 0);
    authz_free(z);
}

TEST(impersonation_is_authorised_and_replaces_the_user) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz *z = authz_make("RBAC");
    struct impersonation i = {.user = "bob"};
    struct user_info u = jane;
    _cleanup_err_ struct err e = {0};
    CHECK(authn_impersonate(z, a, &i, &u, &e) < 0);
    CHECK_INT(e.status, 403);
    feed(z, "clusterroles", NULL, "imp",
         "{\"rules\":[{\"verbs\":[\"impersonate\"],\"apiGroups\":[\"\"],\"resources\":[\"users\"]}]}");
    feed(z, "clusterrolebindings", NULL, "i",
         "{\"roleRef\":{\"kind\":\"ClusterRole\",\"name\":\"imp\"},\"subjects\":[{\"kind\":\"User\","
         "\"name\":\"jane\"}]}");
    CHECK_INT(authn_impersonate(z, a, &i, &u, NULL), 0);
    CHECK_STR(u.name, "bob");
    REQUIRE(u.n_groups == 1);
    CHECK_STR(u.groups[0], "system:authenticated");
    const char *groups[] = {"system:masters"};
    i.groups = groups;
    i.n_groups = 1;
    u = jane;
    CHECK(authn_impersonate(z, a, &i, &u, NULL) < 0);
    u = root;
    CHECK_INT(authn_impersonate(z, a, &i, &u, NULL), 0);
    CHECK_INT(u.n_groups, 2);
    i = (struct impersonation){.groups = groups, .n_groups = 1};
    err_done(&e);
    CHECK(authn_impersonate(z, a, &i, &u, &e) < 0);
    CHECK_INT(e.status, 400);
    i = (struct impersonation){.user = "system:serviceaccount:ns:sa"};
    u = root;
    CHECK_INT(authn_impersonate(z, a, &i, &u, NULL), 0);
    REQUIRE(u.n_groups == 3);
    CHECK_STR(u.groups[1], "system:serviceaccounts:ns");
    authz_free(z);
}

/* ---- nodes ---- */

static const char *groups_node[] = {"system:nodes", "system:authenticated"};
static const struct user_info n1 = {.name = "system:node:n1", .uid = "", .groups = groups_node, .n_groups = 2};
static const struct user_info n2 = {.name = "system:node:n2", .uid = "", .groups = groups_node, .n_groups = 2};

TEST(a_node_reads_only_what_its_pods_need) {
    struct authz *z = authz_make("Node,RBAC");
    CHECK(!can(z, &n1, "get", "", "secrets", "", "ns", "s1"));
    feed(z, "pods", "ns", "p",
         "{\"spec\":{\"nodeName\":\"n1\",\"serviceAccountName\":\"sa\",\"imagePullSecrets\":[{\"name\":\"pull\"}],"
         "\"containers\":[{\"env\":[{\"valueFrom\":{\"configMapKeyRef\":{\"name\":\"cm\"}}}],"
         "\"envFrom\":[{\"secretRef\":{\"name\":\"s1\"}}]}],\"volumes\":[{\"name\":\"v\","
         "\"persistentVolumeClaim\":{\"claimName\":\"c\"}},{\"name\":\"e\",\"ephemeral\":{}},"
         "{\"projected\":{\"sources\":[{\"configMap\":{\"name\":\"root-ca\"}}]}}]}}");
    static const struct {
        const char *resource, *name;
    } needed[] = {{"secrets", "s1"},
                  {"secrets", "pull"},
                  {"configmaps", "cm"},
                  {"configmaps", "root-ca"},
                  {"persistentvolumeclaims", "c"},
                  {"persistentvolumeclaims", "p-e"},
                  {"pods", "p"},
                  {"serviceaccounts", "sa"}};
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        CHECK(can(z, &n1, "get", "", needed[i].resource, "", "ns", needed[i].name));
        CHECK(!can(z, &n2, "get", "", needed[i].resource, "", "ns", needed[i].name));
        CHECK(!can(z, &n1, "get", "", needed[i].resource, "", "other", needed[i].name));
    }
    CHECK(can(z, &n1, "create", "", "serviceaccounts", "token", "ns", "sa"));
    CHECK(!can(z, &n1, "create", "", "serviceaccounts", "token", "ns", "sa2"));
    CHECK(!can(z, &n1, "delete", "", "secrets", "", "ns", "s1"));
    CHECK(!can(z, &n1, "list", "", "secrets", "", "ns", ""));
    feed(z, "pods", "ns", "p", NULL);
    CHECK(!can(z, &n1, "get", "", "secrets", "", "ns", "s1"));
    authz_free(z);
}

struct late_feed {
    struct authz *z;
    int calls;
};

static void feed_pod_late(void *arg) {
    struct late_feed *f = arg;
    f->calls++;
    feed(f->z, "pods", "ns", "p", "{\"spec\":{\"nodeName\":\"n1\",\"imagePullSecrets\":[{\"name\":\"s\"}]}}");
}

TEST(late_feeding_happens_when_a_node_asks_what_its_pods_need) {
    struct late_feed f = {.z = authz_make("Node,RBAC")};
    authz_feed_late(f.z, feed_pod_late, &f);
    can(f.z, &jane, "get", "", "secrets", "", "ns", "s");
    CHECK(can(f.z, &n1, "update", "", "nodes", "status", "", "n1"));
    CHECK_INT(f.calls, 0);
    CHECK(can(f.z, &n1, "get", "", "secrets", "", "ns", "s"));
    CHECK_INT(f.calls, 1);
    CHECK(!can(f.z, &n2, "get", "", "secrets", "", "ns", "s"));
    CHECK(authz_wants(f.z, "", "pods"));
    authz_free(f.z);
    struct authz *rbac = authz_make("RBAC");
    CHECK(!authz_wants(rbac, "", "pods"));
    CHECK(authz_wants(rbac, "rbac.authorization.k8s.io", "roles"));
    authz_free(rbac);
}

TEST(a_node_reaches_volumes_through_claims) {
    struct authz *z = authz_make("Node");
    feed(z, "persistentvolumes", NULL, "pv",
         "{\"spec\":{\"claimRef\":{\"namespace\":\"ns\",\"name\":\"c\"},"
         "\"csi\":{\"nodeStageSecretRef\":{\"namespace\":\"sec\",\"name\":\"key\"}}}}");
    CHECK(!can(z, &n1, "get", "", "persistentvolumes", "", "", "pv"));
    feed(z, "pods", "ns", "p",
         "{\"spec\":{\"nodeName\":\"n1\",\"volumes\":[{\"persistentVolumeClaim\":{\"claimName\":\"c\"}}]}}");
    CHECK(can(z, &n1, "get", "", "persistentvolumes", "", "", "pv"));
    CHECK(can(z, &n1, "get", "", "secrets", "", "sec", "key"));
    CHECK(!can(z, &n2, "get", "", "secrets", "", "sec", "key"));
    feed(z, "persistentvolumes", NULL, "pv", NULL);
    CHECK(!can(z, &n1, "get", "", "secrets", "", "sec", "key"));
    feed(z, "volumeattachments", NULL, "va", "{\"spec\":{\"nodeName\":\"n1\"}}");
    CHECK(can(z, &n1, "get", "storage.k8s.io", "volumeattachments", "", "", "va"));
    CHECK(!can(z, &n2, "get", "storage.k8s.io", "volumeattachments", "", "", "va"));
    authz_free(z);
}

TEST(a_node_keeps_to_its_own_node_lease_and_pods) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz *z = authz_make("Node");
    CHECK(can(z, &n1, "get", "", "nodes", "", "", "n1"));
    CHECK(!can(z, &n1, "get", "", "nodes", "", "", "n2"));
    CHECK(!can(z, &n1, "list", "", "nodes", "", "", ""));
    CHECK(can(z, &n1, "patch", "", "nodes", "status", "", "n1"));
    CHECK(can(z, &n1, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"));
    CHECK(!can(z, &n1, "update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2"));
    CHECK(!can(z, &n1, "update", "coordination.k8s.io", "leases", "", "kube-system", "n1"));
    CHECK(can(z, &n1, "list", "", "services", "", "", ""));
    CHECK(can(z, &n1, "create", "", "events", "", "ns", ""));
    CHECK(can(z, &n1, "create", "certificates.k8s.io", "certificatesigningrequests", "", "", ""));
    CHECK(!can(z, &n1, "delete", "", "namespaces", "", "", "ns"));
    static const char *const n1_name[] = {"n1"}, *const n12_name[] = {"n12"}, *const running[] = {"Running"};
    static const struct authz_requirement own[] = {{"status.phase", "In", running, 1},
                                                   {"spec.nodeName", "In", n1_name, 1}},
                                          other = {"spec.nodeName", "In", n12_name, 1},
                                          but_own = {"spec.nodeName", "NotIn", n1_name, 1};
    struct authz_attrs q = {.user = &n1,
                            .verb = "watch",
                            .resource_request = true,
                            .group = "",
                            .resource = "pods",
                            .fields = {own + 1, 1}};
    CHECK_INT(authz_decide(z, a, &q, NULL), AUTHZ_ALLOW);
    q.fields = (struct authz_selector){own, 2};
    CHECK_INT(authz_decide(z, a, &q, NULL), AUTHZ_ALLOW);
    q.fields = (struct authz_selector){&other, 1};
    CHECK_INT(authz_decide(z, a, &q, NULL), AUTHZ_NO_OPINION);
    q.fields = (struct authz_selector){&but_own, 1};
    CHECK_INT(authz_decide(z, a, &q, NULL), AUTHZ_NO_OPINION);
    q.fields = (struct authz_selector){0};
    CHECK_INT(authz_decide(z, a, &q, NULL), AUTHZ_NO_OPINION);
    authz_free(z);
}

/* ---- default objects ---- */

static const struct json *find(const struct json *all, const char *kind, const char *name) {
    const struct json *o;
    JSON_FOREACH(o, all)
        if (str_eq(json_get_str(o, "kind"), kind) && str_eq(json_get_str(json_get(o, "metadata"), "name"), name))
            return o;
    return NULL;
}

TEST(default_objects_make_a_working_authorizer) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct authz *z = authz_make("RBAC");
    struct json *all = bootstrap_objects(a, &(struct bootstrap_config){.service_cidr = "10.96.0.0/16"}), *o;
    JSON_FOREACH(o, all) {
        const char *kind = json_get_str(o, "kind"), *text = json_text(a, o);
        const struct json *meta = json_get(o, "metadata");
        const char *resource = str_eq(kind, "ClusterRole")          ? "clusterroles"
                               : str_eq(kind, "Role")               ? "roles"
                               : str_eq(kind, "ClusterRoleBinding") ? "clusterrolebindings"
                               : str_eq(kind, "RoleBinding")        ? "rolebindings"
                                                                    : NULL;
        if (resource) feed(z, resource, json_get_str(meta, "namespace"), json_get_str(meta, "name"), text);
    }
    struct user_info scheduler = {.name = "system:kube-scheduler", .uid = ""};
    CHECK(can(z, &scheduler, "create", "", "pods", "binding", "ns", "p"));
    CHECK(!can(z, &scheduler, "get", "", "secrets", "", "ns", "s"));
    CHECK(can_path(z, &jane, "/apis/apps/v1"));
    CHECK(can(z, &jane, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""));
    CHECK(!can(z, &jane, "list", "", "pods", "", "default", ""));
    const struct json *admin = find(all, "ClusterRole", "admin");
    CHECK(json_len(json_get(admin, "rules")) > 10);
    CHECK(json_equal(authz_aggregate(z, a, admin), json_get(admin, "rules")));
    CHECK(find(all, "ServiceCIDR", "kubernetes"));
    CHECK(find(all, "Namespace", "kube-node-lease"));
    struct json *rules = authz_rules(z, a, &jane, "default");
    CHECK(json_len(json_get(rules, "resourceRules")) > 0);
    CHECK(json_len(json_get(rules, "nonResourceRules")) > 0);
    authz_free(z);
}

struct fake {
    struct map objects; /* resource/ns/name -> JSON text */
    int created, updated;
};

static char *fake_key(struct arena *a, const char *resource, const char *ns, const char *name) {
    return arena_printf(a, "%s/%s/%s", resource, str_or_empty(ns), name);
}

static int fake_get(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                    const char *ns, const char *name, struct json **out, struct err *e) {
    struct fake *f = arg;
    const char *text = map_get(&f->objects, fake_key(a, resource, ns, name));
    *out = text ? parse(a, text) : NULL;
    return 0;
}

static int fake_put(struct fake *f, struct arena *a, const char *resource, const char *ns, struct json *obj) {
    const char *name = json_get_str(json_get(obj, "metadata"), "name");
    free(map_put(&f->objects, fake_key(a, resource, ns, name), xstrdup(json_text(a, obj))));
    return 0;
}

static int fake_create(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                       const char *ns, struct json *obj, struct err *e) {
    struct fake *f = arg;
    f->created++;
    return fake_put(f, a, resource, ns, obj);
}

static int fake_update(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                       const char *ns, struct json *obj, struct err *e) {
    struct fake *f = arg;
    f->updated++;
    return fake_put(f, a, resource, ns, obj);
}

TEST(missing_default_objects_and_rules_come_back) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct fake f = {0};
    struct bootstrap_ops ops = {.arg = &f, .get = fake_get, .create = fake_create, .update = fake_update};
    struct bootstrap_config c = {.service_cidr = "10.96.0.0/16", .client_ca_pem = "PEM"};
    CHECK_INT(bootstrap_ensure(&ops, &c, NULL), 0);
    CHECK(f.created > 170);
    int created = f.created;
    CHECK_INT(bootstrap_ensure(&ops, &c, NULL), 0);
    CHECK_INT(f.created, created);
    CHECK_INT(f.updated, 0);
    struct json *role;
    fake_get(&f, a, "", "", "clusterroles", NULL, "system:basic-user", &role, NULL);
    struct json *rules = json_get(role, "rules");
    CHECK(json_del_at(rules, 0));
    json_append(a, rules, parse(a, "{\"verbs\":[\"get\"],\"apiGroups\":[\"x\"],\"resources\":[\"y\"]}"));
    size_t had = json_len(rules);
    fake_put(&f, a, "clusterroles", NULL, role);
    CHECK_INT(bootstrap_ensure(&ops, &c, NULL), 0);
    CHECK_INT(f.updated, 1);
    fake_get(&f, a, "", "", "clusterroles", NULL, "system:basic-user", &role, NULL);
    CHECK_INT(json_len(json_get(role, "rules")), had + 1);
    map_done_with(&f.objects, free);
}
