/* ServiceAccount controller: every namespace has a ServiceAccount "default" (upstream
 * pkg/controller/serviceaccount). */
#include "util.h"

struct sa_controller {
    struct manager *m;
    struct workqueue *q;
};

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct sa_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_namespaces), key);
    if (!o) return 0;
    const struct core_namespace *ns = o->obj;
    if (ns->metadata.deletion_timestamp.set || str_eq(ns->status.phase, "Terminating")) return 0;
    _cleanup_object_ struct object *have =
        informer_get_ns(manager_informer(c->m, &client_serviceaccounts), key, "default");
    if (have) return 0;
    struct core_service_account sa = {.metadata = {.name = "default", .namespace = key}};
    struct client_opts opts = {.cause = o->rv};
    _cleanup_err_ struct err local = {0};
    int r = client_create(c->m->client, a, &client_serviceaccounts, key, &sa, &opts, NULL, &local);
    if (r == 0 || client_err_exists(&local) || client_err_namespace_terminating(&local)) return 0;
    err_move(e, &local);
    return r;
}

static void deleted(void *arg, struct object *o) {
    struct sa_controller *c = arg;
    if (str_eq(o->meta->name, "default")) workqueue_add(c->q, str_or_empty(o->meta->namespace));
}

int serviceaccount_start(struct manager *m, struct err *e) {
    struct sa_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "serviceaccount", 1, reconcile, c, &client_namespaces, &client_serviceaccounts, NULL);
    manager_watch_keys(m, &client_namespaces, c->q);
    struct informer_handler h = {.on_delete = deleted, .arg = c};
    informer_add_handler(manager_informer(m, &client_serviceaccounts), &h);
    return 0;
}
