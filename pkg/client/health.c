/* One thread, one connection at a time: a probe is a single short request. */
#include "health.h"

#include <netdb.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { STACK = 128 * 1024, REQUEST_MAX = 2048, READ_SECONDS = 2 };

struct health {
    int fd;
    pthread_t thread;
};

static void answer(int fd) {
    struct timeval tv = {.tv_sec = READ_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    char rq[REQUEST_MAX];
    ssize_t n = recv(fd, rq, sizeof(rq) - 1, 0);
    if (n <= 0) return;
    rq[n] = 0;
    static const char *const known[] = {"GET /healthz", "GET /livez", "GET /readyz"};
    bool ok = false;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) ok |= str_has_prefix(rq, known[i]);
    static const char good[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    static const char bad[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    const char *text = ok ? good : bad;
    fd_write_all(fd, text, strlen(text));
}

static void *health_thread(void *arg) {
    struct health *h = arg;
    for (;;) {
        int fd = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
        if (fd < 0) return NULL; /* shut down */
        answer(fd);
        close(fd);
    }
}

int health_start(const char *address, int port, struct health **out, struct err *e) {
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *ai = NULL;
    if (getaddrinfo(address, service, &hints, &ai) != 0) return err_set(e, -EINVAL, "bad address %s:%d", address, port);
    struct health *h = xcalloc(1, sizeof(*h));
    h->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1, r = h->fd < 0 ? -errno : 0;
    if (r == 0) setsockopt(h->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (r == 0 && (bind(h->fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(h->fd, 16) < 0)) r = -errno;
    freeaddrinfo(ai);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    if (r == 0) r = -pthread_create(&h->thread, &attr, health_thread, h);
    pthread_attr_destroy(&attr);
    if (r < 0) {
        if (h->fd >= 0) close(h->fd);
        free(h);
        return err_errno(e, r, "health port %s:%d", address, port);
    }
    *out = h;
    return 0;
}

void health_stop(struct health *h) {
    if (!h) return;
    shutdown(h->fd, SHUT_RDWR);
    pthread_join(h->thread, NULL);
    close(h->fd);
    free(h);
}
