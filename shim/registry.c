/* Pulling from a registry (OCI distribution specification, which docker's registry API v2 became).
 *
 *   HEAD/GET /v2/REPO/manifests/TAG-or-DIGEST     what the reference means now
 *   GET      /v2/REPO/blobs/DIGEST                config and layers
 *   401 with WWW-Authenticate: Bearer realm=...   GET the realm for a token, then once more
 *                              Basic              user and password
 *
 * docker.io is served by registry-1.docker.io. Hosts on this machine (localhost, 127.*, ::1) and those of
 * --insecure-registries are spoken to in plain HTTP, all others over TLS with the system's CAs. Redirects are followed
 * (blobs live elsewhere), and then the token is not sent along. Failures of the network and 5xx are tried again.
 * Blobs go to unlinked files and are believed only when their digest is right (ingest.c). */
#include <curl/curl.h>
#include <fcntl.h>

#include "pkg/base/bytes.h"
#include "shim.h"

enum {
    PULL_TRIES = 3,
    PULL_RETRY_MS = 500,
    PULL_CONNECT_S = 30,
    PULL_STALL_S = 60, /* without a byte a second */
    PULL_MANIFEST_MAX = 4 << 20,
    PULL_TOKEN_MAX = 64 << 10,
    PULL_CHALLENGE_MAX = 2048,
};

static const char manifest_types[] =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

struct flight { /* a pull in progress, shared by all who want the same */
    unsigned waiters;
    bool done;
    int r;
    struct err e;
    char id[7 + SHA256_HEX + 1];
};

struct puller {
    struct image_store *images;
    char *insecure;
    pthread_mutex_t lock;
    pthread_cond_t landed;
    struct map flights;
};

struct session { /* one pull */
    struct puller *p;
    struct arena *a;
    CURL *curl;
    struct image_ref ref;
    const char *base;    /* "https://registry-1.docker.io" */
    const char *userpwd; /* "user:password", or NULL */
    const char *token;   /* bearer, or NULL */
    bool basic;
    /* of the request being made */
    int fd;
    int64_t max, got; /* bytes that may come, that came; `max` -1: any number */
    struct buf *buf;
    char challenge[PULL_CHALLENGE_MAX];
    char digest[7 + SHA256_HEX + 1]; /* Docker-Content-Digest */
};

struct puller *puller_new(struct image_store *images, const char *insecure_registries) {
    struct puller *p = xcalloc(1, sizeof(*p));
    p->images = images;
    p->insecure = xstrdup(str_or_empty(insecure_registries));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->landed, NULL);
    return p;
}

struct puller *puller_free(struct puller *p) {
    if (!p) return NULL;
    free(p->insecure);
    map_done(&p->flights);
    pthread_cond_destroy(&p->landed);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return NULL;
}

/* ---- one request ---- */

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    struct session *s = arg;
    long status = 0;
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300) return n; /* an error's or a redirect's body */
    if (s->fd >= 0) {
        s->got += (int64_t)n;
        if (s->max >= 0 && s->got > s->max) return 0;
        return fd_write_all(s->fd, p, n) == 0 ? n : 0;
    }
    if (s->buf) buf_add(s->buf, p, n);
    return s->buf && s->buf->failed ? 0 : n;
}

static void copy_header(const char *p, size_t n, char *out, size_t cap) {
    while (n && (*p == ' ' || *p == '\t')) p++, n--;
    while (n && (p[n - 1] == '\r' || p[n - 1] == '\n' || p[n - 1] == ' ')) n--;
    if (n >= cap) n = cap - 1;
    memcpy(out, p, n);
    out[n] = 0;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg) {
    static const char auth[] = "www-authenticate:", digest[] = "docker-content-digest:";
    struct session *s = arg;
    if (n > sizeof(auth) - 1 && strncasecmp(p, auth, sizeof(auth) - 1) == 0)
        copy_header(p + sizeof(auth) - 1, n - (sizeof(auth) - 1), s->challenge, sizeof(s->challenge));
    if (n > sizeof(digest) - 1 && strncasecmp(p, digest, sizeof(digest) - 1) == 0)
        copy_header(p + sizeof(digest) - 1, n - (sizeof(digest) - 1), s->digest, sizeof(s->digest));
    return n;
}

static void set_options(struct session *s, const char *url, struct curl_slist *headers) {
    CURL *c = s->curl;
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 5L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR,
                     str_has_prefix(s->base, "https") ? "https" : "http,https");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)PULL_CONNECT_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)PULL_STALL_S);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, s);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "coracle");
}

