/* Names of custom resources. Within a group a plural, singular or short name belongs to one definition, and so does a
 * kind or list kind; who comes later is refused (condition NamesAccepted False) until the name is free again. Upstream:
 * apiextensions-apiserver/pkg/controller/{status,establish}. */
#include "apiserver/crd/registry.h"

static void add(struct arena *a, const char ***list, size_t *n, size_t *cap, const char *s) {
    if (str_empty(s)) return;
    ARENA_GROW(a, *list, *n, *cap);
    (*list)[(*n)++] = s;
}

void crd_names_add(struct arena *a, struct crd_names *o, const struct json *crd) {
    const struct json *n = json_at(crd, "status", "acceptedNames", NULL), *it;
    add(a, &o->resources, &o->n_resources, &o->cap_resources, json_get_str(n, "plural"));
    add(a, &o->resources, &o->n_resources, &o->cap_resources, json_get_str(n, "singular"));
    JSON_FOREACH(it, json_get(n, "shortNames"))
        add(a, &o->resources, &o->n_resources, &o->cap_resources, json_as_str(it));
    add(a, &o->kinds, &o->n_kinds, &o->cap_kinds, json_get_str(n, "kind"));
    add(a, &o->kinds, &o->n_kinds, &o->cap_kinds, json_get_str(n, "listKind"));
}

static bool taken(const char *const *list, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(list[i], s)) return true;
    return false;
}

static struct json *condition(const struct json *crd, const char *type) {
    struct json *c;
    JSON_FOREACH(c, json_at(crd, "status", "conditions", NULL))
        if (str_eq(json_get_str(c, "type"), type)) return c;
    return NULL;
}

bool crd_condition_true(const struct json *crd, const char *type) {
    return str_eq(json_get_str(condition(crd, type), "status"), "True");
}

bool crd_condition_set(struct arena *a, struct json *crd, const char *type, bool status, const char *reason,
                       const char *message, struct ktime now) {
    struct json *c = condition(crd, type);
    const char *word = status ? "True" : "False";
    char time[KTIME_MAX];
    if (c && str_eq(json_get_str(c, "status"), word) && str_eq(json_get_str(c, "reason"), reason) &&
        str_eq(json_get_str(c, "message"), message))
        return false;
    bool turned = !c || !str_eq(json_get_str(c, "status"), word);
    if (!c) {
        c = json_object(a);
        json_set_str(a, c, "type", type);
        json_append(a, json_ensure_array(a, json_ensure_object(a, crd, "status"), "conditions"), c);
    }
    json_set_str(a, c, "status", word);
    if (turned) json_set_str(a, c, "lastTransitionTime", ktime_format(now, time));
    json_set_str(a, c, "reason", reason);
    json_set_str(a, c, "message", message);
    return true;
}

struct claim {
    struct arena *a;
    const struct json *want;
    struct json *have; /* acceptedNames */
    const char *reason, *message;
};

static void claim_name(struct claim *c, const char *key, const char *reason, const char *const *list, size_t n) {
    const char *want = json_get_str(c->want, key);
    if (str_eq(want, json_get_str(c->have, key))) return;
    if (taken(list, n, want)) {
        c->reason = reason;
        c->message = arena_printf(c->a, "\"%s\" is already in use", want);
    } else if (want) {
        json_set_str(c->a, c->have, key, want);
    }
}

static void claim_short_names(struct claim *c, const struct crd_names *others) {
    const struct json *want = json_get(c->want, "shortNames"), *have = json_get(c->have, "shortNames"), *it, *x;
    JSON_FOREACH(it, want) {
        bool ours = false;
        JSON_FOREACH(x, have) ours |= json_equal(x, it);
        if (ours || !taken(others->resources, others->n_resources, json_as_str(it))) continue;
        c->reason = "ShortNamesConflict";
        c->message = arena_printf(c->a, "\"%s\" is already in use", str_or_empty(json_as_str(it)));
        return;
    }
    if (json_len(want))
        json_set(c->a, c->have, "shortNames", json_clone(c->a, want));
    else
        json_del(c->have, "shortNames");
}

bool crd_wants_webhook(const struct json *crd) {
    return str_eq(json_as_str(json_at(crd, "spec", "conversion", "strategy", NULL)), "Webhook") &&
           json_len(json_at(crd, "spec", "versions", NULL)) > 1;
}

static bool establish(struct arena *a, struct json *crd, struct ktime now) {
    if (crd_condition_true(crd, "Established")) return false;
    if (!crd_condition_true(crd, "NamesAccepted"))
        return crd_condition_set(a, crd, "Established", false, "NotAccepted", "not all names are accepted", now);
    return crd_condition_set(a, crd, "Established", true, "InitialNamesAccepted",
                             "the initial names have been accepted", now);
}

bool crd_names_accept(struct arena *a, struct json *crd, const struct crd_names *others, struct ktime now) {
    struct json *status = json_ensure_object(a, crd, "status"),
                *before = json_clone(a, json_get(status, "acceptedNames"));
    struct claim c = {a, json_at(crd, "spec", "names", NULL), json_ensure_object(a, status, "acceptedNames"), NULL,
                      NULL};
    claim_name(&c, "plural", "PluralConflict", others->resources, others->n_resources);
    claim_name(&c, "singular", "SingularConflict", others->resources, others->n_resources);
    claim_short_names(&c, others);
    claim_name(&c, "kind", "KindConflict", others->kinds, others->n_kinds);
    claim_name(&c, "listKind", "ListKindConflict", others->kinds, others->n_kinds);
    const struct json *categories = json_get(c.want, "categories");
    if (json_len(categories))
        json_set(a, c.have, "categories", json_clone(a, categories));
    else
        json_del(c.have, "categories");
    bool changed = !json_equal(before, c.have);
    changed |= c.reason ? crd_condition_set(a, crd, "NamesAccepted", false, c.reason, c.message, now)
                        : crd_condition_set(a, crd, "NamesAccepted", true, "NoConflicts", "no conflicts found", now);
    return establish(a, crd, now) || changed;
}
