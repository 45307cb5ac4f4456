/* JSON web signatures in compact form (RFC 7515, 7518): header.payload.signature, each base64url. Only RS256 and ES256,
 * and the algorithm must be the one of the key: the token's header chooses among our keys by kid, never how to check.
 * A token without a kid is tried with every key of its algorithm. See jwt.h. */
#include "pkg/pki/jwt.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include "pkg/base/bytes.h"
#include "pkg/pki/internal.h"

enum { JWT_ES256_SIZE = 64, JWT_SIG_MAX = 1024, JWT_KID_MAX = 128, JWK_NUMBER_MAX = 1024 };

struct jwt_key {
    EVP_PKEY *pkey;
    bool rsa;
    char kid[JWT_KID_MAX];
};
struct jwt_signer {
    struct jwt_key key;
};
struct jwt_keys {
    struct jwt_key items[JWT_KEYS_MAX];
    size_t n;
};

static const char *alg_name(const struct jwt_key *k) { return k->rsa ? "RS256" : "ES256"; }

/* Takes `pkey` over. */
static int key_init(struct jwt_key *k, EVP_PKEY *pkey, struct err *e) {
    char curve[40] = "";
    bool rsa = EVP_PKEY_is_a(pkey, "RSA");
    if (EVP_PKEY_is_a(pkey, "EC")) EVP_PKEY_get_group_name(pkey, curve, sizeof(curve), NULL);
    if (!rsa && !str_eq(curve, "prime256v1")) {
        EVP_PKEY_free(pkey);
        return err_set(e, -EINVAL, "token key: neither RSA nor EC P-256");
    }
    unsigned char *der = NULL, md[32];
    int n = i2d_PUBKEY(pkey, &der);
    if (n <= 0 || !EVP_Digest(der, (size_t)n, md, NULL, EVP_sha256(), NULL)) {
        EVP_PKEY_free(pkey);
        OPENSSL_free(der);
        return pki_openssl_err(e, "token key");
    }
    OPENSSL_free(der);
    *k = (struct jwt_key){.pkey = pkey, .rsa = rsa};
    base64url_encode(md, sizeof(md), k->kid);
    return 0;
}

/* ---- signing ---- */

int jwt_signer_new(const char *key_pem, struct jwt_signer **out, struct err *e) {
    EVP_PKEY *pkey = pki_key_parse(key_pem, e);
    if (!pkey) return -EINVAL;
    struct jwt_signer *s = xcalloc(1, sizeof(*s));
    int r = key_init(&s->key, pkey, e);
    if (r < 0)
        free(s);
    else
        *out = s;
    return r;
}

void jwt_signer_free(struct jwt_signer *s) {
    if (!s) return;
    EVP_PKEY_free(s->key.pkey);
    free(s);
}

/* The DER form of an ECDSA signature as the 64 bytes r | s. */
static bool es256_from_der(const unsigned char *der, size_t n, unsigned char out[JWT_ES256_SIZE]) {
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)n);
    if (!sig) return false;
    bool ok =
        BN_bn2binpad(ECDSA_SIG_get0_r(sig), out, 32) == 32 && BN_bn2binpad(ECDSA_SIG_get0_s(sig), out + 32, 32) == 32;
    ECDSA_SIG_free(sig);
    return ok;
}

static int raw_sign(const struct jwt_key *k, const char *text, size_t n, unsigned char *sig, size_t *sig_len) {
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char der[JWT_SIG_MAX];
    size_t der_len = sizeof(der);
    bool ok = EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, k->pkey) == 1 &&
              EVP_DigestSign(ctx, der, &der_len, (const unsigned char *)text, n) == 1;
    EVP_MD_CTX_free(ctx);
    if (ok && k->rsa) memcpy(sig, der, *sig_len = der_len);
    if (ok && !k->rsa) ok = es256_from_der(der, der_len, sig), *sig_len = JWT_ES256_SIZE;
    return ok ? 0 : -EINVAL;
}

static void add_base64url(struct buf *b, const void *p, size_t n) {
    char *at = buf_reserve(b, base64_encoded_len(n) + 1);
    if (at) b->len += base64url_encode(p, n, at);
}

