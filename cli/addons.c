#include "cli/addons.h"

#include "pkg/json/json.h"

/* Bodies are JSON with two places to fill: none, or the DNS address. */
static const struct {
    const char *path, *body;
    bool storage; /* only with --local-storage */
} addons[] = {
    {"/apis/rbac.authorization.k8s.io/v1/clusterroles",
     "{\"apiVersion\":\"rbac.authorization.k8s.io/"
     "v1\",\"kind\":\"ClusterRole\",\"metadata\":{\"name\":\"system:coracle-dns\"},"
     "\"rules\":[{\"apiGroups\":[\"\"],\"resources\":[\"services\",\"namespaces\"],\"verbs\":[\"list\",\"watch\"]},"
     "{\"apiGroups\":[\"discovery.k8s.io\"],\"resources\":[\"endpointslices\"],\"verbs\":[\"list\",\"watch\"]}]}"},
    {"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     "{\"apiVersion\":\"rbac.authorization.k8s.io/"
     "v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"system:coracle-dns\"},"
     "\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"system:coracle-dns\"}"
     ","
     "\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"User\",\"name\":\"system:coracle-dns\"},"
     "{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:nodes\"}]}"},
    {"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     "{\"apiVersion\":\"rbac.authorization.k8s.io/"
     "v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"coracle:node-proxier\"},"
     "\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"system:node-"
     "proxier\"},"
     "\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:nodes\"}]}"},
    {"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     "{\"apiVersion\":\"rbac.authorization.k8s.io/"
     "v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"coracle:node-bootstrapper\"},"
     "\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"system:node-"
     "bootstrapper\"},"
     "\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:bootstrappers\"}]"
     "}"},
    {"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     "{\"apiVersion\":\"rbac.authorization.k8s.io/"
     "v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"coracle:node-autoapprove-bootstrap\"},"
     "\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\","
     "\"name\":\"system:certificates.k8s.io:certificatesigningrequests:nodeclient\"},"
     "\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:bootstrappers\"}]"
     "}"},
    {"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     "{\"apiVersion\":\"rbac.authorization.k8s.io/"
     "v1\",\"kind\":\"ClusterRoleBinding\",\"metadata\":{\"name\":\"coracle:node-autoapprove-rotation\"},"
     "\"roleRef\":{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\","
     "\"name\":\"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient\"},"
     "\"subjects\":[{\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Group\",\"name\":\"system:nodes\"}]}"},
    /* the address is the DNS server's own on every node: the label keeps the proxy away from it */
    {"/api/v1/namespaces/kube-system/services",
     "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"kube-dns\",\"namespace\":\"kube-system\","
     "\"labels\":{\"k8s-app\":\"kube-dns\",\"kubernetes.io/name\":\"CoreDNS\","
     "\"service.kubernetes.io/service-proxy-name\":\"coracle-dns\"}},"
     "\"spec\":{\"clusterIP\":\"@DNS@\",\"ports\":[{\"name\":\"dns\",\"port\":53,\"protocol\":\"UDP\"},"
     "{\"name\":\"dns-tcp\",\"port\":53,\"protocol\":\"TCP\"}]}}"},
    {"/apis/storage.k8s.io/v1/storageclasses",
     "{\"apiVersion\":\"storage.k8s.io/v1\",\"kind\":\"StorageClass\",\"metadata\":{\"name\":\"local-path\","
     "\"annotations\":{\"storageclass.kubernetes.io/is-default-class\":\"true\"}},\"provisioner\":\"coracle.io/"
     "local-path\","
     "\"reclaimPolicy\":\"Delete\",\"volumeBindingMode\":\"WaitForFirstConsumer\"}",
     true},
};

static int call(struct client *c, const char *method, const char *path, const char *body, struct err *e) {
    struct client_request rq = {.method = method, .path = path, .body = body, .body_len = body ? strlen(body) : 0};
    struct client_response rs = {0};
    int r = client_do(c, &rq, &rs, e);
    client_response_done(&rs);
    return r;
}

/* A Service that is there already is refused for its address, which is taken (by itself), before its name. */
static bool exists(const struct layout *l, struct client *c, const char *path, const char *body) {
    struct json *o;
    if (json_parse(l->a, body, strlen(body), &o, NULL, NULL) < 0) return false;
    return call(c, "GET", arena_printf(l->a, "%s/%s", path, json_get_str(json_get(o, "metadata"), "name")), NULL,
                NULL) == 0;
}

int addons_ensure(const struct layout *l, struct client *c, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(addons); i++) {
        if (addons[i].storage && !str_eq(l->local_storage, "true")) continue;
        const char *at = strstr(addons[i].body, "@DNS@");
        const char *body =
            at ? arena_printf(l->a, "%.*s%s%s", (int)(at - addons[i].body), addons[i].body, l->cluster_dns, at + 5)
               : addons[i].body;
        _cleanup_err_ struct err why = {0};
        int r = call(c, "POST", addons[i].path, body, &why);
        if (r < 0 && !client_err_exists(&why) && !exists(l, c, addons[i].path, body))
            return err_set(e, r, "cannot set up the cluster: %s", why.msg);
    }
    return 0;
}
