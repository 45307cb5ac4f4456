/* Exchanges with etcd: an I/O thread with one curl multi handle, and the two encodings.
 *
 * https:// endpoints speak gRPC: HTTP/2, calls multiplexed on a connection, messages with a five-byte prefix, the
 * outcome in trailers. http:// endpoints use the JSON gateway over HTTP/1.1, since libcurl's plaintext HTTP/2 does not
 * survive the reuse of a connection. A Watch is a call with one request and many answers in both: the request side is
 * closed at once, which etcd does not take as the end.
 *
 * Callers wait on a semaphore; only the I/O thread touches curl. */
#include <strings.h>

#include "pkg/base/ktime.h"
#include "pkg/store/etcd.h"

enum {
    POLL_MS = 1000,
    GRPC_UNAVAILABLE = 14,
    GRPC_DEADLINE = 4,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID = 3
};

static const struct {
    const char *grpc, *json;
} rpc_paths[] = {
    [ETCD_RANGE] = {"/etcdserverpb.KV/Range", "/v3/kv/range"},
    [ETCD_TXN] = {"/etcdserverpb.KV/Txn", "/v3/kv/txn"},
    [ETCD_COMPACT] = {"/etcdserverpb.KV/Compact", "/v3/kv/compaction"},
    [ETCD_WATCH] = {"/etcdserverpb.Watch/Watch", "/v3/watch"},
    [ETCD_GRANT] = {"/etcdserverpb.Lease/LeaseGrant", "/v3/lease/grant"},
};

/* ---- bodies ---- */

void etcd_body(struct etcd_call *c, const struct api_type *type, const void *request) {
    buf_reset(&c->out);
    if (!c->s->grpc) {
        api_to_json(&c->out, type, request);
        return;
    }
    buf_add(&c->out, "\0\0\0\0\0", 5);
    api_to_proto(&c->out, type, request);
    uint32_t n = (uint32_t)c->out.len - 5;
    for (int i = 0; i < 4; i++) c->out.data[1 + i] = (char)(n >> (24 - 8 * i));
}

void etcd_call_done(struct etcd_call *c) {
    buf_done(&c->out);
    buf_done(&c->in);
}

/* The first whole message in `in`: its text and length, and how much it takes. False when more has to come. */
static bool message_next(const struct etcd_call *c, const char **p, size_t *n, size_t *taken) {
    const struct buf *b = &c->in;
    if (!c->s->grpc) {
        const char *end = b->len ? memchr(b->data, '\n', b->len) : NULL;
        if (!end) return false;
        *p = b->data;
        *n = (size_t)(end - b->data);
        *taken = *n + 1;
        return true;
    }
    if (b->len < 5) return false;
    const unsigned char *h = (const unsigned char *)b->data;
    *n = (size_t)h[1] << 24 | (size_t)h[2] << 16 | (size_t)h[3] << 8 | h[4];
    *p = b->data + 5;
    *taken = *n + 5;
    return b->len >= *taken;
}

static int decode(const struct etcd_call *c, struct arena *a, const struct api_type *type, const char *p, size_t n,
                  void *out, struct err *e) {
    return c->s->grpc ? api_from_proto(a, type, (const uint8_t *)p, n, out, e) : api_from_json(a, type, p, n, out, e);
}

/* A watch's message; the gateway wraps it in {"result": ...} or gives {"error": ...}. */
static bool watch_message(struct etcd_call *c, const char *p, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct etcd_watch_response m = {0};
    int r;
    if (c->s->grpc) {
        r = decode(c, a, &api_etcd_watch_response, p, n, &m, NULL);
    } else {
        struct json *v = NULL;
        r = json_parse(a, p, n, &v, NULL, NULL);
        const struct json *error = json_get(v, "error");
        if (error) snprintf(c->message, sizeof(c->message), "%s", str_or_empty(json_get_str(error, "message")));
        if (error) return false;
        if (r == 0) r = api_from_tree(a, &api_etcd_watch_response, json_get(v, "result"), &m, NULL);
    }
    if (r < 0) c->bad = true;
    return r == 0 && c->on_message(c, &m);
}

static size_t on_data(char *p, size_t size, size_t n, void *arg) {
    struct etcd_call *c = arg;
    c->in.limit = ETCD_RESPONSE_MAX;
    buf_add(&c->in, p, n);
    if (c->in.failed) return 0;
    const char *m;
    size_t len, taken;
    while (c->on_message && message_next(c, &m, &len, &taken)) {
        if (!watch_message(c, m, len)) return 0;
        buf_consume(&c->in, taken);
    }
    return n;
}

