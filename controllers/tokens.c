/* Long-lived tokens of ServiceAccounts: fills Secrets of type kubernetes.io/service-account-token that name
 * an account, and deletes those whose account is gone (upstream pkg/controller/serviceaccount, tokens
 * controller). The token comes from the API server's TokenRequest, bound to the Secret, so that deleting the
 * Secret ends it. */
#include "util.h"

enum { CA_MAX = 1024 * 1024, TOKEN_SECONDS = 10 * 365 * 86400 };
#define TYPE "kubernetes.io/service-account-token"
#define ACCOUNT "kubernetes.io/service-account.name"
#define ACCOUNT_UID "kubernetes.io/service-account.uid"

struct token_controller {
    struct manager *m;
    struct workqueue *q, *accounts; /* accounts: only with --legacy-service-account-tokens */
    struct informer *secrets;       /* of the type only: other secrets are nobody's business here */
    char *ca;
};

static const struct bytes *data_of(const struct core_secret *s, const char *key) {
    for (size_t i = 0; i < s->data.n; i++)
        if (strcmp(s->data.items[i].key, key) == 0) return &s->data.items[i].value;
    return NULL;
}

static struct bytes bytes_of(const char *s) { return (struct bytes){(const uint8_t *)s, strlen(s)}; }

static int fill(struct token_controller *c, struct arena *a, const struct core_secret *s, const char *account,
                const char *uid, struct err *e) {
    struct client_token_request rq = {.ns = s->metadata.namespace,
                                      .service_account = account,
                                      .expiration_seconds = TOKEN_SECONDS,
                                      .bound_kind = "Secret",
                                      .bound_name = s->metadata.name,
                                      .bound_uid = s->metadata.uid};
    struct client_token t;
    int r = client_create_token(c->m->client, a, &rq, &t, e);
    if (r < 0) return r;
    struct core_secret fresh = *s;
    fresh.data.items = arena_alloc(a, (s->data.n + 3) * sizeof(*fresh.data.items));
    fresh.data.n = 0;
    for (size_t i = 0; i < s->data.n; i++) {
        const char *k = s->data.items[i].key;
        if (strcmp(k, "ca.crt") && strcmp(k, "namespace") && strcmp(k, "token"))
            fresh.data.items[fresh.data.n++] = s->data.items[i];
    }
    if (c->ca) fresh.data.items[fresh.data.n++] = (struct bytes_map_entry){"ca.crt", bytes_of(c->ca)};
    fresh.data.items[fresh.data.n++] = (struct bytes_map_entry){"namespace", bytes_of(s->metadata.namespace)};
    fresh.data.items[fresh.data.n++] = (struct bytes_map_entry){"token", bytes_of(t.token)};
    map_set(a, &fresh.metadata.annotations, ACCOUNT_UID, uid);
    struct client_opts o = {.cause = s->metadata.resource_version};
    return client_update(c->m->client, a, &client_secrets, s->metadata.namespace, &fresh, &o, NULL, e);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct token_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(c->secrets, key);
    if (!o) return 0;
    const struct core_secret *s = o->obj;
    const char *account = str_map_get(&s->metadata.annotations, ACCOUNT),
               *uid = str_map_get(&s->metadata.annotations, ACCOUNT_UID);
    if (str_empty(account) || s->metadata.deletion_timestamp.set) return 0;
    struct core_service_account sa;
    _cleanup_err_ struct err ge = {0};
    int r = client_get(c->m->client, a, &client_serviceaccounts, s->metadata.namespace, account, &sa, &ge);
    bool gone = (r < 0 && client_err_not_found(&ge)) || (r == 0 && !str_empty(uid) && !str_eq(uid, sa.metadata.uid));
    if (gone) {
        struct client_delete_opts d = {.cause = o->rv, .uid = s->metadata.uid};
        r = client_delete(c->m->client, &client_secrets, s->metadata.namespace, s->metadata.name, &d, &ge);
        return r < 0 && !client_err_not_found(&ge) ? err_set(e, r, "%s", ge.msg) : 0;
    }
    if (r < 0) {
        err_move(e, &ge);
        return r;
    }
    if (data_of(s, "token") && data_of(s, "namespace") && (data_of(s, "ca.crt") || !c->ca) && !str_empty(uid)) return 0;
    return fill(c, a, s, account, sa.metadata.uid, e);
}

