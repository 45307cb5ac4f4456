#include "pkg/store/envelope.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <sodium.h>

#include "pkg/api/kms.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/grpc/grpc.h"
#include "pkg/store/seal_internal.h"

enum {
    SEED = 32,
    INFO = 32,
    ID = 32,           /* of a cached seed: a hash of all that it depends on */
    SEEDS_MAX = 1024,  /* remembered; then the oldest goes */
    SMALL_MAX = 1024,  /* bytes of a key id, of an encrypted seed */
    NOTES_MAX = 32768, /* bytes of annotations */
    TIMEOUT_MS = 3000,
    TIMEOUT_MAX_MS = 60000,
    WAIT_S = 10,       /* for a plugin that starts with this server */
    ASK_S = 60,        /* between questions in the background */
    ASK_AGAIN_S = 10,  /* when it was not well */
    WRITE_S = 180,     /* after the last good answer the seed may still be used */
    CHECK_S = 20,      /* an answer counts for so long in a check of health */
    CHECK_AGAIN_S = 3, /* a bad one */
};
enum { BY_KEY, BY_SEED }; /* EncryptedDEKSourceType */

struct seed {
    unsigned char id[ID], secret[SEED];
    size_t len; /* 16, 24 or 32; 0: none */
};

struct envelope {
    char *name;
    unsigned timeout_ms;
    struct grpc_client *plugin;
    pthread_mutex_t asking; /* one question about its status at a time */
    struct err last;        /* the answer's, under `asking` */
    int last_rc;
    int64_t asked_ns;     /* 0: not yet */
    char version[16];     /* that it said first */
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    bool stop;
    pthread_t thread;
    bool has_thread;
    struct arena *kept;               /* of `head` */
    struct kms_encrypted_object head; /* all but the data */
    struct seed seed;                 /* to write with; len 0: there is none yet */
    int64_t until_ns;                 /* may be used */
    struct seed seeds[SEEDS_MAX];
    size_t next_seed;
};

const char *envelope_name(const struct envelope *x) { return x->name; }

/* ---- messages ---- */

static int check_notes(const struct bytes_map *m, struct err *e) {
    size_t sum = 0;
    for (size_t i = 0; i < m->n; i++) {
        sum += strlen(m->items[i].key) + m->items[i].value.n;
        if (!strchr(m->items[i].key, '.'))
            return err_set(e, -EBADMSG, "annotations: %s is no fully qualified domain name", m->items[i].key);
    }
    if (sum > NOTES_MAX) return err_set(e, -EBADMSG, "annotations are longer than %d bytes", NOTES_MAX);
    return 0;
}

static int check_key_id(const char *id, struct err *e) {
    if (str_empty(id)) return err_set(e, -EBADMSG, "keyID is empty");
    if (strlen(id) > SMALL_MAX) return err_set(e, -EBADMSG, "keyID is longer than %d bytes", SMALL_MAX);
    return 0;
}

static int check_head(const struct kms_encrypted_object *o, struct err *e) {
    if (o->encrypted_dek_source_type != BY_KEY && o->encrypted_dek_source_type != BY_SEED)
        return err_set(e, -EBADMSG, "unknown encryptedDEKSourceType: %d", o->encrypted_dek_source_type);
    if (!o->encrypted_dek_source.n || o->encrypted_dek_source.n > SMALL_MAX)
        return err_set(e, -EBADMSG, "the encrypted DEK source has %zu bytes", o->encrypted_dek_source.n);
    int rc = check_key_id(o->key_id, e);
    return rc ? rc : check_notes(&o->annotations, e);
}

static int parse(struct arena *a, const char *p, size_t n, struct kms_encrypted_object *o, struct err *e) {
    int rc = api_from_proto(a, &api_kms_encrypted_object, (const uint8_t *)p, n, o, e);
    if (!rc) rc = check_head(o, e);
    if (!rc && !o->encrypted_data.n) rc = err_set(e, -EBADMSG, "encrypted data is empty");
    return rc;
}

static void identify(const struct kms_encrypted_object *o, unsigned char id[ID]) {
    struct kms_encrypted_object head = *o;
    _cleanup_buf_ struct buf b = BUF_INIT;
    head.encrypted_data = (struct bytes){0};
    api_to_proto(&b, &api_kms_encrypted_object, &head);
    EVP_Digest(b.data, b.len, id, NULL, EVP_sha256(), NULL);
}

/* ---- seeds ---- lock held ---- */

