#include "registry.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/json/json.h"

enum {
    TRIES = 3,      /* without a byte more */
    TRIES_ALL = 50, /* in all: a registry that breaks off after each byte */
    RETRY_MS = 500,
    CONNECT_S = 30,
    STALL_S = 60, /* without a byte a second */
    TOKEN_MAX = 64 << 10,
    CHALLENGE_MAX = 2048,
};

static const char manifest_types[] =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

struct registry {
    struct registry_endpoint ep;
    const char *repository, *identity_token;
    char *userpwd; /* "user:password", or NULL */
    atomic_llong *received;
    pthread_mutex_t lock; /* over what follows */
    CURL *idle[PULL_THREADS];
    size_t n_idle;
    char *token; /* bearer, or NULL */
    bool basic;
};

struct exchange { /* one request being made */
    struct registry *r;
    CURL *curl;
    int fd;         /* -1: into buf */
    int64_t offset; /* of the file, asked for with Range */
    int64_t max, got;
    struct buf *buf;
    bool started, overflow;
    char challenge[CHALLENGE_MAX];
};

/* ---- opening ---- */

static int set_credentials(struct registry *r, const char *user, const char *password, const char *auth,
                           struct err *e) {
    if (!str_empty(user)) {
        r->userpwd = xasprintf("%s:%s", user, str_or_empty(password));
    } else if (!str_empty(auth)) {
        size_t n = strlen(auth), len = 0;
        char *text = xcalloc(1, n + 1);
        if (base64_decode(auth, n, text, &len) < 0 || !memchr(text, ':', len)) {
            free(text);
            return err_set(e, -EINVAL, "the credentials' auth is not base64 of user:password");
        }
        r->userpwd = text;
    }
    return 0;
}

int registry_open(const struct registry_endpoint *ep, const char *repository, const struct cri_auth_config *auth,
                  atomic_llong *received, struct registry **out, struct err *e) {
    struct registry *r = xcalloc(1, sizeof(*r));
    r->ep = *ep;
    r->repository = repository;
    r->received = received;
    pthread_mutex_init(&r->lock, NULL);
    int rc;
    if (auth) {
        if (!str_empty(auth->identity_token)) r->identity_token = auth->identity_token;
        if (!str_empty(auth->registry_token)) r->token = xstrdup(auth->registry_token);
        rc = set_credentials(r, auth->username, auth->password, auth->auth, e);
    } else {
        if (!str_empty(ep->identity_token)) r->identity_token = ep->identity_token;
        rc = set_credentials(r, ep->username, ep->password, ep->auth, e);
    }
    if (rc < 0) r = registry_close(r);
    *out = r;
    return rc;
}

struct registry *registry_close(struct registry *r) {
    if (!r) return NULL;
    for (size_t i = 0; i < r->n_idle; i++) curl_easy_cleanup(r->idle[i]);
    pthread_mutex_destroy(&r->lock);
    free(r->userpwd);
    free(r->token);
    free(r);
    return NULL;
}

static CURL *take_handle(struct registry *r) {
    pthread_mutex_lock(&r->lock);
    CURL *c = r->n_idle ? r->idle[--r->n_idle] : NULL;
    pthread_mutex_unlock(&r->lock);
    return c ? c : curl_easy_init();
}

static void give_handle(struct registry *r, CURL *c) {
    pthread_mutex_lock(&r->lock);
    if (r->n_idle < ARRAY_LEN(r->idle)) {
        r->idle[r->n_idle++] = c;
        c = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    curl_easy_cleanup(c);
}

/* ---- one request ---- */

/* The first bytes of a body: a server that knows no ranges begins at the beginning. */
static bool start_body(struct exchange *x, long status) {
    x->started = true;
    if (x->fd < 0 || status == 206) return true;
    x->offset = 0;
    x->got = 0;
    return ftruncate(x->fd, 0) == 0 && lseek(x->fd, 0, SEEK_SET) == 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    struct exchange *x = arg;
    long status = 0;
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300) return n; /* an error's or a redirect's body */
    if (!x->started && !start_body(x, status)) return 0;
    x->got += (int64_t)n;
    if (x->r->received) atomic_fetch_add(x->r->received, (long long)n);
    if (x->fd >= 0) {
        x->overflow = x->offset + x->got > x->max;
        return !x->overflow && fd_write_all(x->fd, p, n) == 0 ? n : 0;
    }
    buf_add(x->buf, p, n);
    x->overflow = x->buf->failed;
    return x->overflow ? 0 : n;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg) {
    static const char auth[] = "www-authenticate:";
    struct exchange *x = arg;
    if (n <= sizeof(auth) - 1 || strncasecmp(p, auth, sizeof(auth) - 1) != 0) return n;
    const char *s = p + sizeof(auth) - 1;
    size_t len = n - (sizeof(auth) - 1);
    while (len && (*s == ' ' || *s == '\t')) s++, len--;
    while (len && (s[len - 1] == '\r' || s[len - 1] == '\n' || s[len - 1] == ' ')) len--;
    snprintf(x->challenge, sizeof(x->challenge), "%.*s", (int)MIN_OF(len, sizeof(x->challenge) - 1), s);
    return n;
}

