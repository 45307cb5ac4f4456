/* HTTP client over libcurl. Easy handles (each with its kept connection) are borrowed from a small stack per client.
 * Corresponds to rest.RESTClient's transport in client-go. */
#include "pkg/http/client.h"

#include <ctype.h>
#include <curl/curl.h>
#include <poll.h>
#include <sys/stat.h>

#include "pkg/base/ktime.h"
#include "pkg/http/client_internal.h"

enum {
    DEFAULT_TIMEOUT_MS = 30 * 1000,
    DEFAULT_CONNECT_MS = 10 * 1000,
    DEFAULT_IDLE = 8,
    RESP_HEADERS_TOTAL_MAX = 256 * 1024,
    TOKEN_FILE_MAX = 1024 * 1024,
};

static char *dup_or_null(const char *s) { return s ? xstrdup(s) : NULL; }

/* The strings of the options, for copying and freeing. */
#define OPTION_STRINGS(X)                                                                                       \
    X(base_url)                                                                                                 \
    X(unix_socket)                                                                                              \
    X(ca_file)                                                                                                  \
    X(ca_pem) X(cert_file) X(key_file) X(cert_pem) X(key_pem) X(server_name) X(token) X(token_file) X(username) \
        X(password) X(user_agent)

static void global_init(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

/* With a server_name the URL carries that name (for the certificate, SNI and Host), and libcurl is told to connect to
 * the real address: *to is its "::host:port". -EINVAL: no URL. */
static int rename_host(const char *name, const char *from, char **out, char **to) {
    CURLU *u = curl_url();
    char *host = NULL, *port = NULL, *url = NULL;
    int rc = -EINVAL;
    if (!curl_url_set(u, CURLUPART_URL, from, 0) && !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
        !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) && !curl_url_set(u, CURLUPART_HOST, name, 0) &&
        !curl_url_get(u, CURLUPART_URL, &url, 0)) {
        *to = xasprintf("::%s:%s", host, port);
        *out = xstrdup(url);
        rc = 0;
    }
    curl_free(host);
    curl_free(port);
    curl_free(url);
    curl_url_cleanup(u);
    return rc;
}

static int rename_base(struct http_client *c, struct err *e) {
    char *url;
    if (!c->opt.server_name || !c->opt.base_url) return 0;
    if (rename_host(c->opt.server_name, c->opt.base_url, &url, &c->connect_to) < 0)
        return err_set(e, -EINVAL, "bad URL %s", c->opt.base_url);
    free((char *)(uintptr_t)c->opt.base_url);
    c->opt.base_url = url;
    return 0;
}

struct http_client *http_client_new(const struct http_client_options *o, struct err *e) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
    struct http_client *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    c->opt = *o;
#define COPY(f) c->opt.f = dup_or_null(o->f);
    OPTION_STRINGS(COPY)
#undef COPY
    if (!c->opt.connect_ms) c->opt.connect_ms = DEFAULT_CONNECT_MS;
    if (!c->opt.idle_handles) c->opt.idle_handles = DEFAULT_IDLE;
    c->idle = xcalloc(c->opt.idle_handles, sizeof(*c->idle));
    if (rename_base(c, e) < 0) return http_client_free(c);
    return c;
}

struct http_client *http_client_free(struct http_client *c) {
    if (!c) return NULL;
    for (unsigned i = 0; i < c->n_idle; i++) curl_easy_cleanup(c->idle[i]);
    free(c->idle);
#define FREE(f) free((char *)(uintptr_t)c->opt.f);
    OPTION_STRINGS(FREE)
#undef FREE
    free(c->connect_to);
    free(c->file_token);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return NULL;
}

void http_client_set_token(struct http_client *c, const char *token) {
    pthread_mutex_lock(&c->lock);
    free((char *)(uintptr_t)c->opt.token);
    c->opt.token = dup_or_null(token);
    pthread_mutex_unlock(&c->lock);
}

/* The lock is held. */
static void drop_connections(struct http_client *c) {
    c->generation++;
    for (unsigned i = 0; i < c->n_idle; i++) curl_easy_cleanup(c->idle[i]);
    c->n_idle = 0;
}