static bool seed_find(struct envelope *x, const unsigned char id[ID], struct seed *out) {
    for (size_t i = 0; i < SEEDS_MAX && x->seeds[i].len; i++)
        if (memcmp(x->seeds[i].id, id, ID) == 0) {
            *out = x->seeds[i];
            return true;
        }
    return false;
}

static void seed_keep(struct envelope *x, const struct seed *s) {
    struct seed have;
    if (seed_find(x, s->id, &have)) return;
    x->seeds[x->next_seed] = *s;
    x->next_seed = (x->next_seed + 1) % SEEDS_MAX;
}

/* HKDF's expansion to one block (RFC 5869, 2.3). */
static void expand(const struct seed *s, const unsigned char *info, unsigned char out[SEED]) {
    unsigned char text[INFO + 1];
    unsigned len = SEED;
    memcpy(text, info, INFO);
    text[INFO] = 1;
    HMAC(EVP_sha256(), s->secret, (int)s->len, text, sizeof(text), out, &len);
}

/* ---- the plugin ---- */

static void new_uid(char out[37]) {
    unsigned char r[16];
    randombytes_buf(r, sizeof(r));
    r[6] = (r[6] & 0x0f) | 0x40;
    r[8] = (r[8] & 0x3f) | 0x80;
    size_t at = 0;
    for (size_t i = 0; i < sizeof(r); i++)
        at += (size_t)snprintf(out + at, 37 - at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", r[i]);
}

/* A new seed, encrypted by the plugin, to write with from now on. */
static int make_seed(struct envelope *x, const char *key_id, int64_t until_ns, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct seed s = {.len = SEED};
    char uid[37];
    randombytes_buf(s.secret, SEED);
    new_uid(uid);
    struct kms_encrypt_request ask = {.plaintext = {s.secret, SEED}, .uid = uid};
    struct kms_encrypt_response got = {0};
    int rc = grpc_call(x->plugin, &api_rpc_kms_key_management_service_encrypt, &ask, a, &got, x->timeout_ms, e);
    if (rc) return err_wrap(e, "failed to encrypt DEK"), rc;
    struct kms_encrypted_object head = {.key_id = got.key_id,
                                        .encrypted_dek_source = got.ciphertext,
                                        .annotations = got.annotations,
                                        .encrypted_dek_source_type = BY_SEED};
    rc = check_head(&head, e);
    if (!rc && !str_eq(got.key_id, key_id))
        rc = err_set(e, -EAGAIN, "the plugin encrypts by another key than the one it names");
    if (!rc) {
        identify(&head, s.id);
        pthread_mutex_lock(&x->lock);
        arena_free(x->kept);
        x->kept = arena_new_sized(1024);
        x->head = *(struct kms_encrypted_object *)api_clone(x->kept, &api_kms_encrypted_object, &head);
        x->seed = s;
        x->until_ns = until_ns;
        seed_keep(x, &s);
        pthread_mutex_unlock(&x->lock);
    }
    OPENSSL_cleanse(&s, sizeof(s));
    return rc;
}

static int take_status(struct envelope *x, const struct kms_status_response *st, int64_t until_ns, struct err *e) {
    if (!str_eq(st->healthz, "ok"))
        return err_set(e, -EAGAIN, "got unexpected healthz status: %.200s", str_or_empty(st->healthz));
    if (!str_eq(st->version, "v2") && !str_eq(st->version, "v2beta1"))
        return err_set(e, -EAGAIN, "expected KMSv2 API version v2, got %.200s", str_or_empty(st->version));
    if (!*x->version) snprintf(x->version, sizeof(x->version), "%s", st->version);
    if (!str_eq(x->version, st->version))
        return err_set(e, -EAGAIN, "the API version changed from %s to %s", x->version, st->version);
    int rc = check_key_id(st->key_id, e);
    if (rc) return rc;
    pthread_mutex_lock(&x->lock);
    bool same = x->seed.len && str_eq(x->head.key_id, st->key_id);
    if (same) x->until_ns = until_ns;
    pthread_mutex_unlock(&x->lock);
    return same ? 0 : make_seed(x, st->key_id, until_ns, e);
}

/* asking held. */
static void ask(struct envelope *x) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct kms_status_request q = {0};
    struct kms_status_response st = {0};
    int64_t until_ns = mono_ns() + (int64_t)WRITE_S * NS_PER_SEC; /* from before the question on */
    int rc = grpc_call(x->plugin, &api_rpc_kms_key_management_service_status, &q, a, &st, x->timeout_ms, &e);
    if (!rc) rc = take_status(x, &st, until_ns, &e);
    if (rc && !x->last_rc) log_warn("a key management plugin is not well", "name", x->name, "error", e.msg, NULL);
    if (!rc && x->last_rc && x->asked_ns) log_info("a key management plugin is well", "name", x->name, NULL);
    x->last_rc = rc;
    x->asked_ns = mono_ns();
    err_done(&x->last);
    if (rc) err_set(&x->last, rc, "kmsv2 Provider %s is not healthy, error: %s", x->name, e.msg);
}

