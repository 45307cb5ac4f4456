#include "ref.h"

#include <ctype.h>

bool is_hex_id(const char *s, size_t min) {
    size_t n = strspn(s, "0123456789abcdef");
    return s[n] == 0 && n >= min && n <= 64;
}

bool digest_valid(const char *s) { return s && str_has_prefix(s, "sha256:") && is_hex_id(s + 7, 64); }

/* A path component: lower-case alphanumerics joined by '.', '_', '__' or any number of '-'. */
static bool component_ok(const char *s, size_t n) {
    if (n == 0) return false;
    bool sep = true;
    for (size_t i = 0; i < n;) {
        if (islower((unsigned char)s[i]) || isdigit((unsigned char)s[i])) {
            sep = false;
            i++;
            continue;
        }
        if (sep) return false;
        sep = true;
        if (s[i] == '.')
            i++;
        else if (s[i] == '_')
            i += i + 1 < n && s[i + 1] == '_' ? 2 : 1;
        else if (s[i] == '-')
            while (i < n && s[i] == '-') i++;
        else
            return false;
    }
    return !sep;
}

static bool path_ok(const char *p) {
    for (;;) {
        const char *slash = strchrnul(p, '/');
        if (!component_ok(p, (size_t)(slash - p))) return false;
        if (!*slash) return true;
        p = slash + 1;
    }
}

static bool tag_ok(const char *t) {
    size_t n = strlen(t);
    if (n == 0 || n > 128 || !(isalnum((unsigned char)*t) || *t == '_')) return false;
    for (; *t; t++)
        if (!isalnum((unsigned char)*t) && !strchr("._-", *t)) return false;
    return true;
}

static bool host_ok(const char *h) {
    if (*h == '[') { /* IPv6 literal */
        const char *close = strchr(h, ']');
        return close && strspn(h + 1, "0123456789abcdefABCDEF:") == (size_t)(close - h - 1) &&
               (close[1] == 0 || (close[1] == ':' && close[2] && strspn(close + 2, "0123456789") == strlen(close + 2)));
    }
    const char *colon = strchrnul(h, ':');
    if (!isalnum((unsigned char)*h) || !isalnum((unsigned char)colon[-1])) return false;
    for (const char *p = h; p < colon; p++)
        if (!isalnum((unsigned char)*p) && !strchr(".-_", *p)) return false;
    return !*colon || (colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1));
}

/* What stands before the first '/' is a host when it looks like one. */
static bool looks_like_host(const char *s, size_t n) {
    if (n == 9 && memcmp(s, "localhost", 9) == 0) return true;
    for (size_t i = 0; i < n; i++)
        if (s[i] == '.' || s[i] == ':' || isupper((unsigned char)s[i])) return true;
    return false;
}

int image_ref_parse(struct arena *a, const char *s, struct image_ref *out, struct err *e) {
    struct image_ref r = {0};
    size_t n = strlen(str_or_empty(s));
    if (n == 0 || n > IMAGE_REF_MAX) return err_set(e, -EINVAL, "invalid image reference: bad length");
    char *name = arena_strdup(a, s);
    char *at = strchr(name, '@');
    if (at) {
        *at = 0;
        r.digest = at + 1;
        if (!digest_valid(r.digest)) return err_set(e, -EINVAL, "invalid image reference %s: unsupported digest", s);
    }
    char *slash = strrchr(name, '/');
    char *colon = strrchr(slash ? slash : name, ':');
    if (colon) {
        *colon = 0;
        r.tag = colon + 1;
        if (!tag_ok(r.tag)) return err_set(e, -EINVAL, "invalid image reference %s: bad tag", s);
    } else if (!r.digest) {
        r.tag = "latest";
    }
    slash = strchr(name, '/');
    if (slash && looks_like_host(name, (size_t)(slash - name))) {
        r.host = arena_strndup(a, name, (size_t)(slash - name));
        r.path = slash + 1;
    } else {
        r.host = "docker.io";
        r.path = name;
    }
    if (str_eq(r.host, "index.docker.io")) r.host = "docker.io";
    if (!host_ok(r.host)) return err_set(e, -EINVAL, "invalid image reference %s: bad registry host", s);
    if (!path_ok(r.path)) return err_set(e, -EINVAL, "invalid image reference %s: bad repository name", s);
    if (str_eq(r.host, "docker.io") && !strchr(r.path, '/')) r.path = arena_printf(a, "library/%s", r.path);
    *out = r;
    return 0;
}

const char *image_ref_repo(struct arena *a, const struct image_ref *r) {
    return arena_printf(a, "%s/%s", r->host, r->path);
}

const char *image_ref_str(struct arena *a, const struct image_ref *r) {
    return arena_printf(a, "%s/%s%s%s%s%s", r->host, r->path, r->tag ? ":" : "", str_or_empty(r->tag),
                        r->digest ? "@" : "", str_or_empty(r->digest));
}
