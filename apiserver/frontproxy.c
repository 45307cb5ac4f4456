/* Request-header authentication: a front proxy (another API server that aggregates this one, an
 * authenticating proxy) shows a client certificate of the CA made for such proxies and says in headers who
 * the user is. Upstream: authentication/request/headerrequest.
 *
 * The headers count only behind a certificate of that CA with one of the allowed names; from anybody else
 * they are no more than headers. The other direction, headers that this server writes for the servers it
 * aggregates, is in aggregator/proxy.c. */
#include "apiserver/frontproxy.h"

#include "apiserver/auth/authn.h"

enum { LIST_ITEMS_MAX = 16, FRONT_PROXY_CA = 1 /* bit of http_peer.ca_mask */ };

struct words {
    const char *items[LIST_ITEMS_MAX];
    size_t n;
};

static struct words words_of(struct arena *a, const char *list) {
    struct words w = {0};
    char *rest = arena_strdup(a, str_or_empty(list)), *item;
    while ((item = strsep(&rest, ",")) && w.n < LIST_ITEMS_MAX) {
        while (*item == ' ') item++;
        if (*item) w.items[w.n++] = item;
    }
    return w;
}

struct json *frontproxy_list(struct arena *a, const char *list) {
    struct words w = words_of(a, list);
    struct json *out = json_array(a);
    for (size_t i = 0; i < w.n; i++) json_append(a, out, json_str(a, w.items[i]));
    return out;
}

static bool trusted(struct request *q) {
    const struct http_peer *p = q->http->peer;
    if (!http_peer_verified(p) || !(p->ca_mask >> FRONT_PROXY_CA & 1)) return false;
    struct words names = words_of(q->a, q->s->opt.requestheader_names);
    for (size_t i = 0; i < names.n; i++)
        if (str_eq(names.items[i], p->common_name)) return true;
    return names.n == 0;
}

/* The first value of the first of these headers that has one; "" when none has. */
static const char *first_value(struct request *q, const char *list) {
    struct words w = words_of(q->a, list);
    for (size_t i = 0; i < w.n; i++)
        for (size_t j = 0; j < q->http->n_headers; j++)
            if (strcasecmp(q->http->headers[j].name, w.items[i]) == 0 && *q->http->headers[j].value)
                return q->http->headers[j].value;
    return "";
}

static void add_extra(struct request *q, struct user_info *u, size_t *cap, const char *raw_key, const char *value) {
    char *key = http_unescape(q->a, raw_key, strlen(raw_key), false);
    struct user_extra *x = NULL;
    if (!key) key = arena_strdup(q->a, raw_key);
    for (size_t i = 0; i < u->n_extra; i++)
        if (str_eq(u->extra[i].key, key)) x = &u->extra[i];
    if (!x) {
        ARENA_GROW(q->a, u->extra, u->n_extra, *cap);
        x = &u->extra[u->n_extra++];
        *x = (struct user_extra){.key = key, .values = arena_alloc(q->a, (q->http->n_headers + 1) * sizeof(char *))};
    }
    x->values[x->n++] = arena_strdup(q->a, value);
}

bool frontproxy_user(struct request *q, struct user_info *out) {
    const struct apiserver_options *o = &q->s->opt;
    if (!trusted(q)) return false;
    const char *name = first_value(q, o->requestheader_user);
    if (!*name) return false;
    struct words groups = words_of(q->a, o->requestheader_group), extra = words_of(q->a, o->requestheader_extra);
    size_t cap = 0, n = q->http->n_headers;
    *out = (struct user_info){.name = arena_strdup(q->a, name),
                              .uid = arena_strdup(q->a, first_value(q, o->requestheader_uid)),
                              .groups = arena_alloc(q->a, (n + 1) * sizeof(char *))};
    for (size_t i = 0; i < n; i++) {
        const struct http_header *h = &q->http->headers[i];
        for (size_t k = 0; k < groups.n; k++)
            if (strcasecmp(h->name, groups.items[k]) == 0) out->groups[out->n_groups++] = arena_strdup(q->a, h->value);
        for (size_t k = 0; k < extra.n; k++) {
            size_t len = strlen(extra.items[k]);
            if (strncasecmp(h->name, extra.items[k], len) == 0) add_extra(q, out, &cap, h->name + len, h->value);
        }
    }
    authn_authenticated(q->a, out);
    return true;
}
