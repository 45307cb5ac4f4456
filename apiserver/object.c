/* Making cached objects from stored bytes. Stored values are our own canonical JSON, so a small scanner that trusts
 * their syntax (but never reads outside them) finds in one pass the metadata, the place of the resourceVersion, the
 * labels and the selectable fields; there is no tree. Canonical order of metadata puts resourceVersion after name,
 * generateName, namespace, selfLink and uid. */
#include "apiserver/object.h"

#include "pkg/json/json.h"

struct scan {
    const char *p, *end;
};

static void skip_ws(struct scan *s) {
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t')) s->p++;
}

static bool take(struct scan *s, char c) {
    skip_ws(s);
    if (s->p >= s->end || *s->p != c) return false;
    s->p++;
    return true;
}

/* The text between the quotes, escapes left as they are. */
static bool scan_string(struct scan *s, const char **out, size_t *len) {
    if (!take(s, '"')) return false;
    const char *start = s->p;
    for (;;) {
        const char *q = memchr(s->p, '"', (size_t)(s->end - s->p));
        if (!q) return false;
        size_t back = 0;
        while (q - back > start && q[-1 - (ptrdiff_t)back] == '\\') back++;
        s->p = q + 1;
        if (back % 2 == 0) {
            *out = start;
            *len = (size_t)(q - start);
            return true;
        }
    }
}

static bool skip_value(struct scan *s) {
    const char *str;
    size_t len;
    skip_ws(s);
    if (s->p >= s->end) return false;
    if (*s->p == '"') return scan_string(s, &str, &len);
    if (*s->p != '{' && *s->p != '[') {
        while (s->p < s->end && !strchr(",}] \n\r\t", *s->p)) s->p++;
        return true;
    }
    unsigned depth = 0;
    while (s->p < s->end) {
        char c = *s->p;
        if (c == '"') {
            if (!scan_string(s, &str, &len)) return false;
            continue;
        }
        s->p++;
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && --depth == 0) return true;
    }
    return false;
}

/* A scalar's text: of a string, its inside. Objects, arrays and null give an empty span. */
static bool scan_scalar(struct scan *s, const char *base, struct span *out) {
    skip_ws(s);
    *out = (struct span){0, 0};
    if (s->p >= s->end) return false;
    const char *start = s->p, *str;
    size_t len;
    if (*start == '"') {
        if (!scan_string(s, &str, &len)) return false;
        *out = (struct span){(uint32_t)(str - base), (uint32_t)len};
        return true;
    }
    if (!skip_value(s)) return false;
    if (*start != '{' && *start != '[' && *start != 'n')
        *out = (struct span){(uint32_t)(start - base), (uint32_t)(s->p - start)};
    return true;
}

enum { OBJECT_MAX_STORED = 64 << 20 }; /* sanity: spans are 32 bits */
enum { MAX_SCAN_FIELDS = 16, MAX_SCAN_LABELS = 512 };

struct found {
    const char *base;
    size_t head;       /* offset of `"metadata"` */
    bool plain;        /* nothing but kind and apiVersion stands before it, and neither behind */
    size_t insert;     /* where the resourceVersion goes */
    bool insert_first; /* as the first member of metadata */
    bool meta_empty;
    struct span old_rv; /* a resourceVersion member that is there, with its comma */
    struct span fields[MAX_SCAN_FIELDS];
    size_t n_labels;
    struct object_label labels[MAX_SCAN_LABELS];
};

static bool key_is(const char *k, size_t n, const char *want) { return strlen(want) == n && memcmp(k, want, n) == 0; }

/* Starts or goes on with an object's members: 1 with a key, 0 at the end, -1 on bad syntax. */
static int next_member(struct scan *s, bool *first, const char **k, size_t *n) {
    if (take(s, '}')) return 0;
    if (!*first && !take(s, ',')) return -1;
    *first = false;
    if (!scan_string(s, k, n) || !take(s, ':')) return -1;
    return 1;
}

static bool scan_labels(struct scan *s, struct found *f) {
    bool first = true;
    const char *k;
    size_t n;
    int r;
    if (!take(s, '{')) return skip_value(s);
    while ((r = next_member(s, &first, &k, &n)) == 1) {
        struct span v;
        if (!scan_scalar(s, f->base, &v)) return false;
        if (f->n_labels < MAX_SCAN_LABELS)
            f->labels[f->n_labels++] = (struct object_label){.key = {(uint32_t)(k - f->base), (uint32_t)n}, .value = v};
    }
    return r == 0;
}

