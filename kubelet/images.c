/* See images.h. */
#include "kubelet/images.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <time.h>

#include "kubelet/pull_records.h"
#include "pkg/base/bytes.h"

enum { MAX_CREDENTIALS = 16, WAIT_SLICE_MS = 100, PULL_TIMEOUT_S = 3600, SHOWN_ERROR_MAX = 4096 };

struct pull {
    struct images *im;
    char *key;
    unsigned refs; /* waiting workers, and the thread */
    bool done;
    struct arena *arena;
    struct cri_pull_image_request req;
    struct cri_auth_config *auths;
    struct pull_secret *secrets; /* whose auths these are */
    size_t n_auths;
    int result;
    struct err err;
    char *ref;
    int64_t started, finished;
};

struct images {
    struct kubelet *kl;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct map pulls; /* key -> struct pull */
    struct pull_records *records;
    unsigned running, active; /* threads; those that have a place among the pulls allowed side by side */
};

struct images *images_new(struct kubelet *kl) {
    struct images *im = xcalloc(1, sizeof(*im));
    im->kl = kl;
    _cleanup_free_ char *dir = kl->fake ? NULL : xasprintf("%s/image_manager", kl->cfg.root_dir);
    im->records = pull_records_new(dir);
    pthread_mutex_init(&im->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&im->changed, &ca);
    pthread_condattr_destroy(&ca);
    return im;
}

void images_free(struct images *im) {
    if (!im) return;
    pthread_mutex_lock(&im->lock);
    while (im->running) pthread_cond_wait(&im->changed, &im->lock);
    pthread_mutex_unlock(&im->lock);
    map_done(&im->pulls);
    pull_records_free(im->records);
    pthread_cond_destroy(&im->changed);
    pthread_mutex_destroy(&im->lock);
    free(im);
}

void image_track_done(struct image_track *t) {
    free(t->image);
    free(t->last_error);
    *t = (struct image_track){0};
}

/* ---- names ---- */

char *images_default_tag(struct arena *a, const char *image) {
    if (str_empty(image)) return NULL;
    const char *slash = strrchr(image, '/'), *last = slash ? slash + 1 : image;
    const char *at = strchr(image, '@'), *colon = strchr(last, ':');
    size_t name_len = at ? (size_t)(at - image) : colon ? (size_t)(colon - image) : strlen(image);
    const char *first = strchr(image, '/');
    bool has_host = first && (memchr(image, '.', (size_t)(first - image)) ||
                              memchr(image, ':', (size_t)(first - image)) || strncmp(image, "localhost/", 10) == 0);
    size_t from = has_host ? (size_t)(first - image) + 1 : 0;
    if (from >= name_len) return NULL;
    for (size_t i = 0; i < strlen(image); i++) {
        unsigned char c = (unsigned char)image[i];
        if (isspace(c) || c < 0x20 || c > 0x7e) return NULL;
        if (i >= from && i < name_len && !islower(c) && !isdigit(c) && !strchr("._-/:", c)) return NULL;
    }
    if (!isalnum((unsigned char)image[from]) || !isalnum((unsigned char)image[name_len - 1])) return NULL;
    return at || colon ? arena_strdup(a, image) : arena_printf(a, "%s:latest", image);
}

const char *images_pull_policy(const struct core_container *c) {
    if (!str_empty(c->image_pull_policy)) return c->image_pull_policy;
    const char *slash = strrchr(str_or_empty(c->image), '/'), *last = slash ? slash + 1 : str_or_empty(c->image);
    const char *colon = strchr(last, ':');
    return strchr(last, '@') || (colon && !str_eq(colon, ":latest")) ? "IfNotPresent" : "Always";
}

/* ---- credentials ---- */

/* "index.docker.io/library/x" for what has no registry in its name. */
static char *image_location(struct arena *a, const char *image) {
    const char *slash = strchr(image, '/');
    size_t n = slash ? (size_t)(slash - image) : 0;
    bool host =
        slash && (memchr(image, '.', n) || memchr(image, ':', n) || (n == 9 && !strncmp(image, "localhost", 9)));
    if (host && n == 9 && strncmp(image, "docker.io", 9) == 0) return arena_printf(a, "index.docker.io%s", slash);
    return host ? arena_strdup(a, image) : arena_printf(a, "index.docker.io/%s", image);
}

