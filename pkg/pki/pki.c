/* Making certificates: CA, issued pairs, keys and their files. See pki.h.
 *
 * A CA is pathlen-unbounded with keyCertSign and digitalSignature, like kubeadm's. Issued certificates carry a random
 * 127-bit serial, the CA's key id, and begin five minutes in the past, for clocks that disagree. */
#include "pkg/pki/pki.h"

#include <arpa/inet.h>
#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <sys/stat.h>
#include <time.h>

#include "pkg/base/bytes.h"
#include "pkg/pki/internal.h"

enum { PKI_FILE_MAX = 1 << 20 };

void pki_pair_done(struct pki_pair *p) {
    free(p->cert_pem);
    if (p->key_pem) OPENSSL_cleanse(p->key_pem, strlen(p->key_pem));
    free(p->key_pem);
    *p = (struct pki_pair){0};
}

int pki_openssl_err(struct err *e, const char *what) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return err_set(e, -EINVAL, "%s: %s", what, reason ? reason : "not valid");
}

/* ---- PEM ---- */

char *pki_bio_take(BIO *b) {
    char *p;
    long n = BIO_get_mem_data(b, &p);
    return xstrndup(p, (size_t)n);
}

EVP_PKEY *pki_key_parse(const char *pem, struct err *e) {
    _cleanup_bio_ BIO *b = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(b, NULL, NULL, (void *)"");
    if (!key) pki_openssl_err(e, "private key");
    return key;
}

int pki_key_text(EVP_PKEY *key, char **pem, struct err *e) {
    _cleanup_bio_ BIO *b = BIO_new(BIO_s_secmem());
    if (!PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL)) return pki_openssl_err(e, "private key");
    *pem = pki_bio_take(b);
    return 0;
}

X509 *pki_cert_parse(const char *pem, struct err *e) {
    _cleanup_bio_ BIO *b = BIO_new_mem_buf(pem, -1);
    X509 *cert = PEM_read_bio_X509(b, NULL, NULL, NULL);
    if (!cert) pki_openssl_err(e, "certificate");
    return cert;
}

int pki_cert_text(X509 *cert, char **pem, struct err *e) {
    _cleanup_bio_ BIO *b = BIO_new(BIO_s_mem());
    if (!PEM_write_bio_X509(b, cert)) return pki_openssl_err(e, "certificate");
    *pem = pki_bio_take(b);
    return 0;
}

/* ---- keys ---- */

