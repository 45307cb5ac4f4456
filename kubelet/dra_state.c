/* What is prepared for which pods, in memory and in the checkpoint; see dra_internal.h. The file is upstream's (dra/state):
 * {"Data": text of a DRACheckpoint, "Checksum": its CRC-32}. */
#include "kubelet/dra_internal.h"

enum { STATE_MAX = 16 << 20 };

static uint32_t crc32_of(const char *p, size_t n) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= (uint8_t)p[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* ---- one claim ---- */

struct dra_claim *dra_state_find(struct dra *d, const char *ns, const char *name) {
    for (struct dra_claim *c = d->claims; c; c = c->next)
        if (str_eq(json_get_str(c->state, "ClaimName"), name) && str_eq(json_get_str(c->state, "Namespace"), ns))
            return c;
    return NULL;
}

struct dra_claim *dra_state_add(struct dra *d, const char *ns, const char *name, const char *uid) {
    struct dra_claim *c = xcalloc(1, sizeof(*c));
    c->arena = arena_new();
    c->state = json_object(c->arena);
    json_set_str(c->arena, c->state, "ClaimUID", uid);
    json_set_str(c->arena, c->state, "ClaimName", name);
    json_set_str(c->arena, c->state, "Namespace", ns);
    json_ensure_object(c->arena, c->state, "PodUIDs");
    json_ensure_object(c->arena, c->state, "DriverState");
    c->next = d->claims;
    d->claims = c;
    return c;
}

static void claim_free(struct dra_claim *c) {
    arena_free(c->arena);
    free(c);
}

void dra_state_drop(struct dra *d, struct dra_claim *c) {
    struct dra_claim **at = &d->claims;
    while (*at && *at != c) at = &(*at)->next;
    if (!*at) return;
    *at = c->next;
    claim_free(c);
}

void dra_state_free(struct dra *d) {
    while (d->claims) dra_state_drop(d, d->claims);
}

void dra_state_change(struct dra_claim *c, void (*change)(struct arena *a, struct json *state, const void *arg),
                      const void *arg) {
    struct arena *a = arena_new();
    struct json *state = json_clone(a, c->state);
    change(a, state, arg);
    arena_free(c->arena);
    c->arena = a;
    c->state = state;
}

static void pod_add(struct arena *a, struct json *state, const void *uid) {
    json_set(a, json_ensure_object(a, state, "PodUIDs"), uid, json_object(a));
}

static void pod_remove(struct arena *a, struct json *state, const void *uid) {
    json_del(json_get(state, "PodUIDs"), uid);
}

void dra_state_pod(struct dra_claim *c, const char *uid, bool uses) {
    if ((json_get(json_get(c->state, "PodUIDs"), uid) != NULL) != uses)
        dra_state_change(c, uses ? pod_add : pod_remove, uid);
}

size_t dra_state_pods(const struct dra_claim *c) { return json_len(json_get(c->state, "PodUIDs")); }

/* ---- the file ---- */

int dra_state_save(struct dra *d, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *data = json_object(a), *file = json_object(a);
    json_set_str(a, data, "kind", "DRACheckpoint");
    json_set_str(a, data, "apiVersion", "checkpoint.dra.kubelet.k8s.io/v1");
    struct json *list = json_ensure_array(a, data, "ClaimInfoStateList");
    for (struct dra_claim *c = d->claims; c; c = c->next) json_append(a, list, c->state);
    const char *text = json_text(a, data);
    json_set_str(a, file, "Data", text);
    json_set_int(a, file, "Checksum", crc32_of(text, strlen(text)));
    const char *out = json_text(a, file);
    int r = file_write_atomic(d->checkpoint, out, strlen(out), 0600);
    return r < 0 ? err_errno(e, r, "checkpoint ResourceClaim state") : 0;
}

static int parse(struct dra *d, const char *text, size_t n, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *file, *data;
    const struct json *it;
    int r = json_parse(a, text, n, &file, NULL, e);
    if (r < 0) return r;
    const char *inner = str_or_empty(json_get_str(file, "Data"));
    if (json_get_int(file, "Checksum", -1) != crc32_of(inner, strlen(inner)))
        return err_set(e, -EBADMSG, "the checksum is wrong");
    r = json_parse(a, inner, strlen(inner), &data, NULL, e);
    if (r < 0) return r;
    JSON_FOREACH(it, json_get(data, "ClaimInfoStateList")) {
        const char *ns = json_get_str(it, "Namespace"), *name = json_get_str(it, "ClaimName");
        if (!ns || !name || it_i >= DRA_CLAIMS_MAX || dra_state_find(d, ns, name)) continue;
        struct dra_claim *c = dra_state_add(d, ns, name, str_or_empty(json_get_str(it, "ClaimUID")));
        c->state = json_clone(c->arena, it);
    }
    return 0;
}

/* What is written may be half done: nothing counts as prepared, and preparing twice does no harm. */
void dra_state_load(struct dra *d) {
    _cleanup_free_ char *text = NULL;
    _cleanup_err_ struct err e = {0};
    size_t n;
    int r = file_read(d->checkpoint, STATE_MAX, &text, &n);
    if (r == -ENOENT) return;
    if (r == 0)
        r = parse(d, text, n, &e);
    else
        err_errno(&e, r, "read");
    if (r < 0) log_warn("cannot read which claims are prepared", "file", d->checkpoint, "error", e.msg, NULL);
}