void http_client_set_cert(struct http_client *c, const char *cert_pem, const char *key_pem) {
    pthread_mutex_lock(&c->lock);
    free((char *)(uintptr_t)c->opt.cert_pem);
    free((char *)(uintptr_t)c->opt.key_pem);
    c->opt.cert_pem = dup_or_null(cert_pem);
    c->opt.key_pem = dup_or_null(key_pem);
    drop_connections(c);
    pthread_mutex_unlock(&c->lock);
}

static int64_t mtime_of(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * NS_PER_SEC + st.st_mtim.tv_nsec : 0;
}

/* A certificate file that was replaced: connections that showed the old one are not used again. The lock is held. */
static void look_at_certificate(struct http_client *c) {
    if (!c->opt.cert_file || c->opt.cert_pem) return;
    int64_t mtime = mtime_of(c->opt.cert_file);
    if (mtime != c->cert_mtime && c->cert_mtime) drop_connections(c);
    c->cert_mtime = mtime;
}

/* The lock is held. */
static const char *current_token(struct http_client *c) {
    int64_t mtime = c->opt.token_file ? mtime_of(c->opt.token_file) : 0;
    if (!mtime) return c->opt.token;
    if (!c->file_token || mtime != c->file_token_mtime) {
        char *text;
        size_t n;
        if (file_read(c->opt.token_file, TOKEN_FILE_MAX, &text, &n) < 0) return c->file_token;
        while (n && isspace((unsigned char)text[n - 1])) text[--n] = 0;
        free(c->file_token);
        c->file_token = text;
        c->file_token_mtime = mtime;
    }
    return c->file_token;
}

char *client_authorization(struct http_client *c) {
    char *out = NULL;
    pthread_mutex_lock(&c->lock);
    const char *token = current_token(c);
    if (!str_empty(token)) {
        out = xasprintf("Bearer %s", token);
    } else if (c->opt.username) {
        _cleanup_free_ char *pair = xasprintf("%s:%s", c->opt.username, str_or_empty(c->opt.password));
        _cleanup_free_ char *b64 = xmalloc(base64_encoded_len(strlen(pair)) + 1);
        base64_encode(pair, strlen(pair), b64);
        out = xasprintf("Basic %s", b64);
    }
    pthread_mutex_unlock(&c->lock);
    return out;
}

char *client_url(struct http_client *c, const char *url) {
    if (*url != '/') return xstrdup(url);
    const char *base = c->opt.base_url ? c->opt.base_url : "http://localhost";
    size_t n = strlen(base);
    while (n && base[n - 1] == '/') n--;
    return xasprintf("%.*s%s", (int)n, base, url);
}

/* ---- answers ---- */

void resp_reset(struct http_resp *r) {
    r->status = 0;
    r->headers = NULL;
    r->n_headers = 0;
    if (r->arena)
        arena_reset(r->arena);
    else
        r->arena = arena_new();
    buf_reset(&r->body);
    if (!r->body.limit) r->body.limit = HTTP_RESP_MAX;
}

void http_resp_done(struct http_resp *r) {
    if (!r) return;
    arena_free(r->arena);
    buf_done(&r->body);
    *r = (struct http_resp){0};
}

const char *http_resp_header(const struct http_resp *r, const char *name) {
    for (size_t i = 0; i < r->n_headers; i++)
        if (str_eq(r->headers[i].name, name)) return r->headers[i].value;
    return NULL;
}

void resp_add_header(struct http_resp *r, const char *name, size_t nn, const char *value, size_t vn) {
    if (arena_used(r->arena) + nn + vn > RESP_HEADERS_TOTAL_MAX) return;
    struct http_header *list = arena_alloc(r->arena, (r->n_headers + 1) * sizeof(*list));
    if (r->n_headers) memcpy(list, r->headers, r->n_headers * sizeof(*list));
    char *n = arena_strndup(r->arena, name, nn);
    for (char *p = n; *p; p++) *p = (char)tolower((unsigned char)*p);
    list[r->n_headers++] = (struct http_header){n, arena_strndup(r->arena, value, vn)};
    r->headers = list;
}

/* ---- one transfer ---- */

struct transfer {
    struct http_resp *resp;
    const struct http_stream_cb *cb; /* NULL: all into resp->body */
    bool any_status;                 /* the callbacks get errors' bodies too */
    bool head_told;
    int cb_rc;
    int64_t last_ns;
};

