/* Exec and attach sessions: one thread between the client's framed channels and three pipes.
 *
 *   stdin 0 -> pipe -> process      process -> pipe -> stdout 1, stderr 2      status -> error 3      resize 4 ->
 *
 * Life: remotecmd_start collects the client's streams, the thread pumps until remotecmd_finish says how the process
 * ended; then the pipes are drained, the status is sent on the error channel, and the connection closed. A client that
 * leaves earlier is reported; the process' output is then read and dropped, so that it is not killed by SIGPIPE. */
#include "pkg/stream/remotecmd.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "pkg/base/ktime.h"
#include "pkg/json/json.h"
#include "pkg/stream/link.h"

enum { CH_STDIN, CH_STDOUT, CH_STDERR, CH_ERROR, CH_RESIZE, N_CHANNELS, CH_CLOSE = 255 };
enum {
    STDIN_HIGH = 256 * 1024, /* bytes waiting for the process before the client is no longer read */
    RESIZE_MAX = 4096,
    DRAIN_MS = 10 * 1000,
    CREATE_MS = 30 * 1000,
    SESSION_STACK = 256 * 1024,
};

static const char *const stream_types[N_CHANNELS] = {"stdin", "stdout", "stderr", "error", "resize"};

struct remotecmd {
    struct link link;
    struct remotecmd_proto proto;
    struct remotecmd_options opt;
    bool want[N_CHANNELS];
    uint32_t id[N_CHANNELS]; /* SPDY streams, 0: not there yet */
    int stdin_r, stdin_w, out_r[2], out_w[2];
    struct buf to_stdin, resize;
    bool stdin_fin, gone_told, status_sent;
    int64_t last_ns;
    int wake_fd;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the rest */
    bool finishing, failed;
    int exit_code;
    char *message;
    int64_t drain_until;
    _Atomic bool gone;
};

/* ---- from the client ---- */

static void stdin_flush(struct remotecmd *r) {
    while (r->to_stdin.len && r->stdin_w >= 0) {
        ssize_t n = write(r->stdin_w, r->to_stdin.data, r->to_stdin.len);
        if (n > 0) {
            buf_consume(&r->to_stdin, (size_t)n);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR) { /* the process has closed it */
            close(take_fd(&r->stdin_w));
        }
    }
    if (r->stdin_w < 0) buf_done(&r->to_stdin);
    if (r->stdin_fin && !r->to_stdin.len && r->stdin_w >= 0) close(take_fd(&r->stdin_w));
}

static void apply_resize(struct remotecmd *r, const char *p, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v;
    if (json_parse(a, p, n, &v, NULL, NULL) < 0) return;
    int64_t w = json_get_int(v, "Width", 0), h = json_get_int(v, "Height", 0);
    if (w > 0 && h > 0 && w <= UINT16_MAX && h <= UINT16_MAX && r->opt.on_resize)
        r->opt.on_resize((uint16_t)w, (uint16_t)h, r->opt.arg);
}

/* Objects {"Width":w,"Height":h} in a row, cut anywhere. */
static void resize_input(struct remotecmd *r, const char *p, size_t n) {
    r->resize.limit = RESIZE_MAX;
    buf_add(&r->resize, p, n);
    for (char *end; r->resize.len && (end = memchr(r->resize.data, '}', r->resize.len));) {
        size_t len = (size_t)(end - r->resize.data) + 1;
        apply_resize(r, r->resize.data, len);
        buf_consume(&r->resize, len);
    }
    if (r->resize.failed) buf_reset(&r->resize);
}

static void channel_input(struct remotecmd *r, int ch, const char *p, size_t n, bool fin) {
    if (ch == CH_STDIN && r->want[CH_STDIN] && !r->stdin_fin) {
        buf_add(&r->to_stdin, p, n);
        r->stdin_fin |= fin;
        stdin_flush(r);
    } else if (ch == CH_RESIZE) {
        resize_input(r, p, n);
    }
}

static int channel_of(const struct remotecmd *r, uint32_t id) {
    for (int ch = 0; ch < N_CHANNELS; ch++)
        if (r->id[ch] == id) return ch;
    return -1;
}

