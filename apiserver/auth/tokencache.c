/* What verified bearer tokens said, for a few seconds: verifying a signature costs some 80 us, more than most
 * requests. Kept by the token's SHA-256, so no token lies about in memory. As upstream's token cache (10 s),
 * a revoked token may live on for that long. When the cache is full it starts anew: it holds what a busy
 * server sees in ten seconds. */
#include <openssl/sha.h>
#include <pthread.h>

#include "apiserver/auth/internal.h"
#include "pkg/base/bytes.h"
#include "pkg/base/map.h"

enum { TOKENS_MAX = 2048, TTL_S = 10 };

struct entry {
    struct arena *arena;
    struct user_info user;
    int64_t until_ns;
};

struct token_cache {
    pthread_mutex_t lock;
    struct map entries;
};

struct token_cache *token_cache_new(void) {
    struct token_cache *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void entry_free(void *p) {
    struct entry *x = p;
    arena_free(x->arena);
    free(x);
}

void token_cache_free(struct token_cache *c) {
    if (!c) return;
    map_done_with(&c->entries, entry_free);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static char *key_of(const char *token, char out[2 * SHA256_DIGEST_LENGTH + 1]) {
    unsigned char md[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)token, strlen(token), md);
    hex_encode(md, sizeof(md), out);
    return out;
}

static const char **copy_strings(struct arena *a, const char *const *list, size_t n) {
    const char **out = arena_alloc(a, (n + 1) * sizeof(*out));
    for (size_t i = 0; i < n; i++) out[i] = arena_strdup(a, list[i]);
    return out;
}

static void copy_user(struct arena *a, const struct user_info *u, struct user_info *out) {
    *out = (struct user_info){.name = arena_strdup(a, u->name),
                              .uid = arena_strdup(a, u->uid),
                              .groups = copy_strings(a, u->groups, u->n_groups),
                              .n_groups = u->n_groups,
                              .extra = arena_alloc(a, (u->n_extra + 1) * sizeof(*u->extra)),
                              .n_extra = u->n_extra};
    for (size_t i = 0; i < u->n_extra; i++)
        out->extra[i] = (struct user_extra){.key = arena_strdup(a, u->extra[i].key),
                                            .values = copy_strings(a, u->extra[i].values, u->extra[i].n),
                                            .n = u->extra[i].n};
}

bool token_cache_get(struct token_cache *c, struct arena *a, const char *token, struct user_info *out) {
    char key[2 * SHA256_DIGEST_LENGTH + 1];
    key_of(token, key);
    pthread_mutex_lock(&c->lock);
    const struct entry *x = map_get(&c->entries, key);
    bool found = x && x->until_ns > mono_ns();
    if (found) copy_user(a, &x->user, out);
    pthread_mutex_unlock(&c->lock);
    return found;
}

void token_cache_put(struct token_cache *c, const char *token, const struct user_info *u) {
    char key[2 * SHA256_DIGEST_LENGTH + 1];
    struct entry *x = xcalloc(1, sizeof(*x));
    x->arena = arena_new_sized(1024);
    x->until_ns = mono_ns() + TTL_S * NS_PER_SEC;
    copy_user(x->arena, u, &x->user);
    key_of(token, key);
    pthread_mutex_lock(&c->lock);
    if (c->entries.n >= TOKENS_MAX) {
        map_done_with(&c->entries, entry_free);
        c->entries = (struct map)MAP_INIT;
    }
    struct entry *old = map_put(&c->entries, key, x);
    pthread_mutex_unlock(&c->lock);
    if (old) entry_free(old);
}
