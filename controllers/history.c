/* ControllerRevisions. The data of one is a strategic merge patch that puts the template back. */
#include "history.h"

#include "pkg/base/map.h"

static int by_number(const void *x, const void *y) {
    const struct apps_controller_revision *a = *(const struct apps_controller_revision *const *)x,
                                          *b = *(const struct apps_controller_revision *const *)y;
    if (a->revision != b->revision) return a->revision < b->revision ? -1 : 1;
    return strcmp(a->metadata.name, b->metadata.name);
}

int history_find(struct manager *m, struct arena *a, const struct owner *o, const struct meta_label_selector *selector,
                 struct history *out, struct err *e) {
    *out = (struct history){0};
    int r = claim_objects(m, a, &client_controllerrevisions, o, selector, &out->claimed, e);
    if (r < 0) return r;
    out->items = arena_alloc(a, (out->claimed.n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < out->claimed.n; i++) out->items[out->n++] = out->claimed.items[i]->obj;
    qsort(out->items, out->n, sizeof(*out->items), by_number);
    return 0;
}

void history_done(struct history *h) { claimed_done(&h->claimed); }

const struct apps_controller_revision *history_named(const struct history *h, const char *name) {
    for (size_t i = 0; i < h->n; i++)
        if (str_eq(h->items[i]->metadata.name, name)) return h->items[i];
    return NULL;
}

static const char *data_of(struct arena *a, const struct core_pod_template_spec *t) {
    struct json *o = json_object(a), *template = api_to_tree(a, &api_core_pod_template_spec, t);
    json_set_str(a, template, "$patch", "replace");
    json_set(a, json_ensure_object(a, o, "spec"), "template", template);
    json_sort_keys(o, true); /* as upstream: another controller manager compares the bytes */
    return json_text(a, o);
}

int history_template(struct arena *a, const struct apps_controller_revision *r, struct core_pod_template_spec *out,
                     struct err *e) {
    struct json *o = NULL;
    int rc = json_parse(a, r->data.p, r->data.n, &o, NULL, e);
    if (rc < 0) return rc;
    return api_from_tree(a, &api_core_pod_template_spec, json_at(o, "spec", "template", NULL), out, e);
}

static bool same_template(struct arena *a, const struct apps_controller_revision *r,
                          const struct core_pod_template_spec *t) {
    struct core_pod_template_spec was = {0};
    return history_template(a, r, &was, NULL) == 0 && api_equal(&api_core_pod_template_spec, &was, t);
}

static int raise(struct manager *m, struct arena *a, const struct apps_controller_revision *r, int64_t to,
                 struct err *e) {
    struct apps_controller_revision fresh = *r;
    fresh.revision = to;
    struct client_opts o = {.cause = r->metadata.resource_version};
    return client_update(m->client, a, &client_controllerrevisions, r->metadata.namespace, &fresh, &o, NULL, e);
}

static int create(struct manager *m, struct arena *a, const struct owner *o, const struct core_pod_template_spec *t,
                  const struct str_map *labels, const int32_t *collisions, int64_t number, const char **name,
                  const char **hash, struct err *e) {
    const char *data = data_of(a, t);
    struct apps_controller_revision r = {.revision = number, .data = {data, strlen(data)}};
    int32_t tries = collisions ? *collisions : 0;
    for (int i = 0; i < 10; i++, tries++) {
        *hash = template_hash(a, t, tries ? &tries : NULL);
        *name = r.metadata.name = arena_printf(a, "%.220s-%s", o->meta->name, *hash);
        r.metadata.namespace = o->meta->namespace;
        r.metadata.labels = *labels;
        map_set(a, &r.metadata.labels, REVISION_LABEL, *hash);
        r.metadata.owner_references.items = owner_ref_new(a, o, true);
        r.metadata.owner_references.n = 1;
        struct client_opts opts = {.cause = o->meta->resource_version};
        _cleanup_err_ struct err ce = {0};
        int rc = client_create(m->client, a, &client_controllerrevisions, o->meta->namespace, &r, &opts, NULL, &ce);
        if (rc == 0) return 0;
        struct apps_controller_revision live;
        if (!client_err_exists(&ce)) {
            err_move(e, &ce);
            return rc;
        }
        rc = client_get(m->client, a, &client_controllerrevisions, o->meta->namespace, *name, &live, e);
        if (rc < 0) return rc;
        if (owned_by(&live.metadata, o->meta->uid) && same_template(a, &live, t))
            return 0; /* ours, not yet in the cache */
    }
    return err_set(e, -EEXIST, "no free name for a revision of %s", o->meta->name);
}

int history_current(struct manager *m, struct arena *a, const struct owner *o, const struct history *h,
                    const struct core_pod_template_spec *t, const struct str_map *labels, const int32_t *collisions,
                    const char **name, const char **hash, struct err *e) {
    int64_t newest = h->n ? h->items[h->n - 1]->revision : 0;
    for (size_t i = h->n; i-- > 0;) {
        const struct apps_controller_revision *r = h->items[i];
        if (!same_template(a, r, t)) continue;
        *name = arena_strdup(a, r->metadata.name);
        *hash = arena_strdup(a, str_map_get(&r->metadata.labels, REVISION_LABEL));
        if (!*hash) *hash = *name;
        return r->revision == newest ? 0 : raise(m, a, r, newest + 1, e);
    }
    return create(m, a, o, t, labels, collisions, newest + 1, name, hash, e);
}

int history_trim(struct manager *m, const struct history *h, int32_t limit,
                 bool (*live)(void *arg, const struct apps_controller_revision *r), void *arg, struct err *e) {
    size_t spare = 0;
    for (size_t i = 0; i < h->n; i++) spare += !live(arg, h->items[i]);
    for (size_t i = 0; i < h->n && spare > (size_t)MAX_OF(limit, 0); i++) {
        const struct apps_controller_revision *r = h->items[i];
        if (live(arg, r)) continue;
        _cleanup_err_ struct err de = {0};
        struct client_delete_opts o = {.uid = r->metadata.uid};
        int rc =
            client_delete(m->client, &client_controllerrevisions, r->metadata.namespace, r->metadata.name, &o, &de);
        if (rc < 0 && !client_err_not_found(&de)) {
            err_move(e, &de);
            return rc;
        }
        spare--;
    }
    return 0;
}
