#include <stdlib.h>
#include <unistd.h>

#include "pkg/store/seal.h"
#include "tests/test.h"

#define KEY1 "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
#define KEY2 "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
#define KEYS(kind, ...) "[{\"" kind "\":{\"keys\":[" __VA_ARGS__ "]}}]"
#define ONE "{\"name\":\"one\",\"secret\":\"" KEY1 "\"}"
#define TWO "{\"name\":\"two\",\"secret\":\"" KEY2 "\"}"

static struct seals *seals(struct arena *a, const char *text) {
    struct json *v = NULL;
    struct seals *s = NULL;
    _cleanup_err_ struct err e = {0};
    if (json_parse(a, text, strlen(text), &v, NULL, &e) || seals_new(v, &s, &e)) TEST_FAIL("%s: %s", text, e.msg);
    return s;
}

static bool reads(struct arena *a, const struct seals *s, const char *key, const struct buf *b, const char *want) {
    const char *out;
    size_t n;
    return seals_decrypt(s, a, key, b->data, b->len, &out, &n, NULL) == 0 && n == strlen(want) && str_eq(out, want);
}

TEST(what_is_encrypted_is_read_with_the_same_key_only) {
    static const char *const kinds[] = {KEYS("aescbc", ONE), KEYS("aesgcm", ONE), KEYS("secretbox", ONE)},
                             *const others[] = {KEYS("aescbc", TWO), KEYS("aesgcm", TWO), KEYS("secretbox", TWO)},
                             *const heads[] = {
                                 "k8s:enc:aescbc:v1:one:", "k8s:enc:aesgcm:v1:one:", "k8s:enc:secretbox:v1:one:"};
    static const char *const values[] = {"", "x", "0123456789abcdef", "{\"kind\":\"Secret\"}"};
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct seals *s = seals(a, kinds[i]), *other = seals(a, others[i]);
        for (size_t k = 0; k < ARRAY_LEN(values); k++) {
            _cleanup_buf_ struct buf b = BUF_INIT, again = BUF_INIT;
            CHECK_INT(seals_encrypt(s, "/registry/secrets/a/b", values[k], strlen(values[k]), &b, NULL), 0);
            CHECK_INT(seals_encrypt(s, "/registry/secrets/a/b", values[k], strlen(values[k]), &again, NULL), 0);
            CHECK(b.len == again.len && memcmp(b.data, again.data, b.len) != 0); /* each with its own nonce */
            CHECK(b.len > strlen(heads[i]) && memcmp(b.data, heads[i], strlen(heads[i])) == 0);
            CHECK(reads(a, s, "/registry/secrets/a/b", &b, values[k]));
            CHECK(!reads(a, other, "/registry/secrets/a/b", &b, values[k]));
            CHECK(reads(a, s, "/registry/secrets/a/c", &b, values[k]) == (i != 1)); /* aesgcm binds it to its key */
            b.data[b.len - 1] ^= 1;
            CHECK(!reads(a, s, "/registry/secrets/a/b", &b, values[k]));
        }
        seals_free(s);
        seals_free(other);
    }
}

TEST(keys_are_rotated_by_their_order) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct seals *old = seals(a, KEYS("aescbc", ONE)), *both = seals(a, KEYS("aescbc", TWO "," ONE)),
                 *mixed = seals(a, "[{\"identity\":{}},{\"aescbc\":{\"keys\":[" ONE "]}}]");
    _cleanup_buf_ struct buf b = BUF_INIT, plain = BUF_INIT;
    seals_encrypt(old, "k", "v", 1, &b, NULL);
    CHECK(reads(a, both, "k", &b, "v") && reads(a, mixed, "k", &b, "v"));
    CHECK(seals_current(old, b.data, b.len) && !seals_current(both, b.data, b.len) &&
          !seals_current(mixed, b.data, b.len));
    seals_encrypt(mixed, "k", "v", 1, &plain, NULL);
    CHECK(plain.len == 1 && seals_current(mixed, "v", 1) && !seals_current(both, "v", 1));
    CHECK(!reads(a, both, "k", &plain, "v")); /* plain values need identity */
    seals_free(old);
    seals_free(both);
    seals_free(mixed);
}

