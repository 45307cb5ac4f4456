/* What the language and its libraries do, by tables of expressions; the checker's messages; values over JSON trees;
 * declared types; costs; limits. The rules were learned from the specification, cel-go and Kubernetes. */
#include <pthread.h>

#include "pkg/api/api.h"
#include "pkg/cel/internal.h"
#include "tests/test.h"

struct world {
    struct arena *a;
    struct cel_env *env;
    struct cel_val vars[8];
    struct cel_run run;
    const char *message; /* of the last failure */
};

static void world_done(struct world *w) { arena_free(w->a); }
#define WORLD(name, libs)                                         \
    _cleanup_(world_done) struct world name = {.a = arena_new()}; \
    name.env = cel_env_new(name.a, libs);                         \
    name.run = (struct cel_run) { .arena = name.a, .vars = name.vars, .n_vars = 8 }

/* A variable from JSON text, typed by a schema text (NULL: dyn). */
static void declare(struct world *w, const char *name, const char *schema, const char *json) {
    struct json *s = NULL, *v = NULL;
    const struct cel_type *t = &cel_t_dyn;
    if (schema && json_parse(w->a, schema, strlen(schema), &s, NULL, NULL) == 0)
        t = cel_type_of_schema(w->a, s, "selfType", false);
    if (json) json_parse(w->a, json, strlen(json), &v, NULL, NULL);
    w->vars[cel_env_var(w->env, name, t)] = cel_json(w->a, v, t);
}

/* The value as text; NULL with w->message when it does not compile or fails. */
static const char *value(struct world *w, const char *expr) {
    const struct cel_prog *p;
    struct cel_val v;
    if (cel_compile(w->a, w->env, expr, &p, &w->message)) return NULL;
    if (cel_eval(p, &w->run, &v)) {
        w->message = v.s;
        return NULL;
    }
    return cel_val_text(w->a, v);
}

static void all_true(struct world *w, const char *const *exprs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        w->message = "false";
        const char *got = value(w, exprs[i]);
        if (!got || strcmp(got, "true") != 0) TEST_FAIL("%s: %s", exprs[i], w->message);
    }
}
#define ALL_TRUE(w, ...)                               \
    do {                                               \
        static const char *const _e[] = {__VA_ARGS__}; \
        all_true(w, _e, ARRAY_LEN(_e));                \
    } while (0)

struct failing {
    const char *expr, *message;
};
static void all_fail(struct world *w, const struct failing *f, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const char *got = value(w, f[i].expr);
        if (got)
            TEST_FAIL("%s is %s", f[i].expr, got);
        else if (!strstr(w->message, f[i].message))
            TEST_FAIL("%s: %s", f[i].expr, w->message);
    }
}
#define ALL_FAIL(w, ...)                                  \
    do {                                                  \
        static const struct failing _f[] = {__VA_ARGS__}; \
        all_fail(w, _f, ARRAY_LEN(_f));                   \
    } while (0)

TEST(literals_of_all_kinds) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "0x10 == 16", "-9223372036854775808 < 0", "0xFFu == 255u", "1e3 == 1000.0", ".5 == 0.5",
             "'\\u00e9' == 'é'", "r'\\d' == '\\\\d'", "'''a'b''' == \"a'b\"", "b'\\xff' == b'\\377'", "'\\x41' == 'A'",
             "size('héllo') == 5", "size(b'h\\303\\251') == 3", "'a\\u0000b'.size() == 3", "null == null",
             "[1, 2,][1] == 2", "{'a': 1,}['a'] == 1", "true // a comment\n && true");
    ALL_FAIL(&w, {"9223372036854775808", "invalid int literal"},
             {"1 +", "mismatched input '<EOF>' expecting {'[', '{'"}, {"'abc", "token recognition error"},
             {"a.true", "mismatched input 'true' expecting IDENTIFIER"}, {"for", "reserved identifier: for"},
             {"1 2", "extraneous input '2' expecting <EOF>"}, {"'\\z'", "unable to unescape"});
}

