/* One request or stream: its curl handle from options to result. CURLOPT_BUFFERSIZE is left alone:
 * libcurl 7.88 writes 16 KB over the end of a smaller one under HTTP/2. */
#include "transfer.h"

#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>

enum { UNACKNOWLEDGED_MS = 20000, KEEPALIVE_IDLE_S = 15, KEEPALIVE_INTERVAL_S = 5 };
enum { TOKEN_MAX = 64 * 1024, PEM_MAX = 1024 * 1024, TOKEN_FRESH_SECONDS = 10, PEM_FRESH_SECONDS = 2 };

void transfer_free(struct transfer *t) {
    if (!t) return;
    if (t->easy) {
        if (t->c->n_spare < SPARE_HANDLES) {
            curl_easy_reset(t->easy);
            t->c->spare[t->c->n_spare++] = t->easy;
        } else {
            curl_easy_cleanup(t->easy);
        }
    }
    curl_slist_free_all(t->headers);
    free(t->method);
    free(t->path);
    free(t->content_type);
    free(t->accept);
    free(t->cause);
    free(t->body);
    buf_done(&t->in);
    free(t);
}

struct transfer *transfer_new(struct client *c, const struct client_request *rq) {
    struct transfer *t = xcalloc(1, sizeof(*t));
    t->c = c;
    t->method = xstrdup(rq->method);
    t->path = xstrdup(rq->path);
    if (rq->content_type) t->content_type = xstrdup(rq->content_type);
    if (rq->accept) t->accept = xstrdup(rq->accept);
    if (!str_empty(rq->cause)) t->cause = xstrdup(rq->cause);
    if (rq->body) {
        t->body = xmalloc(rq->body_len + 1);
        memcpy(t->body, rq->body, rq->body_len);
        t->body_len = rq->body_len;
    }
    t->timeout_ms = rq->timeout_ms;
    t->in.limit = CLIENT_BODY_MAX;
    return t;
}

static size_t on_data(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    struct client_stream *s = t->stream;
    n *= size;
    long status = 0;
    if (s) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (!s || status >= 300) {
        buf_add(&t->in, p, n);
        return t->in.failed ? 0 : n;
    }
    if (s->closed) return 0;
    s->ops->data(s->arg, p, n);
    return s->closed ? 0 : n;
}

static void add_header(struct transfer *t, const char *name, const char *value) {
    if (str_empty(value)) return;
    _cleanup_free_ char *line = xasprintf("%s: %s", name, value);
    t->headers = curl_slist_append(t->headers, line);
}

/* The bearer token; a file's content is kept for a few seconds. */
static const char *bearer(struct client *c) {
    if (c->cfg.token) return c->cfg.token;
    if (!c->cfg.token_file) return NULL;
    int64_t now = mono_ns();
    if (c->token && now - c->token_read_at < TOKEN_FRESH_SECONDS * NS_PER_SEC) return c->token;
    char *text = NULL;
    size_t len = 0;
    if (file_read(c->cfg.token_file, TOKEN_MAX, &text, &len) == 0) {
        while (len && strchr(" \r\n\t", text[len - 1])) text[--len] = 0;
        free(c->token);
        c->token = text;
        c->token_read_at = now;
    }
    return c->token;
}

static void set_blob(CURL *h, CURLoption opt, const char *pem) {
    struct curl_blob b = {.data = (void *)pem, .len = strlen(pem), .flags = CURL_BLOB_NOCOPY};
    curl_easy_setopt(h, opt, &b);
}