static int ask_now(struct envelope *x) {
    pthread_mutex_lock(&x->asking);
    ask(x);
    int rc = x->last_rc;
    pthread_mutex_unlock(&x->asking);
    return rc;
}

int envelope_check(struct envelope *x, struct err *e) {
    pthread_mutex_lock(&x->asking);
    int64_t counts = (int64_t)(x->last_rc ? CHECK_AGAIN_S : CHECK_S) * NS_PER_SEC;
    if (!x->asked_ns || mono_ns() - x->asked_ns > counts) ask(x);
    int rc = x->last_rc ? err_set(e, x->last_rc, "%s", x->last.msg) : 0;
    pthread_mutex_unlock(&x->asking);
    return rc;
}

/* Sleeps; false when all ends. */
static bool nap(struct envelope *x, int seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&x->lock);
    int rc = 0;
    while (!x->stop && !rc) rc = pthread_cond_timedwait(&x->wake, &x->lock, &until);
    bool stop = x->stop;
    pthread_mutex_unlock(&x->lock);
    return !stop;
}

static void *keep_asking(void *arg) {
    struct envelope *x = arg;
    int last;
    do {
        pthread_mutex_lock(&x->asking);
        last = x->last_rc;
        pthread_mutex_unlock(&x->asking);
        if (!nap(x, last ? ASK_AGAIN_S : ASK_S)) return NULL;
        ask_now(x);
    } while (true);
}

/* ---- values ---- */

int envelope_encrypt(struct envelope *x, const char *key, const char *p, size_t n, struct buf *out, struct err *e) {
    size_t room = INFO + n + SEAL_GCM_MORE;
    _cleanup_free_ unsigned char *data = xmalloc(room);
    unsigned char k[SEED];
    randombytes_buf(data, INFO);
    pthread_mutex_lock(&x->lock);
    int rc = 0;
    if (!x->seed.len) rc = err_set(e, -EAGAIN, "the key management plugin %s has given no key yet", x->name);
    if (!rc && mono_ns() > x->until_ns)
        rc = err_set(e, -EAGAIN, "the key management plugin %s has not been well for too long", x->name);
    if (!rc) {
        expand(&x->seed, data, k);
        ssize_t len = seal_gcm_encrypt(k, SEED, key, p, n, data + INFO);
        struct kms_encrypted_object o = x->head;
        o.encrypted_data = (struct bytes){data, INFO + (size_t)len};
        if (len < 0)
            rc = err_set(e, -EIO, "%s cannot be encrypted", key);
        else
            api_to_proto(out, &api_kms_encrypted_object, &o);
    }
    pthread_mutex_unlock(&x->lock);
    OPENSSL_cleanse(k, sizeof(k));
    return rc;
}

static int seed_of(struct envelope *x, struct arena *a, const struct kms_encrypted_object *o, struct seed *out,
                   struct err *e) {
    unsigned char id[ID];
    char uid[37];
    identify(o, id);
    pthread_mutex_lock(&x->lock);
    bool known = seed_find(x, id, out);
    pthread_mutex_unlock(&x->lock);
    if (known) return 0;
    new_uid(uid);
    struct kms_decrypt_request q = {
        .ciphertext = o->encrypted_dek_source, .uid = uid, .key_id = o->key_id, .annotations = o->annotations};
    struct kms_decrypt_response got = {0};
    int rc = grpc_call(x->plugin, &api_rpc_kms_key_management_service_decrypt, &q, a, &got, x->timeout_ms, e);
    if (rc) return err_wrap(e, "failed to decrypt DEK"), rc;
    size_t n = got.plaintext.n;
    if (o->encrypted_dek_source_type == BY_SEED ? n != SEED : n != 16 && n != 24 && n != SEED)
        return err_set(e, -EBADMSG, "the plugin's key has %zu bytes", n);
    *out = (struct seed){.len = n};
    memcpy(out->id, id, ID);
    memcpy(out->secret, got.plaintext.p, n);
    pthread_mutex_lock(&x->lock);
    seed_keep(x, out);
    pthread_mutex_unlock(&x->lock);
    return 0;
}

