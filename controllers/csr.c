/* CertificateSigningRequests: approving those that a kubelet makes for itself, and signing the approved
 * (upstream pkg/controller/certificates, approver and signer).
 *
 * A kubelet's client certificate is approved when the API server says that the requester may have it (subject
 * access reviews of the virtual subresources nodeclient and selfnodeclient). A kubelet's serving certificate
 * is approved when the node asks for itself and only for addresses that its Node object lists; upstream
 * leaves that to an administrator. */
#include "pkg/api/certificates.h"
#include "pkg/base/log.h"
#include "pkg/pki/pki.h"
#include "util.h"

#define CLIENT_SIGNER "kubernetes.io/kube-apiserver-client"
#define KUBELET_CLIENT "kubernetes.io/kube-apiserver-client-kubelet"
#define KUBELET_SERVING "kubernetes.io/kubelet-serving"
#define LEGACY "kubernetes.io/legacy-unknown"
#define NODE_PREFIX "system:node:"
#define NODES_GROUP "system:nodes"

typedef struct certificates_certificate_signing_request csr_t;

struct csr_controller {
    struct manager *m;
    struct workqueue *q;
    struct pki_pair ca; /* signer only */
};

static const struct certificates_certificate_signing_request_condition *csr_condition(const csr_t *c,
                                                                                      const char *type) {
    for (size_t i = 0; i < c->status.conditions.n; i++)
        if (str_eq(c->status.conditions.items[i].type, type)) return &c->status.conditions.items[i];
    return NULL;
}

/* ---- what a request is for ---- */

static unsigned usage_bits(const csr_t *c, bool *other) {
    static const struct {
        const char *name;
        unsigned bit;
    } names[] = {{"digital signature", PKI_DIGITAL_SIGNATURE},
                 {"key encipherment", PKI_KEY_ENCIPHERMENT},
                 {"client auth", PKI_CLIENT_AUTH},
                 {"server auth", PKI_SERVER_AUTH},
                 {"code signing", PKI_CODE_SIGNING}};
    unsigned bits = 0;
    *other = false;
    for (size_t i = 0; i < c->spec.usages.n; i++) {
        size_t k = 0;
        while (k < ARRAY_LEN(names) && !str_eq(c->spec.usages.items[i], names[k].name)) k++;
        if (k < ARRAY_LEN(names))
            bits |= names[k].bit;
        else
            *other = true;
    }
    return bits;
}

/* Subject CN system:node:NAME, O system:nodes alone, and the usages of the kind of certificate. */
static bool is_node_request(const csr_t *c, const struct pki_csr_info *in, unsigned needed) {
    bool other;
    unsigned bits = usage_bits(c, &other);
    if (other || !(bits & needed) || (bits & ~(needed | PKI_DIGITAL_SIGNATURE | PKI_KEY_ENCIPHERMENT))) return false;
    if (in->n_orgs != 1 || strcmp(in->orgs[0], NODES_GROUP) != 0) return false;
    if (str_empty(in->cn) || !str_has_prefix(in->cn, NODE_PREFIX)) return false;
    return in->n_emails == 0 && in->n_uris == 0;
}

static bool is_client_request(const csr_t *c, const struct pki_csr_info *in) {
    return is_node_request(c, in, PKI_CLIENT_AUTH) && in->n_dns == 0 && in->n_ips == 0;
}

static bool node_has_address(const struct core_node *n, const char *address) {
    for (size_t i = 0; i < n->status.addresses.n; i++)
        if (str_eq(n->status.addresses.items[i].address, address)) return true;
    return str_eq(n->metadata.name, address);
}

static bool serves_itself(struct csr_controller *c, const csr_t *r, const struct pki_csr_info *in) {
    if (!is_node_request(r, in, PKI_SERVER_AUTH) || !str_eq(r->spec.username, in->cn)) return false;
    if (in->n_dns + in->n_ips == 0) return false;
    _cleanup_object_ struct object *o =
        informer_get(manager_informer(c->m, &client_nodes), in->cn + strlen(NODE_PREFIX));
    if (!o) return false;
    for (size_t i = 0; i < in->n_dns; i++)
        if (!node_has_address(o->obj, in->dns[i])) return false;
    for (size_t i = 0; i < in->n_ips; i++)
        if (!node_has_address(o->obj, in->ips[i])) return false;
    return true;
}

