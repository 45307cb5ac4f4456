/* Requests: their life, and looking into them (headers, query, escapes). */
#include <ctype.h>
#include <strings.h>

#include "pkg/http/internal.h"

struct hreq *hreq_new(struct conn *c) {
    struct hreq *r = xcalloc(1, sizeof(*r));
    atomic_init(&r->refs, 1);
    r->server = server_ref(c->srv);
    r->conn = c;
    r->peer = peer_ref(c->peer);
    r->content_length = -1;
    r->pub.arena = arena_new();
    r->pub.peer = &c->peer->pub;
    r->pub.tls = c->ssl != NULL;
    r->pub.listener = c->lst->tag;
    r->pub.host = r->pub.query = r->pub.body = "";
    atomic_fetch_add(&c->srv->n_streams, 1);
    return r;
}

struct http_req *http_req_ref(struct http_req *pub) {
    atomic_fetch_add_explicit(&hreq_of(pub)->refs, 1, memory_order_relaxed);
    return pub;
}

void http_req_unref(struct http_req *pub) {
    if (!pub) return;
    struct hreq *r = hreq_of(pub);
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
    if (r->observe) r->observe(pub, HTTP_REQ_OVER, r->observe_arg);
    if (pub->context && r->server->opt.over) r->server->opt.over(pub, r->server->opt.arg);
    if (r->free_data) r->free_data(r->data);
    buf_done(&r->body);
    outq_clear(&r->out);
    free(r->trailers);
    peer_unref(r->peer);
    arena_free(pub->arena);
    server_unref(r->server);
    free(r);
}

void hreq_detach(struct hreq *r) {
    if (!r->conn) return;
    r->conn = NULL;
    atomic_fetch_sub(&r->server->n_streams, 1);
    bool tell = (r->state == REQ_HANDLING || r->state == REQ_STREAMING) && !atomic_load(&r->finished);
    atomic_store(&r->closed, true);
    outq_clear(&r->out);
    atomic_store(&r->queued, 0);
    if (tell && r->on_close) r->on_close(&r->pub, r->on_close_arg);
    http_req_unref(&r->pub);
}

void hreq_split_target(struct hreq *r) {
    const char *q = strchr(r->pub.target, '?');
    r->pub.path = q ? arena_strndup(r->pub.arena, r->pub.target, (size_t)(q - r->pub.target)) : r->pub.target;
    r->pub.query = q ? q + 1 : "";
    r->is_head = str_eq(r->pub.method, "HEAD");
}

void hreq_dispatch(struct hreq *r) {
    struct http_server *s = r->server;
    r->pub.body = r->body.data ? r->body.data : "";
    r->pub.body_len = r->body.len;
    r->state = REQ_HANDLING;
    http_req_ref(&r->pub); /* the handler's */
    atomic_fetch_add(&s->n_requests, 1);
    s->opt.handler(&r->pub, s->opt.arg);
}

/* ---- looking ---- */

const char *http_header_n(const struct http_req *r, const char *name, size_t n) {
    for (size_t i = 0; i < r->n_headers; i++)
        if (strcmp(r->headers[i].name, name) == 0 && n-- == 0) return r->headers[i].value;
    return NULL;
}

const char *http_header(const struct http_req *r, const char *name) { return http_header_n(r, name, 0); }

bool http_list_has(const char *list, const char *token) {
    size_t m = strlen(token);
    while (*list) {
        list += strspn(list, " \t,");
        size_t n = strcspn(list, ","), used = n;
        while (n && (list[n - 1] == ' ' || list[n - 1] == '\t')) n--;
        if (n == m && strncasecmp(list, token, m) == 0) return true;
        list += used;
    }
    return false;
}

bool http_header_has_token(const struct http_req *r, const char *name, const char *token) {
    for (size_t i = 0; i < r->n_headers; i++)
        if (strcmp(r->headers[i].name, name) == 0 && http_list_has(r->headers[i].value, token)) return true;
    return false;
}

