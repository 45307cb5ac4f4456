/* The allocator, case by case: what drivers offer, what is taken already, what is asked for, and what comes out of it. */
#include "alloc.h"

#include "pkg/api/meta.h"
#include "tests/test.h"

enum { LIST_MAX = 6 };

struct alloc_case {
    const char *name;
    const char *slices[LIST_MAX];  /* spec of each; named s0, s1, ... */
    const char *classes[LIST_MAX]; /* {"metadata":{"name"},"spec"} */
    const char *taken[LIST_MAX];   /* allocation results of other claims: {"results":[...]} */
    const char *claims[LIST_MAX];  /* spec.devices of each */
    const char *want;              /* "req=device ..." a claim, separated by " | "; "none"; "error: ..." */
    const char *node;              /* NULL: n1 */
};

#define POOL(name) "\"driver\":\"d.io\",\"pool\":{\"name\":\"" name "\",\"generation\":1,\"resourceSliceCount\":1}"
#define PART(name, gen, count) \
    "\"driver\":\"d.io\",\"pool\":{\"name\":\"" name "\",\"generation\":" #gen ",\"resourceSliceCount\":" #count "}"
#define LOCAL(...) "{" POOL("p") ",\"nodeName\":\"n1\",\"devices\":[" __VA_ARGS__ "]}"
#define DEV(name) "{\"name\":\"" name "\"}"
#define ATTR(name, attr) "{\"name\":\"" name "\",\"attributes\":{" attr "}}"
#define ASK(n) "{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":" #n "}"
#define REQ(name, n) "{\"name\":\"" name "\",\"exactly\":" ASK(n) "}"
#define REQS(...) "{\"requests\":[" __VA_ARGS__ "]}"
#define SELECT(cel) "\"selectors\":[{\"cel\":{\"expression\":\"" cel "\"}}]"
#define ANY "{\"metadata\":{\"name\":\"any\"},\"spec\":{}}"
#define TAKEN(dev) "{\"results\":[{\"request\":\"r\",\"driver\":\"d.io\",\"pool\":\"p\",\"device\":\"" dev "\"}]}"
#define ALL_OF(name) "{\"name\":\"" name "\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"All\"}}"
#define CARD(name, counters) \
    "{\"name\":\"" name "\",\"consumesCounters\":[{\"counterSet\":\"card\",\"counters\":{" counters "}}]}"