TEST(wrong_providers_are_refused) {
    static const char *const bad[] = {"[]",
                                      "[{}]",
                                      "[{\"kms\":{\"apiVersion\":\"v1\",\"name\":\"k\"}}]",
                                      "[{\"rot13\":{}}]",
                                      "[{\"aescbc\":{\"keys\":[]}}]",
                                      KEYS("aescbc", "{\"secret\":\"" KEY1 "\"}"),
                                      KEYS("aescbc", "{\"name\":\"a:b\",\"secret\":\"" KEY1 "\"}"),
                                      KEYS("aescbc", "{\"name\":\"a\",\"secret\":\"?\"}"),
                                      KEYS("aescbc", "{\"name\":\"a\",\"secret\":\"MDEyMw==\"}"),
                                      KEYS("secretbox", "{\"name\":\"a\",\"secret\":\"MDEyMzQ1Njc4OWFiY2RlZg==\"}")};
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct json *v = NULL;
        struct seals *s = NULL;
        REQUIRE(json_parse(a, bad[i], strlen(bad[i]), &v, NULL, NULL) == 0);
        if (seals_new(v, &s, NULL) == 0) TEST_FAIL("%s is taken", bad[i]);
    }
}

/* ---- the store ---- */

struct seen {
    _Atomic int n;
    char value[32];
};

static void on_events(void *arg, const struct store_event *events, size_t n, int64_t rev, int error) {
    struct seen *x = arg;
    for (size_t i = 0; i < n; i++) {
        snprintf(x->value, sizeof(x->value), "%.*s", (int)events[i].value_len, events[i].value);
        x->n++;
    }
}

static void put(struct store *s, struct arena *a, const char *key, const char *value) {
    struct store_txn t = {
        .op = STORE_PUT, .key = key, .value = value, .value_len = strlen(value), .expect_rev = STORE_ANY_REV};
    struct store_txn_result r;
    CHECK_INT(store_txn(s, a, &t, &r, NULL), 0);
}

TEST(a_store_encrypts_some_of_its_keys) {
    char dir[] = "/tmp/sealed-test-XXXXXX";
    REQUIRE(mkdtemp(dir));
    _cleanup_free_ char *path = xasprintf("%s/db", dir);
    _cleanup_arena_ struct arena *a = arena_new();
    struct seals *k = seals(a, KEYS("secretbox", ONE));
    struct sealed_prefix table[] = {{"/registry/secrets/", false, k}, {"/registry/", true, k}};
    struct store_options o = {.sqlite_path = path, .no_fsync = true};
    struct store *raw;
    REQUIRE(store_open(&o, &raw, NULL) == 0);
    put(raw, a, "/registry/secrets/a/plain", "old");
    struct store *s = store_sealed_new(raw, table, 2);
    struct seen seen = {0};
    struct store_watch *w;
    struct store_kv kv;
    struct store_list l;
    CHECK(store_stale(s, "/registry/secrets/a/plain") && !store_stale(s, "/registry/pods/a/p"));
    CHECK_INT(store_get(s, a, "/registry/secrets/a/plain", 0, &kv, NULL, NULL), -EBADMSG);
    put(s, a, "/registry/secrets/a/plain", "new");
    int64_t rev = 0;
    CHECK_INT(store_current_rev(s, &rev, NULL), 0);
    CHECK_INT(store_watch(s, "/registry/", rev, on_events, &seen, &w, NULL), 0);
    put(s, a, "/registry/secrets/a/b", "hidden");
    put(s, a, "/registry/apps.example.com/things/t", "custom");
    put(s, a, "/registry/pods/a/p", "pod");
    CHECK(store_get(s, a, "/registry/secrets/a/b", 0, &kv, NULL, NULL) == 0 && str_eq(kv.value, "hidden"));
    CHECK(store_list(s, a, "/registry/", NULL, 0, 0, &l, NULL) == 0 && l.n == 4 && str_eq(l.items[0].value, "custom"));
    CHECK(!store_stale(s, "/registry/secrets/a/b"));
    CHECK(store_get(raw, a, "/registry/secrets/a/b", 0, &kv, NULL, NULL) == 0 &&
          str_has_prefix(kv.value, "k8s:enc:secretbox:v1:one:"));
    CHECK(store_get(raw, a, "/registry/apps.example.com/things/t", 0, &kv, NULL, NULL) == 0 &&
          str_has_prefix(kv.value, "k8s:enc:"));
    CHECK(store_get(raw, a, "/registry/pods/a/p", 0, &kv, NULL, NULL) == 0 && str_eq(kv.value, "pod"));
    for (int i = 0; i < 6000 && seen.n < 3; i++) usleep(10000);
    CHECK_INT(seen.n, 3);
    CHECK_STR(seen.value, "pod");
    store_watch_cancel(w);
    store_close(s);
    seals_free(k);
    static const char *const files[] = {"db", "db-wal", "db-shm"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *f = xasprintf("%s/%s", dir, files[i]);
        unlink(f);
    }
    rmdir(dir);
}
