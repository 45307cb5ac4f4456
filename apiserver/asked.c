#include "apiserver/asked.h"

#include "apiserver/rules/rules.h"
#include "apiserver/selector.h"

/* Comparisons of numbers have no name here. */
static const char *const ops[] = {
    [SEL_EQ] = "In",
    [SEL_NE] = "NotIn",
    [SEL_IN] = "In",
    [SEL_NOT_IN] = "NotIn",
    [SEL_GT] = NULL,
    [SEL_EXISTS] = "Exists",
    [SEL_NOT_EXISTS] = "DoesNotExist",
    [SEL_LT] = NULL,
};

static struct authz_selector of_terms(struct arena *a, const struct selector_req *terms, size_t n) {
    struct authz_requirement *items = arena_alloc(a, (n + 1) * sizeof(*items));
    struct authz_selector out = {items, 0};
    for (size_t i = 0; i < n; i++)
        if (ops[terms[i].op])
            items[out.n++] = (struct authz_requirement){terms[i].key, ops[terms[i].op],
                                                        (const char *const *)terms[i].values, terms[i].n_values};
    return out;
}

bool asked_selects(const char *verb) {
    static const char *const verbs[] = {"list", "watch", "deletecollection", NULL};
    return str_in(verb, verbs);
}

static int by_key(const void *x, const void *y) {
    const struct selector_req *p = x, *q = y;
    return strcmp(p->key, q->key);
}

/* Of a query's text; *all: it was understood. */
static struct authz_selector of_text(struct arena *a, const char *text, bool labels, bool *all) {
    struct selector s = {0};
    _cleanup_err_ struct err e = {0};
    *all = str_empty(text) ||
           (labels ? selector_parse_labels(a, text, &s, &e) : selector_parse_fields(a, text, &s, &e)) == 0;
    if (str_empty(text) || !*all) return (struct authz_selector){0};
    if (!labels) return of_terms(a, s.fields, s.n_fields);
    if (s.n_labels > 1) qsort(s.labels, s.n_labels, sizeof(*s.labels), by_key);
    return of_terms(a, s.labels, s.n_labels);
}

struct authz_selector asked_fields(struct arena *a, const char *text) {
    bool all;
    return of_text(a, text, false, &all);
}

struct authz_selector asked_labels(struct arena *a, const char *text) {
    bool all;
    return of_text(a, text, true, &all);
}

/* Fields are compared with one value. */
static bool understood(const struct json *r, bool labels) {
    static const char *const known[] = {"In", "NotIn", "Exists", "DoesNotExist", NULL};
    const char *op = str_or_empty(json_get_str(r, "operator"));
    size_t n = json_len(json_get(r, "values"));
    bool one_of = str_in(op, known), compares = str_in(op, (const char *const[]){"In", "NotIn", NULL});
    return labels ? one_of && compares == (n > 0) : compares && n == 1;
}

static struct authz_selector of_list(struct arena *a, const struct json *list, bool labels) {
    struct authz_requirement *items = arena_alloc(a, (json_len(list) + 1) * sizeof(*items));
    struct authz_selector out = {items, 0};
    const struct json *r, *v;
    JSON_FOREACH(r, list) {
        const struct json *values = json_get(r, "values");
        if (!understood(r, labels)) continue;
        const char **texts = arena_alloc(a, (json_len(values) + 1) * sizeof(*texts));
        struct authz_requirement *q = &items[out.n++];
        *q = (struct authz_requirement){
            .key = str_or_empty(json_get_str(r, "key")), .op = json_get_str(r, "operator"), .values = texts};
        JSON_FOREACH(v, values) texts[q->n_values++] = str_or_empty(json_as_str(v));
    }
    return out;
}

struct authz_selector asked_in_review(struct arena *a, const struct json *selector, bool labels, bool *all) {
    const char *raw = json_get_str(selector, "rawSelector");
    const struct json *list = json_get(selector, "requirements");
    if (!json_len(list)) return of_text(a, raw, labels, all);
    struct authz_selector out = of_list(a, list, labels);
    *all = out.n == json_len(list);
    return out;
}
