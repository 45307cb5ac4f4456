/* Priority and fairness without a server: requests are structs, running them is this file's affair. */
#include "apiserver/flow/internal.h"
#include "tests/test.h"

struct world {
    struct flow *f;
    struct request *ran[4096];
    size_t n_ran, refused;
};

static bool on_dispatch(void *arg, struct request *q) {
    struct world *w = arg;
    w->ran[w->n_ran++] = q;
    return true;
}
static void on_refuse(void *arg, struct request *q, const char *reason) { ((struct world *)arg)->refused++; }

static void feed(struct world *w, bool level, const char *name, const char *text) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = NULL;
    CHECK_INT(json_parse(a, text, strlen(text), &v, NULL, NULL), 0);
    flow_feed(w->f, level, name, v);
}

#define LEVEL(shares, lend, queues, hand, length)                                                  \
    "{\"metadata\":{\"uid\":\"l\"},\"spec\":{\"type\":\"Limited\",\"limited\":{"                   \
    "\"nominalConcurrencyShares\":" shares ",\"lendablePercent\":" lend                            \
    ",\"limitResponse\":{\"type\":\"Queue\",\"queuing\":{\"queues\":" queues ",\"handSize\":" hand \
    ",\"queueLengthLimit\":" length "}}}}}"
#define SCHEMA(precedence, level, subjects, rule)                                \
    "{\"metadata\":{\"uid\":\"s\"},\"spec\":{\"matchingPrecedence\":" precedence \
    ",\"priorityLevelConfiguration\":{\"name\":\"" level                         \
    "\"},\"distinguisherMethod\":{\"type\":\"ByUser\"},\"rules\":[{\"subjects\":[" subjects "]," rule "}]}}"
#define GROUP(name) "{\"kind\":\"Group\",\"group\":{\"name\":\"" name "\"}}"
#define ALL                                                                                                 \
    "\"resourceRules\":[{\"verbs\":[\"*\"],\"apiGroups\":[\"*\"],\"resources\":[\"*\"],\"namespaces\":[\"*" \
    "\"],\"clusterScope\":true}]"

static void start(struct world *w, int seats) {
    struct flow_options o = {.seats = seats, .arg = w, .dispatch = on_dispatch, .refuse = on_refuse};
    *w = (struct world){.f = flow_new(&o)};
}

static struct http_req http = {.path = "/x", .method = "GET"};

static struct request *request_of(const char *user, const char *group) {
    struct request *q = xcalloc(1, sizeof(*q));
    const char **groups = xcalloc(1, sizeof(*groups));
    groups[0] = group;
    *q = (struct request){.http = &http,
                          .is_resource = true,
                          .verb = "create",
                          .group = "",
                          .plural = "pods",
                          .ns = "ns",
                          .user = {.name = user, .groups = groups, .n_groups = 1}};
    return q;
}

static void drop(struct request *q) {
    free(q->user.groups);
    free(q);
}

static const char *schema_of(struct world *w, struct request *q) {
    flow_classify(w->f, q);
    return q->flow.stat->schema;
}

TEST(the_first_schema_in_order_of_precedence_counts) {
    struct world w;
    start(&w, 10);
    feed(&w, true, "l", LEVEL("30", "0", "4", "2", "5"));
    feed(&w, false, "b", SCHEMA("500", "l", GROUP("g"), ALL));
    feed(&w, false, "a",
         SCHEMA("400", "l", GROUP("g"),
                "\"resourceRules\":[{\"verbs\":[\"get\"],\"apiGroups\":[\"\"],\"resources\":[\"pods/log\",\"nodes\"],"
                "\"namespaces\":[\"ns\"]}]"));
    struct request *q = request_of("u", "g");
    CHECK_STR(schema_of(&w, q), "b");
    q->verb = "get";
    q->subresource = "log";
    CHECK_STR(schema_of(&w, q), "a");
    q->ns = "other";
    CHECK_STR(schema_of(&w, q), "b");
    q->user.groups[0] = "nobody";
    CHECK_STR(schema_of(&w, q), "catch-all");
    CHECK_STR(q->flow.level->name, "catch-all");
    flow_feed(w.f, false, "b", NULL);
    drop(q);
    flow_free(w.f);
}

TEST(service_accounts_and_paths_match) {
    struct world w;
    start(&w, 10);
    feed(&w, true, "l", LEVEL("30", "0", "4", "2", "5"));
    feed(
        &w, false, "sa",
        SCHEMA("1", "l",
               "{\"kind\":\"ServiceAccount\",\"serviceAccount\":{\"namespace\":\"kube-system\",\"name\":\"*\"}}", ALL));
    feed(&w, false, "paths",
         SCHEMA("2", "l", GROUP("*"),
                "\"nonResourceRules\":[{\"verbs\":[\"get\"],\"nonResourceURLs\":[\"/x\",\"/healthz/*\"]}]"));
    struct request *q = request_of("system:serviceaccount:kube-system:x", "g");
    CHECK_STR(schema_of(&w, q), "sa");
    q->user.name = "system:serviceaccount:kube-systems:x";
    CHECK_STR(schema_of(&w, q), "catch-all");
    q->is_resource = false;
    q->verb = "get";
    CHECK_STR(schema_of(&w, q), "paths");
    drop(q);
    flow_free(w.f);
}