static int on_stream(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg) {
    struct remotecmd *r = arg;
    const char *type = NULL;
    for (size_t i = 0; i < n; i++)
        if (str_eq(h[i].name, "streamtype")) type = h[i].value;
    for (int ch = 0; ch < N_CHANNELS; ch++) {
        if (!str_eq(type, stream_types[ch]) || r->id[ch]) continue;
        r->id[ch] = id;
        spdy_reply(s, id, NULL, 0, false);
        if (fin) channel_input(r, ch, "", 0, true);
        return 0;
    }
    spdy_reset(s, id, SPDY_REFUSED_STREAM);
    return 0;
}

static int on_data(struct spdy *s, uint32_t id, const void *p, size_t n, bool fin, void *arg) {
    struct remotecmd *r = arg;
    channel_input(r, channel_of(r, id), p, n, fin);
    return 0;
}

static int on_reset(struct spdy *s, uint32_t id, uint32_t status, void *arg) {
    struct remotecmd *r = arg;
    channel_input(r, channel_of(r, id), "", 0, true);
    return 0;
}

static int on_message(int opcode, const char *p, size_t n, void *arg) {
    struct remotecmd *r = arg;
    if (!n) return 0;
    if (r->proto.transport == REMOTECMD_WS) {
        int ch = (unsigned char)p[0];
        if (ch == CH_CLOSE && r->proto.version >= 5)
            channel_input(r, n > 1 ? (unsigned char)p[1] : -1, "", 0, true);
        else
            channel_input(r, ch, p + 1, n - 1, false);
        return 0;
    }
    _cleanup_free_ char *raw = xmalloc(n);
    size_t len;
    if (base64_decode(p + 1, n - 1, raw, &len) < 0) return -EPROTO;
    channel_input(r, p[0] - '0', raw, len, false);
    return 0;
}

/* ---- to the client ---- */

static void channel_output(struct remotecmd *r, int ch, const char *p, size_t n, bool fin) {
    if (r->link.gone) return;
    if (r->link.spdy) {
        spdy_data(r->link.spdy, r->id[ch], p, n, fin);
    } else if (n || !fin) {
        char c = (char)(r->proto.transport == REMOTECMD_WS ? ch : '0' + ch);
        if (r->proto.transport == REMOTECMD_WS) {
            ws_send2(&r->link.ws, WS_BINARY, &c, 1, p, n);
        } else {
            _cleanup_free_ char *b64 = xmalloc(base64_encoded_len(n) + 1);
            ws_send2(&r->link.ws, WS_TEXT, &c, 1, b64, base64_encode(p, n, b64));
        }
    }
}

static void read_output(struct remotecmd *r, int i) {
    char buf[LINK_READ];
    ssize_t n = read(r->out_r[i], buf, sizeof(buf));
    if (n > 0)
        channel_output(r, CH_STDOUT + i, buf, (size_t)n, false);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        close(take_fd(&r->out_r[i]));
}

/* metav1.Status as v4 wants it; older versions get the message as text, and nothing on success. */
static void send_status(struct remotecmd *r) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *st = json_object(a);
    json_set(a, st, "metadata", json_object(a));
    if (!r->failed && !r->exit_code) {
        json_set_str(a, st, "status", "Success");
    } else {
        const char *msg =
            r->failed ? str_or_empty(r->message)
                      : arena_printf(a, "command terminated with non-zero exit code: exit status %d", r->exit_code);
        if (r->proto.version < 4) buf_adds(&b, msg);
        json_set_str(a, st, "status", "Failure");
        json_set_str(a, st, "message", r->failed ? arena_printf(a, "Internal error occurred: %s", msg) : msg);
        json_set_str(a, st, "reason", r->failed ? "InternalError" : "NonZeroExitCode");
        struct json *causes = json_array(a), *cause = json_object(a);
        if (!r->failed) json_set_str(a, cause, "reason", "ExitCode");
        json_set_str(a, cause, "message", r->failed ? msg : arena_printf(a, "%d", r->exit_code));
        json_append(a, causes, cause);
        json_set(a, json_ensure_object(a, st, "details"), "causes", causes);
        if (r->failed) json_set_int(a, st, "code", 500);
    }
    if (r->proto.version >= 4) json_write(&b, st);
    for (int ch = CH_STDOUT; ch <= CH_STDERR; ch++)
        if (r->want[ch]) channel_output(r, ch, "", 0, true);
    channel_output(r, CH_ERROR, str_or_empty(b.data), b.len, true);
    r->status_sent = true;
}

/* ---- the loop ---- */

