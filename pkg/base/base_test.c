#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/bytes.h"
#include "pkg/base/err.h"
#include "pkg/base/flags.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

#include "tests/test.h"

TEST(arena_blocks_keep_their_content) {
    _cleanup_arena_ struct arena *a = arena_new();
    char *p[200];
    for (int i = 0; i < 200; i++) {
        p[i] = arena_alloc(a, (size_t)i * 37 + 1);
        memset(p[i], i, (size_t)i * 37 + 1);
    }
    for (int i = 0; i < 200; i++) CHECK(p[i][0] == (char)i && p[i][i * 37] == (char)i);
    char *q = arena_alloc(a, 16);
    memcpy(q, "0123456789abcde", 16);
    CHECK(arena_realloc(a, q, 16, 64) == q);
    q = arena_realloc(a, q, 64, 1 << 20);
    CHECK_STR(q, "0123456789abcde");
}

TEST(arena_blocks_of_no_size_are_not_their_neighbours) {
    _cleanup_arena_ struct arena *a = arena_new();
    char *empty = arena_alloc(a, 0), *next = arena_alloc(a, 16);
    memset(next, 'n', 16);
    char *grown = arena_realloc(a, empty, 0, 16);
    memset(grown, 'g', 16);
    CHECK(next[0] == 'n' && next[15] == 'n');
}

TEST(buffer_refuses_to_pass_its_limit) {
    _cleanup_buf_ struct buf b = {.limit = 10};
    buf_adds(&b, "12345");
    buf_adds(&b, "67890");
    CHECK(!b.failed);
    buf_addc(&b, 'x');
    CHECK(b.failed);
    CHECK_STR(b.data, "1234567890");
}

TEST(map_survives_many_insertions_and_removals) {
    _cleanup_map_ struct map m = MAP_INIT;
    char key[16];
    for (intptr_t i = 1; i <= 5000; i++) {
        snprintf(key, sizeof(key), "k%d", (int)i);
        CHECK(!map_put(&m, key, (void *)i));
        if (i % 3 == 0) {
            snprintf(key, sizeof(key), "k%d", (int)i / 3);
            CHECK((intptr_t)map_del(&m, key) == i / 3);
        }
    }
    CHECK_INT(m.n, 5000 - 1666);
    size_t it = 0, n = 0;
    void *v;
    const char *k;
    while (map_next(&m, &it, &k, &v)) {
        snprintf(key, sizeof(key), "k%d", (int)(intptr_t)v);
        CHECK_STR(k, key);
        n++;
    }
    CHECK_INT(n, m.n);
    CHECK(!map_get(&m, "k1") && map_get(&m, "k4999"));
}

TEST(times_parse_and_print) {
    static const struct {
        const char *in, *seconds, *micro;
    } cases[] = {
        {"2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000000Z"},
        {"2024-03-01T01:59:59.5+02:00", "2024-02-29T23:59:59Z", "2024-02-29T23:59:59.500000Z"},
        {"1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59.999999Z"},
        {"0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"},
    };
    char out[KTIME_MAX];
    struct ktime t;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CHECK_INT(ktime_parse(cases[i].in, &t), 0);
        CHECK_STR(ktime_format(t, out), cases[i].seconds);
        CHECK_STR(ktime_format_micro(t, out), cases[i].micro);
    }
    static const char *const bad[] = {"",
                                      "2024-02-30T00:00:00Z",
                                      "2023-02-29T00:00:00Z",
                                      "2024-01-01",
                                      "2024-01-01T00:00:00",
                                      "2024-01-01 00:00:00Z",
                                      "2024-13-01T00:00:00Z",
                                      "2024-01-01T24:00:00Z",
                                      "2024-01-01T00:00:00Zx"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) CHECK_INT(ktime_parse(bad[i], &t), -EINVAL);
}

TEST(durations_parse_and_print_as_go_does) {
    static const struct {
        const char *in;
        int64_t ns;
        const char *out;
    } cases[] = {
        {"1h30m", 5400 * NS_PER_SEC, "1h30m0s"}, {"1.5s", 1500 * NS_PER_MS, "1.5s"}, {"0", 0, "0s"},
        {"-250ms", -250 * NS_PER_MS, "-250ms"},  {"10us", 10000, "10\u00b5s"},       {"90s", 90 * NS_PER_SEC, "1m30s"}};
    char out[KTIME_MAX];
    int64_t ns = 0;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CHECK_INT(duration_parse(cases[i].in, &ns), 0);
        CHECK_INT(ns, cases[i].ns);
        CHECK_STR(duration_format(ns, out), cases[i].out);
    }
    CHECK_INT(duration_parse("5", &ns), -EINVAL);
    CHECK_INT(duration_parse("s", &ns), -EINVAL);
}

