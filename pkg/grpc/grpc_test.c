/* The client against the server over a real unix socket. */
#include <pthread.h>

#include "pkg/api/cri.h"
#include "pkg/base/ktime.h"
#include "pkg/grpc/internal.h"
#include "tests/test.h"

static _Atomic int stream_ended;

static int h_version(struct grpc_call *c, struct err *e) {
    const struct cri_version_request *q = c->request;
    struct cri_version_response *r = c->response;
    if (str_eq(q->version, "missing"))
        return grpc_err(e, GRPC_NOT_FOUND, "no such thing: \"%s\" 100%% \n\xc3\xbc", q->version);
    if (str_eq(q->version, "plain")) return err_set(e, -EXDEV, "plain error");
    if (str_eq(q->version, "slow"))
        for (int i = 0; i < 6000 && !grpc_call_cancelled(c); i++) usleep(10000);
    r->version = q->version;
    r->runtime_name = "test";
    if (str_eq(q->version, "big")) {
        size_t n = 5 * 1024 * 1024;
        char *s = arena_alloc(c->arena, n + 1);
        memset(s, 'b', n);
        s[n] = 0;
        r->runtime_version = s;
    }
    return 0;
}

static int h_events(struct grpc_call *c, struct err *e) {
    int rc = 0;
    for (int i = 0; i < 100000 && !rc; i++) {
        struct cri_container_event_response m = {.container_id = arena_printf(c->arena, "c%d", i), .created_at = i};
        rc = grpc_stream_send(c, &m, e);
        if (i >= 3000) usleep(1000);
    }
    atomic_fetch_add(&stream_ended, 1);
    return rc;
}

static int h_end(struct grpc_call *c, struct err *e) {
    struct cri_stream_containers_response m = {0};
    int rc = grpc_stream_send(c, &m, e);
    return rc ? rc : grpc_err(e, GRPC_FAILED_PRECONDITION, "enough");
}

static const struct grpc_method methods[] = {
    {&api_rpc_cri_runtime_service_version, h_version},
    {&api_rpc_cri_runtime_service_get_container_events, h_events},
    {&api_rpc_cri_runtime_service_stream_containers, h_end},
};
static char path[64];

static struct grpc_server *serve(void) {
    snprintf(path, sizeof(path), "/tmp/grpc-test-%d.sock", (int)getpid());
    _cleanup_err_ struct err e = {0};
    struct grpc_server *s = grpc_server_new(
        &(struct grpc_server_options){.unix_path = path, .methods = methods, .n_methods = ARRAY_LEN(methods)}, &e);
    if (!s) TEST_FAIL("%s", e.msg);
    return s;
}

static int version(struct grpc_client *c, const char *v, unsigned ms, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_version_request q = {.version = v};
    struct cri_version_response r = {0};
    int rc = grpc_call(c, &api_rpc_cri_runtime_service_version, &q, a, &r, ms, e);
    if (!rc && !str_eq(r.version, v)) return -1;
    if (!rc && str_eq(v, "big") && strlen(r.runtime_version) != 5 * 1024 * 1024) return -2;
    return rc;
}

TEST(unary_call_answers) {
    struct grpc_server *s = serve();
    struct grpc_client *c = grpc_client_new(path);
    _cleanup_err_ struct err e = {0};
    CHECK_INT(version(c, "v1", 0, &e), 0);
    CHECK_INT(version(c, "big", 0, &e), 0);
    c = grpc_client_free(c);
    s = grpc_server_free(s);
}

TEST(errors_carry_code_and_message) {
    struct grpc_server *s = serve();
    struct grpc_client *c = grpc_client_new(path);
    _cleanup_err_ struct err e = {0};
    CHECK_INT(version(c, "missing", 0, &e), -ENOENT);
    CHECK_STR(e.msg, "no such thing: \"missing\" 100% \n\xc3\xbc");
    CHECK_INT(grpc_code_of(&e), GRPC_NOT_FOUND);
    CHECK_INT(version(c, "plain", 0, &e), -EIO);
    CHECK_INT(grpc_code_of(&e), GRPC_UNKNOWN);
    struct cri_status_request q = {0};
    struct cri_status_response r = {0};
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK_INT(grpc_call(c, &api_rpc_cri_runtime_service_status, &q, a, &r, 0, &e), -ENOSYS);
    c = grpc_client_free(c);
    s = grpc_server_free(s);
}

