/* See cdi.h. A container with CDI devices reads all files anew: they are few, small, and change as drivers please. */
#include "cdi.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fsutil.h"
#include "pkg/base/map.h"
#include "pkg/yaml/yaml.h"
#include "spec.h"

const char *const cdi_dirs[] = {"/etc/cdi", "/var/run/cdi", NULL};

enum { NAME_MAX_BYTES = 512, EDITS_MAX = 1024 };

/* ---- names ---- */

static bool alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Letters, digits and `inner` characters, with a letter or digit (`first` alone: a letter) at both ends. */
static bool good_part(const char *s, size_t n, const char *inner, bool letter_first) {
    if (n == 0 || n > NAME_MAX_BYTES || !alnum(s[0]) || !alnum(s[n - 1])) return false;
    if (letter_first && s[0] <= '9') return false;
    for (size_t i = 0; i < n; i++)
        if (!alnum(s[i]) && (!s[i] || !strchr(inner, s[i]))) return false;
    return true;
}

/* "vendor/class" */
static bool good_kind(const char *s, size_t n) {
    const char *slash = memchr(s, '/', n);
    return slash && good_part(s, (size_t)(slash - s), "_-.", true) &&
           good_part(slash + 1, n - (size_t)(slash - s) - 1, "_-.", true);
}

static bool good_device(const char *s) { return good_part(s, strlen(s), "_-.:", false); }

/* ---- one file ---- */

static bool known_version(const char *v) {
    static const char *const known[] = {"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (str_eq(v, known[i])) return true;
    return false;
}

static bool strings_only(const struct json *list) {
    const struct json *it;
    if (list && !json_is(list, JSON_NULL) && !json_is(list, JSON_ARRAY)) return false;
    JSON_FOREACH(it, list)
        if (!json_is(it, JSON_STRING)) return false;
    return true;
}

static bool absolute(const char *s) { return s && *s == '/'; }

static int check_node(const struct json *d, struct err *e) {
    const char *path = json_get_str(d, "path"), *type = str_or_empty(json_get_str(d, "type"));
    const char *access = str_or_empty(json_get_str(d, "permissions"));
    if (!absolute(path)) return err_set(e, -EINVAL, "device node without a path");
    if (*type && (strlen(type) != 1 || !strchr("bcup", *type)))
        return err_set(e, -EINVAL, "device node %s: invalid type \"%s\"", path, type);
    if (access[strspn(access, "rwm")])
        return err_set(e, -EINVAL, "device node %s: invalid permissions \"%s\"", path, access);
    return 0;
}

static int check_hook(const struct json *h, struct err *e) {
    static const char *const names[] = {"prestart",       "createRuntime", "createContainer",
                                        "startContainer", "poststart",     "poststop"};
    const char *name = str_or_empty(json_get_str(h, "hookName"));
    bool known = false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) known |= str_eq(name, names[i]);
    if (!known) return err_set(e, -EINVAL, "invalid hook name \"%s\"", name);
    if (!absolute(json_get_str(h, "path"))) return err_set(e, -EINVAL, "hook %s without a path", name);
    if (!strings_only(json_get(h, "args")) || !strings_only(json_get(h, "env")))
        return err_set(e, -EINVAL, "hook %s: arguments and environment are strings", name);
    return 0;
}

