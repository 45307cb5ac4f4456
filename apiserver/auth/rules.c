/* Policy rules: does one allow a request, and does a set of them hold another (so that nobody grants what he has not).
 * Upstream: pkg/apis/rbac/v1/evaluation_helpers.go and component-helpers/auth/rbac/validation. */
#include "apiserver/auth/internal.h"

static void strs_read(struct arena *a, const struct json *list, struct str_vec *out) {
    *out = (struct str_vec){.items = json_len(list) ? arena_alloc(a, json_len(list) * sizeof(char *)) : NULL};
    const struct json *it;
    if (json_is(list, JSON_ARRAY))
        JSON_FOREACH(it, list) out->items[out->n++] = arena_strdup(a, str_or_empty(json_as_str(it)));
}

void rules_read(struct arena *a, const struct json *rules, rule_vec *out) {
    size_t n = json_is(rules, JSON_ARRAY) ? json_len(rules) : 0;
    *out = (rule_vec){.items = n ? arena_zalloc(a, n * sizeof(*out->items)) : NULL, .n = n};
    for (size_t i = 0; i < n; i++) {
        const struct json *r = json_item(rules, i);
        strs_read(a, json_get(r, "verbs"), &out->items[i].verbs);
        strs_read(a, json_get(r, "apiGroups"), &out->items[i].api_groups);
        strs_read(a, json_get(r, "resources"), &out->items[i].resources);
        strs_read(a, json_get(r, "resourceNames"), &out->items[i].resource_names);
        strs_read(a, json_get(r, "nonResourceURLs"), &out->items[i].non_resource_urls);
    }
}

static void strs_write(struct arena *a, struct json *o, const char *key, const struct str_vec *v) {
    if (!v->n) return;
    struct json *list = json_ensure_array(a, o, key);
    for (size_t i = 0; i < v->n; i++) json_append(a, list, json_str(a, v->items[i]));
}

struct json *rule_write(struct arena *a, const struct rbac_policy_rule *r) {
    struct json *o = json_object(a);
    json_ensure_array(a, o, "verbs");
    strs_write(a, o, "verbs", &r->verbs);
    strs_write(a, o, "apiGroups", &r->api_groups);
    strs_write(a, o, "resources", &r->resources);
    strs_write(a, o, "resourceNames", &r->resource_names);
    strs_write(a, o, "nonResourceURLs", &r->non_resource_urls);
    return o;
}

void rule_vec_add(struct arena *a, rule_vec *v, size_t *cap, const struct rbac_policy_rule *r) {
    ARENA_GROW(a, v->items, v->n, *cap);
    v->items[v->n++] = *r;
}

static bool has(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->items[i], s) == 0) return true;
    return false;
}

static bool has_or_star(const struct str_vec *v, const char *s) { return has(v, s) || has(v, "*"); }

/* ---- one request ---- */

static bool resource_matches(const struct str_vec *v, const char *resource, const char *sub) {
    size_t n = strlen(resource);
    for (size_t i = 0; i < v->n; i++) {
        const char *have = v->items[i];
        if (strcmp(have, "*") == 0) return true;
        if (str_empty(sub)) {
            if (strcmp(have, resource) == 0) return true;
            continue;
        }
        if (strncmp(have, resource, n) == 0 && have[n] == '/' && strcmp(have + n + 1, sub) == 0) return true;
        if (strncmp(have, "*/", 2) == 0 && strcmp(have + 2, sub) == 0) return true;
    }
    return false;
}

/* "/healthz/" followed by a star matches everything below. */
static bool url_matches(const struct str_vec *v, const char *url) {
    for (size_t i = 0; i < v->n; i++) {
        const char *have = v->items[i];
        size_t n = strlen(have);
        if (strcmp(have, "*") == 0 || strcmp(have, url) == 0) return true;
        if (n && have[n - 1] == '*') {
            while (n && have[n - 1] == '*') n--;
            if (strncmp(have, url, n) == 0) return true;
        }
    }
    return false;
}

bool rule_allows(const struct rbac_policy_rule *r, const struct authz_attrs *q) {
    if (!has_or_star(&r->verbs, q->verb)) return false;
    if (!q->resource_request) return url_matches(&r->non_resource_urls, str_or_empty(q->path));
    return has_or_star(&r->api_groups, str_or_empty(q->group)) &&
           resource_matches(&r->resources, str_or_empty(q->resource), q->subresource) &&
           (!r->resource_names.n || has(&r->resource_names, str_or_empty(q->name)));
}

/* ---- covering ---- */

static bool all_in(const struct str_vec *owner, const struct str_vec *want) {
    for (size_t i = 0; i < want->n; i++)
        if (!has(owner, want->items[i])) return false;
    return true;
}

static bool resources_cover(const struct str_vec *owner, const struct str_vec *want) {
    if (has(owner, "*")) return true;
    for (size_t i = 0; i < want->n; i++) {
        const char *slash = strchr(want->items[i], '/');
        if (has(owner, want->items[i])) continue;
        bool any = false;
        for (size_t k = 0; slash && k < owner->n; k++)
            any |= strncmp(owner->items[k], "*/", 2) == 0 && strcmp(owner->items[k] + 1, slash) == 0;
        if (!any) return false;
    }
    return true;
}

static bool urls_cover(const struct str_vec *owner, const struct str_vec *want) {
    for (size_t i = 0; i < want->n; i++)
        if (!url_matches(owner, want->items[i])) return false;
    return true;
}

