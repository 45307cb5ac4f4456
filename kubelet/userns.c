/* See userns.h. */
#include "kubelet/userns.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>

#include "pkg/json/json.h"

enum { IDS = 65536, FILE_MAX = 4096, MAX_RANGES = 32767 };

bool userns_wanted(const struct core_pod *p) { return p->spec.host_users && !*p->spec.host_users; }

/* First host id in a pod's file; 0: it has none. */
static uint32_t read_choice(struct arena *a, const char *path) {
    _cleanup_free_ char *text = NULL;
    size_t n;
    struct json *o;
    if (file_read(path, FILE_MAX, &text, &n) < 0 || json_parse(a, text, n, &o, NULL, NULL) < 0) return 0;
    int64_t id = json_get_int(json_item(json_get(o, "uidMappings"), 0), "hostId", 0);
    return id >= IDS && id <= UINT32_MAX - IDS && id % IDS == 0 ? (uint32_t)id : 0;
}

static int write_choice(struct arena *a, const char *path, uint32_t host, struct err *e) {
    struct json *o = json_object(a);
    static const char *const keys[] = {"uidMappings", "gidMappings"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct json *m = json_object(a);
        json_set_int(a, m, "hostId", host);
        json_set_int(a, m, "containerId", 0);
        json_set_int(a, m, "length", IDS);
        json_append(a, json_ensure_array(a, o, keys[i]), m);
    }
    const char *text = json_text(a, o);
    int r = file_write_atomic(path, text, strlen(text), 0600);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

/* The range of "kubelet" in /etc/subuid or /etc/subgid, in whole steps; false: there is none. */
static bool sub_ids(const char *file, uint32_t *first, uint32_t *ranges) {
    _cleanup_file_ FILE *f = fopen(file, "re");
    unsigned long start, count;
    char line[256];
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "kubelet:%lu:%lu", &start, &count) != 2 || start > UINT32_MAX || count > UINT32_MAX) continue;
        start = (start + IDS - 1) / IDS * IDS;
        *first = (uint32_t)MAX_OF(start, (unsigned long)IDS);
        *ranges = (uint32_t)(count / IDS);
        return true;
    }
    return false;
}

static bool taken(struct kubelet *kl, struct arena *a, uint32_t host) {
    DIR *d = opendir(arena_printf(a, "%s/pods", kl->cfg.root_dir));
    bool yes = false;
    for (struct dirent *ent; d && !yes && (ent = readdir(d));)
        if (ent->d_name[0] != '.')
            yes = read_choice(a, arena_printf(a, "%s/pods/%s/userns", kl->cfg.root_dir, ent->d_name)) == host;
    if (d) closedir(d);
    return yes;
}

static int choose(struct kubelet *kl, struct arena *a, const char *path, uint32_t *host, struct err *e) {
    uint32_t first = IDS, ranges = MAX_RANGES, gid_first, gid_ranges;
    if (sub_ids("/etc/subuid", &first, &ranges) &&
        (!sub_ids("/etc/subgid", &gid_first, &gid_ranges) || gid_first != first))
        return err_set(e, -EINVAL, "/etc/subuid and /etc/subgid give user \"kubelet\" different ids");
    /* One pod chooses at a time, whichever thread it is in. */
    _cleanup_close_ int dir = open(kl->cfg.root_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || flock(dir, LOCK_EX) < 0) return err_errno(e, errno, "lock %s", kl->cfg.root_dir);
    /* From anywhere on: ids that a pod has left behind (in files on shared volumes) are not soon another's. */
    uint32_t from = 0;
    if (getrandom(&from, sizeof(from), GRND_NONBLOCK) < 0) from = 0;
    for (uint32_t i = 0; i < ranges; i++) {
        *host = first + (from % ranges + i) % ranges * IDS;
        if (!taken(kl, a, *host)) return write_choice(a, path, *host, e);
    }
    return err_set(e, -ENOSPC, "no ids are left for another user namespace");
}

int userns_of(struct kubelet *kl, struct arena *a, const struct core_pod *p, struct cri_user_namespace **out,
              struct err *e) {
    const char *dir = kubelet_pod_dir(kl, a, p->metadata.uid), *path = arena_printf(a, "%s/userns", dir);
    uint32_t host = read_choice(a, path);
    int r = host ? 0 : mkdir_p(dir, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", dir);
    if (!host) r = choose(kl, a, path, &host, e);
    if (r < 0) return r;
    struct cri_user_namespace *u = arena_zalloc(a, sizeof(*u));
    u->mode = CRI_NAMESPACE_MODE_POD;
    u->uids.items = arena_zalloc(a, sizeof(*u->uids.items));
    u->uids.items[0] = (struct cri_id_mapping){.host_id = host, .container_id = 0, .length = IDS};
    u->uids.n = 1;
    u->gids = u->uids;
    *out = u;
    return 0;
}