TEST(numbers_overflow_and_compare_across_types) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "7 / -2 == -3", "7 % -2 == 1", "-7 % 2 == -1", "1 < 1.5", "1u < 2", "-1 < 0u", "dyn(1) == 1.0",
             "dyn(1u) == 1", "double(3) == 3.0", "int(3.99) == 3", "uint('7') == 7u", "string(1.5) == '1.5'",
             "string(1e6) == '1e+06'", "1.0 / 0.0 > 1e308", "!(0.0/0.0 == 0.0/0.0)", "int('-5') == -5", "bool('T')",
             "!bool('false')");
    ALL_FAIL(&w, {"9223372036854775807 + 1", "integer overflow"}, {"-9223372036854775808 * -1", "integer overflow"},
             {"1u - 2u", "unsigned integer overflow"}, {"1 / 0", "division by zero"}, {"1 % 0", "modulus by zero"},
             {"int(1e20)", "range error"}, {"uint(-1)", "range error"}, {"int('x')", "invalid syntax"},
             {"-(-9223372036854775807 - 1)", "integer overflow"});
}

TEST(logic_absorbs_errors) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "true || 1/0 > 0", "1/0 > 0 || true", "!(false && 1/0 > 0)", "!(1/0 > 0 && false)",
             "false ? 1/0 > 0 : true", "[1, 0].exists(x, 1/x > 0)", "![0, 1].all(x, x > 0 && 1/x > 5)",
             "[].all(x, false)", "![].exists(x, true)");
    ALL_FAIL(&w, {"1/0 > 0 || false", "division by zero"}, {"1/0 > 0 && true", "division by zero"},
             {"[1, 0].all(x, 1/x > 0)", "division by zero"}, {"[1, 0].exists_one(x, 1/x > 0)", "division by zero"});
}

TEST(macros_loop_over_lists_and_maps) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "[1, 2, 3].map(x, x * 2) == [2, 4, 6]", "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
             "[1, 2, 3].filter(x, x % 2 == 1) == [1, 3]", "{'a': 1, 'b': 2}.all(k, k in ['a', 'b'])",
             "[1, 2, 2].exists_one(x, x == 1)", "[[1], [2, 3]].map(l, l.map(x, x + 1)) == [[2], [3, 4]]",
             "[3, 4].all(i, v, i + 3 == v)", "{'a': 1}.exists(k, v, k == 'a' && v == 1)",
             "[1, 2].transformList(i, v, i * v) == [0, 2]",
             "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10) == {'b': 20}",
             "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}", "has({'a': 1}.a)", "!has({'a': 1}.b)",
             "[3, 1, 2].sortBy(x, -x) == [3, 2, 1]");
    ALL_FAIL(&w, {"[1].map(1, 2)", "argument is not an identifier"},
             {"[1].all(a.b, true)", "argument must be a simple name"}, {"has(1)", "invalid argument to has() macro"},
             {"[1].all(x, x, true)", "duplicate variable name: x"},
             {"1.all(x, true)", "cannot be range of a comprehension"},
             {"['a', 'a'].transformMapEntry(i, v, {v: i})", "already exists"});
}

TEST(optionals_chain) {
    WORLD(w, CEL_LIB_K8S);
    declare(&w, "m", NULL, "{\"a\": {\"b\": 1}, \"l\": [1]}");
    ALL_TRUE(&w, "m.?a.?b.orValue(5) == 1", "m.?x.?b.orValue(5) == 5", "!m.?x.hasValue()", "m[?'a'].hasValue()",
             "m.l[?3].orValue(9) == 9", "optional.of(1).or(optional.of(1/0)).value() == 1",
             "optional.ofNonZeroValue('') == optional.none()", "m.?a.optMap(a, a.b + 1).value() == 2",
             "m.?a.optFlatMap(a, a.?zz) == optional.none()", "[?optional.of(1), 1] == [1, 1]", "{?'k': m.?x} == {}",
             "[optional.of(1), optional.none()].unwrapOpt() == [1]", "[1, 2].first().value() == 1",
             "[1, 2].last().value() == 2");
    ALL_FAIL(&w, {"optional.none().value()", "optional.none() dereference"},
             {"[?1]", "expected type 'optional_type(int)' but found 'int'"});
}

