/* Tests of custom resources without a server: schemas (data: a schema, an object, what is left of it and what is wrong
 * with it), structural rules, JSONPath, names, columns, versions. */
#include "apiserver/crd/columns.h"
#include "apiserver/crd/jsonpath.h"
#include "apiserver/crd/registry.h"
#include "apiserver/rules/crd_pattern.h"
#include "apiserver/rules/crd_schema.h"
#include "tests/test.h"

static struct json *parse(struct arena *a, const char *text) {
    struct json *v = NULL;
    struct err e = {0};
    if (json_parse(a, text, strlen(text), &v, NULL, &e)) TEST_FAIL("bad JSON in a test: %s: %s", e.msg, text);
    return v;
}

/* "Reason field; Reason field" */
static const char *findings_text(struct arena *a, const struct vctx *v) {
    const char *out = "";
    for (size_t i = 0; i < v->n; i++) {
        const char *reason = v->items[i].reason;
        if (str_has_prefix(reason, "FieldValue")) reason += strlen("FieldValue");
        out = arena_printf(a, "%s%s%s %s", out, *out ? "; " : "", reason, v->items[i].field);
    }
    return out;
}

/* ---- schemas ---- */

static const struct {
    const char *name, *spec; /* schema of .spec */
    const char *value;       /* .spec */
    const char *left;        /* .spec after pruning and defaulting */
    const char *unknown, *findings;
} schemas[] = {
    {"what fits is left alone", "{'type':'object','properties':{'a':{'type':'string'}}}", "{'a':'x'}", "{'a':'x'}", "",
     ""},
    {"unknown members go", "{'type':'object','properties':{'a':{'type':'string'}}}", "{'a':'x','b':{'c':1}}",
     "{'a':'x'}", "spec.b", ""},
    {"unknown members stay where they may", "{'type':'object','x-kubernetes-preserve-unknown-fields':true}",
     "{'b':{'c':1}}", "{'b':{'c':1}}", "", ""},
    {"known members are pruned below open objects",
     "{'type':'object','x-kubernetes-preserve-unknown-fields':true,'properties':{'a':{'type':'object',"
     "'properties':{'k':{'type':'integer'}}}}}",
     "{'a':{'k':1,'z':2},'y':{'q':1}}", "{'a':{'k':1},'y':{'q':1}}", "spec.a.z", ""},
    {"maps keep their members",
     "{'type':'object','additionalProperties':{'type':'object','properties':{'a':{'type':'string'}}}}",
     "{'m':{'a':'x','b':1}}", "{'m':{'a':'x'}}", "spec.m.b", ""},
    {"items are pruned",
     "{'type':'object','properties':{'l':{'type':'array','items':{'type':'object',"
     "'properties':{'a':{'type':'string'}}}}}}",
     "{'l':[{'a':'x','b':1}]}", "{'l':[{'a':'x'}]}", "spec.l[0].b", ""},
    {"embedded resources keep what they are",
     "{'type':'object','properties':{'t':{'type':'object','x-kubernetes-embedded-resource':true,"
     "'properties':{'spec':{'type':'object'}}}}}",
     "{'t':{'apiVersion':'v1','kind':'Pod','metadata':{'name':'n'},'spec':{},'x':1}}",
     "{'t':{'apiVersion':'v1','kind':'Pod','metadata':{'name':'n'},'spec':{}}}", "spec.t.x", ""},
    {"and know the fields of metadata",
     "{'type':'object','properties':{'t':{'type':'object','x-kubernetes-embedded-resource':true,"
     "'x-kubernetes-preserve-unknown-fields':true}}}",
     "{'t':{'apiVersion':'v1','kind':'Pod','metadata':{'name':'n','z':1},'x':1}}",
     "{'t':{'apiVersion':'v1','kind':'Pod','metadata':{'name':'n'},'x':1}}", "spec.t.metadata.z", ""},
    {"defaults fill absent members",
     "{'type':'object','properties':{'a':{'type':'integer','default':2},'o':{'type':'object','default':{},"
     "'properties':{'b':{'type':'string','default':'x'}}}}}",
     "{}", "{'a':2,'o':{'b':'x'}}", "", ""},
    {"defaults leave given members alone", "{'type':'object','properties':{'a':{'type':'integer','default':2}}}",
     "{'a':0}", "{'a':0}", "", ""},
    {"null is a default's place", "{'type':'object','properties':{'a':{'type':'integer','default':2}}}", "{'a':null}",
     "{'a':2}", "", ""},
    {"nullable null stays", "{'type':'object','properties':{'a':{'type':'integer','default':2,'nullable':true}}}",
     "{'a':null}", "{'a':null}", "", ""},
    {"defaults reach into items",
     "{'type':'object','properties':{'l':{'type':'array','items':{'type':'object','properties':{'p':{'type':'string',"
     "'default':'TCP'}}}}}}",
     "{'l':[{},{'p':'UDP'}]}", "{'l':[{'p':'TCP'},{'p':'UDP'}]}", "", ""},
    {"types",
     "{'type':'object','properties':{'i':{'type':'integer'},'n':{'type':'number'},'s':{'type':'string'},"
     "'b':{'type':'boolean'},'o':{'type':'object'},'l':{'type':'array','items':{'type':'string'}}}}",
     "{'i':1.5,'n':'1','s':1,'b':'true','o':[],'l':{}}", NULL, "",
     "TypeInvalid spec.i; TypeInvalid spec.n; TypeInvalid spec.s; TypeInvalid spec.b; TypeInvalid spec.o; TypeInvalid "
     "spec.l"},
    {"whole numbers are integers", "{'type':'object','properties':{'i':{'type':'integer'}}}", "{'i':2.0}", NULL, "",
     ""},
    {"integer or string",
     "{'type':'object','properties':{'p':{'x-kubernetes-int-or-string':true},'q':{'x-kubernetes-int-or-string':true},"
     "'r':{'x-kubernetes-int-or-string':true}}}",
     "{'p':1,'q':'http','r':true}", NULL, "", "TypeInvalid spec.r"},
    {"bounds",
     "{'type':'object','properties':{'a':{'type':'integer','minimum':1,'maximum':3},'b':{'type':'integer','minimum':1,"
     "'exclusiveMinimum':true},'c':{'type':'integer','multipleOf':3}}}",
     "{'a':4,'b':1,'c':4}", NULL, "", "Invalid spec.a; Invalid spec.b; Invalid spec.c"},
    {"lengths count characters",
     "{'type':'object','properties':{'a':{'type':'string','maxLength':3},'b':{'type':'string','minLength':2},"
     "'c':{'type':'string','maxLength':2}}}",
     "{'a':'\\u00e4\\u00f6\\u00fc','b':'x','c':'abc'}", NULL, "", "Invalid spec.b; TooLong spec.c"},
    {"patterns are Go's",
     "{'type':'object','properties':{'a':{'type':'string','pattern':'^\\\\d+(?:ms|s)$'},'b':{'type':'string',"
     "'pattern':'(?i)^abc$'},'c':{'type':'string','pattern':'^[a-z]+$'}}}",
     "{'a':'15ms','b':'ABC','c':'a b'}", NULL, "", "Invalid spec.c"},
    {"enumerations",
     "{'type':'object','properties':{'a':{'type':'string','enum':['x','y']},'b':{'type':'integer','enum':[1,2]}}}",
     "{'a':'z','b':2}", NULL, "", "NotSupported spec.a"},
    {"required members",
     "{'type':'object','required':['a','b'],'properties':{'a':{'type':'string'},'b':{'type':'string'}}}", "{'b':''}",
     NULL, "", "Required spec.a"},
    {"formats",
     "{'type':'object','properties':{'t':{'type':'string','format':'date-time'},'i':{'type':'string','format':'ipv4'},"
     "'u':{'type':'string','format':'uuid'},'d':{'type':'string','format':'duration'}}}",
     "{'t':'2024-01-02T03:04:05Z','i':'::1','u':'x','d':'1h30m'}", NULL, "", "TypeInvalid spec.i; TypeInvalid spec.u"},
    {"sets and keyed lists have no doubles",
     "{'type':'object','properties':{'s':{'type':'array','x-kubernetes-list-type':'set','items':{'type':'string'}},"
     "'m':{'type':'array','x-kubernetes-list-type':'map','x-kubernetes-list-map-keys':['k'],'items':{'type':'object',"
     "'required':['k'],'properties':{'k':{'type':'string'},'v':{'type':'string'}}}}}}",
     "{'s':['a','b','a'],'m':[{'k':'a','v':'1'},{'k':'a','v':'2'}]}", NULL, "",
     "Duplicate spec.s[2]; Duplicate spec.m[1]"},
    {"sizes",
     "{'type':'object','maxProperties':2,'properties':{'l':{'type':'array','maxItems':1,'items':{'type':'string'}},"
     "'m':{'type':'array','minItems':1,'items':{'type':'string'}}}}",
     "{'l':['a','b'],'m':[]}", NULL, "", "TooMany spec.l; Invalid spec.m"},
    {"alternatives",
     "{'type':'object','properties':{'a':{'type':'string'},'b':{'type':'string'}},'oneOf':[{'required':['a']},"
     "{'required':['b']}]}",
     "{'a':'x','b':'y'}", NULL, "", "Invalid spec"},
    {"one of several", "{'type':'object','properties':{'a':{'type':'integer','anyOf':[{'minimum':10},{'maximum':0}]}}}",
     "{'a':5}", NULL, "", "Invalid spec.a"},
    {"what must not be", "{'type':'object','properties':{'a':{'type':'string','not':{'enum':['x']}}}}", "{'a':'x'}",
     NULL, "", "Invalid spec.a"},
};