static void set_options(struct exchange *x, const char *url, struct curl_slist *headers) {
    const struct registry_endpoint *ep = &x->r->ep;
    CURL *c = x->curl;
    curl_easy_reset(c); /* keeps the connection */
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 5L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, str_has_prefix(ep->base, "https") ? "https" : "http,https");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_S);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "coracle");
    if (ep->ca_file) curl_easy_setopt(c, CURLOPT_CAINFO, ep->ca_file);
    if (ep->cert_file) curl_easy_setopt(c, CURLOPT_SSLCERT, ep->cert_file);
    if (ep->key_file) curl_easy_setopt(c, CURLOPT_SSLKEY, ep->key_file);
    if (ep->skip_verify) {
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    char range[32];
    snprintf(range, sizeof(range), "%lld-", (long long)x->offset);
    if (x->offset > 0) curl_easy_setopt(c, CURLOPT_RANGE, range);
}

static void authorise(struct exchange *x) {
    struct registry *r = x->r;
    pthread_mutex_lock(&r->lock);
    if (r->token) {
        curl_easy_setopt(x->curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        curl_easy_setopt(x->curl, CURLOPT_XOAUTH2_BEARER, r->token); /* libcurl keeps it from other hosts */
    } else if (r->basic && r->userpwd) {
        curl_easy_setopt(x->curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(x->curl, CURLOPT_USERPWD, r->userpwd);
    }
    pthread_mutex_unlock(&r->lock);
}

/* The HTTP status, or a negative code when the network failed. */
static long perform(struct exchange *x, const char *url, struct err *e) {
    x->challenge[0] = 0;
    x->got = 0;
    x->started = x->overflow = false;
    CURLcode rc = curl_easy_perform(x->curl);
    long status = 0;
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    if (x->overflow)
        return x->fd < 0 ? err_set(e, -EFBIG, "%s: the answer is too large", url)
                         : err_set(e, -EBADMSG, "%s: more than the %lld bytes that its descriptor gives", url,
                                   (long long)x->max);
    if (rc != CURLE_OK) return err_set(e, -EIO, "%s: %s", url, curl_easy_strerror(rc));
    return status;
}

/* ---- authentication ---- */

const char *challenge_param(struct arena *a, const char *challenge, const char *key) {
    size_t n = strlen(key);
    for (const char *p = challenge; (p = strcasestr(p, key)); p += n) {
        if (p != challenge && !strchr(" ,", p[-1])) continue;
        if (p[n] != '=') continue;
        p += n + 1;
        if (*p == '"') return arena_strndup(a, p + 1, strcspn(p + 1, "\""));
        return arena_strndup(a, p, strcspn(p, ", "));
    }
    return NULL;
}

static const char *escape(struct exchange *x, struct arena *a, const char *text) {
    char *e = curl_easy_escape(x->curl, str_or_empty(text), 0);
    const char *copy = arena_strdup(a, str_or_empty(e));
    curl_free(e);
    return copy;
}

/* Asks the realm for a token; `form` NULL: with GET. */
static int ask_token(struct exchange *x, struct arena *a, const char *url, const char *form, struct err *e) {
    _cleanup_buf_ struct buf body = {.limit = TOKEN_MAX};
    struct exchange t = {.r = x->r, .curl = x->curl, .fd = -1, .buf = &body};
    set_options(&t, url, NULL);
    if (form)
        curl_easy_setopt(t.curl, CURLOPT_COPYPOSTFIELDS, form);
    else if (x->r->userpwd) {
        curl_easy_setopt(t.curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(t.curl, CURLOPT_USERPWD, x->r->userpwd);
    }
    long status = perform(&t, url, e);
    if (status < 0) return (int)status;
    struct json *o = NULL;
    if (status == 200 && body.data) json_parse(a, body.data, body.len, &o, NULL, NULL);
    const char *token = json_get_str(o, "token");
    if (!token) token = json_get_str(o, "access_token");
    if (!token) return err_set(e, -EACCES, "%s gives no token (HTTP %ld)", url, status);
    pthread_mutex_lock(&x->r->lock);
    free(x->r->token);
    x->r->token = xstrdup(token);
    pthread_mutex_unlock(&x->r->lock);
    return 0;
}

/* Answers a 401's challenge; after success the request is worth making again. */
static int authenticate(struct exchange *x, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct registry *r = x->r;
    const char *challenge = arena_strdup(a, x->challenge);
    if (strncasecmp(challenge, "basic", 5) == 0 && r->userpwd && !r->basic) {
        r->basic = true;
        return 0;
    }
    const char *realm = challenge_param(a, challenge, "realm");
    if (strncasecmp(challenge, "bearer", 6) != 0 || !realm || r->basic)
        return err_set(e, -EACCES, "the registry refuses access to %s", r->repository);
    const char *scope = challenge_param(a, challenge, "scope");
    const char *what = arena_printf(a, "service=%s&scope=%s", escape(x, a, challenge_param(a, challenge, "service")),
                                    escape(x, a, scope ? scope : arena_printf(a, "repository:%s:pull", r->repository)));
    if (r->identity_token)
        return ask_token(x, a, realm,
                         arena_printf(a, "grant_type=refresh_token&client_id=coracle&%s&refresh_token=%s", what,
                                      escape(x, a, r->identity_token)),
                         e);
    return ask_token(x, a, arena_printf(a, "%s%c%s", realm, strchr(realm, '?') ? '&' : '?', what), NULL, e);
}

/* ---- with tries ---- */

static int status_error(long status, const char *what, struct err *e) {
    if (status == 401 || status == 403) return err_set(e, -EACCES, "%s: access denied (HTTP %ld)", what, status);
    if (status == 404) return err_set(e, -ENOENT, "%s: not found", what);
    return err_set(e, -EIO, "%s: HTTP %ld", what, status);
}

/* What a failed try has left: a file goes on from there, a buffer starts again. */
static int rewind_output(struct exchange *x, struct err *e) {
    struct stat st;
    if (x->buf) buf_reset(x->buf);
    if (x->fd < 0) return 0;
    if (fstat(x->fd, &st) < 0 || lseek(x->fd, 0, SEEK_END) < 0) return err_errno(e, errno, "blob file");
    x->offset = st.st_size;
    return 0;
}

/* Whether a failure is worth another try. */
static bool transient(long status) { return status == -EIO || status == 429 || status == 416 || status >= 500; }

static int fetch(struct exchange *x, const char *url, bool manifest, struct err *e) {
    struct err why = {0};
    struct curl_slist *headers = manifest ? curl_slist_append(NULL, manifest_types) : NULL;
    bool asked = false;
    int r = 0, idle = 0;
    for (int tries = 0; tries < TRIES_ALL && idle < TRIES; tries++) {
        err_done(&why);
        if ((r = rewind_output(x, &why)) < 0) break;
        set_options(x, url, headers);
        authorise(x);
        long status = perform(x, url, &why);
        r = status < 0 ? (int)status : 0;
        if (status == 200 || status == 206) break;
        if (status == 401 && !asked) {
            asked = true;
            if ((r = authenticate(x, &why)) == 0) continue;
            if (r == -EACCES) break;
        } else if (status > 0) {
            r = status_error(status, url, &why);
            if (status == 416 && x->fd >= 0 && ftruncate(x->fd, 0) < 0) break; /* what is there is of no use */
        }
        if (!transient(status > 0 ? status : r)) break;
        idle = x->fd >= 0 && x->got > 0 ? 1 : idle + 1; /* a file keeps what came, a buffer starts again */
        if (idle < TRIES) usleep((useconds_t)(RETRY_MS * 1000 << idle));
    }
    curl_slist_free_all(headers);
    if (r < 0 && e) err_move(e, &why);
    err_done(&why);
    return r;
}

static char *url_of(const struct registry *r, const char *kind, const char *reference) {
    return xasprintf("%s/%s/%s/%s%s%s", r->ep.base, r->repository, kind, reference, r->ep.ns ? "?ns=" : "",
                     str_or_empty(r->ep.ns));
}

int registry_manifest(struct registry *r, const char *reference, struct buf *body, struct err *e) {
    _cleanup_free_ char *url = url_of(r, "manifests", reference);
    struct exchange x = {.r = r, .curl = take_handle(r), .fd = -1, .buf = body};
    int rc = x.curl ? fetch(&x, url, true, e) : err_set(e, -ENOMEM, "libcurl");
    if (x.curl) give_handle(r, x.curl);
    return rc;
}

int registry_blob(struct registry *r, const char *digest, int64_t size, bool manifest, int fd, struct err *e) {
    _cleanup_free_ char *url = url_of(r, manifest ? "manifests" : "blobs", digest);
    struct stat st;
    if (fstat(fd, &st) == 0 && size > 0 && st.st_size == size) return 0; /* an earlier try has it all */
    if (st.st_size > size && ftruncate(fd, 0) < 0) return err_errno(e, errno, "blob file");
    struct exchange x = {.r = r, .curl = take_handle(r), .fd = fd, .max = size};
    int rc = x.curl ? fetch(&x, url, manifest, e) : err_set(e, -ENOMEM, "libcurl");
    if (x.curl) give_handle(r, x.curl);
    return rc;
}