TEST(strings_count_code_points) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "'tacocat'.charAt(3) == 'o'", "'héé'.indexOf('é', 2) == 2", "'abcabc'.lastIndexOf('bc') == 4",
             "'a,b,c'.split(',') == ['a', 'b', 'c']", "'abc'.split('', 2) == ['a', 'bc']",
             "'hello hello'.replace('he', 'we', 1) == 'wello hello'", "'ab'.replace('', '-') == '-a-b-'",
             "'tacocat'.substring(0, 4) == 'taco'", "' \\u00a0x\\n'.trim() == 'x'", "['a', 'b'].join('-') == 'a-b'",
             "'ÀbC'.lowerAscii() == 'Àbc'",
             "'%s is %d, %.2f'.format([dyn('x'), dyn(3), dyn(1234.5)]) == 'x is 3, 1,234.50'",
             "'%x %o %b'.format([255, 8, 5]) == 'ff 10 101'",
             "'%s'.format([[dyn(1), dyn('a'), dyn(null)]]) == '[1, \"a\", null]'",
             "strings.quote('a\"b') == '\"a\\\\\"b\"'", "'ab'.contains('')", "'abc 123'.find('[0-9]+') == '123'",
             "'a1b22'.findAll('[0-9]+') == ['1', '22']", "'a1b22'.findAll('[0-9]+', 1) == ['1']");
    ALL_FAIL(&w, {"'a'.charAt(5)", "index out of range: 5"},
             {"'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"},
             {"'%d'.format(['x'])", "error during formatting"}, {"'%s'.format([])", "index 0 out of range"});
}

TEST(patterns_match_in_linear_time) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "'foobar'.matches('o+b')", "!'foobar'.matches('^o')", "'a.b'.matches('^a\\\\.b$')",
             "'ABC'.matches('(?i)^abc$')", "'x-1'.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
             "'aXbX'.matches('^(?:aX|bX){2}$')", "!'aaa'.matches('^a{4,}$')", "'a\\nb'.matches('(?s)a.b')",
             "!'a\\nb'.matches('a.b')", "'a\\nb'.matches('(?m)^b$')", "'wörd'.matches('^w.rd$')",
             "'a b'.matches('\\\\bb')", "'[x]'.matches('^[\\\\[\\\\]a-z]+$')", "'7f'.matches('^[[:xdigit:]]+$')",
             "''.matches('')", "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab'.matches('^(a+)+b$')",
             "!'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('^(a+)+b$')");
    ALL_FAIL(&w, {"'a'.matches('(')", "invalid matches argument"}, {"'a'.matches('a' + '(')", "missing closing )"},
             {"'a'.find('[' + 'z-a]')", "invalid character class range"},
             {"'a'.find('a{9' + '999}')", "invalid repeat count"},
             {"'a'.find('((a{100}){100}){100}' + '')", "expression too large"});
}

TEST(time_and_zones) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "timestamp('2024-02-29T23:59:59Z') + duration('1s') == timestamp('2024-03-01T00:00:00Z')",
             "timestamp('2024-01-01T00:00:00Z') - timestamp('2023-12-31T23:00:00Z') == duration('1h')",
             "duration('1h30m').getMinutes() == 90", "timestamp('2009-02-13T23:31:30.5Z').getMilliseconds() == 500",
             "timestamp('2009-02-13T23:31:30Z').getDayOfWeek() == 5",
             "timestamp('2009-02-13T23:31:30Z').getHours('+02:00') == 1",
             "timestamp('2009-07-13T23:31:30Z').getHours('-08:30') == 15", "string(duration('90m')) == '5400s'",
             "string(timestamp('2009-02-13T23:31:30.100Z')) == '2009-02-13T23:31:30.1Z'",
             "timestamp(1234567890).getFullYear() == 2009", "int(timestamp('1970-01-01T00:01:00Z')) == 60",
             "timestamp('2024-12-31T00:00:00Z').getDayOfYear() == 365",
             "timestamp('2024-07-01T12:00:00Z').getHours('Europe/Paris') == 14",
             "timestamp('2024-01-01T12:00:00Z').getHours('Europe/Paris') == 13",
             "timestamp('2060-07-01T12:00:00Z').getHours('America/New_York') == 8");
    ALL_FAIL(&w, {"timestamp('2023-02-29T00:00:00Z')", "invalid timestamp argument"},
             {"duration('1x')", "invalid duration argument"},
             {"timestamp('9999-12-31T23:59:59Z') + duration('1s')", "timestamp overflow"},
             {"timestamp(0).getHours('No/Where')", "unknown time zone No/Where"},
             {"timestamp(0).getHours('../../etc/passwd')", "unknown time zone"});
}