/* Matches one registry name, label by label; a label of the key may be a glob with '*'. */
static bool host_matches(const char *key, size_t kn, const char *host, size_t hn) {
    size_t k = 0, h = 0, star = SIZE_MAX, mark = 0;
    while (h < hn) {
        if (k < kn && (key[k] == host[h])) {
            k++;
            h++;
        } else if (k < kn && key[k] == '*') {
            star = k++;
            mark = h;
        } else if (star != SIZE_MAX && host[mark] != '.') {
            k = star + 1;
            h = ++mark;
        } else {
            return false;
        }
    }
    while (k < kn && key[k] == '*') k++;
    return k == kn;
}

/* Length of the match, 0 for none. */
static size_t key_matches(const char *key, const char *location) {
    if (str_has_prefix(key, "https://")) key += 8;
    if (str_has_prefix(key, "http://")) key += 7;
    size_t kn = strlen(key);
    while (kn && key[kn - 1] == '/') kn--;
    if (kn >= 3 && (strncmp(key + kn - 3, "/v1", 3) == 0 || strncmp(key + kn - 3, "/v2", 3) == 0)) kn -= 3;
    size_t kh = strcspn(key, "/"), lh = strcspn(location, "/");
    if (kh > kn) kh = kn;
    if (!kn || !host_matches(key, kh, location, lh)) return 0;
    size_t path = kn - kh;
    if (strncmp(key + kh, location + lh, path) != 0) return 0;
    return kn;
}

static void decode_auth(struct arena *a, const char *auth, struct cri_auth_config *out) {
    size_t n = strlen(auth), got;
    char *text = arena_alloc(a, n + 1);
    if (base64_decode(auth, n, text, &got) < 0) return;
    text[got] = '\0';
    char *colon = strchr(text, ':');
    if (!colon) return;
    *colon = '\0';
    out->username = text;
    out->password = colon + 1;
}

size_t images_credentials(struct arena *a, const char *json, size_t len, bool flat, const char *image,
                          struct cri_auth_config **out, size_t max) {
    struct json *v;
    if (json_parse(a, json, len, &v, NULL, NULL) < 0) return 0;
    const struct json *auths = flat ? v : json_get(v, "auths");
    const char *location = image_location(a, image);
    size_t n = 0, lens[MAX_CREDENTIALS];
    *out = arena_zalloc(a, max * sizeof(**out));
    JSON_FOREACH_MEMBER(m, auths) {
        size_t matched = key_matches(m->key, location);
        if (!matched || n >= max || n >= MAX_CREDENTIALS) continue;
        struct cri_auth_config c = {.username = json_get_str(m->value, "username"),
                                    .password = json_get_str(m->value, "password"),
                                    .identity_token = json_get_str(m->value, "identitytoken"),
                                    .registry_token = json_get_str(m->value, "registrytoken")};
        const char *auth = json_get_str(m->value, "auth");
        if (auth) decode_auth(a, auth, &c);
        size_t at = n++;
        for (; at > 0 && lens[at - 1] < matched; at--) { /* longest match first */
            (*out)[at] = (*out)[at - 1];
            lens[at] = lens[at - 1];
        }
        (*out)[at] = c;
        lens[at] = matched;
    }
    return n;
}

/* What two Secrets with the same credentials have in common. */
static const char *hash_of(struct arena *a, const struct cri_auth_config *c) {
    const char *parts[] = {c->username, c->password, c->identity_token, c->registry_token};
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char *hex = arena_alloc(a, 2 * EVP_MAX_MD_SIZE + 1);
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        buf_add(&b, str_or_empty(parts[i]), strlen(str_or_empty(parts[i])) + 1);
    EVP_Digest(b.data, b.len, md, &n, EVP_sha256(), NULL);
    hex_encode(md, n, hex);
    return hex;
}

/* At most MAX_CREDENTIALS, and the Secret that each is from. */
static size_t pod_credentials(struct images *im, struct arena *a, const struct core_pod *pod, const char *image,
                              struct cri_auth_config *out, struct pull_secret *secrets) {
    size_t n = 0;
    const char *missing = NULL;
    for (size_t i = 0; i < pod->spec.image_pull_secrets.n; i++) {
        const char *name = pod->spec.image_pull_secrets.items[i].name;
        struct core_secret s = {0};
        if (str_empty(name)) continue;
        if (objects_secret(im->kl->objects, a, pod->metadata.namespace, name, &s, NULL) < 0) {
            missing = missing ? arena_printf(a, "%s, %s", missing, name) : name;
            continue;
        }
        for (size_t k = 0; k < s.data.n; k++) {
            bool flat = str_eq(s.data.items[k].key, ".dockercfg");
            if (!flat && !str_eq(s.data.items[k].key, ".dockerconfigjson")) continue;
            struct cri_auth_config *got;
            struct bytes v = s.data.items[k].value;
            size_t m = images_credentials(a, (const char *)v.p, v.n, flat, image, &got, MAX_CREDENTIALS - n);
            memcpy(out + n, got, m * sizeof(*got));
            for (size_t j = n; j < n + m; j++)
                secrets[j] = (struct pull_secret){s.metadata.uid, pod->metadata.namespace, name, hash_of(a, &out[j])};
            n += m;
        }
    }
    if (missing)
        kubelet_event(im->kl, pod, NULL, "Warning", "FailedToRetrieveImagePullSecret",
                      "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.",
                      missing);
    return n;
}