EVP_PKEY *pki_key_generate(const char *type) { return str_eq(type, "RSA") ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256"); }

int pki_key_new(const char *type, char **key_pem, struct err *e) {
    _cleanup_pkey_ EVP_PKEY *key = pki_key_generate(type);
    return key ? pki_key_text(key, key_pem, e) : pki_openssl_err(e, "key generation");
}

int pki_key_public(const char *key_pem, char **public_pem, struct err *e) {
    _cleanup_pkey_ EVP_PKEY *key = pki_key_parse(key_pem, e);
    if (!key) return -EINVAL;
    _cleanup_bio_ BIO *b = BIO_new(BIO_s_mem());
    if (!PEM_write_bio_PUBKEY(b, key)) return pki_openssl_err(e, "public key");
    *public_pem = pki_bio_take(b);
    return 0;
}

/* ---- names ---- */

static bool name_add(X509_NAME *name, const char *attr, const char *value) {
    return X509_NAME_add_entry_by_txt(name, attr, MBSTRING_UTF8, (const unsigned char *)value, -1, -1, 0);
}

int pki_name_fill(X509_NAME *name, const char *cn, const char *const *orgs, size_t n_orgs) {
    for (size_t i = 0; i < n_orgs; i++)
        if (!name_add(name, "O", orgs[i])) return -EINVAL;
    return name_add(name, "CN", cn) ? 0 : -EINVAL;
}

static GENERAL_NAME *san_make(const char *text) {
    GENERAL_NAME *g = GENERAL_NAME_new();
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(text);
    ERR_clear_error();
    if (ip) {
        GENERAL_NAME_set0_value(g, GEN_IPADD, ip);
        return g;
    }
    ASN1_IA5STRING *dns = ASN1_IA5STRING_new();
    ASN1_STRING_set(dns, text, -1);
    GENERAL_NAME_set0_value(g, GEN_DNS, dns);
    return g;
}

GENERAL_NAMES *pki_sans_make(const char *const *sans, size_t n) {
    if (n == 0) return NULL;
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    for (size_t i = 0; i < n; i++) sk_GENERAL_NAME_push(names, san_make(sans[i]));
    return names;
}

/* ---- certificates ---- */

static int set_times(X509 *cert, X509 *ca, int64_t seconds) {
    time_t now = ktime_now().sec;
    time_t end = now + seconds;
    X509_time_adj_ex(X509_getm_notBefore(cert), 0, -PKI_BACKDATE_SECONDS, &now);
    X509_time_adj_ex(X509_getm_notAfter(cert), 0, 0, &end);
    if (ca && ASN1_TIME_compare(X509_get0_notAfter(cert), X509_get0_notAfter(ca)) > 0)
        X509_set1_notAfter(cert, X509_get0_notAfter(ca));
    return 0;
}

static bool ext_add(X509 *cert, X509 *issuer, int nid, const char *value) {
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (!x) return false;
    bool ok = X509_add_ext(cert, x, -1);
    X509_EXTENSION_free(x);
    return ok;
}

static bool serial_set(X509 *cert) {
    unsigned char raw[16];
    random_bytes(raw, sizeof(raw));
    raw[0] &= 0x7f;
    BIGNUM *n = BN_bin2bn(raw, sizeof(raw), NULL);
    bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
    BN_free(n);
    return ok;
}

static bool usages_add(X509 *cert, unsigned usages) {
    bool sign = usages & PKI_DIGITAL_SIGNATURE, encipher = usages & PKI_KEY_ENCIPHERMENT;
    if ((sign || encipher) && !ext_add(cert, cert, NID_key_usage,
                                       sign && encipher ? "critical,digitalSignature,keyEncipherment"
                                       : sign           ? "critical,digitalSignature"
                                                        : "critical,keyEncipherment"))
        return false;
    char text[80];
    snprintf(text, sizeof(text), "%s%s%s", usages & PKI_SERVER_AUTH ? ",serverAuth" : "",
             usages & PKI_CLIENT_AUTH ? ",clientAuth" : "", usages & PKI_CODE_SIGNING ? ",codeSigning" : "");
    return !*text || ext_add(cert, cert, NID_ext_key_usage, text + 1);
}

int pki_cert_sign(X509 *cert, X509 *ca, EVP_PKEY *ca_key, unsigned usages, int64_t seconds, struct err *e) {
    bool ok = X509_set_version(cert, X509_VERSION_3) && serial_set(cert) &&
              X509_set_issuer_name(cert, X509_get_subject_name(ca)) && set_times(cert, ca, seconds) == 0 &&
              usages_add(cert, usages) && ext_add(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
              ext_add(cert, ca, NID_authority_key_identifier, "keyid") && X509_sign(cert, ca_key, EVP_sha256());
    return ok ? 0 : pki_openssl_err(e, "certificate");
}

int pki_ca_new(const char *cn, int64_t seconds, struct pki_pair *out, struct err *e) {
    _cleanup_pkey_ EVP_PKEY *key = pki_key_generate("EC");
    _cleanup_x509_ X509 *cert = X509_new();
    bool ok = key && X509_set_version(cert, X509_VERSION_3) && serial_set(cert) &&
              pki_name_fill(X509_get_subject_name(cert), cn, NULL, 0) == 0 &&
              X509_set_issuer_name(cert, X509_get_subject_name(cert)) && X509_set_pubkey(cert, key) &&
              set_times(cert, NULL, seconds ? seconds : PKI_CA_SECONDS) == 0 &&
              ext_add(cert, cert, NID_key_usage, "critical,digitalSignature,keyEncipherment,keyCertSign") &&
              ext_add(cert, cert, NID_basic_constraints, "critical,CA:TRUE") &&
              ext_add(cert, cert, NID_subject_key_identifier, "hash") && X509_sign(cert, key, EVP_sha256());
    if (!ok) return pki_openssl_err(e, "CA certificate");
    _cleanup_pki_pair_ struct pki_pair p = {0};
    int r = pki_cert_text(cert, &p.cert_pem, e);
    if (r == 0) r = pki_key_text(key, &p.key_pem, e);
    if (r < 0) return r;
    *out = p;
    p = (struct pki_pair){0};
    return 0;
}

int pki_issue(const struct pki_pair *ca, const struct pki_spec *spec, struct pki_pair *out, struct err *e) {
    _cleanup_x509_ X509 *ca_cert = pki_cert_parse(ca->cert_pem, e);
    _cleanup_pkey_ EVP_PKEY *ca_key = ca_cert ? pki_key_parse(ca->key_pem, e) : NULL;
    if (!ca_key) return err_wrap(e, "CA");
    _cleanup_pkey_ EVP_PKEY *key = pki_key_generate("EC");
    _cleanup_x509_ X509 *cert = X509_new();
    if (!key || !X509_set_pubkey(cert, key) ||
        pki_name_fill(X509_get_subject_name(cert), spec->cn, spec->orgs, spec->n_orgs) < 0)
        return pki_openssl_err(e, "certificate subject");
    GENERAL_NAMES *sans = pki_sans_make(spec->sans, spec->n_sans);
    bool ok = !sans || X509_add1_ext_i2d(cert, NID_subject_alt_name, sans, 0, 0);
    GENERAL_NAMES_free(sans);
    if (!ok) return pki_openssl_err(e, "certificate names");
    unsigned usages = spec->usages | PKI_DIGITAL_SIGNATURE | PKI_KEY_ENCIPHERMENT;
    int r = pki_cert_sign(cert, ca_cert, ca_key, usages, spec->seconds ? spec->seconds : PKI_CERT_SECONDS, e);
    if (r < 0) return r;
    _cleanup_pki_pair_ struct pki_pair p = {0};
    r = pki_cert_text(cert, &p.cert_pem, e);
    if (r == 0) r = pki_key_text(key, &p.key_pem, e);
    if (r < 0) return r;
    *out = p;
    p = (struct pki_pair){0};
    return 0;
}

/* ---- files ---- */

int pki_load(const char *cert_path, const char *key_path, struct pki_pair *out, struct err *e) {
    _cleanup_pki_pair_ struct pki_pair p = {0};
    int r = file_read(cert_path, PKI_FILE_MAX, &p.cert_pem, NULL);
    if (r < 0) return err_errno(e, r, "%s", cert_path);
    r = file_read(key_path, PKI_FILE_MAX, &p.key_pem, NULL);
    if (r < 0) return err_errno(e, r, "%s", key_path);
    *out = p;
    p = (struct pki_pair){0};
    return 0;
}

typedef int file_writer(const char *path, const void *data, size_t len, unsigned mode);

static int save(const char *cert_path, const char *key_path, const struct pki_pair *p, file_writer *write,
                struct err *e) {
    int r = write(key_path, p->key_pem, strlen(p->key_pem), 0600);
    if (r < 0) return err_errno(e, r, "%s", key_path);
    r = write(cert_path, p->cert_pem, strlen(p->cert_pem), 0644);
    return r < 0 ? err_errno(e, r, "%s", cert_path) : 0;
}

int pki_save(const char *cert_path, const char *key_path, const struct pki_pair *p, struct err *e) {
    return save(cert_path, key_path, p, file_write_atomic, e);
}

int pki_ensure_ca(const char *cert_path, const char *key_path, const char *cn, struct pki_pair *out, struct err *e) {
    if (access(cert_path, F_OK) == 0 || access(key_path, F_OK) == 0) return pki_load(cert_path, key_path, out, e);
    _cleanup_pki_pair_ struct pki_pair p = {0};
    int r = pki_ca_new(cn, 0, &p, e);
    if (r == 0) r = pki_save(cert_path, key_path, &p, e);
    if (r < 0) return r;
    *out = p;
    p = (struct pki_pair){0};
    return 0;
}

int pki_ensure(const struct pki_pair *ca, const struct pki_spec *spec, const char *cert_path, const char *key_path,
               bool *renewed, struct err *e) {
    _cleanup_pki_pair_ struct pki_pair p = {0};
    if (renewed) *renewed = false;
    if (pki_load(cert_path, key_path, &p, NULL) == 0 && !pki_renewal_reason(&p, ca->cert_pem, spec)) return 0;
    pki_pair_done(&p);
    int r = pki_issue(ca, spec, &p, e);
    /* what a power cut takes is issued again: a first start makes a dozen, and need not wait for a slow disk each time */
    if (r == 0) r = save(cert_path, key_path, &p, file_write_quick, e);
    if (r == 0 && renewed) *renewed = true;
    return r;
}

int pki_ensure_key(const char *path, const char *type, char **key_pem, struct err *e) {
    _cleanup_free_ char *pem = NULL, *pub = NULL;
    _cleanup_free_ char *pub_path = xasprintf("%s.pub", path);
    int r = file_read(path, PKI_FILE_MAX, &pem, NULL);
    if (r == -ENOENT) {
        r = pki_key_new(type, &pem, e);
        if (r < 0) return r;
        r = file_write_atomic(path, pem, strlen(pem), 0600);
    }
    if (r < 0) return err_errno(e, r, "%s", path);
    if (access(pub_path, F_OK) < 0) {
        if ((r = pki_key_public(pem, &pub, e)) < 0) return err_wrap(e, "%s", path);
        r = file_write_atomic(pub_path, pub, strlen(pub), 0644);
        if (r < 0) return err_errno(e, r, "%s", pub_path);
    }
    if (key_pem) *key_pem = take_ptr(pem);
    return 0;
}