static int64_t mtime_of(const char *path) {
    struct stat st;
    return path && stat(path, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * NS_PER_SEC + st.st_mtim.tv_nsec : 0;
}

/* Certificate and key are files of their own, replaced one after the other: what does not fit together fails at the
 * handshake, and is read again once the second one has changed too. */
static void read_files(struct client *c) {
    struct client_files *f = &c->files;
    const struct client_config *k = &c->cfg;
    int64_t now = mono_ns();
    if (f->cert && f->looked_at && now - f->looked_at < PEM_FRESH_SECONDS * NS_PER_SEC) return;
    f->looked_at = now;
    int64_t cert_mtime = mtime_of(k->cert_file), key_mtime = mtime_of(k->key_file);
    if (f->cert && cert_mtime == f->cert_mtime && key_mtime == f->key_mtime) return;
    _cleanup_free_ char *cert = NULL, *key = NULL;
    if (file_read(k->cert_file, PEM_MAX, &cert, NULL) < 0 || file_read(k->key_file, PEM_MAX, &key, NULL) < 0) return;
    f->cert = arena_strdup(c->arena, cert);
    f->key = arena_strdup(c->arena, key);
    f->cert_mtime = cert_mtime;
    f->key_mtime = key_mtime;
}

static void set_tls(struct client *c, CURL *h) {
    const struct client_config *k = &c->cfg;
    bool files = !k->cert_data && k->cert_file && !k->key_data && k->key_file;
    if (files) read_files(c);
    if (k->ca_data)
        set_blob(h, CURLOPT_CAINFO_BLOB, k->ca_data);
    else if (k->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, k->ca_file);
    if (k->insecure_skip_tls_verify) {
        curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (files && c->files.cert) {
        set_blob(h, CURLOPT_SSLCERT_BLOB, c->files.cert);
        set_blob(h, CURLOPT_SSLKEY_BLOB, c->files.key);
        return;
    }
    if (k->cert_data) {
        set_blob(h, CURLOPT_SSLCERT_BLOB, k->cert_data);
    } else if (k->cert_file) {
        curl_easy_setopt(h, CURLOPT_SSLCERT, k->cert_file);
    }
    if (k->key_data) {
        set_blob(h, CURLOPT_SSLKEY_BLOB, k->key_data);
    } else if (k->key_file) {
        curl_easy_setopt(h, CURLOPT_SSLKEY, k->key_file);
    }
}

/* A connection whose peer does not even acknowledge is given up after some seconds, rather than after the kernel's quarter
 * of an hour: cables are pulled, and addresses change under a connection that all watches share (client-go pings). */
static int on_socket(void *arg, curl_socket_t fd, curlsocktype purpose) {
    unsigned ms = UNACKNOWLEDGED_MS;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
    return CURL_SOCKOPT_OK;
}

void transfer_start(struct client *c, struct transfer *t) {
    CURL *h = t->easy = c->n_spare ? c->spare[--c->n_spare] : curl_easy_init();
    if (!h) abort();
    _cleanup_free_ char *url = xasprintf("%s%s", c->cfg.server, t->path);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_PRIVATE, t);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, t->curl_error);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    bool tls = str_has_prefix(c->cfg.server, "https:");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION,
                     (long)(tls && !c->cfg.http1 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    if (tls && !c->cfg.http1) curl_easy_setopt(h, CURLOPT_PIPEWAIT, 1L);
    if (tls) set_tls(c, h);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_IDLE_S);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_INTERVAL_S);
    curl_easy_setopt(h, CURLOPT_SOCKOPTFUNCTION, on_socket);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, 10000L);
    if (t->timeout_ms > 0) curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)t->timeout_ms);
    if (t->body) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->body_len);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, t->body);
    }
    if (strcmp(t->method, "HEAD") == 0)
        curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    else if (strcmp(t->method, "GET") != 0 || t->body)
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, t->method);
    add_header(t, "Accept", t->accept ? t->accept : "application/json");
    if (t->body) {
        add_header(t, "Content-Type", t->content_type ? t->content_type : "application/json");
        t->headers = curl_slist_append(t->headers, "Expect:");
    }
    add_header(t, "X-Coracle-Cause", t->cause);
    const char *token = bearer(c);
    if (token) {
        _cleanup_free_ char *v = xasprintf("Bearer %s", token);
        add_header(t, "Authorization", v);
    }
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(h, CURLOPT_USERAGENT, c->cfg.user_agent);
    t->started_ns = mono_ns();
    t->next = c->running;
    c->running = t;
    if (t->stream)
        t->stream->started = true;
    else
        c->in_flight++;
    curl_multi_add_handle(c->multi, h);
}

void transfer_unlink(struct client *c, struct transfer *t) {
    for (struct transfer **p = &c->running; *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            break;
        }
    if (!t->stream) c->in_flight--;
}

/* ---- ends ---- */

static int transport_err(struct transfer *t, CURLcode rc, struct err *e) {
    const char *why = t->curl_error[0] ? t->curl_error : curl_easy_strerror(rc);
    int code = rc == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -ENOTCONN;
    if (t->in.failed) code = -EFBIG;
    return err_set(e, code, "%s %s: %s", t->method, t->path, why);
}

/* Gives a unary transfer's result to its callback. */
static void finish_unary(struct transfer *t, CURLcode rc) {
    _cleanup_err_ struct err e = {0};
    struct client_response r = {0};
    int result = 0;
    if (rc != CURLE_OK) {
        result = transport_err(t, rc, &e);
    } else {
        long status = 0;
        const char *ct = NULL;
        curl_off_t retry = 0;
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(t->easy, CURLINFO_CONTENT_TYPE, &ct);
        if (status >= 400) {
            result = client_status_err((int)status, t->in.data, t->in.len, &e);
            curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry);
            if (!e.retry_after_seconds) e.retry_after_seconds = (int)MIN_OF(retry, 3600);
        } else {
            r.status = (int)status;
            r.len = t->in.len;
            r.body = buf_take(&t->in);
            snprintf(r.content_type, sizeof(r.content_type), "%s", str_or_empty(ct));
        }
    }
    t->done(t->arg, result, &r, &e);
    free(r.body);
}

static void finish_stream(struct transfer *t, CURLcode rc) {
    struct client_stream *s = t->stream;
    s->t = NULL;
    if (s->closed) return;
    _cleanup_err_ struct err e = {0};
    int result = 0;
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300)
        result = client_status_err((int)status, t->in.data, t->in.len, &e);
    else if (rc != CURLE_OK)
        result = transport_err(t, rc, &e);
    s->ops->end(s->arg, result, &e);
}

void transfer_finish(struct client *c, struct transfer *t, CURLcode rc) {
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    client_count(c, t->method, status, mono_ns() - t->started_ns, t->stream != NULL);
    transfer_unlink(c, t);
    curl_multi_remove_handle(c->multi, t->easy);
    if (t->stream)
        finish_stream(t, rc);
    else
        finish_unary(t, rc);
    transfer_free(t);
}
