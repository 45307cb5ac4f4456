/* Certificates for tests, made on the spot. */
#pragma once

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "pkg/base/util.h"

struct test_cert {
    EVP_PKEY *key;
    X509 *x;
    char *cert_pem, *key_pem;
};

static inline char *test_bio_text(BIO *b) {
    char *p;
    long n = BIO_get_mem_data(b, &p);
    char *s = xstrndup(p, (size_t)n);
    BIO_free(b);
    return s;
}

/* Signed by `ca` (NULL: by itself, as a CA). */
static inline struct test_cert test_cert_new(const char *cn, const char *org, const struct test_cert *ca) {
    struct test_cert c = {.key = EVP_EC_gen("P-256"), .x = X509_new()};
    static int serial = 1;
    X509_set_version(c.x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c.x), serial++);
    X509_gmtime_adj(X509_getm_notBefore(c.x), -60);
    X509_gmtime_adj(X509_getm_notAfter(c.x), 3600);
    X509_set_pubkey(c.x, c.key);
    X509_NAME *n = X509_get_subject_name(c.x);
    if (org) X509_NAME_add_entry_by_txt(n, "O", MBSTRING_UTF8, (const unsigned char *)org, -1, -1, 0);
    X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0);
    X509_set_issuer_name(c.x, ca ? X509_get_subject_name(ca->x) : n);
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, ca ? ca->x : c.x, c.x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, ca ? NID_subject_alt_name : NID_basic_constraints,
                                              ca ? "DNS:localhost,IP:127.0.0.1" : "critical,CA:TRUE");
    X509_add_ext(c.x, ext, -1);
    X509_EXTENSION_free(ext);
    X509_sign(c.x, ca ? ca->key : c.key, EVP_sha256());
    BIO *b = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(b, c.x);
    c.cert_pem = test_bio_text(b);
    b = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(b, c.key, NULL, NULL, 0, NULL, NULL);
    c.key_pem = test_bio_text(b);
    return c;
}

static inline void test_cert_done(struct test_cert *c) {
    X509_free(c->x);
    EVP_PKEY_free(c->key);
    free(c->cert_pem);
    free(c->key_pem);
}
