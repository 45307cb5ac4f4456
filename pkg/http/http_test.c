/* Server and client against each other over loopback: plaintext, TLS, HTTP/1.1, HTTP/2, streams, upgrades; and the
 * wire cases of h1_cases.txt (its path is the program's environment variable H1_CASES). */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "pkg/base/buf.h"
#include "pkg/base/ktime.h"
#include "pkg/http/client.h"
#include "pkg/http/h1parse.h"
#include "pkg/http/testcert.h"
#include "tests/test.h"

enum { BODY_LIMIT = 100 };

static struct http_workers *pool;
static _Atomic int closes, at_work;

static void answer_slowly(void *arg) {
    struct http_req *r = arg;
    atomic_fetch_add(&at_work, 1);
    usleep(20000);
    http_respond_text(r, 200, "from a worker");
}

static void on_gone(struct http_req *r, void *arg) {
    atomic_fetch_add(&closes, 1);
    http_stream_end(r);
}

static void *echo_main(void *arg) {
    int fd = (int)(intptr_t)arg;
    char b[4096];
    for (ssize_t n; (n = read(fd, b, sizeof(b))) > 0;)
        if (fd_write_all(fd, b, (size_t)n) < 0) break;
    if (fd_write_all(fd, "bye", 3) < 0) abort();
    close(fd);
    return NULL;
}

static void upgrade(struct http_req *r) {
    static const struct http_header h[] = {{"Connection", "Upgrade"}, {"Upgrade", "echo"}};
    int fd;
    _cleanup_err_ struct err e = {0};
    if (http_upgrade(r, h, 2, &fd, &e) < 0) {
        http_respond_text(r, 400, "%s", e.msg);
        return;
    }
    pthread_t t;
    pthread_create(&t, NULL, echo_main, (void *)(intptr_t)fd);
    pthread_detach(t);
}

/* Writes without end; `arg` NULL: as fast as it can, else only when drained. */
static struct rbytes *chunk64k;
static _Atomic size_t most_queued;
static void pour(struct http_req *r, void *arg) {
    for (int i = 0; i < 4 && !http_req_closed(r); i++) http_stream_write(r, chunk64k);
    size_t q = http_stream_queued(r);
    if (q > atomic_load(&most_queued)) atomic_store(&most_queued, q);
}

static void start_pouring(struct http_req *r, bool mind) {
    http_req_on_close(r, on_gone, NULL);
    if (mind) http_req_on_drain(r, pour, NULL);
    http_stream_begin(r, 200, NULL, 0, 0);
    for (int i = 0; i < (mind ? 1 : 1000); i++) pour(r, NULL);
}

static void handler(struct http_req *r, void *arg) {
    if (str_has_prefix(r->path, "/pour")) {
        start_pouring(r, str_eq(r->path, "/pour-minding"));
        return;
    }
    if (str_eq(r->path, "/worker")) {
        http_dispatch(pool, answer_slowly, r);
    } else if (str_eq(r->path, "/watch")) {
        http_req_on_close(r, on_gone, NULL);
        http_stream_begin(r, 200, NULL, 0, 0);
        http_stream_write_copy(r, "event\n", 6);
    } else if (str_eq(r->path, "/stream")) {
        http_stream_begin(r, 200, NULL, 0, 0);
        _cleanup_rbytes_ struct rbytes *b = rbytes_alloc(1000);
        memset(b->data, 's', 1000);
        for (int i = 0; i < 1000; i++) http_stream_write(r, b);
        http_stream_end(r);
    } else if (str_eq(r->path, "/big")) {
        _cleanup_rbytes_ struct rbytes *b = rbytes_alloc(5000000);
        memset(b->data, 'b', b->len);
        http_respond_bytes(r, 200, NULL, 0, &b, 1, HTTP_GZIP);
    } else if (str_eq(r->path, "/upgrade")) {
        upgrade(r);
    } else if (str_eq(r->path, "/who")) {
        const struct http_peer *p = r->peer;
        http_respond_text(r, 200, "%s %s %d %d", str_or_empty(p->common_name),
                          p->n_organizations ? p->organizations[0] : "", p->cert_verified, (int)p->ca_mask);
    } else {
        _cleanup_buf_ struct buf b = BUF_INIT;
        buf_printf(&b, "%s %s %d ", r->method, r->target, r->version);
        const char *v;
        for (size_t i = 0; (v = http_header_n(r, "x-repeated", i)); i++) buf_printf(&b, "[%s]", v);
        buf_add(&b, r->body, r->body_len);
        http_respond(r, 200, NULL, 0, b.data, b.len, 0);
    }
}

