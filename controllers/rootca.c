/* Root CA publisher: every namespace has a ConfigMap "kube-root-ca.crt" with the certificate that pods trust
 * the API server by (upstream pkg/controller/certificates/rootcacertpublisher). */
#include "util.h"

enum { CA_MAX = 1024 * 1024 };
#define NAME "kube-root-ca.crt"
#define NOTE "kubernetes.io/description"

struct ca_controller {
    struct manager *m;
    struct workqueue *q;
    struct informer *maps; /* the ConfigMaps of this name only */
    char *pem;
};

static const char about[] =
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such "
    "as the internal "
    "service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters.";

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ca_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_namespaces), key);
    if (!o) return 0;
    const struct core_namespace *ns = o->obj;
    if (ns->metadata.deletion_timestamp.set || str_eq(ns->status.phase, "Terminating")) return 0;
    _cleanup_object_ struct object *have = informer_get_ns(c->maps, key, NAME);
    struct str_map_entry data = {"ca.crt", c->pem};
    struct core_config_map cm = {.metadata = {.name = NAME, .namespace = key}};
    struct client_opts opts = {.cause = o->rv};
    _cleanup_err_ struct err local = {0};
    int r;
    if (have) {
        cm = *(const struct core_config_map *)have->obj;
        if (cm.data.n == 1 && str_eq(str_map_get(&cm.data, "ca.crt"), c->pem) &&
            str_map_get(&cm.metadata.annotations, NOTE))
            return 0;
    }
    cm.data = (struct str_map){&data, 1};
    map_set(a, &cm.metadata.annotations, NOTE, about);
    if (have)
        r = client_update(c->m->client, a, &client_configmaps, key, &cm, &opts, NULL, &local);
    else
        r = client_create(c->m->client, a, &client_configmaps, key, &cm, &opts, NULL, &local);
    if (r == 0 || client_err_exists(&local) || client_err_namespace_terminating(&local)) return 0;
    err_move(e, &local);
    return r;
}

static void changed(void *arg, struct object *o) {
    workqueue_add(((struct ca_controller *)arg)->q, str_or_empty(o->meta->namespace));
}

static void updated(void *arg, struct object *old, struct object *o) { changed(arg, o); }

static void done(void *p) { free(((struct ca_controller *)p)->pem); }

int rootca_start(struct manager *m, struct err *e) {
    if (str_empty(m->opt.root_ca_file)) return 0;
    struct ca_controller *c = manager_alloc(m, sizeof(*c), done);
    size_t n;
    int r = file_read(m->opt.root_ca_file, CA_MAX, &c->pem, &n);
    if (r < 0) return err_errno(e, r, "--root-ca-file %s", m->opt.root_ca_file);
    c->m = m;
    c->q = manager_queue(m, "root-ca-certificate-publisher", 1, reconcile, c, &client_namespaces, NULL);
    c->maps =
        manager_own_informer(m, &client_configmaps, &(struct informer_opts){.field_selector = "metadata.name=" NAME});
    manager_queue_needs(m, c->q, c->maps);
    manager_watch_keys(m, &client_namespaces, c->q);
    struct informer_handler h = {NULL, updated, changed, c};
    informer_add_handler(c->maps, &h);
    return 0;
}
