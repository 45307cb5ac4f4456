/* Random values of every type there is: what is written in one form and read again is the same. Deterministic: a
 * failure names its type and seed. */
#include "pkg/api/internal.h"

#include "tests/test.h"

enum { SEEDS = 6, DEPTH = 5 };

static uint64_t state;
static uint32_t rnd(uint32_t n) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(state >> 33) % n;
}

static const char *some(const char *const *list, uint32_t n) { return list[rnd(n)]; }

static void fill(struct arena *a, const struct api_type *t, char *obj, int depth);

static void fill_one(struct arena *a, const struct api_field *f, void *p, int depth) {
    static const char *const strings[] = {
        "", "a", "web", "ümläut", "quote\"back\\slash", "line\nbreak", "nul\xc0\x80."};
    static const char *const quantities[] = {"0", "100m", "1Gi", "5k"};
    static const char *const durations[] = {"0s", "1m0s", "1.5s"};
    static const char *const raws[] = {"{}", "{\"a\":[1,\"x\",null]}", "{\"k\":{\"z\":true}}"};
    int64_t n = (int64_t)rnd(3) - 1;
    struct bytes *bytes = p;
    switch ((enum api_kind)f->kind) {
        case API_STRING: *(const char **)p = some(strings, ARRAY_LEN(strings)); break;
        case API_QUANTITY: *(const char **)p = some(quantities, ARRAY_LEN(quantities)); break;
        case API_DURATION: *(const char **)p = some(durations, ARRAY_LEN(durations)); break;
        case API_BOOL: *(bool *)p = rnd(2); break;
        case API_INT32: *(int32_t *)p = (int32_t)n * INT32_MAX; break;
        case API_UINT32: *(uint32_t *)p = rnd(2) ? UINT32_MAX : 0; break;
        case API_INT64: *(int64_t *)p = n * INT64_MAX; break;
        case API_UINT64: *(uint64_t *)p = rnd(2) ? UINT64_MAX : 1; break;
        case API_DOUBLE: *(double *)p = rnd(2) ? 1e-7 : 12345.5; break;
        case API_ENUM: *(int32_t *)p = (int32_t)rnd(2); break;
        case API_BYTES:
            bytes->n = rnd(4);
            bytes->p = (const uint8_t *)"\x00\xff\x7f";
            break;
        case API_TIME: *(struct ktime *)p = (struct ktime){.sec = 1700000000 + rnd(1000), .set = true}; break;
        case API_MICROTIME:
            *(struct ktime *)p = (struct ktime){.sec = 1700000000, .nsec = 123456000, .set = true};
            break;
        case API_INT_OR_STRING:
            *(struct int_or_string *)p = rnd(2) ? (struct int_or_string){.set = true, .i = (int32_t)n, .s = ""}
                                                : (struct int_or_string){.set = true, .is_str = true, .s = "50%"};
            break;
        case API_RAW:
        case API_FIELDS_V1: {
            const char *text = some(raws, ARRAY_LEN(raws));
            *(struct raw_json *)p = (struct raw_json){.p = text, .n = strlen(text)};
            break;
        }
        case API_MESSAGE: fill(a, f->type, p, depth - 1); break;
    }
}

static void fill_vec(struct arena *a, const struct api_field *f, struct any_vec *v, int depth) {
    for (uint32_t n = rnd(3); n; n--) fill_one(a, f, api_vec_push(a, v, api_elem_size(f)), depth);
}

static void fill_map(struct arena *a, const struct api_field *f, struct any_vec *m, int depth) {
    static const struct api_field strings = {.kind = API_STRING, .shape = API_LIST};
    for (uint32_t n = rnd(3); n; n--) {
        char *p = api_vec_push(a, m, api_entry_size(f));
        *(const char **)p = arena_printf(a, "key%u", n);
        if (f->shape != API_MAP_LISTS) {
            fill_one(a, f, p + MAP_VALUE, depth);
            continue;
        }
        struct any_vec *list = (struct any_vec *)(p + MAP_VALUE);
        list->items = api_empty_items;
        fill_vec(a, &strings, list, depth);
    }
    api_map_sort(a, m, api_entry_size(f));
}

static void fill_bare(struct arena *a, const struct api_type *t, char *obj, int depth) {
    uint32_t pick = rnd(t->n_fields);
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        if (f->kind == API_BOOL) *(bool *)(obj + f->offset) = true;
        if (i != pick && !(t->fields[pick].kind == API_BOOL && depth > 0)) continue;
        if (f->shape == API_LIST) {
            fill_one(a, f, api_vec_push(a, (struct any_vec *)(obj + f->offset), api_elem_size(f)), depth);
            return;
        }
        if (f->shape != API_PTR) continue;
        *(void **)(obj + f->offset) = arena_zalloc(a, f->type->size);
        fill(a, f->type, *(char **)(obj + f->offset), depth - 1);
        return;
    }
}

