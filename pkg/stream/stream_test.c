/* SPDY and WebSocket framing by themselves, then whole sessions: a client over a real connection, through a proxying
 * server as the API server is one, to a streaming server. */
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "pkg/base/ktime.h"
#include "pkg/http/client.h"
#include "pkg/stream/link.h"
#include "pkg/stream/wsout.h"
#include "tests/test.h"

/* ---- SPDY ---- */

struct log {
    struct buf text;
};

static int log_stream(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg) {
    struct log *l = arg;
    buf_printf(&l->text, "stream %u", id);
    for (size_t i = 0; i < n; i++) buf_printf(&l->text, " %s=%s", h[i].name, h[i].value);
    buf_printf(&l->text, "%s;", fin ? " fin" : "");
    return 0;
}
static int log_reply(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg) {
    buf_printf(&((struct log *)arg)->text, "reply %u %zu%s;", id, n, fin ? " fin" : "");
    return 0;
}
static int log_data(struct spdy *s, uint32_t id, const void *p, size_t n, bool fin, void *arg) {
    buf_printf(&((struct log *)arg)->text, "data %u %.*s%s;", id, (int)n, (const char *)p, fin ? " fin" : "");
    return 0;
}
static int log_reset(struct spdy *s, uint32_t id, uint32_t status, void *arg) {
    buf_printf(&((struct log *)arg)->text, "reset %u %u;", id, status);
    return 0;
}
static int log_goaway(struct spdy *s, uint32_t status, void *arg) {
    buf_printf(&((struct log *)arg)->text, "goaway %u;", status);
    return 0;
}

static struct spdy *logging(bool server, struct log *l) {
    const struct spdy_callbacks cb = {log_stream, log_reply, log_data, log_reset, log_goaway, l};
    return spdy_new(server, &cb);
}

/* Moves what `from` has to send into `to`, `step` bytes at a time. */
static int move(struct spdy *from, struct spdy *to, size_t step) {
    struct buf *b = spdy_out(from);
    int rc = 0;
    for (size_t at = 0; at < b->len && !rc; at += step)
        rc = spdy_feed(to, b->data + at, MIN_OF(step, b->len - at), NULL);
    buf_reset(b);
    return rc;
}

TEST(spdy_frames_arrive_however_they_are_cut) {
    for (size_t step = 1; step < 100; step += 24) {
        struct log cl = {0}, sl = {0};
        struct spdy *c = logging(false, &cl), *s = logging(true, &sl);
        static const struct http_header h[] = {{"StreamType", "error"}, {"port", "80"}};
        uint32_t a = spdy_open(c, h, 2, true), b = spdy_open(c, h, 1, false);
        spdy_data(c, b, "hello", 5, false);
        spdy_data(c, b, "", 0, true);
        CHECK_INT(move(c, s, step), 0);
        CHECK_STR(sl.text.data, step == 1 ? "stream 1 streamtype=error port=80 fin;stream 3 streamtype=error;data 3 h;"
                                            "data 3 e;data 3 l;data 3 l;data 3 o;data 3  fin;"
                                          : sl.text.data);
        CHECK(strstr(sl.text.data, "data 3  fin;"));
        spdy_reply(s, a, NULL, 0, true);
        spdy_reply(s, b, NULL, 0, false);
        spdy_data(s, b, "x", 1, false);
        spdy_reset(s, b, SPDY_CANCEL);
        spdy_goaway(s, 0);
        CHECK_INT(move(s, c, step), 0);
        CHECK_STR(cl.text.data, "reply 1 0 fin;reply 3 0;data 3 x;reset 3 5;goaway 0;");
        c = spdy_free(c);
        s = spdy_free(s);
        buf_done(&cl.text);
        buf_done(&sl.text);
    }
}