/* ---- approving ---- */

static bool may(struct csr_controller *c, struct arena *a, const csr_t *r, const char *subresource) {
    struct json *o = json_object(a), *spec, *groups, *ra;
    json_set_str(a, o, "apiVersion", "authorization.k8s.io/v1");
    json_set_str(a, o, "kind", "SubjectAccessReview");
    spec = json_ensure_object(a, o, "spec");
    json_set_str(a, spec, "user", r->spec.username);
    json_set_str(a, spec, "uid", r->spec.uid);
    groups = json_ensure_array(a, spec, "groups");
    for (size_t i = 0; i < r->spec.groups.n; i++) json_append(a, groups, json_str(a, r->spec.groups.items[i]));
    ra = json_ensure_object(a, spec, "resourceAttributes");
    json_set_str(a, ra, "group", "certificates.k8s.io");
    json_set_str(a, ra, "resource", "certificatesigningrequests");
    json_set_str(a, ra, "verb", "create");
    json_set_str(a, ra, "subresource", subresource);
    const char *text = json_text(a, o);
    struct client_request rq = {.method = "POST",
                                .path = "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                                .body = text,
                                .body_len = strlen(text)};
    struct client_response resp = {0};
    struct json *answer = NULL;
    bool yes = client_do(c->m->client, &rq, &resp, NULL) == 0 &&
               json_parse(a, resp.body, resp.len, &answer, NULL, NULL) == 0 &&
               json_get_bool(json_get(answer, "status"), "allowed", false);
    client_response_done(&resp);
    return yes;
}

static int approve(struct csr_controller *c, struct arena *a, const csr_t *r, const char *message, struct err *e) {
    csr_t fresh = *r;
    struct certificates_certificate_signing_request_condition_vec v = {
        .items = arena_zalloc(a, (r->status.conditions.n + 1) * sizeof(*v.items))};
    for (size_t i = 0; i < r->status.conditions.n; i++) v.items[v.n++] = r->status.conditions.items[i];
    struct ktime now = ktime_now_s();
    v.items[v.n++] = (struct certificates_certificate_signing_request_condition){.type = "Approved",
                                                                                 .status = "True",
                                                                                 .reason = "AutoApproved",
                                                                                 .message = message,
                                                                                 .last_update_time = now,
                                                                                 .last_transition_time = now};
    fresh.status.conditions = v;
    struct client_opts o = {.cause = r->metadata.resource_version, .subresource = "approval"};
    return client_update(c->m->client, a, &client_certificatesigningrequests, NULL, &fresh, &o, NULL, e);
}

static int consider(void *arg, struct arena *a, const char *key, struct err *e) {
    struct csr_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_certificatesigningrequests), key);
    const csr_t *r = o ? o->obj : NULL;
    if (!r || r->status.certificate.n || csr_condition(r, "Approved") || csr_condition(r, "Denied")) return 0;
    struct pki_csr_info in;
    if (pki_csr_parse(a, (const char *)r->spec.request.p, r->spec.request.n, &in, NULL) < 0) return 0;
    if (str_eq(r->spec.signer_name, KUBELET_CLIENT) && is_client_request(r, &in)) {
        if (str_eq(r->spec.username, in.cn) && may(c, a, r, "selfnodeclient"))
            return approve(c, a, r, "Auto approving self kubelet client certificate after SubjectAccessReview.", e);
        if (may(c, a, r, "nodeclient"))
            return approve(c, a, r, "Auto approving kubelet client certificate after SubjectAccessReview.", e);
    }
    if (str_eq(r->spec.signer_name, KUBELET_SERVING)) {
        if (serves_itself(c, r, &in))
            return approve(c, a, r, "Auto approving kubelet serving certificate for the node's own addresses.", e);
        /* the node's addresses may come later */
        if (ktime_diff_ns(ktime_now(), r->metadata.creation_timestamp) < 300 * NS_PER_SEC)
            workqueue_add_after(c->q, key, 5 * NS_PER_SEC);
    }
    return 0;
}

/* ---- signing ---- */