struct fixture {
    struct http_server *s;
    uint16_t plain, tls;
    int tls_id;
    struct test_cert ca, other_ca, server, alice, mallory;
};

static void setup(struct fixture *f, size_t body_limit) {
    *f = (struct fixture){0};
    f->ca = test_cert_new("ca", NULL, NULL);
    f->other_ca = test_cert_new("other", NULL, NULL);
    f->server = test_cert_new("localhost", NULL, &f->ca);
    f->alice = test_cert_new("alice", "admins", &f->ca);
    f->mallory = test_cert_new("mallory", "admins", &f->other_ca);
    struct test_cert first_ca = test_cert_new("unused", NULL, NULL);
    _cleanup_err_ struct err e = {0};
    pool = http_workers_new(2, 10);
    f->s = http_server_new(&(struct http_server_options){.handler = handler, .limits.body_bytes = body_limit});
    struct http_ca cas[] = {{.pem = first_ca.cert_pem}, {.pem = f->ca.cert_pem}};
    int id;
    CHECK_INT(http_server_listen(f->s, &(struct http_listen){.address = "127.0.0.1"}, &id, &e), 0);
    f->plain = http_server_port(f->s, id);
    CHECK_INT(http_server_listen(f->s,
                                 &(struct http_listen){.address = "127.0.0.1",
                                                       .cert_pem = f->server.cert_pem,
                                                       .key_pem = f->server.key_pem,
                                                       .client_cas = cas,
                                                       .n_client_cas = 2},
                                 &f->tls_id, &e),
              0);
    f->tls = http_server_port(f->s, f->tls_id);
    CHECK_INT(http_server_start(f->s, &e), 0);
    test_cert_done(&first_ca);
}

static void teardown(struct fixture *f) {
    pool = http_workers_free(pool);
    f->s = http_server_free(f->s);
    test_cert_done(&f->ca);
    test_cert_done(&f->other_ca);
    test_cert_done(&f->server);
    test_cert_done(&f->alice);
    test_cert_done(&f->mallory);
}

static struct http_client *client(struct fixture *f, bool tls, bool h2, const struct test_cert *cert) {
    char url[64];
    snprintf(url, sizeof(url), "%s://127.0.0.1:%u", tls ? "https" : "http", tls ? f->tls : f->plain);
    _cleanup_err_ struct err e = {0};
    struct http_client *c = http_client_new(&(struct http_client_options){.base_url = url,
                                                                          .ca_pem = f->ca.cert_pem,
                                                                          .http2 = h2,
                                                                          .token = "secret",
                                                                          .cert_pem = cert ? cert->cert_pem : NULL,
                                                                          .key_pem = cert ? cert->key_pem : NULL},
                                            &e);
    if (!c) TEST_FAIL("%s", e.msg);
    return c;
}

/* ---- wire cases ---- */

static size_t unescape_case(const char *s, char *out) {
    char *o = out;
    for (; *s && *s != '\n'; s++) {
        if (*s != '\\')
            *o++ = *s;
        else if (*++s == 'x')
            *o++ = (char)strtol((char[]){s[1], s[2], 0}, NULL, 16), s += 2;
        else
            *o++ = *s == 'r' ? '\r' : *s == 'n' ? '\n' : *s == 't' ? '\t' : *s == '0' ? 0 : *s;
    }
    return (size_t)(o - out);
}

