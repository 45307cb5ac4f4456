/* YAML to JSON on top of libyaml's composer. libyaml gives a graph of nodes (an alias is a second edge to a node);
 * `convert` walks it into a tree, resolving plain scalars by the tables below. Upstream: sigs.k8s.io/yaml with go-yaml
 * v2's resolve.go. */
#include "pkg/yaml/yaml.h"

#include <math.h>
#include <yaml.h>

#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"

struct reader {
    struct arena *a;
    yaml_document_t *doc;
    struct json_dups *dups;
    struct err *e;
    size_t nodes;
};

static const struct {
    const char *text;
    enum { W_NULL, W_TRUE, W_FALSE, W_NOT_JSON } word;
} words[] = {
    {"", W_NULL},          {"~", W_NULL},         {"null", W_NULL},      {"Null", W_NULL},      {"NULL", W_NULL},
    {"true", W_TRUE},      {"True", W_TRUE},      {"TRUE", W_TRUE},      {"y", W_TRUE},         {"Y", W_TRUE},
    {"yes", W_TRUE},       {"Yes", W_TRUE},       {"YES", W_TRUE},       {"on", W_TRUE},        {"On", W_TRUE},
    {"ON", W_TRUE},        {"false", W_FALSE},    {"False", W_FALSE},    {"FALSE", W_FALSE},    {"n", W_FALSE},
    {"N", W_FALSE},        {"no", W_FALSE},       {"No", W_FALSE},       {"NO", W_FALSE},       {"off", W_FALSE},
    {"Off", W_FALSE},      {"OFF", W_FALSE},      {".nan", W_NOT_JSON},  {".NaN", W_NOT_JSON},  {".NAN", W_NOT_JSON},
    {".inf", W_NOT_JSON},  {".Inf", W_NOT_JSON},  {".INF", W_NOT_JSON},  {"+.inf", W_NOT_JSON}, {"+.Inf", W_NOT_JSON},
    {"+.INF", W_NOT_JSON}, {"-.inf", W_NOT_JSON}, {"-.Inf", W_NOT_JSON}, {"-.INF", W_NOT_JSON},
};

/* A string node; NUL bytes become C0 80 (see json.h). */
static struct json *string_node(struct arena *a, const char *s, size_t n) {
    size_t nuls = 0;
    for (size_t i = 0; i < n; i++) nuls += s[i] == 0;
    if (!nuls) return json_strn(a, s, n);
    char *t = arena_alloc(a, n + nuls + 1), *o = t;
    for (size_t i = 0; i < n; i++) {
        if (s[i]) {
            *o++ = s[i];
            continue;
        }
        *o++ = (char)0xc0;
        *o++ = (char)0x80;
    }
    return json_strn(a, t, n + nuls);
}

/* Integer in base 2, 8, 10 or 16 with a sign and underscores. */
static struct json *integer(struct arena *a, const char *text) {
    char digits[80];
    size_t n = 0;
    for (const char *s = text; *s; s++) {
        if (*s == '_') continue;
        if (n + 1 >= sizeof(digits)) return NULL;
        digits[n++] = *s;
    }
    digits[n] = 0;
    const char *s = digits;
    bool neg = *s == '-';
    if (*s == '-' || *s == '+') s++;
    int base = 10;
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
        base = 16, s += 2;
    else if (s[0] == '0' && (s[1] == 'b' || s[1] == 'B'))
        base = 2, s += 2;
    else if (s[0] == '0' && (s[1] == 'o' || s[1] == 'O'))
        base = 8, s += 2;
    else if (s[0] == '0' && s[1])
        base = 8, s++;
    if (!*s) return NULL;
    static const char all[] = "0123456789abcdef";
    unsigned __int128 v = 0;
    for (; *s; s++) {
        char c = *s >= 'A' && *s <= 'F' ? (char)(*s - 'A' + 'a') : *s;
        const char *at = memchr(all, c, (size_t)base);
        if (!at) return NULL;
        v = v * (unsigned)base + (unsigned)(at - all);
        if (v > UINT64_MAX) return NULL;
    }
    if (v > (unsigned __int128)INT64_MAX + (neg ? 1 : 0))
        return neg ? NULL : json_num(a, arena_printf(a, "%llu", (unsigned long long)v));
    return json_int(a, neg ? (int64_t)(0 - (uint64_t)v) : (int64_t)v);
}