/* Test data is easier to read without escaped quotes. */
static char *quotes(struct arena *a, const char *text) {
    char *out = arena_strdup(a, text);
    for (char *p = out; *p; p++)
        if (*p == '\'') *p = '"';
    return out;
}

static struct json *whole_schema(struct arena *a, const char *spec) {
    return parse(a, arena_printf(a, "{\"type\":\"object\",\"properties\":{\"spec\":%s}}", quotes(a, spec)));
}

static const char *unknown_text(struct arena *a, const struct api_problems *u) {
    const char *out = "";
    for (size_t i = 0; i < u->n; i++) out = arena_printf(a, "%s%s%s", out, i ? "; " : "", u->items[i].path);
    return out;
}

TEST(objects_are_pruned_defaulted_and_checked_by_their_schema) {
    for (size_t i = 0; i < ARRAY_LEN(schemas); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct rules_ctx c = {.a = a,
                              .group = "lab.example",
                              .version = "v1",
                              .kind = "Gadget",
                              .crd_schema = whole_schema(a, schemas[i].spec)};
        struct json *obj = parse(
            a,
            arena_printf(
                a, "{\"apiVersion\":\"lab.example/v1\",\"kind\":\"Gadget\",\"metadata\":{\"name\":\"g\"},\"spec\":%s}",
                quotes(a, schemas[i].value)));
        struct api_problems unknown = {0};
        struct vctx v = {.c = &c, .a = a};
        struct err e = {0};
        CHECK_INT(crd_normalise(&c, obj, &unknown, &e), 0);
        crd_default(&c, obj);
        crd_validate(&v, obj, NULL);
        if (schemas[i].left && !json_equal(json_get(obj, "spec"), parse(a, quotes(a, schemas[i].left))))
            TEST_FAIL("%s: left %s", schemas[i].name, json_text(a, json_get(obj, "spec")));
        if (!str_eq(unknown_text(a, &unknown), schemas[i].unknown))
            TEST_FAIL("%s: unknown %s", schemas[i].name, unknown_text(a, &unknown));
        if (!str_eq(findings_text(a, &v), schemas[i].findings))
            TEST_FAIL("%s: found %s", schemas[i].name, findings_text(a, &v));
    }
}

