/* Certificates and keys: a cluster's CA, the certificates it issues, certificate signing requests, and rotation.
 *
 * Everything is exchanged as PEM text, in heap strings that the caller owns; nothing here keeps state. Keys are EC
 * P-256. Files: certificates 0644, keys 0600, replaced atomically. Upstream: client-go/util/cert, kubeadm's pkiutil,
 * and the signer of the certificates controller. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/base/ktime.h"

struct pki_pair {
    char *cert_pem; /* may be a bundle: the first certificate is the key's */
    char *key_pem;
};
void pki_pair_done(struct pki_pair *p);
#define _cleanup_pki_pair_ _cleanup_(pki_pair_done)

enum pki_usage {
    PKI_SERVER_AUTH = 1 << 0,
    PKI_CLIENT_AUTH = 1 << 1,
    PKI_CODE_SIGNING = 1 << 2,
    PKI_DIGITAL_SIGNATURE = 1 << 3, /* key usages; pki_issue always sets digitalSignature and keyEncipherment */
    PKI_KEY_ENCIPHERMENT = 1 << 4,
};

#define PKI_DAY INT64_C(86400)
#define PKI_CA_SECONDS (3650 * PKI_DAY)
#define PKI_CERT_SECONDS (365 * PKI_DAY)
enum { PKI_BACKDATE_SECONDS = 300 }; /* certificates begin so long ago */

/* What a certificate is to say. */
struct pki_spec {
    const char *cn;
    const char *const *orgs;
    size_t n_orgs;
    const char *const *sans; /* DNS names and IP addresses, told apart by their form */
    size_t n_sans;
    unsigned usages; /* PKI_SERVER_AUTH | PKI_CLIENT_AUTH */
    int64_t seconds; /* 0: PKI_CERT_SECONDS; cut to the CA's own end */
};

/* A self-signed CA with a new key. seconds 0: PKI_CA_SECONDS. */
int pki_ca_new(const char *cn, int64_t seconds, struct pki_pair *out, struct err *e);
/* A certificate with a new key, valid from five minutes ago. */
int pki_issue(const struct pki_pair *ca, const struct pki_spec *spec, struct pki_pair *out, struct err *e);
/* A private key alone: "EC" (P-256) or "RSA" (2048 bits). PKCS#8 PEM. */
int pki_key_new(const char *type, char **key_pem, struct err *e);
/* The public half, "PUBLIC KEY" PEM. */
int pki_key_public(const char *key_pem, char **public_pem, struct err *e);

int pki_load(const char *cert_path, const char *key_path, struct pki_pair *out, struct err *e);
int pki_save(const char *cert_path, const char *key_path, const struct pki_pair *p, struct err *e);

/* What a certificate says. Strings in the arena. */
struct pki_info {
    const char *cn;
    const char **orgs;
    size_t n_orgs;
    const char **sans; /* DNS names and IPs in text form, in the certificate's order */
    size_t n_sans;
    struct ktime not_before, not_after;
    bool is_ca;
    unsigned usages;
    char sha256[65];    /* of the DER, lower-case hex */
    const char *serial; /* decimal */
};
/* The first certificate of the PEM text. */
int pki_inspect(struct arena *a, const char *cert_pem, struct pki_info *out, struct err *e);
/* The CA's key signed the certificate. */
bool pki_issued_by(const char *cert_pem, const char *ca_pem);
/* When it should be renewed: once four fifths of its useful life have passed. Issuers date certificates back by a few
 * minutes, which counts for nothing: a certificate of ten minutes is renewed after eight. */
struct ktime pki_renew_at(const struct pki_info *i);
/* Why the pair has to be issued anew (a constant text), or NULL: 80% of its life has passed, it is not by this CA (NULL: whichever), key
 * and certificate do not belong together, a wanted SAN is missing, CN or organisations differ. */
const char *pki_renewal_reason(const struct pki_pair *p, const char *ca_pem, const struct pki_spec *spec);

/* Files in place and good: made, or issued anew when pki_renewal_reason says so. *renewed (may be NULL) tells. */
int pki_ensure_ca(const char *cert_path, const char *key_path, const char *cn, struct pki_pair *out, struct err *e);
int pki_ensure(const struct pki_pair *ca, const struct pki_spec *spec, const char *cert_path, const char *key_path,
               bool *renewed, struct err *e);
/* A private key file for signing tokens, and beside it (path ".pub") its public half. */
int pki_ensure_key(const char *path, const char *type, char **key_pem, struct err *e);

/* ---- certificate signing requests ---- */

/* A request for spec's subject and SANs, "CERTIFICATE REQUEST" PEM. key_pem: an existing key. */
int pki_csr_new(const char *key_pem, const struct pki_spec *spec, char **csr_pem, struct err *e);
struct pki_csr_info {
    const char *cn;
    const char **orgs;
    size_t n_orgs;
    const char **dns, **ips, **emails, **uris;
    size_t n_dns, n_ips, n_emails, n_uris;
};
/* Parses and checks the request's own signature. -EINVAL when it is not one. */
int pki_csr_parse(struct arena *a, const char *csr_pem, size_t len, struct pki_csr_info *out, struct err *e);
/* Signs with the request's subject, SANs and key. `usages` as above; cut to the CA's end. */
int pki_csr_sign(const struct pki_pair *ca, const char *csr_pem, size_t len, unsigned usages, int64_t seconds,
                 char **cert_pem, struct err *e);
