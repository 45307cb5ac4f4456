/* The glue between requests and apiserver/auth: credentials from the connection and headers, impersonation, what a
 * request asks for; and the feed of the authorizer from the watch cache. */
#include "apiserver/asked.h"
#include "apiserver/audit/audit.h"
#include "apiserver/auth/authn.h"
#include "apiserver/auth/authz.h"
#include "apiserver/auth/remote.h"
#include "apiserver/follow.h"
#include "apiserver/frontproxy.h"
#include "apiserver/lookup.h"
#include "apiserver/oidc.h"
#include "apiserver/selector.h"
#include "pkg/base/map.h"

enum { AUTH_FEEDS = 8, MAX_AUDIENCES = 16 };

static bool is_pod(const struct object *o) { return str_eq(o->res->plural, "pods") && !*o->res->group; }
static void unref_object(void *o) { object_unref(o); }

/* A pod without a node means nothing to the Node authorizer, and never did: a pod does not leave its node. */
static bool is_unbound_pod(const struct object *o) {
    for (uint32_t i = 0; i < o->n_fields; i++)
        if (str_eq(o->res->fields[i], "spec.nodeName")) return !o->fields[i].len;
    return false;
}

/* Pods change often and their nodes ask seldom what they refer to: their last states wait here until one asks. */
struct late_pods {
    pthread_mutex_t lock;
    struct map objects; /* key of the pod -> struct object, a reference */
    _Atomic size_t n;
};

static void feed_now(struct apiserver *s, struct object *o, bool gone) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *ns = o->ns_len ? arena_strndup(a, o->key, o->ns_len) : NULL;
    size_t len = 0;
    const char *text = gone ? NULL : object_text(a, o, &len);
    authz_feed(s->authz, o->res->group, o->res->plural, ns, object_name(o), text, len);
}

static void feed_late_pods(void *arg) {
    struct apiserver *s = arg;
    struct late_pods *p = s->late_pods;
    const char *key;
    void *o;
    if (!atomic_load_explicit(&p->n, memory_order_acquire)) return;
    pthread_mutex_lock(&p->lock);
    for (size_t it = 0; map_next(&p->objects, &it, &key, &o);) feed_now(s, o, false);
    map_done_with(&p->objects, unref_object);
    atomic_store_explicit(&p->n, 0, memory_order_release);
    pthread_mutex_unlock(&p->lock);
}

static void feed_object(void *arg, struct object *o, bool gone) {
    struct apiserver *s = arg;
    struct late_pods *p = s->late_pods;
    if (!is_pod(o)) return feed_now(s, o, gone);
    if (is_unbound_pod(o)) return;
    pthread_mutex_lock(&p->lock);
    object_unref(gone ? map_del(&p->objects, o->key) : map_put(&p->objects, o->key, object_ref(o)));
    if (gone) feed_now(s, o, true);
    atomic_store_explicit(&p->n, p->objects.n, memory_order_release);
    pthread_mutex_unlock(&p->lock);
}

static int start_feeds(struct apiserver *s, struct err *e) {
    const struct resource *wanted[AUTH_FEEDS];
    size_t n = 0;
    for (size_t i = 0; i < resource_table_len(s->resources) && n < AUTH_FEEDS; i++) {
        const struct resource *r = resource_table_at(s->resources, i);
        if (r->stored == RES_STORED && !r->storage && authz_wants(s->authz, r->group, r->plural)) wanted[n++] = r;
    }
    s->late_pods = xcalloc(1, sizeof(*s->late_pods));
    pthread_mutex_init(&s->late_pods->lock, NULL);
    authz_feed_late(s->authz, feed_late_pods, s);
    s->auth_feed = follower_new(s->cache, wanted, n, feed_object, NULL, s);
    return s->auth_feed ? 0 : err_set(e, -EAGAIN, "no thread for the authorizer's feed");
}

/* ---- opening ---- */

static int load_keys(struct apiserver *s, struct err *e) {
    const char *files[] = {s->opt.sa_key_file, s->opt.sa_signing_key_file};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *pem = NULL;
        if (str_empty(files[i])) continue;
        int rc = file_read(files[i], 1 << 20, &pem, NULL);
        if (rc) return err_errno(e, rc, "reading %s", files[i]);
        if (!s->keys) s->keys = jwt_keys_new();
        if ((rc = jwt_keys_add_pem(s->keys, pem, e))) return err_wrap(e, "%s", files[i]), rc;
        if (i == 1 && (rc = jwt_signer_new(pem, &s->signer, e))) return rc;
    }
    return 0;
}

static void split_audiences(struct apiserver *s) {
    const char *list = str_empty(s->opt.api_audiences) ? s->opt.sa_issuer : s->opt.api_audiences;
    s->audiences = xcalloc(MAX_AUDIENCES, sizeof(*s->audiences));
    while (list && *list && s->n_audiences < MAX_AUDIENCES) {
        size_t n = strcspn(list, ",");
        if (n) s->audiences[s->n_audiences++] = xstrndup(list, n);
        list += n + (list[n] == ',');
    }
}

