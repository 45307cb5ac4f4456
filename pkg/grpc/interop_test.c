/* Against grpc-go, which crictl, containerd and an upstream kubelet are made with: etcdctl calls our server, our client
 * calls etcd, both over unix sockets. Skipped (77) when etcd is not installed. */
#include <signal.h>
#include <sys/wait.h>

#include "pkg/api/etcd.h"
#include "pkg/base/ktime.h"
#include "pkg/grpc/grpc.h"

static int failures;
#define EXPECT(cond)                                                           \
    do {                                                                       \
        if (!(cond)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
            failures++;                                                        \
        }                                                                      \
    } while (0)

static bool key_is(const struct bytes *k, const char *s) { return k->n == strlen(s) && memcmp(k->p, s, k->n) == 0; }

static int h_range(struct grpc_call *c, struct err *e) {
    const struct etcd_range_request *q = c->request;
    struct etcd_range_response *r = c->response;
    if (key_is(&q->key, "bad")) return grpc_err(e, GRPC_INVALID_ARGUMENT, "bad key \xc3\xbc 100%%");
    size_t n = key_is(&q->key, "big") ? 1500000 : 5;
    uint8_t *v = arena_alloc(c->arena, n);
    memset(v, 'v', n);
    r->header = arena_zalloc(c->arena, sizeof(*r->header));
    r->kvs.items = arena_zalloc(c->arena, sizeof(*r->kvs.items));
    r->kvs.n = 1;
    r->kvs.items[0].key = q->key;
    r->kvs.items[0].value = (struct bytes){v, n};
    r->count = 1;
    return 0;
}

/* Runs argv with output collected; returns the exit code. */
static int run(char *const argv[], struct buf *out) {
    int p[2];
    if (pipe(p) < 0) abort();
    pid_t pid = fork();
    if (pid == 0) {
        setenv("ETCDCTL_API", "3", 1);
        dup2(p[1], 1);
        dup2(p[1], 2);
        close(p[0]);
        close(p[1]);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(p[1]);
    char b[4096];
    buf_reset(out);
    for (ssize_t n; (n = read(p[0], b, sizeof(b))) > 0;) buf_add(out, b, (size_t)n);
    close(p[0]);
    int st = 0;
    waitpid(pid, &st, 0);
    return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static void etcdctl_calls_our_server(const char *dir) {
    static const struct grpc_method methods[] = {{&api_rpc_etcd_kv_range, h_range}};
    _cleanup_free_ char *path = xasprintf("%s/g.sock", dir), *ep = xasprintf("--endpoints=unix://%s", path);
    _cleanup_err_ struct err e = {0};
    struct grpc_server *s =
        grpc_server_new(&(struct grpc_server_options){.unix_path = path, .methods = methods, .n_methods = 1}, &e);
    if (!s) {
        fprintf(stderr, "%s\n", e.msg);
        failures++;
        return;
    }
    _cleanup_buf_ struct buf out = BUF_INIT;
    EXPECT(run((char *[]){"etcdctl", ep, "get", "foo", NULL}, &out) == 0);
    EXPECT(str_eq(out.data, "foo\nvvvvv\n"));
    EXPECT(run((char *[]){"etcdctl", ep, "get", "big", NULL}, &out) == 0);
    EXPECT(out.len == 1500005);
    EXPECT(run((char *[]){"etcdctl", ep, "get", "bad", NULL}, &out) != 0);
    EXPECT(strstr(out.data, "code = InvalidArgument desc = bad key \xc3\xbc 100%"));
    EXPECT(run((char *[]){"etcdctl", ep, "put", "a", "b", NULL}, &out) != 0);
    EXPECT(strstr(out.data, "code = Unimplemented"));
    s = grpc_server_free(s);
}

static void our_client_calls_etcd(const char *dir) {
    pid_t pid = fork();
    if (pid == 0) {
        if (chdir(dir) < 0 || !freopen("etcd.log", "w", stderr)) _exit(126);
        execlp("etcd", "etcd", "--data-dir", "d", "--listen-client-urls", "unix://localhost:1",
               "--advertise-client-urls", "unix://localhost:1", "--listen-peer-urls", "unix://localhost:2",
               "--initial-advertise-peer-urls", "unix://localhost:2", "--initial-cluster", "default=unix://localhost:2",
               NULL);
        _exit(127);
    }
    _cleanup_free_ char *path = xasprintf("%s/localhost:1", dir);
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct grpc_client *c = grpc_client_new(path);
    struct etcd_put_request put = {.key = {(const uint8_t *)"k", 1}, .value = {(const uint8_t *)"hello", 5}};
    struct etcd_put_response put_r = {0};
    int rc = -1;
    for (int i = 0; i < 100 && rc; i++) {
        rc = grpc_call(c, &api_rpc_etcd_kv_put, &put, a, &put_r, 2000, &e);
        if (rc) usleep(100000);
    }
    EXPECT(rc == 0);
    struct etcd_range_request get = {.key = {(const uint8_t *)"k", 1}}, none = {0};
    struct etcd_range_response got = {0};
    EXPECT(grpc_call(c, &api_rpc_etcd_kv_range, &get, a, &got, 2000, &e) == 0);
    EXPECT(got.kvs.n == 1 && key_is(&got.kvs.items[0].value, "hello"));
    EXPECT(grpc_call(c, &api_rpc_etcd_kv_range, &none, a, &got, 2000, &e) == -EINVAL);
    EXPECT(str_eq(e.msg, "etcdserver: key is not provided"));
    c = grpc_client_free(c);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

int main(void) {
    _cleanup_buf_ struct buf out = BUF_INIT;
    if (run((char *[]){"etcd", "--version", NULL}, &out) != 0 || run((char *[]){"etcdctl", "version", NULL}, &out) != 0)
        return 77;
    char dir[] = "/tmp/grpc-interop-XXXXXX";
    if (!mkdtemp(dir)) return 1;
    etcdctl_calls_our_server(dir);
    our_client_calls_etcd(dir);
    run((char *[]){"rm", "-rf", dir, NULL}, &out);
    printf("%d failed\n", failures);
    return failures != 0;
}
