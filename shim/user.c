#include "user.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

enum { USER_FILE_MAX = 1 << 20, USER_FIELDS = 7 };

static char *read_inside(struct arena *a, const char *rootfs, const char *path) {
    _cleanup_close_ int root = open(rootfs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    _cleanup_close_ int fd = root < 0 ? -1 : (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
    if (fd < 0) return "";
    char *text = arena_alloc(a, USER_FILE_MAX + 1);
    size_t n = 0;
    ssize_t r;
    while (n < USER_FILE_MAX && (r = read(fd, text + n, USER_FILE_MAX - n)) > 0) n += (size_t)r;
    text[n] = 0;
    return arena_realloc(a, text, USER_FILE_MAX + 1, n + 1);
}

/* Splits the next line at colons; NULL at the end. Missing fields are "". */
static char *next_line(char *p, char *fields[USER_FIELDS]) {
    if (!p || !*p) return NULL;
    char *end = strchrnul(p, '\n'), *next = *end ? end + 1 : end;
    *end = 0;
    for (size_t i = 0; i < USER_FIELDS; i++) {
        fields[i] = p;
        p = strchrnul(p, ':');
        if (*p) *p++ = 0;
    }
    return next;
}

static bool to_id(const char *s, uint32_t *out) {
    int64_t v;
    if (str_to_i64(s, &v) < 0 || v < 0 || v > UINT32_MAX - 1) return false;
    *out = (uint32_t)v;
    return true;
}

void user_add_group(struct arena *a, struct proc_user *u, uint32_t gid) {
    for (size_t i = 0; i < u->n_groups; i++)
        if (u->groups[i] == gid) return;
    if (u->n_groups >= PROC_USER_MAX_GROUPS) return;
    u->groups = arena_realloc(a, u->groups, u->n_groups * sizeof(uint32_t), (u->n_groups + 1) * sizeof(uint32_t));
    u->groups[u->n_groups++] = gid;
}

static bool list_has(const char *list, const char *name) {
    size_t n = strlen(name);
    while (*list) {
        size_t len = strcspn(list, ",");
        if (len == n && memcmp(list, name, n) == 0) return true;
        list += len + (list[len] == ',');
    }
    return false;
}

/* Fills uid, gid, home and the name (for group membership) from the passwd line of a name or number. */
static bool find_user(struct arena *a, const char *rootfs, const char *who, struct proc_user *u, const char **name) {
    char *f[USER_FIELDS], *p = read_inside(a, rootfs, "etc/passwd");
    uint32_t id = 0, uid, gid;
    bool numeric = to_id(who, &id);
    while ((p = next_line(p, f))) {
        if (!to_id(f[2], &uid) || !to_id(f[3], &gid)) continue;
        if (numeric ? uid != id : !str_eq(f[0], who)) continue;
        u->uid = uid;
        u->gid = gid;
        u->home = *f[5] ? f[5] : "/";
        *name = f[0];
        return true;
    }
    u->uid = id;
    return numeric;
}

static bool find_group(struct arena *a, const char *rootfs, const char *who, uint32_t *gid) {
    if (to_id(who, gid)) return true;
    char *f[USER_FIELDS], *p = read_inside(a, rootfs, "etc/group");
    while ((p = next_line(p, f)))
        if (str_eq(f[0], who) && to_id(f[2], gid)) return true;
    return false;
}

int user_lookup(struct arena *a, const char *rootfs, const char *spec, bool merge, struct proc_user *out,
                struct err *e) {
    *out = (struct proc_user){.home = "/"};
    const char *name = NULL;
    char *who = arena_strdup(a, str_empty(spec) ? "0" : spec), *group = strchr(who, ':');
    if (group) *group++ = 0;
    if (!*who) who = "0";
    if (!find_user(a, rootfs, who, out, &name))
        return err_set(e, -ENOENT, "user \"%s\" is not in the image's /etc/passwd", who);
    if (group && *group && !find_group(a, rootfs, group, &out->gid))
        return err_set(e, -ENOENT, "group \"%s\" is not in the image's /etc/group", group);
    if (!merge || !name) return 0;
    char *f[USER_FIELDS], *p = read_inside(a, rootfs, "etc/group");
    uint32_t gid;
    while ((p = next_line(p, f)))
        if (list_has(f[3], name) && to_id(f[2], &gid)) user_add_group(a, out, gid);
    return 0;
}
