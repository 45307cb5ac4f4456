#include "apiserver/object.h"
#include "apiserver/selector.h"
#include "pkg/json/json.h"
#include "tests/test.h"

static struct resource_table *table(void) {
    static struct resource_table *t;
    if (!t) t = resource_table_new();
    return t;
}

static const struct resource *res(const char *group, const char *version, const char *plural) {
    return resource_find(table(), group, version, plural);
}

static struct object *make(const struct resource *r, const char *key, const char *text, int64_t rev) {
    return object_new(r, key, text, strlen(text), rev, rev);
}

TEST(resource_version_goes_behind_the_uid) {
    struct object *o = make(
        res("", "v1", "configmaps"), "ns/a",
        "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\",\"namespace\":\"ns\",\"uid\":\"u\","
        "\"creationTimestamp\":\"t\"},\"data\":{\"k\":\"v\"}}",
        7);
    REQUIRE(o);
    CHECK_STR(o->tail->data,
              "\"metadata\":{\"name\":\"a\",\"namespace\":\"ns\",\"uid\":\"u\",\"resourceVersion\":\"7\","
              "\"creationTimestamp\":\"t\"},\"data\":{\"k\":\"v\"}}");
    CHECK_STR(object_name(o), "a");
    CHECK_INT(o->ns_len, 2);
    object_unref(o);
}

TEST(an_old_resource_version_is_replaced_wherever_it_stands) {
    static const char *const texts[] = {
        "{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"1\",\"name\":\"n\"}}",
        "{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"n\",\"resourceVersion\":\"1\"}}",
        "{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"n\"}}",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct object *o = make(res("", "v1", "nodes"), "n", texts[i], 12);
        REQUIRE(o);
        CHECK_STR(o->tail->data, "\"metadata\":{\"name\":\"n\",\"resourceVersion\":\"12\"}}");
        struct object *p = object_at_rev(o, 345);
        CHECK_STR(p->tail->data, "\"metadata\":{\"name\":\"n\",\"resourceVersion\":\"345\"}}");
        object_unref(o);
        object_unref(p);
    }
}

TEST(empty_metadata_gets_a_resource_version_too) {
    struct object *o =
        make(res("", "v1", "nodes"), "n", "{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":{}}", 3);
    REQUIRE(o);
    CHECK_STR(o->tail->data, "\"metadata\":{\"resourceVersion\":\"3\"}}");
    object_unref(o);
}

TEST(values_of_others_are_put_in_order) {
    struct object *o =
        make(res("", "v1", "configmaps"), "ns/a",
             "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"b\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}", 3);
    REQUIRE(o);
    CHECK_STR(o->tail->data, "\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"3\"},\"data\":{\"a\":\"b\"}}");
    object_unref(o);
}

TEST(bytes_that_are_no_object_make_none) {
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "null",
                                      "{\"metadata\":1}",
                                      "{\"kind\":\"x\"}",
                                      "{\"metadata\":{\"name\":\"a\"}",
                                      "{\"metadata\":{\"a\":\"\\\"}}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) CHECK(make(res("", "v1", "nodes"), "n", bad[i], 1) == NULL);
}

TEST(tree_and_text_carry_kind_and_version) {
    struct arena *a = arena_new();
    struct object *o = make(res("apps", "v1", "deployments"), "ns/d",
                            "{\"kind\":\"Deployment\",\"apiVersion\":\"apps/v1\",\"metadata\":{\"name\":\"d\"}}", 5);
    size_t n;
    CHECK_STR(
        object_text(a, o, &n),
        "{\"kind\":\"Deployment\",\"apiVersion\":\"apps/v1\",\"metadata\":{\"name\":\"d\",\"resourceVersion\":\"5\"}}");
    CHECK_STR(json_get_str(object_tree(a, o), "apiVersion"), "apps/v1");
    object_unref(o);
    arena_free(a);
}

/* ---- selectors ---- */

static bool match(const struct resource *r, const struct object *o, const char *labels, const char *fields) {
    struct arena *a = arena_new();
    struct selector s;
    bool ok = selector_parse(a, r, labels, fields, &s, NULL) == 0 && selector_match(&s, o);
    struct selector *dup = selector_dup(&s);
    CHECK(selector_match(dup, o) == selector_match(&s, o));
    selector_free(dup);
    arena_free(a);
    return ok;
}

static const char pod[] =
    "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"p\",\"namespace\":\"ns\","
    "\"labels\":{\"app\":\"x\",\"tier\":\"a\",\"n\":\"5\"}},\"spec\":{\"nodeName\":\"n1\","
    "\"containers\":[{\"name\":\"spec\"}]},\"status\":{\"phase\":\"Running\"}}";

