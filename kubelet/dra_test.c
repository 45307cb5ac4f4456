/* What is prepared survives the kubelet: read from the checkpoint, given to containers, undone by the driver, in this
 * process. */
#include "kubelet/dra_internal.h"

#include "kubelet/safepath.h"
#include "pkg/api/draplugin.h"
#include "tests/test.h"

struct world {
    char dir[64];
    struct arena *a;
    struct kubelet kl;
    struct grpc_server *driver;
    _Atomic int undone;
    _Atomic bool refuse;
};

static int unprepare(struct grpc_call *c, struct err *e) {
    struct world *w = c->arg;
    const struct draplugin_node_unprepare_resources_request *rq = c->request;
    struct draplugin_node_unprepare_resources_response *rs = c->response;
    rs->claims.items = arena_zalloc(c->arena, (rq->claims.n + 1) * sizeof(*rs->claims.items));
    for (size_t i = 0; i < rq->claims.n; i++) {
        rs->claims.items[rs->claims.n].key = rq->claims.items[i].uid;
        rs->claims.items[rs->claims.n++].value.error = w->refuse ? "busy" : NULL;
        w->undone++;
    }
    return 0;
}
static const struct grpc_method methods[] = {{&api_rpc_draplugin_dra_plugin_node_unprepare_resources, unprepare}};

/* As upstream's kubelet wrote it: one claim of two pods. */
static const char checkpoint[] =
    "{\"Data\":\"{\\\"kind\\\":\\\"DRACheckpoint\\\",\\\"apiVersion\\\":\\\"checkpoint.dra.kubelet.k8s.io/"
    "v1\\\",\\\"ClaimInfoStateList\\\":[{\\\"ClaimUID\\\":\\\"u\\\",\\\"ClaimName\\\":\\\"c\\\",\\\"Namespace\\\":\\\"ns\\\","
    "\\\"PodUIDs\\\":{\\\"p1\\\":{},\\\"p2\\\":{}},\\\"DriverState\\\":{\\\"d.io\\\":{\\\"Devices\\\":[{\\\"PoolName\\\":"
    "\\\"pool\\\",\\\"DeviceName\\\":\\\"x\\\",\\\"ShareID\\\":null,\\\"RequestNames\\\":[\\\"r\\\"],\\\"CDIDeviceIDs\\\":["
    "\\\"d.io/t=x\\\"]}]}}}]}\",\"Checksum\":%u}";

static uint32_t crc(const char *p, size_t n) {
    uint32_t c = UINT32_MAX;
    for (size_t i = 0; i < n * 8; i++) {
        uint32_t bit = (c ^ (uint32_t)((uint8_t)p[i / 8] >> (i % 8))) & 1;
        c = c >> 1 ^ (bit ? 0xEDB88320u : 0);
    }
    return ~c;
}

static void write_checkpoint(struct world *w, uint32_t off) {
    struct json *o;
    const char *draft = arena_printf(w->a, checkpoint, 0u);
    REQUIRE(json_parse(w->a, draft, strlen(draft), &o, NULL, NULL) == 0);
    const char *data = json_get_str(o, "Data");
    const char *text = arena_printf(w->a, checkpoint, crc(data, strlen(data)) + off);
    REQUIRE(file_write_quick(arena_printf(w->a, "%s/dra_manager_state", w->dir), text, strlen(text), 0600) == 0);
}

static void world_init(struct world *w, uint32_t off) {
    *w = (struct world){.a = arena_new()};
    snprintf(w->dir, sizeof(w->dir), "/tmp/dra_test.XXXXXX");
    REQUIRE(mkdtemp(w->dir) != NULL);
    w->kl.cfg.root_dir = w->dir;
    write_checkpoint(w, off);
    w->kl.dra = dra_new(&w->kl);
    const char *socket = arena_printf(w->a, "%s/dra.sock", w->dir), *versions[] = {"v9.DRAPlugin", "v1.DRAPlugin"};
    struct grpc_server_options o = {.unix_path = socket, .methods = methods, .n_methods = ARRAY_LEN(methods), .arg = w};
    w->driver = grpc_server_new(&o, NULL);
    REQUIRE(w->driver != NULL);
    REQUIRE(dra_register(w->kl.dra, "d.io", socket, &(struct str_vec){versions, 2}, NULL) == 0);
}

