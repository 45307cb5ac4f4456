#include "pkg/store/internal.h"

int store_etcd_open(const struct store_options *o, struct store **out, struct err *e) {
    return err_set(e, -ENOTSUP, "store: the etcd back end is not built in");
}
