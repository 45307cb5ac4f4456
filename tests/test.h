/* Unit tests: a file of TEST(...) functions and nothing else; main comes from here. Include it last, once a program.
 *
 *     TEST(arena_grows_in_place) { CHECK(x == y); CHECK_STR(s, "abc"); CHECK_INT(n, 3); }
 *
 * Every test's name says the behaviour. Prints a line for each failure and at the end "N passed, N failed".
 * Arguments choose tests by a part of their name. */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case {
    const char *name;
    void (*fn)(void);
    struct test_case *next;
};
static struct test_case *test_first, **test_tail = &test_first;
static int test_failures;

#define TEST(id)                                                        \
    static void test_##id(void);                                        \
    __attribute__((constructor)) static void test_register_##id(void) { \
        static struct test_case c = {#id, test_##id, NULL};             \
        *test_tail = &c;                                                \
        test_tail = &c.next;                                            \
    }                                                                   \
    static void test_##id(void)

#define TEST_FAIL(...)                                  \
    do {                                                \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__);                   \
        fputc('\n', stderr);                            \
        test_failures++;                                \
    } while (0)
#define CHECK(cond)                                  \
    do {                                             \
        if (!(cond)) TEST_FAIL("not so: %s", #cond); \
    } while (0)
/* As CHECK, but ends the test: for what the rest depends on. */
#define REQUIRE(cond)                       \
    do {                                    \
        if (!(cond)) {                      \
            TEST_FAIL("not so: %s", #cond); \
            return;                         \
        }                                   \
    } while (0)
#define CHECK_INT(got, want)                                                 \
    do {                                                                     \
        long long _g = (long long)(got), _w = (long long)(want);             \
        if (_g != _w) TEST_FAIL("%s is %lld, should be %lld", #got, _g, _w); \
    } while (0)
#define CHECK_STR(got, want)                                                                           \
    do {                                                                                               \
        const char *_g = (got), *_w = (want);                                                          \
        if (!_g || !_w ? _g != _w : strcmp(_g, _w) != 0)                                               \
            TEST_FAIL("%s is \"%s\", should be \"%s\"", #got, _g ? _g : "(null)", _w ? _w : "(null)"); \
    } while (0)

int main(int argc, char **argv) {
    int passed = 0, failed = 0;
    for (struct test_case *c = test_first; c; c = c->next) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted |= strstr(c->name, argv[i]) != NULL;
        if (!wanted) continue;
        test_failures = 0;
        c->fn();
        if (test_failures) {
            fprintf(stderr, "FAILED %s\n", c->name);
            failed++;
        } else {
            passed++;
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