/* ---- pulling ---- */

static void pull_unref(struct pull *p) { /* with the lock held */
    if (--p->refs) return;
    arena_free(p->arena);
    err_done(&p->err);
    free(p->ref);
    free(p->key);
    free(p);
}

static int image_status(struct images *im, struct arena *a, const char *image, const struct cri_image **out,
                        struct err *e) {
    struct cri_image_spec spec = {.image = image};
    struct cri_image_status_request req = {.image = &spec};
    struct cri_image_status_response resp = {0};
    int r = runtime_call(im->kl->rt, RT_IMAGE_STATUS, a, &req, &resp, e);
    *out = resp.image;
    return r;
}

/* How many pulls may run side by side; 0: any number. */
static unsigned most_pulls(const struct images *im) {
    const struct kubelet_config *c = &im->kl->cfg;
    return c->serialize_pulls ? 1 : (unsigned)MAX_OF(c->max_parallel_pulls, (int64_t)0);
}

static void *pull_thread(void *arg) {
    struct pull *p = arg;
    struct images *im = p->im;
    struct err first = {0};
    const struct pull_secret *with = NULL;
    int r = -EIO;
    pull_records_begin(im->records, p->req.image->image);
    pthread_mutex_lock(&im->lock);
    while (most_pulls(im) && im->active >= most_pulls(im) && !im->kl->stopping)
        pthread_cond_wait(&im->changed, &im->lock);
    im->active++;
    p->started = mono_ns();
    pthread_mutex_unlock(&im->lock);
    for (size_t i = 0; i < MAX_OF(p->n_auths, (size_t)1); i++) {
        struct cri_pull_image_response resp = {0};
        struct err e = {0};
        p->req.auth = p->n_auths ? &p->auths[i] : NULL;
        r = runtime_call_timeout(im->kl->rt, RT_PULL_IMAGE, p->arena, &p->req, &resp, PULL_TIMEOUT_S * NS_PER_SEC, &e);
        if (r == 0) {
            p->ref = xstrdup(resp.image_ref ? resp.image_ref : "");
            with = p->n_auths ? &p->secrets[i] : NULL;
            err_done(&e);
            break;
        }
        if (i == 0)
            err_move(&first, &e);
        else
            err_done(&e);
    }
    const struct cri_image *got = NULL;
    if (r == 0 && image_status(im, p->arena, p->ref, &got, NULL) < 0) got = NULL;
    pull_records_end(im->records, p->req.image->image, r < 0 ? NULL : got ? got->id : p->ref, with);
    pthread_mutex_lock(&im->lock);
    p->result = r;
    if (r < 0)
        err_move(&p->err, &first);
    else
        err_done(&first);
    p->finished = mono_ns();
    p->done = true;
    map_del(&im->pulls, p->key);
    im->running--;
    im->active--;
    pull_unref(p);
    pthread_cond_broadcast(&im->changed);
    pthread_mutex_unlock(&im->lock);
    return NULL;
}

static char *pull_key(struct arena *a, const char *image, const struct cri_auth_config *auths, size_t n) {
    char *key = arena_strdup(a, image);
    for (size_t i = 0; i < n; i++)
        key = arena_printf(a, "%s\n%s:%08x", key, str_or_empty(auths[i].username),
                           hash_bytes(str_or_empty(auths[i].password), strlen(str_or_empty(auths[i].password))));
    return key;
}