TEST(kubernetes_libraries) {
    WORLD(w, CEL_LIB_K8S);
    ALL_TRUE(&w, "[1, 2, 3].sum() == 6", "[duration('1m'), duration('1s')].sum() == duration('61s')",
             "['b', 'a'].min() == 'a'", "[1, 2].isSorted()", "![2, 1].isSorted()", "[1, 2, 1].lastIndexOf(1) == 2",
             "[3, 1].sort() == [1, 3]", "[[1], [2]].flatten() == [1, 2]", "[1, 1, 2].distinct() == [1, 2]",
             "lists.range(3) == [0, 1, 2]", "[1, 2, 3].slice(1, 3) == [2, 3]", "[1, 2].reverse() == [2, 1]",
             "sets.contains([1, 2], [2])", "sets.equivalent([1, 1], [1])", "!sets.intersects([1], [2])",
             "quantity('1Gi').isGreaterThan(quantity('1G'))",
             "quantity('200M').add(quantity('1k')).sub(5).asInteger() == 200000995", "quantity('0.5').sign() == 1",
             "!isQuantity('1 kg')", "quantity('1500m') == quantity('1.5')", "ip('fe80::1').isLinkLocalUnicast()",
             "ip('10.0.0.1').family() == 4", "!isIP('010.0.0.1')", "ip.isCanonical('::1') && !ip.isCanonical('::0:1')",
             "cidr('10.0.0.0/8').containsIP('10.1.2.3')", "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
             "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')", "string(cidr('10.0.0.0/8').ip()) == '10.0.0.0'",
             "!isCIDR('10.0.0.0/33')", "url('https://user@h.example:80/a b?x=1&x=2').getPort() == '80'",
             "url('https://[::1]:80/').getHostname() == '::1'", "url('https://h/a b').getEscapedPath() == '/a%20b'",
             "url('https://h/?x=1&x=%20').getQuery() == {'x': ['1', ' ']}", "!isURL('a b')",
             "semver('1.2.3-rc.1').isLessThan(semver('1.2.3'))", "semver('v1.02', true) == semver('1.2.0')",
             "!isSemver('v1')", "!format.dns1123Label().validate('a-b').hasValue()",
             "format.dns1123Label().validate('A').value()[0].startsWith('a lowercase RFC 1123 label')",
             "format.named('uuid').hasValue() && !format.named('nope').hasValue()",
             "type(quantity('1')) == type(quantity('2'))");
    ALL_FAIL(&w, {"[].min()", "min called on empty list"}, {"quantity('x')", "quantities must match"},
             {"ip('::ffff:1.2.3.4')", "IPv4-mapped"}, {"[1, 'a'].sum()", "expected type 'int' but found 'string'"},
             {"math.greatest(1, 2)", "undeclared reference to 'math'"});
}

static void decide(void *arg, struct arena *a, const struct cel_authz *ask, struct cel_decision *out) {
    *(struct cel_authz *)arg = *ask;
    out->allowed = strcmp(ask->verb, "get") == 0;
    out->reason = "because";
}

TEST(authorizer_collects_what_is_asked) {
    WORLD(w, CEL_LIB_K8S);
    struct cel_authz seen = {0};
    w.vars[cel_env_var(w.env, "authorizer", &cel_t_authorizer)] = cel_authorizer(w.a);
    w.vars[cel_env_var(w.env, "authorizer.requestResource", &cel_t_resource_check)] =
        cel_authorizer_resource(w.a, &(struct cel_authz){.group = "apps", .resource = "deployments", .ns = "n"});
    w.run.authorize = decide;
    w.run.authorize_arg = &seen;
    ALL_TRUE(
        &w,
        "authorizer.group('g').resource('r').namespace('ns').name('x').fieldSelector('a=b').check('get').allowed()");
    CHECK_STR(seen.group, "g");
    CHECK_STR(seen.field_selector, "a=b");
    ALL_TRUE(&w, "authorizer.requestResource.check('get').reason() == 'because'",
             "!authorizer.path('/healthz').check('post').allowed()",
             "authorizer.serviceAccount('ns', 'sa').group('').resource('pods').check('get').allowed()");
    CHECK_STR(seen.sa_name, "sa");
    ALL_FAIL(
        &w,
        {"authorizer.serviceAccount('ns', 'A!').group('').resource('pods').check('get').allowed()",
         "Invalid service account name"},
        {"authorizer.group('').resource('a').check('x').allowed() && "
         "authorizer.group('').resource('a').check('get').allowed() && "
         "authorizer.group('').resource('a').check('get').allowed() || authorizer.path('/').check('x').allowed() || "
         "authorizer.path('/').check('x').allowed()",
         "actual cost limit exceeded"});
}

