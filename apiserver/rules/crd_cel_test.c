/* Rules of custom resources: what a definition may say, what its rules say of objects, transition rules, messages,
 * budgets. Data: a schema (single quotes stand for double ones), objects, findings as "Reason field: message". */
#include "apiserver/rules/crd_cel.h"

#include "apiserver/rules/crd_schema.h"
#include "tests/test.h"

static char *quotes(struct arena *a, const char *text) {
    char *out = arena_strdup(a, text);
    for (char *p = out; *p; p++)
        if (*p == '\'')
            *p = '"';
        else if (*p == '`')
            *p = '\'';
    return out;
}

static struct json *parse(struct arena *a, const char *text) {
    struct json *v = NULL;
    struct err e = {0};
    const char *t = quotes(a, text);
    if (json_parse(a, t, strlen(t), &v, NULL, &e)) TEST_FAIL("bad JSON in a test: %s: %s", e.msg, t);
    return v;
}

static const char *findings_text(struct arena *a, const struct vctx *v) {
    const char *out = "";
    for (size_t i = 0; i < v->n; i++)
        out = arena_printf(a, "%s%s%s %s: %s", out, i ? "; " : "", v->items[i].reason + strlen("FieldValue"),
                           v->items[i].field, v->items[i].message);
    return out;
}

#define RULE(text) "'x-kubernetes-validations':[{'rule':'" text "'}]"
#define RULES(...) "'x-kubernetes-validations':[" __VA_ARGS__ "]"