TEST(a_level_borrows_what_others_lend_and_no_more) {
    struct world w;
    struct request *q[16];
    start(&w, 10);
    flow_feed(w.f, true, "catch-all", NULL); /* stays: it is mandatory */
    feed(&w, true, "lender", LEVEL("50", "50", "4", "2", "50"));
    feed(&w, true, "other", LEVEL("45", "0", "4", "2", "50"));
    feed(&w, false, "o", SCHEMA("1", "other", GROUP("g"), ALL));
    int running = 0;
    for (int i = 0; i < 16; i++) {
        q[i] = request_of("u", "g");
        flow_classify(w.f, q[i]);
        running += flow_enter(w.f, q[i], 1) == FLOW_RUN;
    }
    /* 10 seats: 5 are other's; lender's 5 lend 2 (it keeps 3); catch-all's 1 is kept */
    CHECK_INT(running, 6);
    for (int i = 0; i < 6; i++) flow_leave(w.f, &q[i]->flow);
    CHECK_INT(w.n_ran, 6); /* and as many follow */
    for (size_t i = 0; i < w.n_ran && i < 16; i++) flow_leave(w.f, &w.ran[i]->flow);
    CHECK_INT(w.n_ran, 10);
    CHECK(!flow_waiting(w.f));
    for (int i = 0; i < 16; i++) drop(q[i]);
    flow_free(w.f);
}

/* A user with 40 requests waiting, then one with 4: the second does not wait for the first. */
TEST(a_flood_of_one_flow_does_not_hold_up_another) {
    struct world w;
    struct request *q[45];
    start(&w, 1);
    feed(&w, true, "l", LEVEL("1", "0", "64", "6", "50"));
    feed(&w, false, "s", SCHEMA("1", "l", GROUP("g"), ALL));
    for (int i = 0; i < 45; i++) {
        q[i] = request_of(i < 41 ? "flood" : "small", "g");
        flow_classify(w.f, q[i]);
        CHECK_INT(flow_enter(w.f, q[i], 1), i ? FLOW_WAITS : FLOW_RUN);
    }
    flow_leave(w.f, &q[0]->flow);
    size_t small = 0, when_done = 0;
    for (size_t i = 0; i < w.n_ran; i++) { /* each that runs ends and lets in the next */
        if (str_eq(w.ran[i]->user.name, "small") && ++small == 4) when_done = i;
        flow_leave(w.f, &w.ran[i]->flow);
    }
    CHECK_INT(w.n_ran, 44);
    CHECK_INT(small, 4);
    CHECK(when_done < 30); /* in turn with the flood's six queues; behind it, it would be 43 */
    for (int i = 0; i < 45; i++) drop(q[i]);
    flow_free(w.f);
}

TEST(full_queues_refuse) {
    struct world w;
    struct request *q[100];
    size_t refused = 0;
    start(&w, 1);
    feed(&w, true, "l", LEVEL("1", "0", "1", "1", "10"));
    feed(&w, false, "s", SCHEMA("1", "l", GROUP("g"), ALL));
    for (int i = 0; i < 100; i++) {
        q[i] = request_of("u", "g");
        flow_classify(w.f, q[i]);
        refused += flow_enter(w.f, q[i], 1) == FLOW_REFUSED;
    }
    CHECK_INT(refused, 89);
    flow_leave(w.f, &q[0]->flow);
    for (size_t i = 0; i < w.n_ran; i++) flow_leave(w.f, &w.ran[i]->flow);
    CHECK_INT(w.n_ran, 10);
    for (int i = 0; i < 100; i++) drop(q[i]);
    flow_free(w.f);
}

TEST(wide_requests_take_as_many_seats) {
    struct world w;
    start(&w, 8);
    flow_feed(w.f, true, "catch-all", NULL);
    feed(&w, true, "l", LEVEL("35", "0", "4", "2", "50"));
    feed(&w, false, "s", SCHEMA("1", "l", GROUP("g"), ALL));
    struct request *a = request_of("u", "g"), *b = request_of("u", "g"), *c = request_of("v", "g");
    flow_classify(w.f, a);
    flow_classify(w.f, b);
    flow_classify(w.f, c);
    CHECK_INT(flow_enter(w.f, a, 6), FLOW_RUN);
    CHECK_INT(flow_enter(w.f, b, 6), FLOW_WAITS);
    CHECK_INT(flow_enter(w.f, c, 1), FLOW_WAITS); /* does not overtake it */
    flow_leave(w.f, &a->flow);
    CHECK_INT(w.n_ran, 2);
    flow_leave(w.f, &b->flow);
    flow_leave(w.f, &c->flow);
    CHECK_INT(a->flow.level->in_use, 0);
    drop(a);
    drop(b);
    drop(c);
    flow_free(w.f);
}
