/* What a fresh cluster holds before anybody has written to it: system namespaces, the default RBAC roles and bindings,
 * priority classes, API priority and fairness objects, service CIDR, CA config map. The objects are declared in
 * bootstrap_data.c, in a compact form of our own; their content is that of Kubernetes v1.36. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/json/json.h"

/* How objects are read and written. ns NULL for cluster-scoped kinds. Objects are trees with apiVersion and kind. */
struct bootstrap_ops {
    void *arg;
    /* *out NULL when absent. */
    int (*get)(void *arg, struct arena *a, const char *group, const char *version, const char *resource, const char *ns,
               const char *name, struct json **out, struct err *e);
    /* -EEXIST (409) is not an error here. */
    int (*create)(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                  const char *ns, struct json *obj, struct err *e);
    /* The object as read by get, changed; its resourceVersion still stands in it. */
    int (*update)(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                  const char *ns, struct json *obj, struct err *e);
};

struct bootstrap_config {
    const char *service_cidr;  /* "10.96.0.0/16"; NULL: no ServiceCIDR object */
    const char *client_ca_pem; /* for kube-system/extension-apiserver-authentication; NULL: left out */
    const char *requestheader_ca_pem;
    /* beside the CA: JSON arrays as text, of allowed names and of header names */
    const char *requestheader_names, *requestheader_user, *requestheader_uid, *requestheader_group,
        *requestheader_extra;
};

/* Creates what is missing. RBAC objects annotated rbac.authorization.kubernetes.io/autoupdate=true (all of these) get
 * missing rules and subjects back; nothing is taken away. Namespaces come first. Returns the first error after having
 * tried all, so that it can simply be called again. */
int bootstrap_ensure(const struct bootstrap_ops *ops, const struct bootstrap_config *c, struct err *e);

/* All default objects as trees (tests, and an authorizer that has to work before anything is stored). */
struct json *bootstrap_objects(struct arena *a, const struct bootstrap_config *c);
