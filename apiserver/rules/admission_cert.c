/* Who may have certificates made: CertificateApproval, CertificateSigning, CertificateSubjectRestriction, and (for
 * ClusterTrustBundles) ClusterTrustBundleAttest. The first, second and last ask the authorizer for a verb on the resource
 * "signers". Upstream: plugin/pkg/admission/certificates. */
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "apiserver/rules/admission.h"
#include "pkg/base/bytes.h"

/* On this signer, or on all of its domain ("example.com/" and a star). The server itself may. */
static bool signer_allowed(struct rules_ctx *c, const char *verb, const char *signer) {
    const struct rules_lookup *l = &c->rules->lookup;
    const char *slash = strchr(signer, '/'), *reason;
    if (!c->who || !l->authorize) return true;
    struct rules_ask ask = {.verb = verb,
                            .group = "certificates.k8s.io",
                            .resource = "signers",
                            .subresource = "",
                            .ns = "",
                            .name = signer};
    if (l->authorize(l->arg, c->a, c->who, &ask, &reason)) return true;
    if (!slash) return false;
    ask.name = arena_printf(c->a, "%.*s/*", (int)(slash - signer), signer);
    return l->authorize(l->arg, c->a, c->who, &ask, &reason);
}

static bool is_csr(const struct rules_ctx *c, const char *sub) {
    return str_eq(c->group, "certificates.k8s.io") && str_eq(c->resource, "certificatesigningrequests") &&
           str_eq(str_or_empty(c->subresource), sub);
}

int check_csr_approval(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (c->op != RULES_UPDATE || !is_csr(c, "approval")) return 0;
    const char *signer = jstr(json_get(old, "spec"), "signerName");
    return signer_allowed(c, "approve", signer)
               ? 0
               : admission_forbid(c, obj, e, "user not permitted to approve requests with signerName \"%s\"", signer);
}

int check_csr_signing(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (c->op != RULES_UPDATE || !is_csr(c, "status")) return 0;
    const struct json *now = json_get(obj, "status"), *was = json_get(old, "status");
    const char *signer = jstr(json_get(old, "spec"), "signerName");
    if (jsame(json_get(now, "certificate"), json_get(was, "certificate")) &&
        jsame(json_get(now, "conditions"), json_get(was, "conditions")))
        return 0;
    return signer_allowed(c, "sign", signer)
               ? 0
               : admission_forbid(c, obj, e, "user not permitted to sign requests with signerName \"%s\"", signer);
}

static bool subject_has_org(const char *pem, size_t len, const char *org) {
    BIO *b = BIO_new_mem_buf(pem, (int)len);
    X509_REQ *req = b ? PEM_read_bio_X509_REQ(b, NULL, NULL, NULL) : NULL;
    X509_NAME *name = req ? X509_REQ_get_subject_name(req) : NULL;
    bool found = false;
    for (int i = -1; name && !found && (i = X509_NAME_get_index_by_NID(name, NID_organizationName, i)) >= 0;) {
        unsigned char *text = NULL;
        int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, i)));
        found = n == (int)strlen(org) && memcmp(text, org, (size_t)n) == 0;
        OPENSSL_free(text);
    }
    X509_REQ_free(req);
    BIO_free(b);
    return found;
}

int check_csr_subject(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char signer[] = "kubernetes.io/kube-apiserver-client";
    if (c->op != RULES_CREATE || !is_csr(c, "") || !str_eq(jstr(json_get(obj, "spec"), "signerName"), signer)) return 0;
    const char *b64 = jstr(json_get(obj, "spec"), "request");
    size_t n = strlen(b64);
    char *pem = arena_zalloc(c->a, n / 4 * 3 + 4);
    if (base64_decode(b64, n, pem, &n) < 0 || !subject_has_org(pem, n, "system:masters")) return 0;
    return admission_forbid(c, obj, e, "use of %s signer with system:masters group is not allowed", signer);
}

int check_trust_bundle(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const gc[] = {"finalizers", "ownerReferences", "managedFields", "resourceVersion", NULL};
    if (!obj || c->op == RULES_DELETE || !str_eq(c->group, "certificates.k8s.io") ||
        !str_eq(c->resource, "clustertrustbundles"))
        return 0;
    const char *signer = jstr(json_get(obj, "spec"), "signerName");
    bool same = old && jsame(json_get(obj, "spec"), json_get(old, "spec"));
    JSON_FOREACH_MEMBER(m, same ? json_get(obj, "metadata") : NULL)
        if (!str_in(m->key, gc)) same &= jsame(m->value, json_at(old, "metadata", m->key, NULL));
    if (!*signer || same || signer_allowed(c, "attest", signer)) return 0;
    return admission_forbid(c, obj, e, "user not permitted to attest for signerName \"%s\"", signer);
}