TEST(what_was_wrong_before_may_stay_untouched) {
    static const struct {
        const char *old, *now, *findings;
    } cases[] = {
        {"{'spec':{'a':9},'x':1}", "{'spec':{'a':9},'x':2}", ""},               /* spec is untouched */
        {"{'spec':{'a':9,'b':1}}", "{'spec':{'a':9,'b':2}}", ""},               /* a is */
        {"{'spec':{'a':9,'b':1}}", "{'spec':{'a':8,'b':1}}", "Invalid spec.a"}, /* wrong in another way */
        {"{'spec':{'a':1}}", "{'spec':{'a':9}}", "Invalid spec.a"},
        {"{'spec':{'b':1}}", "{'spec':{'b':2}}", "Required spec.a"},
        {"{'spec':{'b':1}}", "{'spec':{'b':1},'x':1}", ""},
        /* items that keys tell apart are the same thing as before, wherever they stand */
        {"{'spec':{'a':1,'m':[{'k':'x','v':9},{'k':'y','v':1}]}}",
         "{'spec':{'a':1,'m':[{'k':'y','v':1},{'k':'x','v':9}]}}", ""},
        {"{'spec':{'a':1,'m':[{'k':'x','v':9}]}}", "{'spec':{'a':1,'m':[{'k':'z','v':9}]}}", "Invalid spec.m[0].v"},
        /* of other lists nothing can be said but of the whole */
        {"{'spec':{'a':1,'l':[9]}}", "{'spec':{'a':2,'l':[9]}}", ""},
        {"{'spec':{'a':1,'l':[9]}}", "{'spec':{'a':1,'l':[9,1]}}", "Invalid spec.l[0]"},
        {"{'spec':{'a':1,'s':[9]}}", "{'spec':{'a':1,'s':[9,1]}}", "Invalid spec.s[0]"},
        {"{'spec':{'a':1,'s':[1,1]}}", "{'spec':{'a':1,'s':[2,1,1]}}", ""}, /* it was there twice */
        {"{'spec':{'a':1,'s':[1]}}", "{'spec':{'a':1,'s':[1,1]}}", "Duplicate spec.s[1]"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct rules_ctx c = {.a = a,
                              .group = "lab.example",
                              .version = "v1",
                              .kind = "Gadget",
                              .crd_schema = whole_schema(a,
                                                         "{'type':'object','required':['a'],"
                                                         "'properties':{'a':{'type':'integer','maximum':5},"
                                                         "'b':{'type':'integer'},"
                                                         "'l':{'type':'array','items':{'type':'integer','maximum':5}},"
                                                         "'s':{'type':'array','x-kubernetes-list-type':'set',"
                                                         "'items':{'type':'integer','maximum':5}},"
                                                         "'m':{'type':'array','x-kubernetes-list-type':'map',"
                                                         "'x-kubernetes-list-map-keys':['k'],'items':{'type':'object',"
                                                         "'properties':{'k':{'type':'string'},"
                                                         "'v':{'type':'integer','maximum':5}}}}}}")};
        struct vctx v = {.c = &c, .a = a};
        crd_validate(&v, parse(a, quotes(a, cases[i].now)), parse(a, quotes(a, cases[i].old)));
        if (!str_eq(findings_text(a, &v), cases[i].findings))
            TEST_FAIL("%s: found %s", cases[i].now, findings_text(a, &v));
    }
}

/* ---- structural schemas ---- */

static const struct {
    const char *name, *schema, *findings;
} structural[] = {
    {"a plain one", "{'type':'object','properties':{'a':{'type':'string'}}}", ""},
    {"types are said", "{'type':'object','properties':{'a':{},'l':{'type':'array','items':{}}}}",
     "Required s.properties[a].type; Required s.properties[l].items.type"},
    {"the root is an object", "{'type':'string'}", "Invalid s.type"},
    {"lists say their items", "{'type':'object','properties':{'l':{'type':'array'}}}",
     "Required s.properties[l].items"},
    {"int-or-string needs no type",
     "{'type':'object','properties':{'p':{'x-kubernetes-int-or-string':true,'anyOf':[{'type':'integer'},"
     "{'type':'string'}]}}}",
     ""},
    {"alternatives say no types", "{'type':'object','properties':{'a':{'type':'string','anyOf':[{'type':'string'}]}}}",
     "Forbidden s.properties[a].anyOf[0].type"},
    {"alternatives speak of known members",
     "{'type':'object','properties':{'a':{'type':'string'}},'oneOf':[{'properties':{'b':{'minLength':1}}}]}",
     "Required s.properties[b]"},
    {"maps are no structs",
     "{'type':'object','properties':{'m':{'type':'object','properties':{'a':{'type':'string'}},"
     "'additionalProperties':{'type':'string'}}}}",
     "Forbidden s.properties[m].additionalProperties"},
    {"no references", "{'type':'object','properties':{'m':{'type':'object','$ref':'#/x'}}}",
     "Forbidden s.properties[m].$ref"},
    {"no quadratic checks",
     "{'type':'object','properties':{'l':{'type':'array','uniqueItems':true,'items':{'type':'string'}}}}",
     "Forbidden s.properties[l].uniqueItems"},
    {"patterns compile", "{'type':'object','properties':{'a':{'type':'string','pattern':'('}}}",
     "Invalid s.properties[a].pattern"},
    {"keyed lists have keys",
     "{'type':'object','properties':{'l':{'type':'array','x-kubernetes-list-type':'map','items':{'type':'object',"
     "'properties':{'k':{'type':'string'}}}}}}",
     "Required s.properties[l].x-kubernetes-list-map-keys"},
    {"keys are required",
     "{'type':'object','properties':{'l':{'type':'array','x-kubernetes-list-type':'map',"
     "'x-kubernetes-list-map-keys':['k'],'items':{'type':'object','properties':{'k':{'type':'string'}}}}}}",
     "Required s.properties[l].items.properties[k].default"},
    {"metadata is known",
     "{'type':'object','properties':{'metadata':{'type':'object','properties':{'labels':{'type':'object'}}}}}",
     "Forbidden s.properties[metadata]"},
    {"metadata's name may be restricted",
     "{'type':'object','properties':{'metadata':{'type':'object','properties':{'name':{'type':'string',"
     "'maxLength':5}}}}}",
     ""},
    {"defaults fit",
     "{'type':'object','properties':{'a':{'type':'integer','default':'x'},'o':{'type':'object','default':{'z':1},"
     "'properties':{}}}}",
     "TypeInvalid s.properties[a].default; Invalid s.properties[o].default"},
    {"embedded resources are objects",
     "{'type':'object','properties':{'t':{'x-kubernetes-embedded-resource':true,"
     "'x-kubernetes-preserve-unknown-fields':true}}}",
     "Required s.properties[t].type"},
};

TEST(schemas_are_structural) {
    for (size_t i = 0; i < ARRAY_LEN(structural); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct rules_ctx c = {.a = a, .group = "apiextensions.k8s.io", .kind = "CustomResourceDefinition"};
        struct vctx v = {.c = &c, .a = a};
        crd_check_structural(&v, parse(a, quotes(a, structural[i].schema)), false, FP(NULL, "s"));
        if (!str_eq(findings_text(a, &v), structural[i].findings))
            TEST_FAIL("%s: found %s", structural[i].name, findings_text(a, &v));
    }
}

TEST(patterns_that_backtrack_without_end_do_not_match) {
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK(!crd_pattern_matches("^(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", 61));
    CHECK(!crd_pattern_matches("^a$", "a\n", 2));
    CHECK(crd_pattern_fault(a, "[") != NULL);
    CHECK(crd_pattern_fault(a, "^\\pL+$") == NULL);
}

/* ---- JSONPath ---- */

TEST(jsonpath_finds) {
    static const struct {
        const char *path, *found;
    } cases[] = {
        {".spec.size", "[3]"},
        {"{.spec.size}", "[3]"},
        {"$.spec.size", "[3]"},
        {".spec['size']", "[3]"},
        {".spec.none", "[]"},
        {".list[0].n", "['a']"},
        {".list[-1].n", "['c']"},
        {".list[7]", "[]"},
        {".list[*].n", "['a','b','c']"},
        {".list[?(@.ok==true)].n", "['a','c']"},
        {".list[?(@.n==\"b\")].ok", "[false]"},
        {".list[?(@.n!='b')].n", "['a','c']"},
        {".list[?(@.v>=2)].n", "['b','c']"},
        {".list[?(@.n == \"b\")].v", "[2]"},
        {".list[?(@.only)].n", "['c']"},
        {".spec.a\\.b", "['dot']"},
        {".spec.size.x", "[]"},
        {".list[?(@.n==]", "[]"},
        {"spec", "[]"},
        {".list[x]", "[]"},
    };
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = parse(a, quotes(a,
                                     "{'spec':{'size':3,'a.b':'dot'},'list':[{'n':'a','ok':true,'v':1},{'n':'b',"
                                     "'ok':false,'v':2},{'n':'c','ok':true,'v':3,'only':1}]}"));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json *found = jsonpath_find(a, cases[i].path, v);
        if (!json_equal(found, parse(a, quotes(a, cases[i].found))))
            TEST_FAIL("%s: %s", cases[i].path, json_text(a, found));
    }
}

