#include "cli/supervisor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <uv.h>

#include "cli/identity.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/json/json.h"

enum {
    RESTART_FIRST_MS = 100,
    RESTART_MAX_MS = 10000,
    STABLE_MS = 2000,    /* running this long forgets earlier deaths: only what dies at its start is held back */
    POLL_MS = 5,         /* for wait_port and wait_path, */
    POLL_LATE_MS = 100,  /* after the first second */
    WAIT_PORT_MS = 5000, /* then started all the same: a node that is cut off from its API server runs its pods */
    CONNECT_MS = 250,    /* a lost SYN must not hold the supervisor up */
    STOP_GRACE_MS = 10000,
    UPKEEP_MS = 5000, /* how often it is asked whether certificates are due */
    RETRY_RENEWAL_S = 60,
    LOG_MAX_BYTES = 16 * 1024 * 1024, /* then the log is set aside as .1 at the next start */
};

struct child {
    const struct component *c;
    struct supervisor *s;
    uv_process_t process;
    uv_timer_t timer; /* restart and wait */
    bool running, stopping;
    int64_t started_mono, started_unix_ns, restarts;
    int64_t waits_since; /* mono, 0: does not wait */
    uint64_t backoff_ms;
    char last_exit[64];
};

struct supervisor {
    const struct layout *l;
    uv_loop_t loop;
    uv_signal_t term, intr;
    uv_timer_t stop_timer, upkeep_timer;
    int64_t renew_at; /* seconds since 1970 */
    struct child *children;
    size_t n;
    bool stopping;
};

static void try_start(uv_timer_t *t);

static void write_state(struct supervisor *s) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *list = json_array(a);
    for (size_t i = 0; i < s->n; i++) {
        const struct child *ch = &s->children[i];
        struct json *o = json_object(a);
        json_set_str(a, o, "name", ch->c->name);
        json_set_int(a, o, "pid", ch->running ? ch->process.pid : 0);
        json_set_int(a, o, "started", ch->started_unix_ns);
        json_set_int(a, o, "restarts", ch->restarts);
        json_set_str(a, o, "lastExit", ch->last_exit);
        json_append(a, list, o);
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, list);
    if (file_write_atomic(layout_run(s->l, "components.json"), b.data, b.len, 0644) < 0)
        log_warn("cannot write components.json", NULL);
}

int supervisor_state(const struct layout *l, struct component_state **out, size_t *n, struct err *e) {
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = file_read(layout_run(l, "components.json"), 1 << 20, &text, &len);
    if (r < 0) return err_errno(e, r, "nothing was started (%s/components.json)", l->run);
    struct json *list, *o;
    if ((r = json_parse(l->a, text, len, &list, NULL, e)) < 0) return r;
    *out = arena_zalloc(l->a, (json_len(list) + 1) * sizeof(**out));
    *n = 0;
    JSON_FOREACH(o, list) {
        (*out)[(*n)++] = (struct component_state){.name = str_or_empty(json_get_str(o, "name")),
                                                  .pid = (pid_t)json_get_int(o, "pid", 0),
                                                  .started_unix_ns = json_get_int(o, "started", 0),
                                                  .restarts = json_get_int(o, "restarts", 0),
                                                  .last_exit = str_or_empty(json_get_str(o, "lastExit"))};
    }
    return 0;
}

static bool port_accepts(const char *text) {
    char host[64];
    int64_t port;
    const char *colon = strrchr(text, ':');
    snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
    struct sockaddr_in a = {.sin_family = AF_INET};
    if (str_to_i64(colon + 1, &port) < 0 || inet_pton(AF_INET, host, &a.sin_addr) != 1) return true;
    a.sin_port = htons((uint16_t)port);
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return false;
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) return true;
    if (errno != EINPROGRESS) return false;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int why = ETIMEDOUT;
    socklen_t len = sizeof(why);
    return poll(&p, 1, CONNECT_MS) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len) == 0 && why == 0;
}

