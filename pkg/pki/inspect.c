/* Reading certificates: what one says, and whether a pair has to be issued anew. See pki.h. */
#include <arpa/inet.h>
#include <time.h>

#include "pkg/base/bytes.h"
#include "pkg/pki/internal.h"

static struct ktime asn1_time(const ASN1_TIME *t) {
    struct tm tm;
    if (!ASN1_TIME_to_tm(t, &tm)) return (struct ktime){0};
    return (struct ktime){.sec = timegm(&tm), .set = true};
}

static const char *name_entry(struct arena *a, X509_NAME_ENTRY *entry) {
    unsigned char *utf8 = NULL;
    int n = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(entry));
    const char *s = n >= 0 && !memchr(utf8, 0, (size_t)n) ? arena_strndup(a, (char *)utf8, (size_t)n) : "";
    OPENSSL_free(utf8);
    return s;
}

void pki_name_read(struct arena *a, X509_NAME *name, const char **cn, const char ***orgs, size_t *n_orgs) {
    size_t cap = 0;
    *cn = "";
    *orgs = NULL;
    *n_orgs = 0;
    for (int i = 0; i < X509_NAME_entry_count(name); i++) {
        X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, i);
        int nid = OBJ_obj2nid(X509_NAME_ENTRY_get_object(entry));
        if (nid == NID_commonName) *cn = name_entry(a, entry);
        if (nid != NID_organizationName) continue;
        ARENA_GROW(a, *orgs, *n_orgs, cap);
        (*orgs)[(*n_orgs)++] = name_entry(a, entry);
    }
}

const char *pki_san_text(struct arena *a, const GENERAL_NAME *g, int *type) {
    const ASN1_STRING *v = GENERAL_NAME_get0_value(g, type);
    const unsigned char *p = ASN1_STRING_get0_data(v);
    int n = ASN1_STRING_length(v);
    char ip[INET6_ADDRSTRLEN];
    switch (*type) {
        case GEN_DNS:
        case GEN_EMAIL:
        case GEN_URI: return memchr(p, 0, (size_t)n) ? NULL : arena_strndup(a, (const char *)p, (size_t)n);
        case GEN_IPADD:
            if (n != 4 && n != 16) return NULL;
            return arena_strdup(a, inet_ntop(n == 4 ? AF_INET : AF_INET6, p, ip, sizeof(ip)));
        default: return NULL;
    }
}

static void sans_read(struct arena *a, X509 *cert, struct pki_info *out) {
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    size_t cap = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type = -1;
        const char *s = pki_san_text(a, sk_GENERAL_NAME_value(names, i), &type);
        if (!s || (type != GEN_DNS && type != GEN_IPADD)) continue;
        ARENA_GROW(a, out->sans, out->n_sans, cap);
        out->sans[out->n_sans++] = s;
    }
    GENERAL_NAMES_free(names);
}

int pki_inspect(struct arena *a, const char *cert_pem, struct pki_info *out, struct err *e) {
    _cleanup_x509_ X509 *cert = pki_cert_parse(cert_pem, e);
    if (!cert) return -EINVAL;
    *out = (struct pki_info){0};
    pki_name_read(a, X509_get_subject_name(cert), &out->cn, &out->orgs, &out->n_orgs);
    sans_read(a, cert, out);
    out->not_before = asn1_time(X509_get0_notBefore(cert));
    out->not_after = asn1_time(X509_get0_notAfter(cert));
    out->is_ca = X509_check_ca(cert) == 1;
    uint32_t x = X509_get_extended_key_usage(cert), k = X509_get_key_usage(cert);
    if (x != UINT32_MAX)
        out->usages |= (x & XKU_SSL_SERVER ? PKI_SERVER_AUTH : 0) | (x & XKU_SSL_CLIENT ? PKI_CLIENT_AUTH : 0) |
                       (x & XKU_CODE_SIGN ? PKI_CODE_SIGNING : 0);
    if (k != UINT32_MAX)
        out->usages |= (k & KU_DIGITAL_SIGNATURE ? PKI_DIGITAL_SIGNATURE : 0) |
                       (k & KU_KEY_ENCIPHERMENT ? PKI_KEY_ENCIPHERMENT : 0);
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    X509_digest(cert, EVP_sha256(), md, &n);
    hex_encode(md, 32, out->sha256);
    BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
    char *dec = bn ? BN_bn2dec(bn) : NULL;
    out->serial = arena_strdup(a, dec ? dec : "");
    OPENSSL_free(dec);
    BN_free(bn);
    return 0;
}

/* ---- renewal ---- */

static bool has(const char *const *items, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(items[i], s)) return true;
    return false;
}

static bool same_set(const char *const *a, size_t na, const char *const *b, size_t nb) {
    for (size_t i = 0; i < na; i++)
        if (!has(b, nb, a[i])) return false;
    for (size_t i = 0; i < nb; i++)
        if (!has(a, na, b[i])) return false;
    return true;
}

/* The SAN as a certificate shows it: IP addresses in canonical text. */
static const char *san_canonical(struct arena *a, const char *san) {
    unsigned char raw[16];
    char text[INET6_ADDRSTRLEN];
    int family = strchr(san, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(family, san, raw) != 1) return san;
    return arena_strdup(a, inet_ntop(family, raw, text, sizeof(text)));
}

bool pki_issued_by(const char *cert_pem, const char *ca_pem) {
    _cleanup_x509_ X509 *cert = pki_cert_parse(cert_pem, NULL), *ca = pki_cert_parse(ca_pem, NULL);
    bool ok = cert && ca && X509_verify(cert, X509_get0_pubkey(ca)) == 1;
    ERR_clear_error();
    return ok;
}

static bool key_fits(const struct pki_pair *p) {
    _cleanup_x509_ X509 *cert = pki_cert_parse(p->cert_pem, NULL);
    _cleanup_pkey_ EVP_PKEY *key = pki_key_parse(p->key_pem, NULL);
    bool ok = cert && key && X509_check_private_key(cert, key) == 1;
    ERR_clear_error();
    return ok;
}

struct ktime pki_renew_at(const struct pki_info *i) {
    int64_t life = i->not_after.sec - i->not_before.sec;
    int64_t useful = life > PKI_BACKDATE_SECONDS ? life - PKI_BACKDATE_SECONDS : life;
    return (struct ktime){.sec = i->not_after.sec - useful / 5, .set = true};
}

const char *pki_renewal_reason(const struct pki_pair *p, const char *ca_pem, const struct pki_spec *spec) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct pki_info info;
    if (pki_inspect(a, p->cert_pem, &info, NULL) < 0) return "the certificate cannot be read";
    if (!key_fits(p)) return "key and certificate do not belong together";
    if (ca_pem && !pki_issued_by(p->cert_pem, ca_pem)) return "another CA signed it";
    struct ktime now = ktime_now();
    if (ktime_cmp(now, info.not_before) < 0 || ktime_cmp(now, pki_renew_at(&info)) >= 0)
        return "four fifths of its life have passed";
    if (!str_eq(info.cn, spec->cn) || !same_set(info.orgs, info.n_orgs, spec->orgs, spec->n_orgs))
        return "its subject differs";
    for (size_t i = 0; i < spec->n_sans; i++)
        if (!has(info.sans, info.n_sans, san_canonical(a, spec->sans[i]))) return "it lacks a name or address";
    if ((info.usages & spec->usages) != spec->usages) return "its usages differ";
    return NULL;
}
