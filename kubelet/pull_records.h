/* Which images this node pulled, and with whose credentials: so that a pod cannot use an image that it could not have
 * pulled itself, only because it lies on the node (KubeletConfiguration: imagePullCredentialsVerificationPolicy).
 *
 * Two folders below <root>/image_manager hold a small file an image: pulling/ says that a pull was begun (a crash leaves it,
 * and then nothing is known of the credentials), pulled/ what a finished one proved. Images that came otherwise, by `coracle
 * image import` say, have neither. The files are upstream's ImagePullIntent and ImagePulledRecord.
 *
 * Upstream: pkg/kubelet/images/pullmanager. */
#pragma once

#include "kubelet/kubelet.h"

/* A Secret that was, or could be, pulled with. hash: of the credentials in it. */
struct pull_secret {
    const char *uid, *namespace, *name, *hash;
};

struct pull_records;
/* dir NULL: nothing is kept, and everybody may use everything. */
struct pull_records *pull_records_new(const char *dir);
void pull_records_free(struct pull_records *r);
/* Before a pull; after it. `image` as the pod names it, `id` the image's (NULL: the pull failed), `with` NULL: nobody's
 * credentials were needed. */
void pull_records_begin(struct pull_records *r, const char *image);
void pull_records_end(struct pull_records *r, const char *image, const char *id, const struct pull_secret *with);

enum pull_verdict { PULL_FREE, PULL_ASK, PULL_PROOF };
/* Whether a pod may use an image that is there: PULL_FREE yes, PULL_PROOF only after a pull of its own, PULL_ASK when
 * pull_records_match says so of its secrets. */
enum pull_verdict pull_records_verdict(struct pull_records *r, const struct kubelet_config *c, const char *image,
                                       const char *id);
/* One of the pod's secrets, or its content, has pulled the image before. What differs only by name or by content is kept
 * for the next time. */
bool pull_records_match(struct pull_records *r, const char *image, const char *id, const struct pull_secret *s,
                        size_t n);
/* Forgets images whose ids are not among these. */
void pull_records_prune(struct pull_records *r, const char *const *ids, size_t n);
/* "registry/name" of an image's reference, in `a`. */
char *pull_records_name(struct arena *a, const char *image);