static size_t on_header(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    size_t len = n * size;
    t->last_ns = mono_ns();
    if (len >= 9 && memcmp(p, "HTTP/", 5) == 0) { /* a new head: after 100 Continue or a redirect */
        resp_reset(t->resp);
        const char *sp = memchr(p, ' ', len);
        t->resp->status = sp ? (int)strtol(sp + 1, NULL, 10) : 0;
        return len;
    }
    const char *colon = memchr(p, ':', len);
    if (!colon) return len;
    const char *v = colon + 1, *end = p + len;
    while (v < end && isspace((unsigned char)*v)) v++;
    while (end > v && isspace((unsigned char)end[-1])) end--;
    resp_add_header(t->resp, p, (size_t)(colon - p), v, (size_t)(end - v));
    return len;
}

static int tell_head(struct transfer *t) {
    if (t->head_told) return 0;
    t->head_told = true;
    if (t->cb && t->cb->on_head) t->cb_rc = t->cb->on_head(t->resp, t->cb->arg);
    return t->cb_rc;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    size_t len = n * size;
    t->last_ns = mono_ns();
    if (tell_head(t)) return 0;
    if (t->cb && (t->any_status || t->resp->status < 300)) {
        t->cb_rc = t->cb->on_data(p, len, t->cb->arg);
        return t->cb_rc ? 0 : len;
    }
    buf_add(&t->resp->body, p, len);
    return t->resp->body.failed ? 0 : len;
}

static int curl_error(CURLcode code, const char *text, const char *url, const struct transfer *t, struct err *e) {
    const char *why = text && *text ? text : curl_easy_strerror(code);
    int rc = -EIO;
    switch (code) {
        case CURLE_COULDNT_CONNECT: rc = -ECONNREFUSED; break;
        case CURLE_OPERATION_TIMEDOUT: rc = -ETIMEDOUT; break;
        case CURLE_COULDNT_RESOLVE_HOST: rc = -EHOSTUNREACH; break;
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CERTPROBLEM:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_ISSUER_ERROR: rc = -EPROTO; break;
        case CURLE_URL_MALFORMAT: rc = -EINVAL; break;
        case CURLE_WRITE_ERROR:
            if (t->resp->body.failed)
                return err_set(e, -EMSGSIZE, "%s: the answer is larger than %zu bytes", url, t->resp->body.limit);
            break;
        default: break;
    }
    return err_set(e, rc, "%s: %s", url, why);
}

static void set_blob(CURL *h, CURLoption opt, const char *pem) {
    struct curl_blob b = {(void *)(uintptr_t)pem, strlen(pem), CURL_BLOB_COPY};
    curl_easy_setopt(h, opt, &b);
}

/* Options that a handle keeps for its life. The lock is held. */
static CURL *handle_new(struct http_client *c) {
    CURL *h = curl_easy_init();
    if (!h) abort(); /* no memory */
    const struct http_client_options *o = &c->opt;
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)o->connect_ms);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(h, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, o->http2 ? (long)CURL_HTTP_VERSION_2TLS : (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_PRIVATE, (void *)(uintptr_t)c->generation);
    if (o->unix_socket) curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, o->unix_socket);
    if (o->user_agent) curl_easy_setopt(h, CURLOPT_USERAGENT, o->user_agent);
    if (o->follow) {
        curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 1L);
        curl_easy_setopt(h, CURLOPT_MAXREDIRS, 10L);
    }
    if (o->ca_pem)
        set_blob(h, CURLOPT_CAINFO_BLOB, o->ca_pem);
    else if (o->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, o->ca_file);
    if (o->ca_pem || o->ca_file) curl_easy_setopt(h, CURLOPT_CAPATH, NULL);
    if (o->cert_pem)
        set_blob(h, CURLOPT_SSLCERT_BLOB, o->cert_pem);
    else if (o->cert_file)
        curl_easy_setopt(h, CURLOPT_SSLCERT, o->cert_file);
    if (o->key_pem)
        set_blob(h, CURLOPT_SSLKEY_BLOB, o->key_pem);
    else if (o->key_file)
        curl_easy_setopt(h, CURLOPT_SSLKEY, o->key_file);
    if (o->insecure) {
        curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    return h;
}

static CURL *handle_take(struct http_client *c) {
    pthread_mutex_lock(&c->lock);
    look_at_certificate(c);
    CURL *h = c->n_idle ? c->idle[--c->n_idle] : handle_new(c);
    pthread_mutex_unlock(&c->lock);
    return h;
}

