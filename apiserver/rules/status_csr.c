/* What becomes of a request for a certificate: conditions that only its approval sets and nobody takes back, and a
 * certificate that is set once. Upstream: pkg/apis/certificates/validation. */
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "apiserver/rules/validate_status.h"
#include "pkg/base/bytes.h"

/* One certificate or more in PEM, and nothing else. */
static bool certificates_ok(struct arena *a, const char *b64) {
    size_t n = 0;
    char *pem = arena_alloc(a, strlen(b64) + 1);
    if (base64_decode(b64, strlen(b64), pem, &n) < 0) return false;
    BIO *in = BIO_new_mem_buf(pem, (int)n);
    size_t blocks = 0;
    bool ok = in != NULL;
    while (ok) {
        char *name = NULL, *header = NULL;
        unsigned char *der = NULL;
        long len = 0;
        if (PEM_read_bio(in, &name, &header, &der, &len) != 1) break;
        const unsigned char *p = der;
        X509 *x = d2i_X509(NULL, &p, len);
        ok = x && str_eq(name, "CERTIFICATE") && !*header;
        blocks++;
        X509_free(x);
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_free(der);
    }
    BIO_free(in);
    return ok && blocks;
}

/* The conditions of one type, in order. */
static struct json *of_type(struct arena *a, const struct json *conds, const char *type) {
    struct json *out = json_array(a);
    const struct json *c;
    JSON_FOREACH(c, conds)
        if (str_eq(jstr(c, "type"), type)) json_append(a, out, json_clone(a, c));
    return out;
}

/* The same status, or both of them, or an empty type, as it may have been stored before. */
static bool had(const struct json *conds, bool twice, const char *type) {
    const struct json *c;
    JSON_FOREACH(c, conds) {
        if (type && str_eq(jstr(c, "type"), type)) return true;
        for (size_t j = 0; twice && j < c_i; j++)
            if (str_eq(jstr(json_item(conds, j), "type"), jstr(c, "type"))) return true;
    }
    return false;
}

static void form(struct vctx *v, const struct json *conds, const struct json *was, const struct fp *p) {
    static const char *const any[] = {"False", "True", "Unknown", NULL}, *const sure[] = {"True", NULL};
    const struct json *c;
    bool empty_before = had(was, false, ""), twice_before = had(was, true, NULL),
         both_before = had(was, false, "Approved") && had(was, false, "Denied");
    bool approved = false, denied = false;
    JSON_FOREACH(c, conds) {
        const struct fp *at = FPI(p, c_i);
        const char *type = jstr(c, "type");
        bool decided = str_in(type, ONE_OF("Approved", "Denied", "Failed")), again = false;
        if (!*type && !empty_before) v_required(v, FP(at, "type"), NULL);
        v_enum(v, FP(at, "status"), json_str(v->a, jstr(c, "status")), decided ? sure : any, true);
        approved |= str_eq(type, "Approved");
        denied |= str_eq(type, "Denied");
        if (!both_before && approved && denied && str_in(type, ONE_OF("Approved", "Denied")))
            v_invalid(v, p, json_get(c, "type"), "Approved and Denied conditions are mutually exclusive");
        for (size_t j = 0; j < c_i; j++) again |= str_eq(jstr(json_item(conds, j), "type"), type);
        if (again && !twice_before) v_duplicate(v, FP(at, "type"), json_get(c, "type"));
    }
}

void validate_csr_status(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char *const lasting[] = {"Approved", "Denied", "Failed"};
    const struct json *st = json_get(obj, "status"), *before = json_get(old, "status"),
                      *conds = json_get(st, "conditions"), *was = json_get(before, "conditions");
    const struct fp *sp = FP(NULL, "status"), *p = FP(sp, "conditions"), *cp = FP(sp, "certificate");
    const char *cert = jstr(st, "certificate"), *old_cert = jstr(before, "certificate");
    bool approval = str_eq(v->c->subresource, "approval"), status = str_eq(v->c->subresource, "status");
    form(v, conds, was, p);
    for (size_t i = 0; i < ARRAY_LEN(lasting); i++) {
        struct json *now = of_type(v->a, conds, lasting[i]), *then = of_type(v->a, was, lasting[i]);
        if (json_len(now) < json_len(then))
            v_forbidden(v, p, "updates may not remove a condition of type \"%s\"", lasting[i]);
        else if (i < 2 && !approval && !jsame(now, then))
            v_forbidden(v, p, "updates may not add or modify a condition of type \"%s\"", lasting[i]);
    }
    if (str_eq(cert, old_cert)) return;
    if (*cert && (!*old_cert || certificates_ok(v->a, old_cert)) && !certificates_ok(v->a, cert))
        v_invalid(v, cp, NULL, "must contain PEM blocks of certificates, and nothing else");
    if (!status)
        v_forbidden(v, cp, "updates may not set certificate content");
    else if (*old_cert)
        v_forbidden(v, cp, "updates may not modify existing certificate content");
}