static const struct alloc_case cases[] = {
    {"one device of the node", {LOCAL(DEV("a") "," DEV("b"))}, {ANY}, {0}, {REQS(REQ("r", 1))}, "r=a"},
    {"two devices for one request", {LOCAL(DEV("a") "," DEV("b"))}, {ANY}, {0}, {REQS(REQ("r", 2))}, "r=a r=b"},
    {"more than there are", {LOCAL(DEV("a"))}, {ANY}, {0}, {REQS(REQ("r", 2))}, "none"},
    {"what is taken is not given again",
     {LOCAL(DEV("a") "," DEV("b"))},
     {ANY},
     {TAKEN("a")},
     {REQS(REQ("r", 1))},
     "r=b"},
    {"two claims of a pod share nothing",
     {LOCAL(DEV("a") "," DEV("b"))},
     {ANY},
     {0},
     {REQS(REQ("r", 1)), REQS(REQ("q", 1))},
     "r=a | q=b"},
    {"a slice of another node", {LOCAL(DEV("a"))}, {ANY}, {0}, {REQS(REQ("r", 1))}, "none", "n2"},
    {"a slice of all nodes",
     {"{" POOL("p") ",\"allNodes\":true,\"devices\":[" DEV("net") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=net",
     "n2"},
    {"a slice of nodes with a label",
     {"{" POOL(
         "p") ",\"nodeSelector\":{\"nodeSelectorTerms\":[{\"matchExpressions\":[{\"key\":\"zone\",\"operator\":\"In\","
              "\"values\":[\"z1\"]}]}]},\"devices\":[" DEV("net") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=net on zone In z1"},
    {"each device says its nodes",
     {"{" POOL(
         "p") ",\"perDeviceNodeSelection\":true,\"devices\":[{\"name\":\"x\",\"nodeName\":\"n2\"},{\"name\":\"y\","
              "\"nodeName\":\"n1\"}]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=y on metadata.name In n1"},
    {"the class selects",
     {LOCAL(ATTR("a", "\"kind\":{\"string\":\"x\"}") "," ATTR("b", "\"kind\":{\"string\":\"y\"}"))},
     {"{\"metadata\":{\"name\":\"any\"},\"spec\":{" SELECT("device.attributes['d.io'].kind == 'y'") "}}"},
     {0},
     {REQS(REQ("r", 1))},
     "r=b"},
    {"the request selects by capacity, version and driver",
     {LOCAL(
         "{\"name\":\"a\",\"capacity\":{\"mem\":{\"value\":\"1Gi\"}},\"attributes\":{\"v\":{\"version\":\"1.2.3\"}}},"
         "{\"name\":\"b\",\"capacity\":{\"mem\":{\"value\":\"2Gi\"}},\"attributes\":{\"v\":{\"version\":\"2.0.0\"}}}")},
     {ANY},
     {0},
     {REQS(
         "{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1," SELECT(
             "device.driver == 'd.io' && device.capacity['d.io'].mem.compareTo(quantity('1500Mi')) > 0 && "
             "device.attributes['d.io'].v.isGreaterThan(semver('1.9.0'))") "}}")},
     "r=b"},
    {"a domain that no device has is empty",
     {LOCAL(DEV("a"))},
     {ANY},
     {0},
     {REQS(
         "{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1," SELECT(
             "!('x.io' in device.attributes) && !has(device.attributes['x.io'].y)") "}}")},
     "r=a"},
    {"an attribute that is not there is an error",
     {LOCAL(DEV("a"))},
     {"{\"metadata\":{\"name\":\"any\"},\"spec\":{" SELECT("device.attributes['d.io'].nope == 1") "}}"},
     {0},
     {REQS(REQ("r", 1))},
     "error: class any: selector #0: CEL runtime error: no such key: nope"},
    {"all devices", {LOCAL(DEV("a") "," DEV("b"))}, {ANY}, {0}, {REQS(ALL_OF("r"))}, "r=a r=b"},
    {"all devices, one taken", {LOCAL(DEV("a") "," DEV("b"))}, {ANY}, {TAKEN("b")}, {REQS(ALL_OF("r"))}, "none"},
    {"all of no devices", {LOCAL("")}, {ANY}, {0}, {REQS(ALL_OF("r"))}, "none"},
    {"all devices of a pool that is being replaced",
     {"{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" DEV("a") "]}"},
     {ANY},
     {0},
     {REQS(ALL_OF("r"))},
     "error: claim ns/c0, request r: asks for all devices, but resource pool d.io/p is currently being updated"},
    {"nothing from a pool that is being replaced",
     {"{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" DEV("a") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "none"},
    {"the newest generation counts",
     {"{" PART("p", 1, 1) ",\"nodeName\":\"n1\",\"devices\":[" DEV("old") "]}",
      "{" PART("p", 2, 1) ",\"nodeName\":\"n1\",\"devices\":[" DEV("new") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=new"},
    {"a newer generation has nothing for this node",
     {"{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" DEV("old") "]}",
      "{" PART("p", 2, 1) ",\"nodeName\":\"n2\",\"devices\":[" DEV("new") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "none"},
    {"two devices of one name make a pool invalid",
     {"{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" DEV("a") "]}",
      "{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" DEV("a") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "waits: invalid resource pools were encountered"},
    {"the first alternative that there is",
     {LOCAL(DEV("a"))},
     {ANY},
     {0},
     {REQS(
         "{\"name\":\"r\",\"firstAvailable\":[{\"name\":\"two\",\"deviceClassName\":\"any\",\"allocationMode\":"
         "\"ExactCount\",\"count\":2},{\"name\":\"one\",\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\","
         "\"count\":1}]}")},
     "r/one=a"},
    {"a later request makes an earlier one take less",
     {LOCAL(DEV("a") "," DEV("b"))},
     {ANY},
     {0},
     {REQS(
         "{\"name\":\"r\",\"firstAvailable\":[{\"name\":\"two\",\"deviceClassName\":\"any\",\"allocationMode\":"
         "\"ExactCount\",\"count\":2},{\"name\":\"one\",\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\","
         "\"count\":1}]}," REQ("q", 1))},
     "r/one=a q=b"},
    {"devices of equal attribute",
     {LOCAL(ATTR("a", "\"numa\":{\"int\":0}") "," ATTR("b", "\"numa\":{\"int\":1}") "," ATTR("c",
                                                                                             "\"numa\":{\"int\":1}"))},
     {ANY},
     {0},
     {"{\"requests\":[" REQ("r", 1) "," REQ("q", 1) "],\"constraints\":[{\"matchAttribute\":\"d.io/numa\"}]}"},
     "r=b q=c"},
    {"a constraint of some requests",
     {LOCAL(ATTR("a", "\"numa\":{\"int\":0}") "," ATTR("b", "\"numa\":{\"int\":1}"))},
     {ANY},
     {0},
     {"{\"requests\":[" REQ("r", 1) "," REQ("q",
                                            1) "],\"constraints\":[{\"requests\":[\"q\"],\"matchAttribute\":\"d.io/"
                                               "numa\"}]}"},
     "r=a q=b"},
    {"devices without the attribute of a constraint",
     {LOCAL(DEV("a"))},
     {ANY},
     {0},
     {"{\"requests\":[" REQ("r", 1) "],\"constraints\":[{\"matchAttribute\":\"d.io/numa\"}]}"},
     "none"},
    {"devices of different attribute",
     {LOCAL(ATTR("a", "\"card\":{\"string\":\"x\"}") "," ATTR("b", "\"card\":{\"string\":\"x\"}") "," ATTR(
         "c", "\"card\":{\"string\":\"y\"}"))},
     {ANY},
     {0},
     {"{\"requests\":[" REQ("r", 2) "],\"constraints\":[{\"distinctAttribute\":\"d.io/card\"}]}"},
     "r=a r=c"},
    {"all devices against a constraint",
     {LOCAL(ATTR("a", "\"numa\":{\"int\":0}") "," ATTR("b", "\"numa\":{\"int\":1}"))},
     {ANY},
     {0},
     {"{\"requests\":[" ALL_OF("r") "],\"constraints\":[{\"matchAttribute\":\"d.io/numa\"}]}"},
     "error: claim ns/c0, request r: cannot add device d.io/p/b because a claim constraint would not be satisfied"},
    {"a tainted device",
     {LOCAL("{\"name\":\"a\",\"taints\":[{\"key\":\"k\",\"effect\":\"NoSchedule\"}]}," DEV("b"))},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=b"},
    {"a taint without effect",
     {LOCAL("{\"name\":\"a\",\"taints\":[{\"key\":\"k\",\"effect\":\"None\"}]}")},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=a"},
    {"a taint that is tolerated",
     {LOCAL("{\"name\":\"a\",\"taints\":[{\"key\":\"k\",\"value\":\"v\",\"effect\":\"NoExecute\"}]}")},
     {ANY},
     {0},
     {REQS("{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1,"
           "\"tolerations\":[{\"key\":\"k\",\"operator\":\"Exists\"}]}}")},
     "r=a"},
    {"administrators see what is taken, once",
     {LOCAL(DEV("a"))},
     {ANY},
     {TAKEN("a")},
     {REQS("{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1,"
           "\"adminAccess\":true}}")},
     "r=a(admin)"},
    {"administrators take nothing",
     {LOCAL(DEV("a"))},
     {ANY},
     {"{\"results\":[{\"request\":\"r\",\"driver\":\"d.io\",\"pool\":\"p\",\"device\":\"a\",\"adminAccess\":true}]}"},
     {REQS(REQ("r", 1))},
     "r=a"},
    {"partitions share the counters of their card",
     {"{" PART("p", 1,
               2) ",\"nodeName\":\"n1\",\"sharedCounters\":[{\"name\":\"card\",\"counters\":{\"mem\":{\"value\":"
                  "\"4Gi\"}}}]}",
      "{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" CARD("big", "\"mem\":{\"value\":\"4Gi\"}") "," CARD(
          "half-0", "\"mem\":{\"value\":\"2Gi\"}") "," CARD("half-1", "\"mem\":{\"value\":\"2Gi\"}") "]}"},
     {ANY},
     {TAKEN("half-0")},
     {REQS(REQ("r", 1))},
     "r=half-1"},
    {"counters are spent within a claim too",
     {"{" PART("p", 1,
               2) ",\"nodeName\":\"n1\",\"sharedCounters\":[{\"name\":\"card\",\"counters\":{\"mem\":{\"value\":"
                  "\"4Gi\"}}}]}",
      "{" PART("p", 1, 2) ",\"nodeName\":\"n1\",\"devices\":[" CARD("big", "\"mem\":{\"value\":\"4Gi\"}") "," CARD(
          "half-0", "\"mem\":{\"value\":\"2Gi\"}") "," CARD("half-1", "\"mem\":{\"value\":\"2Gi\"}") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 2))},
     "r=half-0 r=half-1"},
    {"a counter that is not declared makes the pool invalid",
     {LOCAL(CARD("a", "\"mem\":{\"value\":\"1\"}"))},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "waits: invalid resource pools were encountered"},
    {"a shared device is given in parts",
     {LOCAL(
         "{\"name\":\"a\",\"allowMultipleAllocations\":true,\"capacity\":{\"bw\":{\"value\":\"10\",\"requestPolicy\":{"
         "\"default\":\"1\",\"validRange\":{\"min\":\"1\",\"step\":\"2\"}}}}}")},
     {ANY},
     {"{\"results\":[{\"request\":\"r\",\"driver\":\"d.io\",\"pool\":\"p\",\"device\":\"a\",\"shareID\":\"x\","
      "\"consumedCapacity\":{\"bw\":\"5\"}}]}"},
     {REQS("{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1,"
           "\"capacity\":{\"requests\":{\"bw\":\"4\"}}}}")},
     "r=a(bw=5)"},
    {"a shared device has no more to give",
     {LOCAL("{\"name\":\"a\",\"allowMultipleAllocations\":true,\"capacity\":{\"bw\":{\"value\":\"10\"}}}")},
     {ANY},
     {"{\"results\":[{\"request\":\"r\",\"driver\":\"d.io\",\"pool\":\"p\",\"device\":\"a\",\"shareID\":\"x\","
      "\"consumedCapacity\":{\"bw\":\"8\"}}]}"},
     {REQS("{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1,"
           "\"capacity\":{\"requests\":{\"bw\":\"4\"}}}}")},
     "none"},
    {"two shares for one pod",
     {LOCAL(
         "{\"name\":\"a\",\"allowMultipleAllocations\":true,\"capacity\":{\"bw\":{\"value\":\"10\",\"requestPolicy\":{"
         "\"default\":\"4\"}}}}")},
     {ANY},
     {0},
     {REQS(REQ("r", 1) "," REQ("q", 1))},
     "r=a(bw=4) q=a(bw=4)"},
    {"a capacity that the device does not have",
     {LOCAL(DEV("a"))},
     {ANY},
     {0},
     {REQS("{\"name\":\"r\",\"exactly\":{\"deviceClassName\":\"any\",\"allocationMode\":\"ExactCount\",\"count\":1,"
           "\"capacity\":{\"requests\":{\"bw\":\"4\"}}}}")},
     "none"},
    {"more devices than a result can hold",
     {LOCAL(DEV("a"))},
     {ANY},
     {0},
     {REQS(REQ("r", 33))},
     "error: claim ns/c0: number of requested devices 33 exceeds the claim limit of 32"},
    {"devices with binding conditions come last",
     {"{" POOL("a") ",\"nodeName\":\"n1\",\"devices\":[{\"name\":\"slow\",\"bindingConditions\":[\"x.io/up\"],"
                    "\"bindingFailureConditions\":[\"x.io/down\"]}]}",
      "{" POOL("b") ",\"nodeName\":\"n1\",\"devices\":[" DEV("fast") "]}"},
     {ANY},
     {0},
     {REQS(REQ("r", 1))},
     "r=fast"},
    {"a class that is not there",
     {LOCAL(DEV("a"))},
     {0},
     {0},
     {REQS(REQ("r", 1))},
     "error: claim ns/c0, request r: could not retrieve device class any"},
    {"configuration of class and claim",
     {LOCAL(DEV("a") "," DEV("b"))},
     {"{\"metadata\":{\"name\":\"any\"},\"spec\":{\"config\":[{\"opaque\":{\"driver\":\"d.io\",\"parameters\":{}}}]}}"},
     {0},
     {"{\"requests\":[" REQ("r", 1) "," REQ(
         "q", 1) "],\"config\":[{\"opaque\":{\"driver\":\"d.io\",\"parameters\":{}}},{"
                 "\"requests\":[\"q\"],\"opaque\":{\"driver\":\"d.io\",\"parameters\":{}}}]}"},
     "r=a q=b FromClass[r,q] FromClaim[] FromClaim[q]"},
};

static struct object *object_of(const struct client_resource *r, const char *json) {
    struct arena *a = arena_new();
    void *obj = arena_zalloc(a, r->type->size);
    _cleanup_err_ struct err e = {0};
    if (api_from_json(a, r->type, json, strlen(json), obj, &e) < 0) {
        fprintf(stderr, "%s: %s\n", json, e.msg);
        abort();
    }
    struct object *o = object_new(r, obj);
    arena_free(a);
    return o;
}

struct classes {
    struct object *items[LIST_MAX];
    size_t n;
};

static const struct resource_device_class *class_of(void *arg, const char *name) {
    struct classes *c = arg;
    for (size_t i = 0; i < c->n; i++)
        if (str_eq(c->items[i]->meta->name, name)) return c->items[i]->obj;
    return NULL;
}

static void show(struct arena *a, struct buf *b, const struct resource_allocation_result *r) {
    for (size_t i = 0; i < r->devices.results.n; i++) {
        const struct resource_device_request_allocation_result *d = &r->devices.results.items[i];
        buf_printf(b, "%s%s=%s", i ? " " : "", d->request, d->device);
        if (d->admin_access) buf_adds(b, "(admin)");
        for (size_t k = 0; d->share_id && k < d->consumed_capacity.n; k++)
            buf_printf(b, "(%s=%s)", d->consumed_capacity.items[k].key, d->consumed_capacity.items[k].value);
    }
    for (size_t i = 0; i < r->devices.config.n; i++) {
        const struct resource_device_allocation_configuration *c = &r->devices.config.items[i];
        buf_printf(b, " %s[", c->source);
        for (size_t k = 0; k < c->requests.n; k++) buf_printf(b, "%s%s", k ? "," : "", c->requests.items[k]);
        buf_adds(b, "]");
    }
}

/* Where the device can be used is said only when it is not this node by the slice's name. */
static void show_selector(struct buf *b, const struct alloc_case *k, const struct core_node_selector *s) {
    if (!s || strstr(k->slices[0], "\"nodeName\":\"n1\",\"devices\"") || strstr(k->slices[0], "sharedCounters")) return;
    const struct core_node_selector_term *t = &s->node_selector_terms.items[0];
    const struct core_node_selector_requirement_vec *v[] = {&t->match_fields, &t->match_expressions};
    for (size_t i = 0; i < 2; i++)
        for (size_t m = 0; m < v[i]->n; m++)
            buf_printf(b, " on %s %s %s", v[i]->items[m].key, v[i]->items[m].operator, v[i]->items[m].values.items[0]);
}

static const char *run_case(struct arena *a, struct dra *d, struct classes *cl, const struct alloc_case *k) {
    struct object *claims[LIST_MAX];
    const struct resource_resource_claim *specs[LIST_MAX];
    size_t n = 0;
    struct buf b = BUF_INIT;
    _cleanup_err_ struct err e = {0};
    for (; n < LIST_MAX && k->claims[n]; n++) {
        claims[n] = object_of(&client_resourceclaims,
                              arena_printf(a,
                                           "{\"metadata\":{\"name\":\"c%zu\",\"namespace\":\"ns\"},\"spec\":{"
                                           "\"devices\":%s}}",
                                           n, k->claims[n]));
        specs[n] = claims[n]->obj;
    }
    struct object *node = object_of(&client_nodes, arena_printf(a,
                                                                "{\"metadata\":{\"name\":\"%s\",\"labels\":{\"zone\":"
                                                                "\"z1\"}}}",
                                                                k->node ? k->node : "n1"));
    struct alloc *x;
    struct resource_allocation_result *out = NULL;
    int r = alloc_new(a, d, specs, n, class_of, cl, &x, &e);
    if (r == 0) r = alloc_on_node(x, node->obj, 0, &out, &e);
    if (r == 0) buf_adds(&b, "none");
    if (r < 0) buf_printf(&b, "%s: %s", r == ALLOC_WAITS ? "waits" : "error", e.msg);
    for (size_t i = 0; r == 1 && i < n; i++) {
        if (i) buf_adds(&b, " | ");
        show(a, &b, &out[i]);
        show_selector(&b, k, out[i].node_selector);
    }
    const char *text = arena_strndup(a, b.data, b.len);
    buf_done(&b);
    for (size_t i = 0; i < n; i++) object_unref(claims[i]);
    object_unref(node);
    return text;
}

TEST(what_is_offered_taken_and_asked_for_gives_the_allocation) {
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct alloc_case *k = &cases[i];
        _cleanup_arena_ struct arena *a = arena_new();
        struct dra d;
        struct classes cl = {.n = 0};
        dra_init(&d);
        for (size_t s = 0; s < LIST_MAX && k->slices[s]; s++) {
            struct object *o =
                object_of(&client_resourceslices,
                          arena_printf(a, "{\"metadata\":{\"name\":\"s%zu\"},\"spec\":%s}", s, k->slices[s]));
            dra_slice_set(&d, o);
            object_unref(o);
        }
        for (; cl.n < LIST_MAX && k->classes[cl.n]; cl.n++)
            cl.items[cl.n] = object_of(&client_deviceclasses, k->classes[cl.n]);
        for (size_t t = 0; t < LIST_MAX && k->taken[t]; t++) {
            struct object *o =
                object_of(&client_resourceclaims,
                          arena_printf(a,
                                       "{\"metadata\":{\"name\":\"t%zu\",\"namespace\":\"ns\",\"uid\":\"u%zu\"},"
                                       "\"status\":{\"allocation\":{\"devices\":%s}}}",
                                       t, t, k->taken[t]));
            dra_claim_set(&d, o);
            object_unref(o);
        }
        const char *got = run_case(a, &d, &cl, k);
        if (!str_eq(got, k->want)) fprintf(stderr, "case: %s\n", k->name);
        CHECK_STR(got, k->want);
        for (size_t c = 0; c < cl.n; c++) object_unref(cl.items[c]);
        dra_done(&d);
    }
}

static struct object *claim_version(const char *uid, const char *rv, const char *status) {
    _cleanup_arena_ struct arena *a = arena_new();
    return object_of(
        &client_resourceclaims,
        arena_printf(a,
                     "{\"metadata\":{\"name\":\"c\",\"namespace\":\"ns\",\"uid\":\"%s\",\"resourceVersion\":"
                     "\"%s\"},\"status\":{%s}}",
                     uid, rv, status));
}

static uint32_t taken(struct dra *d, const char *id) {
    struct dra_use *u = map_get(&d->uses, id);
    return u ? u->whole : 0;
}

TEST(claims_take_and_free_devices_as_their_versions_come_in) {
    static const char alloc_x[] =
        "\"allocation\":{\"devices\":{\"results\":[{\"request\":\"r\",\"driver\":\"d.io\","
        "\"pool\":\"p\",\"device\":\"x\"}]}}";
    struct dra d;
    dra_init(&d);
    struct object *bare = claim_version("u", "5", ""), *full = claim_version("u", "7", alloc_x),
                  *freed = claim_version("u", "9", ""), *other = claim_version("v", "11", "");
    CHECK(dra_claim_set(&d, bare));
    const struct resource_resource_claim *k = full->obj;
    dra_claim_pend(&d, "ns/c", k->status.allocation);
    CHECK_INT(taken(&d, "d.io/p/x"), 1);
    CHECK(dra_claim_unpend(&d, "ns/c"));
    CHECK_INT(taken(&d, "d.io/p/x"), 0);
    dra_claim_pend(&d, "ns/c", k->status.allocation);
    CHECK(!dra_claim_set(&d, full)); /* written: still taken once */
    CHECK_INT(taken(&d, "d.io/p/x"), 1);
    CHECK(!dra_claim_unpend(&d, "ns/c"));
    CHECK(!dra_claim_set(&d, bare)); /* an old version from the informer */
    CHECK_INT(taken(&d, "d.io/p/x"), 1);
    CHECK(dra_claim_set(&d, freed));
    CHECK_INT(taken(&d, "d.io/p/x"), 0);
    dra_claim_set(&d, full);
    CHECK(!dra_claim_gone(&d, "ns/c", "w"));
    CHECK(!dra_claim_set(&d, other)); /* another claim of the name */
    CHECK_INT(taken(&d, "d.io/p/x"), 0);
    CHECK(!dra_claim_gone(&d, "ns/c", "v"));
    CHECK_INT(d.claims.n, 0);
    CHECK_INT(d.uses.n, 0);
    struct object *all[] = {bare, full, freed, other};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) object_unref(all[i]);
    dra_done(&d);
}
