/* What is done with CSI volumes that pods leave behind, against a driver in this process: from the files
 * beside them. */
#include "kubelet/csi.h"

#include <stdatomic.h>
#include <sys/stat.h>

#include "kubelet/safepath.h"
#include "pkg/grpc/grpc.h"
#include "tests/test.h"

struct world {
    char dir[64];
    struct kubelet kl;
    struct grpc_server *driver;
    _Atomic int unpublished, unstaged;
    _Atomic bool refuse;
};

static int node_info(struct grpc_call *c, struct err *e) {
    struct csi_node_get_info_response *rs = c->response;
    rs->node_id = "me";
    return 0;
}
static int capabilities(struct grpc_call *c, struct err *e) {
    struct csi_node_get_capabilities_response *rs = c->response;
    rs->capabilities.items = arena_zalloc(c->arena, sizeof(*rs->capabilities.items));
    rs->capabilities.items[0].rpc = arena_zalloc(c->arena, sizeof(struct csi_rpc_capability));
    rs->capabilities.items[0].rpc->type = CSI_NODE_RPC_STAGE_UNSTAGE_VOLUME;
    rs->capabilities.n = 1;
    return 0;
}
static int unpublish(struct grpc_call *c, struct err *e) {
    struct world *w = c->arg;
    const struct csi_node_unpublish_volume_request *rq = c->request;
    if (w->refuse) return grpc_err(e, GRPC_INTERNAL, "busy");
    rmdir(rq->target_path);
    w->unpublished++;
    return 0;
}
static int unstage(struct grpc_call *c, struct err *e) {
    struct world *w = c->arg;
    w->unstaged++;
    return 0;
}
static const struct grpc_method methods[] = {{&api_rpc_csi_node_node_get_info, node_info},
                                             {&api_rpc_csi_node_node_get_capabilities, capabilities},
                                             {&api_rpc_csi_node_node_unpublish_volume, unpublish},
                                             {&api_rpc_csi_node_node_unstage_volume, unstage}};

static char *at(struct arena *a, const struct world *w, const char *rest) {
    return arena_printf(a, "%s/%s", w->dir, rest);
}

static void world_init(struct world *w) {
    _cleanup_arena_ struct arena *a = arena_new();
    snprintf(w->dir, sizeof(w->dir), "/tmp/csi_test.XXXXXX");
    REQUIRE(mkdtemp(w->dir) != NULL);
    w->kl.cfg.root_dir = w->dir;
    w->kl.node_name = (char *)(uintptr_t) "node";
    w->kl.csi = csi_new(&w->kl);
    struct grpc_server_options o = {
        .unix_path = at(a, w, "csi.sock"), .methods = methods, .n_methods = ARRAY_LEN(methods), .arg = w};
    w->driver = grpc_server_new(&o, NULL);
    REQUIRE(w->driver != NULL);
}

static void world_done(struct world *w) {
    csi_free(w->kl.csi);
    grpc_server_free(w->driver);
    path_remove_tree(w->dir, NULL);
}

static int add_driver(struct world *w, const char *version, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct str_vec v = {&version, 1};
    return csi_register(w->kl.csi, "d", at(a, w, "csi.sock"), &v, e);
}

/* sha256 of "vol" */
#define STAGED "plugins/kubernetes.io/csi/d/b9f6da279ec59af95d121d1e1e502ecf056504e267f2f7dfc747ebd0f3f74298"

static void put_data(struct world *w, const char *dir, const char *target) {
    _cleanup_arena_ struct arena *a = arena_new();
    mkdir_p(at(a, w, target), 0755);
    const char *text = arena_printf(
        a, "{\"driverName\":\"d\",\"volumeHandle\":\"vol\",\"attachmentID\":\"csi-1\",\"target\":\"%s/%s\"}", w->dir,
        target);
    REQUIRE(file_write_atomic(at(a, w, arena_printf(a, "%s/vol_data.json", dir)), text, strlen(text), 0600) == 0);
}

static void put_pod(struct world *w, const char *uid) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *dir = arena_printf(a, "pods/%s/volumes/kubernetes.io~csi/pv", uid);
    put_data(w, dir, arena_printf(a, "%s/mount", dir));
}

static const char *staged_dir(struct world *w, struct arena *a) { return at(a, w, STAGED); }

TEST(a_volume_is_unstaged_when_its_last_pod_goes) {
    struct world w = {0};
    _cleanup_arena_ struct arena *a = arena_new();
    world_init(&w);
    CHECK_INT(add_driver(&w, "1.5.0", NULL), 0);
    put_pod(&w, "one");
    put_pod(&w, "two");
    put_data(&w, STAGED, STAGED "/globalmount");
    CHECK_INT(csi_volumes_in_use(w.kl.csi, a).n, 1);
    CHECK_STR(csi_volumes_in_use(w.kl.csi, a).items[0], "kubernetes.io/csi/d^vol");
    CHECK_INT(csi_pod_unmount(w.kl.csi, "one", NULL), 0);
    CHECK_INT(w.unpublished, 1);
    CHECK_INT(w.unstaged, 0);
    csi_collect(w.kl.csi);
    CHECK_INT(w.unstaged, 0);
    CHECK_INT(csi_pod_unmount(w.kl.csi, "two", NULL), 0);
    CHECK_INT(w.unpublished, 2);
    CHECK_INT(w.unstaged, 1);
    CHECK(access(staged_dir(&w, a), F_OK) < 0);
    CHECK_INT(csi_volumes_in_use(w.kl.csi, a).n, 0);
    world_done(&w);
}

TEST(nothing_is_forgotten_while_its_driver_is_away_or_refuses) {
    struct world w = {0};
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    world_init(&w);
    put_pod(&w, "one");
    CHECK_INT(csi_pod_unmount(w.kl.csi, "one", &e), -ENODEV);
    CHECK(strstr(e.msg, "driver name d not found") != NULL);
    CHECK_INT(add_driver(&w, "1.0.0", NULL), 0);
    w.refuse = true;
    CHECK(csi_pod_unmount(w.kl.csi, "one", NULL) < 0);
    CHECK_INT(csi_volumes_in_use(w.kl.csi, a).n, 1);
    w.refuse = false;
    CHECK_INT(csi_pod_unmount(w.kl.csi, "one", NULL), 0);
    CHECK_INT(w.unpublished, 1);
    csi_unregister(w.kl.csi, "d");
    world_done(&w);
}

TEST(what_a_crash_left_staged_is_collected) {
    struct world w = {0};
    world_init(&w);
    CHECK_INT(add_driver(&w, "v1.2.0", NULL), 0);
    put_data(&w, STAGED, STAGED "/globalmount");
    csi_collect(w.kl.csi);
    CHECK_INT(w.unstaged, 1);
    csi_collect(w.kl.csi);
    CHECK_INT(w.unstaged, 1);
    world_done(&w);
}

TEST(drivers_of_other_versions_are_refused) {
    struct world w = {0};
    _cleanup_err_ struct err e = {0};
    world_init(&w);
    CHECK_INT(add_driver(&w, "0.3.0", &e), -EINVAL);
    world_done(&w);
}