bool http_wants_upgrade(const struct http_req *r, const char *proto) {
    return r->version == 11 && http_header_has_token(r, "connection", "upgrade") &&
           http_header_has_token(r, "upgrade", proto);
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *http_unescape(struct arena *a, const char *s, size_t n, bool plus) {
    char *out = arena_alloc(a, n + 1), *o = out;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            if (i + 2 >= n) return NULL;
            int hi = hex_value(s[i + 1]), lo = hex_value(s[i + 2]);
            if (hi < 0 || lo < 0 || (hi == 0 && lo == 0)) return NULL;
            c = (char)(hi << 4 | lo);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        *o++ = c;
    }
    *o = 0;
    return out;
}

char *http_escape(struct arena *a, const char *s) {
    static const char hex[] = "0123456789ABCDEF";
    char *out = arena_alloc(a, strlen(s) * 3 + 1), *o = out;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
            *o++ = (char)c;
        } else {
            *o++ = '%';
            *o++ = hex[c >> 4];
            *o++ = hex[c & 15];
        }
    }
    *o = 0;
    return out;
}

/* Pairs with a ';' or a bad escape are dropped, as Go's url.ParseQuery does. */
bool http_query_next(struct http_req *r, size_t *it, const char **name, const char **value) {
    for (;;) {
        const char *p = r->query + *it;
        if (!*p) return false;
        size_t n = strcspn(p, "&");
        *it += n + (p[n] == '&');
        const char *eq = memchr(p, '=', n);
        size_t name_len = eq ? (size_t)(eq - p) : n;
        if (!n || memchr(p, ';', n)) continue;
        const char *k = http_unescape(r->arena, p, name_len, true);
        const char *v = eq ? http_unescape(r->arena, eq + 1, n - name_len - 1, true) : "";
        if (!k || !v) continue;
        *name = k;
        *value = v;
        return true;
    }
}

const char *http_query(struct http_req *r, const char *name) {
    const char *k, *v;
    for (size_t it = 0; http_query_next(r, &it, &k, &v);)
        if (str_eq(k, name)) return v;
    return NULL;
}

bool http_req_closed(const struct http_req *r) {
    return atomic_load(&hreq_of(r)->closed) || atomic_load(&hreq_of(r)->finished);
}
struct http_server *http_req_server(const struct http_req *r) {
    return hreq_of(r)->server;
}

void http_req_set_data(struct http_req *r, void *data, void (*free_data)(void *)) {
    hreq_of(r)->data = data;
    hreq_of(r)->free_data = free_data;
}
void *http_req_data(const struct http_req *r) { return hreq_of(r)->data; }

void http_req_observe(struct http_req *r, void (*fn)(struct http_req *r, enum http_req_stage stage, void *arg),
                      void *arg) {
    hreq_of(r)->observe_arg = arg;
    hreq_of(r)->observe = fn;
}
int http_req_status(const struct http_req *r) { return atomic_load(&hreq_of(r)->status); }

void hreq_started(struct http_req *pub, int status) {
    struct hreq *r = hreq_of(pub);
    if (atomic_exchange(&r->status, status) || !r->observe) return;
    r->observe(pub, HTTP_REQ_STARTED, r->observe_arg);
}

void http_req_on_close(struct http_req *r, void (*fn)(struct http_req *r, void *arg), void *arg) {
    hreq_of(r)->on_close_arg = arg;
    hreq_of(r)->on_close = fn;
}
void http_req_on_drain(struct http_req *r, void (*fn)(struct http_req *r, void *arg), void *arg) {
    hreq_of(r)->on_drain_arg = arg;
    hreq_of(r)->on_drain = fn;
}
size_t http_stream_queued(const struct http_req *r) { return atomic_load(&hreq_of(r)->queued); }

void http_req_on_input(struct http_req *r, void (*fn)(struct http_req *r, const char *p, size_t n, void *arg),
                       void *arg) {
    hreq_of(r)->on_input_arg = arg;
    hreq_of(r)->on_input = fn;
}