TEST(jsonpath_sets_plain_paths_only) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = json_object(a);
    CHECK_INT(jsonpath_set(a, ".spec.a.replicas", v, json_int(a, 4)), 0);
    CHECK_STR(json_text(a, v), "{\"spec\":{\"a\":{\"replicas\":4}}}");
    CHECK(jsonpath_set(a, ".spec.a.replicas.x", v, json_int(a, 4)) < 0);
    CHECK(jsonpath_set(a, ".list[0]", v, json_int(a, 4)) < 0);
    CHECK(jsonpath_set(a, "", v, json_int(a, 4)) < 0);
}

/* ---- columns ---- */

TEST(columns_show_values_by_type) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct table_printer *p = crd_columns(
        a,
        parse(a, quotes(a,
                        "[{'name':'I','type':'integer','jsonPath':'.i'},{'name':'S','type':'string','jsonPath':'.i'},"
                        "{'name':'B','type':'boolean','jsonPath':'.s'},{'name':'D','type':'date','jsonPath':'.d'},"
                        "{'name':'E','type':'date','jsonPath':'.s'},{'name':'N','type':'string','jsonPath':'.none'},"
                        "{'name':'O','type':'string','jsonPath':'.o'}]")));
    struct cells c = {p, a, json_array(a), {.sec = 1704164705}};
    p->cells(&c,
             parse(a, quotes(a, "{'metadata':{'name':'g'},'i':7,'s':'x','d':'2024-01-02T03:03:05Z','o':{'a':[1]}}")));
    CHECK_STR(json_text(a, c.out), "[\"g\",7,\"7\",null,\"2m\",\"<invalid>\",null,\"{\\\"a\\\":[1]}\"]");
    CHECK_INT(p->n_custom, 8);
    CHECK_STR(crd_columns(a, NULL)->custom[1].name, "Age");
}