static int dial(uint16_t port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) TEST_FAIL("connect");
    return fd;
}

/* The statuses of the answers on fd, and whether it was closed within 80 ms of silence. */
static void statuses(int fd, bool head_first, char *out, size_t max) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    const char *end = "open";
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 80) == 0) break;
        char chunk[4096];
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n <= 0) {
            end = "close";
            break;
        }
        buf_add(&b, chunk, (size_t)n);
    }
    size_t at = 0;
    for (const char *p = b.data; p && (p = strstr(p, "HTTP/1.1 ")); p += 9)
        at += (size_t)snprintf(out + at, max - at, "%.3s ", p + 9);
    snprintf(out + at, max - at, "%s", end);
}

static void run_case(struct fixture *f, char *line, bool bytewise) {
    char *tab1 = strchr(line, '\t'), *tab2 = tab1 ? strchr(tab1 + 1, '\t') : NULL, raw[4096], got[200];
    if (!tab2) {
        TEST_FAIL("bad case: %s", line);
        return;
    }
    *tab1 = *tab2 = 0;
    size_t n = unescape_case(tab2 + 1, raw);
    int fd = dial(f->plain), one = 1;
    setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof(one));
    for (size_t i = 0; bytewise && i < n; i++)
        if (send(fd, raw + i, 1, MSG_NOSIGNAL) < 0) break;
    if (!bytewise && fd_write_all(fd, raw, n) < 0) TEST_FAIL("write");
    statuses(fd, false, got, sizeof(got));
    if (!str_eq(got, tab1 + 1))
        TEST_FAIL("%s%s: got %s, should be %s", line, bytewise ? " (bytewise)" : "", got, tab1 + 1);
    close(fd);
}

TEST(wire_cases) {
    struct fixture f;
    setup(&f, BODY_LIMIT);
    const char *path = getenv("H1_CASES");
    _cleanup_free_ char *text = NULL;
    size_t n;
    if (!path || file_read(path, 1 << 20, &text, &n) < 0) {
        TEST_FAIL("cannot read H1_CASES");
        teardown(&f);
        return;
    }
    for (int bytewise = 0; bytewise < 2; bytewise++) {
        _cleanup_free_ char *copy = xstrdup(text);
        for (char *line = copy, *nl; (nl = strchr(line, '\n')); line = nl + 1) {
            *nl = 0;
            if (*line && *line != '#') run_case(&f, line, bytewise);
        }
    }
    teardown(&f);
}