static void tell_gone(struct remotecmd *r) {
    if (!r->link.gone || r->gone_told) return;
    r->gone_told = true;
    atomic_store(&r->gone, true);
    r->stdin_fin = true;
    stdin_flush(r);
    if (r->stdin_w >= 0) close(take_fd(&r->stdin_w)); /* what the process has not read is lost with the client */
    if (r->opt.on_disconnect) r->opt.on_disconnect(r->opt.arg);
}

static int poll_ms(struct remotecmd *r, int64_t until_ns) {
    int64_t idle = r->last_ns + (int64_t)r->opt.idle_ms * NS_PER_MS, at = until_ns && until_ns < idle ? until_ns : idle;
    int64_t ms = (at - mono_ns()) / NS_PER_MS + 1;
    return ms < 0 ? 0 : (int)MIN_OF(ms, (int64_t)INT32_MAX);
}

/* One round: waits until until_ns at most (0: idle time-out), moves bytes. */
static void turn(struct remotecmd *r, int64_t until_ns) {
    size_t pending = r->link.gone ? 0 : link_pending(&r->link);
    bool may_send = pending < LINK_HIGH;
    struct pollfd p[5] = {{r->link.gone ? -1 : r->link.fd, 0, 0},
                          {r->to_stdin.len ? r->stdin_w : -1, POLLOUT, 0},
                          {may_send ? r->out_r[0] : -1, POLLIN, 0},
                          {may_send ? r->out_r[1] : -1, POLLIN, 0},
                          {r->wake_fd, POLLIN, 0}};
    if (r->to_stdin.len < STDIN_HIGH) p[0].events |= POLLIN;
    if (pending) p[0].events |= POLLOUT;
    if (poll(p, 5, poll_ms(r, until_ns)) > 0)
        r->last_ns = mono_ns();
    else if (mono_ns() - r->last_ns >= (int64_t)r->opt.idle_ms * NS_PER_MS)
        r->link.gone = true;
    if (p[0].revents & POLLIN)
        link_recv(&r->link);
    else if (p[0].revents & (POLLHUP | POLLERR))
        r->link.gone = true;
    if (p[1].revents) stdin_flush(r);
    for (int i = 0; i < 2; i++)
        if (p[2 + i].revents) read_output(r, i);
    uint64_t n;
    if (p[4].revents && read(r->wake_fd, &n, sizeof(n)) < 0) n = 0;
    if (!r->link.gone) link_send(&r->link);
}

static void *session_main(void *arg) {
    struct remotecmd *r = arg;
    for (;;) {
        pthread_mutex_lock(&r->lock);
        bool finishing = r->finishing;
        int64_t until = r->drain_until;
        pthread_mutex_unlock(&r->lock);
        tell_gone(r);
        bool drained = (r->out_r[0] < 0 && r->out_r[1] < 0) || mono_ns() >= until;
        if (finishing && (r->link.gone || drained)) break;
        turn(r, finishing ? until : 0);
    }
    if (!r->link.gone) send_status(r);
    link_finish(&r->link);
    return NULL;
}

/* ---- life ---- */

static void remotecmd_free(struct remotecmd *r) {
    int fds[] = {r->stdin_r, r->stdin_w, r->out_r[0], r->out_r[1], r->out_w[0], r->out_w[1], r->wake_fd};
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0) close(fds[i]);
    buf_done(&r->to_stdin);
    buf_done(&r->resize);
    pthread_mutex_destroy(&r->lock);
    free(r->message);
    free(r);
}

