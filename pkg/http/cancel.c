/* A level-triggered stop sign between threads: a flag to look at and a descriptor to poll. */
#include <sys/eventfd.h>

#include "pkg/http/client.h"

int http_cancel_init(struct http_cancel *x, struct err *e) {
    atomic_init(&x->set, false);
    x->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return x->fd < 0 ? err_errno(e, errno, "eventfd") : 0;
}

void http_cancel_done(struct http_cancel *x) {
    if (x->fd >= 0) close(x->fd);
    x->fd = -1;
}

void http_cancel_set(struct http_cancel *x) {
    atomic_store(&x->set, true);
    uint64_t one = 1;
    if (write(x->fd, &one, sizeof(one)) < 0) return; /* full: set already */
}

void http_cancel_reset(struct http_cancel *x) {
    uint64_t n;
    if (read(x->fd, &n, sizeof(n)) < 0) n = 0; /* was not set */
    atomic_store(&x->set, false);
}