static void handle_give(struct http_client *c, CURL *h) {
    char *generation = NULL;
    curl_easy_getinfo(h, CURLINFO_PRIVATE, &generation);
    pthread_mutex_lock(&c->lock);
    bool keep = c->n_idle < c->opt.idle_handles && (unsigned)(uintptr_t)generation == c->generation;
    if (keep) c->idle[c->n_idle++] = h;
    pthread_mutex_unlock(&c->lock);
    if (!keep) curl_easy_cleanup(h);
}

static struct curl_slist *add_line(struct curl_slist *l, const char *name, const char *value) {
    /* "Name;" is libcurl's way to send an empty header, "Name:" to leave one out */
    _cleanup_free_ char *line = *value ? xasprintf("%s: %s", name, value) : xasprintf("%s;", name);
    return curl_slist_append(l, line);
}

static struct curl_slist *header_list(struct http_client *c, const struct http_header *h, size_t n, bool body) {
    struct curl_slist *l = curl_slist_append(NULL, "Expect:");
    bool have_type = false, have_auth = false, have_accept = false;
    for (size_t i = 0; i < n; i++) {
        have_type |= strcasecmp(h[i].name, "content-type") == 0;
        have_auth |= strcasecmp(h[i].name, "authorization") == 0;
        have_accept |= strcasecmp(h[i].name, "accept") == 0;
        l = add_line(l, h[i].name, h[i].value);
    }
    if (body && !have_type) l = curl_slist_append(l, "Content-Type:");
    if (!have_accept) l = curl_slist_append(l, "Accept: */*");
    if (!have_auth) {
        _cleanup_free_ char *auth = client_authorization(c);
        if (auth) l = add_line(l, "Authorization", auth);
    }
    return l;
}

static void set_request(CURL *h, const char *method, const void *body, size_t body_len) {
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, NULL);
    curl_easy_setopt(h, CURLOPT_NOBODY, 0L);
    curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
    bool wants_body = body_len || str_eq(method, "POST") || str_eq(method, "PUT") || str_eq(method, "PATCH");
    if (str_eq(method, "HEAD")) {
        curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    } else if (wants_body) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, body_len ? body : "");
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_len);
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    } else if (!str_eq(method, "GET")) {
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    }
}

/* What both kinds of transfer set. */
static struct curl_slist *prepare(struct http_client *c, CURL *h, const char *method, const char *url,
                                  const struct http_header *hs, size_t n_h, const void *body, size_t body_len,
                                  struct transfer *t, char *errbuf) {
    struct curl_slist *l = header_list(c, hs, n_h, body_len > 0);
    errbuf[0] = 0;
    set_request(h, method, body, body_len);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, l);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, errbuf);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    return l;
}

/* The URL of a request, on the heap, and where to connect for it. */
static char *request_url(struct http_client *c, const char *url, struct curl_slist **to) {
    char *full = NULL;
    _cleanup_free_ char *own = NULL;
    bool named = c->opt.server_name && *url != '/' && rename_host(c->opt.server_name, url, &full, &own) == 0;
    const char *where = named ? own : c->connect_to;
    *to = where ? curl_slist_append(NULL, where) : NULL;
    return named ? full : client_url(c, url);
}

static void unprepare(CURL *h, struct curl_slist *headers, struct curl_slist *to) {
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(h, CURLOPT_CONNECT_TO, NULL);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, NULL);
    curl_slist_free_all(headers);
    curl_slist_free_all(to);
}

int http_client_do(struct http_client *c, const char *method, const char *url, const struct http_header *hs, size_t n_h,
                   const void *body, size_t body_len, struct http_resp *resp, unsigned timeout_ms, struct err *e) {
    struct curl_slist *to;
    _cleanup_free_ char *full = request_url(c, url, &to);
    char errbuf[CURL_ERROR_SIZE];
    struct transfer t = {.resp = resp};
    resp_reset(resp);
    CURL *h = handle_take(c);
    struct curl_slist *l = prepare(c, h, method, full, hs, n_h, body, body_len, &t, errbuf);
    curl_easy_setopt(h, CURLOPT_CONNECT_TO, to);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)(timeout_ms ? timeout_ms : DEFAULT_TIMEOUT_MS));
    CURLcode code = curl_easy_perform(h);
    int rc = code == CURLE_OK ? 0 : curl_error(code, errbuf, full, &t, e);
    unprepare(h, l, to);
    handle_give(c, h);
    return rc;
}

