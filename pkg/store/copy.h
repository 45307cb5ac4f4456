/* Moving a cluster from one store to another. */
#pragma once

#include "pkg/store/store.h"

struct store_copy_report {
    int64_t keys, bytes;      /* copied, and found to be the same afterwards */
    int64_t removed;          /* of the target before, with `overwrite` */
    int64_t from_rev, to_rev; /* the revision copied, and the target's after it: higher */
};

/* Copies all keys below /registry/ with their values, while nobody else uses either store. The target gets revisions above
 * the source's, so that to clients time goes on: their resourceVersions are older ones, and watches from there are told
 * to start anew (history is not copied, nor are the records of causes). Keys of live API servers
 * (/registry/masterleases/) stay behind.
 * -EEXIST when the target has keys there and `overwrite` is not set; -EBUSY when the source changed meanwhile; -EIO when
 * the copy is not the same. Blocks: long, when etcd has to count up to the source's revision. */
int store_copy(struct store *from, struct store *to, bool overwrite, struct store_copy_report *report, struct err *e);
