/* What the tests of the rules share: a server's context with a few objects to look up, and short words. */
#pragma once

#include "apiserver/rules/strategy.h"
#include "tests/test.h"

struct world { /* a server's context with a few objects to look up */
    struct arena *a;
    struct rules *rules;
    struct rules_ctx c;
    const char *objects; /* JSON: {"resource/ns/name": object} */
};

static const struct json *world_get(void *arg, struct arena *a, const char *group, const char *resource, const char *ns,
                                    const char *name) {
    struct world *w = arg;
    struct json *all = NULL;
    if (!w->objects || json_parse(a, w->objects, strlen(w->objects), &all, NULL, NULL) < 0) return NULL;
    return json_get(all, arena_printf(a, "%s/%s/%s", resource, str_or_empty(ns), name));
}

static const struct json *world_list(void *arg, struct arena *a, const char *group, const char *resource,
                                     const char *ns) {
    struct world *w = arg;
    struct json *all = NULL, *out = json_array(a);
    const char *prefix = arena_printf(a, "%s/%s", resource, str_or_empty(ns));
    if (!w->objects || json_parse(a, w->objects, strlen(w->objects), &all, NULL, NULL) < 0) return out;
    JSON_FOREACH_MEMBER(m, all)
        if (str_has_prefix(m->key, prefix)) json_append(a, out, m->value);
    return out;
}

static void world_done(struct world *w) {
    rules_free(w->rules);
    arena_free(w->a);
}
#define _cleanup_world_ _cleanup_(world_done)

static void world_init(struct world *w, const char *group, const char *version, const char *kind, const char *plural) {
    *w = (struct world){.a = arena_new()};
    struct rules_config conf = {.lookup = {w, world_get, world_list}, .service_cidr = "10.0.0.0/24"};
    rules_new(&conf, &w->rules, NULL);
    w->c = (struct rules_ctx){.rules = w->rules,
                              .a = w->a,
                              .type = api_type_find(group, version, kind),
                              .group = group,
                              .version = version,
                              .kind = kind,
                              .resource = plural,
                              .namespaced = true,
                              .ns = "n",
                              .field_manager = "test",
                              .user = "u",
                              .now = {1700000000, 0, true}};
}

static struct json *parse(struct world *w, const char *text) {
    struct json *v = NULL;
    if (json_parse(w->a, text, strlen(text), &v, NULL, NULL) < 0) TEST_FAIL("bad JSON in a test: %s", text);
    return v;
}

/* As the server decodes: canonical and with defaults. */
static struct json *decode(struct world *w, const char *text) {
    struct json *v = parse(w, text), *out = v;
    if (w->c.type && api_tree_normalise(w->a, w->c.type, v, &out, NULL, NULL) < 0) TEST_FAIL("not decoded: %s", text);
    rules_default(&w->c, out);
    return out;
}

/* "Reason field" of each cause, joined by ", ". */
static const char *causes(struct arena *a, const struct err *e) {
    const char *out = "";
    for (size_t i = 0; i < e->n_causes; i++)
        out = arena_printf(
            a, "%s%s%s %s", out, *out ? ", " : "",
            str_has_prefix(e->causes[i].reason, "FieldValue") ? e->causes[i].reason + 10 : e->causes[i].reason,
            e->causes[i].field);
    return out;
}

#define META "\"metadata\":{\"name\":\"x\",\"namespace\":\"n\"}"
