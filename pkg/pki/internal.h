/* Inside pkg/pki: OpenSSL objects with cleanup, and PEM to and from them. */
#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "pkg/pki/pki.h"

#define PKI_DEFINE_CLEANUP(type, free_fn)         \
    static inline void cleanup_##type(type **p) { \
        if (*p) free_fn(*p);                      \
    }
PKI_DEFINE_CLEANUP(BIO, BIO_free)
PKI_DEFINE_CLEANUP(EVP_PKEY, EVP_PKEY_free)
PKI_DEFINE_CLEANUP(X509, X509_free)
PKI_DEFINE_CLEANUP(X509_REQ, X509_REQ_free)
#define _cleanup_bio_ _cleanup_(cleanup_BIO)
#define _cleanup_pkey_ _cleanup_(cleanup_EVP_PKEY)
#define _cleanup_x509_ _cleanup_(cleanup_X509)
#define _cleanup_x509_req_ _cleanup_(cleanup_X509_REQ)

/* -EINVAL with OpenSSL's own reason; empties its error queue. */
int pki_openssl_err(struct err *e, const char *what);

EVP_PKEY *pki_key_generate(const char *type);
EVP_PKEY *pki_key_parse(const char *pem, struct err *e);
int pki_key_text(EVP_PKEY *key, char **pem, struct err *e);
X509 *pki_cert_parse(const char *pem, struct err *e);
int pki_cert_text(X509 *cert, char **pem, struct err *e);
char *pki_bio_take(BIO *b);

/* The extension "subjectAltName" of spec's SANs, NULL for none. */
GENERAL_NAMES *pki_sans_make(const char *const *sans, size_t n);
int pki_name_fill(X509_NAME *name, const char *cn, const char *const *orgs, size_t n_orgs);
/* Text of a DNS name, IP address, email or URI in the arena; *type is GEN_DNS and so on. NULL for other kinds. */
const char *pki_san_text(struct arena *a, const GENERAL_NAME *g, int *type);
/* Fields common to every certificate we sign, and the signature. */
int pki_cert_sign(X509 *cert, X509 *ca, EVP_PKEY *ca_key, unsigned usages, int64_t seconds, struct err *e);
/* CN and organisations of a name. */
void pki_name_read(struct arena *a, X509_NAME *name, const char **cn, const char ***orgs, size_t *n_orgs);