/* ---- names ---- */

static struct json *definition(struct arena *a, const char *plural, const char *singular, const char *kind,
                               const char *brief) {
    return parse(a, arena_printf(a,
                                 "{\"spec\":{\"group\":\"g\",\"names\":{\"plural\":\"%s\",\"singular\":\"%s\","
                                 "\"kind\":\"%s\",\"listKind\":\"%sList\",\"shortNames\":[\"%s\"]},"
                                 "\"versions\":[{\"name\":\"v1\"}]}}",
                                 plural, singular, kind, kind, brief));
}

static const char *reason_of(const struct json *crd, const char *type) {
    const struct json *c;
    JSON_FOREACH(c, json_at(crd, "status", "conditions", NULL))
        if (str_eq(json_get_str(c, "type"), type)) return json_get_str(c, "reason");
    return NULL;
}

TEST(names_belong_to_the_first_definition) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct crd_names none = {0}, taken = {0};
    struct ktime now = {.sec = 1};
    struct json *first = definition(a, "gadgets", "gadget", "Gadget", "gd"),
                *second = definition(a, "gizmos", "gizmo", "Gadget", "gz"),
                *third = definition(a, "gears", "gear", "Gear", "gd");
    CHECK(crd_names_accept(a, first, &none, now));
    CHECK(!crd_names_accept(a, first, &none, now));
    CHECK(crd_condition_true(first, "Established"));
    CHECK_STR(reason_of(first, "NamesAccepted"), "NoConflicts");
    crd_names_add(a, &taken, first);
    CHECK(crd_names_accept(a, second, &taken, now));
    CHECK(!crd_condition_true(second, "Established"));
    CHECK_STR(reason_of(second, "NamesAccepted"), "ListKindConflict");
    CHECK(crd_names_accept(a, third, &taken, now));
    CHECK_STR(reason_of(third, "NamesAccepted"), "ShortNamesConflict");
    CHECK_STR(json_as_str(json_at(third, "status", "acceptedNames", "kind", NULL)), "Gear");
    CHECK(crd_names_accept(a, second, &none, now)); /* the name is free again */
    CHECK(crd_condition_true(second, "Established"));
}