static bool one_covers(const struct rbac_policy_rule *o, const struct rbac_policy_rule *w) {
    if (!has(&o->verbs, "*") && !all_in(&o->verbs, &w->verbs)) return false;
    if (w->non_resource_urls.n && !urls_cover(&o->non_resource_urls, &w->non_resource_urls)) return false;
    if (!w->resources.n) return true;
    return (has(&o->api_groups, "*") || all_in(&o->api_groups, &w->api_groups)) &&
           resources_cover(&o->resources, &w->resources) &&
           (!o->resource_names.n || (w->resource_names.n && all_in(&o->resource_names, &w->resource_names)));
}

struct covering {
    struct arena *a;
    const rule_vec *owner;
    rule_vec *missing;
    size_t cap;
    bool all;
};

static struct str_vec one(struct arena *a, const char *s) {
    struct str_vec v = {.items = arena_alloc(a, sizeof(char *)), .n = 1};
    v.items[0] = s;
    return v;
}

static void part_check(struct covering *c, const struct rbac_policy_rule *part) {
    for (size_t i = 0; i < c->owner->n; i++)
        if (one_covers(&c->owner->items[i], part)) return;
    c->all = false;
    if (c->missing) rule_vec_add(c->a, c->missing, &c->cap, part);
}

/* Takes a rule apart: one verb on one resource (and name) of one group, or on one URL, at a time. */
static void rule_check(struct covering *c, const struct rbac_policy_rule *w) {
    struct rbac_policy_rule part = {0};
    size_t names = w->resource_names.n ? w->resource_names.n : 1;
    for (size_t v = 0; v < w->verbs.n; v++) {
        part.verbs = one(c->a, w->verbs.items[v]);
        for (size_t g = 0; g < w->api_groups.n; g++)
            for (size_t r = 0; r < w->resources.n; r++)
                for (size_t k = 0; k < names; k++) {
                    part.api_groups = one(c->a, w->api_groups.items[g]);
                    part.resources = one(c->a, w->resources.items[r]);
                    part.resource_names =
                        w->resource_names.n ? one(c->a, w->resource_names.items[k]) : (struct str_vec){0};
                    part_check(c, &part);
                }
        part = (struct rbac_policy_rule){.verbs = part.verbs};
        for (size_t u = 0; u < w->non_resource_urls.n; u++) {
            part.non_resource_urls = one(c->a, w->non_resource_urls.items[u]);
            part_check(c, &part);
        }
        part = (struct rbac_policy_rule){0};
    }
}

bool rules_cover(struct arena *a, const rule_vec *owner, const rule_vec *wanted, rule_vec *missing) {
    struct covering c = {.a = a, .owner = owner, .missing = missing, .all = true};
    if (missing) *missing = (rule_vec){0};
    for (size_t i = 0; i < wanted->n; i++) rule_check(&c, &wanted->items[i]);
    return c.all;
}

static bool strs_equal(const struct str_vec *x, const struct str_vec *y) {
    if (x->n != y->n) return false;
    for (size_t i = 0; i < x->n; i++)
        if (strcmp(x->items[i], y->items[i]) != 0) return false;
    return true;
}

static bool equal_but_verbs(const struct rbac_policy_rule *x, const struct rbac_policy_rule *y) {
    return strs_equal(&x->api_groups, &y->api_groups) && strs_equal(&x->resources, &y->resources) &&
           strs_equal(&x->resource_names, &y->resource_names) &&
           strs_equal(&x->non_resource_urls, &y->non_resource_urls);
}

bool rule_equal(const struct rbac_policy_rule *x, const struct rbac_policy_rule *y) {
    return strs_equal(&x->verbs, &y->verbs) && equal_but_verbs(x, y);
}

/* ---- text ---- */

static void strs_text(struct buf *b, const char *name, const struct str_vec *v) {
    if (!v->n) return;
    buf_printf(b, "%s%s:[", b->data[b->len - 1] == '{' ? "" : ", ", name);
    for (size_t i = 0; i < v->n; i++) {
        if (i) buf_addc(b, ' ');
        json_write_str(b, v->items[i], strlen(v->items[i]));
    }
    buf_addc(b, ']');
}

static int by_text(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

const char *rules_text(struct arena *a, const rule_vec *rules) {
    rule_vec joined = {0};
    size_t cap = 0;
    for (size_t i = 0; i < rules->n; i++) {
        const struct rbac_policy_rule *r = &rules->items[i];
        size_t k = 0;
        while (k < joined.n && !equal_but_verbs(&joined.items[k], r)) k++;
        if (k == joined.n) {
            rule_vec_add(a, &joined, &cap, r);
            continue;
        }
        struct str_vec *v = &joined.items[k].verbs,
                       both = {.items = arena_alloc(a, (v->n + 1) * sizeof(char *)), .n = v->n};
        if (has(v, r->verbs.items[0])) continue;
        memcpy(both.items, v->items, v->n * sizeof(char *));
        both.items[both.n++] = r->verbs.items[0];
        *v = both;
    }
    const char **lines = arena_alloc(a, (joined.n + 1) * sizeof(char *));
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < joined.n; i++) {
        buf_reset(&b);
        buf_addc(&b, '{');
        strs_text(&b, "APIGroups", &joined.items[i].api_groups);
        strs_text(&b, "Resources", &joined.items[i].resources);
        strs_text(&b, "NonResourceURLs", &joined.items[i].non_resource_urls);
        strs_text(&b, "ResourceNames", &joined.items[i].resource_names);
        strs_text(&b, "Verbs", &joined.items[i].verbs);
        buf_addc(&b, '}');
        lines[i] = arena_strndup(a, b.data, b.len);
    }
    if (joined.n) qsort(lines, joined.n, sizeof(char *), by_text);
    buf_reset(&b);
    for (size_t i = 0; i < joined.n; i++) buf_printf(&b, "%s%s", i ? "\n" : "", lines[i]);
    return arena_strndup(a, b.len ? b.data : "", b.len);
}
