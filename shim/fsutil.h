/* Files, folders and mounts as the shim needs them: removal that never follows a link or crosses a mount, JSON records
 * replaced atomically, SHA-256 of what passes by. */
#pragma once

#include <openssl/evp.h>
#include <sys/stat.h>

#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/json/json.h"

enum {
    SHIM_RECORD_MAX = 8 << 20, /* bytes of a record or manifest that is read into memory */
    SHA256_HEX = 64,
};

/* Removes a tree: symbolic links are removed, not followed; what is mounted below is detached first and never entered.
 * A missing path is success. */
int fs_rm_rf(const char *path);
/* Removes what is inside a folder, keeping the folder. */
int fs_rm_children(const char *path);
/* Detaches whatever is mounted on path (all of a stack) and removes the (empty) file or folder. Missing is success. */
int fs_unpin(const char *path);
/* True when path is the root of a mount. */
bool fs_is_mount(const char *path);
/* Creates an empty file when there is none. */
int fs_touch(const char *path, unsigned mode);
/* Writes a short string to a (kernel) file, without creating it. 0 or -errno. */
int fs_write_str(const char *path, const char *text);
/* Reads a short kernel file: NUL-terminated, trailing newline cut. 0 or -errno. */
int fs_read_str(const char *path, char *out, size_t cap);
/* One unsigned number in a kernel file ("max" is UINT64_MAX). */
int fs_read_u64(const char *path, uint64_t *out);
/* Disk space (allocated bytes) and inodes below a folder, not following links nor crossing mounts. */
int fs_usage(const char *path, uint64_t *bytes, uint64_t *inodes);
/* Whether so many more bytes fit on the file system of `fd` and leave what a node needs to go on working (a tenth of
 * it, at most 10 GiB; a tenth is also where eviction begins by default): the store, logs and pods may be on the same
 * one. 0 or -ENOSPC. */
int fs_room(int fd, uint64_t bytes, struct err *e);
/* Names in a folder without "." and "..", sorted; in the arena. A missing folder has none. */
int fs_list(struct arena *a, const char *path, const char ***names, size_t *n);

/* Record files. Reading gives a tree in the arena. */
int fs_read_json(struct arena *a, const char *path, struct json **out, struct err *e);
/* Replaces durably (fsync) or only atomically: records under /run need no fsync. */
int fs_write_json(const char *path, const struct json *v, bool durable, struct err *e);

/* Streaming SHA-256. */
struct sha256 {
    EVP_MD_CTX *ctx;
};
void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *p, size_t n);
/* Lower-case hex; may be called once. */
void sha256_hex(struct sha256 *s, char out[SHA256_HEX + 1]);
void sha256_done(struct sha256 *s);
void sha256_of(const void *p, size_t n, char out[SHA256_HEX + 1]);
