/* Extraction of one image layer (a tar stream, possibly compressed) into an overlayfs lower folder. */
#pragma once

#include "fsutil.h"

struct layer_result {
    char diff_id[7 + SHA256_HEX + 1]; /* "sha256:..." of the uncompressed stream */
    uint64_t bytes;                   /* of file content extracted */
    uint64_t entries;
};

/* Reads the (optionally gzip, zstd, xz or bzip2 compressed) tar from `fd` at its position and extracts it into the
 * existing, empty folder `dir`. OCI whiteouts become overlayfs ones. Nothing is ever written outside `dir`, whatever
 * the archive says. On error the folder's content is unspecified: remove it. Blocks. */
int layer_extract(int fd, const char *dir, struct layer_result *out, struct err *e);
