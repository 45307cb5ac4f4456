#include "ns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include "fsutil.h"
#include "idmap.h"

static const struct {
    unsigned kind;
    int flag;
    const char *name;
} ns_table[] = {{NS_NET, CLONE_NEWNET, "net"}, {NS_IPC, CLONE_NEWIPC, "ipc"}, {NS_UTS, CLONE_NEWUTS, "uts"}};

static int pin(const char *source, const char *dir, const char *name, struct err *e) {
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    int r = fs_touch(path, 0444);
    if (r < 0) return err_errno(e, r, "create %s", path);
    if (mount(source, path, NULL, MS_BIND, NULL) < 0) {
        r = err_errno(e, errno, "pin %s on %s", source, path);
        unlink(path);
        return r;
    }
    return 0;
}

static int set_sysctls(const struct str_map *m, struct err *e) {
    for (size_t i = 0; m && i < m->n; i++) {
        char path[512];
        int len = snprintf(path, sizeof(path), "/proc/sys/%s", m->items[i].key);
        if (len >= (int)sizeof(path) || strstr(path, ".."))
            return err_set(e, -EINVAL, "bad sysctl name %s", m->items[i].key);
        bool slashes = strchr(m->items[i].key, '/') != NULL;
        for (char *p = path + strlen("/proc/sys/"); !slashes && *p; p++)
            if (*p == '.') *p = '/';
        int r = fs_write_str(path, str_or_empty(m->items[i].value));
        if (r < 0) return err_errno(e, r, "set sysctl %s", m->items[i].key);
    }
    return 0;
}

/* Pins the namespaces of a process ("thread-self", or a pid). */
static int pin_all(const struct ns_setup *s, const char *of, struct err *e) {
    char source[64];
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(ns_table); i++) {
        if (!(s->kinds & ns_table[i].kind)) continue;
        snprintf(source, sizeof(source), "/proc/%s/ns/%s", of, ns_table[i].name);
        r = pin(source, s->dir, ns_table[i].name, e);
    }
    return r;
}

/* A thread cannot change its user namespace: a child makes that and what it owns, and this thread enters the latter. */
static int create_owned(const struct ns_setup *s, int flags, struct err *e) {
    char of[16], source[64];
    pid_t child = idmap_holder(s->user, flags, e);
    if (child < 0) return child;
    snprintf(of, sizeof(of), "%d", (int)child);
    snprintf(source, sizeof(source), "/proc/%d/ns/user", (int)child);
    int r = pin(source, s->dir, "user", e);
    if (r == 0) r = pin_all(s, of, e);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(ns_table); i++) {
        if (!(s->kinds & ns_table[i].kind)) continue;
        snprintf(source, sizeof(source), "/proc/%d/ns/%s", (int)child, ns_table[i].name);
        _cleanup_close_ int fd = open(source, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || setns(fd, ns_table[i].flag) < 0) r = err_errno(e, errno, "enter %s", source);
    }
    idmap_holder_end(child);
    return r;
}

static int create_inside(const struct ns_setup *s, struct err *e) {
    int flags = 0, made = 0;
    for (size_t i = 0; i < ARRAY_LEN(ns_table); i++)
        if (s->kinds & ns_table[i].kind) flags |= ns_table[i].flag;
    if (s->user)
        made = create_owned(s, flags, e);
    else if (flags && unshare(flags) < 0)
        made = err_errno(e, errno, "make namespaces");
    else
        made = pin_all(s, "thread-self", e);
    if (made < 0) return made;
    if ((s->kinds & NS_UTS) && s->hostname && sethostname(s->hostname, strlen(s->hostname)) < 0)
        return err_errno(e, errno, "set hostname %s", s->hostname);
    int r = set_sysctls(s->sysctls, e);
    if (r < 0 || !s->inside) return r;
    _cleanup_close_ int netns = s->kinds & NS_NET ? open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC) : -1;
    return s->inside(netns, s->arg, e);
}

struct job {
    const struct ns_setup *setup;
    const char *netns;
    int (*fn)(void *arg, struct err *e);
    void *arg;
    struct err *e;
    int r;
};

static void *create_thread(void *arg) {
    struct job *j = arg;
    j->r = create_inside(j->setup, j->e);
    return NULL;
}

static int run_thread(void *(*fn)(void *), struct job *j) {
    pthread_t t;
    int r = pthread_create(&t, NULL, fn, j);
    if (r) return err_errno(j->e, r, "make a thread");
    pthread_join(t, NULL);
    return j->r;
}

int ns_create(const struct ns_setup *s, struct err *e) {
    struct job j = {.setup = s, .e = e};
    int r = run_thread(create_thread, &j);
    if (r < 0) ns_remove(s->dir);
    return r;
}

void ns_remove(const char *dir) {
    static const char *const names[] = {"net", "ipc", "uts", "pid", "user"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, names[i]);
        fs_unpin(path);
    }
}

bool ns_pinned(const char *dir, const char *name) {
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    struct statfs sf;
    return statfs(path, &sf) == 0 && sf.f_type == NSFS_MAGIC;
}

int ns_pin_pid(const char *dir, pid_t pid, struct err *e) {
    char source[64];
    snprintf(source, sizeof(source), "/proc/%d/ns/pid", (int)pid);
    return pin(source, dir, "pid", e);
}

static void *net_thread(void *arg) {
    struct job *j = arg;
    _cleanup_close_ int fd = open(j->netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        j->r = err_errno(j->e, errno, "enter %s", j->netns);
    else
        j->r = j->fn(j->arg, j->e);
    return NULL;
}

int ns_run_in_net(const char *dir, int (*fn)(void *arg, struct err *e), void *arg, struct err *e) {
    _cleanup_free_ char *path = xasprintf("%s/net", dir);
    struct job j = {.netns = path, .fn = fn, .arg = arg, .e = e};
    return run_thread(net_thread, &j);
}