TEST(deadline_ends_a_slow_call_and_tells_the_server) {
    struct grpc_server *s = serve();
    struct grpc_client *c = grpc_client_new(path);
    _cleanup_err_ struct err e = {0};
    int64_t t = mono_ns();
    CHECK_INT(version(c, "slow", 50, &e), -ETIMEDOUT);
    CHECK(mono_ns() - t < NS_PER_SEC);
    CHECK_INT(version(c, "after", 0, &e), 0);
    c = grpc_client_free(c);
    t = mono_ns();
    s = grpc_server_free(s);
    CHECK(mono_ns() - t < NS_PER_SEC);
}

struct load {
    struct grpc_client *c;
    int failed;
};
static void *load_main(void *arg) {
    struct load *l = arg;
    char v[32];
    for (int i = 0; i < 200; i++) {
        snprintf(v, sizeof(v), "%p-%d", arg, i);
        if (version(l->c, v, 0, NULL) != 0) l->failed++;
    }
    return NULL;
}

TEST(concurrent_calls_share_a_connection) {
    struct grpc_server *s = serve();
    struct grpc_client *c = grpc_client_new(path);
    pthread_t t[8];
    struct load l[8];
    for (int i = 0; i < 8; i++) {
        l[i] = (struct load){c, 0};
        pthread_create(&t[i], NULL, load_main, &l[i]);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(t[i], NULL);
        CHECK_INT(l[i].failed, 0);
    }
    c = grpc_client_free(c);
    s = grpc_server_free(s);
}

TEST(client_reconnects_after_a_server_restart) {
    struct grpc_server *s = serve();
    struct grpc_client *c = grpc_client_new(path);
    _cleanup_err_ struct err e = {0};
    CHECK_INT(version(c, "1", 0, &e), 0);
    s = grpc_server_free(s);
    CHECK_INT(version(c, "2", 0, &e), -ECONNREFUSED);
    s = serve();
    CHECK_INT(version(c, "3", 0, &e), 0);
    c = grpc_client_free(c);
    s = grpc_server_free(s);
}

struct events {
    int n;
    struct http_cancel *cancel;
};
static int on_event(const void *message, void *arg) {
    const struct cri_container_event_response *m = message;
    struct events *ev = arg;
    if (m->created_at != ev->n) return -EBADMSG;
    if (++ev->n == 2000) http_cancel_set(ev->cancel);
    return 0;
}
static int count(const void *message, void *arg) {
    ++*(int *)arg;
    return 0;
}

TEST(server_stream_in_order_until_cancelled) {
    struct grpc_server *s = serve();
    struct grpc_client *c = grpc_client_new(path);
    struct http_cancel cancel;
    _cleanup_err_ struct err e = {0};
    http_cancel_init(&cancel, &e);
    struct events ev = {0, &cancel};
    struct cri_get_events_request q = {0};
    CHECK_INT(grpc_call_stream(c, &api_rpc_cri_runtime_service_get_container_events, &q, on_event, &ev, &cancel, &e),
              -ECANCELED);
    CHECK_INT(ev.n, 2000);
    for (int i = 0; i < 6000 && !atomic_load(&stream_ended); i++) usleep(10000);
    CHECK_INT(atomic_load(&stream_ended), 1);
    int n = 0;
    struct cri_stream_containers_request q2 = {0};
    CHECK_INT(grpc_call_stream(c, &api_rpc_cri_runtime_service_stream_containers, &q2, count, &n, NULL, &e), -EBUSY);
    CHECK_INT(n, 1);
    http_cancel_done(&cancel);
    c = grpc_client_free(c);
    s = grpc_server_free(s);
}

TEST(timeouts_in_their_wire_form) {
    char t[16];
    grpc_timeout_format(250 * NS_PER_MS, t);
    CHECK_INT(grpc_timeout_parse(t), 250 * NS_PER_MS);
    CHECK_INT(grpc_timeout_parse("2S"), 2 * NS_PER_SEC);
    CHECK_INT(grpc_timeout_parse("123456789S"), 0);
    CHECK_INT(grpc_timeout_parse("5"), 0);
    CHECK_INT(grpc_timeout_parse("99999999H"), INT64_MAX);
}

TEST(prefixes_are_checked) {
    size_t n;
    _cleanup_err_ struct err e = {0};
    CHECK_INT(grpc_prefix("\0\0\0\0", 4, &n, &e), 0);
    CHECK_INT(grpc_prefix("\0\0\0\1\2", 5, &n, &e), 1);
    CHECK_INT(n, 258);
    CHECK_INT(grpc_prefix("\1\0\0\0\1", 5, &n, &e), -ENOSYS);
    CHECK_INT(grpc_prefix("\0\x7f\0\0\1", 5, &n, &e), -EMSGSIZE);
}
