/* See pull_records.h. */
#include "kubelet/pull_records.h"

#include <dirent.h>
#include <openssl/evp.h>

#include "kubelet/images.h"
#include "pkg/base/bytes.h"

enum { RECORD_MAX = 1024 * 1024, SECRETS_MAX = 100 };

struct pull_records {
    char *pulling, *pulled; /* folders; NULL: none are kept */
    pthread_mutex_t lock;
};

struct pull_records *pull_records_new(const char *dir) {
    struct pull_records *r = xcalloc(1, sizeof(*r));
    pthread_mutex_init(&r->lock, NULL);
    if (!dir) return r;
    r->pulling = xasprintf("%s/pulling", dir);
    r->pulled = xasprintf("%s/pulled", dir);
    if (mkdir_p(r->pulling, 0700) < 0 || mkdir_p(r->pulled, 0700) < 0)
        log_warn("pulls cannot be recorded: images need their pods' credentials anew", "folder", dir, NULL);
    return r;
}

void pull_records_free(struct pull_records *r) {
    if (!r) return;
    free(r->pulling);
    free(r->pulled);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- files ---- */

static char *file_of(struct arena *a, const char *folder, const char *name) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    EVP_Digest(name, strlen(name), md, &n, EVP_sha256(), NULL);
    hex_encode(md, n, hex);
    return arena_printf(a, "%s/sha256-%s", folder, hex);
}

static struct json *document(struct arena *a, const char *kind) {
    struct json *doc = json_object(a);
    json_set_str(a, doc, "kind", kind);
    json_set_str(a, doc, "apiVersion", "kubelet.config.k8s.io/v1beta1");
    return doc;
}

static void store(struct arena *a, const char *path, const struct json *doc) {
    const char *text = json_text(a, doc);
    int r = file_write_atomic(path, text, strlen(text), 0600);
    if (r < 0) log_warn("cannot record a pull", "file", path, "error", strerror(-r), NULL);
}

static struct json *load(struct arena *a, const char *path) {
    _cleanup_free_ char *text = NULL;
    size_t n;
    struct json *doc;
    if (file_read(path, RECORD_MAX, &text, &n) < 0 || json_parse(a, text, n, &doc, NULL, NULL) < 0) return NULL;
    return doc;
}

char *pull_records_name(struct arena *a, const char *image) {
    size_t n = strcspn(image, "@");
    const char *slash = memrchr(image, '/', n);
    const char *colon = memchr(slash ? slash : image, ':', n - (size_t)((slash ? slash : image) - image));
    return arena_strndup(a, image, colon ? (size_t)(colon - image) : n);
}

/* ---- recording ---- */

void pull_records_begin(struct pull_records *r, const char *image) {
    if (!r->pulling) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc = document(a, "ImagePullIntent");
    json_set_str(a, doc, "image", image);
    store(a, file_of(a, r->pulling, image), doc);
}

/* Puts the secret into the list: in place of one of the same Secret. False when it is there as it is. */
static bool merge(struct arena *a, struct json *list, const struct pull_secret *s) {
    struct json *o;
    JSON_FOREACH(o, list) {
        if (!str_eq(json_get_str(o, "uid"), s->uid) || !str_eq(json_get_str(o, "namespace"), s->namespace) ||
            !str_eq(json_get_str(o, "name"), s->name))
            continue;
        if (str_eq(json_get_str(o, "credentialHash"), s->hash)) return false;
        json_set_str(a, o, "credentialHash", s->hash);
        return true;
    }
    if (json_len(list) >= SECRETS_MAX) return false;
    o = json_object(a);
    json_set_str(a, o, "uid", s->uid);
    json_set_str(a, o, "namespace", s->namespace);
    json_set_str(a, o, "name", s->name);
    json_set_str(a, o, "credentialHash", s->hash);
    json_append(a, list, o);
    return true;
}

static void record(struct pull_records *r, const char *image, const char *id, const struct pull_secret *with) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *path = file_of(a, r->pulled, id), *name = pull_records_name(a, image);
    struct json *doc = load(a, path);
    bool changed = doc == NULL;
    if (!doc) doc = document(a, "ImagePulledRecord");
    struct json *proofs = json_ensure_object(a, doc, "credentialMapping");
    struct json *proof = json_ensure_object(a, proofs, name);
    if (!json_get_bool(proof, "nodePodsAccessible", false)) {
        if (with) {
            changed |= merge(a, json_ensure_array(a, proof, "kubernetesSecrets"), with);
        } else {
            proof = json_object(a);
            json_set_bool(a, proof, "nodePodsAccessible", true);
            json_set(a, proofs, arena_strdup(a, name), proof);
            changed = true;
        }
    }
    if (!changed) return;
    char now[KTIME_MAX];
    ktime_format(ktime_now(), now);
    json_set_str(a, doc, "lastUpdatedTime", now);
    json_set_str(a, doc, "imageRef", id);
    store(a, path, doc);
}