static int ask_oidc(void *arg, struct arena *a, const char *token, const char *issuer, struct user_info *out,
                    struct err *e) {
    return oidc_check(((struct apiserver *)arg)->oidc, a, token, issuer, out, e);
}

static int ask_webhook(void *arg, struct arena *a, const char *token, const char *const *want, size_t n_want,
                       const char *const *api, size_t n_api, struct user_info *out, struct json **matched,
                       struct err *e) {
    return token_webhook_check(((struct apiserver *)arg)->token_webhook, a, token, want, n_want, api, n_api, out,
                               matched, e);
}

static int open_token_webhook(struct apiserver *s, struct err *e) {
    struct token_webhook_config c = {s->opt.authn_webhook_file, s->opt.authn_webhook_version,
                                     s->opt.authn_webhook_ttl_ns};
    return str_empty(c.file) ? 0 : token_webhook_new(&c, &s->token_webhook, e);
}

static int open_oidc(struct apiserver *s, struct err *e) {
    bool flags = !str_empty(s->opt.oidc.issuer), file = !str_empty(s->opt.authentication_config);
    if (flags && file) return err_set(e, -EINVAL, "authentication-config file and oidc-* flags are mutually exclusive");
    if (file) return oidc_new_from_file(s->opt.authentication_config, s->opt.sa_issuer, &s->oidc, e);
    return flags ? oidc_new(&s->opt.oidc, &s->oidc, e) : 0;
}

static int open_authz(struct apiserver *s, struct err *e) {
    const struct apiserver_options *o = &s->opt;
    struct access_webhook_config c = {.name = "default",
                                      .file = o->authz_webhook_file,
                                      .version = o->authz_webhook_version,
                                      .allowed_ttl_ns = o->authz_webhook_allowed_ttl_ns,
                                      .denied_ttl_ns = o->authz_webhook_denied_ttl_ns};
    bool hook = !str_empty(c.file), modes = !str_empty(o->authorization_mode);
    if (str_empty(o->authorization_config))
        return authz_new(modes ? o->authorization_mode : "Node,RBAC", hook ? &c : NULL, &s->authz, e);
    if (hook || modes)
        return err_set(e, -EINVAL,
                       "--authorization-config can not be specified when --authorization-mode or "
                       "--authorization-webhook-* flags are defined");
    return authz_new_from_file(o->authorization_config, &s->authz, e);
}

int auth_open(struct apiserver *s, struct err *e) {
    int rc = load_keys(s, e);
    if (!rc) rc = open_token_webhook(s, e);
    if (!rc) rc = open_oidc(s, e);
    if (rc) return rc;
    split_audiences(s);
    const struct oidc_anonymous *an = s->oidc && oidc_anonymous(s->oidc)->configured ? oidc_anonymous(s->oidc) : NULL;
    struct authn_config c = {.issuer = s->opt.sa_issuer,
                             .audiences = s->audiences,
                             .n_audiences = s->n_audiences,
                             .keys = s->keys,
                             .token_file = str_empty(s->opt.token_auth_file) ? NULL : s->opt.token_auth_file,
                             .anonymous = an ? an->enabled : s->opt.anonymous_auth,
                             .anonymous_paths = an ? an->paths : NULL,
                             .n_anonymous_paths = an ? an->n_paths : 0,
                             .bootstrap_tokens = s->opt.bootstrap_tokens,
                             .ask = s->oidc ? ask_oidc : NULL,
                             .review = s->token_webhook ? ask_webhook : NULL,
                             .get = lookup_get,
                             .arg = s};
    if ((rc = authn_new(&c, &s->authn, e))) return rc;
    if ((rc = open_authz(s, e))) return rc;
    return start_feeds(s, e);
}

void auth_close(struct apiserver *s) {
    follower_free(s->auth_feed);
    if (s->late_pods) {
        map_done_with(&s->late_pods->objects, unref_object);
        pthread_mutex_destroy(&s->late_pods->lock);
        free(s->late_pods);
    }
    authz_free(s->authz);
    authn_free(s->authn);
    oidc_free(s->oidc);
    token_webhook_free(s->token_webhook);
    jwt_signer_free(s->signer);
    jwt_keys_free(s->keys);
    for (size_t i = 0; i < s->n_audiences; i++) free((char *)s->audiences[i]);
    free(s->audiences);
}

/* ---- requests ---- */

static char *websocket_token(struct request *q) {
    static const char prefix[] = "base64url.bearer.authorization.k8s.io.";
    const char *v;
    for (size_t i = 0; (v = http_header_n(q->http, "sec-websocket-protocol", i)); i++) {
        const char *p = strstr(v, prefix);
        if (!p) continue;
        p += sizeof(prefix) - 1;
        size_t n = strcspn(p, ", "), len;
        char *out = arena_alloc(q->a, n + 1);
        if (base64url_decode(p, n, out, &len)) return NULL;
        out[len] = 0;
        return out;
    }
    return NULL;
}