static int make_pipes(struct remotecmd *r, struct err *e) {
    int p[2];
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake_fd < 0) return err_errno(e, errno, "eventfd");
    if (r->want[CH_STDIN]) {
        if (pipe2(p, O_CLOEXEC) < 0) return err_errno(e, errno, "pipe");
        r->stdin_r = p[0];
        r->stdin_w = p[1];
        fcntl(p[1], F_SETFL, O_NONBLOCK);
    }
    for (int i = 0; i < 2; i++) {
        if (!r->want[CH_STDOUT + i]) continue;
        if (pipe2(p, O_CLOEXEC) < 0) return err_errno(e, errno, "pipe");
        r->out_r[i] = p[0];
        r->out_w[i] = p[1];
        fcntl(p[0], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

/* SPDY: until the client has opened its streams. */
static int await_streams(struct remotecmd *r, struct err *e) {
    int64_t until = mono_ns() + (int64_t)r->opt.create_ms * NS_PER_MS;
    for (;;) {
        int missing = -1;
        for (int ch = 0; ch < N_CHANNELS; ch++)
            if (r->want[ch] && !r->id[ch]) missing = ch;
        if (missing < 0) return 0;
        if (r->link.gone) return err_set(e, -EPIPE, "the client left before opening its streams");
        struct pollfd p = {r->link.fd, POLLIN, 0};
        int64_t ms = (until - mono_ns()) / NS_PER_MS;
        if (ms <= 0) return err_set(e, -ETIMEDOUT, "the client did not open its %s stream", stream_types[missing]);
        if (poll(&p, 1, (int)ms) > 0) link_recv(&r->link);
        link_send(&r->link);
    }
}

/* WebSocket: an empty message on the first output channel says that the session is up. */
static void greet(struct remotecmd *r) {
    channel_output(r, r->want[CH_STDOUT] ? CH_STDOUT : r->want[CH_STDERR] ? CH_STDERR : CH_ERROR, "", 0, false);
    link_send(&r->link);
}

static int start_thread(struct remotecmd *r, struct err *e) {
    pthread_attr_t attr;
    sigset_t all, old;
    sigfillset(&all); /* signals are for the program's own threads; SIGPIPE becomes EPIPE */
    pthread_sigmask(SIG_BLOCK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, SESSION_STACK);
    int rc = pthread_create(&r->thread, &attr, session_main, r);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc ? err_errno(e, rc, "cannot start a thread") : 0;
}

int remotecmd_start(int fd, const struct remotecmd_proto *proto, const struct remotecmd_options *o,
                    struct remotecmd **out, struct err *e) {
    struct remotecmd *r = xcalloc(1, sizeof(*r));
    r->proto = *proto;
    r->opt = *o;
    if (!r->opt.idle_ms) r->opt.idle_ms = SESSION_IDLE_MS;
    if (!r->opt.create_ms) r->opt.create_ms = CREATE_MS;
    r->want[CH_STDIN] = o->stdin_;
    r->want[CH_STDOUT] = o->stdout_;
    r->want[CH_STDERR] = o->stderr_ && !o->tty;
    r->want[CH_ERROR] = true;
    r->want[CH_RESIZE] = o->tty && proto->version >= 3 && proto->transport == REMOTECMD_SPDY;
    r->stdin_r = r->stdin_w = r->out_r[0] = r->out_r[1] = r->out_w[0] = r->out_w[1] = r->wake_fd = -1;
    r->last_ns = mono_ns();
    pthread_mutex_init(&r->lock, NULL);
    const struct spdy_callbacks cb = {.on_stream = on_stream, .on_data = on_data, .on_reset = on_reset, .arg = r};
    link_init(&r->link, fd, proto->transport, &cb, on_message, r);
    int rc = make_pipes(r, e);
    if (!rc && r->link.spdy) rc = await_streams(r, e);
    if (!rc && !r->link.spdy) greet(r);
    if (!rc) rc = start_thread(r, e);
    if (rc < 0) {
        r->link.gone = true;
        link_finish(&r->link);
        remotecmd_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

int remotecmd_take_stdin(struct remotecmd *r) { return take_fd(&r->stdin_r); }
int remotecmd_take_stdout(struct remotecmd *r) { return take_fd(&r->out_w[0]); }
int remotecmd_take_stderr(struct remotecmd *r) { return take_fd(&r->out_w[1]); }
bool remotecmd_gone(const struct remotecmd *r) { return atomic_load(&r->gone); }

void remotecmd_finish(struct remotecmd *r, int exit_code, const struct err *failure, unsigned drain_ms) {
    if (!r) return;
    for (int i = 0; i < 2; i++)
        if (r->out_w[i] >= 0) close(take_fd(&r->out_w[i]));
    if (r->stdin_r >= 0) close(take_fd(&r->stdin_r));
    pthread_mutex_lock(&r->lock);
    r->finishing = true;
    r->exit_code = exit_code;
    r->failed = failure != NULL;
    r->message = failure ? xstrdup(failure->msg) : NULL;
    r->drain_until = mono_ns() + (int64_t)(drain_ms ? drain_ms : DRAIN_MS) * NS_PER_MS;
    pthread_mutex_unlock(&r->lock);
    uint64_t one = 1;
    if (write(r->wake_fd, &one, sizeof(one)) < 0) one = 0; /* full: set already */
    pthread_join(r->thread, NULL);
    remotecmd_free(r);
}