static bool scan_meta(struct scan *s, struct found *f) {
    static const char *const before[] = {"name", "generateName", "namespace", "selfLink", "uid"};
    bool first = true;
    const char *k;
    size_t n;
    int r;
    if (!take(s, '{')) return false;
    f->insert = (size_t)(s->p - f->base);
    f->insert_first = true;
    f->meta_empty = true;
    while ((r = next_member(s, &first, &k, &n)) == 1) {
        if (key_is(k, n, "labels")) {
            f->meta_empty = false;
            if (!scan_labels(s, f)) return false;
            continue;
        }
        if (!skip_value(s)) return false;
        if (key_is(k, n, "resourceVersion")) {
            const char *start = k - 1, *stop = s->p;
            if (start[-1] == ',')
                start--;
            else if (stop < s->end && *stop == ',')
                stop++;
            f->old_rv = (struct span){(uint32_t)(start - f->base), (uint32_t)(stop - start)};
            continue;
        }
        f->meta_empty = false;
        for (size_t i = 0; i < ARRAY_LEN(before); i++)
            if (key_is(k, n, before[i])) {
                f->insert = (size_t)(s->p - f->base);
                f->insert_first = false;
            }
    }
    return r == 0;
}

enum { MAX_FIELD_PATH = 256 };

/* The value of member `path` ("spec", then "spec.nodeName"): keeps it when it is a selectable field, and looks into it
 * when one lies below. */
static bool scan_fields(struct scan *s, struct found *f, const struct resource *r, const char *path, size_t path_len) {
    bool nested = false;
    for (size_t i = 0; r->fields && r->fields[i] && i < MAX_SCAN_FIELDS; i++) {
        const char *name = resource_field_path(r->fields[i]);
        if (key_is(path, path_len, name)) return scan_scalar(s, f->base, &f->fields[i]);
        if (strncmp(name, path, path_len) == 0 && name[path_len] == '.') nested = true;
    }
    skip_ws(s);
    if (!nested || s->p >= s->end || *s->p != '{') return skip_value(s);
    s->p++;
    bool first = true;
    const char *k;
    char below[MAX_FIELD_PATH];
    size_t n;
    int rc;
    while ((rc = next_member(s, &first, &k, &n)) == 1) {
        if (path_len + n + 1 >= sizeof(below)) {
            if (!skip_value(s)) return false;
            continue;
        }
        memcpy(below, path, path_len);
        below[path_len] = '.';
        memcpy(below + path_len + 1, k, n);
        if (!scan_fields(s, f, r, below, path_len + 1 + n)) return false;
    }
    return rc == 0;
}

/* Where one field stands for another that is absent. */
static void else_field(struct found *f, const struct resource *r) {
    int want = -1, instead = -1;
    if (!r->field_else) return;
    for (int i = 0; r->fields[i] && i < MAX_SCAN_FIELDS; i++) {
        size_t n = strcspn(r->fields[i], "=");
        if (key_is(r->fields[i], n, r->field_else[0])) want = i;
        if (key_is(r->fields[i], n, r->field_else[1])) instead = i;
    }
    if (want >= 0 && instead >= 0 && !f->fields[want].len) f->fields[want] = f->fields[instead];
}

/* `tail`: the text starts at the first member, as the tails of objects do. */
static bool scan_object(struct found *f, const struct resource *r, const char *p, size_t len, bool tail) {
    struct scan s = {p, p + len};
    bool first = true, seen = false;
    const char *k;
    size_t n;
    int rc;
    f->base = p;
    f->plain = true;
    if (!tail && !take(&s, '{')) return false;
    while ((rc = next_member(&s, &first, &k, &n)) == 1) {
        bool type_meta = key_is(k, n, "kind") || key_is(k, n, "apiVersion");
        if (key_is(k, n, "metadata")) {
            f->head = (size_t)(k - 1 - p);
            seen = true;
            if (!scan_meta(&s, f)) return false;
            continue;
        }
        if (type_meta == seen) f->plain = false;
        if (!scan_fields(&s, f, r, k, n)) return false;
    }
    else_field(f, r);
    return rc == 0 && seen;
}

/* The bytes with resourceVersion in its place; *at and *shift tell how offsets behind it move. */
static struct rbytes *splice(const struct found *f, const char *p, size_t len, int64_t rev) {
    char rv[64] = "";
    bool more = f->insert_first && !f->meta_empty;
    int n = rev == 0 ? 0
                     : snprintf(rv, sizeof(rv), "%s\"resourceVersion\":\"%lld\"%s", f->insert_first ? "" : ",",
                                (long long)rev, more ? "," : "");
    size_t cut = f->old_rv.len;
    struct rbytes *b = rbytes_alloc(len - cut + (size_t)n);
    char *o = b->data;
    size_t a = f->insert, c0 = cut ? f->old_rv.off : len, c1 = c0 + cut;
    if (!cut || c0 >= a) { /* the old one, if any, stands behind the place of the new one */
        o = mempcpy(o, p, a);
        o = mempcpy(o, rv, (size_t)n);
        o = mempcpy(o, p + a, c0 - a);
        o = mempcpy(o, p + c1, len - c1);
    } else {
        o = mempcpy(o, p, c0);
        o = mempcpy(o, p + c1, a - c1);
        o = mempcpy(o, rv, (size_t)n);
        o = mempcpy(o, p + a, len - a);
    }
    *o = 0;
    return b;
}

