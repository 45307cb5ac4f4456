/* The Pod Security Standards: which pods are within "baseline" and "restricted", in the version of any Kubernetes release. */
#pragma once

#include "apiserver/rules/rules.h"

enum pod_level { POD_PRIVILEGED, POD_BASELINE, POD_RESTRICTED };
enum { POD_VERSION_LATEST = 1000 }; /* minor versions of Kubernetes 1 */
struct pod_standard {
    enum pod_level level;
    int minor; /* POD_VERSION_LATEST, or 25 for "v1.25" */
};

/* What a pod (annotations of its metadata, spec) violates, or NULL: "host namespaces (hostNetwork=true), privileged (...)";
 * without details: "host namespaces, privileged". In `a`. */
const char *pod_standard_violations(struct arena *a, struct pod_standard s, const struct json *meta,
                                    const struct json *spec, bool details);