/* A reference to a running pull; starts it when there is none. */
static struct pull *pull_begin(struct images *im, struct arena *a, const char *image,
                               const struct cri_pod_sandbox_config *sandbox, const struct cri_auth_config *auths,
                               const struct pull_secret *secrets, size_t n_auths) {
    const char *key = pull_key(a, image, auths, n_auths);
    struct pull *p = map_get(&im->pulls, key);
    if (p) {
        p->refs++;
        return p;
    }
    p = xcalloc(1, sizeof(*p));
    p->im = im;
    p->key = xstrdup(key);
    p->refs = 2;
    p->arena = arena_new();
    p->started = mono_ns();
    struct cri_image_spec *spec = arena_zalloc(p->arena, sizeof(*spec));
    spec->image = arena_strdup(p->arena, image);
    p->req.image = spec;
    p->req.sandbox_config = sandbox ? api_clone(p->arena, &api_cri_pod_sandbox_config, sandbox) : NULL;
    p->auths = arena_zalloc(p->arena, (n_auths + 1) * sizeof(*p->auths));
    for (size_t i = 0; i < n_auths; i++) {
        struct cri_auth_config *c = api_clone(p->arena, &api_cri_auth_config, &auths[i]);
        p->auths[i] = *c;
    }
    p->secrets = arena_zalloc(p->arena, (n_auths + 1) * sizeof(*p->secrets));
    for (size_t i = 0; i < n_auths; i++)
        p->secrets[i] =
            (struct pull_secret){arena_strdup(p->arena, secrets[i].uid), arena_strdup(p->arena, secrets[i].namespace),
                                 arena_strdup(p->arena, secrets[i].name), arena_strdup(p->arena, secrets[i].hash)};
    p->n_auths = n_auths;
    im->running++;
    map_put(&im->pulls, p->key, p);
    if (kubelet_thread(NULL, pull_thread, p, true) < 0) {
        im->running--;
        map_del(&im->pulls, p->key);
        p->done = true;
        p->result = -EAGAIN;
        err_set(&p->err, -EAGAIN, "cannot start a thread for the pull");
        p->refs--;
    }
    return p;
}

static void slice(struct timespec *ts) {
    clock_gettime(CLOCK_MONOTONIC, ts);
    ts->tv_nsec += WAIT_SLICE_MS * 1000000L;
    if (ts->tv_nsec >= 1000000000L) {
        ts->tv_sec++;
        ts->tv_nsec -= 1000000000L;
    }
}

static int pull_wait(struct images *im, struct pull *p, bool (*cancelled)(void *), void *arg) {
    while (!p->done) {
        struct timespec ts;
        slice(&ts);
        pthread_cond_timedwait(&im->changed, &im->lock, &ts);
        if (p->done) break;
        pthread_mutex_unlock(&im->lock);
        bool stop = cancelled && cancelled(arg);
        pthread_mutex_lock(&im->lock);
        if (stop) return -ECANCELED;
    }
    return p->result;
}

static int64_t wall_ns(void) { return ktime_unix_ns(ktime_now()); }

static int fail(struct image_result *out, int code, const char *reason, const char *message, int64_t retry) {
    out->reason = reason;
    out->message = message;
    out->retry_ns = retry;
    return code;
}

static int pull(struct images *im, struct arena *a, const struct core_pod *pod, const struct core_container *c,
                const char *image, const struct cri_pod_sandbox_config *sandbox, struct image_track *t,
                bool (*cancelled)(void *), void *arg, struct image_result *out) {
    struct kubelet *kl = im->kl;
    struct cri_auth_config auths[MAX_CREDENTIALS];
    struct pull_secret secrets[MAX_CREDENTIALS];
    size_t n = pod_credentials(im, a, pod, image, auths, secrets);
    kubelet_event(kl, pod, c->name, "Normal", "Pulling", "Pulling image \"%s\"", c->image);
    int64_t asked = mono_ns();
    pthread_mutex_lock(&im->lock);
    struct pull *p = pull_begin(im, a, image, sandbox, auths, secrets, n);
    int r = pull_wait(im, p, cancelled, arg);
    int64_t took = (p->finished - p->started) / NS_PER_MS * NS_PER_MS;
    int64_t waited = (mono_ns() - asked) / NS_PER_MS * NS_PER_MS;
    char *ref = r == 0 ? arena_strdup(a, p->ref) : NULL;
    char *error = r < 0 && r != -ECANCELED ? arena_strdup(a, p->err.msg) : NULL;
    pull_unref(p);
    pthread_mutex_unlock(&im->lock);
    if (r == -ECANCELED) return r;
    if (r < 0) {
        kubelet_event(kl, pod, c->name, "Warning", "Failed", "Failed to pull image \"%s\": %s", c->image, error);
        t->failed_at = wall_ns();
        backoff_next(&t->backoff, t->failed_at);
        free(t->last_error);
        t->last_error = xstrndup(error, strnlen(error, SHOWN_ERROR_MAX));
        kubelet_event(kl, pod, c->name, "Warning", "Failed", "Error: ErrImagePull");
        return fail(out, -EAGAIN, "ErrImagePull", error, backoff_remaining(&t->backoff, t->failed_at, t->failed_at));
    }
    backoff_reset(&t->backoff);
    t->failed_at = 0;
    if (image_status(im, a, ref, &out->image, NULL) < 0) out->image = NULL;
    out->image_ref = str_empty(ref) ? image : ref;
    char d1[KTIME_MAX], d2[KTIME_MAX];
    kubelet_event(kl, pod, c->name, "Normal", "Pulled",
                  "Successfully pulled image \"%s\" in %s (%s including waiting). Image size: %llu bytes.", c->image,
                  duration_format(took, d1), duration_format(MAX_OF(waited, took), d2),
                  (unsigned long long)(out->image ? out->image->size : 0));
    return 0;
}

