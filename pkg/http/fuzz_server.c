/* libFuzzer: bytes to the HTTP server as a client on a plaintext connection sends them: HTTP/2 frames (behind the preface,
 * when the first byte says so) or HTTP/1.1. The second byte says where the bytes are cut in two. The handler answers, streams,
 * or leaves the answer for later. Nothing may crash, leak, or keep the loop busy. */
#include <sys/socket.h>
#include <sys/un.h>

#include "pkg/http/internal.h"

enum { TURNS = 12 };

static struct {
    uv_loop_t loop;
    struct http_server *s;
    struct sockaddr_un at;
    struct http_req *later[16];
    size_t n_later;
} world;

static void handle(struct http_req *r, void *arg) {
    static const struct http_header h[] = {{"Content-Type", "text/plain"}};
    const char *v = http_query(r, "watch");
    http_header(r, "authorization");
    if (v) {
        http_stream_begin(r, 200, h, 1, 0);
        http_stream_write_copy(r, "event\n", 6);
        http_stream_end(r);
    } else if (str_eq(r->method, "PUT") && world.n_later < ARRAY_LEN(world.later)) {
        world.later[world.n_later++] = r;
    } else {
        http_respond(r, 200, h, 1, r->body, r->body_len, HTTP_GZIP);
    }
}

static void set_up(void) {
    uv_loop_init(&world.loop);
    struct http_server_options o = {
        .loop = &world.loop,
        .handler = handle,
        .limits = {.body_bytes = 20000, .header_bytes = 8000, .uri_bytes = 2000, .header_count = 50}};
    world.s = http_server_new(&o);
    world.at.sun_family = AF_UNIX;
    snprintf(world.at.sun_path, sizeof(world.at.sun_path), "/tmp/fuzz-server-%d.sock", (int)getpid());
    struct http_listen l = {.unix_path = world.at.sun_path};
    if (http_server_listen(world.s, &l, NULL, NULL) || http_server_start(world.s, NULL)) abort();
}

static void turn(int fd) {
    char answer[16384];
    for (int i = 0; i < TURNS; i++) {
        uv_run(&world.loop, UV_RUN_NOWAIT);
        while (fd >= 0 && recv(fd, answer, sizeof(answer), MSG_DONTWAIT) > 0) continue;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    if (!world.s) set_up();
    if (n < 2 || n > 60000) return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&world.at, sizeof(world.at))) abort();
    size_t cut = 2 + (n - 2) * p[1] / 256;
    if (p[0] & 1 && send(fd, preface, sizeof(preface) - 1, 0) < 0) abort();
    if (cut > 2 && send(fd, p + 2, cut - 2, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) cut = 2;
    turn(fd);
    if (n > cut && send(fd, p + cut, n - cut, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) cut = n;
    turn(fd);
    if (p[0] & 2) shutdown(fd, SHUT_WR);
    while (world.n_later) http_respond_text(world.later[--world.n_later], 200, "late");
    turn(fd);
    close(fd);
    turn(-1);
    return 0;
}