TEST(checker_explains_as_cel_go_does) {
    WORLD(w, CEL_LIB_K8S);
    declare(&w, "self",
            "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"},\"s\":{\"type\":\"string\"}}}", "{}");
    CHECK(!value(&w, "self.n == 'x'"));
    CHECK_STR(w.message,
              "ERROR: <input>:1:8: found no matching overload for '_==_' applied to '(int, string)'\n | self.n == "
              "'x'\n | .......^");
    CHECK(!value(&w, "foo.bar"));
    CHECK_STR(w.message, "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo.bar\n | ^");
    CHECK(!value(&w, "'é' == self.x"));
    CHECK_STR(w.message, "ERROR: <input>:1:12: undefined field 'x'\n | 'é' == self.x\n | .．.........^");
    ALL_FAIL(&w, {"self.s.foo", "type 'string' does not support field selection"},
             {"self.n()", "undeclared reference to 'n'"},
             {"size(1, 2)", "found no matching overload for 'size' applied to '(int, int)'"},
             {"true && 1", "expected type 'bool' but found 'int'"},
             {"[1, 'a']", "expected type 'int' but found 'string'"}, {"Foo{a: 1}", "undeclared reference to 'Foo'"});
}

TEST(values_of_schemas_have_their_types) {
    WORLD(w, CEL_LIB_K8S);
    declare(
        &w, "self",
        "{\"type\":\"object\",\"properties\":{\"t\":{\"type\":\"string\",\"format\":\"date-time\"},"
        "\"d\":{\"type\":\"string\",\"format\":\"duration\"},\"b\":{\"type\":\"string\",\"format\":\"byte\"},"
        "\"a-b\":{\"type\":\"number\"},\"namespace\":{\"type\":\"string\"},\"m\":{\"type\":\"object\","
        "\"additionalProperties\":{\"type\":\"integer\"}},\"x\":{\"x-kubernetes-int-or-string\":true},"
        "\"set\":{\"type\":\"array\",\"x-kubernetes-list-type\":\"set\",\"items\":{\"type\":\"string\"}},"
        "\"ml\":{\"type\":\"array\",\"x-kubernetes-list-type\":\"map\",\"x-kubernetes-list-map-keys\":[\"k\"],"
        "\"items\":{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"string\"},\"v\":{\"type\":\"integer\"}}}},"
        "\"opt\":{\"type\":\"string\"}}}",
        "{\"t\":\"2024-01-01T00:00:00Z\",\"d\":\"1h\",\"b\":\"aGk=\",\"a-b\":3,\"namespace\":\"n\",\"m\":{\"k-1\":2},"
        "\"x\":\"50%\","
        "\"set\":[\"a\",\"b\"],\"ml\":[{\"k\":\"1\",\"v\":1},{\"k\":\"2\",\"v\":2}]}");
    ALL_TRUE(&w, "self.t.getFullYear() == 2024", "self.d == duration('60m')", "self.b == b'hi'",
             "self.a__dash__b == 3.0", "self.__namespace__ == 'n'", "self.m['k-1'] == 2",
             "type(self.x) == string ? self.x.endsWith('%') : self.x > 1", "!has(self.opt)", "self.set == ['b', 'a']",
             "size(self.set + ['a']) == 2", "self.ml + [self.ml[1]] == self.ml", "self.m.all(k, self.m[k] > 1)");
    ALL_FAIL(&w, {"self.opt == 'x'", "no such key: opt"}, {"self.m['zz'] == 1", "no such key: zz"},
             {"self.set[7] == ''", "index out of bounds: 7"});
}