static const struct {
    const char *name, *spec, *old, *now, *findings, *warning;
} cases[] = {
    {"a rule that holds",
     "{'type':'object','properties':{'a':{'type':'integer'},'b':{'type':'integer'}}," RULE("self.a <= self.b") "}",
     NULL, "{'a':1,'b':2}", "", NULL},
    {"a rule that is broken",
     "{'type':'object','properties':{'a':{'type':'integer'},'b':{'type':'integer'}}," RULE("self.a <= self.b") "}",
     NULL, "{'a':3,'b':2}", "Invalid spec: Invalid value: failed rule: self.a <= self.b", NULL},
    {"of a scalar, with a message",
     "{'type':'object','properties':{'a':{'type':'string'," RULES(
         "{'rule':'self.startsWith(`x`)','message':' starts with x '}") "}}}",
     NULL, "{'a':'y'}", "Invalid spec.a: Invalid value: \"y\": starts with x", NULL},
    {"a message that is worked out",
     "{'type':'object','properties':{'a':{'type':'integer'," RULES(
         "{'rule':'self > 5','messageExpression':'`%d is not more than 5`.format([self])','message':'m'}") "}}}",
     NULL, "{'a':4}", "Invalid spec.a: Invalid value: 4: 4 is not more than 5", NULL},
    {"a message that fails",
     "{'type':'object','properties':{'a':{'type':'integer'," RULES(
         "{'rule':'self > 5','messageExpression':'string(1/0)','message':'m'}") "}}}",
     NULL, "{'a':4}", "Invalid spec.a: Invalid value: 4: m", NULL},
    {"reason and field path",
     "{'type':'object','properties':{'a':{'type':'integer'},'m':{'type':'object',"
     "'additionalProperties':{'type':'integer'}}}," RULES(
         "{'rule':'self.a > "
         "5','reason':'FieldValueForbidden','fieldPath':'.a','message':'no'},{'rule':'!has(self.m)',"
         "'reason':'FieldValueRequired','fieldPath':'.m'}") "}",
     NULL, "{'a':1,'m':{}}",
     "Forbidden spec.a: Forbidden: no; Required spec.m: Required value: failed rule: !has(self.m)", NULL},
    {"items and members",
     "{'type':'object','properties':{'l':{'type':'array','items':{'type':'integer'," RULE(
         "self % 2 == 0") "}},'m':{'type':'object','additionalProperties':{'type':'string'," RULE("self != ``") "}}}}",
     NULL, "{'l':[2,3],'m':{'k':''}}",
     "Invalid spec.l[1]: Invalid value: 3: failed rule: self % 2 == 0; Invalid spec.m[k]: Invalid value: \"\": "
     "failed rule: self != ''",
     NULL},
    {"an error while evaluating", "{'type':'object','properties':{'a':{'type':'integer'}}," RULE("self.a > 0") "}",
     NULL, "{}", "Invalid spec: Invalid value: \"object\": no such key: a evaluating rule: self.a > 0", NULL},
    {"no overload at run time",
     "{'type':'object','properties':{'a':{'x-kubernetes-int-or-string':true}}," RULE("self.a + 1 > 0") "}", NULL,
     "{'a':'x'}",
     "Invalid spec: Invalid value: \"object\": 'no such overload: _+_(string, int)': call arguments did not match a "
     "supported operator, function or macro signature for rule: self.a + 1 > 0",
     NULL},
    {"a broken type stops rules", "{'type':'object','properties':{'a':{'type':'integer'}}," RULE("self.a > 0") "}",
     NULL, "{'a':'x'}",
     "TypeInvalid spec.a: Invalid value: \"x\": must be of type integer; Invalid <nil>: Invalid value: null: some "
     "validation rules were not checked because the object was invalid; correct the existing errors to complete "
     "validation",
     NULL},
    {"a transition",
     "{'type':'object','properties':{'a':{'type':'string'," RULES(
         "{'rule':'self == oldSelf','message':'immutable'}") "}}}",
     "{'a':'x'}", "{'a':'y'}", "Invalid spec.a: Invalid value: \"y\": immutable", NULL},
    {"a transition without a past",
     "{'type':'object','properties':{'a':{'type':'string'," RULE("self == oldSelf") "}}}", "{}", "{'a':'y'}", "", NULL},
    {"an optional past",
     "{'type':'object','properties':{'a':{'type':'string'," RULES(
         "{'rule':'oldSelf.hasValue() || self == `first`','optionalOldSelf':true}") "}}}",
     NULL, "{'a':'y'}", "Invalid spec.a: Invalid value: \"y\": failed rule: oldSelf.hasValue() || self == 'first'",
     NULL},
    {"items are told apart by their keys",
     "{'type':'object','properties':{'l':{'type':'array','x-kubernetes-list-type':'map',"
     "'x-kubernetes-list-map-keys':['k'],'items':{'type':'object','required':['k'],"
     "'properties':{'k':{'type':'string'},'v':{'type':'integer'," RULE("self >= oldSelf") "}}}}}}",
     "{'l':[{'k':'a','v':5},{'k':'b','v':1}]}", "{'l':[{'k':'b','v':2},{'k':'a','v':4},{'k':'c','v':0}]}",
     "Invalid spec.l[1].v: Invalid value: 4: failed rule: self >= oldSelf", NULL},
    {"what did not change is warned about",
     "{'type':'object','properties':{'a':{'type':'integer'," RULE("self < 5") "},'b':{'type':'integer'}}}",
     "{'a':9,'b':1}", "{'a':9,'b':2}", "", "spec.a: Invalid value: 9: failed rule: self < 5"},
};

static struct rules_ctx ctx_of(struct arena *a, const char *spec) {
    struct json *schema = parse(a, arena_printf(a, "{'type':'object','properties':{'spec':%s}}", spec));
    return (struct rules_ctx){.a = a,
                              .group = "lab.example",
                              .version = "v1",
                              .kind = "Gadget",
                              .crd_schema = schema,
                              .crd_cel = crd_cel_compile(a, schema)};
}

static struct json *object(struct arena *a, const char *spec) {
    return spec ? parse(a, arena_printf(
                               a, "{'apiVersion':'lab.example/v1','kind':'Gadget','metadata':{'name':'g'},'spec':%s}",
                               spec))
                : NULL;
}

TEST(objects_are_held_against_rules) {
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct rules_ctx c = ctx_of(a, cases[i].spec);
        struct vctx v = {.c = &c, .a = a};
        crd_validate(&v, object(a, cases[i].now), object(a, cases[i].old));
        if (strcmp(findings_text(a, &v), cases[i].findings) != 0)
            TEST_FAIL("%s: found %s", cases[i].name, findings_text(a, &v));
        const char *warning = c.n_warnings ? c.warnings[0] : NULL;
        if (!str_eq(warning, cases[i].warning)) TEST_FAIL("%s: warning %s", cases[i].name, warning);
    }
}

TEST(a_schema_without_rules_costs_nothing) {
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK(!ctx_of(a, "{'type':'object','properties':{'a':{'type':'integer'}}}").crd_cel);
}

