#include "pkg/store/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sodium.h>

#include "pkg/store/envelope.h"
#include "pkg/store/seal_internal.h"

enum { PROVIDERS_MAX = 64, KEY_MAX = 32, HEAD_MAX = 320, CBC_IV = 16, GCM_NONCE = 12, GCM_TAG = 16 };

#define SEALED "k8s:enc:"

enum kind { IDENTITY, AESCBC, AESGCM, SECRETBOX, KMS };
static const struct {
    const char *name;
    bool short_keys; /* 16 and 24 bytes too */
} kinds[] = {[IDENTITY] = {"identity", false},
             [AESCBC] = {"aescbc", true},
             [AESGCM] = {"aesgcm", true},
             [SECRETBOX] = {"secretbox", false},
             [KMS] = {"kms", false}};

struct provider {
    enum kind kind;
    char head[HEAD_MAX]; /* what a value begins with */
    size_t head_len;
    unsigned char key[KEY_MAX];
    size_t key_len;
    struct envelope *kms; /* KMS: who has the key */
};
struct seals {
    size_t n;
    struct provider items[PROVIDERS_MAX];
};

/* ---- reading ---- */

static int add(struct seals *s, enum kind kind, const struct json *key, const char *where, struct err *e) {
    const char *name = json_get_str(key, "name"), *secret = json_get_str(key, "secret");
    unsigned char raw[KEY_MAX];
    size_t n = 0;
    if (s->n == PROVIDERS_MAX) return err_set(e, -EINVAL, "more than %d keys", PROVIDERS_MAX);
    struct provider *p = &s->items[s->n];
    *p = (struct provider){.kind = kind};
    if (kind != IDENTITY) {
        if (str_empty(name)) return err_set(e, -EINVAL, "%s.name: Required value: key name must be provided", where);
        if (strchr(name, ':') || strlen(name) > 253) return err_set(e, -EINVAL, "%s.name: Invalid value", where);
        if (str_empty(secret)) return err_set(e, -EINVAL, "%s.secret: Required value: secret must be provided", where);
        if (strlen(secret) > 64 ||
            sodium_base642bin(raw, sizeof(raw), secret, strlen(secret), NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL))
            return err_set(e, -EINVAL, "%s.secret: secrets must be base64 encoded keys of at most 32 bytes", where);
        bool fits = n == 32 || (kinds[kind].short_keys && (n == 16 || n == 24));
        if (!fits)
            return err_set(e, -EINVAL, "%s.secret: secret is not of the expected length, got %zu, expected %s", where,
                           n, kinds[kind].short_keys ? "one of [16 24 32]" : "one of [32]");
        memcpy(p->key, raw, n);
        p->key_len = n;
        p->head_len = (size_t)snprintf(p->head, sizeof(p->head), SEALED "%s:v1:%s:", kinds[kind].name, name);
        OPENSSL_cleanse(raw, sizeof(raw));
    }
    s->n++;
    return 0;
}

static int add_kms(struct seals *s, const struct json *config, size_t at, struct err *e) {
    if (s->n == PROVIDERS_MAX) return err_set(e, -EINVAL, "more than %d keys", PROVIDERS_MAX);
    struct provider *p = &s->items[s->n];
    *p = (struct provider){.kind = KMS};
    int rc = envelope_new(config, &p->kms, e);
    if (rc) return err_wrap(e, "providers[%zu]", at), rc;
    p->head_len = (size_t)snprintf(p->head, sizeof(p->head), SEALED "kms:v2:%s:", envelope_name(p->kms));
    s->n++;
    return 0;
}

static int add_provider(struct seals *s, const struct json *provider, size_t at, struct err *e) {
    const struct json *key, *body = NULL;
    size_t kind = 0;
    if (json_len(provider) != 1)
        return err_set(e, -EINVAL, "providers[%zu]: provider must contain exactly one of its kinds", at);
    if (json_get(provider, "kms")) return add_kms(s, json_get(provider, "kms"), at, e);
    while (kind < ARRAY_LEN(kinds) && !(body = json_get(provider, kinds[kind].name))) kind++;
    if (kind == ARRAY_LEN(kinds)) return err_set(e, -EINVAL, "providers[%zu]: unknown provider", at);
    if (kind == IDENTITY) return add(s, IDENTITY, NULL, "", e);
    if (!json_len(json_get(body, "keys")))
        return err_set(e, -EINVAL, "providers[%zu].%s.keys: Required value: at least one key", at, kinds[kind].name);
    JSON_FOREACH(key, json_get(body, "keys")) {
        _cleanup_free_ char *where = xasprintf("providers[%zu].%s.keys[%zu]", at, kinds[kind].name, key_i);
        int rc = add(s, (enum kind)kind, key, where, e);
        if (rc) return rc;
    }
    return 0;
}

