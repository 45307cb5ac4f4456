/* Runs the conformance cases of the CEL specification (text protobufs of google.api.expr.test.v1.SimpleTestFile) and
 * prints, for each file, how many pass:
 *
 *     spec_runner FOLDER-WITH-TEXTPROTOS [-v] [part of a test's name]
 *
 * Cases about protobuf messages and their enums are skipped and counted as such: Kubernetes' dialect has none. The
 * specification's data is not part of this project. */
#include <dirent.h>
#include <math.h>

#include "pkg/cel/internal.h"

/* ---- text protobufs as JSON trees: every field is an array of its values ---- */

struct reader {
    struct arena *a;
    const char *p, *end;
};

static void skip_space(struct reader *r) {
    while (r->p < r->end) {
        if (*r->p == '#')
            while (r->p < r->end && *r->p != '\n') r->p++;
        else if (strchr(" \t\r\n,;", *r->p))
            r->p++;
        else
            break;
    }
}

static void put_escape(struct reader *r, struct buf *b) {
    static const char from[] = "abfnrtv", to[] = "\a\b\f\n\r\t\v";
    char c = *r->p++;
    const char *at = strchr(from, c);
    uint32_t v = 0;
    if (at && c) {
        buf_addc(b, to[at - from]);
    } else if (c == 'x' || c == 'X') {
        for (int i = 0; i < 2 && strchr("0123456789abcdefABCDEF", *r->p); i++, r->p++)
            v = v * 16 + (uint32_t)(*r->p <= '9' ? *r->p - '0' : (*r->p | 32) - 'a' + 10);
        if (v)
            buf_addc(b, (char)v);
        else
            buf_adds(b, "\xc0\x80");
    } else if (c >= '0' && c <= '7') {
        v = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *r->p >= '0' && *r->p <= '7'; i++) v = v * 8 + (uint32_t)(*r->p++ - '0');
        if (v)
            buf_addc(b, (char)v);
        else
            buf_adds(b, "\xc0\x80");
    } else if (c == 'u' || c == 'U') {
        char out[4], hex[9] = "";
        memcpy(hex, r->p, c == 'u' ? 4 : 8);
        r->p += c == 'u' ? 4 : 8;
        buf_add(b, out, utf8_put((uint32_t)strtoul(hex, NULL, 16), out));
    } else {
        buf_addc(b, c);
    }
}

static struct json *read_strings(struct reader *r) {
    struct buf b = BUF_INIT;
    buf_adds(&b, "");
    while (r->p < r->end && (*r->p == '"' || *r->p == '\'')) {
        char q = *r->p++;
        while (r->p < r->end && *r->p != q) {
            if (*r->p == '\\') {
                r->p++;
                put_escape(r, &b);
            } else {
                buf_addc(&b, *r->p++);
            }
        }
        r->p++;
        skip_space(r);
    }
    struct json *v = json_strn(r->a, b.data, b.len);
    buf_done(&b);
    return v;
}

static struct json *read_message(struct reader *r, char close);

static struct json *read_value(struct reader *r) {
    skip_space(r);
    if (*r->p == '{' || *r->p == '<') {
        char close = *r->p++ == '{' ? '}' : '>';
        return read_message(r, close);
    }
    if (*r->p == '"' || *r->p == '\'') return read_strings(r);
    size_t n = strcspn(r->p, " \t\r\n,;}]>");
    struct json *v = json_strn(r->a, r->p, n);
    r->p += n;
    return v;
}

static struct json *read_message(struct reader *r, char close) {
    struct json *m = json_object(r->a);
    for (;;) {
        skip_space(r);
        if (r->p >= r->end || *r->p == close) break;
        size_t n = *r->p == '[' ? strcspn(r->p, "]") + 1 : strcspn(r->p, ": \t\r\n{<");
        const char *key = arena_strndup(r->a, r->p, n);
        r->p += n;
        skip_space(r);
        if (*r->p == ':') r->p++;
        skip_space(r);
        struct json *list = json_ensure_array(r->a, m, key);
        if (*r->p != '[') {
            json_append(r->a, list, read_value(r));
            continue;
        }
        for (r->p++, skip_space(r); r->p < r->end && *r->p != ']'; skip_space(r))
            json_append(r->a, list, read_value(r));
        r->p++;
    }
    r->p++;
    return m;
}