/* [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)? */
static bool looks_like_float(const char *s) {
    if (*s == '-' || *s == '+') s++;
    size_t before = strspn(s, "0123456789");
    s += before;
    size_t after = 0;
    if (*s == '.') {
        s++;
        after = strspn(s, "0123456789");
        s += after;
    }
    if (!before && !after) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '-' || *s == '+') s++;
        size_t exp = strspn(s, "0123456789");
        if (!exp) return false;
        s += exp;
    }
    return !*s;
}

static struct json *floating(struct arena *a, const char *text, struct err *e) {
    double d = strtod(text, NULL);
    if (!isfinite(d)) {
        err_set(e, -EINVAL, "number out of range: %.40s", text);
        return NULL;
    }
    if (d == floor(d) && fabs(d) < 1e15) return json_int(a, (int64_t)d);
    return json_double(a, d);
}

static struct json *plain_scalar(struct reader *r, const char *s, size_t n, size_t line) {
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i].text, s) != 0) continue;
        switch (words[i].word) {
            case W_NULL: return json_null(r->a);
            case W_TRUE:
            case W_FALSE: return json_bool(r->a, words[i].word == W_TRUE);
            case W_NOT_JSON: err_set(r->e, -EINVAL, "yaml: line %zu: JSON has no value for %s", line, s); return NULL;
        }
    }
    if (strchr("0123456789+-.", s[0])) {
        struct json *v = integer(r->a, s);
        if (v) return v;
        if (looks_like_float(s)) return floating(r->a, s, r->e);
    }
    return string_node(r->a, s, n);
}

static struct json *binary_scalar(struct reader *r, const char *s, size_t n, size_t line) {
    _cleanup_free_ char *raw = xmalloc(n + 1);
    size_t len;
    if (base64_decode(s, n, raw, &len) < 0) {
        err_set(r->e, -EINVAL, "yaml: line %zu: !!binary value contains invalid base64 data", line);
        return NULL;
    }
    return string_node(r->a, raw, len);
}

static struct json *scalar(struct reader *r, const yaml_node_t *node) {
    const char *s = (const char *)node->data.scalar.value, *tag = node->tag ? (const char *)node->tag : "";
    size_t n = node->data.scalar.length, line = node->start_mark.line + 1;
    /* libyaml's composer gives untagged scalars, plain or quoted, the str tag: only the style tells them apart */
    bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (str_eq(tag, "tag:yaml.org,2002:binary")) return binary_scalar(r, s, n, line);
    bool resolved = str_has_prefix(tag, "tag:yaml.org,2002:") && !str_eq(tag, YAML_STR_TAG);
    if ((plain || resolved) && strlen(s) == n) return plain_scalar(r, s, n, line);
    return string_node(r->a, s, n);
}

static struct json *convert(struct reader *r, int index, unsigned depth, const char *path);

/* A key's text: scalars only; numbers and booleans in their JSON form. */
static const char *key_text(struct reader *r, const yaml_node_t *node) {
    if (node->type != YAML_SCALAR_NODE) {
        err_set(r->e, -EINVAL, "yaml: line %zu: a key must be a scalar", node->start_mark.line + 1);
        return NULL;
    }
    struct json *k = scalar(r, node);
    if (!k) return NULL;
    if (k->type == JSON_STRING) return k->str;
    return json_text(r->a, k);
}

static bool is_merge_key(const yaml_node_t *k) {
    return k->type == YAML_SCALAR_NODE && k->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           str_eq((const char *)k->data.scalar.value, "<<");
}

/* "<<: *base" or "<<: [*a, *b]": members that the mapping itself does not have. */
static int merge_into(struct reader *r, struct json *obj, const struct json *from, size_t line) {
    if (json_is(from, JSON_ARRAY)) {
        struct json *it;
        JSON_FOREACH(it, from) {
            int rc = merge_into(r, obj, it, line);
            if (rc < 0) return rc;
        }
        return 0;
    }
    if (!json_is(from, JSON_OBJECT)) return err_set(r->e, -EINVAL, "yaml: line %zu: map merge requires a map", line);
    JSON_FOREACH_MEMBER(m, from)
        if (!json_get(obj, m->key)) json_set(r->a, obj, m->key, m->value);
    return 0;
}

static void note_dup(struct reader *r, const yaml_node_t *at, const char *key) {
    if (!r->dups) return;
    ARENA_GROW(r->a, r->dups->paths, r->dups->n, r->dups->cap);
    r->dups->paths[r->dups->n++] =
        arena_printf(r->a, "line %zu: key \"%s\" already set in map", at->start_mark.line + 1, key);
}

