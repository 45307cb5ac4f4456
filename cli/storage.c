/* coracle storage copy: a cluster's objects from one store to another, while it does not run. */
#include <sys/stat.h>

#include "cli/cli.h"
#include "pkg/base/flags.h"
#include "pkg/base/ktime.h"
#include "pkg/store/copy.h"

static const char about[] =
    "coracle storage copy --from STORE --to STORE: moves a cluster between stores, while it does not run.\n\n"
    "A STORE is the path of an embedded store's file (/var/lib/coracle/state.db) or the URLs of etcd's servers\n"
    "(http://127.0.0.1:2379). All objects are copied and then compared. They get new resourceVersions above all old "
    "ones, so\n"
    "clients go on without mixing up old and new; watches start anew. History and the records of who wrote what stay "
    "behind.\n"
    "For etcd to come to the source's revision it has to count up to it, some thousands a second.\n\n"
    "  coracle down && etcd --data-dir /var/lib/coracle/etcd &\n"
    "  coracle storage copy --from /var/lib/coracle/state.db --to http://127.0.0.1:2379\n"
    "  (stop that etcd, then) coracle up --store etcd";

struct ends {
    const char *from, *to, *ca, *cert, *key;
    bool overwrite;
};

static int open_end(const struct ends *x, const char *what, const char *where, bool must_exist, struct store **out,
                    struct err *e) {
    bool etcd = str_has_prefix(where, "http://") || str_has_prefix(where, "https://");
    struct store_options o = {.sqlite_path = etcd ? NULL : where,
                              .etcd_servers = etcd ? where : NULL,
                              .etcd_ca = x->ca,
                              .etcd_cert = x->cert,
                              .etcd_key = x->key};
    struct stat st;
    if (!etcd && must_exist && stat(where, &st) < 0) return err_errno(e, errno, "%s", where);
    int r = store_open(&o, out, e);
    return r < 0 ? err_wrap(e, "%s %s", what, where) : 0;
}

static int copy(const struct ends *x, struct err *e) {
    struct store *from = NULL, *to = NULL;
    struct store_copy_report report = {0};
    int64_t began = mono_ns();
    int r = open_end(x, "the source", x->from, true, &from, e);
    if (r == 0) r = open_end(x, "the target", x->to, false, &to, e);
    if (r == 0) r = store_copy(from, to, x->overwrite, &report, e);
    if (r == -EEXIST) err_wrap(e, "nothing was done (--overwrite removes them first)");
    store_close(from);
    store_close(to);
    if (r < 0) return r;
    if (report.removed) printf("removed %lld keys from the target\n", (long long)report.removed);
    printf("copied %lld keys (%lld bytes) in %.1f s and found them equal\n", (long long)report.keys,
           (long long)report.bytes, (double)(mono_ns() - began) / 1e9);
    printf("the source was at revision %lld, the target is at %lld\n", (long long)report.from_rev,
           (long long)report.to_rev);
    return 0;
}

int cmd_storage(int argc, char **argv) {
    _cleanup_err_ struct err e = {0};
    struct ends x = {0};
    const struct flag flags[] = {{"from", 0, FLAG_STR, &x.from, "STORE", "the store to copy: a file, or etcd's URLs"},
                                 {"to", 0, FLAG_STR, &x.to, "STORE", "the store to fill: a file, or etcd's URLs"},
                                 {"overwrite", 0, FLAG_BOOL, &x.overwrite, NULL, "remove what the target has"},
                                 {"etcd-cafile", 0, FLAG_STR, &x.ca, "FILE", "CA of the etcd servers"},
                                 {"etcd-certfile", 0, FLAG_STR, &x.cert, "FILE", "client certificate for etcd"},
                                 {"etcd-keyfile", 0, FLAG_STR, &x.key, "FILE", "its key"},
                                 {0}};
    int n = flags_main("coracle storage", about, flags, argc, argv, 1);
    int r = n == 1 && str_eq(argv[1], "copy") && !str_empty(x.from) && !str_empty(x.to)
                ? copy(&x, &e)
                : err_set(&e, -EINVAL, "say copy --from STORE --to STORE (see coracle storage --help)");
    return r < 0 ? cli_fail(&e) : 0;
}