TEST(one_budget_for_all_rules) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct rules_ctx c =
        ctx_of(a, "{'type':'object','properties':{'l':{'type':'array','items':{'type':'integer'}}}," RULES(
                      "{'rule':'self.l.all(x, self.l.all(y, x + y >= 0))'},{'rule':'true'}") "}");
    struct vctx v = {.c = &c, .a = a};
    struct json *obj = object(a, "{'l':[]}"), *l = json_at(obj, "spec", "l", NULL);
    for (int i = 0; i < 1000; i++) json_append(a, l, json_int(a, i));
    crd_validate(&v, obj, NULL);
    CHECK_INT(v.n, 1);
    CHECK(strstr(findings_text(a, &v), "no further validation rules will be run due to call cost exceeds limit"));
}

static const struct {
    const char *name, *spec, *findings; /* findings: a part of them */
} definitions[] = {
    {"a good one", "{'type':'object','properties':{'a':{'type':'integer'}}," RULE("self.a > 0") "}", ""},
    {"no rule", "{'type':'object'," RULE(" ") "}",
     "Required f.properties[spec].x-kubernetes-validations[0].rule: Required value: rule is not specified"},
    {"it does not compile", "{'type':'object','properties':{'a':{'type':'integer'}}," RULE("self.b > 0") "}",
     "compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b > 0\n | ....^"},
    {"it is no bool", "{'type':'object','properties':{'a':{'type':'integer'}}," RULE("self.a") "}",
     "cel expression must evaluate to a bool"},
    {"a bad message", "{'type':'object'," RULES("{'rule':'true','messageExpression':'1'}") "}",
     "messageExpression must evaluate to a string"},
    {"a bad reason", "{'type':'object'," RULES("{'rule':'true','reason':'Nope'}") "}",
     "NotSupported f.properties[spec].x-kubernetes-validations[0].reason"},
    {"a bad path", "{'type':'object'," RULES("{'rule':'true','fieldPath':'.zz'}") "}", "must be a valid path"},
    {"lines need a message", "{'type':'object'," RULE("true\\n&& true") "}",
     "message must be specified if rule contains line breaks"},
    {"too dear",
     "{'type':'object','properties':{'l':{'type':'array','items':{'type':'string'}," RULE(
         "self.all(x, self.all(y, x == y))") "}}}",
     "Forbidden f.properties[spec].properties[l].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost "
     "exceeds budget by factor of more than 100x"},
    {"bounded",
     "{'type':'object','properties':{'l':{'type':'array','maxItems':20,'items':{'type':'string','maxLength':10}," RULE(
         "self.all(x, self.all(y, x == y))") "}}}",
     ""},
    {"a past that cannot be told",
     "{'type':'object','properties':{'l':{'type':'array','items':{'type':'string','maxLength':5," RULE(
         "self == oldSelf") "}}}}",
     "oldSelf cannot be used on the uncorrelatable portion of the schema within f.properties[spec].properties[l]"},
    {"optionalOldSelf for nothing", "{'type':'object'," RULES("{'rule':'true','optionalOldSelf':true}") "}",
     "may not be set if oldSelf is not used in rule"},
};

TEST(definitions_are_checked) {
    for (size_t i = 0; i < ARRAY_LEN(definitions); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct rules_ctx c = ctx_of(a, definitions[i].spec);
        struct vctx v = {.c = &c, .a = a};
        crd_cel_check(&v, c.crd_schema, FP(NULL, "f"));
        const char *got = findings_text(a, &v);
        bool fits = *definitions[i].findings ? strstr(got, definitions[i].findings) != NULL : !*got;
        if (!fits) TEST_FAIL("%s: found %s", definitions[i].name, got);
    }
}

TEST(defaults_are_held_against_rules) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct rules_ctx c = {.a = a, .kind = "CustomResourceDefinition"};
    struct vctx v = {.c = &c, .a = a};
    struct json *schema =
        parse(a, "{'type':'object','properties':{'a':{'type':'integer','default':7," RULE("self < 5") "}}}");
    crd_check_structural(&v, schema, false, FP(NULL, "f"));
    CHECK_STR(findings_text(a, &v), "Invalid f.properties[a].default: Invalid value: 7: failed rule: self < 5");
}