int seals_new(const struct json *providers, struct seals **out, struct err *e) {
    const struct json *it;
    if (sodium_init() < 0) return err_set(e, -EIO, "libsodium cannot be used");
    if (!json_len(providers)) return err_set(e, -EINVAL, "providers: Required value: at least one provider");
    struct seals *s = xcalloc(1, sizeof(*s));
    JSON_FOREACH(it, providers) {
        int rc = add_provider(s, it, it_i, e);
        if (!rc) continue;
        seals_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void seals_free(struct seals *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) envelope_free(s->items[i].kms);
    OPENSSL_cleanse(s, sizeof(*s));
    free(s);
}

/* ---- ciphers ---- each works on a body behind the head; lengths are of the body ---- */

static void cipher_free(EVP_CIPHER_CTX **c) { EVP_CIPHER_CTX_free(*c); }
#define _cleanup_cipher_ _cleanup_(cipher_free)

static const EVP_CIPHER *cipher_of(const struct provider *p) {
    if (p->kind == AESCBC)
        return p->key_len == 16 ? EVP_aes_128_cbc() : p->key_len == 24 ? EVP_aes_192_cbc() : EVP_aes_256_cbc();
    return p->key_len == 16 ? EVP_aes_128_gcm() : p->key_len == 24 ? EVP_aes_192_gcm() : EVP_aes_256_gcm();
}

/* Into out, which has room for n + 32 bytes more than the nonce; the length, or -1. */
static ssize_t aes_encrypt(const struct provider *p, const char *key, const char *in, size_t n, unsigned char *out) {
    _cleanup_cipher_ EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    size_t nonce = p->kind == AESCBC ? CBC_IV : GCM_NONCE;
    int got = 0, last = 0, aad = 0;
    randombytes_buf(out, nonce);
    if (!c || EVP_EncryptInit_ex(c, cipher_of(p), NULL, p->key, out) != 1) return -1;
    if (p->kind == AESGCM && EVP_EncryptUpdate(c, NULL, &aad, (const unsigned char *)key, (int)strlen(key)) != 1)
        return -1;
    if (EVP_EncryptUpdate(c, out + nonce, &got, (const unsigned char *)in, (int)n) != 1 ||
        EVP_EncryptFinal_ex(c, out + nonce + got, &last) != 1)
        return -1;
    size_t len = nonce + (size_t)got + (size_t)last;
    if (p->kind == AESCBC) return (ssize_t)len;
    if (EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, GCM_TAG, out + len) != 1) return -1;
    return (ssize_t)len + GCM_TAG;
}

/* Into out, which has room for n bytes; the length, or -1. */
static ssize_t aes_decrypt(const struct provider *p, const char *key, const unsigned char *in, size_t n,
                           unsigned char *out) {
    _cleanup_cipher_ EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    size_t nonce = p->kind == AESCBC ? CBC_IV : GCM_NONCE, tag = p->kind == AESCBC ? 0 : GCM_TAG;
    int got = 0, last = 0, aad = 0;
    if (n < nonce + tag) return -1;
    if (!c || EVP_DecryptInit_ex(c, cipher_of(p), NULL, p->key, in) != 1) return -1;
    if (tag && EVP_DecryptUpdate(c, NULL, &aad, (const unsigned char *)key, (int)strlen(key)) != 1) return -1;
    if (EVP_DecryptUpdate(c, out, &got, in + nonce, (int)(n - nonce - tag)) != 1) return -1;
    if (tag && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, GCM_TAG, (void *)(uintptr_t)(in + n - tag)) != 1) return -1;
    if (EVP_DecryptFinal_ex(c, out + got, &last) != 1) return -1;
    return (ssize_t)got + last;
}

static struct provider gcm_by(const unsigned char *k, size_t k_len) {
    struct provider p = {.kind = AESGCM, .key_len = k_len};
    memcpy(p.key, k, k_len);
    return p;
}

