/* libFuzzer: what a registry answers. The input is parts, parted by a line "--": the first is an image's name, the second a
 * WWW-Authenticate challenge, the third a manifest or index, the others blobs. "@N" in a part stands for the digest of part
 * N, which lies behind it, so that a mutated image still fits together. */
#include <sys/mman.h>

#include "pkg/base/bytes.h"
#include "shim/fsutil.h"
#include "shim/image.h"
#include "shim/shim.h"

enum { PARTS = 8 };

struct part {
    struct buf text;
    char digest[7 + SHA256_HEX + 1];
};

static struct {
    struct image_store *s;
    char root[64];
} world;

static int open_blob(void *arg, const char *digest, int64_t size, bool manifest, int *fd, struct err *e) {
    struct part *parts = arg;
    for (size_t i = 0; i < PARTS; i++) {
        if (!str_eq(parts[i].digest, digest)) continue;
        *fd = memfd_create("blob", MFD_CLOEXEC);
        if (*fd < 0 || fd_write_all(*fd, str_or_empty(parts[i].text.data), parts[i].text.len) ||
            lseek(*fd, 0, SEEK_SET))
            abort();
        return 0;
    }
    return err_set(e, -ENOENT, "no blob %s", digest);
}

/* The part with its digests filled in; its own digest. */
static void part_make(struct part *parts, size_t at, const char *p, size_t n) {
    struct buf *b = &parts[at].text;
    for (size_t i = 0; i < n; i++) {
        size_t other =
            i + 1 < n && p[i] == '@' && p[i + 1] >= '0' && p[i + 1] < '0' + PARTS ? (size_t)(p[i + 1] - '0') : 0;
        if (other > at)
            buf_adds(b, parts[other].digest), i++;
        else
            buf_addc(b, p[i]);
    }
    char hex[SHA256_HEX + 1];
    sha256_of(b->data ? b->data : "", b->len, hex);
    snprintf(parts[at].digest, sizeof(parts[at].digest), "sha256:%s", hex);
}

static size_t split(const char *p, size_t n, const char *at[PARTS], size_t len[PARTS]) {
    size_t k = 0;
    for (const char *end = p + n; k < PARTS;) {
        const char *next = k < PARTS - 1 ? memmem(p, (size_t)(end - p), "\n--\n", 4) : NULL;
        at[k] = p;
        len[k++] = (size_t)((next ? next : end) - p);
        if (!next) break;
        p = next + 4;
    }
    return k;
}

static void set_up(void) {
    snprintf(world.root, sizeof(world.root), "/dev/shm/fuzz-image-%d", (int)getpid());
    world.s = image_store_open(world.root, NULL);
    if (!world.s) abort();
}

static void forget_images(struct arena *a) {
    struct image *items;
    size_t n;
    image_store_list(world.s, a, &items, &n);
    for (size_t i = 0; i < n; i++)
        if (image_store_remove(world.s, items[i].id, NULL)) abort();
    image_store_gc(world.s);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const char *const keys[] = {"realm", "service", "scope"};
    if (!world.s) set_up();
    struct arena *a = arena_new();
    struct part parts[PARTS] = {0};
    const char *at[PARTS], *id = NULL, *name;
    size_t len[PARTS], k = split((const char *)p, n, at, len);
    for (size_t i = k; i-- > 0;) part_make(parts, i, at[i], len[i]);
    struct image_ref ref;
    struct image_config config;
    if (image_ref_parse(a, name = arena_strndup(a, at[0], len[0]), &ref, NULL) == 0) {
        name = image_ref_str(a, &ref);
        if (image_ref_parse(a, name, &ref, NULL) || !str_eq(image_ref_str(a, &ref), name)) abort();
    }
    for (size_t i = 0; k > 1 && i < ARRAY_LEN(keys); i++) challenge_param(a, arena_strndup(a, at[1], len[1]), keys[i]);
    struct image_source src = {.open_blob = open_blob, .arg = parts};
    if (k > 2 && image_ingest(world.s, a, &src, parts[2].digest, &name, 1, false, &id, NULL) == 0) {
        if (image_store_config(world.s, a, id, &config, NULL)) abort();
        forget_images(a);
    }
    for (size_t i = 0; i < PARTS; i++) buf_done(&parts[i].text);
    arena_free(a);
    return 0;
}

__attribute__((destructor)) static void clean_up(void) {
    if (!world.s) return;
    image_store_free(world.s);
    fs_rm_rf(world.root);
}