static bool recursive(const struct api_type *t) { return str_eq(t->group, "apiextensions.k8s.io"); }

static void fill(struct arena *a, const struct api_type *t, char *obj, int depth) {
    if (t->bare) {
        fill_bare(a, t, obj, depth);
        return;
    }
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        void *p = obj + f->offset;
        if (depth <= 0 && (f->shape != API_ONE || f->kind == API_MESSAGE) && recursive(t)) continue;
        if (f->shape == API_LIST) {
            if (depth > 0) fill_vec(a, f, p, depth);
        } else if (f->shape >= API_MAP) {
            if (depth > 0) fill_map(a, f, p, depth);
        } else if (!api_is_pointer(f)) {
            if (f->shape == API_ONE || rnd(2)) fill_one(a, f, p, depth);
        } else if (rnd(2) && (depth > 0 || f->kind != API_MESSAGE)) {
            *(void **)p = arena_zalloc(a, api_elem_size(f));
            fill_one(a, f, *(void **)p, depth);
        }
    }
}

static void check_json(struct arena *a, const struct api_type *t, const char *text, size_t n) {
    struct err e = {0};
    struct buf again = BUF_INIT;
    void *back = arena_alloc(a, t->size);
    if (api_from_json(a, t, text, n, back, &e)) {
        TEST_FAIL("%s: %s in %.300s", t->name, e.msg, text);
        return;
    }
    api_to_json(&again, t, back);
    if (!str_eq(again.data, text)) TEST_FAIL("%s: JSON again differs:\n%.900s\n%.900s", t->name, text, again.data);
    buf_done(&again);
    struct json *tree, *normal;
    if (json_parse(a, text, n, &tree, NULL, &e) || api_tree_normalise(a, t, tree, &normal, NULL, &e))
        TEST_FAIL("%s: %s", t->name, e.msg);
    else if (!str_eq(json_text(a, normal), text))
        TEST_FAIL("%s: normalised differs:\n%.900s\n%.900s", t->name, text, json_text(a, normal));
    else if (!json_equal(api_to_tree(a, t, back), normal))
        TEST_FAIL("%s: tree differs", t->name);
}

static void check_proto(struct arena *a, const struct api_type *t, const void *obj) {
    struct buf once = BUF_INIT, again = BUF_INIT;
    struct err e = {0};
    void *back = arena_alloc(a, t->size);
    api_to_proto(&once, t, obj);
    if (api_from_proto(a, t, (const uint8_t *)str_or_empty(once.data), once.len, back, &e)) {
        TEST_FAIL("%s: %s", t->name, e.msg);
    } else {
        api_to_proto(&again, t, back);
        if (once.len != again.len || (once.len && memcmp(once.data, again.data, once.len) != 0))
            TEST_FAIL("%s: protobuf again differs (%zu, %zu bytes)", t->name, once.len, again.len);
    }
    buf_done(&once);
    buf_done(&again);
}

TEST(every_type_survives_json_and_protobuf) {
    for (size_t i = 0; i < api_types_n; i++) {
        const struct api_type *t = api_types[i];
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            state = seed * 7919 + i;
            struct arena *a = arena_new();
            struct buf text = BUF_INIT;
            void *obj = arena_zalloc(a, t->size);
            fill(a, t, obj, recursive(t) ? 2 : DEPTH);
            api_to_json(&text, t, obj);
            check_json(a, t, text.data, text.len);
            check_proto(a, t, obj);
            CHECK(api_equal(t, obj, api_clone(a, t, obj)));
            int before = test_failures;
            buf_done(&text);
            arena_free(a);
            if (before) {
                TEST_FAIL("type %s, seed %d", t->name, (int)seed);
                return;
            }
        }
    }
}

TEST(damaged_protobuf_never_crashes) {
    for (size_t i = 0; i < api_types_n; i += 7) {
        const struct api_type *t = api_types[i];
        state = i + 1;
        struct arena *a = arena_new();
        struct buf b = BUF_INIT;
        void *obj = arena_zalloc(a, t->size), *back = arena_alloc(a, t->size);
        fill(a, t, obj, 3);
        api_to_proto(&b, t, obj);
        for (int k = 0; k < 40 && b.len; k++) {
            char *copy = arena_memdup(a, b.data, b.len);
            copy[rnd((uint32_t)b.len)] ^= (char)(1 << rnd(8));
            size_t n = rnd(2) ? b.len : rnd((uint32_t)b.len);
            if (api_from_proto(a, t, (uint8_t *)copy, n, back, NULL) == 0) CHECK(api_equal(t, back, back));
        }
        buf_done(&b);
        arena_free(a);
    }
}
