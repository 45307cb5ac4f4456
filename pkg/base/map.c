#include "map.h"

static char tombstone[1];

uint32_t hash_bytes(const void *p, size_t n) {
    const unsigned char *b = p;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 16777619u;
    return h;
}

void map_done_with(struct map *m, void (*free_value)(void *)) {
    for (size_t i = 0; i < m->cap; i++) {
        char *k = m->slots[i].key;
        if (!k || k == tombstone) continue;
        free(k);
        if (free_value) free_value(m->slots[i].value);
    }
    free(m->slots);
    *m = (struct map){0};
}

void map_done(struct map *m) { map_done_with(m, NULL); }

/* The slot that holds the key, else the one to put it into. */
static struct map_entry *find(const struct map *m, const char *key, uint32_t hash) {
    struct map_entry *grave = NULL;
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct map_entry *s = &m->slots[i];
        if (!s->key) return grave ? grave : s;
        if (s->key == tombstone) {
            if (!grave) grave = s;
        } else if (s->hash == hash && strcmp(s->key, key) == 0) {
            return s;
        }
    }
}

static struct map_entry *lookup(const struct map *m, const char *key) {
    if (!m->cap) return NULL;
    struct map_entry *s = find(m, key, hash_bytes(key, strlen(key)));
    return s->key && s->key != tombstone ? s : NULL;
}

void *map_get(const struct map *m, const char *key) {
    struct map_entry *s = lookup(m, key);
    return s ? s->value : NULL;
}

bool map_has(const struct map *m, const char *key) { return lookup(m, key) != NULL; }

static void rehash(struct map *m, size_t cap) {
    struct map old = *m;
    m->slots = xcalloc(cap, sizeof(*m->slots));
    m->cap = cap;
    m->used = m->n;
    for (size_t i = 0; i < old.cap; i++) {
        struct map_entry *s = &old.slots[i];
        if (s->key && s->key != tombstone) *find(m, s->key, s->hash) = *s;
    }
    free(old.slots);
}

void *map_put(struct map *m, const char *key, void *value) {
    if ((m->used + 1) * 4 > m->cap * 3) rehash(m, MAX_OF((size_t)8, (m->n + 1) * 2 > m->cap ? m->cap * 2 : m->cap));
    uint32_t hash = hash_bytes(key, strlen(key));
    struct map_entry *s = find(m, key, hash);
    if (s->key && s->key != tombstone) {
        void *old = s->value;
        s->value = value;
        return old;
    }
    if (!s->key) m->used++;
    *s = (struct map_entry){xstrdup(key), value, hash};
    m->n++;
    return NULL;
}

void *map_del(struct map *m, const char *key) {
    struct map_entry *s = lookup(m, key);
    if (!s) return NULL;
    void *v = s->value;
    free(s->key);
    *s = (struct map_entry){.key = tombstone};
    m->n--;
    return v;
}

bool map_next(const struct map *m, size_t *it, const char **key, void **value) {
    for (; *it < m->cap; (*it)++) {
        struct map_entry *s = &m->slots[*it];
        if (!s->key || s->key == tombstone) continue;
        if (key) *key = s->key;
        if (value) *value = s->value;
        (*it)++;
        return true;
    }
    return false;
}