static size_t on_send(char *p, size_t size, size_t n, void *arg) {
    struct etcd_call *c = arg;
    n = MIN_OF(size * n, c->out.len - c->sent);
    if (n) memcpy(p, c->out.data + c->sent, n);
    c->sent += n;
    return n;
}

/* libcurl sends a request again by itself when a kept connection ends before an answer. But etcd may have acted on it: that
 * must show as a failed try, not as the outcome of a second one. */
static int on_rewind(void *arg, curl_off_t offset, int origin) {
    struct etcd_call *c = arg;
    return c->sent ? CURL_SEEKFUNC_FAIL : CURL_SEEKFUNC_OK;
}

/* Headers and trailers: grpc-status and grpc-message. */
static size_t on_header(char *p, size_t size, size_t n, void *arg) {
    struct etcd_call *c = arg;
    static const char status[] = "grpc-status:", message[] = "grpc-message:";
    size_t got = n;
    if (n > sizeof(status) && strncasecmp(p, status, sizeof(status) - 1) == 0) {
        c->grpc_status = 0;
        for (size_t i = sizeof(status) - 1; i < n; i++)
            if (p[i] >= '0' && p[i] <= '9') c->grpc_status = c->grpc_status * 10 + p[i] - '0';
    }
    if (n > sizeof(message) && strncasecmp(p, message, sizeof(message) - 1) == 0) {
        size_t from = sizeof(message) - 1;
        while (from < n && p[from] == ' ') from++;
        while (n > from && (p[n - 1] == '\r' || p[n - 1] == '\n')) n--;
        snprintf(c->message, sizeof(c->message), "%.*s", (int)(n - from), p + from);
    }
    return got;
}

/* ---- the I/O thread ---- */

static void call_begin(struct etcd *s, struct etcd_call *c) {
    c->easy = curl_easy_init();
    if (!c->easy) abort();
    c->endpoint = atomic_load(&s->endpoint) % s->n_endpoints;
    char url[512];
    snprintf(url, sizeof(url), "%s%s", s->endpoints[c->endpoint],
             s->grpc ? rpc_paths[c->rpc].grpc : rpc_paths[c->rpc].json);
    curl_easy_setopt(c->easy, CURLOPT_URL, url);
    curl_easy_setopt(c->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE, (long)c->out.len);
    curl_easy_setopt(c->easy, CURLOPT_READFUNCTION, on_send);
    curl_easy_setopt(c->easy, CURLOPT_READDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_SEEKFUNCTION, on_rewind);
    curl_easy_setopt(c->easy, CURLOPT_SEEKDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, s->headers);
    curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c->easy, CURLOPT_HEADERDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_PRIVATE, c);
    curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)ETCD_CONNECT_MS);
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, c->timeout_ms);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPIDLE, 5L);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPINTVL, 5L);
    if (s->grpc) {
        curl_easy_setopt(c->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
        curl_easy_setopt(c->easy, CURLOPT_PIPEWAIT, 1L);
    }
    if (s->ca) curl_easy_setopt(c->easy, CURLOPT_CAINFO, s->ca);
    if (s->cert) curl_easy_setopt(c->easy, CURLOPT_SSLCERT, s->cert);
    if (s->key) curl_easy_setopt(c->easy, CURLOPT_SSLKEY, s->key);
    c->next = s->running;
    s->running = c;
    s->n_running++;
    curl_multi_add_handle(s->multi, c->easy);
}

static void call_end(struct etcd *s, struct etcd_call *c, CURLcode rc) {
    c->rc = rc;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &c->http);
    curl_multi_remove_handle(s->multi, c->easy);
    curl_easy_cleanup(c->easy);
    c->easy = NULL;
    struct etcd_call **at = &s->running;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    s->n_running--;
    /* The next call tries another endpoint, unless one has moved on already. */
    unsigned used = c->endpoint;
    bool lost = rc != CURLE_OK && rc != CURLE_WRITE_ERROR && rc != CURLE_ABORTED_BY_CALLBACK;
    if (lost && s->n_endpoints > 1 && atomic_load(&s->endpoint) % s->n_endpoints == used)
        atomic_fetch_add(&s->endpoint, 1);
    if (c->on_end)
        c->on_end(c);
    else
        sem_post(&c->done);
}

