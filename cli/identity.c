#include "cli/identity.h"

#include "pkg/base/bytes.h"
#include "pkg/pki/cluster.h"

static struct pki_cluster cluster_of(const struct layout *l) {
    int64_t validity = 0;
    if (l->certificate_validity) duration_parse(l->certificate_validity, &validity); /* checked when it was given */
    return (struct pki_cluster){
        .data_dir = l->data, .server = l->server, .node_name = l->node_name, .seconds = validity / NS_PER_SEC};
}

int identity_ensure(const struct layout *l, struct err *e) {
    int r = mkdir_p(layout_data(l, "pki"), 0700);
    if (r < 0) return err_errno(e, r, "cannot make %s/pki", l->data);
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    r = pki_ensure_ca(layout_data(l, "pki/ca.crt"), layout_data(l, "pki/ca.key"), "kubernetes", &ca, e);
    struct pki_cluster c = cluster_of(l);
    return r < 0 ? r : pki_cluster_ensure(&c, &ca, l->a, e);
}

int64_t identity_renew_at(const struct layout *l) {
    struct pki_cluster c = cluster_of(l);
    return pki_cluster_renew_at(&c, l->a);
}