TEST(label_selectors_match_as_kubernetes_does) {
    const struct resource *r = res("", "v1", "pods");
    struct object *o = make(r, "ns/p", pod, 9);
    static const char *const yes[] = {"",
                                      "app=x",
                                      "app==x",
                                      "app",
                                      "!none",
                                      "app!=y",
                                      "none!=y",
                                      "tier in (a,b)",
                                      "tier notin (c)",
                                      "none notin (c)",
                                      "app=x,tier in (a),!z",
                                      "n>4",
                                      "n<6",
                                      " app = x ",
                                      "tier in (,a)"};
    static const char *const no[] = {"app=y", "!app", "app!=x", "none", "tier in (b)", "tier notin (a,b)",
                                     "n>5",   "n<5",  "none>1", "app="};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        if (!match(r, o, yes[i], NULL)) TEST_FAIL("should match: %s", yes[i]);
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        if (match(r, o, no[i], NULL)) TEST_FAIL("should not match: %s", no[i]);
    object_unref(o);
}

TEST(field_selectors_match_stored_fields) {
    const struct resource *r = res("", "v1", "pods");
    struct object *o = make(r, "ns/p", pod, 9);
    static const char *const yes[] = {"metadata.name=p",
                                      "metadata.namespace=ns",
                                      "spec.nodeName=n1",
                                      "status.phase!=Pending",
                                      "spec.nodeName=n1,status.phase=Running",
                                      "spec.hostNetwork=false",
                                      "status.podIP=",
                                      ""};
    static const char *const no[] = {"metadata.name=q", "spec.nodeName=", "spec.nodeName!=n1", "spec.hostNetwork=true"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        if (!match(r, o, NULL, yes[i])) TEST_FAIL("should match: %s", yes[i]);
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        if (match(r, o, NULL, no[i])) TEST_FAIL("should not match: %s", no[i]);
    object_unref(o);
}

TEST(bad_selectors_are_400) {
    struct arena *a = arena_new();
    static const char *const labels[] = {"a b c", "=x", "a=b=c", "a in b", "a in (", "a in (b",
                                         "a,",    ",a", "a>x",   "-a=b",   "a=b c",  "a=-"};
    static const char *const fields[] = {"spec.nonsense=1", "nodeName", "spec.nodeName=a=b", "spec.nodeName=a\\q"};
    struct selector s;
    for (size_t i = 0; i < ARRAY_LEN(labels); i++) {
        struct err e = {0};
        if (selector_parse(a, res("", "v1", "pods"), labels[i], NULL, &s, &e) == 0 || e.status != 400)
            TEST_FAIL("accepted: %s", labels[i]);
        err_done(&e);
    }
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        struct err e = {0};
        if (selector_parse(a, res("", "v1", "pods"), NULL, fields[i], &s, &e) == 0 || e.status != 400)
            TEST_FAIL("accepted: %s", fields[i]);
        err_done(&e);
    }
    arena_free(a);
}

TEST(views_select_by_their_own_field_names) {
    const struct resource *core = res("", "v1", "events"), *view = res("events.k8s.io", "v1", "events");
    struct object *o = make(
        core, "ns/e",
        "{\"kind\":\"Event\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"e\"},\"involvedObject\":{\"name\":\"p\"},"
        "\"reason\":\"R\",\"source\":{\"component\":\"kubelet\"}}",
        1);
    CHECK(view->storage == core);
    CHECK(match(core, o, NULL, "involvedObject.name=p,source=kubelet"));
    CHECK(match(view, o, NULL, "regarding.name=p,reason=R"));
    CHECK(!match(view, o, NULL, "regarding.name=q"));
    object_unref(o);
}

TEST(every_row_is_bound) {
    for (size_t i = 0; i < resource_table_len(table()); i++) {
        const struct resource *r = resource_table_at(table(), i);
        if (!r->type) TEST_FAIL("no type: %s/%s %s", r->group, r->version, r->kind);
        if (!r->printer) TEST_FAIL("no printer: %s", r->plural);
        if (r->stored == RES_STORED && !r->key_prefix) TEST_FAIL("no key: %s", r->plural);
        if (r->stored_as && !r->storage) TEST_FAIL("storage unknown: %s", r->plural);
        if ((r->verbs & VERB_LIST) && !api_type_find(r->group, r->version, r->list_kind))
            TEST_FAIL("no list type: %s", r->list_kind);
        for (size_t j = 0; j < r->n_subs; j++) {
            const struct resource_sub *s = &r->subs[j];
            if (!api_type_find(s->group ? s->group : r->group, s->version ? s->version : r->version, s->kind))
                TEST_FAIL("no type: %s/%s %s", r->plural, s->name, s->kind);
        }
    }
}
