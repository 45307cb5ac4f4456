/* The audit file. Rotation is that of the lumberjack package which upstream uses: "audit.log" becomes
 * "audit-2026-01-02T03-04-05.678.log" when the next line would make it larger than the limit, and old ones go by number and
 * age. Compressing them is the work of a thread that lasts as long as that. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "apiserver/audit/audit.h"
#include "pkg/base/buf.h"

enum { STAMP_LEN = 23, BACKUPS_SCANNED = 4096, COPY_BYTES = 64 * 1024 };
#define GZ ".gz"

struct audit_log {
    struct audit_log_options o;
    char *path, *dir, *stem, *ext; /* dir/stem.ext; ext with its dot, or "" */
    int fd;
    int64_t size;
    pthread_mutex_t lock; /* of the file in mode blocking, of the queue in mode batch */
    pthread_cond_t cond;
    struct buf waiting; /* whole lines */
    int64_t n_waiting;
    bool stop, started;
    pthread_t thread;
    _Atomic uint64_t lost;
    pthread_t packer; /* compresses; joined before the next one */
    bool packs;
};

static void split_path(struct audit_log *l) {
    const char *slash = strrchr(l->path, '/'), *base = slash ? slash + 1 : l->path, *dot = strrchr(base, '.');
    l->dir = slash ? xstrndup(l->path, slash == l->path ? 1 : (size_t)(slash - l->path)) : xstrdup(".");
    l->stem = dot && dot > base ? xstrndup(base, (size_t)(dot - base)) : xstrdup(base);
    l->ext = xstrdup(dot && dot > base ? dot : "");
}