/* Whether the pod may use an image that is there without a pull of its own. */
static bool may_use(struct images *im, struct arena *a, const struct core_pod *pod, const char *image, const char *id) {
    struct cri_auth_config auths[MAX_CREDENTIALS];
    struct pull_secret secrets[MAX_CREDENTIALS];
    switch (pull_records_verdict(im->records, &im->kl->cfg, image, str_or_empty(id))) {
        case PULL_FREE: return true;
        case PULL_PROOF: return false;
        case PULL_ASK: break;
    }
    size_t n = pod_credentials(im, a, pod, image, auths, secrets);
    return pull_records_match(im->records, image, str_or_empty(id), secrets, n);
}

void images_prune_records(struct images *im, const char *const *ids, size_t n) {
    pull_records_prune(im->records, ids, n);
}

int images_ensure(struct images *im, struct arena *a, const struct core_pod *pod, const struct core_container *c,
                  const struct cri_pod_sandbox_config *sandbox, struct image_track *t, bool (*cancelled)(void *),
                  void *arg, struct image_result *out) {
    struct kubelet *kl = im->kl;
    *out = (struct image_result){0};
    if (!t->backoff.initial) backoff_init(&t->backoff, BACKOFF_INITIAL, BACKOFF_MAX);
    if (!str_eq(t->image, c->image)) { /* another image starts afresh */
        image_track_done(t);
        backoff_init(&t->backoff, BACKOFF_INITIAL, BACKOFF_MAX);
        t->image = xstrdup(str_or_empty(c->image));
    }
    const char *image = images_default_tag(a, c->image);
    if (!image) {
        const char *msg = arena_printf(a,
                                       "Failed to apply default image tag \"%s\": couldn't parse image name \"%s\": "
                                       "invalid reference format",
                                       str_or_empty(c->image), str_or_empty(c->image));
        kubelet_event(kl, pod, c->name, "Warning", "InspectFailed", "%s", msg);
        kubelet_event(kl, pod, c->name, "Warning", "Failed", "Error: InvalidImageName");
        return fail(out, -EINVAL, "InvalidImageName", msg, 60 * NS_PER_SEC);
    }
    const char *policy = images_pull_policy(c);
    if (!str_eq(policy, "Always")) {
        struct err e = {0};
        int r = image_status(im, a, image, &out->image, &e);
        if (r < 0) {
            const char *msg = arena_printf(a, "Failed to inspect image \"%s\": %s", image, e.msg);
            err_done(&e);
            kubelet_event(kl, pod, c->name, "Warning", "InspectFailed", "%s", msg);
            return fail(out, r, "ImageInspectError", msg, 10 * NS_PER_SEC);
        }
        if (out->image && may_use(im, a, pod, image, out->image->id)) {
            kubelet_event(kl, pod, c->name, "Normal", "Pulled",
                          "Container image \"%s\" already present on machine and can be accessed by the pod", c->image);
            out->image_ref = out->image->id;
            t->failed_at = 0;
            return 0;
        }
        if (str_eq(policy, "Never")) {
            const char *msg =
                arena_printf(a, "Container image \"%s\" is not present with pull policy of Never", c->image);
            kubelet_event(kl, pod, c->name, "Warning", "ErrImageNeverPull", "%s", msg);
            kubelet_event(kl, pod, c->name, "Warning", "Failed", "Error: ErrImageNeverPull");
            return fail(out, -ENOENT, "ErrImageNeverPull", msg, 10 * NS_PER_SEC);
        }
    }
    int64_t left = t->failed_at ? backoff_remaining(&t->backoff, t->failed_at, wall_ns()) : 0;
    if (left > 0) {
        kubelet_event(kl, pod, c->name, "Normal", "BackOff", "Back-off pulling image \"%s\"", c->image);
        kubelet_event(kl, pod, c->name, "Warning", "Failed", "Error: ImagePullBackOff");
        return fail(
            out, -EAGAIN, "ImagePullBackOff",
            arena_printf(a, "Back-off pulling image \"%s\": ErrImagePull: %s", c->image, str_or_empty(t->last_error)),
            left);
    }
    return pull(im, a, pod, c, image, sandbox, t, cancelled, arg, out);
}