static void read_impersonation(struct request *q, struct impersonation *im) {
    static const char extra[] = "impersonate-extra-";
    size_t cap = 0, n = q->http->n_headers;
    im->user = http_header(q->http, "impersonate-user");
    im->uid = http_header(q->http, "impersonate-uid");
    im->groups = arena_alloc(q->a, (n + 1) * sizeof(*im->groups));
    for (size_t i = 0; i < n; i++) {
        const struct http_header *h = &q->http->headers[i];
        if (str_eq(h->name, "impersonate-group")) im->groups[im->n_groups++] = h->value;
        if (!str_has_prefix(h->name, extra)) continue;
        char *key = http_unescape(q->a, h->name + sizeof(extra) - 1, strlen(h->name) - sizeof(extra) + 1, false);
        struct user_extra *x = NULL;
        for (size_t j = 0; j < im->n_extra; j++)
            if (str_eq(im->extra[j].key, key)) x = &im->extra[j];
        if (!x) {
            ARENA_GROW(q->a, im->extra, im->n_extra, cap);
            x = &im->extra[im->n_extra++];
            *x = (struct user_extra){.key = key, .values = arena_alloc(q->a, (n + 1) * sizeof(char *))};
        }
        x->values[x->n++] = h->value;
    }
}

static void facts_of(struct request *q, struct authn_request *r) {
    const struct http_peer *p = q->http->peer;
    *r = (struct authn_request){.cert_given = p->cert_given,
                                .cert_verified = http_peer_verified(p) && p->ca_mask & 1, /* by the client CA */
                                .cert_cn = p->common_name,
                                .cert_uid = p->cert_uid,
                                .cert_sha256 = p->cert_sha256,
                                .cert_orgs = p->organizations,
                                .n_cert_orgs = p->n_organizations,
                                .authorization = http_header(q->http, "authorization"),
                                .websocket_token = websocket_token(q),
                                .path = q->http->path};
}

bool request_authenticates_quickly(struct request *q) {
    struct authn_request r;
    if (authz_blocks(q->s->authz) && http_header(q->http, "impersonate-user")) return false;
    facts_of(q, &r);
    return authn_quick(q->s->authn, q->a, &r);
}

int request_authenticate(struct request *q, struct err *e) {
    struct authn_request r;
    facts_of(q, &r);
    int rc = frontproxy_user(q, &q->user) ? 0 : authn_request(q->s->authn, q->a, &r, &q->user, e);
    bool recorded = audit_begin(q, rc != 0);
    if (rc) return rc;
    if (!recorded)
        return err_status(e, 500, "InternalError", "Internal Server Error: \"%s\": failed to store audit event",
                          q->http->target);
    struct impersonation im = {0};
    read_impersonation(q, &im);
    rc = authn_impersonate(q->s->authz, q->a, &im, &q->user, e);
    if (!rc && im.user) audit_impersonated(q);
    return rc;
}

/* Of a list or watch of one object by ?fieldSelector=metadata.name=x: the name, so that a rule for that name allows it. */
static const char *selected_name(struct request *q) {
    struct selector sel = {0};
    if (!asked_selects(q->verb) || !q->res ||
        selector_parse(q->a, q->res, NULL, http_query(q->http, "fieldSelector"), &sel, NULL) < 0)
        return NULL;
    return sel.only_name;
}

int request_authorize(struct request *q, struct err *e) {
    struct authz_attrs at = {.user = &q->user, .verb = q->verb, .resource_request = q->is_resource};
    if (q->is_resource) {
        at.group = q->group;
        at.version = q->version;
        at.resource = q->plural;
        at.subresource = q->subresource;
        at.ns = q->ns;
        at.name = q->name ? q->name : selected_name(q);
        if (str_eq(q->plural, "namespaces") && str_empty(at.ns)) at.ns = q->name;
        if (asked_selects(q->verb)) {
            at.fields = asked_fields(q->a, http_query(q->http, "fieldSelector"));
            at.labels = asked_labels(q->a, http_query(q->http, "labelSelector"));
        }
    } else {
        at.path = q->http->path;
    }
    const char *reason = NULL, *error = NULL;
    bool allowed = authz_ask(q->s->authz, q->a, &at, &reason, &error) == AUTHZ_ALLOW;
    if (q->audit) {
        audit_annotate(q, "authorization.k8s.io/decision", allowed ? "allow" : "forbid");
        audit_annotate(q, "authorization.k8s.io/reason", error ? "internal error" : str_or_empty(reason));
    }
    if (!allowed && error)
        return err_status(e, 500, "InternalError", "Internal Server Error: \"%s\": %s", q->http->target, error);
    q->forbidden = !allowed;
    return allowed ? 0 : authz_forbidden(q->a, &at, reason, e);
}
