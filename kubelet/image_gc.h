/* Unused images go when their file system fills, least recently used first. Never: pinned images, images of a
 * container that exists, images that came less than two minutes ago (a pod may be about to start from them).
 * Upstream: pkg/kubelet/images/image_gc_manager.go. */
#pragma once

#include "kubelet/kubelet.h"

struct image_gc;
struct image_gc *image_gc_new(struct kubelet *kl);
void image_gc_free(struct image_gc *g);
/* Notes which images are in use; beyond the high mark removes until the low mark is reached. */
void image_gc_pass(struct image_gc *g);
/* Removes all that may go. How many went. */
size_t image_gc_all(struct image_gc *g);
/* Where images are: a path on their file system, NULL until the runtime has said so. Valid while `g` lives. */
const char *image_gc_mount(struct image_gc *g);
