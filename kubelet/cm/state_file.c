/* See state_file.h. */
#include "kubelet/cm/state_file.h"

#include <stdarg.h>

enum { FILE_MAX = 16 << 20 };

static uint32_t checksum(const char *text) {
    uint32_t h = 2166136261u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 16777619u;
    return h;
}

int state_file_read(struct arena *a, const char *path, struct json **out, struct err *e) {
    _cleanup_free_ char *text = NULL;
    _cleanup_err_ struct err why = {0};
    size_t n;
    int r = file_read(path, FILE_MAX, &text, &n);
    if (r == -ENOENT) return r;
    if (r < 0) return err_errno(e, r, "read %s", path);
    /* the values point into the text: a copy lives as long as they do */
    if (json_parse(a, arena_strndup(a, text, n), n, out, NULL, &why) < 0) return err_set(e, -EBADMSG, "%s", why.msg);
    return json_is(*out, JSON_OBJECT) ? 0 : err_set(e, -EBADMSG, "it is no JSON object");
}

int state_file_write(struct arena *a, const char *path, struct json *o, const char *dump, struct err *e) {
    json_set_int(a, o, "checksum", checksum(dump));
    const char *text = json_text(a, o);
    int r = file_write_atomic(path, text, strlen(text), 0600);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

bool state_file_intact(const struct json *o, const char *dump) {
    int64_t have = json_get_int(o, "checksum", 0);
    return have == 0 || have == (int64_t)checksum(dump);
}

int state_file_advise(struct err *e, const char *manager, const char *path, const char *fmt, ...) {
    char why[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    return err_set(e, -EINVAL,
                   "%s manager: %s, please drain this node and delete the %s manager checkpoint file \"%s\" before "
                   "restarting Kubelet",
                   manager, why, manager, path);
}