/* Makes a GET; the HTTP status, or a negative code when the network failed. */
static long request(struct session *s, const char *url, bool manifest, bool authorise, struct err *e) {
    struct curl_slist *headers = manifest ? curl_slist_append(NULL, manifest_types) : NULL;
    set_options(s, url, headers);
    if (authorise && s->token) {
        curl_easy_setopt(s->curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        curl_easy_setopt(s->curl, CURLOPT_XOAUTH2_BEARER, s->token); /* libcurl keeps it from other hosts */
    } else if (s->userpwd && (!authorise || s->basic)) {
        curl_easy_setopt(s->curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        curl_easy_setopt(s->curl, CURLOPT_USERPWD, s->userpwd);
    }
    s->challenge[0] = s->digest[0] = 0;
    CURLcode rc = curl_easy_perform(s->curl);
    long status = 0;
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    if (rc == CURLE_WRITE_ERROR && s->max >= 0 && s->got > s->max)
        return err_set(e, -EBADMSG, "%s: more than the %lld bytes that its descriptor gives", url, (long long)s->max);
    if (rc != CURLE_OK) return err_set(e, -EIO, "%s: %s", url, curl_easy_strerror(rc));
    return status;
}

/* ---- authentication ---- */

/* The value of key="..." in a challenge, in the arena; NULL when absent. */
static const char *challenge_param(struct arena *a, const char *challenge, const char *key) {
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

static const char *escape(struct session *s, const char *text) {
    char *e = curl_easy_escape(s->curl, text, 0);
    const char *copy = arena_strdup(s->a, str_or_empty(e));
    curl_free(e);
    return copy;
}

/* Answers a 401's challenge; after success the request is worth making again. */
static int authenticate(struct session *s, struct err *e) {
    char challenge[PULL_CHALLENGE_MAX];
    memcpy(challenge, s->challenge, sizeof(challenge));
    if (strncasecmp(challenge, "basic", 5) == 0 && s->userpwd && !s->basic) {
        s->basic = true;
        return 0;
    }
    const char *realm = challenge_param(s->a, challenge, "realm");
    if (strncasecmp(challenge, "bearer", 6) != 0 || !realm || s->basic)
        return err_set(e, -EACCES, "the registry refuses access to %s", s->ref.path);
    const char *service = challenge_param(s->a, challenge, "service"),
               *scope = challenge_param(s->a, challenge, "scope");
    const char *url =
        arena_printf(s->a, "%s%cservice=%s&scope=%s", realm, strchr(realm, '?') ? '&' : '?',
                     escape(s, str_or_empty(service)),
                     escape(s, scope ? scope : arena_printf(s->a, "repository:%s:pull", s->ref.path)));
    _cleanup_buf_ struct buf body = {.limit = PULL_TOKEN_MAX};
    s->fd = -1;
    s->buf = &body;
    long status = request(s, url, false, false, e);
    if (status < 0) return (int)status;
    struct json *o = NULL;
    if (status == 200 && body.data) json_parse(s->a, body.data, body.len, &o, NULL, NULL);
    const char *token = json_get_str(o, "token");
    if (!token) token = json_get_str(o, "access_token");
    if (!token) return err_set(e, -EACCES, "%s gives no token (HTTP %ld)", realm, status);
    s->token = arena_strdup(s->a, token);
    return 0;
}

static int status_error(struct session *s, long status, const char *what, struct err *e) {
    if (status == 401 || status == 403)
        return err_set(e, -EACCES, "%s: access denied (HTTP %ld)", what, status);
    if (status == 404) return err_set(e, -ENOENT, "%s: not found", what);
    return err_set(e, -EIO, "%s: HTTP %ld", what, status);
}

/* Empties what a failed try has written. */
static void rewind_output(struct session *s, int fd, struct buf *buf) {
    s->fd = fd;
    s->got = 0;
    s->buf = buf;
    if (buf) buf_reset(buf);
    if (fd >= 0 && (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)) s->fd = -1;
}

static int fetch(struct session *s, const char *url, bool manifest, int fd, struct buf *buf, struct err *e) {
    struct err why = {0};
    bool asked = false;
    for (int tries = 0; tries < PULL_TRIES;) {
        err_done(&why);
        rewind_output(s, fd, buf);
        long status = request(s, url, manifest, true, &why);
        if (status == 200) return 0;
        if (status == 401 && !asked) {
            asked = true;
            s->token = NULL;
            int r = authenticate(s, &why);
            if (r == 0) continue;
            if (r == -EACCES) break;
        } else if (status >= 0) {
            status_error(s, status, url, &why);
            if (status < 500 && status != 429) break;
        } else if (status == -EBADMSG) {
            break;
        }
        if (++tries < PULL_TRIES) usleep((useconds_t)(PULL_RETRY_MS * 1000 << tries));
    }
    int r = why.code ? why.code : -EIO;
    if (e) err_move(e, &why);
    err_done(&why);
    return r;
}

/* ---- a pull ---- */

static int open_blob(void *arg, const char *digest, int64_t size, bool manifest, int *fd, struct err *e) {
    struct session *s = arg;
    *fd = image_tmp_file(s->p->images, e);
    if (*fd < 0) return *fd;
    int r = fs_room(*fd, (uint64_t)MAX_OF(size, (int64_t)0), e);
    s->max = size >= 0 ? size : PULL_MANIFEST_MAX; /* layers come with a size, the first manifest without */
    const char *url =
        arena_printf(s->a, "%s/v2/%s/%s/%s", s->base, s->ref.path, manifest ? "manifests" : "blobs", digest);
    if (r == 0) r = fetch(s, url, manifest, *fd, NULL, e);
    if (r < 0) close(take_fd(fd));
    return r;
}

static bool is_local(const char *host) {
    return str_has_prefix(host, "localhost:") || str_eq(host, "localhost") || str_has_prefix(host, "127.") ||
           str_has_prefix(host, "[::1]");
}

static bool is_insecure(const struct puller *p, const char *host) {
    size_t n = strlen(host);
    for (const char *l = p->insecure; *l;) {
        size_t len = strcspn(l, ", ");
        if (len == n && memcmp(l, host, n) == 0) return true;
        l += len;
        l += strspn(l, ", ");
    }
    return is_local(host);
}

/* user:password from CRI's AuthConfig: given apart, or as base64 in `auth`. */
static int set_credentials(struct session *s, const struct cri_auth_config *auth, struct err *e) {
    if (!auth) return 0;
    if (!str_empty(auth->identity_token))
        return err_set(e, -ENOTSUP, "identity tokens are not supported; give user and password");
    if (!str_empty(auth->registry_token)) s->token = auth->registry_token;
    if (!str_empty(auth->username)) {
        s->userpwd = arena_printf(s->a, "%s:%s", auth->username, str_or_empty(auth->password));
    } else if (!str_empty(auth->auth)) {
        size_t n = strlen(auth->auth), len = 0;
        char *text = arena_zalloc(s->a, n + 1);
        if (base64_decode(auth->auth, n, text, &len) < 0 || !memchr(text, ':', len))
            return err_set(e, -EINVAL, "the credentials' auth is not base64 of user:password");
        s->userpwd = text;
    }
    return 0;
}

/* The digest the reference means now. */
static int resolve(struct session *s, const char **digest, struct err *e) {
    if (s->ref.digest) {
        *digest = s->ref.digest;
        return 0;
    }
    _cleanup_buf_ struct buf body = {.limit = PULL_MANIFEST_MAX};
    const char *url = arena_printf(s->a, "%s/v2/%s/manifests/%s", s->base, s->ref.path, s->ref.tag);
    int r = fetch(s, url, true, -1, &body, e);
    if (r < 0) return r;
    char hex[SHA256_HEX + 1]; /* of what came, whatever the header claims */
    sha256_of(body.data ? body.data : "", body.len, hex);
    *digest = arena_printf(s->a, "sha256:%s", hex);
    return 0;
}

static int pull(struct puller *p, const char *image, const struct cri_auth_config *auth, char id[72],
                struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct session s = {.p = p, .a = a, .fd = -1};
    const char *digest, *found;
    int r = image_ref_parse(a, image, &s.ref, e);
    if (r == 0) r = set_credentials(&s, auth, e);
    if (r < 0) return r;
    const char *host = str_eq(s.ref.host, "docker.io") ? "registry-1.docker.io" : s.ref.host;
    s.base = arena_printf(a, "%s://%s", is_insecure(p, s.ref.host) ? "http" : "https", host);
    s.curl = curl_easy_init();
    if (!s.curl) return err_set(e, -ENOMEM, "libcurl");
    const struct image_source src = {open_blob, &s};
    const char *name = image_ref_str(a, &s.ref);
    r = resolve(&s, &digest, e);
    if (r == 0) r = image_ingest(p->images, a, &src, digest, &name, 1, false, &found, e);
    if (r == 0) snprintf(id, 7 + SHA256_HEX + 1, "%s", found);
    curl_easy_cleanup(s.curl);
    return r < 0 ? err_wrap(e, "pull %s", name) : 0;
}

/* The key of a shared pull: the reference and who asks (credentials of one must not serve another). */
static const char *flight_key(struct arena *a, const char *image, const struct cri_auth_config *auth) {
    if (!auth) return image;
    return arena_printf(a, "%s|%s|%s|%s|%s", image, str_or_empty(auth->username),
                        str_or_empty(auth->password), str_or_empty(auth->auth),
                        str_or_empty(auth->registry_token));
}

int puller_pull(struct puller *p, struct arena *a, const char *image, const struct cri_auth_config *auth,
                const char **id, struct err *e) {
    const char *key = flight_key(a, image, auth);
    pthread_mutex_lock(&p->lock);
    struct flight *f = map_get(&p->flights, key);
    if (!f) {
        f = xcalloc(1, sizeof(*f));
        f->waiters = 1;
        map_put(&p->flights, key, f);
        pthread_mutex_unlock(&p->lock);
        f->r = pull(p, image, auth, f->id, &f->e);
        pthread_mutex_lock(&p->lock);
        f->done = true;
        map_del(&p->flights, key);
        pthread_cond_broadcast(&p->landed);
    } else {
        f->waiters++;
        while (!f->done) pthread_cond_wait(&p->landed, &p->lock);
    }
    int r = f->r;
    if (r == 0)
        *id = arena_strdup(a, f->id);
    else
        err_set(e, r, "%s", f->e.msg);
    if (--f->waiters == 0) {
        err_done(&f->e);
        free(f);
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}