ssize_t seal_gcm_encrypt(const unsigned char *k, size_t k_len, const char *key, const char *in, size_t n,
                         unsigned char *out) {
    struct provider p = gcm_by(k, k_len);
    ssize_t len = aes_encrypt(&p, key, in, n, out);
    OPENSSL_cleanse(&p, sizeof(p));
    return len;
}

ssize_t seal_gcm_decrypt(const unsigned char *k, size_t k_len, const char *key, const unsigned char *in, size_t n,
                         unsigned char *out) {
    struct provider p = gcm_by(k, k_len);
    ssize_t len = aes_decrypt(&p, key, in, n, out);
    OPENSSL_cleanse(&p, sizeof(p));
    return len;
}

static ssize_t box_encrypt(const struct provider *p, const char *in, size_t n, unsigned char *out) {
    randombytes_buf(out, crypto_secretbox_NONCEBYTES);
    if (crypto_secretbox_easy(out + crypto_secretbox_NONCEBYTES, (const unsigned char *)in, n, out, p->key)) return -1;
    return (ssize_t)(crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES + n);
}

static ssize_t box_decrypt(const struct provider *p, const unsigned char *in, size_t n, unsigned char *out) {
    size_t nonce = crypto_secretbox_NONCEBYTES;
    if (n < nonce + crypto_secretbox_MACBYTES) return -1;
    if (crypto_secretbox_open_easy(out, in + nonce, n - nonce, in, p->key)) return -1;
    return (ssize_t)(n - nonce - crypto_secretbox_MACBYTES);
}

/* ---- values ---- */

int seals_encrypt(const struct seals *s, const char *key, const char *p, size_t n, struct buf *out, struct err *e) {
    const struct provider *w = &s->items[0];
    if (w->kind == IDENTITY) {
        buf_add(out, p, n);
        return 0;
    }
    if (w->kind == KMS) {
        buf_add(out, w->head, w->head_len);
        return envelope_encrypt(w->kms, key, p, n, out, e);
    }
    _cleanup_free_ unsigned char *body = xmalloc(n + 64);
    ssize_t len = w->kind == SECRETBOX ? box_encrypt(w, p, n, body) : aes_encrypt(w, key, p, n, body);
    if (len < 0) return err_set(e, -EIO, "%s cannot be encrypted", key);
    buf_add(out, w->head, w->head_len);
    buf_add(out, (char *)body, (size_t)len);
    return 0;
}

static bool begins(const struct provider *w, const char *p, size_t n) {
    return n >= w->head_len && memcmp(p, w->head, w->head_len) == 0;
}

static bool is_sealed(const char *p, size_t n) { return n >= strlen(SEALED) && memcmp(p, SEALED, strlen(SEALED)) == 0; }

int seals_decrypt(const struct seals *s, struct arena *a, const char *key, const char *p, size_t n, const char **out,
                  size_t *out_len, struct err *e) {
    bool sealed = is_sealed(p, n);
    for (size_t i = 0; i < s->n; i++) {
        const struct provider *w = &s->items[i];
        if (w->kind == IDENTITY && !sealed) {
            *out = p;
            *out_len = n;
            return 0;
        }
        if (w->kind == IDENTITY || !begins(w, p, n)) continue;
        if (w->kind == KMS) return envelope_decrypt(w->kms, a, key, p + w->head_len, n - w->head_len, out, out_len, e);
        unsigned char *plain = arena_alloc(a, n + 32);
        const unsigned char *body = (const unsigned char *)p + w->head_len;
        size_t len = n - w->head_len;
        ssize_t got = w->kind == SECRETBOX ? box_decrypt(w, body, len, plain) : aes_decrypt(w, key, body, len, plain);
        if (got < 0) continue;
        plain[got] = 0;
        *out = (char *)plain;
        *out_len = (size_t)got;
        return 0;
    }
    return err_set(e, -EBADMSG, "%s cannot be decrypted: no matching key was found for the provider", key);
}

bool seals_current(const struct seals *s, const char *p, size_t n) {
    const struct provider *w = &s->items[0];
    if (w->kind == KMS) return begins(w, p, n) && envelope_current(w->kms, p + w->head_len, n - w->head_len);
    return w->kind == IDENTITY ? !is_sealed(p, n) : begins(w, p, n);
}

struct envelope *seals_kms(const struct seals *s, size_t i) {
    for (size_t k = 0; k < s->n; k++)
        if (s->items[k].kms && i-- == 0) return s->items[k].kms;
    return NULL;
}
