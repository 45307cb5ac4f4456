#include "cli/identity.h"

#include "pkg/base/bytes.h"
#include "pkg/pki/cluster.h"

int identity_ensure(const struct layout *l, struct err *e) {
    int r = mkdir_p(layout_data(l, "pki"), 0700);
    if (r < 0) return err_errno(e, r, "cannot make %s/pki", l->data);
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    r = pki_ensure_ca(layout_data(l, "pki/ca.crt"), layout_data(l, "pki/ca.key"), "kubernetes", &ca, e);
    struct pki_cluster c = {.data_dir = l->data, .server = l->server, .node_name = l->node_name};
    return r < 0 ? r : pki_cluster_ensure(&c, &ca, l->a, e);
}