static int check_edits(const struct json *edits, struct err *e) {
    const struct json *it;
    int r = 0;
    if (json_len(json_get(edits, "env")) + json_len(json_get(edits, "deviceNodes")) +
            json_len(json_get(edits, "mounts")) + json_len(json_get(edits, "hooks")) >
        EDITS_MAX)
        return err_set(e, -EFBIG, "more than %d edits", EDITS_MAX);
    if (!strings_only(json_get(edits, "env"))) return err_set(e, -EINVAL, "env: strings are wanted");
    JSON_FOREACH(it, json_get(edits, "env"))
        if (strcspn(json_as_str(it), "=") == 0 || !strchr(json_as_str(it), '='))
            return err_set(e, -EINVAL, "invalid environment variable \"%s\"", json_as_str(it));
    JSON_FOREACH(it, json_get(edits, "deviceNodes"))
        if (r == 0) r = check_node(it, e);
    JSON_FOREACH(it, json_get(edits, "hooks"))
        if (r == 0) r = check_hook(it, e);
    JSON_FOREACH(it, json_get(edits, "mounts"))
        if (r == 0 && (!json_get_str(it, "hostPath") || !absolute(json_get_str(it, "containerPath")) ||
                       !strings_only(json_get(it, "options"))))
            r = err_set(e, -EINVAL, "a mount needs hostPath, containerPath, and options that are strings");
    if (r == 0 && json_len(json_get(edits, "netDevices")))
        r = err_set(e, -ENOTSUP, "network devices (netDevices) cannot be moved into containers by this runtime");
    return r;
}

int cdi_check(struct arena *a, const struct json *file, struct err *e) {
    const char *kind = str_or_empty(json_get_str(file, "kind"));
    const struct json *devices = json_get(file, "devices"), *it;
    _cleanup_map_ struct map seen = MAP_INIT;
    if (!known_version(json_get_str(file, "cdiVersion")))
        return err_set(e, -EINVAL, "unknown cdiVersion \"%s\"", str_or_empty(json_get_str(file, "cdiVersion")));
    if (!good_kind(kind, strlen(kind))) return err_set(e, -EINVAL, "invalid kind \"%s\"", kind);
    if (!json_len(devices)) return err_set(e, -EINVAL, "no devices");
    int r = check_edits(json_get(file, "containerEdits"), e);
    JSON_FOREACH(it, devices) {
        const char *name = str_or_empty(json_get_str(it, "name"));
        if (r < 0) return r;
        if (!good_device(name)) return err_set(e, -EINVAL, "invalid device name \"%s\"", name);
        if (map_has(&seen, name)) return err_set(e, -EINVAL, "device \"%s\" is there twice", name);
        map_put(&seen, name, &seen);
        r = check_edits(json_get(it, "containerEdits"), e);
        if (r < 0) return err_wrap(e, "device %s", name);
    }
    return r;
}

/* ---- on the specification ---- */

static void apply_env(struct arena *a, const struct json *edits, struct json *spec) {
    struct json *process = json_ensure_object(a, spec, "process"), *env = json_ensure_array(a, process, "env");
    const struct json *it;
    JSON_FOREACH(it, json_get(edits, "env")) spec_set_env(a, env, json_as_str(it));
}

/* What the file leaves out is as on the host. */
static int apply_node(struct arena *a, const struct json *d, struct json *spec, struct err *e) {
    const char *path = json_get_str(d, "path"), *host = json_get_str(d, "hostPath");
    const char *type = str_or_empty(json_get_str(d, "type")), *access = json_get_str(d, "permissions");
    int64_t major_ = json_get_int(d, "major", 0), minor_ = json_get_int(d, "minor", 0);
    struct json *linux_ = json_ensure_object(a, spec, "linux"), *devices = json_ensure_array(a, linux_, "devices");
    struct json *o = json_object(a), *allow = json_object(a);
    struct stat st = {0};
    bool have = stat(str_empty(host) ? path : host, &st) == 0;
    if (!*type || ((*type == 'b' || *type == 'c') && !major_)) {
        if (!have) return err_errno(e, errno, "device node %s", str_empty(host) ? path : host);
        const char *is = S_ISBLK(st.st_mode) ? "b" : S_ISCHR(st.st_mode) ? "c" : S_ISFIFO(st.st_mode) ? "p" : "";
        if (!*is || (*type && !str_eq(is, *type == 'u' ? "c" : type)))
            return err_set(e, -EINVAL, "%s is no device node of type \"%s\"", str_empty(host) ? path : host, type);
        type = is;
        major_ = major(st.st_rdev);
        minor_ = minor(st.st_rdev);
    }
    for (size_t i = json_len(devices); i-- > 0;)
        if (str_eq(json_get_str(json_item(devices, i), "path"), path)) json_del_at(devices, i);
    json_set_str(a, o, "path", path);
    json_set_str(a, o, "type", type);
    if (*type != 'p') {
        json_set_int(a, o, "major", major_);
        json_set_int(a, o, "minor", minor_);
    }
    int64_t mode = json_get_int(d, "fileMode", have ? (int64_t)(st.st_mode & 07777) : 0);
    if (mode > 0) json_set_int(a, o, "fileMode", mode & 07777);
    const struct json *user = json_at(spec, "process", "user", NULL);
    for (size_t i = 0; i < 2; i++) {
        const char *key = i ? "gid" : "uid";
        int64_t id = json_get_int(d, key, json_get_int(user, key, 0));
        if (id > 0) json_set_int(a, o, key, id);
    }
    json_append(a, devices, o);
    if (*type == 'p') return 0;
    json_set_bool(a, allow, "allow", true);
    json_set_str(a, allow, "type", *type == 'u' ? "c" : type);
    json_set_int(a, allow, "major", major_);
    json_set_int(a, allow, "minor", minor_);
    json_set_str(a, allow, "access", str_empty(access) ? "rwm" : access);
    json_append(a, json_ensure_array(a, json_ensure_object(a, linux_, "resources"), "devices"), allow);
    return 0;
}