int jwt_sign(struct jwt_signer *s, struct arena *a, const struct json *claims, char **token, struct err *e) {
    struct json *header = json_object(a);
    json_set_str(a, header, "alg", alg_name(&s->key));
    json_set_str(a, header, "kid", s->key.kid);
    _cleanup_buf_ struct buf b = BUF_INIT;
    const char *text = json_text(a, header);
    add_base64url(&b, text, strlen(text));
    buf_addc(&b, '.');
    text = json_text(a, claims);
    add_base64url(&b, text, strlen(text));
    unsigned char sig[JWT_SIG_MAX];
    size_t n = 0;
    if (raw_sign(&s->key, b.data, b.len, sig, &n) < 0) return pki_openssl_err(e, "signing a token");
    buf_addc(&b, '.');
    add_base64url(&b, sig, n);
    *token = arena_strndup(a, b.data, b.len);
    return 0;
}

/* ---- keys ---- */

struct jwt_keys *jwt_keys_new(void) {
    return xcalloc(1, sizeof(struct jwt_keys));
}

void jwt_keys_free(struct jwt_keys *k) {
    if (!k) return;
    for (size_t i = 0; i < k->n; i++) EVP_PKEY_free(k->items[i].pkey);
    free(k);
}

static int keys_add(struct jwt_keys *k, EVP_PKEY *pkey, struct err *e) {
    if (k->n == JWT_KEYS_MAX) {
        EVP_PKEY_free(pkey);
        return err_set(e, -E2BIG, "more than %d token keys", JWT_KEYS_MAX);
    }
    struct jwt_key key;
    int r = key_init(&key, pkey, e);
    if (r < 0) return r;
    for (size_t i = 0; i < k->n; i++) {
        if (!str_eq(k->items[i].kid, key.kid)) continue;
        EVP_PKEY_free(key.pkey); /* known already */
        return 0;
    }
    k->items[k->n++] = key;
    return 0;
}

/* The key in one PEM block, whatever its kind; NULL for blocks without one (EC PARAMETERS). */
static EVP_PKEY *block_key(const char *name, const unsigned char *der, long n) {
    if (str_eq(name, "PUBLIC KEY")) return d2i_PUBKEY(NULL, &der, n);
    if (str_eq(name, "RSA PUBLIC KEY")) return d2i_PublicKey(EVP_PKEY_RSA, NULL, &der, n);
    if (str_has_suffix(name, "PRIVATE KEY")) return d2i_AutoPrivateKey(NULL, &der, n);
    if (!str_eq(name, "CERTIFICATE")) return NULL;
    _cleanup_x509_ X509 *cert = d2i_X509(NULL, &der, n);
    return cert ? X509_get_pubkey(cert) : NULL;
}

int jwt_keys_add_pem(struct jwt_keys *k, const char *pem, struct err *e) {
    _cleanup_bio_ BIO *b = BIO_new_mem_buf(pem, -1);
    char *name = NULL, *header = NULL;
    unsigned char *der = NULL;
    long n = 0;
    int r = 0, found = 0;
    while (r == 0 && PEM_read_bio(b, &name, &header, &der, &n)) {
        EVP_PKEY *pkey = block_key(name, der, n);
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_clear_free(der, (size_t)n);
        if (!pkey) continue;
        found++;
        r = keys_add(k, pkey, e);
    }
    ERR_clear_error();
    if (r == 0 && !found) return err_set(e, -EINVAL, "no key in the PEM text");
    return r;
}

/* ---- JWKS ---- */

/* A number of a key, base64url; *len bytes. */
static unsigned char *jwk_number(struct arena *a, const struct json *jwk, const char *name, size_t *len) {
    const char *text = json_get_str(jwk, name);
    size_t n = text ? strlen(text) : 0;
    if (!n || n > JWK_NUMBER_MAX * 2) return NULL;
    unsigned char *out = arena_alloc(a, n + 4);
    return base64url_decode(text, n, out, len) == 0 ? out : NULL;
}

static EVP_PKEY *pkey_from(const char *type, OSSL_PARAM_BLD *b) {
    EVP_PKEY *out = NULL;
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &out, EVP_PKEY_PUBLIC_KEY, params) != 1)
        out = NULL;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    ERR_clear_error();
    return out;
}

