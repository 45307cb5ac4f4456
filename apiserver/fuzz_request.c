/* libFuzzer: what a request says: four lines with the target, the Accept header, and a label and a field selector. URLs
 * must be read without harm; a selector that is accepted matches, and copies, without harm. */
#include "apiserver/options.h"
#include "apiserver/selector.h"
#include "pkg/http/internal.h"

static struct {
    struct apiserver s;
    const struct resource *pods;
    struct object *pod;
} world;

static void set_up(void) {
    static const char text[] =
        "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"p\",\"namespace\":\"n\","
        "\"labels\":{\"app\":\"web\",\"tier\":\"7\",\"a.b/c\":\"\"}},\"spec\":{\"nodeName\":\"x\"},"
        "\"status\":{\"phase\":\"Running\"}}";
    world.s.resources = resource_table_new();
    world.pods = resource_find(world.s.resources, "", "v1", "pods");
    world.pod = object_new(world.pods, "n/p", text, sizeof(text) - 1, 1, 2);
    if (!world.pod) abort();
}

static void read_url(struct arena *a, const char *target, const char *accept) {
    static const char *const methods[] = {"GET", "POST", "DELETE", "PATCH"};
    struct hreq r = {.pub = {.arena = a, .target = target}};
    struct http_header h[] = {{"accept", accept}};
    r.pub.headers = h;
    r.pub.n_headers = 1;
    hreq_split_target(&r);
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        bool dry;
        int64_t limit;
        r.pub.method = methods[i];
        struct request *q = request_new(&world.s, &r.pub);
        options_check(q, "PatchOptions", &dry, NULL);
        request_query_int(q, "limit", 0, &limit, NULL);
        request_manager(q);
        if (q->is_resource && !q->plural) abort();
    }
}

static void select_pods(struct arena *a, const char *labels, const char *fields) {
    struct selector sel;
    _cleanup_err_ struct err e = {0};
    if (selector_parse(a, world.pods, labels, fields, &sel, &e)) {
        if (!e.status) abort(); /* an API error, always */
        return;
    }
    struct selector *copy = selector_dup(&sel);
    if (selector_match(&sel, world.pod) != selector_match(copy, world.pod)) abort();
    selector_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (!world.pod) set_up();
    if (memchr(p, 0, n)) return 0; /* HTTP has none */
    struct arena *a = arena_new();
    char *text = arena_strndup(a, (const char *)p, n), *lines[4] = {(char *)"", (char *)"", (char *)"", (char *)""};
    for (size_t i = 0; i < 4 && text; i++) lines[i] = strsep(&text, "\n");
    read_url(a, lines[0], lines[1]);
    select_pods(a, lines[2], lines[3]);
    arena_free(a);
    return 0;
}
