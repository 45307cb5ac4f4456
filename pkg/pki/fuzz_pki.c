/* libFuzzer: what clients show as their identity: a token, a certificate, a signing request. The first byte chooses. A token
 * may be accepted only when it is one that was signed here. */
#include "pkg/pki/jwt.h"
#include "pkg/pki/pki.h"

static struct {
    struct jwt_signer *signer;
    struct jwt_keys *keys;
    struct pki_pair ca;
} world;

static void set_up(void) {
    char *key = NULL;
    if (pki_key_new("EC", &key, NULL) || jwt_signer_new(key, &world.signer, NULL)) abort();
    world.keys = jwt_keys_new();
    if (jwt_keys_add_pem(world.keys, key, NULL) || pki_ca_new("fuzz", PKI_DAY, &world.ca, NULL)) abort();
    free(key);
}

static void token(struct arena *a, const char *text) {
    struct json *claims = NULL;
    struct sa_token t = {0};
    _cleanup_err_ struct err e = {0};
    jwt_unverified_issuer(a, text);
    if (jwt_verify(world.keys, a, text, &claims, &e) == 0) abort(); /* nobody has this key */
    /* the same claims, signed: what an issuer's token may hold */
    if (json_parse(a, text, strlen(text), &claims, NULL, NULL) || !json_is(claims, JSON_OBJECT)) return;
    char *made = NULL;
    if (jwt_sign(world.signer, a, claims, &made, NULL) || jwt_verify(world.keys, a, made, &claims, NULL)) return;
    jwt_times_problem(claims, ktime_now());
    sa_token_parse(a, claims, &t, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (!world.keys) set_up();
    if (!n) return 0;
    struct arena *a = arena_new();
    const char *text = arena_strndup(a, (const char *)p + 1, n - 1);
    struct pki_info info;
    struct pki_csr_info csr;
    if (p[0] % 4 == 0) {
        token(a, text);
    } else if (p[0] % 4 == 1) {
        pki_inspect(a, text, &info, NULL);
    } else if (p[0] % 4 == 2) {
        char *cert = NULL;
        if (pki_csr_parse(a, text, n - 1, &csr, NULL) == 0 &&
            pki_csr_sign(&world.ca, text, n - 1, PKI_CLIENT_AUTH, 3600, &cert, NULL) == 0) {
            if (pki_inspect(a, cert, &info, NULL)) abort();
            free(cert);
        }
    } else {
        struct jwt_keys *k = jwt_keys_new();
        if (jwt_keys_add_pem(k, text, NULL) == 0) jwt_keys_jwks(k, a);
        jwt_keys_free(k);
    }
    arena_free(a);
    return 0;
}