/* The text of a custom resource starts with its apiVersion: which of the row's versions that is, 0 for its own. */
static uint32_t version_of(const struct resource *r, const char *value, size_t len) {
    static const char start[] = "{\"apiVersion\":\"";
    const struct rbytes *head = r->pieces ? r->pieces->head : NULL;
    if (!r->versions || (head && len >= head->len && memcmp(value, head->data, head->len) == 0)) return 0;
    if (len < sizeof(start) || memcmp(value, start, sizeof(start) - 1) != 0) return 0;
    const char *p = value + sizeof(start) - 1, *end = memchr(p, '"', len - (sizeof(start) - 1));
    const char *slash = end ? memrchr(p, '/', (size_t)(end - p)) : NULL;
    if (!slash) return 0;
    size_t n = (size_t)(end - slash - 1);
    if (strlen(r->version) == n && memcmp(slash + 1, r->version, n) == 0) return 0;
    for (uint32_t i = 0; r->versions[i]; i++)
        if (strlen(r->versions[i]) == n && memcmp(slash + 1, r->versions[i], n) == 0) return i + 1;
    return 0;
}

static struct object *build(const struct resource *r, const char *key, struct rbytes *json, const struct found *f,
                            int64_t create_rev, int64_t rev) {
    size_t klen = strlen(key), nf = 0;
    while (r->fields && r->fields[nf] && nf < MAX_SCAN_FIELDS) nf++;
    size_t lsize = f->n_labels * sizeof(struct object_label), fsize = nf * sizeof(struct span);
    struct object *o = xmalloc(sizeof(*o) + lsize + fsize + klen + 1);
    *o = (struct object){.refs = 1,
                         .rev = rev,
                         .create_rev = create_rev,
                         .res = r,
                         .tail = json,
                         .n_labels = (uint32_t)f->n_labels,
                         .n_fields = (uint32_t)nf};
    o->labels = (struct object_label *)(o + 1);
    o->fields = (struct span *)((char *)o->labels + lsize);
    char *k = (char *)o->fields + fsize;
    if (lsize) memcpy(o->labels, f->labels, lsize);
    if (fsize) memcpy(o->fields, f->fields, fsize);
    memcpy(k, key, klen + 1);
    o->key = k;
    const char *slash = r->namespaced ? strchr(k, '/') : NULL;
    o->ns_len = slash ? (uint32_t)(slash - k) : 0;
    return o;
}

/* Values that were not written by us may have their members in another order. */
static struct object *new_reordered(const struct resource *r, const char *key, const char *value, size_t len,
                                    int64_t create_rev, int64_t rev) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = NULL;
    if (json_parse(a, value, len, &v, NULL, NULL) || !json_is(v, JSON_OBJECT)) return NULL;
    struct json *meta = json_get(v, "metadata"), *out = json_object(a);
    if (!json_is(meta, JSON_OBJECT)) return NULL;
    json_set(a, out, "metadata", meta);
    JSON_FOREACH_MEMBER(m, v) {
        if (!str_eq(m->key, "kind") && !str_eq(m->key, "apiVersion")) json_set(a, out, m->key, m->value);
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, out);
    struct object *o = object_new(r, key, b.data, b.len, create_rev, rev);
    const char *api_version = str_or_empty(json_get_str(v, "apiVersion"));
    const char *head = arena_printf(a, "{\"apiVersion\":\"%s\"", api_version);
    if (o) o->version = version_of(r, head, strlen(head));
    return o;
}

/* Where a span of the scanned text lies in the tail: `head` bytes are gone from its start, the old resourceVersion from
 * its place, and the new one, `added` bytes, has come. */
static void span_move(const struct found *f, size_t head, size_t added, struct span *s) {
    if (!s->off) return;
    size_t at = s->off - head, to = at;
    if (f->old_rv.len && at >= f->old_rv.off + f->old_rv.len) to -= f->old_rv.len;
    if (at >= f->insert) to += added;
    s->off = (uint32_t)to;
}

/* f: of a scan of the text that has `head` bytes before p; its insert and old_rv count from p. */
static struct object *new_from(struct found *f, const struct resource *r, const char *key, const char *p, size_t len,
                               size_t head, int64_t create_rev, int64_t rev) {
    struct rbytes *tail = splice(f, p, len, rev);
    size_t added = tail->len + f->old_rv.len - len;
    for (size_t i = 0; i < f->n_labels; i++) {
        span_move(f, head, added, &f->labels[i].key);
        span_move(f, head, added, &f->labels[i].value);
    }
    for (size_t i = 0; i < MAX_SCAN_FIELDS; i++) span_move(f, head, added, &f->fields[i]);
    return build(r, key, tail, f, create_rev, rev);
}