static int open_log(const struct supervisor *s, const char *name) {
    _cleanup_free_ char *path = xasprintf("%s/log/%s.log", s->l->data, name);
    struct stat st;
    if (stat(path, &st) == 0 && st.st_size > LOG_MAX_BYTES) {
        _cleanup_free_ char *old = xasprintf("%s.1", path);
        if (rename(path, old) < 0) log_warn("cannot set a log aside", "path", path, NULL);
    }
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

static void on_exit_cb(uv_process_t *p, int64_t status, int signum) {
    struct child *ch = p->data;
    struct supervisor *s = ch->s;
    ch->running = false;
    if (signum)
        snprintf(ch->last_exit, sizeof(ch->last_exit), "signal %d", signum);
    else
        snprintf(ch->last_exit, sizeof(ch->last_exit), "exit status %lld", (long long)status);
    uv_close((uv_handle_t *)p, NULL);
    uv_timer_stop(&ch->timer);
    if (s->stopping) {
        log_info("stopped", "program", ch->c->name, NULL);
        return;
    }
    if (mono_ns() - ch->started_mono > STABLE_MS * NS_PER_MS) ch->backoff_ms = 0;
    ch->backoff_ms = ch->backoff_ms ? MIN_OF(ch->backoff_ms * 2, (uint64_t)RESTART_MAX_MS) : RESTART_FIRST_MS;
    ch->restarts++;
    log_warn("ended, restarting", "program", ch->c->name, "how", ch->last_exit, NULL);
    write_state(s);
    uv_timer_start(&ch->timer, try_start, ch->backoff_ms, 0);
}

static void spawn(struct child *ch) {
    struct supervisor *s = ch->s;
    _cleanup_close_ int log_fd = open_log(s, ch->c->name);
    uv_stdio_container_t io[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_INHERIT_FD, .data.fd = log_fd}, {.flags = UV_INHERIT_FD, .data.fd = log_fd}};
    uv_process_options_t o = {.exit_cb = on_exit_cb,
                              .file = ch->c->program,
                              .args = (char **)(uintptr_t)ch->c->argv,
                              .stdio = io,
                              .stdio_count = 3};
    ch->process.data = ch;
    ch->started_mono = mono_ns();
    ch->started_unix_ns = ktime_unix_ns(ktime_now());
    int r = uv_spawn(&s->loop, &ch->process, &o);
    if (r < 0) {
        uv_close((uv_handle_t *)&ch->process, NULL);
        snprintf(ch->last_exit, sizeof(ch->last_exit), "cannot start: %s", uv_strerror(r));
        log_error("cannot start", "program", ch->c->name, "error", uv_strerror(r), NULL);
        uv_timer_start(&ch->timer, try_start, RESTART_MAX_MS, 0);
        return;
    }
    ch->running = true;
    write_state(s);
}

static void try_start(uv_timer_t *t) {
    struct child *ch = t->data;
    if (ch->s->stopping || ch->running) return;
    if (!ch->waits_since) ch->waits_since = mono_ns();
    int64_t waited = (mono_ns() - ch->waits_since) / NS_PER_MS;
    if ((ch->c->wait_port && waited < WAIT_PORT_MS && !port_accepts(ch->c->wait_port)) ||
        (ch->c->wait_path && access(ch->c->wait_path, F_OK) < 0)) {
        uv_timer_start(t, try_start, waited < 1000 ? POLL_MS : POLL_LATE_MS, 0);
        return;
    }
    ch->waits_since = 0;
    spawn(ch);
}

/* ---- certificates: renewed before they end; the programs take up the new files by themselves ---- */

static void upkeep(uv_timer_t *t) {
    struct supervisor *s = t->data;
    int64_t now = ktime_now().sec;
    if (now < s->renew_at) return;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = *s->l;
    l.a = a;
    if (s->renew_at) {
        log_info("renewing certificates", NULL);
        if (identity_ensure(&l, &e) < 0) log_warn("cannot renew certificates", "error", e.msg, NULL);
    }
    s->renew_at = identity_renew_at(&l);
    if (s->renew_at <= now) s->renew_at = now + RETRY_RENEWAL_S;
}

/* ---- stopping: one program after the other, in reverse order ---- */