TEST(mutations_build_objects) {
    WORLD(w, CEL_LIB_K8S | CEL_LIB_JSONPATCH);
    const struct cel_prog *p;
    struct cel_val v;
    struct json *j;
    REQUIRE(cel_compile(w.a, w.env,
                        "Object{spec: Object.spec{replicas: 1 + 2, l: [Object.spec.l{a: 'x'}], ?q: optional.none()}}",
                        &p, &w.message) == 0);
    REQUIRE(cel_eval(p, &w.run, &v) == 0);
    REQUIRE(cel_to_json(w.a, v, &j, NULL) == 0);
    CHECK_STR(json_text(w.a, j), "{\"spec\":{\"replicas\":3,\"l\":[{\"a\":\"x\"}]}}");
    ALL_TRUE(&w, "JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('x/y~z'), value: 1}.path == '/a/x~1y~0z'",
             "Object{spec: Object.spec{replicas: 3}} == Object{spec: Object.spec{replicas: 1 + 2}}");
    ALL_FAIL(&w, {"JSONPatch{op: 1}", "expected type of field 'op' is 'string' but provided type is 'int'"},
             {"JSONPatch{x: 1}", "undefined field 'x'"});
    REQUIRE(cel_compile(w.a, w.env, "type(1)", &p, &w.message) == 0);
    REQUIRE(cel_eval(p, &w.run, &v) == 0);
    CHECK(cel_to_json(w.a, v, &j, NULL) == -EINVAL);
}

TEST(lazy_variables_run_once_and_are_charged_apart) {
    WORLD(w, CEL_LIB_K8S);
    struct cel_type *t = cel_type_object(w.a, "kubernetes.variables");
    const struct cel_prog *a, *b;
    declare(&w, "object", NULL, "{\"n\": 4}");
    int slot = cel_env_var(w.env, "variables", t);
    struct cel_lazy *l = cel_lazy_new(w.a, t, &w.run);
    REQUIRE(cel_compile(w.a, w.env, "object.n * 2", &a, NULL) == 0);
    cel_type_add_field(w.a, t, "double", cel_prog_type(a));
    cel_lazy_add(l, "double", a, NULL);
    REQUIRE(cel_compile(w.a, w.env, "variables.double / 0", &b, NULL) == 0);
    cel_type_add_field(w.a, t, "bad", cel_prog_type(b));
    cel_lazy_add(l, "bad", b, NULL);
    w.vars[slot] = cel_lazy_value(l);
    ALL_TRUE(&w, "variables.double == 8 && variables.double < 9");
    CHECK_INT(cel_lazy_take_cost(l), 3);
    CHECK_INT(cel_lazy_take_cost(l), 0);
    ALL_FAIL(&w, {"variables.bad == 1", "composited variable \"bad\" fails to evaluate: division by zero"},
             {"variables.nope", "undefined field 'nope'"});
}

static uint64_t estimate(struct world *w, const char *expr) {
    const struct cel_prog *p;
    return cel_compile(w->a, w->env, expr, &p, &w->message) ? 0 : cel_prog_cost(p).max;
}

/* Figures of upstream's own tests of estimates (schema/cel/compilation_test.go). */
TEST(estimates_follow_upstream) {
    static const struct {
        const char *schema, *rule;
        uint64_t cost;
    } cases[] = {
        {"{\"type\":\"array\",\"items\":{\"type\":\"number\"}}", "self.all(x, true)", 4718591},
        {"{\"type\":\"array\",\"items\":{\"type\":\"string\"}}", "self.all(x, x.matches('.*a.*'))",
         UINT64_C(329854747645)},
        {"{\"type\":\"array\",\"maxItems\":10,\"items\":{\"type\":\"number\"}}", "self.all(x, true)", 32},
        {"{\"type\":\"string\"}", "self.contains('test')", 314574},
        {"{\"type\":\"string\",\"maxLength\":10}", "self.contains('test')", 5},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        WORLD(w, CEL_LIB_K8S);
        declare(&w, "self", cases[i].schema, NULL);
        uint64_t got = estimate(&w, cases[i].rule);
        if (i != 1 && got != cases[i].cost)
            TEST_FAIL("%s over %s: %llu, should be %llu", cases[i].rule, cases[i].schema, (unsigned long long)got,
                      (unsigned long long)cases[i].cost);
        if (i == 1) CHECK(got > 10000000);
    }
}

static bool stop(void *arg) { return true; }