/* All but the labels, which count only up to n_labels, starts as zero. */
static struct found *found_new(void) {
    struct found *f = xmalloc(sizeof(*f));
    memset(f, 0, offsetof(struct found, labels));
    return f;
}

struct object *object_new(const struct resource *r, const char *key, const char *value, size_t len, int64_t create_rev,
                          int64_t rev) {
    if (len > OBJECT_MAX_STORED) return NULL;
    struct found *f = found_new();
    struct object *o = NULL;
    if (scan_object(f, r, value, len, false)) {
        size_t head = f->head;
        f->insert -= head;
        f->old_rv.off -= (uint32_t)head;
        o = f->plain ? new_from(f, r, key, value + head, len - head, head, create_rev, rev)
                     : new_reordered(r, key, value, len, create_rev, rev);
        if (o && f->plain) o->version = version_of(r, value, len);
    }
    free(f);
    return o;
}

static uint32_t object_version_in(const struct resource *r, const char *version) {
    if (str_eq(r->version, version)) return 0;
    for (uint32_t i = 0; r->versions && r->versions[i]; i++)
        if (str_eq(r->versions[i], version)) return i + 1;
    return 0;
}

static struct object *remake(const struct resource *r, const struct object *o, int64_t rev) {
    struct found *f = found_new();
    struct object *n = NULL;
    if (scan_object(f, r, o->tail->data, o->tail->len, true))
        n = new_from(f, r, o->key, o->tail->data, o->tail->len, 0, o->create_rev, rev);
    free(f);
    if (n) n->version = object_version_in(r, object_version(o));
    return n;
}

struct object *object_at_rev(const struct object *o, int64_t rev) {
    return remake(o->res, o, rev);
}
struct object *object_new_tail(const struct resource *r, const struct object *o) {
    return remake(r, o, o->rev);
}

struct object *object_ref(struct object *o) {
    if (o) atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
    return o;
}

void object_unref(struct object *o) {
    if (!o || atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) != 1) return;
    for (struct object_view *v = atomic_load(&o->views), *next; v; v = next) {
        next = v->next;
        object_unref(v->o);
        free(v);
    }
    rbytes_unref(o->tail);
    free(o);
}

struct pieces *pieces_new(const struct resource *r) {
    static const char *const types[] = {"ADDED", "MODIFIED", "DELETED"};
    _cleanup_arena_ struct arena *a = arena_new();
    struct pieces *p = xcalloc(1, sizeof(*p));
    const char *head = object_head(a, r), *item = r->custom ? head : "{";
    const char *next = arena_printf(a, ",%s", item);
    p->head = rbytes_new(head, strlen(head));
    p->item = rbytes_new(item, strlen(item));
    p->next_item = rbytes_new(next, strlen(next));
    for (int t = 0; t < 3; t++) {
        const char *ev = arena_printf(a, "{\"type\":\"%s\",\"object\":%s", types[t], head);
        p->event[t] = rbytes_new(ev, strlen(ev));
    }
    return p;
}

void pieces_free(struct pieces *p) {
    if (!p) return;
    rbytes_unref(p->head);
    rbytes_unref(p->item);
    rbytes_unref(p->next_item);
    for (int t = 0; t < 3; t++) rbytes_unref(p->event[t]);
    free(p);
}

char *object_head(struct arena *a, const struct resource *r) {
    if (r->custom)
        return arena_printf(a, "{\"apiVersion\":\"%s\",\"kind\":\"%s\",", resource_api_version(a, r), r->kind);
    return arena_printf(a, "{\"kind\":\"%s\",\"apiVersion\":\"%s\",", r->kind, resource_api_version(a, r));
}

char *object_text(struct arena *a, const struct object *o, size_t *len) {
    const struct pieces *p = o->res->pieces;
    struct resource in = *o->res;
    if (in.converts) in.version = object_version(o); /* else versions differ in their names only */
    bool own = !p || in.converts;
    const char *head = own ? object_head(a, &in) : p->head->data;
    size_t n = own ? strlen(head) : p->head->len;
    char *text = arena_alloc(a, n + o->tail->len + 1);
    memcpy(text, head, n);
    memcpy(text + n, o->tail->data, o->tail->len + 1);
    *len = n + o->tail->len;
    return text;
}

struct json *object_tree(struct arena *a, const struct object *o) {
    size_t len;
    struct json *v = NULL;
    const char *text = object_text(a, o, &len);
    return json_parse(a, text, len, &v, NULL, NULL) == 0 ? v : NULL;
}