TEST(spdy_pings_are_answered_and_nonsense_refused) {
    struct log l = {0};
    struct spdy *s = logging(true, &l);
    static const char ping[] = "\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01";
    CHECK_INT(spdy_feed(s, ping, 12, NULL), 0);
    CHECK_INT(spdy_out(s)->len, 12);
    CHECK(memcmp(spdy_out(s)->data, ping, 12) == 0);
    CHECK_INT(spdy_feed(s, "GET / HTTP/1.1\r\n", 16, NULL), 0); /* looks like a data frame for an unknown stream */
    s = spdy_free(s);
    static const struct {
        const char *what, *bytes;
        size_t n;
    } bad[] = {{"version 2", "\x80\x02\x00\x06\x00\x00\x00\x04", 8},
               {"huge control frame", "\x80\x03\x00\x04\x00\xff\xff\xff", 8},
               {"short SYN_STREAM", "\x80\x03\x00\x01\x00\x00\x00\x01\x00", 9},
               {"even stream id from a client",
                "\x80\x03\x00\x01\x00\x00\x00\x0a\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00", 18},
               {"bad compression", "\x80\x03\x00\x01\x00\x00\x00\x0e\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00zlib", 22}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        s = logging(true, &l);
        if (spdy_feed(s, bad[i].bytes, bad[i].n, NULL) != -EPROTO) TEST_FAIL("%s was accepted", bad[i].what);
        CHECK_INT(spdy_feed(s, ping, 12, NULL), -EPROTO);
        s = spdy_free(s);
    }
    buf_done(&l.text);
}

/* ---- WebSocket ---- */

static int log_message(int op, const char *p, size_t n, void *arg) {
    buf_printf(arg, "%d:%.*s;", op, (int)n, p);
    return 0;
}

