/* See volumes.h. */
#include "pkg/client/volumes.h"

#include <openssl/evp.h>
#include <string.h>

#include "pkg/base/bytes.h"
#include "pkg/base/util.h"

char *csi_attachment_name(struct arena *a, const char *driver, const char *handle, const char *node) {
    const char *text = arena_printf(a, "%s%s%s", handle, driver, node);
    uint8_t md[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned n = 0;
    EVP_Digest(text, strlen(text), md, &n, EVP_sha256(), NULL);
    hex_encode(md, n, hex);
    return arena_printf(a, "csi-%s", hex);
}

char *csi_unique_name(struct arena *a, const char *driver, const char *handle) {
    return arena_printf(a, "kubernetes.io/csi/%s^%s", driver, handle);
}

const char *volume_claim_name(struct arena *a, const struct core_pod *p, const struct core_volume *v) {
    if (v->persistent_volume_claim) return v->persistent_volume_claim->claim_name;
    return v->ephemeral ? arena_printf(a, "%s-%s", p->metadata.name, v->name) : NULL;
}