/* ---- rows ---- */

TEST(versions_are_ordered_as_kubernetes_does) {
    static const char *const order[] = {"v10",     "v2",        "v1",        "v11beta2", "v10beta3",
                                        "v3beta1", "v12alpha1", "v11alpha2", "foo1",     "foo10"};
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        for (size_t j = 0; j < ARRAY_LEN(order); j++) {
            int c = crd_version_cmp(order[i], order[j]);
            if ((i < j && c >= 0) || (i > j && c <= 0) || (i == j && c))
                TEST_FAIL("%s and %s: %d", order[i], order[j], c);
        }
}

TEST(rows_say_what_the_definition_says) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *crd =
        parse(a, quotes(a,
                        "{'spec':{'group':'lab.example','scope':'Cluster','versions':[{'name':'v1','storage':true,"
                        "'served':true,'selectableFields':[{'jsonPath':'.spec.a.b'}],'subresources':{'status':{},"
                        "'scale':{'specReplicasPath':'.spec.n','statusReplicasPath':'.status.n'}}},{'name':'v1beta1',"
                        "'served':true,'deprecated':true}]},'status':{'acceptedNames':{'plural':'gadgets',"
                        "'singular':'gadget','kind':'Gadget','listKind':'GadgetList','shortNames':['gd']}}}"));
    const struct resource *r = crd_row(a, crd, crd_version_of(crd, "v1"), NULL);
    CHECK_STR(r->key_prefix, "/registry/lab.example/gadgets/");
    CHECK_STR(r->fields[0], "spec.a.b");
    CHECK_STR(r->short_names[0], "gd");
    CHECK(!r->namespaced);
    CHECK_INT(r->n_subs, 2);
    CHECK_STR(r->scale->spec, ".spec.n");
    CHECK_STR(r->storage_hash, crd_row(a, crd, crd_version_of(crd, "v1beta1"), r)->storage_hash);
    CHECK_STR(crd_row(a, crd, crd_version_of(crd, "v1beta1"), r)->deprecated,
              "lab.example/v1beta1 Gadget is deprecated");
}