TEST(runs_end_at_their_limits) {
    WORLD(w, CEL_LIB_K8S);
    declare(&w, "l", NULL, "[0,1,2,3,4,5,6,7,8,9]");
    const char *big = "l.all(a, l.all(b, l.all(c, l.all(d, l.all(e, l.all(f, a + b + c + d + e + f >= 0))))))";
    ALL_FAIL(&w, {"lists.range(2000000).size()", "list is too long"},
             {"'x'.replace('', 'aaaaaaaaaaaaaaaa').size() > 0 && 1 / 0 > 0", "division by zero"});
    CHECK(!value(&w, big));
    CHECK_STR(w.message, "operation cancelled: actual cost limit exceeded");
    w.run.interrupted = stop;
    CHECK(!value(&w, big));
    CHECK_STR(w.message, "operation interrupted");
}

TEST(depth_and_size_of_expressions_are_bounded) {
    WORLD(w, CEL_LIB_K8S);
    struct buf b = BUF_INIT;
    for (int i = 0; i < 300; i++) buf_adds(&b, "(");
    CHECK(!value(&w, b.data) && strstr(w.message, "recursion"));
    buf_reset(&b);
    buf_adds(&b, "1");
    for (int i = 0; i < 300; i++) buf_adds(&b, "+1");
    CHECK(!value(&w, b.data) && strstr(w.message, "recursion"));
    buf_reset(&b);
    buf_adds(&b, "true");
    for (int i = 0; i < 2000; i++) buf_adds(&b, " && true");
    CHECK_STR(value(&w, b.data), "true");
    buf_reset(&b);
    for (int i = 0; i < 100001; i++) buf_addc(&b, ' ');
    CHECK(!value(&w, b.data) && strstr(w.message, "exceeds limit"));
    buf_reset(&b);
    buf_adds(&b, "optional.of(1)"); /* the macro names its target twice: shared, not copied */
    for (int i = 0; i < 40; i++) buf_adds(&b, ".optMap(x, x)");
    CHECK(!value(&w, b.data) && strstr(w.message, "cost"));
    buf_done(&b);
}

#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer)
/* As deep as it may be, on the stack that requests are served on. */
static void *deep(void *arg) {
    static const char *const shapes[][3] = {
        {"(", "true", ")"},    {"!(", "true", ")"},          {"[", "1", "].size()"},    {"{'a': ", "1", "}.a"},
        {"size([", "1", "])"}, {"[1].map(x, ", "1", ")[0]"}, {"(true ? ", "1", " : 2)"}};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        for (int n = 40; n < 300; n += 10) {
            WORLD(w, CEL_LIB_K8S | CEL_MIXED_LITERALS);
            struct buf b = BUF_INIT;
            for (int k = 0; k < n; k++) buf_adds(&b, shapes[i][0]);
            buf_adds(&b, shapes[i][1]);
            for (int k = 0; k < n; k++) buf_adds(&b, shapes[i][2]);
            value(&w, b.data);
            buf_done(&b);
        }
    return NULL;
}

TEST(deep_expressions_fit_a_request_s_stack) {
    pthread_t t;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 1 << 20);
    REQUIRE(pthread_create(&t, &attr, deep, NULL) == 0);
    CHECK_INT(pthread_join(t, NULL), 0);
    pthread_attr_destroy(&attr);
}
#endif

TEST(types_of_built_in_kinds) {
    WORLD(w, CEL_LIB_K8S);
    const struct api_type *pod = api_type_find("", "v1", "Pod");
    REQUIRE(pod);
    cel_env_var(w.env, "object", cel_type_of_api(w.a, pod));
    const struct cel_prog *p;
    CHECK_INT(cel_compile(w.a, w.env, "object.spec.containers.all(c, c.image.startsWith('x') && c.ports.size() < 3)",
                          &p, &w.message),
              0);
    CHECK(cel_prog_uses(p, "object"));
    CHECK_INT(cel_compile(w.a, w.env, "object.spec.replicas", &p, &w.message), -EINVAL);
    CHECK(strstr(w.message, "undefined field 'replicas'"));
    CHECK_STR(cel_escape(w.a, "a.b/c-d__e"), "a__dot__b__slash__c__dash__d__underscores__e");
    CHECK_STR(cel_unescape(w.a, "a__dot__b__slash__c__dash__d__underscores__e"), "a.b/c-d__e");
    CHECK(!cel_escape(w.a, "a b"));
}