static struct json *mapping(struct reader *r, const yaml_node_t *node, unsigned depth, const char *path) {
    struct json *obj = json_object(r->a);
    struct json *merges = NULL;
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = yaml_document_get_node(r->doc, p->key);
        if (is_merge_key(k)) {
            if (!(merges = convert(r, p->value, depth + 1, path))) return NULL;
            continue;
        }
        const char *key = key_text(r, k);
        if (!key) return NULL;
        const char *here = *path ? arena_printf(r->a, "%s.%s", path, key) : key;
        struct json *v = convert(r, p->value, depth + 1, here);
        if (!v) return NULL;
        if (json_get(obj, key)) note_dup(r, k, key);
        json_set(r->a, obj, key, v);
    }
    if (merges && merge_into(r, obj, merges, node->start_mark.line + 1) < 0) return NULL;
    return obj;
}

static struct json *convert(struct reader *r, int index, unsigned depth, const char *path) {
    const yaml_node_t *node = yaml_document_get_node(r->doc, index);
    if (depth > YAML_MAX_DEPTH) {
        err_set(r->e, -EINVAL, "yaml: line %zu: nested too deeply", node->start_mark.line + 1);
        return NULL;
    }
    if (++r->nodes > YAML_MAX_NODES) {
        err_set(r->e, -EFBIG, "yaml: document contains excessive aliasing");
        return NULL;
    }
    switch (node->type) {
        case YAML_SCALAR_NODE: return scalar(r, node);
        case YAML_MAPPING_NODE: return mapping(r, node, depth, path);
        case YAML_SEQUENCE_NODE: {
            struct json *arr = json_array(r->a);
            for (yaml_node_item_t *it = node->data.sequence.items.start; it < node->data.sequence.items.top; it++) {
                struct json *v = convert(r, *it, depth + 1, arena_printf(r->a, "%s[%u]", path, arr->n));
                if (!v) return NULL;
                json_append(r->a, arr, v);
            }
            return arr;
        }
        case YAML_NO_NODE: break;
    }
    return json_null(r->a);
}

static int syntax_error(const yaml_parser_t *p, struct err *e) {
    return err_set(e, -EINVAL, "yaml: line %zu: %s", p->problem_mark.line + 1, str_or_empty(p->problem));
}

/* only_first: leaves what follows the first document alone. */
static int parse(struct arena *a, const char *p, size_t n, bool only_first, struct yaml_docs *out,
                 struct json_dups *dups, struct err *e) {
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return err_set(e, -ENOMEM, "yaml: out of memory");
    yaml_parser_set_input_string(&parser, (const unsigned char *)p, n);
    struct reader r = {.a = a, .dups = dups, .e = e};
    int rc = 0;
    for (bool last = false; rc == 0 && !last;) {
        yaml_document_t doc;
        if (!yaml_parser_load(&parser, &doc)) {
            rc = syntax_error(&parser, e);
            break;
        }
        r.doc = &doc;
        last = !yaml_document_get_root_node(&doc);
        if (!last) {
            struct json *v = convert(&r, 1, 0, "");
            if (!v) {
                rc = e && e->code ? e->code : -EINVAL;
            } else if (v->type != JSON_NULL) {
                ARENA_GROW(a, out->items, out->n, out->cap);
                out->items[out->n++] = v;
            }
        }
        yaml_document_delete(&doc);
        last |= only_first;
    }
    yaml_parser_delete(&parser);
    return rc;
}

int yaml_parse(struct arena *a, const char *p, size_t n, struct yaml_docs *out, struct json_dups *dups, struct err *e) {
    return parse(a, p, n, false, out, dups, e);
}

int yaml_parse_first(struct arena *a, const char *p, size_t n, struct json **out, struct json_dups *dups,
                     struct err *e) {
    struct yaml_docs docs = {0};
    int rc = parse(a, p, n, true, &docs, dups, e);
    if (rc == 0) *out = docs.n ? docs.items[0] : json_null(a);
    return rc;
}

int yaml_parse_one(struct arena *a, const char *p, size_t n, struct json **out, struct json_dups *dups, struct err *e) {
    struct yaml_docs docs = {0};
    int rc = yaml_parse(a, p, n, &docs, dups, e);
    if (rc < 0) return rc;
    if (docs.n > 1) return err_set(e, -EINVAL, "yaml: more than one document");
    *out = docs.n ? docs.items[0] : json_null(a);
    return 0;
}

