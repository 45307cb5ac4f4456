/* Certificate signing requests (PKCS#10): made by kubelets, parsed by the CSR API's validation and approvers, signed by
 * the signing controller. See pki.h. */
#include "pkg/pki/internal.h"

int pki_csr_new(const char *key_pem, const struct pki_spec *spec, char **csr_pem, struct err *e) {
    _cleanup_pkey_ EVP_PKEY *key = pki_key_parse(key_pem, e);
    if (!key) return -EINVAL;
    _cleanup_x509_req_ X509_REQ *req = X509_REQ_new();
    bool ok = X509_REQ_set_version(req, X509_REQ_VERSION_1) && X509_REQ_set_pubkey(req, key) &&
              pki_name_fill(X509_REQ_get_subject_name(req), spec->cn, spec->orgs, spec->n_orgs) == 0;
    GENERAL_NAMES *sans = pki_sans_make(spec->sans, spec->n_sans);
    if (ok && sans) {
        STACK_OF(X509_EXTENSION) *exts = NULL;
        ok = X509V3_add1_i2d(&exts, NID_subject_alt_name, sans, 0, 0) == 1 && X509_REQ_add_extensions(req, exts);
        sk_X509_EXTENSION_pop_free(exts, X509_EXTENSION_free);
    }
    GENERAL_NAMES_free(sans);
    if (!ok || !X509_REQ_sign(req, key, EVP_sha256())) return pki_openssl_err(e, "certificate request");
    _cleanup_bio_ BIO *b = BIO_new(BIO_s_mem());
    if (!PEM_write_bio_X509_REQ(b, req)) return pki_openssl_err(e, "certificate request");
    *csr_pem = pki_bio_take(b);
    return 0;
}

static X509_REQ *csr_parse(const char *pem, size_t len, struct err *e) {
    _cleanup_bio_ BIO *b = BIO_new_mem_buf(pem, (int)len);
    X509_REQ *req = PEM_read_bio_X509_REQ(b, NULL, NULL, NULL);
    if (!req) {
        pki_openssl_err(e, "certificate request");
        return NULL;
    }
    if (X509_REQ_verify(req, X509_REQ_get0_pubkey(req)) == 1) return req;
    pki_openssl_err(e, "certificate request's signature");
    X509_REQ_free(req);
    return NULL;
}

static GENERAL_NAMES *csr_sans(X509_REQ *req) {
    STACK_OF(X509_EXTENSION) *exts = X509_REQ_get_extensions(req);
    GENERAL_NAMES *names = X509V3_get_d2i(exts, NID_subject_alt_name, NULL, NULL);
    sk_X509_EXTENSION_pop_free(exts, X509_EXTENSION_free);
    ERR_clear_error();
    return names;
}

int pki_csr_parse(struct arena *a, const char *csr_pem, size_t len, struct pki_csr_info *out, struct err *e) {
    _cleanup_x509_req_ X509_REQ *req = csr_parse(csr_pem, len, e);
    if (!req) return -EINVAL;
    *out = (struct pki_csr_info){0};
    pki_name_read(a, X509_REQ_get_subject_name(req), &out->cn, &out->orgs, &out->n_orgs);
    GENERAL_NAMES *names = csr_sans(req);
    size_t caps[4] = {0};
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type = -1;
        const char *s = pki_san_text(a, sk_GENERAL_NAME_value(names, i), &type);
        if (!s) continue;
        const char ***list = type == GEN_DNS     ? &out->dns
                             : type == GEN_IPADD ? &out->ips
                             : type == GEN_EMAIL ? &out->emails
                                                 : &out->uris;
        size_t *n = type == GEN_DNS     ? &out->n_dns
                    : type == GEN_IPADD ? &out->n_ips
                    : type == GEN_EMAIL ? &out->n_emails
                                        : &out->n_uris;
        size_t *cap = &caps[type == GEN_DNS ? 0 : type == GEN_IPADD ? 1 : type == GEN_EMAIL ? 2 : 3];
        ARENA_GROW(a, *list, *n, *cap);
        (*list)[(*n)++] = s;
    }
    GENERAL_NAMES_free(names);
    return 0;
}

int pki_csr_sign(const struct pki_pair *ca, const char *csr_pem, size_t len, unsigned usages, int64_t seconds,
                 char **cert_pem, struct err *e) {
    _cleanup_x509_req_ X509_REQ *req = csr_parse(csr_pem, len, e);
    if (!req) return -EINVAL;
    _cleanup_x509_ X509 *ca_cert = pki_cert_parse(ca->cert_pem, e);
    _cleanup_pkey_ EVP_PKEY *ca_key = ca_cert ? pki_key_parse(ca->key_pem, e) : NULL;
    if (!ca_key) return err_wrap(e, "CA");
    _cleanup_x509_ X509 *cert = X509_new();
    if (!X509_set_subject_name(cert, X509_REQ_get_subject_name(req)) ||
        !X509_set_pubkey(cert, X509_REQ_get0_pubkey(req)))
        return pki_openssl_err(e, "certificate");
    GENERAL_NAMES *names = csr_sans(req);
    bool ok = !names || X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, 0);
    GENERAL_NAMES_free(names);
    if (!ok) return pki_openssl_err(e, "certificate names");
    int r = pki_cert_sign(cert, ca_cert, ca_key, usages, seconds, e);
    return r < 0 ? r : pki_cert_text(cert, cert_pem, e);
}