static EVP_PKEY *jwk_rsa(struct arena *a, const struct json *jwk) {
    size_t n_len = 0, e_len = 0;
    unsigned char *n = jwk_number(a, jwk, "n", &n_len), *x = jwk_number(a, jwk, "e", &e_len);
    if (!n || !x || n_len < 256) return NULL; /* less than 2048 bits are no key */
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    BIGNUM *bn = BN_bin2bn(n, (int)n_len, NULL), *be = BN_bin2bn(x, (int)e_len, NULL);
    OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, bn);
    OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, be);
    EVP_PKEY *k = pkey_from("RSA", b);
    BN_free(bn);
    BN_free(be);
    OSSL_PARAM_BLD_free(b);
    return k;
}

static EVP_PKEY *jwk_ec(struct arena *a, const struct json *jwk) {
    size_t x_len = 0, y_len = 0;
    unsigned char *x = jwk_number(a, jwk, "x", &x_len), *y = jwk_number(a, jwk, "y", &y_len), point[65] = {4};
    if (!str_eq(json_get_str(jwk, "crv"), "P-256") || !x || !y || x_len != 32 || y_len != 32) return NULL;
    memcpy(point + 1, x, 32);
    memcpy(point + 33, y, 32);
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    OSSL_PARAM_BLD_push_utf8_string(b, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0);
    OSSL_PARAM_BLD_push_octet_string(b, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point));
    EVP_PKEY *k = pkey_from("EC", b);
    OSSL_PARAM_BLD_free(b);
    return k;
}

int jwt_keys_add_jwks(struct jwt_keys *k, const struct json *doc, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *jwk;
    JSON_FOREACH(jwk, json_get(doc, "keys")) {
        const char *type = json_get_str(jwk, "kty"), *use = json_get_str(jwk, "use"), *kid = json_get_str(jwk, "kid");
        if ((use && !str_eq(use, "sig")) || (kid && strlen(kid) >= JWT_KID_MAX)) continue;
        EVP_PKEY *pkey = str_eq(type, "RSA") ? jwk_rsa(a, jwk) : str_eq(type, "EC") ? jwk_ec(a, jwk) : NULL;
        size_t before = k->n;
        if (!pkey) continue;
        if (keys_add(k, pkey, e) < 0) return -EINVAL;
        if (kid && k->n > before) memcpy(k->items[before].kid, kid, strlen(kid) + 1);
    }
    return k->n ? 0 : err_set(e, -EINVAL, "no key for signatures in the JWKS");
}

/* ---- verifying ---- */

static bool raw_verify(const struct jwt_key *k, const char *text, size_t n, const unsigned char *sig, size_t sig_len) {
    unsigned char *der = NULL;
    if (!k->rsa) {
        if (sig_len != JWT_ES256_SIZE) return false;
        ECDSA_SIG *es = ECDSA_SIG_new();
        ECDSA_SIG_set0(es, BN_bin2bn(sig, 32, NULL), BN_bin2bn(sig + 32, 32, NULL));
        int len = i2d_ECDSA_SIG(es, &der);
        ECDSA_SIG_free(es);
        if (len <= 0) return false;
        sig = der;
        sig_len = (size_t)len;
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, k->pkey) == 1 &&
              EVP_DigestVerify(ctx, sig, sig_len, (const unsigned char *)text, n) == 1;
    EVP_MD_CTX_free(ctx);
    OPENSSL_free(der);
    ERR_clear_error();
    return ok;
}

struct jws {
    const char *text; /* header.payload */
    size_t text_len;
    struct json *header, *payload;
    unsigned char sig[JWT_SIG_MAX];
    size_t sig_len;
};

static struct json *part_parse(struct arena *a, const char *p, size_t n) {
    char *raw = arena_alloc(a, n + 4);
    size_t len = 0;
    struct json *v = NULL;
    struct json_dups dups = {0};
    if (base64url_decode(p, n, raw, &len) < 0 || json_parse(a, raw, len, &v, &dups, NULL) < 0 || dups.n) return NULL;
    return json_is(v, JSON_OBJECT) ? v : NULL;
}

static bool jws_parse(struct arena *a, const char *token, struct jws *out) {
    size_t n = strlen(token);
    if (n > JWT_MAX) return false;
    const char *dot = strchr(token, '.'), *dot2 = dot ? strchr(dot + 1, '.') : NULL;
    if (!dot2 || strchr(dot2 + 1, '.')) return false;
    out->text = token;
    out->text_len = (size_t)(dot2 - token);
    out->header = part_parse(a, token, (size_t)(dot - token));
    out->payload = part_parse(a, dot + 1, (size_t)(dot2 - dot - 1));
    size_t sig_text = n - out->text_len - 1;
    return out->header && out->payload && sig_text / 4 * 3 + 3 <= JWT_SIG_MAX &&
           base64url_decode(dot2 + 1, sig_text, out->sig, &out->sig_len) == 0;
}