TEST(base64_round_trips_and_is_strict) {
    char text[64], back[64];
    size_t n;
    for (size_t len = 0; len < 20; len++) {
        base64_encode("abcdefghijklmnopqrstuvwxyz", len, text);
        CHECK_INT(base64_decode(text, strlen(text), back, &n), 0);
        CHECK(n == len && memcmp(back, "abcdefghijklmnopqrstuvwxyz", n) == 0);
        base64url_encode("\xff\xfe\xfd\xfc\xfb", MIN_OF(len, (size_t)5), text);
        CHECK_INT(base64url_decode(text, strlen(text), back, &n), 0);
        CHECK_INT(n, MIN_OF(len, (size_t)5));
    }
    static const char *const bad[] = {"a", "ab", "abc", "ab=c", "a===", "ab==c", "a b=", "abcd=", "ab=", "_-aa"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) CHECK_INT(base64_decode(bad[i], strlen(bad[i]), back, &n), -EINVAL);
}

TEST(integers_are_checked_for_range) {
    int64_t v = 0;
    CHECK_INT(str_to_i64("-9223372036854775808", &v), 0);
    CHECK_INT(v, INT64_MIN);
    CHECK_INT(str_to_i64("9223372036854775808", &v), -ERANGE);
    CHECK_INT(str_to_i64("12a", &v), -EINVAL);
    CHECK_INT(str_to_i64("-", &v), -EINVAL);
}

TEST(errors_carry_status_causes_and_context) {
    _cleanup_err_ struct err e = {0};
    CHECK_INT(err_status(&e, 404, "NotFound", "pods \"%s\" not found", "x"), -ENOENT);
    err_cause_add(&e, "FieldValueInvalid", "spec.x", "bad %d", 1);
    err_details(&e, NULL, "pods", "x");
    err_wrap(&e, "reading %s", "it");
    CHECK_STR(e.msg, "reading it: pods \"x\" not found");
    CHECK_STR(e.causes[0].message, "bad 1");
    struct err other = {0};
    err_move(&other, &e);
    CHECK_INT(e.n_causes, 0);
    CHECK_STR(other.name, "x");
    err_done(&other);
}

TEST(a_repeated_flag_takes_its_values_whole) {
    struct flag_list l = {0};
    const struct flag flags[] = {{"arg", 0, FLAG_STRINGS, &l, "FLAG=VALUE", ""}, {0}};
    char *argv[] = {(char *)"p", (char *)"--arg=plugins=A,B", (char *)"--arg", (char *)"v=4", NULL};
    CHECK_INT(flags_parse(flags, 4, argv, NULL, NULL), 0);
    CHECK(l.n == 2 && str_eq(l.items[0], "plugins=A,B") && str_eq(l.items[1], "v=4"));
    flag_list_done(&l);
}

TEST(flags_come_from_their_table) {
    const char *s = "d";
    int64_t n = 1, d = 0;
    bool b = true;
    struct flag_list l = {0};
    const struct flag flags[] = {{"s", 0, FLAG_STR, &s, "X", ""},       {"num", 'n', FLAG_INT, &n, "N", ""},
                                 {"b", 0, FLAG_BOOL, &b, NULL, ""},     {"d", 0, FLAG_DURATION, &d, "D", ""},
                                 {"list", 0, FLAG_LIST, &l, "A,B", ""}, {0}};
    char *argv[] = {
        (char *)"p",   (char *)"one", (char *)"--s=v",      (char *)"-n",  (char *)"7",      (char *)"--b=false",
        (char *)"--d", (char *)"2m",  (char *)"--list=a,b", (char *)"two", (char *)"--list", (char *)"c",
        NULL};
    int args = 0;
    CHECK_INT(flags_parse(flags, 12, argv, &args, NULL), 0);
    CHECK_STR(s, "v");
    CHECK_INT(n, 7);
    CHECK(!b);
    CHECK_INT(d, 120 * NS_PER_SEC);
    CHECK(l.n == 3 && str_eq(l.items[2], "c"));
    CHECK(args == 2 && str_eq(argv[1], "one") && str_eq(argv[2], "two"));
    flag_list_done(&l);
    char *bad[] = {(char *)"p", (char *)"--nope", NULL};
    _cleanup_err_ struct err e = {0};
    CHECK_INT(flags_parse(flags, 2, bad, NULL, &e), -EINVAL);
    CHECK_STR(e.msg, "unknown flag: --nope");
}
