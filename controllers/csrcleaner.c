/* Certificate signing requests that have served their purpose are deleted: what was issued, denied or failed after an
 * hour, what nobody decided about after a day, and what was issued but has ended since at once (upstream
 * pkg/controller/certificates/cleaner). Requesters read their certificate within seconds. */
#include "pkg/api/certificates.h"
#include "pkg/pki/pki.h"
#include "util.h"

#define DECIDED_NS (3600 * NS_PER_SEC)
#define PENDING_NS (24 * 3600 * NS_PER_SEC)

struct csr_cleaner {
    struct manager *m;
    struct workqueue *q;
};

typedef struct certificates_certificate_signing_request csr_t;

/* Until what was issued ends. */
static int64_t life_left(struct arena *a, const csr_t *r, struct ktime now) {
    struct pki_info info;
    const char *pem = arena_strndup(a, (const char *)r->status.certificate.p, r->status.certificate.n);
    if (!r->status.certificate.n || pki_inspect(a, pem, &info, NULL) < 0) return PENDING_NS;
    return ktime_diff_ns(info.not_after, now);
}

/* How long the request is kept yet; 0 or less: no longer. A decision counts from when it was made. */
static int64_t left_of(struct arena *a, const csr_t *r) {
    struct ktime decided = {0}, now = ktime_now();
    bool done = r->status.certificate.n > 0;
    for (size_t i = 0; i < r->status.conditions.n; i++) {
        const struct certificates_certificate_signing_request_condition *c = &r->status.conditions.items[i];
        bool refused = str_eq(c->type, "Denied") || str_eq(c->type, "Failed");
        if (!refused && !str_eq(c->type, "Approved")) continue;
        done |= refused;
        if (!decided.set || ktime_cmp(c->last_update_time, decided) > 0) decided = c->last_update_time;
    }
    /* approved, but its signer has not come by yet: it waits as one that is undecided does */
    if (!decided.set || !done) return PENDING_NS - ktime_diff_ns(now, r->metadata.creation_timestamp);
    return MIN_OF(DECIDED_NS - ktime_diff_ns(now, decided), life_left(a, r, now));
}

static int clean(void *arg, struct arena *a, const char *key, struct err *e) {
    struct csr_cleaner *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_certificatesigningrequests), key);
    if (!o) return 0;
    int64_t left = left_of(a, o->obj);
    if (left > 0) {
        workqueue_add_after(c->q, key, left);
        return 0;
    }
    struct client_delete_opts d = {.cause = o->rv, .uid = o->meta->uid};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(c->m->client, &client_certificatesigningrequests, NULL, key, &d, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return r;
}

int csrcleaner_start(struct manager *m, struct err *e) {
    struct csr_cleaner *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "csr-cleaner", 1, clean, c, &client_certificatesigningrequests, NULL);
    manager_watch_keys(m, &client_certificatesigningrequests, c->q);
    return 0;
}