int jwt_verify(const struct jwt_keys *k, struct arena *a, const char *token, struct json **claims, struct err *e) {
    struct jws *t = arena_zalloc(a, sizeof(*t));
    if (!jws_parse(a, token, t)) return err_set(e, -EACCES, "not a token");
    const char *alg = json_get_str(t->header, "alg"), *kid = json_get_str(t->header, "kid");
    if (json_get(t->header, "crit")) return err_set(e, -EACCES, "token with critical headers");
    for (size_t i = 0; i < k->n; i++) {
        const struct jwt_key *key = &k->items[i];
        if (!str_eq(alg, alg_name(key)) || (!str_empty(kid) && !str_eq(kid, key->kid))) continue;
        if (!raw_verify(key, t->text, t->text_len, t->sig, t->sig_len)) continue;
        *claims = t->payload;
        return 0;
    }
    return err_set(e, -EACCES, "invalid signature, or no public key of ours");
}

const char *jwt_unverified_issuer(struct arena *a, const char *token) {
    struct jws *t = arena_zalloc(a, sizeof(*t));
    return jws_parse(a, token, t) ? str_or_empty(json_get_str(t->payload, "iss")) : NULL;
}

const char *jwt_times_problem(const struct json *claims, struct ktime now) {
    const struct json *exp = json_get(claims, "exp"), *nbf = json_get(claims, "nbf"), *iat = json_get(claims, "iat");
    const struct json *all[] = {exp, nbf, iat};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i] && all[i]->type != JSON_INT && all[i]->type != JSON_NUMBER)
            return "token has a time that is no number";
    if (exp && json_as_double(exp, 0) < (double)now.sec) return "token has expired";
    if (nbf && json_as_double(nbf, 0) > (double)now.sec + 60) return "token is not valid yet";
    if (iat && json_as_double(iat, 0) > (double)now.sec + 60) return "token was issued in the future";
    return NULL;
}

/* ---- JWKS ---- */

static void set_bn(struct arena *a, struct json *o, const char *name, EVP_PKEY *pkey, const char *param, int size) {
    BIGNUM *bn = NULL;
    if (!EVP_PKEY_get_bn_param(pkey, param, &bn)) return;
    unsigned char raw[JWT_SIG_MAX];
    char text[JWT_SIG_MAX * 2];
    int n = size ? size : BN_num_bytes(bn);
    if (n <= (int)sizeof(raw) && BN_bn2binpad(bn, raw, n) == n) {
        base64url_encode(raw, (size_t)n, text);
        json_set_str(a, o, name, text);
    }
    BN_free(bn);
}

struct json *jwt_keys_jwks(const struct jwt_keys *k, struct arena *a) {
    struct json *doc = json_object(a), *list = json_ensure_array(a, doc, "keys");
    for (size_t i = 0; i < k->n; i++) {
        const struct jwt_key *key = &k->items[i];
        struct json *o = json_object(a);
        json_set_str(a, o, "use", "sig");
        json_set_str(a, o, "kty", key->rsa ? "RSA" : "EC");
        json_set_str(a, o, "kid", key->kid);
        if (!key->rsa) json_set_str(a, o, "crv", "P-256");
        json_set_str(a, o, "alg", alg_name(key));
        if (key->rsa) {
            set_bn(a, o, "n", key->pkey, "n", 0);
            set_bn(a, o, "e", key->pkey, "e", 0);
        } else {
            set_bn(a, o, "x", key->pkey, "qx", 32);
            set_bn(a, o, "y", key->pkey, "qy", 32);
        }
        json_append(a, list, o);
    }
    return doc;
}

struct json *jwt_keys_algorithms(const struct jwt_keys *k, struct arena *a) {
    struct json *list = json_array(a);
    for (int rsa = 0; rsa < 2; rsa++) {
        bool any = false;
        for (size_t i = 0; i < k->n; i++) any |= k->items[i].rsa == rsa;
        if (any) json_append(a, list, json_str(a, rsa ? "RS256" : "ES256"));
    }
    return list;
}