static int open_file(struct audit_log *l, struct err *e) {
    struct stat st;
    l->fd = open(l->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (l->fd < 0) return err_errno(e, errno, "opening %s", l->path);
    l->size = fstat(l->fd, &st) == 0 ? st.st_size : 0;
    return 0;
}

/* ---- rotation ---- */

/* "2026-01-02T03-04-05.678" */
static void stamp(struct ktime t, char out[KTIME_MAX]) {
    ktime_format_micro(t, out);
    out[STAMP_LEN] = 0;
    for (char *p = out; *p; p++)
        if (*p == ':') *p = '-';
}

static int by_name_down(const void *x, const void *y) { return strcmp(*(char *const *)y, *(char *const *)x); }

static bool is_backup(const struct audit_log *l, const char *name) {
    size_t stem = strlen(l->stem), ext = strlen(l->ext), n = strlen(name);
    if (str_has_suffix(name, GZ)) n -= strlen(GZ);
    return n == stem + 1 + STAMP_LEN + ext && strncmp(name, l->stem, stem) == 0 && name[stem] == '-' &&
           strncmp(name + n - ext, l->ext, ext) == 0;
}

/* Removes the backups that are too many or too old. Their names sort by time. */
static void remove_old(struct audit_log *l) {
    char *names[BACKUPS_SCANNED], limit[KTIME_MAX];
    size_t n = 0;
    DIR *d = l->o.max_backups || l->o.max_age_days ? opendir(l->dir) : NULL;
    if (!d) return;
    for (struct dirent *en; n < BACKUPS_SCANNED && (en = readdir(d));)
        if (is_backup(l, en->d_name)) names[n++] = xstrdup(en->d_name);
    qsort(names, n, sizeof(*names), by_name_down);
    stamp(ktime_add_ns(ktime_now(), -l->o.max_age_days * 24 * 3600 * NS_PER_SEC), limit);
    for (size_t i = 0; i < n; i++) {
        bool many = l->o.max_backups && i >= (size_t)l->o.max_backups;
        bool old = l->o.max_age_days && strncmp(names[i] + strlen(l->stem) + 1, limit, STAMP_LEN) < 0;
        if (many || old) unlinkat(dirfd(d), names[i], 0);
        free(names[i]);
    }
    closedir(d);
}

/* "x.log" to "x.log.gz"; by way of a name that nobody takes for a backup. */
static void pack(const struct audit_log *l, const char *name) {
    _cleanup_free_ char *from = xasprintf("%s/%s", l->dir, name), *tmp = xasprintf("%s/.%s.packing", l->dir, name),
                        *to = xasprintf("%s" GZ, from), *copy = xmalloc(COPY_BYTES);
    _cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    if (in < 0 || (out = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0) return;
    gzFile z = gzdopen(dup(out), "wb");
    ssize_t n = -1;
    while (z && (n = read(in, copy, COPY_BYTES)) > 0)
        if (gzwrite(z, copy, (unsigned)n) != n) break;
    bool good = z && gzclose(z) == Z_OK && n == 0;
    if (good && rename(tmp, to) == 0)
        unlink(from);
    else
        unlink(tmp);
}

static void *packer(void *arg) {
    struct audit_log *l = arg;
    DIR *d = opendir(l->dir);
    for (struct dirent *en; d && (en = readdir(d));)
        if (is_backup(l, en->d_name) && !str_has_suffix(en->d_name, GZ)) pack(l, en->d_name);
    if (d) closedir(d);
    return NULL;
}

static void pack_all(struct audit_log *l) {
    if (!l->o.compress) return;
    if (l->packs) pthread_join(l->packer, NULL);
    l->packs = pthread_create(&l->packer, NULL, packer, l) == 0;
}

static void rotate(struct audit_log *l) {
    char when[KTIME_MAX];
    stamp(ktime_now(), when);
    _cleanup_free_ char *to = xasprintf("%s/%s-%s%s", l->dir, l->stem, when, l->ext);
    close(l->fd);
    rename(l->path, to);
    if (open_file(l, NULL)) l->fd = -1;
    remove_old(l);
    pack_all(l);
}

/* Lines, of which `n` are lost when the file cannot be written. */
static bool put(struct audit_log *l, const char *p, size_t len, uint64_t n) {
    int64_t max = l->o.max_size_mb << 20;
    bool plain = !str_eq(l->o.path, "-");
    if (plain && l->fd < 0) open_file(l, NULL);
    if (plain && max && l->size && l->size + (int64_t)len > max) rotate(l);
    for (size_t done = 0; done < len;) {
        ssize_t k = l->fd < 0 ? -1 : write(l->fd, p + done, len - done);
        if (k < 0 && l->fd >= 0 && errno == EINTR) continue;
        if (k < 0) {
            atomic_fetch_add(&l->lost, n);
            return false;
        }
        done += (size_t)k;
        l->size += k;
    }
    return true;
}

/* ---- mode batch ---- */

static void *run(void *arg) {
    struct audit_log *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop || l->n_waiting) {
        while (!l->stop && !l->n_waiting) pthread_cond_wait(&l->cond, &l->lock);
        struct buf b = l->waiting;
        uint64_t n = (uint64_t)l->n_waiting;
        l->waiting = (struct buf)BUF_INIT;
        l->n_waiting = 0;
        pthread_mutex_unlock(&l->lock);
        if (n) put(l, b.data, b.len, n);
        buf_done(&b);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

bool audit_log_write(struct audit_log *l, const char *line, size_t len) {
    bool ok;
    pthread_mutex_lock(&l->lock);
    if (!l->o.batch) {
        ok = put(l, line, len, 1);
    } else {
        ok = l->n_waiting < (l->o.queue ? l->o.queue : AUDIT_QUEUE) && !l->stop;
        if (ok) {
            buf_add(&l->waiting, line, len);
            if (l->n_waiting++ == 0) pthread_cond_signal(&l->cond);
        } else {
            atomic_fetch_add(&l->lost, 1);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return ok;
}

uint64_t audit_log_lost(const struct audit_log *l) { return atomic_load(&((struct audit_log *)l)->lost); }

int audit_log_open(const struct audit_log_options *o, struct audit_log **out, struct err *e) {
    struct audit_log *l = xcalloc(1, sizeof(*l));
    l->o = *o;
    l->path = xstrdup(o->path);
    l->o.path = l->path;
    l->fd = STDOUT_FILENO;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->cond, NULL);
    split_path(l);
    int rc = str_eq(o->path, "-") ? 0 : open_file(l, e);
    if (!rc && o->batch && (rc = pthread_create(&l->thread, NULL, run, l)))
        rc = err_errno(e, rc, "a thread for the audit log");
    l->started = !rc && o->batch;
    if (rc)
        audit_log_close(l);
    else
        *out = l;
    return rc;
}

void audit_log_close(struct audit_log *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
    if (l->started) pthread_join(l->thread, NULL);
    if (l->packs) pthread_join(l->packer, NULL);
    if (l->fd > STDERR_FILENO) close(l->fd);
    buf_done(&l->waiting);
    free(l->path);
    free(l->dir);
    free(l->stem);
    free(l->ext);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->cond);
    free(l);
}