static const struct json *one(const struct json *m, const char *key) { return json_item(json_get(m, key), 0); }
static const char *text_of(const struct json *m, const char *key) { return json_as_str(one(m, key)); }

/* ---- values and types of the cases ---- */

static bool read_val(struct arena *a, const struct json *m, struct cel_val *out);

static bool read_list(struct arena *a, const struct json *m, struct cel_val *out) {
    const struct json *items = json_get(m, "values");
    struct cel_val *v = arena_alloc(a, (json_len(items) + 1) * sizeof(*v));
    for (size_t i = 0; i < json_len(items); i++)
        if (!read_val(a, json_item(items, i), &v[i])) return false;
    *out = val_list(a, v, json_len(items));
    return true;
}

static bool read_map(struct arena *a, const struct json *m, struct cel_val *out) {
    struct cel_map *map = map_new(a, 4);
    struct json *it;
    JSON_FOREACH(it, json_get(m, "entries")) {
        struct cel_val k, v;
        if (!read_val(a, one(it, "key"), &k) || !read_val(a, one(it, "value"), &v)) return false;
        map_put_val(a, map, k, v);
    }
    *out = val_map(map);
    return true;
}

static const struct cel_type *named_type(const char *name) {
    struct cel_env env = {.libs = CEL_LIB_K8S};
    return env_type_ident(&env, name);
}

static int64_t int_field(const struct json *m, const char *key) {
    const char *s = text_of(m, key);
    return s ? strtoll(s, NULL, 10) : 0;
}

static bool read_object(struct arena *a, const struct json *m, struct cel_val *out) {
    const struct json *d = one(m, "[type.googleapis.com/google.protobuf.Duration]"),
                      *t = one(m, "[type.googleapis.com/google.protobuf.Timestamp]");
    if (d)
        *out = val_duration(int_field(d, "seconds") * NS_PER_SEC + int_field(d, "nanos"));
    else if (t)
        *out = val_time(int_field(t, "seconds"), (uint32_t)int_field(t, "nanos"));
    return d || t;
}

/* Strings of the trees hold a NUL as C0 80. */
static struct cel_val read_bytes(struct arena *a, const char *s, size_t n) {
    char *out = arena_alloc(a, n + 1);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        bool nul = i + 1 < n && (unsigned char)s[i] == 0xC0 && (unsigned char)s[i + 1] == 0x80;
        out[len++] = nul ? 0 : s[i];
        i += nul;
    }
    return val_bytes(out, len);
}

static bool read_val(struct arena *a, const struct json *m, struct cel_val *out) {
    if (json_len(m) != 1) return false;
    const char *k = m->members[0].key;
    const struct json *v = json_item(m->members[0].value, 0);
    const char *s = json_as_str(v);
    if (strcmp(k, "int64_value") == 0)
        *out = cel_int(strtoll(s, NULL, 0));
    else if (strcmp(k, "uint64_value") == 0)
        *out = cel_uint(strtoull(s, NULL, 0));
    else if (strcmp(k, "double_value") == 0)
        *out = cel_double(strtod(s, NULL));
    else if (strcmp(k, "bool_value") == 0)
        *out = cel_bool(strcmp(s, "true") == 0);
    else if (strcmp(k, "string_value") == 0)
        *out = cel_strn(s, v->n);
    else if (strcmp(k, "bytes_value") == 0)
        *out = read_bytes(a, s, v->n);
    else if (strcmp(k, "null_value") == 0)
        *out = cel_null();
    else if (strcmp(k, "list_value") == 0)
        return read_list(a, v, out);
    else if (strcmp(k, "map_value") == 0)
        return read_map(a, v, out);
    else if (strcmp(k, "object_value") == 0)
        return read_object(a, v, out);
    else if (strcmp(k, "type_value") == 0) {
        const struct cel_type *t = named_type(s);
        if (t) *out = val_type(t);
        return t != NULL;
    } else
        return false;
    return true;
}

