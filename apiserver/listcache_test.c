#include "apiserver/listcache.h"
#include "tests/test.h"

static struct rbytes *text_of(size_t n) {
    struct rbytes *b = rbytes_alloc(n);
    memset(b->data, 'x', n);
    b->data[n] = 0;
    return b;
}

enum { LARGE = 128 * 1024 };

TEST(the_second_request_for_a_state_is_worth_keeping_its_list) {
    static const struct resource pods, nodes;
    struct listcache *c = listcache_new();
    bool wanted = true;
    CHECK(!listcache_get(c, &pods, "ns", 7, &wanted));
    CHECK(!wanted);
    CHECK(!listcache_get(c, &pods, "ns", 7, &wanted));
    CHECK(wanted);
    struct rbytes *b = text_of(LARGE);
    listcache_put(c, &pods, "ns", 7, b);
    struct rbytes *got = listcache_get(c, &pods, "ns", 7, &wanted);
    CHECK(got == b);
    CHECK(!listcache_get(c, &pods, NULL, 7, &wanted));
    CHECK(!listcache_get(c, &nodes, "ns", 7, &wanted));
    rbytes_unref(got);
    rbytes_unref(b);
    listcache_free(c);
}

TEST(a_change_of_the_resource_makes_a_kept_list_useless) {
    static const struct resource pods;
    struct listcache *c = listcache_new();
    bool wanted;
    struct rbytes *b = text_of(LARGE);
    listcache_get(c, &pods, NULL, 7, &wanted);
    listcache_put(c, &pods, NULL, 7, b);
    CHECK(!listcache_get(c, &pods, NULL, 8, &wanted));
    CHECK(!wanted);
    listcache_put(c, &pods, NULL, 7, b); /* made from the old state: too late */
    CHECK(!listcache_get(c, &pods, NULL, 8, &wanted));
    rbytes_unref(b);
    listcache_free(c);
}

TEST(small_lists_are_not_kept) {
    static const struct resource pods;
    struct listcache *c = listcache_new();
    bool wanted;
    struct rbytes *b = text_of(100);
    listcache_get(c, &pods, NULL, 7, &wanted);
    listcache_put(c, &pods, NULL, 7, b);
    CHECK(!listcache_get(c, &pods, NULL, 7, &wanted));
    rbytes_unref(b);
    listcache_free(c);
}
