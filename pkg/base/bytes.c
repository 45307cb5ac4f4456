#include "bytes.h"

#include <sys/random.h>

struct rbytes *rbytes_alloc(size_t len) {
    struct rbytes *b = xmalloc(sizeof(*b) + len + 1);
    atomic_init(&b->refs, 1);
    b->reserved = 0;
    b->len = len;
    b->data[len] = 0;
    return b;
}

struct rbytes *rbytes_new(const void *p, size_t len) {
    struct rbytes *b = rbytes_alloc(len);
    if (len) memcpy(b->data, p, len);
    return b;
}

struct rbytes *rbytes_ref(struct rbytes *b) {
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void rbytes_unref(struct rbytes *b) {
    if (b && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1) free(b);
}

static const char std_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char url_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static size_t encode(const unsigned char *p, size_t n, char *out, const char *alphabet, bool pad) {
    char *o = out;
    size_t i = 0;
    for (; i + 2 < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (uint32_t)p[i + 1] << 8 | p[i + 2];
        *o++ = alphabet[v >> 18];
        *o++ = alphabet[v >> 12 & 63];
        *o++ = alphabet[v >> 6 & 63];
        *o++ = alphabet[v & 63];
    }
    if (i < n) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0);
        *o++ = alphabet[v >> 18];
        *o++ = alphabet[v >> 12 & 63];
        if (i + 1 < n)
            *o++ = alphabet[v >> 6 & 63];
        else if (pad)
            *o++ = '=';
        if (pad) *o++ = '=';
    }
    *o = 0;
    return (size_t)(o - out);
}

size_t base64_encode(const void *p, size_t n, char *out) { return encode(p, n, out, std_alphabet, true); }
size_t base64url_encode(const void *p, size_t n, char *out) { return encode(p, n, out, url_alphabet, false); }

static int value_of(char c, bool url) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == (url ? '-' : '+')) return 62;
    if (c == (url ? '_' : '/')) return 63;
    return -1;
}

static int decode(const char *s, size_t n, unsigned char *o, size_t *out_len, bool url) {
    uint32_t acc = 0;
    size_t chars = 0, pad = 0, len = 0;
    for (size_t i = 0; i < n; i++) {
        if (!url && (s[i] == '\r' || s[i] == '\n')) continue;
        if (s[i] == '=' && !url) {
            pad++;
            continue;
        }
        int v = value_of(s[i], url);
        if (v < 0 || pad) return -EINVAL;
        acc = acc << 6 | (uint32_t)v;
        if (++chars % 4 == 0) {
            o[len++] = (unsigned char)(acc >> 16);
            o[len++] = (unsigned char)(acc >> 8);
            o[len++] = (unsigned char)acc;
            acc = 0;
        }
    }
    size_t rest = chars % 4;
    if (rest == 1 || (!url && (rest + pad) % 4 != 0) || pad > 2) return -EINVAL;
    if (rest >= 2) o[len++] = (unsigned char)(acc >> (rest == 2 ? 4 : 10));
    if (rest == 3) o[len++] = (unsigned char)(acc >> 2);
    *out_len = len;
    return 0;
}

int base64_decode(const char *s, size_t n, void *out, size_t *out_len) { return decode(s, n, out, out_len, false); }
int base64url_decode(const char *s, size_t n, void *out, size_t *out_len) { return decode(s, n, out, out_len, true); }

void hex_encode(const void *p, size_t n, char *out) {
    static const char hex[] = "0123456789abcdef";
    const unsigned char *b = p;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = hex[b[i] >> 4];
        out[2 * i + 1] = hex[b[i] & 15];
    }
    out[2 * n] = 0;
}

void random_bytes(void *p, size_t n) {
    char *b = p;
    while (n > 0) {
        ssize_t r = getrandom(b, n, 0);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) abort();
        b += r;
        n -= (size_t)r;
    }
}

/* Every answer of the API server carries a UUID: the kernel is asked for many at once. A child made by fork() without
 * exec would repeat its parent's, so nothing that stays after a fork makes UUIDs. */
void uuid_new(char out[37]) {
    static _Thread_local unsigned char pool[32][16];
    static _Thread_local unsigned left;
    if (!left) {
        random_bytes(pool, sizeof(pool));
        left = 32;
    }
    unsigned char *b = pool[--left];
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    static const size_t group[] = {4, 2, 2, 2, 6};
    char *o = out, hex[33];
    hex_encode(b, 16, hex);
    for (size_t i = 0, at = 0; i < ARRAY_LEN(group); at += 2 * group[i++]) {
        if (i) *o++ = '-';
        o = mempcpy(o, hex + at, 2 * group[i]);
    }
    *o = 0;
}

void random_name(char *out, size_t n) {
    static const char alphabet[] = "bcdfghjklmnpqrstvwxz2456789";
    unsigned char pool[16];
    for (size_t i = 0, at = sizeof(pool); i < n; at++) {
        if (at >= sizeof(pool)) {
            random_bytes(pool, sizeof(pool));
            at = 0;
        }
        if (pool[at] < 256 / 27 * 27) out[i++] = alphabet[pool[at] % 27];
    }
    out[n] = 0;
}