/* Whether the signer signs such a request; else why not. */
static const char *unfit(const csr_t *r, const struct pki_csr_info *in) {
    bool other;
    unsigned bits = usage_bits(r, &other);
    if (str_eq(r->spec.signer_name, KUBELET_CLIENT))
        return is_client_request(r, in) ? NULL : "not a kubelet's client certificate";
    if (str_eq(r->spec.signer_name, KUBELET_SERVING))
        return is_node_request(r, in, PKI_SERVER_AUTH) && in->n_dns + in->n_ips ? NULL
                                                                                : "not a kubelet's serving certificate";
    if (str_eq(r->spec.signer_name, CLIENT_SIGNER))
        return (bits & PKI_CLIENT_AUTH) && !other && !(bits & PKI_SERVER_AUTH)
                   ? NULL
                   : "usages must be those of a client certificate";
    return NULL;
}

static bool signs(const char *signer) {
    return str_eq(signer, CLIENT_SIGNER) || str_eq(signer, KUBELET_CLIENT) || str_eq(signer, KUBELET_SERVING) ||
           str_eq(signer, LEGACY);
}

static int fail(struct csr_controller *c, struct arena *a, const csr_t *r, const char *why, struct err *e) {
    csr_t fresh = *r;
    struct certificates_certificate_signing_request_condition_vec v = {
        .items = arena_zalloc(a, (r->status.conditions.n + 1) * sizeof(*v.items))};
    for (size_t i = 0; i < r->status.conditions.n; i++) v.items[v.n++] = r->status.conditions.items[i];
    struct ktime now = ktime_now_s();
    v.items[v.n++] = (struct certificates_certificate_signing_request_condition){.type = "Failed",
                                                                                 .status = "True",
                                                                                 .reason = "SignerValidationFailure",
                                                                                 .message = why,
                                                                                 .last_update_time = now,
                                                                                 .last_transition_time = now};
    fresh.status.conditions = v;
    struct client_opts o = {.cause = r->metadata.resource_version};
    return client_update_status(c->m->client, a, &client_certificatesigningrequests, NULL, &fresh, &o, NULL, e);
}

static int sign(void *arg, struct arena *a, const char *key, struct err *e) {
    struct csr_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_certificatesigningrequests), key);
    const csr_t *r = o ? o->obj : NULL;
    if (!r || r->status.certificate.n || !signs(r->spec.signer_name)) return 0;
    if (!csr_condition(r, "Approved") || csr_condition(r, "Denied") || csr_condition(r, "Failed")) return 0;
    struct pki_csr_info in;
    const char *text = (const char *)r->spec.request.p;
    _cleanup_err_ struct err pe = {0};
    if (pki_csr_parse(a, text, r->spec.request.n, &in, &pe) < 0) return fail(c, a, r, pe.msg, e);
    const char *why = unfit(r, &in);
    if (why) return fail(c, a, r, why, e);
    bool other;
    int64_t seconds = c->m->opt.signing_duration_ns / NS_PER_SEC;
    if (r->spec.expiration_seconds) seconds = MIN_OF(seconds, (int64_t)*r->spec.expiration_seconds);
    _cleanup_free_ char *pem = NULL;
    int rc = pki_csr_sign(&c->ca, text, r->spec.request.n, usage_bits(r, &other), seconds, &pem, e);
    if (rc < 0) return rc;
    csr_t fresh = *r;
    fresh.status.certificate = (struct bytes){(const uint8_t *)pem, strlen(pem)};
    struct client_opts opts = {.cause = r->metadata.resource_version};
    return client_update_status(c->m->client, a, &client_certificatesigningrequests, NULL, &fresh, &opts, NULL, e);
}

int csrapproving_start(struct manager *m, struct err *e) {
    struct csr_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "csr-approving", 1, consider, c, &client_certificatesigningrequests, &client_nodes, NULL);
    manager_watch_keys(m, &client_certificatesigningrequests, c->q);
    return 0;
}

static void signer_done(void *p) { pki_pair_done(&((struct csr_controller *)p)->ca); }

int csrsigning_start(struct manager *m, struct err *e) {
    if (str_empty(m->opt.signing_cert_file) || str_empty(m->opt.signing_key_file)) return 0;
    struct csr_controller *c = manager_alloc(m, sizeof(*c), signer_done);
    int r = pki_load(m->opt.signing_cert_file, m->opt.signing_key_file, &c->ca, e);
    if (r < 0) return r;
    c->m = m;
    c->q = manager_queue(m, "csr-signing", 1, sign, c, &client_certificatesigningrequests, NULL);
    manager_watch_keys(m, &client_certificatesigningrequests, c->q);
    return 0;
}