static int depth_of(const char *path) {
    int n = 0;
    for (; *path; path++) n += *path == '/' && path[1] && path[1] != '/';
    return n;
}

/* Before the first mount that lies deeper, so that none is hidden by its parent. */
static void apply_mount(struct arena *a, const struct json *m, struct json *spec) {
    struct json *mounts = json_ensure_array(a, spec, "mounts"), *o = json_object(a);
    const char *path = json_get_str(m, "containerPath"), *type = json_get_str(m, "type");
    for (size_t i = json_len(mounts); i-- > 0;)
        if (str_eq(json_get_str(json_item(mounts, i), "destination"), path)) json_del_at(mounts, i);
    json_set_str(a, o, "destination", path);
    json_set_str(a, o, "source", json_get_str(m, "hostPath"));
    json_set_str(a, o, "type", str_empty(type) ? "bind" : type);
    struct json *options = json_is(json_get(m, "options"), JSON_ARRAY) ? json_clone(a, json_get(m, "options")) : NULL;
    if (!json_len(options) && str_empty(type)) {
        options = json_array(a);
        json_append(a, options, json_str(a, "rbind"));
    }
    if (options) json_set(a, o, "options", options);
    size_t at = json_len(mounts);
    while (at > 0 && depth_of(str_or_empty(json_get_str(json_item(mounts, at - 1), "destination"))) > depth_of(path))
        at--;
    json_insert(a, mounts, at, o);
}

static void apply_hook(struct arena *a, const struct json *h, struct json *spec) {
    struct json *o = json_object(a), *hooks = json_ensure_object(a, spec, "hooks");
    json_set_str(a, o, "path", json_get_str(h, "path"));
    if (json_len(json_get(h, "args"))) json_set(a, o, "args", json_clone(a, json_get(h, "args")));
    if (json_len(json_get(h, "env"))) json_set(a, o, "env", json_clone(a, json_get(h, "env")));
    if (json_get_int(h, "timeout", 0) > 0) json_set_int(a, o, "timeout", json_get_int(h, "timeout", 0));
    json_append(a, json_ensure_array(a, hooks, json_get_str(h, "hookName")), o);
}

static void apply_groups(struct arena *a, const struct json *edits, struct json *spec) {
    struct json *process = json_ensure_object(a, spec, "process"), *user = json_ensure_object(a, process, "user");
    const struct json *it, *had;
    JSON_FOREACH(it, json_get(edits, "additionalGIDs")) {
        struct json *groups = json_ensure_array(a, user, "additionalGids");
        int64_t id = json_as_int(it, 0);
        bool have = id <= 0 || id > UINT32_MAX;
        JSON_FOREACH(had, groups) have |= json_as_int(had, 0) == id;
        if (!have) json_append(a, groups, json_int(a, id));
    }
}