static int on_progress(void *arg, curl_off_t dt, curl_off_t dn, curl_off_t ut, curl_off_t un) {
    return http_cancelled(arg);
}

int http_client_exchange(struct http_client *c, const char *method, const char *url, const struct http_header *hs,
                         size_t n_h, const void *body, size_t body_len, const struct http_stream_cb *cb,
                         struct http_resp *resp, struct http_cancel *cancel, unsigned timeout_ms, struct err *e) {
    struct curl_slist *to;
    _cleanup_free_ char *full = request_url(c, url, &to);
    char errbuf[CURL_ERROR_SIZE];
    struct transfer t = {.resp = resp, .cb = cb, .any_status = true};
    resp_reset(resp);
    CURL *h = handle_take(c);
    struct curl_slist *l = prepare(c, h, method, full, hs, n_h, body, body_len, &t, errbuf);
    curl_easy_setopt(h, CURLOPT_CONNECT_TO, to);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, cancel);
    CURLcode code = curl_easy_perform(h);
    int rc = t.cb_rc;
    if (!rc && code == CURLE_ABORTED_BY_CALLBACK)
        rc = err_set(e, -ECANCELED, "cancelled");
    else if (!rc && code != CURLE_OK)
        rc = curl_error(code, errbuf, full, &t, e);
    else if (!rc)
        rc = tell_head(&t);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, NULL);
    unprepare(h, l, to);
    handle_give(c, h);
    return rc;
}

/* Turns the transfer until it ends. */
static int stream_loop(CURLM *m, struct transfer *t, const char *errbuf, const char *url, struct http_cancel *cancel,
                       unsigned idle_ms, struct err *e) {
    for (;;) {
        int running = 0, left;
        curl_multi_perform(m, &running);
        if (t->cb_rc) return t->cb_rc;
        CURLMsg *msg = curl_multi_info_read(m, &left);
        if (msg && msg->msg == CURLMSG_DONE) {
            if (msg->data.result != CURLE_OK) return curl_error(msg->data.result, errbuf, url, t, e);
            return tell_head(t);
        }
        if (t->resp->status >= 200 && t->resp->status < 300 && tell_head(t)) return t->cb_rc;
        if (http_cancelled(cancel)) return err_set(e, -ECANCELED, "cancelled");
        int64_t idle = (mono_ns() - t->last_ns) / NS_PER_MS;
        if (idle_ms && idle >= (int64_t)idle_ms)
            return err_set(e, -ETIMEDOUT, "%s: nothing came for %u ms", url, idle_ms);
        struct curl_waitfd w = {cancel ? cancel->fd : -1, CURL_WAIT_POLLIN, 0};
        int wait = idle_ms ? (int)MIN_OF((int64_t)idle_ms - idle, (int64_t)60000) : 60000;
        curl_multi_poll(m, &w, cancel ? 1 : 0, wait, NULL);
    }
}

int http_client_stream(struct http_client *c, const char *url, const struct http_header *hs, size_t n_h,
                       const struct http_stream_cb *cb, struct http_resp *resp, struct http_cancel *cancel,
                       unsigned idle_ms, struct err *e) {
    struct curl_slist *to;
    _cleanup_free_ char *full = request_url(c, url, &to);
    char errbuf[CURL_ERROR_SIZE];
    struct transfer t = {.resp = resp, .cb = cb, .last_ns = mono_ns()};
    resp_reset(resp);
    CURLM *m = curl_multi_init();
    if (!m) abort(); /* no memory */
    pthread_mutex_lock(&c->lock);
    CURL *h = handle_new(c);
    pthread_mutex_unlock(&c->lock);
    struct curl_slist *l = prepare(c, h, "GET", full, hs, n_h, NULL, 0, &t, errbuf);
    curl_easy_setopt(h, CURLOPT_CONNECT_TO, to);
    curl_multi_add_handle(m, h);
    int rc = stream_loop(m, &t, errbuf, full, cancel, idle_ms, e);
    curl_multi_remove_handle(m, h);
    unprepare(h, l, to);
    curl_easy_cleanup(h);
    curl_multi_cleanup(m);
    return rc;
}
