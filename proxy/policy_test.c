#include "proxy/policy.h"

#include "pkg/json/json.h"
#include "pkg/yaml/yaml.h"
#include "tests/test.h"

enum { MAX = 16 };

/* A world of one namespace each "a" (team=x) and "b", written as YAML: pods and policies. */
struct fixture {
    struct arena *a;
    const struct core_pod *pods[MAX];
    const struct networking_network_policy *policies[MAX];
    const struct core_namespace *namespaces[MAX];
    struct policy_world w;
};

static void *decode(struct arena *a, const struct api_type *t, const struct json *doc) {
    void *obj = arena_zalloc(a, t->size);
    const char *text = json_text(a, doc);
    if (api_from_json(a, t, text, strlen(text), obj, NULL)) TEST_FAIL("not decoded: %s", text);
    return obj;
}

static struct fixture *fixture_new(const char *yaml) {
    struct arena *a = arena_new();
    struct fixture *f = arena_zalloc(a, sizeof(*f));
    struct yaml_docs docs = {0};
    f->a = a;
    f->w = (struct policy_world){.node = "me", .policies = f->policies, .pods = f->pods, .namespaces = f->namespaces};
    if (yaml_parse(a, yaml, strlen(yaml), &docs, NULL, NULL)) TEST_FAIL("no YAML: %s", yaml);
    for (size_t i = 0; i < docs.n; i++) {
        const char *kind = json_get_str(docs.items[i], "kind");
        if (str_eq(kind, "Pod"))
            f->pods[f->w.n_pods++] = decode(a, &api_core_pod, docs.items[i]);
        else if (str_eq(kind, "Namespace"))
            f->namespaces[f->w.n_namespaces++] = decode(a, &api_core_namespace, docs.items[i]);
        else
            f->policies[f->w.n_policies++] = decode(a, &api_networking_network_policy, docs.items[i]);
    }
    return f;
}

#define POD(ns, name, labels, ip, node)                                        \
    "kind: Pod\nmetadata: {namespace: " ns ", name: " name ", labels: " labels \
    "}\n"                                                                      \
    "spec: {nodeName: " node                                                   \
    ", containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}\nstatus: {podIP: " ip "}\n---\n"
#define WORLD                                                                                                        \
    "kind: Namespace\nmetadata: {name: a, labels: {team: x}}\n---\nkind: Namespace\nmetadata: {name: b}\n---\n" POD( \
        "a", "web", "{app: web}", "10.0.0.1", "me") POD("a", "db", "{app: db}", "10.0.0.2", "me")                    \
        POD("b", "web", "{app: web}", "10.0.1.1", "other")
#define POLICY(selector, rest) \
    "kind: NetworkPolicy\nmetadata: {namespace: a, name: p}\nspec:\n  podSelector: " selector "\n" rest "---\n"

static char *text_of(struct fixture *f) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    policy_text(&f->w, &b);
    return arena_strdup(f->a, b.data);
}

static bool says(const char *yaml, const char *what) {
    struct fixture *f = fixture_new(yaml);
    const char *text = text_of(f);
    bool yes = strstr(text, what);
    if (!yes) printf("%s\n", text);
    arena_free(f->a);
    return yes;
}

TEST(without_policies_there_is_no_table) {
    struct fixture *f = fixture_new(WORLD);
    CHECK_STR(text_of(f), "table ip coracle_policy\ndelete table ip coracle_policy\n");
    arena_free(f->a);
}

TEST(selected_pods_of_this_node_are_isolated) {
    const char *deny = WORLD POLICY("{}", "  policyTypes: [Ingress]\n");
    CHECK(says(deny, "chain ingress_0 {\n    drop\n  }"));
    CHECK(says(deny, "elements = { 10.0.0.1 : jump ingress_0, 10.0.0.2 : jump ingress_0 }"));
    CHECK(says(deny, "elements = { 10.0.0.1 . 10.0.0.1, 10.0.0.2 . 10.0.0.2 }"));
    CHECK(says(deny, "map egress {\n    type ipv4_addr : verdict\n  }"));
    CHECK(says(WORLD POLICY("{matchLabels: {app: db}}", "  policyTypes: [Egress]\n"),
               "elements = { 10.0.0.2 : jump egress_0 }"));
}

TEST(peers_are_pods_namespaces_and_blocks) {
    CHECK(says(WORLD POLICY("{}",
                            "  policyTypes: [Ingress]\n  ingress: [{from: [{podSelector: {matchLabels: {app: "
                            "web}}}]}]\n"),
               "    ip saddr { 10.0.0.1 } return\n    drop"));
    CHECK(says(WORLD POLICY("{}",
                            "  policyTypes: [Ingress]\n  ingress: [{from: [{namespaceSelector: {}, podSelector: "
                            "{matchLabels: {app: web}}}]}]\n"),
               "    ip saddr { 10.0.0.1, 10.0.1.1 } return\n"));
    CHECK(says(WORLD POLICY("{}",
                            "  policyTypes: [Egress]\n  egress: [{to: [{namespaceSelector: {matchLabels: {team: "
                            "x}}}]}]\n"),
               "    ip daddr { 10.0.0.1, 10.0.0.2 } return\n"));
    CHECK(says(WORLD POLICY("{}",
                            "  policyTypes: [Egress]\n  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: "
                            "[10.1.0.0/16]}}], ports: [{port: 53, protocol: UDP}]}]\n"),
               "    ip daddr 10.0.0.0/8 ip daddr != 10.1.0.0/16 udp dport 53 return\n"));
    CHECK(says(WORLD POLICY("{}",
                            "  policyTypes: [Ingress]\n  ingress: [{from: [{podSelector: {matchLabels: {app: "
                            "none}}}]}]\n"),
               "chain ingress_0 {\n    drop\n"));
}

TEST(ports_are_numbers_ranges_and_names) {
    CHECK(says(WORLD POLICY("{}",
                            "  policyTypes: [Ingress]\n  ingress: [{ports: [{port: 80}, {port: 1000, endPort: 2000, "
                            "protocol: UDP}, {port: web}, {protocol: SCTP}, {port: nope}]}]\n"),
               "{\n    tcp dport 80 return\n    udp dport 1000-2000 return\n    tcp dport 8080 return\n"
               "    meta l4proto sctp return\n    drop"));
    CHECK(
        says(WORLD POLICY("{matchLabels: {app: db}}",
                          "  policyTypes: [Egress]\n  egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: "
                          "[{port: web}]}]\n"),
             "{\n    ip daddr 10.0.0.1 tcp dport 8080 return\n    drop"));
}

TEST(an_empty_rule_allows_everything) {
    CHECK(says(WORLD POLICY("{}", "  policyTypes: [Ingress]\n  ingress: [{}]\n"), "{\n    return\n    drop"));
}

TEST(rules_of_several_policies_add_up) {
    CHECK(says(WORLD POLICY("{}", "  policyTypes: [Ingress]\n") POLICY(
                   "{matchLabels: {app: web}}", "  policyTypes: [Ingress]\n  ingress: [{ports: [{port: 80}]}]\n"),
               "chain ingress_0 {\n    tcp dport 80 return\n    drop\n  }\n  chain ingress_1 {\n    drop\n"));
}
