#include "apiserver/auth/remote.h"

#include <openssl/sha.h>
#include <pthread.h>

#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"
#include "pkg/client/client.h"
#include "pkg/http/client.h"

enum {
    ATTEMPTS = 5,
    FIRST_PAUSE_MS = 500, /* then half as much again each time */
    DEFAULT_TIMEOUT_MS = 30000,
    ANSWER_MAX = 1 << 20,
    ERROR_TEXT_MAX = 200,
    CACHED_MAX = 4096,
    STOP_CHECK_MS = 50
};

/* ---- one server ---- */

struct remote {
    struct http_client *http;
    char *url;
    unsigned timeout_ms;
};

int remote_new(const char *file, int64_t timeout_ns, struct remote **out, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct client_config c = {0};
    int rc = file ? client_config_from_kubeconfig(a, file, &c, e) : client_config_in_cluster(a, &c, e);
    if (rc) return rc;
    if (str_empty(c.server)) return err_set(e, -EINVAL, "%s: no server", str_or_empty(file));
    struct http_client_options o = {.ca_file = c.ca_file,
                                    .ca_pem = c.ca_data,
                                    .cert_file = c.cert_file,
                                    .key_file = c.key_file,
                                    .cert_pem = c.cert_data,
                                    .key_pem = c.key_data,
                                    .server_name = c.tls_server_name,
                                    .insecure = c.insecure_skip_tls_verify,
                                    .token = c.token,
                                    .token_file = c.token_file,
                                    .user_agent = "kube-apiserver"};
    struct http_client *http = http_client_new(&o, e);
    if (!http) return -EIO;
    struct remote *r = xcalloc(1, sizeof(*r));
    r->http = http;
    r->url = file ? xstrdup(c.server) : xasprintf("%s/apis/authorization.k8s.io/v1/subjectaccessreviews", c.server);
    r->timeout_ms = timeout_ns ? (unsigned)(timeout_ns / NS_PER_MS) : DEFAULT_TIMEOUT_MS;
    *out = r;
    return 0;
}

void remote_free(struct remote *r) {
    if (!r) return;
    http_client_free(r->http);
    free(r->url);
    free(r);
}

/* One attempt; *again: it may go better soon. */
static int attempt(struct remote *r, struct arena *a, const struct buf *body, struct json **status, bool *again,
                   struct err *e) {
    static const struct http_header headers[] = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
    _cleanup_http_resp_ struct http_resp resp = {.body.limit = ANSWER_MAX};
    struct json *answer = NULL;
    *again = false;
    int rc = http_client_do(r->http, "POST", r->url, headers, ARRAY_LEN(headers), body->data, body->len, &resp,
                            r->timeout_ms, e);
    if (rc) {
        *again = rc == -ECONNRESET || rc == -EIO;
        return err_wrap(e, "Post \"%s\"", r->url), rc;
    }
    *again = resp.status == 429 || resp.status >= 500 || http_resp_header(&resp, "retry-after");
    if (resp.status < 200 || resp.status > 299)
        return err_set(e, -EPROTO, "webhook \"%s\" answered with status %d: %.*s", r->url, resp.status,
                       (int)MIN_OF(resp.body.len, (size_t)ERROR_TEXT_MAX), str_or_empty(resp.body.data));
    *again = false;
    rc = json_parse(a, str_or_empty(resp.body.data), resp.body.len, &answer, NULL, e);
    if (rc) return err_wrap(e, "answer of webhook \"%s\"", r->url), rc;
    *status = json_get(answer, "status");
    return json_is(*status, JSON_OBJECT) ? 0 : err_set(e, -EPROTO, "webhook \"%s\" answered without a status", r->url);
}

int remote_review(struct remote *r, struct arena *a, const struct json *body, struct json **status, struct err *e) {
    _cleanup_buf_ struct buf text = BUF_INIT;
    int64_t pause_ms = FIRST_PAUSE_MS;
    json_write(&text, body);
    for (int i = 1;; i++) {
        _cleanup_err_ struct err why = {0};
        bool again;
        int rc = attempt(r, a, &text, status, &again, &why);
        if (rc == 0) return 0;
        if (!again || i == ATTEMPTS) {
            err_move(e, &why);
            return rc;
        }
        usleep((useconds_t)(pause_ms * 1000));
        pause_ms = pause_ms * 3 / 2;
    }
}

int remote_post(struct remote *r, const char *text, size_t len, int attempts, int64_t first_pause_ns,
                const _Atomic bool *stop, struct err *e) {
    static const struct http_header headers[] = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
    for (int i = 1;; i++, first_pause_ns = first_pause_ns * 3 / 2) {
        _cleanup_http_resp_ struct http_resp resp = {.body.limit = ANSWER_MAX};
        _cleanup_err_ struct err why = {0};
        int rc =
            http_client_do(r->http, "POST", r->url, headers, ARRAY_LEN(headers), text, len, &resp, r->timeout_ms, &why);
        if (rc == 0 && resp.status >= 200 && resp.status <= 299) return 0;
        if (rc == 0) rc = err_set(&why, -EPROTO, "status %d", resp.status);
        bool stopped = stop && atomic_load(stop);
        if (i == attempts || stopped) {
            err_move(e, &why);
            return err_wrap(e, "Post \"%s\"", r->url), rc;
        }
        for (int64_t end = mono_ns() + first_pause_ns; mono_ns() < end && !(stop && atomic_load(stop));)
            usleep(STOP_CHECK_MS * 1000);
    }
}

/* ---- answers that are kept ---- by the question's digest: no token lies about in memory */

struct kept {
    char *text; /* JSON */
    int64_t until_ns;
};
struct remote_cache {
    pthread_mutex_t lock;
    struct map entries;
};

struct remote_cache *remote_cache_new(void) {
    struct remote_cache *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void kept_free(void *p) {
    struct kept *k = p;
    free(k->text);
    free(k);
}

void remote_cache_free(struct remote_cache *c) {
    if (!c) return;
    map_done_with(&c->entries, kept_free);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

enum { DIGEST_TEXT = 2 * SHA256_DIGEST_LENGTH + 1 };
static void digest(const char *question, char out[DIGEST_TEXT]) {
    unsigned char md[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)question, strlen(question), md);
    hex_encode(md, sizeof(md), out);
}

struct json *remote_cache_get(struct remote_cache *c, struct arena *a, const char *question) {
    char key[DIGEST_TEXT];
    struct json *out = NULL;
    digest(question, key);
    pthread_mutex_lock(&c->lock);
    const struct kept *k = map_get(&c->entries, key);
    if (k && k->until_ns > mono_ns() && json_parse(a, k->text, strlen(k->text), &out, NULL, NULL)) out = NULL;
    pthread_mutex_unlock(&c->lock);
    return out;
}

void remote_cache_put(struct remote_cache *c, const char *question, const struct json *answer, int64_t ttl_ns) {
    if (ttl_ns <= 0) return;
    _cleanup_buf_ struct buf b = BUF_INIT;
    char key[DIGEST_TEXT];
    struct kept *k = xcalloc(1, sizeof(*k));
    json_write(&b, answer);
    k->text = xstrndup(b.data, b.len);
    k->until_ns = mono_ns() + ttl_ns;
    digest(question, key);
    pthread_mutex_lock(&c->lock);
    if (c->entries.n >= CACHED_MAX) {
        map_done_with(&c->entries, kept_free);
        c->entries = (struct map)MAP_INIT;
    }
    struct kept *old = map_put(&c->entries, key, k);
    pthread_mutex_unlock(&c->lock);
    if (old) kept_free(old);
}
