/* See rewrite.h. The page is read as far as tags and attributes go, in one pass: comments and the texts of scripts and
 * styles are passed by, values are looked at where the element's attribute is known to hold a URL. */
#include "apiserver/rewrite.h"

#include <ctype.h>
#include <strings.h>

#include "pkg/base/util.h"

enum { NAME_MAX_LEN = 16, URL_MAX_LEN = 16 * 1024 };

/* element attribute attribute ... */
static const char *const holders[] = {"a href",
                                      "applet codebase",
                                      "area href",
                                      "audio src",
                                      "base href",
                                      "blockquote cite",
                                      "body background",
                                      "button formaction",
                                      "del cite",
                                      "embed src",
                                      "form action",
                                      "frame longdesc src",
                                      "head profile",
                                      "html manifest",
                                      "iframe longdesc src",
                                      "img longdesc src usemap",
                                      "input formaction src usemap",
                                      "ins cite",
                                      "link href",
                                      "object classid codebase data usemap",
                                      "q cite",
                                      "script src",
                                      "source src",
                                      "video poster src"};

const char *rewrite_url(struct arena *a, const struct rewrite *w, const char *url) {
    const char *sep = strstr(url, "://"), *path = url;
    bool absolute = sep && strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == (size_t)(sep - url);
    if (absolute || str_has_prefix(url, "//")) {
        const char *host = absolute ? sep + 3 : url + 2;
        size_t n = strcspn(host, "/?#");
        bool ours = (strlen(w->target) == n && memcmp(host, w->target, n) == 0) ||
                    (strlen(w->host) == n && memcmp(host, w->host, n) == 0);
        if (!ours) return url;
        path = host + n;
    }
    size_t n = strlen(w->prefix);
    bool below = strncmp(path, w->prefix, n) == 0 && (!path[n] || strchr("/?#", path[n]));
    if (path == url) return *url == '/' && !below ? arena_printf(a, "%s%s", w->prefix, url) : url;
    return arena_printf(a, "%s://%s%s%s", w->scheme, w->host, below ? "" : w->prefix, path);
}

/* ---- the page ---- */

struct page {
    const struct rewrite *w;
    const char *p, *end, *kept; /* from kept to p: read and not yet passed on */
    struct buf *out;
};

static bool starts(const struct page *g, const char *text) {
    size_t n = strlen(text);
    return (size_t)(g->end - g->p) >= n && strncasecmp(g->p, text, n) == 0;
}

/* Goes behind the next `text`, or to the end. */
static void skip_past(struct page *g, const char *text) {
    while (g->p < g->end && !starts(g, text)) g->p++;
    g->p = g->p < g->end ? g->p + strlen(text) : g->end;
}

/* A name in lower case, cut to what fits: longer ones are known to nobody. */
static void read_name(struct page *g, char out[NAME_MAX_LEN + 1]) {
    size_t n = 0;
    for (; g->p < g->end && !isspace((unsigned char)*g->p) && !strchr("/>=", *g->p); g->p++)
        if (n < NAME_MAX_LEN) out[n++] = (char)tolower((unsigned char)*g->p);
    out[n] = '\0';
}

static void skip_space(struct page *g) {
    while (g->p < g->end && isspace((unsigned char)*g->p)) g->p++;
}

static bool holds_url(const char *element, const char *attribute) {
    size_t n = strlen(element);
    if (!n || !*attribute) return false;
    for (size_t i = 0; i < ARRAY_LEN(holders); i++) {
        if (strncmp(holders[i], element, n) != 0 || holders[i][n] != ' ') continue;
        for (const char *s = holders[i] + n; *s;) {
            size_t len = strcspn(++s, " ");
            if (len == strlen(attribute) && memcmp(s, attribute, len) == 0) return true;
            s += len;
        }
    }
    return false;
}

static void put_value(struct page *g, const char *value, size_t len) {
    if (len > URL_MAX_LEN || memchr(value, 0, len)) return;
    _cleanup_arena_ struct arena *a = arena_new();
    const char *was = arena_strndup(a, value, len), *now = rewrite_url(a, g->w, was);
    if (now == was) return;
    buf_add(g->out, g->kept, (size_t)(value - g->kept));
    buf_adds(g->out, now);
    g->kept = value + len;
}

/* After the attribute's name: = and a value, quoted or not. */
static void read_value(struct page *g, bool url) {
    skip_space(g);
    if (g->p >= g->end || *g->p != '=') return;
    g->p++;
    skip_space(g);
    if (g->p >= g->end) return;
    char quote = *g->p == '"' || *g->p == '\'' ? *g->p++ : '\0';
    const char *start = g->p;
    while (g->p < g->end && (quote ? *g->p != quote : !isspace((unsigned char)*g->p) && *g->p != '>')) g->p++;
    if (url) put_value(g, start, (size_t)(g->p - start));
    if (quote && g->p < g->end) g->p++;
}

static void read_tag(struct page *g) {
    static const char *const raw[][2] = {
        {"script", "</script"}, {"style", "</style"}, {"textarea", "</textarea"}, {"title", "</title"}};
    char element[NAME_MAX_LEN + 1], attribute[NAME_MAX_LEN + 1];
    read_name(g, element);
    while (g->p < g->end && *g->p != '>') {
        const char *before = g->p;
        skip_space(g);
        read_name(g, attribute);
        read_value(g, holds_url(element, attribute));
        if (g->p == before) g->p++; /* a stray / or = */
    }
    if (g->p < g->end) g->p++;
    for (size_t i = 0; i < ARRAY_LEN(raw); i++)
        if (str_eq(element, raw[i][0])) skip_past(g, raw[i][1]);
}

void rewrite_html(const struct rewrite *w, const char *text, size_t len, struct buf *out) {
    struct page g = {.w = w, .p = text, .end = text + len, .kept = text, .out = out};
    while (g.p < g.end) {
        const char *lt = memchr(g.p, '<', (size_t)(g.end - g.p));
        if (!lt) break;
        g.p = lt + 1;
        if (starts(&g, "!--"))
            skip_past(&g, "-->");
        else if (g.p < g.end && isalpha((unsigned char)*g.p))
            read_tag(&g);
    }
    buf_add(out, g.kept, (size_t)(g.end - g.kept));
}