/* ---- Secrets that nobody asked for, for clients that expect them ---- */

static const char *secret_of(struct token_controller *c, struct arena *a, const struct core_service_account *sa) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(c->secrets, sa->metadata.namespace, &l);
    for (size_t i = 0; i < l.n; i++)
        if (str_eq(str_map_get(&l.items[i]->meta->annotations, ACCOUNT), sa->metadata.name))
            return arena_strdup(a, l.items[i]->meta->name);
    return NULL;
}

static int give_secret(void *arg, struct arena *a, const char *key, struct err *e) {
    struct token_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_serviceaccounts), key);
    if (!o) return 0;
    const struct core_service_account *sa = o->obj;
    if (sa->metadata.deletion_timestamp.set || sa->secrets.n) return 0;
    const char *name = secret_of(c, a, sa);
    if (!name) {
        struct core_secret s = {.type = TYPE}, made;
        s.metadata.namespace = sa->metadata.namespace;
        s.metadata.generate_name = arena_printf(a, "%s-token-", sa->metadata.name);
        map_set(a, &s.metadata.annotations, ACCOUNT, sa->metadata.name);
        map_set(a, &s.metadata.annotations, ACCOUNT_UID, sa->metadata.uid);
        struct client_opts opts = {.cause = o->rv};
        _cleanup_err_ struct err local = {0};
        int r = client_create(c->m->client, a, &client_secrets, sa->metadata.namespace, &s, &opts, &made, &local);
        if (r < 0 && client_err_namespace_terminating(&local)) return 0;
        if (r < 0) {
            err_move(e, &local);
            return r;
        }
        name = made.metadata.name;
    }
    struct core_service_account fresh = *sa;
    struct core_object_reference ref = {.name = name};
    fresh.secrets.items = &ref;
    fresh.secrets.n = 1;
    struct client_opts opts = {.cause = o->rv};
    return client_update(c->m->client, a, &client_serviceaccounts, sa->metadata.namespace, &fresh, &opts, NULL, e);
}

static void account_set(void *arg, struct object *o) {
    struct token_controller *c = arg;
    if (c->accounts) workqueue_add(c->accounts, o->key);
}
static void account_updated(void *arg, struct object *old, struct object *o) { account_set(arg, o); }

/* ---- what leads to a reconcile ---- */

static void secret_set(void *arg, struct object *o) { workqueue_add(((struct token_controller *)arg)->q, o->key); }
static void secret_updated(void *arg, struct object *old, struct object *o) { secret_set(arg, o); }

static void account_gone(void *arg, struct object *o) {
    struct token_controller *c = arg;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(c->secrets, o->meta->namespace, &l);
    for (size_t i = 0; i < l.n; i++)
        if (str_eq(str_map_get(&l.items[i]->meta->annotations, ACCOUNT), o->meta->name))
            workqueue_add(c->q, l.items[i]->key);
}

static void done(void *p) { free(((struct token_controller *)p)->ca); }

int serviceaccounttoken_start(struct manager *m, struct err *e) {
    struct token_controller *c = manager_alloc(m, sizeof(*c), done);
    struct informer_opts only = {.field_selector = "type=" TYPE};
    size_t n;
    if (!str_empty(m->opt.root_ca_file)) {
        int r = file_read(m->opt.root_ca_file, CA_MAX, &c->ca, &n);
        if (r < 0) return err_errno(e, r, "--root-ca-file %s", m->opt.root_ca_file);
    }
    c->m = m;
    c->q = manager_queue(m, "serviceaccount-token", 1, reconcile, c, &client_serviceaccounts, NULL);
    c->secrets = manager_own_informer(m, &client_secrets, &only);
    manager_queue_needs(m, c->q, c->secrets);
    if (m->opt.legacy_tokens) {
        c->accounts = manager_queue(m, "serviceaccount-legacy-token", 1, give_secret, c, &client_serviceaccounts, NULL);
        manager_queue_needs(m, c->accounts, c->secrets);
    }
    struct informer_handler secrets = {secret_set, secret_updated, NULL, c},
                            accounts = {account_set, account_updated, account_gone, c};
    informer_add_handler(c->secrets, &secrets);
    informer_add_handler(manager_informer(m, &client_serviceaccounts), &accounts);
    return 0;
}
