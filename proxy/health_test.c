#include "proxy/health.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "tests/test.h"

/* A port that nobody has. */
static int free_port(void) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    CHECK(bind(fd, (struct sockaddr *)&a, n) == 0 && getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    return ntohs(a.sin_port);
}

/* The whole answer, on the heap; "" when nobody listens. */
static char *ask(int port, const char *request) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char *text = xcalloc(1, 8192);
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) return text;
    for (const char *c = request; *c; c++) /* byte by byte: a request may come in pieces */
        if (send(fd, c, 1, MSG_NOSIGNAL) < 0) break;
    for (size_t n = 0; n < 8191;) {
        ssize_t r = recv(fd, text + n, 8191 - n, 0);
        if (r <= 0) break;
        n += (size_t)r;
    }
    return text;
}

static bool says(int port, const char *path, const char *want) {
    _cleanup_free_ char *request = xasprintf("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path), *text = ask(port, request);
    return strstr(text, want) != NULL;
}

TEST(health_and_services_are_told) {
    int health = free_port(), metrics = free_port(), service = free_port();
    _cleanup_free_ char *a = xasprintf("127.0.0.1:%d", health), *b = xasprintf("127.0.0.1:%d", metrics);
    struct health *h = NULL;
    CHECK_INT(health_new(&(struct health_config){a, b}, &h, NULL), 0);
    CHECK(says(health, "/healthz", "503"));
    health_service(h, "default/web", service, 2);
    CHECK(says(service, "/", "503")); /* the services are not in place yet */
    health_ready(h);
    CHECK(says(health, "/healthz", "200 OK"));
    CHECK(says(health, "/healthz", "lastUpdated"));
    CHECK(says(health, "/other", "404"));
    CHECK(says(metrics, "/proxyMode", "nftables"));
    CHECK(says(metrics, "/metrics", "process_cpu_seconds_total"));
    CHECK(says(service, "/", "200 OK"));
    CHECK(says(service, "/", "\"localEndpoints\": 2"));
    CHECK(says(service, "/", "X-Load-Balancing-Endpoint-Weight: 2"));
    health_service(h, "default/web", service, 0);
    CHECK(says(service, "/", "503"));
    _cleanup_free_ char *rubbish = ask(service, "\n\n");
    CHECK_STR(rubbish, "");
    health_service(h, "default/web", 0, 0);
    CHECK(!says(service, "/", "HTTP"));
    health_free(h);
}

TEST(a_bad_address_is_refused) {
    static const char *const bad[] = {"x:1", "127.0.0.1", "127.0.0.1:70000", "127.0.0.1:1x"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct health *h = NULL;
        struct err e = {0};
        CHECK_INT(health_new(&(struct health_config){bad[i], NULL}, &h, &e), -EINVAL);
        err_done(&e);
    }
}