TEST(websocket_vectors_of_rfc_6455) {
    char accept[29];
    ws_accept_key("dGhlIHNhbXBsZSBub25jZQ==", accept);
    CHECK_STR(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    static const struct {
        const char *bytes;
        size_t n;
        bool server;
        int rc;
        const char *seen, *out;
        size_t out_n;
    } rows[] = {
        {"\x81\x05Hello", 7, false, 0, "1:Hello;", "", 0},
        {"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11, true, 0, "1:Hello;", "", 0},
        {"\x01\x03Hel\x80\x02lo", 9, false, 0, "1:Hello;", "", 0},
        {"\x01\x03Hel\x89\x00\x80\x02lo", 11, false, 0, "1:Hello;", NULL, 6}, /* a ping between fragments */
        {"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11, true, 0, NULL, "\x8a\x05Hello", 7},
        {"\x88\x82\0\0\0\0\x03\xe8", 8, true, 0, NULL, "\x88\x02\x03\xe8", 4},
        {"\x81\x05Hello", 7, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4},          /* not masked */
        {"\xc1\x85\0\0\0\0Hello", 11, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4}, /* reserved bit */
        {"\x83\x80\0\0\0\0", 6, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4},       /* unknown opcode */
        {"\x09\x80\0\0\0\0", 6, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4},       /* fragmented ping */
        {"\x89\xfe\x00\x7e", 4, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4},       /* long ping */
        {"\x80\x80\0\0\0\0", 6, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4},       /* nothing to continue */
        {"\x82\xfe\x00\x05", 4, true, -EPROTO, NULL, "\x88\x02\x03\xea", 4},       /* length not minimal */
        {"\x82\xff\0\0\0\0\0\xff\xff\xff", 10, true, -EPROTO, NULL, "\x88\x02\x03\xf1", 4},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            struct ws w;
            _cleanup_buf_ struct buf seen = BUF_INIT;
            ws_init(&w, rows[i].server);
            int rc = 0;
            for (size_t at = 0; at < rows[i].n && !rc; at += bytewise ? 1 : rows[i].n)
                rc = ws_feed(&w, rows[i].bytes + at, bytewise ? 1 : rows[i].n, log_message, &seen, NULL);
            if (rc != rows[i].rc || !str_eq(str_or_empty(seen.data), str_or_empty(rows[i].seen)) ||
                w.out.len != rows[i].out_n ||
                (rows[i].out && w.out.len && memcmp(w.out.data, rows[i].out, w.out.len) != 0))
                TEST_FAIL("row %zu: rc %d, saw %s, sent %zu bytes", i, rc, str_or_empty(seen.data), w.out.len);
            ws_done(&w);
        }
}

TEST(websocket_lengths_round_trip) {
    static const size_t sizes[] = {0, 125, 126, 65535, 65536, 1000000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct ws c, s;
        _cleanup_buf_ struct buf seen = BUF_INIT;
        ws_init(&c, false);
        ws_init(&s, true);
        _cleanup_free_ char *p = xmalloc(sizes[i] + 1);
        memset(p, 'm', sizes[i]);
        ws_send(&c, WS_BINARY, p, sizes[i]);
        CHECK_INT(ws_feed(&s, c.out.data, c.out.len, log_message, &seen, NULL), 0);
        CHECK_INT(seen.len, sizes[i] + 3);
        ws_done(&c);
        ws_done(&s);
    }
}

/* ---- sessions ---- */

struct session {
    int fd;
    struct remotecmd_proto proto;
    bool tty;
};
static _Atomic int resized, disconnected;

static void on_resize(uint16_t w, uint16_t h, void *arg) { atomic_store(&resized, w * 1000 + h); }
static void on_disconnect(void *arg) { atomic_fetch_add(&disconnected, 1); }

/* Stands for a process: copies stdin to stdout, says "done" on stderr and exits with 3. */
static void *process(void *arg) {
    struct session *ss = arg;
    struct remotecmd_options o = {.stdin_ = true,
                                  .stdout_ = true,
                                  .stderr_ = true,
                                  .tty = ss->tty,
                                  .on_resize = on_resize,
                                  .on_disconnect = on_disconnect,
                                  .create_ms = 2000};
    struct remotecmd *r;
    _cleanup_err_ struct err e = {0};
    if (remotecmd_start(ss->fd, &ss->proto, &o, &r, &e) == 0) {
        int in = remotecmd_take_stdin(r), out = remotecmd_take_stdout(r), errfd = remotecmd_take_stderr(r);
        char b[4096];
        for (ssize_t n; (n = read(in, b, sizeof(b))) > 0;)
            if (fd_write_all(out, b, (size_t)n) < 0) break;
        if (errfd >= 0 && fd_write_all(errfd, "done", 4) < 0) abort();
        close(in);
        close(out);
        if (errfd >= 0) close(errfd);
        remotecmd_finish(r, 3, NULL, 0);
    }
    free(ss);
    return NULL;
}

static void streaming_handler(struct http_req *r, void *arg) {
    struct session *ss = xcalloc(1, sizeof(*ss));
    ss->tty = http_query(r, "tty") != NULL;
    if (remotecmd_upgrade(r, REMOTECMD_EXEC, &ss->proto, &ss->fd, NULL) < 0) {
        free(ss);
        return;
    }
    pthread_t t;
    pthread_create(&t, NULL, process, ss);
    pthread_detach(t);
}

/* As the API server does it: forwards the upgrade headers and joins the two connections. */
static void proxy_on_worker(void *arg) {
    struct http_req *r = arg;
    struct http_client *c = http_req_data(r);
    _cleanup_http_resp_ struct http_resp resp = {0};
    _cleanup_err_ struct err e = {0};
    struct http_header h[32];
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers && n < ARRAY_LEN(h); i++)
        if (!str_eq(r->headers[i].name, "host")) h[n++] = r->headers[i];
    int fd = -1;
    int rc = http_client_upgrade(c, r->method, r->target, h, n, NULL, 0, &resp, &fd, 60000, &e);
    if (rc < 0 || resp.status != 101) {
        http_respond(r, rc < 0 ? 502 : resp.status, NULL, 0, resp.body.data, resp.body.len, 0);
        return;
    }
    _cleanup_buf_ struct buf head = BUF_INIT;
    buf_adds(&head, "HTTP/1.1 101 Switching Protocols\r\n");
    for (size_t i = 0; i < resp.n_headers; i++)
        buf_printf(&head, "%s: %s\r\n", resp.headers[i].name, resp.headers[i].value);
    buf_adds(&head, "\r\n");
    if (http_tunnel(r, head.data, head.len, fd, &e) < 0) {
        close(fd);
        http_respond_text(r, 500, "%s", e.msg);
    }
}

static struct http_workers *workers;
static void proxy_handler(struct http_req *r, void *arg) {
    http_req_set_data(r, arg, NULL);
    if (http_dispatch(workers, proxy_on_worker, r) < 0) http_respond_text(r, 503, "busy");
}

struct chain {
    struct http_server *back, *front;
    struct http_client *to_back, *to_front;
};

static struct http_server *serve(void (*fn)(struct http_req *, void *), void *arg, struct http_client **c) {
    struct http_server *s = http_server_new(&(struct http_server_options){.handler = fn, .arg = arg});
    int id;
    char url[64];
    CHECK_INT(http_server_listen(s, &(struct http_listen){.address = "127.0.0.1"}, &id, NULL), 0);
    CHECK_INT(http_server_start(s, NULL), 0);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", http_server_port(s, id));
    *c = http_client_new(&(struct http_client_options){.base_url = url}, NULL);
    return s;
}

static void chain_start(struct chain *c) {
    workers = http_workers_new(4, 16);
    c->back = serve(streaming_handler, NULL, &c->to_back);
    c->front = serve(proxy_handler, c->to_back, &c->to_front);
}

static void chain_stop(struct chain *c) {
    workers = http_workers_free(workers);
    c->front = http_server_free(c->front);
    c->back = http_server_free(c->back);
    c->to_front = http_client_free(c->to_front);
    c->to_back = http_client_free(c->to_back);
}

static const char status_json[] =
    "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"command terminated with non-zero exit code: exit status 3\","
    "\"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":[{\"reason\":\"ExitCode\",\"message\":\"3\"}]}}";

static int connect_ws(struct chain *c, const char *path, const char *proto, struct http_resp *r) {
    const struct http_header h[] = {{"Connection", "Upgrade"},
                                    {"Upgrade", "websocket"},
                                    {"Sec-WebSocket-Version", "13"},
                                    {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="},
                                    {"Sec-WebSocket-Protocol", proto}};
    int fd = -1;
    _cleanup_err_ struct err e = {0};
    if (http_client_upgrade(c->to_front, "GET", path, h, 5, NULL, 0, r, &fd, 60000, &e) < 0) TEST_FAIL("%s", e.msg);
    return fd;
}

struct seen {
    struct buf ch[5];
};
static int by_channel(int op, const char *p, size_t n, void *arg) {
    struct seen *s = arg;
    if (n && p[0] >= 0 && p[0] < 5) buf_add(&s->ch[(int)p[0]], p + 1, n - 1);
    return 0;
}

/* Feeds w from fd until the server's close frame; false when the connection ended without one. */
static bool read_to_close(int fd, struct ws *w, struct seen *s) {
    char b[4096];
    while (!w->close_seen) {
        struct pollfd p = {fd, POLLIN, 0};
        ssize_t n = poll(&p, 1, 5000) > 0 ? read(fd, b, sizeof(b)) : -1;
        if (n <= 0 || ws_feed(w, b, (size_t)n, by_channel, s, NULL) < 0) return false;
    }
    return true;
}

TEST(websocket_v5_session_through_a_proxy) {
    struct chain c;
    chain_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    int fd = connect_ws(&c, "/exec?x=1", "v5.channel.k8s.io, v4.channel.k8s.io", &r);
    CHECK_INT(r.status, 101);
    CHECK_STR(http_resp_header(&r, "sec-websocket-protocol"), "v5.channel.k8s.io");
    CHECK_STR(http_resp_header(&r, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    struct ws w;
    struct seen s = {0};
    ws_init(&w, false);
    enum { N = 100000 };
    _cleanup_free_ char *big = xmalloc(N + 1);
    memset(big, 'z', N);
    big[0] = 0;
    ws_send(&w, WS_BINARY, big, N);
    ws_send(&w, WS_BINARY, "\4{\"Width\":80,\"Height\":24}", 25);
    ws_send(&w, WS_BINARY, "\xff\0", 2); /* close stdin */
    CHECK_INT(fd_write_all(fd, w.out.data, w.out.len), 0);
    buf_reset(&w.out);
    CHECK(read_to_close(fd, &w, &s));
    CHECK_INT(s.ch[1].len, N - 1);
    CHECK_STR(s.ch[2].data, "done");
    CHECK_STR(s.ch[3].data, status_json);
    CHECK_INT(atomic_load(&resized), 80024);
    for (int i = 0; i < 5; i++) buf_done(&s.ch[i]);
    ws_done(&w);
    close(fd);
    chain_stop(&c);
}

TEST(unknown_protocols_are_refused) {
    struct chain c;
    chain_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    CHECK_INT(connect_ws(&c, "/exec", "v9.channel.k8s.io", &r), -1);
    CHECK_INT(r.status, 403);
    int fd;
    CHECK_INT(http_client_upgrade(c.to_back, "GET", "/exec", NULL, 0, NULL, 0, &r, &fd, 60000, NULL), 0);
    CHECK_INT(r.status, 400);
    chain_stop(&c);
}

TEST(a_client_that_leaves_is_noticed) {
    struct chain c;
    chain_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    int before = atomic_load(&disconnected), fd = connect_ws(&c, "/exec", "v4.channel.k8s.io", &r);
    usleep(20000);
    close(fd);
    for (int i = 0; i < 12000 && atomic_load(&disconnected) == before; i++) usleep(5000);
    CHECK_INT(atomic_load(&disconnected), before + 1);
    chain_stop(&c);
}

static int seen_data(struct spdy *s, uint32_t id, const void *p, size_t n, bool fin, void *arg) {
    buf_add(&((struct seen *)arg)->ch[id / 2], p, n); /* streams 1, 3, 5, 7: error, stdin, stdout, stderr */
    return 0;
}

TEST(spdy_v4_session_through_a_proxy) {
    struct chain c;
    chain_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    static const struct http_header h[] = {{"Connection", "Upgrade"},
                                           {"Upgrade", "SPDY/3.1"},
                                           {"X-Stream-Protocol-Version", "v4.channel.k8s.io"},
                                           {"X-Stream-Protocol-Version", "v3.channel.k8s.io"}};
    int fd = -1;
    CHECK_INT(http_client_upgrade(c.to_front, "POST", "/exec", h, 4, NULL, 0, &r, &fd, 60000, NULL), 0);
    CHECK_STR(http_resp_header(&r, "x-stream-protocol-version"), "v4.channel.k8s.io");
    struct seen s = {0};
    struct spdy *sp = spdy_new(false, &(struct spdy_callbacks){.on_data = seen_data, .arg = &s});
    static const char *const types[] = {"error", "stdin", "stdout", "stderr"};
    for (int i = 0; i < 4; i++) spdy_open(sp, &(struct http_header){"streamType", types[i]}, 1, false);
    spdy_data(sp, 3, "over spdy", 9, true);
    struct buf *out = spdy_out(sp);
    CHECK_INT(fd_write_all(fd, out->data, out->len), 0);
    char b[4096];
    for (ssize_t n; (n = read(fd, b, sizeof(b))) > 0;) CHECK_INT(spdy_feed(sp, b, (size_t)n, NULL), 0);
    CHECK_STR(s.ch[0].data, status_json);
    CHECK_STR(s.ch[2].data, "over spdy");
    CHECK_STR(s.ch[3].data, "done");
    for (int i = 0; i < 5; i++) buf_done(&s.ch[i]);
    sp = spdy_free(sp);
    close(fd);
    chain_stop(&c);
}

/* ---- port forwarding ---- */

static int dial_pair(uint16_t port, void *arg, struct err *e) {
    if (port != 80) return err_set(e, -ECONNREFUSED, "nothing listens on port %u", port);
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) return err_errno(e, errno, "socketpair");
    atomic_store((_Atomic int *)arg, sv[1]);
    return sv[0];
}

static int forward_fd;
static _Atomic int pod_fd;
static void *forward_main(void *arg) {
    portforward_serve(forward_fd, &(struct remotecmd_proto){REMOTECMD_SPDY, 1}, NULL, 0, dial_pair, (void *)&pod_fd, 0,
                      NULL);
    return NULL;
}

/* Exchanges bytes for up to a minute, until `want` appears in the log. */
static bool exchange(int fd, struct spdy *sp, struct log *l, const char *want) {
    for (int i = 0; i < 6000; i++) {
        struct buf *out = spdy_out(sp);
        if (out->len && fd_write_all(fd, out->data, out->len) < 0) return false;
        buf_reset(out);
        if (l->text.data && strstr(l->text.data, want)) return true;
        struct pollfd p = {fd, POLLIN, 0};
        char b[4096];
        if (poll(&p, 1, 10) <= 0) continue;
        ssize_t n = read(fd, b, sizeof(b));
        if (n <= 0 || spdy_feed(sp, b, (size_t)n, NULL) < 0) return false;
    }
    return false;
}

TEST(port_forward_carries_bytes_and_errors) {
    int sv[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
    forward_fd = sv[1];
    pod_fd = 0;
    pthread_t t;
    pthread_create(&t, NULL, forward_main, NULL);
    struct log l = {0};
    struct spdy *sp = logging(false, &l);
    const struct http_header err_h[] = {{"streamType", "error"}, {"port", "80"}, {"requestID", "0"}};
    const struct http_header data_h[] = {{"streamType", "data"}, {"port", "80"}, {"requestID", "0"}};
    uint32_t err_id = spdy_open(sp, err_h, 3, true), data_id = spdy_open(sp, data_h, 3, false);
    spdy_data(sp, data_id, "ping", 4, false);
    CHECK(exchange(sv[0], sp, &l, "reply 3 0;"));
    char b[8] = "";
    for (int i = 0; i < 6000 && !pod_fd; i++) usleep(10000);
    CHECK_INT(read(pod_fd, b, sizeof(b)), 4);
    CHECK_INT(write(pod_fd, "pong", 4), 4);
    CHECK(exchange(sv[0], sp, &l, "data 3 pong;"));
    close(pod_fd);
    CHECK(exchange(sv[0], sp, &l, "data 3  fin;"));
    CHECK(exchange(sv[0], sp, &l, "data 1  fin;"));
    CHECK_INT(err_id, 1);
    const struct http_header e2[] = {{"streamType", "error"}, {"port", "81"}, {"requestID", "1"}};
    const struct http_header d2[] = {{"streamType", "data"}, {"port", "81"}, {"requestID", "1"}};
    spdy_open(sp, e2, 3, true);
    spdy_open(sp, d2, 3, false);
    CHECK(exchange(sv[0], sp, &l, "data 5 nothing listens on port 81 fin;"));
    const struct http_header bad[] = {{"streamType", "data"}, {"port", "0"}};
    spdy_open(sp, bad, 2, false);
    CHECK(exchange(sv[0], sp, &l, "reset 9 3;"));
    close(sv[0]);
    pthread_join(t, NULL);
    sp = spdy_free(sp);
    buf_done(&l.text);
}

static void *forward_channels_main(void *arg) {
    const struct remotecmd_proto *proto = arg;
    static const int32_t ports[] = {80, 0x1251};
    portforward_serve(forward_fd, proto, ports, 2, dial_pair, &pod_fd, 0, NULL);
    return NULL;
}

TEST(port_forward_over_the_channels_of_a_websocket) {
    int sv[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
    forward_fd = sv[1];
    pthread_t t;
    pthread_create(&t, NULL, forward_channels_main, &(struct remotecmd_proto){REMOTECMD_WS, 4});
    struct seen s = {0};
    struct ws w;
    char b[64];
    ws_init(&w, false);
    ws_send2(&w, WS_BINARY, "\0", 1, "ping", 4);
    ws_send2(&w, WS_BINARY, "\7", 1, "nobody", 6); /* no such channel */
    CHECK_INT(fd_write_all(sv[0], w.out.data, w.out.len), 0);
    buf_reset(&w.out);
    while (s.ch[3].len <= 2) { /* what went wrong with the second port */
        ssize_t n = read(sv[0], b, sizeof(b));
        REQUIRE(n > 0);
        REQUIRE(ws_feed(&w, b, (size_t)n, by_channel, &s, NULL) == 0);
    }
    REQUIRE(s.ch[2].len == 2 && s.ch[0].len == 2);
    CHECK(memcmp(s.ch[0].data, "P\0", 2) == 0);
    CHECK(memcmp(s.ch[2].data, "Q\x12", 2) == 0);
    CHECK_STR(s.ch[3].data + 2, "nothing listens on port 4689");
    CHECK_INT(read(pod_fd, b, sizeof(b)), 4);
    CHECK_INT(write(pod_fd, "pong", 4), 4);
    close(pod_fd);
    CHECK(read_to_close(sv[0], &w, &s)); /* both connections have ended */
    CHECK_STR(s.ch[0].data + 2, "pong");
    pthread_join(t, NULL);
    close(sv[0]);
    for (int i = 0; i < 5; i++) buf_done(&s.ch[i]);
    ws_done(&w);
}

/* ---- output over a WebSocket ---- */

static struct http_cancel reader_gone;

static void output_on_worker(void *arg) {
    struct http_req *r = arg;
    bool endless = str_eq(r->path, "/endless");
    struct wsout *w;
    if (wsout_upgrade(r, &reader_gone, &w, NULL) < 0) return;
    CHECK_INT(wsout_write(w, "one\n", 4), 0);
    for (int i = 0; endless && i < 500 && !http_cancelled(&reader_gone); i++) usleep(10000);
    if (!endless) CHECK_INT(wsout_write(w, "two", 3), 0);
    wsout_finish(w);
}
static void output_handler(struct http_req *r, void *arg) {
    if (http_dispatch(workers, output_on_worker, r) < 0) http_respond_text(r, 503, "busy");
}

static int collect_text(int op, const char *p, size_t n, void *arg) {
    buf_printf(arg, "%s:%.*s;", op == WS_TEXT ? "text" : "binary", (int)n, p);
    return 0;
}

static void output_start(struct chain *c) {
    *c = (struct chain){0};
    workers = http_workers_new(4, 16);
    CHECK_INT(http_cancel_init(&reader_gone, NULL), 0);
    c->front = serve(output_handler, NULL, &c->to_front);
}

static void output_stop(struct chain *c) {
    chain_stop(c);
    http_cancel_done(&reader_gone);
}

static void output_is(const char *proto, const char *want) {
    struct chain c;
    output_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    int fd = connect_ws(&c, "/output", proto, &r);
    CHECK_INT(r.status, 101);
    CHECK_STR(http_resp_header(&r, "sec-websocket-protocol"), proto);
    struct ws w;
    _cleanup_buf_ struct buf text = BUF_INIT;
    ws_init(&w, false);
    char b[4096];
    for (ssize_t n; !w.close_seen && (n = read(fd, b, sizeof(b))) > 0;)
        CHECK_INT(ws_feed(&w, b, (size_t)n, collect_text, &text, NULL), 0);
    CHECK(w.close_seen);
    CHECK_STR(text.data, want);
    ws_done(&w);
    close(fd);
    output_stop(&c);
}

TEST(output_goes_in_binary_or_base64_messages) {
    output_is("binary.k8s.io", "binary:one\n;binary:two;");
    output_is("base64.binary.k8s.io", "text:b25lCg==;text:dHdv;");
}

TEST(output_of_unknown_protocols_is_refused) {
    struct chain c;
    output_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    CHECK_INT(connect_ws(&c, "/output", "v4.channel.k8s.io", &r), -1);
    CHECK_INT(r.status, 403);
    output_stop(&c);
}

TEST(a_reader_that_leaves_ends_output) {
    struct chain c;
    output_start(&c);
    _cleanup_http_resp_ struct http_resp r = {0};
    int fd = connect_ws(&c, "/endless", "binary.k8s.io", &r);
    CHECK_INT(r.status, 101);
    close(fd);
    for (int i = 0; i < 6000 && !http_cancelled(&reader_gone); i++) usleep(10000);
    CHECK(http_cancelled(&reader_gone));
    output_stop(&c);
}