static const struct cel_type *read_type(struct arena *a, const struct json *m) {
    static const struct {
        const char *name;
        const struct cel_type *t;
    } prims[] = {{"BOOL", &cel_t_bool},           {"INT64", &cel_t_int},        {"UINT64", &cel_t_uint},
                 {"DOUBLE", &cel_t_double},       {"STRING", &cel_t_string},    {"BYTES", &cel_t_bytes},
                 {"TIMESTAMP", &cel_t_timestamp}, {"DURATION", &cel_t_duration}};
    const char *name = text_of(m, "primitive");
    if (!name) name = text_of(m, "well_known");
    for (size_t i = 0; name && i < ARRAY_LEN(prims); i++)
        if (strcmp(prims[i].name, name) == 0) return prims[i].t;
    const struct json *l = one(m, "list_type"), *mp = one(m, "map_type"), *abs = one(m, "abstract_type");
    if (l) {
        const struct cel_type *e = read_type(a, one(l, "elem_type"));
        return e ? cel_type_list(a, e) : NULL;
    }
    if (mp) {
        const struct cel_type *k = read_type(a, one(mp, "key_type")), *v = read_type(a, one(mp, "value_type"));
        return k && v ? cel_type_map(a, k, v) : NULL;
    }
    if (abs && str_eq(text_of(abs, "name"), "optional_type")) {
        const struct cel_type *e = read_type(a, one(abs, "parameter_types"));
        return e ? cel_type_optional(a, e) : NULL;
    }
    if (one(m, "dyn")) return &cel_t_dyn;
    if (json_get(m, "null")) return &cel_t_null;
    if (json_get(m, "type")) {
        const struct cel_type *of = one(m, "type") && json_len(one(m, "type")) ? read_type(a, one(m, "type")) : NULL;
        return of ? type_of_type(a, of) : &cel_t_type;
    }
    return NULL;
}

/* ---- running ---- */

struct tally {
    int passed, failed, skipped;
    bool verbose;
    const char *only;
};

static bool needs_messages(const struct json *test) {
    const char *expr = str_or_empty(text_of(test, "expr")), *container = str_or_empty(text_of(test, "container"));
    static const char *const words[] = {"TestAllTypes", "GlobalEnum", "NestedTestAllTypes", "google.protobuf.",
                                        "proto.",       "cel.@block", "cel.block",          "TestRequired"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        const char *at = strstr(expr, words[i]);
        if (at && !str_has_prefix(at, "google.protobuf.Timestamp") && !str_has_prefix(at, "google.protobuf.Duration"))
            return true;
    }
    return str_has_prefix(container, "cel.expr") || strstr(container, "proto");
}

static bool same(struct arena *a, const struct cel_val *got, const struct cel_val *want) {
    if (got->kind == CEL_DOUBLE && want->kind == CEL_DOUBLE && isnan(got->d) && isnan(want->d)) return true;
    if (got->kind == CEL_LIST && want->kind == CEL_LIST && list_len(got) == list_len(want)) {
        for (size_t i = 0; i < list_len(got); i++) {
            struct cel_val x = list_at(a, got, i), y = list_at(a, want, i);
            if (!same(a, &x, &y)) return false;
        }
        return true;
    }
    return got->kind == want->kind && cel_equal(*got, *want);
}

struct run_case {
    struct arena *a;
    const struct json *test;
    const struct cel_prog *prog;
    const char *why;
    bool skip;
};

static bool bind(struct run_case *c, struct cel_env *env, struct cel_val *vars) {
    struct json *it;
    JSON_FOREACH(it, json_get(c->test, "type_env")) {
        const struct cel_type *t = read_type(c->a, one(one(it, "ident"), "type"));
        if (!one(it, "ident") || !t) return false;
        cel_env_var(env, text_of(it, "name"), t);
    }
    JSON_FOREACH(it, json_get(c->test, "bindings")) {
        int slot = cel_env_slot(env, text_of(it, "key"));
        if (slot < 0) slot = cel_env_var(env, text_of(it, "key"), &cel_t_dyn);
        if (!read_val(c->a, one(one(it, "value"), "value"), &vars[slot])) return false;
    }
    return true;
}

