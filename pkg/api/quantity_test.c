#include "pkg/api/quantity.h"

#include "tests/test.h"

static void canonical(const char *in, const char *want) {
    struct arena *a = arena_new();
    const char *got = quantity_canonical(a, in);
    if (!str_eq(got, want))
        TEST_FAIL("\"%s\" is \"%s\", should be \"%s\"", in, got ? got : "(bad)", want ? want : "(bad)");
    arena_free(a);
}

TEST(canonical_form_has_the_largest_suffix_with_a_whole_mantissa) {
    static const char *const pairs[][2] = {
        {"0", "0"},
        {"0Ki", "0"},
        {"1", "1"},
        {"1000", "1k"},
        {"1500", "1500"},
        {"1500m", "1500m"},
        {"1000m", "1"},
        {"0.5", "500m"},
        {".5", "500m"},
        {"5.", "5."},
        {"1.5", "1500m"},
        {"100m", "100m"},
        {"0.1", "100m"},
        {"1Ki", "1Ki"},
        {"1024", "1024"},
        {"1024Ki", "1Mi"},
        {"1536Mi", "1536Mi"},
        {"1.5Gi", "1536Mi"},
        {"0.5Ki", "512"},
        {"1023Ki", "1023Ki"},
        {"128974848", "128974848"},
        {"129e6", "129e6"},
        {"1e3", "1e3"},
        {"1E3", "1E3"},
        {"1e4", "10e3"},
        {"12e-1", "1200e-3"},
        {"129M", "129M"},
        {"1G", "1G"},
        {"-1", "-1"},
        {"+1", "+1"},
        {"-1500m", "-1500m"},
        {"1E", "1E"},
        {"1n", "1n"},
        {"0.1n", "1n"},
        {"1000000n", "1m"},
        {"00100", "00100"},
        {" 1 ", "1"},
        {"1000Ki", "1000Ki"},
        {"0.001Ki", "1024m"},
        {"2Ei", "2Ei"},
        {"99999999999999999999", "99999999999999999999"},
        {"1000000k", "1G"},
        {"3000m", "3"},
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) canonical(pairs[i][0], pairs[i][1]);
}

TEST(what_is_no_quantity_is_refused) {
    static const char *const bad[] = {"",     " ",     ".",   "-",   "abc",  "1 Gi", "1KI",   "1ki", "1e",  "1e+",
                                      "1ee3", "1.2.3", "--1", "1mm", "0x10", "1Kib", "1e3Ki", "Ki",  "1,5", "NaN"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) canonical(bad[i], NULL);
}

TEST(canonical_form_is_a_fixed_point) {
    static const char *const some[] = {"1.5Gi",   "123456789n",  "7e5",  "1023", "1025",
                                       "1048576", "0.000000001", "10Ei", "5000m"};
    struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(some); i++) {
        const char *once = quantity_canonical(a, some[i]);
        CHECK_STR(quantity_canonical(a, once), once);
        struct quantity x, y;
        REQUIRE(quantity_parse(some[i], &x) == 0 && quantity_parse(once, &y) == 0);
        CHECK_INT(quantity_cmp(x, y), 0);
    }
    arena_free(a);
}

TEST(values_round_away_from_zero_and_saturate) {
    CHECK_INT(quantity_str_value("1500m"), 2);
    CHECK_INT(quantity_str_value("-1500m"), -2);
    CHECK_INT(quantity_str_value("1Gi"), 1073741824);
    CHECK_INT(quantity_str_milli("250m"), 250);
    CHECK_INT(quantity_str_milli("1"), 1000);
    CHECK_INT(quantity_str_milli("1u"), 1);
    CHECK(quantity_str_milli("9E") == INT64_MAX);
    CHECK_INT(quantity_str_value(NULL), 0);
    CHECK_INT(quantity_str_value("x"), 0);
}

TEST(sums_keep_the_family_of_the_first_that_is_not_zero) {
    struct arena *a = arena_new();
    struct quantity x, y, zero = {0};
    REQUIRE(quantity_parse("1Gi", &x) == 0 && quantity_parse("512Mi", &y) == 0);
    CHECK_STR(quantity_format(a, quantity_add(x, y)), "1536Mi");
    CHECK_STR(quantity_format(a, quantity_sub(x, y)), "512Mi");
    CHECK_STR(quantity_format(a, quantity_add(zero, y)), "512Mi");
    CHECK(quantity_cmp(x, y) > 0);
    arena_free(a);
}