TEST(objects_know_the_version_that_they_are_stored_in) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *crd =
        parse(a, quotes(a,
                        "{'spec':{'group':'lab.example','scope':'Cluster','conversion':{'strategy':'Webhook'},"
                        "'versions':[{'name':'v1','served':true},{'name':'v2','storage':true,'served':true}]},"
                        "'status':{'acceptedNames':{'plural':'gadgets','singular':'gadget','kind':'Gadget',"
                        "'listKind':'GadgetList'}}}"));
    struct resource *r = crd_row(a, crd, crd_version_of(crd, "v2"), NULL);
    static const struct {
        const char *text, *version;
    } cases[] = {
        {"{'apiVersion':'lab.example/v1','kind':'Gadget','metadata':{'name':'x'}}", "v1"},
        {"{'apiVersion':'lab.example/v2','kind':'Gadget','metadata':{'name':'x'}}", "v2"},
        {"{'apiVersion':'lab.example/v9','kind':'Gadget','metadata':{'name':'x'}}",
         "v2"}, /* nobody's: taken as it comes */
        {"{'spec':{},'kind':'Gadget','metadata':{'name':'x'},'apiVersion':'lab.example/v1'}", "v1"},
    };
    CHECK(r->converts);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *text = quotes(a, cases[i].text);
        struct object *o = object_new(r, "x", text, strlen(text), 1, 1), *later = object_at_rev(o, 2);
        CHECK_STR(object_version(o), cases[i].version);
        CHECK_STR(object_version(later), cases[i].version);
        CHECK_STR(json_get_str(object_tree(a, o), "apiVersion"), arena_printf(a, "lab.example/%s", cases[i].version));
        object_unref(o);
        object_unref(later);
    }
}