TEST(too_large_heads_are_refused) {
    struct fixture f;
    setup(&f, 0);
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_adds(&b, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 300; i++) buf_printf(&b, "X-%d: y\r\n", i);
    buf_adds(&b, "\r\n");
    char got[200];
    int fd = dial(f.plain);
    CHECK_INT(fd_write_all(fd, b.data, b.len), 0);
    statuses(fd, false, got, sizeof(got));
    CHECK_STR(got, "431 close");
    close(fd);
    buf_reset(&b);
    buf_adds(&b, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    for (int i = 0; i < 70000; i++) buf_addc(&b, 'x');
    fd = dial(f.plain);
    CHECK_INT(fd_write_all(fd, b.data, b.len), 0);
    statuses(fd, false, got, sizeof(got));
    CHECK_STR(got, "431 close");
    close(fd);
    buf_reset(&b);
    buf_adds(&b, "GET /");
    for (int i = 0; i < 50000; i++) buf_addc(&b, 'x');
    buf_adds(&b, " HTTP/1.1\r\nHost: a\r\n\r\n");
    fd = dial(f.plain);
    CHECK_INT(fd_write_all(fd, b.data, b.len), 0);
    statuses(fd, false, got, sizeof(got));
    CHECK_STR(got, "414 close");
    close(fd);
    teardown(&f);
}

/* ---- client and server ---- */

static void check_get(struct http_client *c, const char *path, const char *want) {
    _cleanup_http_resp_ struct http_resp r = {0};
    _cleanup_err_ struct err e = {0};
    int rc = http_client_do(c, "GET", path, NULL, 0, NULL, 0, &r, 60000, &e);
    if (rc)
        TEST_FAIL("%s: %s", path, e.msg);
    else
        CHECK_STR(r.body.data, want);
}

TEST(requests_in_all_protocols) {
    struct fixture f;
    setup(&f, 0);
    static const struct {
        bool tls, h2;
        const char *want, *post;
    } rows[] = {{false, false, "GET /a%2Fb?x=1&y 11 ", "POST /p 11 [1][2]"},
                {true, false, "GET /a%2Fb?x=1&y 11 ", "POST /p 11 [1][2]"},
                {true, true, "GET /a%2Fb?x=1&y 20 ", "POST /p 20 [1][2]"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_client *c = client(&f, rows[i].tls, rows[i].h2, NULL);
        check_get(c, "/a%2Fb?x=1&y", rows[i].want);
        check_get(c, "/worker", "from a worker");
        _cleanup_http_resp_ struct http_resp r = {0};
        _cleanup_err_ struct err e = {0};
        static const struct http_header h[] = {{"X-Repeated", "1"}, {"X-Repeated", "2"}};
        size_t n = 2000000;
        _cleanup_free_ char *body = xmalloc(n);
        memset(body, 'p', n);
        CHECK_INT(http_client_do(c, "POST", "/p", h, 2, body, n, &r, 60000, &e), 0);
        CHECK_INT(r.body.len, n + strlen(rows[i].post));
        CHECK(r.body.len && memcmp(r.body.data, rows[i].post, strlen(rows[i].post)) == 0);
        CHECK_INT(http_client_do(c, "GET", "/big", NULL, 0, NULL, 0, &r, 60000, &e), 0);
        CHECK_INT(r.body.len, 5000000);
        CHECK_INT(http_client_do(c, "GET", "/stream", NULL, 0, NULL, 0, &r, 60000, &e), 0);
        CHECK_INT(r.body.len, 1000000);
        CHECK_INT(http_client_do(c, "HEAD", "/big", NULL, 0, NULL, 0, &r, 60000, &e), 0);
        CHECK_STR(http_resp_header(&r, "content-length"), "5000000");
        static const struct http_header gz[] = {{"Accept-Encoding", "gzip"}};
        CHECK_INT(http_client_do(c, "GET", "/big", gz, 1, NULL, 0, &r, 60000, &e), 0);
        CHECK_STR(http_resp_header(&r, "content-encoding"), "gzip");
        CHECK(r.body.len < 100000);
        r.body.limit = 1000;
        CHECK_INT(http_client_do(c, "GET", "/big", NULL, 0, NULL, 0, &r, 60000, &e), -EMSGSIZE);
        c = http_client_free(c);
    }
    teardown(&f);
}

TEST(large_bodies_are_refused_in_http2) {
    struct fixture f;
    setup(&f, 1000);
    struct http_client *c = client(&f, true, true, NULL);
    _cleanup_http_resp_ struct http_resp r = {0};
    _cleanup_err_ struct err e = {0};
    char body[5000];
    memset(body, 'x', sizeof(body));
    CHECK_INT(http_client_do(c, "POST", "/", NULL, 0, body, sizeof(body), &r, 60000, &e), 0);
    CHECK_INT(r.status, 413);
    check_get(c, "/x", "GET /x 20 ");
    c = http_client_free(c);
    teardown(&f);
}

TEST(client_certificates_are_identities_only_when_verified) {
    struct fixture f;
    setup(&f, 0);
    struct http_client *c = client(&f, true, true, &f.alice);
    check_get(c, "/who", "alice admins 1 2");
    c = http_client_free(c);
    c = client(&f, true, false, &f.mallory);
    check_get(c, "/who", "mallory admins 0 0");
    http_client_set_cert(c, f.alice.cert_pem, f.alice.key_pem);
    check_get(c, "/who", "alice admins 1 2");
    c = http_client_free(c);
    c = client(&f, true, false, NULL);
    check_get(c, "/who", "  0 0");
    c = http_client_free(c);
    teardown(&f);
}

TEST(certificates_can_be_replaced_while_serving) {
    struct fixture f;
    setup(&f, 0);
    struct test_cert fresh = test_cert_new("localhost", NULL, &f.other_ca);
    _cleanup_err_ struct err e = {0};
    CHECK_INT(http_server_set_tls(f.s, f.tls_id, "nonsense", NULL, NULL, 0, &e), -EINVAL);
    struct http_client *c = client(&f, true, false, NULL);
    check_get(c, "/x", "GET /x 11 ");
    CHECK_INT(http_server_set_tls(f.s, f.tls_id, fresh.cert_pem, fresh.key_pem, NULL, 0, &e), 0);
    check_get(c, "/kept", "GET /kept 11 ");
    http_client_set_cert(c, NULL, NULL); /* drops kept connections */
    _cleanup_http_resp_ struct http_resp r = {0};
    CHECK_INT(http_client_do(c, "GET", "/", NULL, 0, NULL, 0, &r, 60000, &e), -EPROTO);
    c = http_client_free(c);
    test_cert_done(&fresh);
    teardown(&f);
}

struct watch {
    struct http_cancel cancel;
    int events, head;
};
static int watch_head(const struct http_resp *r, void *arg) {
    ((struct watch *)arg)->head = r->status;
    return 0;
}
static int watch_data(const char *p, size_t n, void *arg) {
    struct watch *w = arg;
    w->events++;
    http_cancel_set(&w->cancel);
    return 0;
}

TEST(streams_are_cancelled_from_either_side) {
    struct fixture f;
    setup(&f, 0);
    for (int h2 = 0; h2 < 2; h2++) {
        struct http_client *c = client(&f, true, h2, NULL);
        struct watch w = {0};
        _cleanup_err_ struct err e = {0};
        http_cancel_init(&w.cancel, &e);
        _cleanup_http_resp_ struct http_resp r = {0};
        struct http_stream_cb cb = {watch_head, watch_data, &w};
        int before = atomic_load(&closes);
        CHECK_INT(http_client_stream(c, "/watch", NULL, 0, &cb, &r, &w.cancel, 60000, &e), -ECANCELED);
        CHECK_INT(w.events, 1);
        CHECK_INT(w.head, 200);
        for (int i = 0; i < 12000 && atomic_load(&closes) == before; i++) usleep(5000);
        CHECK_INT(atomic_load(&closes), before + 1);
        http_cancel_reset(&w.cancel);
        cb.on_data = NULL;
        http_cancel_done(&w.cancel);
        c = http_client_free(c);
    }
    teardown(&f);
}

TEST(upgraded_connections_carry_bytes_and_deliver_the_last_ones) {
    struct fixture f;
    setup(&f, 0);
    for (int tls = 0; tls < 2; tls++) {
        struct http_client *c = client(&f, tls, false, NULL);
        static const struct http_header h[] = {{"Connection", "Upgrade"}, {"Upgrade", "echo"}};
        _cleanup_http_resp_ struct http_resp r = {0};
        _cleanup_err_ struct err e = {0};
        int fd = -1;
        int rc = http_client_upgrade(c, "POST", "/upgrade", h, 2, NULL, 0, &r, &fd, 60000, &e);
        if (rc) TEST_FAIL("%s", e.msg);
        CHECK_INT(r.status, 101);
        CHECK_STR(http_resp_header(&r, "upgrade"), "echo");
        enum { N = 300000 };
        _cleanup_free_ char *out = xmalloc(N), *in = xmalloc(N);
        for (int i = 0; i < N; i++) out[i] = (char)i;
        size_t got = 0;
        for (size_t at = 0; at < N && fd >= 0; at += N / 10) { /* in turns, so that neither side's buffers fill */
            CHECK_INT(fd_write_all(fd, out + at, N / 10), 0);
            CHECK_INT(fd_read_all(fd, in + got, N / 10), 0);
            got += N / 10;
        }
        CHECK(memcmp(in, out, N) == 0);
        shutdown(fd, SHUT_WR);
        char bye[8] = "";
        ssize_t n = read(fd, bye, sizeof(bye) - 1);
        CHECK_INT(n, 3);
        CHECK_STR(bye, "bye");
        CHECK_INT(read(fd, bye, 1), 0);
        close(fd);
        rc = http_client_upgrade(c, "GET", "/plain", NULL, 0, NULL, 0, &r, &fd, 60000, &e);
        CHECK_INT(rc, 0);
        CHECK_INT(r.status, 200);
        CHECK_INT(fd, -1);
        CHECK_STR(r.body.data, "GET /plain 11 ");
        c = http_client_free(c);
    }
    teardown(&f);
}

static bool closed_within(int fd, int ms) {
    char b[4096];
    int64_t until = mono_ns() + ms * NS_PER_MS;
    for (int64_t left; (left = (until - mono_ns()) / NS_PER_MS) > 0;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, (int)left) > 0 && read(fd, b, sizeof(b)) <= 0) return true;
    }
    return false;
}