static void queue_take(struct etcd *s) {
    pthread_mutex_lock(&s->lock);
    while (s->head && s->n_running < ETCD_IN_FLIGHT) {
        struct etcd_call *c = s->head;
        s->head = c->next;
        if (!s->head) s->tail = &s->head;
        pthread_mutex_unlock(&s->lock);
        call_begin(s, c);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

static void *io_main(void *arg) {
    struct etcd *s = arg;
    while (!atomic_load(&s->stopping)) {
        int wait = etcd_watch_tick(s), running = 0, left;
        queue_take(s);
        curl_multi_perform(s->multi, &running);
        CURLMsg *m;
        while ((m = curl_multi_info_read(s->multi, &left))) {
            struct etcd_call *c = NULL;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&c);
            if (m->msg == CURLMSG_DONE) call_end(s, c, m->data.result);
        }
        pthread_mutex_lock(&s->lock);
        bool more = s->head && s->n_running < ETCD_IN_FLIGHT;
        pthread_mutex_unlock(&s->lock);
        if (!more) curl_multi_poll(s->multi, NULL, 0, wait >= 0 ? MIN_OF(wait, POLL_MS) : POLL_MS, NULL);
    }
    while (s->running) call_end(s, s->running, CURLE_ABORTED_BY_CALLBACK);
    pthread_mutex_lock(&s->lock);
    while (s->head) {
        struct etcd_call *c = s->head;
        s->head = c->next;
        c->rc = CURLE_ABORTED_BY_CALLBACK;
        if (!c->on_end) sem_post(&c->done);
    }
    s->tail = &s->head;
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void etcd_submit(struct etcd_call *c) {
    struct etcd *s = c->s;
    c->grpc_status = -1;
    c->sent = 0;
    c->message[0] = 0;
    c->http = 0;
    c->bad = false;
    c->next = NULL;
    buf_reset(&c->in);
    pthread_mutex_lock(&s->lock);
    bool ended = atomic_load(&s->stopping);
    if (!ended) {
        *s->tail = c;
        s->tail = &c->next;
    }
    pthread_mutex_unlock(&s->lock);
    if (!ended) {
        curl_multi_wakeup(s->multi);
        return;
    }
    c->rc = CURLE_ABORTED_BY_CALLBACK;
    if (!c->on_end) sem_post(&c->done);
}

static int endpoints_parse(struct etcd *s, const char *text, struct err *e) {
    _cleanup_free_ char *copy = xstrdup(text);
    char *rest = copy, *one;
    while ((one = strsep(&rest, ","))) {
        size_t n = strlen(one);
        while (n && one[n - 1] == '/') one[--n] = 0;
        bool tls = str_has_prefix(one, "https://");
        if (!tls && !str_has_prefix(one, "http://"))
            return err_set(e, -EINVAL, "store: etcd server \"%s\" is no http(s) URL", one);
        if (s->n_endpoints && tls != s->grpc) return err_set(e, -EINVAL, "store: etcd servers mix http and https");
        if (s->n_endpoints == ETCD_ENDPOINTS_MAX)
            return err_set(e, -EINVAL, "store: more than %d etcd servers", ETCD_ENDPOINTS_MAX);
        s->grpc = tls;
        s->endpoints[s->n_endpoints++] = xstrdup(one);
    }
    return 0;
}

static void curl_init(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

int etcd_io_start(struct etcd *s, const struct store_options *o, struct err *e) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, curl_init);
    int r = endpoints_parse(s, o->etcd_servers, e);
    if (r < 0) return r;
    s->ca = o->etcd_ca ? xstrdup(o->etcd_ca) : NULL;
    s->cert = o->etcd_cert ? xstrdup(o->etcd_cert) : NULL;
    s->key = o->etcd_key ? xstrdup(o->etcd_key) : NULL;
    s->headers = curl_slist_append(NULL, s->grpc ? "content-type: application/grpc" : "content-type: application/json");
    s->headers = curl_slist_append(s->headers, "Expect:");
    if (s->grpc) s->headers = curl_slist_append(s->headers, "te: trailers");
    s->multi = curl_multi_init();
    if (!s->multi) abort();
    curl_multi_setopt(s->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    if (pthread_create(&s->io, NULL, io_main, s) != 0) abort();
    return 0;
}

void etcd_io_stop(struct etcd *s) {
    if (!s->multi || atomic_exchange(&s->stopping, true)) return;
    curl_multi_wakeup(s->multi);
    pthread_join(s->io, NULL);
}

void etcd_io_free(struct etcd *s) {
    if (s->multi) curl_multi_cleanup(s->multi);
    curl_slist_free_all(s->headers);
    for (unsigned i = 0; i < s->n_endpoints; i++) free(s->endpoints[i]);
    free(s->ca);
    free(s->cert);
    free(s->key);
}

/* ---- outcomes ---- */

/* etcd's refusals, by words of their messages. */
static const struct {
    const char *text;
    int code;
} refusals[] = {
    {"has been compacted", -ESTALE},   {"future revision", -ERANGE},
    {"request is too large", -E2BIG},  {"space exceeded", -ENOSPC},
    {"leader changed", -ETIMEDOUT},    {"no leader", -EAGAIN},
    {"request timed out", -ETIMEDOUT}, {"timed out", -ETIMEDOUT},
    {"too many requests", -EAGAIN},    {"etcdserver: server stopped", -ETIMEDOUT},
};

static int refusal(int status, const char *message, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
        if (strstr(message, refusals[i].text)) return err_set(e, refusals[i].code, "etcd: %s", message);
    bool unavailable = status == GRPC_UNAVAILABLE || status == GRPC_DEADLINE;
    return err_set(e, unavailable ? -ETIMEDOUT : -EIO, "etcd: %s (status %d)", *message ? message : "refused", status);
}

static int json_refusal(const struct etcd_call *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = NULL;
    if (c->in.len && json_parse(a, c->in.data, c->in.len, &v, NULL, NULL) < 0) v = NULL;
    const char *m = json_get_str(v, "message");
    if (!m) m = str_or_empty(json_get_str(v, "error"));
    if (!*m && c->http >= 500) return err_set(e, -ETIMEDOUT, "etcd: HTTP %ld", c->http);
    return refusal((int)json_get_int(v, "code", GRPC_UNKNOWN), m, e);
}

int etcd_outcome(const struct etcd_call *c, struct err *e) {
    bool no_connection = c->rc == CURLE_COULDNT_CONNECT || c->rc == CURLE_COULDNT_RESOLVE_HOST ||
                         c->rc == CURLE_SSL_CONNECT_ERROR || c->rc == CURLE_PEER_FAILED_VERIFICATION;
    bool unsent = no_connection && !c->sent; /* it may be a second connection, after a kept one broke */
    if (c->in.failed) return err_set(e, -EIO, "etcd: answer larger than %d bytes", ETCD_RESPONSE_MAX);
    if (c->bad) return err_set(e, -EIO, "etcd: cannot read its message");
    if (c->grpc_status > 0) return refusal(c->grpc_status, c->message, e);
    if (c->rc != CURLE_OK)
        return err_set(e, unsent ? -EAGAIN : -ETIMEDOUT, "etcd: %s: %s", c->s->endpoints[c->endpoint],
                       curl_easy_strerror(c->rc));
    if (*c->message) return refusal(GRPC_UNKNOWN, c->message, e);
    if (!c->s->grpc && c->http != 200) return json_refusal(c, e);
    if (c->s->grpc && c->grpc_status != 0)
        return err_set(e, -ETIMEDOUT, "etcd: HTTP %ld without a gRPC status", c->http);
    return 0;
}

static int answer_read(struct etcd_call *c, struct arena *a, const struct api_type *type, void *out, struct err *e) {
    const char *p = c->in.data ? c->in.data : "";
    size_t n = c->in.len, taken;
    if (c->s->grpc && !message_next(c, &p, &n, &taken)) return err_set(e, -EIO, "etcd: answer without a message");
    return decode(c, a, type, p, n, out, e);
}

static int invoke_once(struct etcd *s, struct arena *a, enum etcd_rpc rpc, const struct api_type *request_type,
                       const void *request, const struct api_type *response_type, void *response, struct err *e) {
    struct etcd_call c = {.s = s, .rpc = rpc, .timeout_ms = ETCD_ATTEMPT_MS};
    sem_init(&c.done, 0, 0);
    etcd_body(&c, request_type, request);
    etcd_submit(&c);
    while (sem_wait(&c.done) < 0) continue;
    sem_destroy(&c.done);
    int r = etcd_outcome(&c, e);
    if (r == 0) r = answer_read(&c, a, response_type, response, e);
    etcd_call_done(&c);
    return r;
}

int etcd_invoke(struct etcd *s, struct arena *a, enum etcd_rpc rpc, const struct api_type *request_type,
                const void *request, const struct api_type *response_type, void *response, bool *unsure,
                struct err *e) {
    int64_t give_up = mono_ns() + ETCD_GIVE_UP_MS * NS_PER_MS;
    unsigned pause = ETCD_BACKOFF_MS;
    for (;;) {
        _cleanup_err_ struct err one = {0};
        int r = invoke_once(s, a, rpc, request_type, request, response_type, response, &one);
        bool again = (r == -EAGAIN || r == -ETIMEDOUT) && !atomic_load(&s->stopping) && mono_ns() < give_up;
        if (r == -ETIMEDOUT && unsure) *unsure = true;
        if (r == 0) return 0;
        if (!again) {
            if (e) err_move(e, &one);
            return r;
        }
        usleep(pause * 1000);
        pause = MIN_OF(pause * 2, (unsigned)ETCD_BACKOFF_MAX_MS);
    }
}
