/* libFuzzer: any text is compiled, in Kubernetes' environment and unchecked; what compiles is evaluated over a small
 * tree with a low limit of cost. The first byte chooses the environment. */
#include "pkg/cel/internal.h"

enum { FUZZ_COST = 20000, FUZZ_MAX = 4096 };

static const char doc[] =
    "{\"a\":[1,2,3],\"s\":\"text\",\"m\":{\"k\":\"v\",\"n\":null},\"d\":1.5,\"b\":true,\"t\":\"2024-01-01T00:00:00Z\"}";
static const char schema[] =
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"}},"
    "\"s\":{\"type\":\"string\"},\"m\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}},"
    "\"d\":{\"type\":\"number\"},\"b\":{\"type\":\"boolean\"},\"t\":{\"type\":\"string\",\"format\":\"date-time\"}}}";

static void run(struct arena *a, const char *text, unsigned libs) {
    struct cel_env *env = cel_env_new(a, libs);
    struct json *v, *s;
    const struct cel_prog *p;
    const char *issues;
    struct cel_val out;
    if (json_parse(a, doc, strlen(doc), &v, NULL, NULL) || json_parse(a, schema, strlen(schema), &s, NULL, NULL))
        abort();
    const struct cel_type *t = cel_type_of_schema(a, s, "selfType", false);
    cel_env_var(env, "self", t);
    cel_env_var(env, "x", &cel_t_dyn);
    struct cel_val vars[] = {cel_json(a, v, t), cel_json(a, v, NULL)};
    struct cel_run r = {.arena = a, .vars = vars, .n_vars = 2, .limit = FUZZ_COST};
    if (cel_compile(a, env, text, &p, &issues)) return;
    struct json *j;
    if (cel_eval(p, &r, &out) == 0) {
        cel_val_text(a, out);
        cel_to_json(a, out, &j, NULL);
        cel_equal(out, out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (n < 1 || n > FUZZ_MAX) return 0;
    struct arena *a = arena_new();
    const char *text = arena_strndup(a, (const char *)p + 1, n - 1);
    unsigned libs = CEL_LIB_K8S | CEL_LIB_JSONPATCH;
    if (p[0] & 1) libs |= CEL_LIB_EXTRA | CEL_MIXED_LITERALS;
    if (p[0] & 2) libs |= CEL_NO_CHECK;
    run(a, text, libs);
    arena_free(a);
    return 0;
}