int yaml_read_file(struct arena *a, const char *path, size_t max, struct json **out, struct err *e) {
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = file_read(path, max, &text, &len);
    if (r < 0) return err_errno(e, r, "%s", path);
    r = yaml_parse_one(a, text, len, out, NULL, e);
    return r < 0 ? err_wrap(e, "%s", path) : 0;
}

/* ---- writing ---- */

static int append_output(void *arg, unsigned char *p, size_t n) {
    buf_add(arg, p, n);
    return 1;
}

/* Would the text, written plain, be read back as something else than this string? */
static bool needs_quotes(struct arena *a, const char *s) {
    struct reader r = {.a = a};
    struct json *v = plain_scalar(&r, s, strlen(s), 0);
    struct ktime t;
    return !v || v->type != JSON_STRING || ktime_parse(s, &t) == 0 || str_eq(s, "<<");
}

static bool emit(yaml_emitter_t *em, struct arena *a, const struct json *v);

static bool emit_scalar(yaml_emitter_t *em, const char *s, size_t n, yaml_scalar_style_t style) {
    yaml_event_t ev;
    return yaml_scalar_event_initialize(&ev, NULL, NULL, (const yaml_char_t *)s, (int)n, 1, 1, style) &&
           yaml_emitter_emit(em, &ev);
}

static bool emit_string(yaml_emitter_t *em, struct arena *a, const char *s, size_t n) {
    yaml_scalar_style_t style = needs_quotes(a, s) ? YAML_DOUBLE_QUOTED_SCALAR_STYLE
                                : strchr(s, '\n')  ? YAML_LITERAL_SCALAR_STYLE
                                                   : YAML_ANY_SCALAR_STYLE;
    return emit_scalar(em, s, n, style);
}

static bool emit(yaml_emitter_t *em, struct arena *a, const struct json *v) {
    yaml_event_t ev;
    yaml_mapping_style_t map_style = v->n ? YAML_BLOCK_MAPPING_STYLE : YAML_FLOW_MAPPING_STYLE;
    yaml_sequence_style_t seq_style = v->n ? YAML_BLOCK_SEQUENCE_STYLE : YAML_FLOW_SEQUENCE_STYLE;
    switch (v->type) {
        case JSON_OBJECT:
            if (!yaml_mapping_start_event_initialize(&ev, NULL, NULL, 1, map_style) || !yaml_emitter_emit(em, &ev))
                return false;
            JSON_FOREACH_MEMBER(m, v)
                if (!emit_string(em, a, m->key, strlen(m->key)) || !emit(em, a, m->value)) return false;
            return yaml_mapping_end_event_initialize(&ev) && yaml_emitter_emit(em, &ev);
        case JSON_ARRAY:
            if (!yaml_sequence_start_event_initialize(&ev, NULL, NULL, 1, seq_style) || !yaml_emitter_emit(em, &ev))
                return false;
            for (uint32_t i = 0; i < v->n; i++)
                if (!emit(em, a, v->items[i])) return false;
            return yaml_sequence_end_event_initialize(&ev) && yaml_emitter_emit(em, &ev);
        case JSON_STRING: return emit_string(em, a, v->str, v->n);
        default: {
            const char *text = json_text(a, v);
            return emit_scalar(em, text, strlen(text), YAML_PLAIN_SCALAR_STYLE);
        }
    }
}

int yaml_write(struct buf *b, const struct json *v, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    yaml_emitter_t em;
    yaml_event_t ev;
    if (!yaml_emitter_initialize(&em)) return err_set(e, -ENOMEM, "yaml: out of memory");
    yaml_emitter_set_output(&em, append_output, b);
    yaml_emitter_set_unicode(&em, 1);
    yaml_emitter_set_width(&em, -1);
    bool ok = yaml_stream_start_event_initialize(&ev, YAML_UTF8_ENCODING) && yaml_emitter_emit(&em, &ev) &&
              yaml_document_start_event_initialize(&ev, NULL, NULL, NULL, 1) && yaml_emitter_emit(&em, &ev) &&
              emit(&em, a, v) && yaml_document_end_event_initialize(&ev, 1) && yaml_emitter_emit(&em, &ev) &&
              yaml_stream_end_event_initialize(&ev) && yaml_emitter_emit(&em, &ev);
    int rc = ok ? 0 : err_set(e, -EINVAL, "yaml: %s", em.problem ? em.problem : "cannot be written");
    yaml_emitter_delete(&em);
    return rc;
}