static void world_done(struct world *w) {
    dra_free(w->kl.dra);
    grpc_server_free(w->driver);
    path_remove_tree(w->dir, NULL);
    arena_free(w->a);
}

/* A pod with the claim; its container uses one of the claim's requests. */
static struct core_pod *pod_of(struct arena *a, const char *uid, const char *request) {
    struct core_pod *p = arena_zalloc(a, sizeof(*p));
    const char *text = arena_printf(
        a,
        "{\"metadata\":{\"name\":\"p\",\"namespace\":\"ns\",\"uid\":\"%s\"},\"spec\":{\"resourceClaims\":[{"
        "\"name\":\"dev\",\"resourceClaimName\":\"c\"}],\"containers\":[{\"name\":\"k\",\"resources\":{"
        "\"claims\":[{\"name\":\"dev\",\"request\":\"%s\"}]}}]}}",
        uid, request);
    if (api_from_json(a, &api_core_pod, text, strlen(text), p, NULL) < 0) abort();
    return p;
}

TEST(containers_get_what_the_checkpoint_says_is_prepared) {
    struct world w;
    world_init(&w, 0);
    struct core_pod *p = pod_of(w.a, "p1", "r"), *q = pod_of(w.a, "p1", "other");
    struct str_vec names = {0};
    CHECK_INT(dra_devices(w.kl.dra, w.a, p, &p->spec.containers.items[0], &names, NULL), 0);
    REQUIRE(names.n == 1);
    CHECK_STR(names.items[0], "d.io/t=x");
    names.n = 0;
    CHECK_INT(dra_devices(w.kl.dra, w.a, q, &q->spec.containers.items[0], &names, NULL), 0);
    CHECK_INT(names.n, 0);
    size_t n;
    struct dra_use *u = dra_uses(w.kl.dra, w.a, p, &p->spec.containers.items[0], &n);
    REQUIRE(n == 1);
    CHECK_STR(u->claim, "c");
    CHECK_STR(u->device, "x");
    world_done(&w);
}

TEST(a_claim_is_undone_with_its_last_pod_and_asked_again_when_that_fails) {
    struct world w;
    world_init(&w, 0);
    _cleanup_err_ struct err e = {0};
    CHECK_INT(dra_unprepare(w.kl.dra, pod_of(w.a, "p1", "r"), NULL), 0);
    CHECK_INT(w.undone, 0);
    w.refuse = true;
    CHECK(dra_unprepare(w.kl.dra, pod_of(w.a, "p2", "r"), &e) < 0);
    CHECK_STR(e.msg, "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim c: busy");
    w.refuse = false;
    dra_free(w.kl.dra); /* a restart in between */
    w.kl.dra = dra_new(&w.kl);
    CHECK(dra_unprepare(w.kl.dra, pod_of(w.a, "p2", "r"), NULL) < 0); /* no driver yet */
    const char *v1 = "v1.DRAPlugin", *socket = arena_printf(w.a, "%s/dra.sock", w.dir);
    CHECK_INT(dra_register(w.kl.dra, "d.io", socket, &(struct str_vec){&v1, 1}, NULL), 0);
    CHECK_INT(dra_register(w.kl.dra, "d.io", socket, &(struct str_vec){&v1, 1}, NULL), -EEXIST);
    CHECK_INT(dra_unprepare(w.kl.dra, pod_of(w.a, "p2", "r"), NULL), 0);
    CHECK_INT(w.undone, 2);
    CHECK_INT(dra_unprepare(w.kl.dra, pod_of(w.a, "p2", "r"), NULL), 0); /* nothing is left */
    CHECK_INT(w.undone, 2);
    world_done(&w);
}

TEST(a_damaged_checkpoint_is_not_believed) {
    struct world w;
    world_init(&w, 1);
    CHECK_INT(dra_unprepare(w.kl.dra, pod_of(w.a, "p1", "r"), NULL), 0);
    CHECK_INT(w.undone, 0);
    world_done(&w);
}