static bool check_type(struct run_case *c, const struct json *want) {
    const struct cel_type *t = read_type(c->a, want);
    if (!t) {
        c->skip = true;
        return true;
    }
    if (cel_type_eq(t, cel_prog_type(c->prog))) return true;
    c->why = arena_printf(c->a, "type is %s, should be %s", cel_type_text(c->a, cel_prog_type(c->prog)),
                          cel_type_text(c->a, t));
    return false;
}

static bool run_test(struct run_case *c) {
    unsigned libs = CEL_LIB_K8S | CEL_LIB_EXTRA | CEL_MIXED_LITERALS;
    if (str_eq(text_of(c->test, "disable_check"), "true")) libs |= CEL_NO_CHECK;
    struct cel_env *env = cel_env_new(c->a, libs);
    struct cel_val vars[16] = {{0}}, got, want = cel_bool(true);
    const char *issues = NULL;
    bool fails = json_get(c->test, "eval_error") != NULL;
    cel_env_container(env, str_or_empty(text_of(c->test, "container")));
    if (!bind(c, env, vars)) {
        c->skip = true;
        return true;
    }
    if (cel_compile(c->a, env, text_of(c->test, "expr"), &c->prog, &issues)) {
        c->why = issues;
        return fails;
    }
    const struct json *typed = one(c->test, "typed_result");
    if (typed && !(libs & CEL_NO_CHECK) && !check_type(c, one(typed, "deduced_type"))) return false;
    if (str_eq(text_of(c->test, "check_only"), "true")) return true;
    struct cel_run run = {.arena = c->a, .vars = vars, .n_vars = ARRAY_LEN(vars)};
    int r = cel_eval(c->prog, &run, &got);
    c->why = arena_printf(c->a, "%s", r ? got.s : cel_val_text(c->a, got));
    if (fails) return r != 0;
    const struct json *v = typed ? one(typed, "result") : one(c->test, "value");
    if ((typed || json_get(c->test, "value")) && !read_val(c->a, v, &want)) {
        c->skip = json_len(v) > 0;
        return c->skip;
    }
    return r == 0 && same(c->a, &got, &want);
}

static void run_file(const char *path, const char *name, struct tally *all) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *data = NULL;
    size_t len;
    struct tally t = {0};
    struct json *section, *test;
    if (file_read(path, 16 << 20, &data, &len)) return;
    struct reader r = {a, data, data + len};
    JSON_FOREACH(section, json_get(read_message(&r, 0), "section"))
        JSON_FOREACH(test, json_get(section, "test")) {
            const char *id = arena_printf(a, "%s/%s/%s", name, text_of(section, "name"), text_of(test, "name"));
            if (all->only && !strstr(id, all->only)) continue;
            struct run_case c = {.a = arena_new(), .test = test, .skip = needs_messages(test)};
            bool ok = c.skip || run_test(&c);
            if (c.skip)
                t.skipped++;
            else if (ok)
                t.passed++;
            else
                t.failed++;
            if (!ok && all->verbose) printf("FAIL %s: %s\n     %s\n", id, text_of(test, "expr"), str_or_empty(c.why));
            arena_free(c.a);
        }
    printf("%-28s %4d passed %4d failed %4d skipped\n", name, t.passed, t.failed, t.skipped);
    all->passed += t.passed;
    all->failed += t.failed;
    all->skipped += t.skipped;
}

int main(int argc, char **argv) {
    struct tally all = {0};
    const char *folder = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0)
            all.verbose = true;
        else if (!folder)
            folder = argv[i];
        else
            all.only = argv[i];
    }
    struct dirent **names = NULL;
    int n = folder ? scandir(folder, &names, NULL, alphasort) : -1;
    if (n < 0) {
        fprintf(stderr, "usage: spec_runner FOLDER [-v] [NAME]\n");
        return 2;
    }
    for (int i = 0; i < n; i++) {
        char *path = xasprintf("%s/%s", folder, names[i]->d_name);
        if (str_has_suffix(path, ".textproto")) run_file(path, names[i]->d_name, &all);
        free(path);
        free(names[i]);
    }
    free(names);
    printf("%-28s %4d passed %4d failed %4d skipped\n", "all", all.passed, all.failed, all.skipped);
    return all.failed != 0;
}