#define BYTES(s) s, sizeof(s) - 1

TEST(silent_clients_are_closed) {
    struct http_server *s = http_server_new(&(struct http_server_options){
        .handler = handler, .limits = {.tls_hello_ms = 200, .header_ms = 300, .body_ms = 400, .idle_ms = 500}});
    struct test_cert ca = test_cert_new("ca", NULL, NULL), cert = test_cert_new("localhost", NULL, &ca);
    int plain, tls;
    CHECK_INT(http_server_listen(s, &(struct http_listen){.address = "127.0.0.1"}, &plain, NULL), 0);
    CHECK_INT(http_server_listen(
                  s, &(struct http_listen){.address = "127.0.0.1", .cert_pem = cert.cert_pem, .key_pem = cert.key_pem},
                  &tls, NULL),
              0);
    CHECK_INT(http_server_start(s, NULL), 0);
    static const struct {
        const char *what, *send;
        size_t n;
        bool tls;
    } rows[] = {
        {"no TLS hello", BYTES(""), true},
        {"half a TLS hello", BYTES("\x16\x03\x01"), true},
        {"nothing", BYTES(""), false},
        {"half a head", BYTES("GET / HT"), false},
        {"half a body", BYTES("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"), false},
        {"idle after a request", BYTES("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), false},
        {"HTTP/2 without a request", BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"), false},
    };
    int fds[ARRAY_LEN(rows)];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fds[i] = dial(http_server_port(s, rows[i].tls ? tls : plain));
        if (fd_write_all(fds[i], rows[i].send, rows[i].n) < 0) TEST_FAIL("write");
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!closed_within(fds[i], 30000)) TEST_FAIL("%s: still open", rows[i].what);
        close(fds[i]);
    }
    s = http_server_free(s);
    test_cert_done(&ca);
    test_cert_done(&cert);
}

TEST(a_client_that_does_not_read_is_closed_at_the_limit) {
    struct fixture f;
    setup(&f, 0);
    chunk64k = rbytes_alloc(65536);
    memset(chunk64k->data, 'p', 65536);
    int before = atomic_load(&closes), fd = dial(f.plain);
    static const char req[] = "GET /pour HTTP/1.1\r\nHost: a\r\n\r\n";
    CHECK_INT(fd_write_all(fd, req, sizeof(req) - 1), 0);
    for (int i = 0; i < 12000 && atomic_load(&closes) == before; i++) usleep(5000);
    CHECK_INT(atomic_load(&closes), before + 1);
    CHECK(atomic_load(&most_queued) > 15 * 1024 * 1024);
    close(fd);
    /* one that reads, and a producer that minds: little is queued however much flows */
    atomic_store(&most_queued, 0);
    for (int h2 = 0; h2 < 2; h2++) {
        struct http_client *c = client(&f, true, h2, NULL);
        _cleanup_http_resp_ struct http_resp r = {.body.limit = 30 * 1024 * 1024};
        CHECK_INT(http_client_do(c, "GET", "/pour-minding", NULL, 0, NULL, 0, &r, 60000, NULL), -EMSGSIZE);
        CHECK_INT(r.body.len > 29 * 1024 * 1024, 1);
        c = http_client_free(c);
    }
    CHECK(atomic_load(&most_queued) <= 6 * 65536);
    teardown(&f);
    rbytes_unref(chunk64k);
}

TEST(connections_beyond_the_limit_are_closed_at_once) {
    struct http_server *s =
        http_server_new(&(struct http_server_options){.handler = handler, .limits = {.connections = 2}});
    int id, fd[3];
    CHECK_INT(http_server_listen(s, &(struct http_listen){.address = "127.0.0.1"}, &id, NULL), 0);
    CHECK_INT(http_server_start(s, NULL), 0);
    for (int i = 0; i < 3; i++) fd[i] = dial(http_server_port(s, id));
    CHECK(closed_within(fd[2], 30000));
    char got[64];
    static const char req[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    CHECK_INT(fd_write_all(fd[0], req, sizeof(req) - 1), 0);
    statuses(fd[0], false, got, sizeof(got));
    CHECK_STR(got, "200 open");
    for (int i = 0; i < 3; i++) close(fd[i]);
    s = http_server_free(s);
}

TEST(stop_lets_running_requests_finish) {
    struct fixture f;
    setup(&f, 0);
    int fd = dial(f.plain);
    static const char req[] = "GET /worker HTTP/1.1\r\nHost: a\r\n\r\n";
    int before = atomic_load(&at_work);
    CHECK_INT(fd_write_all(fd, req, sizeof(req) - 1), 0);
    for (int i = 0; i < 12000 && atomic_load(&at_work) == before; i++) usleep(5000);
    http_server_stop(f.s, 10000);
    char got[200];
    statuses(fd, false, got, sizeof(got));
    CHECK_STR(got, "200 close");
    close(fd);
    teardown(&f);
}

TEST(queries_and_escapes) {
    struct arena *a = arena_new();
    struct http_req r = {.query = "a=1&b=x+y%2Fz&c&%zz=1&d=%00&a=2", .arena = a};
    CHECK_STR(http_query(&r, "a"), "1");
    CHECK_STR(http_query(&r, "b"), "x y/z");
    CHECK_STR(http_query(&r, "c"), "");
    CHECK(!http_query(&r, "d"));
    CHECK_STR(http_escape(a, "a b/\xc3\xbc"), "a%20b%2F%C3%BC");
    CHECK(!http_unescape(a, "%4", 2, false));
    arena_free(a);
}

TEST(a_server_is_verified_by_the_name_given_for_it) {
    struct fixture f;
    setup(&f, 0);
    static const struct {
        const char *name;
        bool ok;
    } cases[] = {{"localhost", true}, {"elsewhere.svc", false}};
    char url[64];
    snprintf(url, sizeof(url), "https://127.0.0.1:%u/x", f.tls);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_http_resp_ struct http_resp r = {0};
        struct http_client *c =
            http_client_new(&(struct http_client_options){.ca_pem = f.ca.cert_pem, .server_name = cases[i].name}, NULL);
        int rc = http_client_do(c, "GET", url, NULL, 0, NULL, 0, &r, 60000, NULL);
        CHECK_INT(rc == 0, cases[i].ok);
        http_client_free(c);
    }
    teardown(&f);
}