int envelope_decrypt(struct envelope *x, struct arena *a, const char *key, const char *p, size_t n, const char **out,
                     size_t *out_len, struct err *e) {
    struct kms_encrypted_object o = {0};
    struct seed s;
    unsigned char k[SEED];
    int rc = parse(a, p, n, &o, e);
    if (!rc) rc = seed_of(x, a, &o, &s, e);
    if (rc) return err_wrap(e, "%s cannot be decrypted", key), rc;
    const unsigned char *data = o.encrypted_data.p;
    size_t len = o.encrypted_data.n, skip = o.encrypted_dek_source_type == BY_SEED ? INFO : 0, k_len = s.len;
    unsigned char *plain = arena_alloc(a, len + 1);
    ssize_t got = -1;
    if (len >= skip) {
        if (skip)
            expand(&s, data, k), k_len = SEED;
        else
            memcpy(k, s.secret, s.len);
        got = seal_gcm_decrypt(k, k_len, key, data + skip, len - skip, plain);
    }
    OPENSSL_cleanse(k, sizeof(k));
    OPENSSL_cleanse(&s, sizeof(s));
    if (got < 0) return err_set(e, -EBADMSG, "%s cannot be decrypted: it was changed, or belongs elsewhere", key);
    plain[got] = '\0';
    *out = (char *)plain;
    *out_len = (size_t)got;
    return 0;
}

bool envelope_current(struct envelope *x, const char *p, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct kms_encrypted_object o = {0};
    if (parse(a, p, n, &o, NULL)) return false;
    pthread_mutex_lock(&x->lock);
    bool same = str_eq(o.key_id, x->head.key_id) && o.encrypted_dek_source_type == BY_SEED;
    pthread_mutex_unlock(&x->lock);
    return same;
}

/* ---- opening ---- */

static int read_config(struct envelope *x, const struct json *c, struct err *e) {
    const char *version = json_get_str(c, "apiVersion"), *name = json_get_str(c, "name");
    const char *endpoint = json_get_str(c, "endpoint"), *timeout = json_get_str(c, "timeout");
    int64_t ns = (int64_t)TIMEOUT_MS * NS_PER_MS;
    if (!str_eq(version, "v2"))
        return err_set(e, -EINVAL, "kms.apiVersion: Unsupported value: \"%s\": supported values: \"v2\"",
                       str_or_empty(version));
    if (str_empty(name)) return err_set(e, -EINVAL, "kms.name: Required value");
    if (strchr(name, ':') || strlen(name) > 253)
        return err_set(e, -EINVAL, "kms.name: Invalid value: \"%.60s\": must not contain a colon", name);
    if (!str_has_prefix(endpoint ? endpoint : "", "unix://"))
        return err_set(e, -EINVAL, "kms.endpoint: Invalid value: \"%.200s\": unsupported scheme, must be unix",
                       str_or_empty(endpoint));
    if (timeout && (duration_parse(timeout, &ns) || ns <= 0))
        return err_set(e, -EINVAL, "kms.timeout: Invalid value: \"%.60s\": should be a positive value", timeout);
    if (json_get(c, "cachesize"))
        return err_set(e, -EINVAL, "kms.cachesize: Invalid value: cachesize is not supported in v2");
    x->name = xstrdup(name);
    x->timeout_ms = (unsigned)MIN_OF(MAX_OF(ns / NS_PER_MS, 1), TIMEOUT_MAX_MS);
    const char *path = endpoint + strlen("unix://"); /* unix:///path, or unix:///@abstract upstream */
    x->plugin = grpc_client_new(path);
    return 0;
}

int envelope_new(const struct json *config, struct envelope **out, struct err *e) {
    if (sodium_init() < 0) return err_set(e, -EIO, "libsodium cannot be used");
    struct envelope *x = xcalloc(1, sizeof(*x));
    pthread_mutex_init(&x->asking, NULL);
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->wake, NULL);
    int rc = read_config(x, config, e);
    if (rc) {
        envelope_free(x);
        return rc;
    }
    for (int i = 0; ask_now(x) && i < WAIT_S; i++) nap(x, 1);
    x->has_thread = pthread_create(&x->thread, NULL, keep_asking, x) == 0;
    *out = x;
    return 0;
}

void envelope_free(struct envelope *x) {
    if (!x) return;
    pthread_mutex_lock(&x->lock);
    x->stop = true;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
    if (x->has_thread) pthread_join(x->thread, NULL);
    grpc_client_free(x->plugin);
    pthread_cond_destroy(&x->wake);
    pthread_mutex_destroy(&x->lock);
    pthread_mutex_destroy(&x->asking);
    err_done(&x->last);
    arena_free(x->kept);
    free(x->name);
    OPENSSL_cleanse(x, sizeof(*x));
    free(x);
}