void pull_records_end(struct pull_records *r, const char *image, const char *id, const struct pull_secret *with) {
    if (!r->pulling) return;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&r->lock);
    if (id) record(r, image, id, with);
    unlink(file_of(a, r->pulling, image)); /* after the record: a crash between leaves both */
    pthread_mutex_unlock(&r->lock);
}

void pull_records_prune(struct pull_records *r, const char *const *ids, size_t n) {
    if (!r->pulled) return;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&r->lock);
    DIR *d = opendir(r->pulled);
    for (struct dirent *ent; d && (ent = readdir(d));) {
        bool keep = !str_has_prefix(ent->d_name, "sha256-");
        for (size_t i = 0; i < n && !keep; i++) keep = str_has_suffix(file_of(a, "", ids[i]), ent->d_name);
        if (!keep) unlink(arena_printf(a, "%s/%s", r->pulled, ent->d_name));
    }
    if (d) closedir(d);
    pthread_mutex_unlock(&r->lock);
}

/* ---- asking ---- */

/* "registry/name", or "registry/prefix*". */
static bool listed(const struct flag_list *l, struct arena *a, const char *image) {
    const char *name = pull_records_name(a, image);
    for (size_t i = 0; i < l->n; i++) {
        const char *p = l->items[i];
        size_t k = strlen(p);
        if (k && p[k - 1] == '*' ? strncmp(name, p, k - 1) == 0 : str_eq(name, p)) return true;
    }
    return false;
}

static bool needs_proof(const struct kubelet_config *c, struct arena *a, const char *image, bool pulled_here) {
    if (str_eq(c->pull_verification, "NeverVerify")) return false;
    if (str_eq(c->pull_verification, "AlwaysVerify")) return true;
    if (str_eq(c->pull_verification, "NeverVerifyAllowlistedImages")) return !listed(&c->preloaded_images, a, image);
    return pulled_here;
}

enum pull_verdict pull_records_verdict(struct pull_records *r, const struct kubelet_config *c, const char *image,
                                       const char *id) {
    if (!r->pulled) return PULL_FREE;
    _cleanup_arena_ struct arena *a = arena_new();
    const char *path = file_of(a, r->pulled, id);
    pthread_mutex_lock(&r->lock);
    bool have = access(path, F_OK) == 0, begun = access(file_of(a, r->pulling, image), F_OK) == 0;
    struct json *doc = have ? load(a, path) : NULL;
    pthread_mutex_unlock(&r->lock);
    if (!needs_proof(c, a, image, have || begun)) return PULL_FREE;
    const struct json *proof = json_get(json_get(doc, "credentialMapping"), pull_records_name(a, image));
    if (json_get_bool(proof, "nodePodsAccessible", false)) return PULL_FREE;
    return json_len(json_get(proof, "kubernetesSecrets")) ? PULL_ASK : PULL_PROOF;
}

bool pull_records_match(struct pull_records *r, const char *image, const char *id, const struct pull_secret *s,
                        size_t n) {
    if (!r->pulled) return true;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&r->lock);
    struct json *doc = load(a, file_of(a, r->pulled, id)), *o;
    const struct json *list =
        json_get(json_get(json_get(doc, "credentialMapping"), pull_records_name(a, image)), "kubernetesSecrets");
    const struct pull_secret *found = NULL;
    for (size_t i = 0; i < n && !found; i++)
        JSON_FOREACH(o, list) {
            bool same_hash = !str_empty(s[i].hash) && str_eq(json_get_str(o, "credentialHash"), s[i].hash);
            bool same_secret = str_eq(json_get_str(o, "uid"), s[i].uid) &&
                               str_eq(json_get_str(o, "namespace"), s[i].namespace) &&
                               str_eq(json_get_str(o, "name"), s[i].name);
            if (same_hash || same_secret) found = &s[i];
        }
    if (found) record(r, image, id, found);
    pthread_mutex_unlock(&r->lock);
    return found != NULL;
}