static void stop_next(uv_timer_t *t) {
    struct supervisor *s = t->data;
    size_t i = s->n;
    while (i > 0 && !s->children[i - 1].running) i--;
    if (i == 0) {
        for (size_t k = 0; k < s->n; k++) uv_close((uv_handle_t *)&s->children[k].timer, NULL);
        uv_close((uv_handle_t *)&s->stop_timer, NULL);
        uv_close((uv_handle_t *)&s->upkeep_timer, NULL);
        uv_close((uv_handle_t *)&s->term, NULL);
        uv_close((uv_handle_t *)&s->intr, NULL);
        return;
    }
    struct child *ch = &s->children[i - 1];
    if (!ch->stopping) {
        ch->stopping = true;
        ch->started_mono = mono_ns();
        uv_process_kill(&ch->process, SIGTERM);
    } else if (mono_ns() - ch->started_mono > STOP_GRACE_MS * NS_PER_MS) {
        uv_process_kill(&ch->process, SIGKILL);
    }
    uv_timer_start(t, stop_next, POLL_MS, 0);
}

static void on_signal(uv_signal_t *h, int signum) {
    struct supervisor *s = h->data;
    if (s->stopping) return;
    s->stopping = true;
    for (size_t i = 0; i < s->n; i++) uv_timer_stop(&s->children[i].timer);
    uv_timer_start(&s->stop_timer, stop_next, 0, 0);
}

/* ---- the lock, and what an earlier supervisor left ---- */

static int take_lock(const struct layout *l, int *out, struct err *e) {
    _cleanup_close_ int fd = open(layout_run(l, "supervisor.pid"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd < 0) return err_errno(e, errno, "%s/supervisor.pid", l->run);
    if (fcntl(fd, F_SETLK, &lock) < 0) return err_set(e, -EBUSY, "already running");
    char text[24];
    int n = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) < 0)
        return err_errno(e, errno, "%s/supervisor.pid", l->run);
    *out = take_fd(&fd);
    return 0;
}

/* True when the pid still is the program that components.json speaks of. */
static bool is_program(const struct component_list *c, const struct component_state *st) {
    char link[64], exe[4096];
    snprintf(link, sizeof(link), "/proc/%d/exe", (int)st->pid);
    ssize_t n = readlink(link, exe, sizeof(exe) - 1);
    if (n < 0) return false;
    exe[n] = 0;
    const char *base = strrchr(exe, '/');
    for (size_t i = 0; i < c->n; i++)
        if (str_eq(c->items[i].name, st->name)) {
            const char *mine = strrchr(c->items[i].program, '/');
            return base && mine && strncmp(base, mine, strlen(mine)) == 0;
        }
    return false;
}

static void end_leftovers(const struct layout *l, const struct component_list *c) {
    struct component_state *st;
    size_t n;
    if (supervisor_state(l, &st, &n, NULL) < 0) return;
    for (size_t i = 0; i < n; i++) {
        if (!st[i].pid || !is_program(c, &st[i])) continue;
        log_warn("ending a program of an earlier supervisor", "program", st[i].name, NULL);
        kill(st[i].pid, SIGTERM);
        for (int k = 0; k < 500 && kill(st[i].pid, 0) == 0; k++) usleep(10000);
        kill(st[i].pid, SIGKILL);
    }
}

int supervisor_run(const struct layout *l, const struct component_list *c, struct err *e) {
    _cleanup_close_ int lock = -1;
    int r = take_lock(l, &lock, e);
    if (r < 0) return r;
    end_leftovers(l, c);
    struct supervisor s = {.l = l, .n = c->n};
    s.children = xcalloc(c->n, sizeof(*s.children));
    uv_loop_init(&s.loop);
    s.term.data = s.intr.data = s.stop_timer.data = s.upkeep_timer.data = &s;
    uv_timer_init(&s.loop, &s.stop_timer);
    uv_timer_init(&s.loop, &s.upkeep_timer);
    if (str_eq(l->role, "server")) uv_timer_start(&s.upkeep_timer, upkeep, 0, UPKEEP_MS);
    uv_signal_init(&s.loop, &s.term);
    uv_signal_init(&s.loop, &s.intr);
    uv_signal_start(&s.term, on_signal, SIGTERM);
    uv_signal_start(&s.intr, on_signal, SIGINT);
    for (size_t i = 0; i < c->n; i++) {
        struct child *ch = &s.children[i];
        ch->c = &c->items[i];
        ch->s = &s;
        uv_timer_init(&s.loop, &ch->timer);
        ch->timer.data = ch;
        uv_timer_start(&ch->timer, try_start, 0, 0);
    }
    uv_run(&s.loop, UV_RUN_DEFAULT);
    write_state(&s);
    uv_loop_close(&s.loop);
    free(s.children);
    unlink(layout_run(l, "supervisor.pid"));
    return 0;
}
