/* Images of containers: pull policy, credentials from imagePullSecrets, back-off after failures. A pull runs
 * in a thread of its own, so that the pod's worker can leave it when the pod goes away; pulls of the same
 * image with the same credentials are shared.
 *
 * Upstream: pkg/kubelet/images, pkg/credentialprovider. */
#pragma once

#include "kubelet/kubelet.h"

struct images *images_new(struct kubelet *kl);
/* Waits for running pulls. */
void images_free(struct images *im);

/* What a container remembers about its image between syncs. Zero it; images_track_done releases. */
struct image_track {
    struct backoff backoff;
    char *image; /* the image the back-off is about */
    char *last_error;
    int64_t failed_at; /* wall clock, ns; 0: not in failure */
};
void image_track_done(struct image_track *t);

struct image_result {
    const char *image_ref;         /* what to give CreateContainer */
    const struct cri_image *image; /* as ImageStatus shows it; may be NULL */
    const char *reason, *message;  /* of the failure: ErrImagePull, ImagePullBackOff, ErrImageNeverPull, ... */
    int64_t retry_ns;              /* when to try again */
};
/* 0 with the image present, or -EAGAIN / -errno with reason and message. `cancelled` (may be NULL) is polled
 * while a pull runs: -ECANCELED. Results live in `a`. */
int images_ensure(struct images *im, struct arena *a, const struct core_pod *pod, const struct core_container *c,
                  const struct cri_pod_sandbox_config *sandbox, struct image_track *t, bool (*cancelled)(void *),
                  void *arg, struct image_result *out);

/* Forgets how images were pulled whose ids are not among these. */
void images_prune_records(struct images *im, const char *const *ids, size_t n);

/* Reads "auths" of a .dockerconfigjson (or the flat map of a .dockercfg) and gives what fits the image, best
 * match first, in `a`. */
size_t images_credentials(struct arena *a, const char *json, size_t len, bool flat, const char *image,
                          struct cri_auth_config **out, size_t max);
/* "busybox" is "busybox:latest"; NULL when it is no image name. */
char *images_default_tag(struct arena *a, const char *image);
/* Always for ":latest", else IfNotPresent; what defaulting does, for static pods. */
const char *images_pull_policy(const struct core_container *c);