int cdi_apply(struct arena *a, const struct json *edits, struct json *spec, struct err *e) {
    const struct json *it;
    int r = check_edits(edits, e);
    if (r < 0 || !edits) return r;
    apply_env(a, edits, spec);
    JSON_FOREACH(it, json_get(edits, "deviceNodes"))
        if (r == 0) r = apply_node(a, it, spec, e);
    if (r < 0) return r;
    JSON_FOREACH(it, json_get(edits, "mounts")) apply_mount(a, it, spec);
    JSON_FOREACH(it, json_get(edits, "hooks")) apply_hook(a, it, spec);
    apply_groups(a, edits, spec);
    return 0;
}

/* ---- the folders ---- */

struct found { /* where a wanted device is described */
    const struct json *file, *device;
    size_t dir;
    bool twice;
};

/* Notes which of the wanted devices the file describes. */
static void look(const struct json *file, size_t dir, const char *const *names, size_t n, struct found *out) {
    const char *kind = json_get_str(file, "kind");
    const struct json *it;
    for (size_t i = 0; i < n; i++) {
        const char *eq = strchr(names[i], '=');
        if (!eq || strlen(kind) != (size_t)(eq - names[i]) || strncmp(kind, names[i], strlen(kind)) != 0) continue;
        JSON_FOREACH(it, json_get(file, "devices")) {
            if (!str_eq(json_get_str(it, "name"), eq + 1)) continue;
            bool again = out[i].file && out[i].dir == dir;
            out[i] = (struct found){file, it, dir, again};
        }
    }
}

static void look_through(struct arena *a, const char *const *dirs, const char *const *names, size_t n,
                         struct found *out) {
    for (size_t d = 0; dirs[d]; d++) {
        const char **files;
        size_t n_files;
        if (fs_list(a, dirs[d], &files, &n_files) < 0) continue;
        for (size_t i = 0; i < n_files && i < CDI_FILES_MAX; i++) {
            struct json *file;
            bool ours = str_has_suffix(files[i], ".json") || str_has_suffix(files[i], ".yaml");
            if (!ours ||
                yaml_read_file(a, arena_printf(a, "%s/%s", dirs[d], files[i]), CDI_FILE_MAX, &file, NULL) < 0 ||
                cdi_check(a, file, NULL) < 0)
                continue;
            look(file, d, names, n, out);
        }
    }
}

int cdi_inject(struct arena *a, const char *const *dirs, const char *const *names, size_t n, struct json *spec,
               struct err *e) {
    if (n == 0) return 0;
    if (n > CDI_DEVICES_MAX) return err_set(e, -EFBIG, "more than %d CDI devices", CDI_DEVICES_MAX);
    struct found *found = arena_zalloc(a, n * sizeof(*found));
    look_through(a, dirs, names, n, found);
    struct buf missing = BUF_INIT;
    int r = 0;
    for (size_t i = 0; i < n; i++)
        if (!found[i].file) buf_printf(&missing, "%s%s", missing.len ? ", " : "", names[i]);
    if (missing.len)
        r = err_set(e, -ENOENT, "unresolvable CDI devices %.*s", (int)MIN_OF(missing.len, 800u), missing.data);
    buf_done(&missing);
    for (size_t i = 0; r == 0 && i < n; i++) {
        bool first = true;
        if (found[i].twice)
            return err_set(e, -EEXIST, "conflicting CDI device \"%s\": two files of %s describe it", names[i],
                           dirs[found[i].dir]);
        for (size_t k = 0; k < i; k++) first &= found[k].file != found[i].file;
        if (first) r = cdi_apply(a, json_get(found[i].file, "containerEdits"), spec, e);
        if (r == 0) r = cdi_apply(a, json_get(found[i].device, "containerEdits"), spec, e);
        if (r < 0) return err_wrap(e, "CDI device %s", names[i]);
    }
    return r;
}
