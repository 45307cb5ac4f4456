/* /logs/: the machine's log files, below /var/log, for those who may get nodes/log; and /debug/flags/v, the log level while
 * the kubelet runs. See server.h.
 *
 * A path may lead over symbolic links (those of /var/log/containers do), but what is served lies below /var/log: a pod that
 * has the folder mounted cannot have other files read through a link of its own.
 *
 * Upstream: pkg/kubelet/server (logs by Go's file server; component-base/logs/api's flag handler). */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "kubelet/server_internal.h"

enum { LISTING_MAX = 10000, CHUNK = 64 * 1024, QUEUED_MAX = 1024 * 1024 };
#define LOG_ROOT "/var/log"

static void not_found(struct request *r) { http_respond_text(r->http, 404, "404 page not found\n"); }

/* What the request names, opened; -1: there is no such thing, or not below the root. */
static int open_log(const char *root, const char *path) {
    char link[64], real[4096];
    _cleanup_free_ char *full = xasprintf("%s/%s", root, path), *top = realpath(root, NULL);
    _cleanup_close_ int fd = open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || !top) return -1;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, real, sizeof(real) - 1);
    if (n <= 0) return -1;
    real[n] = '\0';
    size_t len = strlen(top);
    bool below = strncmp(real, top, len) == 0 && (real[len] == '/' || !real[len]);
    return below ? take_fd(&fd) : -1;
}

static void put_escaped(struct buf *b, const char *s, bool url) {
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (url && (c <= ' ' || c >= 127 || strchr("\"<>%?#", c)))
            buf_printf(b, "%%%02X", c);
        else if (!url && strchr("<>&\"'", c))
            buf_printf(b, "&#%d;", c);
        else
            buf_addc(b, *s);
    }
}

static int by_name(const void *x, const void *y) { return strcmp(*(char *const *)x, *(char *const *)y); }

static void send_listing(struct request *r, int fd) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    const struct http_header h[] = {{"content-type", "text/html; charset=utf-8"}};
    DIR *d = fdopendir(dup(fd));
    const char **names = NULL;
    size_t n = 0, cap = 0;
    for (struct dirent *ent; d && n < LISTING_MAX && (ent = readdir(d));) {
        struct stat st;
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        bool dir = fstatat(fd, ent->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode);
        ARENA_GROW(r->http->arena, names, n, cap);
        names[n++] = arena_printf(r->http->arena, "%s%s", ent->d_name, dir ? "/" : "");
    }
    if (d) closedir(d);
    if (n) qsort(names, n, sizeof(*names), by_name);
    buf_adds(&b, "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for (size_t i = 0; i < n; i++) {
        buf_adds(&b, "<a href=\"");
        put_escaped(&b, names[i], true);
        buf_adds(&b, "\">");
        put_escaped(&b, names[i], false);
        buf_adds(&b, "</a>\n");
    }
    buf_adds(&b, "</pre>\n");
    http_respond(r->http, 200, h, 1, b.data, b.len, HTTP_GZIP);
}

/* As much as the file has now; a slow reader slows the reading down. */
static void send_file(struct request *r, int fd, off_t size) {
    const struct http_header h[] = {{"content-type", "text/plain; charset=utf-8"}};
    _cleanup_free_ char *chunk = xmalloc(CHUNK);
    http_stream_begin(r->http, 200, h, 1, 0);
    while (size > 0 && !http_req_closed(r->http) && !r->s->kl->stopping) {
        if (http_stream_queued(r->http) > QUEUED_MAX) {
            usleep(5000);
            continue;
        }
        ssize_t n = read(fd, chunk, (size_t)MIN_OF((off_t)CHUNK, size));
        if (n <= 0 || http_stream_write_copy(r->http, chunk, (size_t)n) < 0) break;
        size -= n;
    }
    http_stream_end(r->http);
}

/* A folder without a slash at its end: relative links of its listing need one. */
static void send_on(struct request *r, const char *name) {
    const char *last = strrchr(name, '/');
    const struct http_header h[] = {{"location", arena_printf(r->http->arena, "%s/", last ? last + 1 : name)}};
    http_respond(r->http, 301, h, 1, "", 0, 0);
}

void route_system_logs(struct request *r) {
    if (!r->s->kl->cfg.system_logs) {
        http_respond_text(r->http, 405, "logs endpoint is disabled.\n");
        return;
    }
    const char *path = r->http->path + strlen("/logs");
    const char *name = http_unescape(r->http->arena, path, strlen(path), false);
    struct stat st;
    if (!name || strstr(name, "/../") || str_has_suffix(name, "/..") || http_query(r->http, "query")) {
        if (name && http_query(r->http, "query"))
            http_respond_text(r->http, 400, "queries of the journal are not supported\n");
        else
            not_found(r);
        return;
    }
    _cleanup_close_ int fd = open_log(LOG_ROOT, name);
    if (fd < 0 || fstat(fd, &st) < 0)
        not_found(r);
    else if (S_ISDIR(st.st_mode) && !str_has_suffix(r->http->path, "/"))
        send_on(r, r->http->path);
    else if (S_ISDIR(st.st_mode))
        send_listing(r, fd);
    else if (S_ISREG(st.st_mode))
        send_file(r, fd, st.st_size);
    else
        not_found(r);
}

void route_debug(struct request *r) {
    bool flags = r->n_parts == 2 && str_eq(r->parts[0], "flags") && str_eq(r->parts[1], "v");
    if (!flags) {
        not_found(r);
    } else if (!r->s->kl->cfg.debug_flags) {
        http_respond_text(r->http, 405, "flags endpoint is disabled.\n");
    } else {
        const char *text = arena_strndup(r->http->arena, r->http->body, r->http->body_len);
        enum log_level level;
        if (log_level_parse(text, &level) < 0) {
            http_respond_text(r->http, 400, "error reading request body: invalid value \"%s\"\n", text);
            return;
        }
        log_init("kubelet", level);
        http_respond_text(r->http, 200, "successfully set klog.logging.verbosity to %s", text);
    }
}
