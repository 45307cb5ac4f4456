#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "cache.h"
#include "informer.h"
#include "nodematch.h"
#include "object.h"
#include "pkg/api/core.h"
#include "pkg/api/meta.h"
#include "pkg/base/ktime.h"
#include "private.h"
#include "tests/test.h"
#include "workqueue.h"

/* ---- workqueue ---- */

struct seen {
    char keys[16][32];
    int n, fail;
    struct workqueue *q;
};

static int note(void *arg, struct arena *a, const char *key, struct err *e) {
    struct seen *s = arg;
    if (s->n < 16) snprintf(s->keys[s->n++], 32, "%s", key);
    if (s->fail > 0) {
        s->fail--;
        return err_set(e, -EIO, "not yet");
    }
    return 0;
}

TEST(a_key_waits_only_once) {
    struct workpool *p = workpool_new(0);
    struct seen s = {0};
    struct workqueue *q = workqueue_new(p, "t", 1, note, &s);
    workqueue_add(q, "a");
    workqueue_add(q, "b");
    workqueue_add(q, "a");
    CHECK_INT(workqueue_len(q), 2);
    while (workpool_run_one(p)) continue;
    CHECK_INT(s.n, 2);
    CHECK_STR(s.keys[0], "a");
    CHECK_STR(s.keys[1], "b");
    workpool_free(p);
}

static int readd(void *arg, struct arena *a, const char *key, struct err *e) {
    struct seen *s = arg;
    if (s->n++ == 0) workqueue_add(s->q, key);
    return 0;
}

TEST(a_key_added_while_in_work_comes_back) {
    struct workpool *p = workpool_new(0);
    struct seen s = {0};
    s.q = workqueue_new(p, "t", 4, readd, &s);
    workqueue_add(s.q, "a");
    while (workpool_run_one(p)) continue;
    CHECK_INT(s.n, 2);
    workpool_free(p);
}

TEST(a_failed_key_comes_back_after_a_pause_and_success_forgets_it) {
    struct workpool *p = workpool_new(0);
    struct seen s = {.fail = 2};
    struct workqueue *q = workqueue_new(p, "t", 1, note, &s);
    workqueue_add(q, "a");
    CHECK(workpool_run_one(p));
    CHECK_INT(workqueue_requeues(q, "a"), 1);
    for (int i = 0; i < 60000 && !workpool_run_one(p); i++) usleep(1000);
    CHECK_INT(workqueue_requeues(q, "a"), 2);
    for (int i = 0; i < 60000 && !workpool_run_one(p); i++) usleep(1000);
    CHECK_INT(workqueue_requeues(q, "a"), 0);
    CHECK_INT(s.n, 3);
    workpool_free(p);
}

TEST(delayed_keys_come_in_order_of_their_time) {
    struct workpool *p = workpool_new(1);
    struct seen s = {0};
    struct workqueue *q = workqueue_new(p, "t", 1, note, &s);
    workqueue_add_after(q, "late", 60 * NS_PER_MS);
    workqueue_add_after(q, "soon", 20 * NS_PER_MS);
    workqueue_add_after(q, "late", 90 * NS_PER_MS); /* the earlier wish counts */
    int64_t start = mono_ns();
    for (int i = 0; i < 6000 && *(volatile int *)&s.n < 2; i++) usleep(10000);
    REQUIRE(s.n == 2);
    CHECK(mono_ns() - start >= 50 * NS_PER_MS);
    CHECK_STR(s.keys[0], "soon");
    CHECK_STR(s.keys[1], "late");
    workpool_free(p);
}

TEST(a_queue_held_back_is_not_worked_on) {
    struct workpool *p = workpool_new(0);
    struct seen s = {0};
    struct workqueue *q = workqueue_new(p, "t", 1, note, &s);
    workqueue_enable(q, false);
    workqueue_add(q, "a");
    CHECK(!workpool_run_one(p));
    workqueue_enable(q, true);
    CHECK(workpool_run_one(p));
    workpool_free(p);
}

/* ---- selectors ---- */

TEST(label_selectors_follow_the_rules_of_the_four_operators) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *json =
        "{\"matchLabels\":{\"app\":\"web\"},\"matchExpressions\":[{\"key\":\"tier\",\"operator\":\"NotIn\","
        "\"values\":[\"x\"]},"
        "{\"key\":\"app\",\"operator\":\"Exists\"},{\"key\":\"old\",\"operator\":\"DoesNotExist\"}]}";
    struct meta_label_selector s;
    REQUIRE(api_from_json(a, &api_meta_label_selector, json, strlen(json), &s, NULL) == 0);
    struct str_map_entry yes[] = {{"app", "web"}}, tier[] = {{"app", "web"}, {"tier", "x"}},
                         old[] = {{"app", "web"}, {"old", ""}};
    CHECK(label_selector_matches(&s, &(struct str_map){yes, 1}));
    CHECK(!label_selector_matches(&s, &(struct str_map){tier, 2}));
    CHECK(!label_selector_matches(&s, &(struct str_map){old, 2}));
    CHECK(!label_selector_matches(NULL, &(struct str_map){yes, 1}));
    CHECK_STR(label_selector_format(a, &s), "app=web,tier notin (x),app,!old");
}

TEST(tolerations_match_by_key_operator_and_effect) {
    struct core_taint t = {.key = "k", .value = "v", .effect = "NoSchedule"};
    CHECK(toleration_tolerates(&(struct core_toleration){.operator = "Exists"}, &t));
    CHECK(toleration_tolerates(&(struct core_toleration){.key = "k", .value = "v"}, &t));
    CHECK(!toleration_tolerates(&(struct core_toleration){.key = "k", .value = "w"}, &t));
    CHECK(!toleration_tolerates(&(struct core_toleration){.key = "k", .operator= "Exists", .effect = "NoExecute"}, &t));
    CHECK(!toleration_tolerates(&(struct core_toleration){0}, &t));
    struct core_taint soft = {.key = "k", .effect = "PreferNoSchedule"};
    CHECK(!untolerated(&(struct core_toleration_vec){0}, &(struct core_taint_vec){&soft, 1}, "NoSchedule,NoExecute"));
    CHECK(untolerated(&(struct core_toleration_vec){0}, &(struct core_taint_vec){&soft, 1}, "PreferNoSchedule"));
    CHECK(!untolerated(&(struct core_toleration_vec){0}, &(struct core_taint_vec){&t, 1}, "PreferNoSchedule"));
}

/* ---- cache ---- */

static struct object *pod(const char *ns, const char *name, const char *node, const char *rv) {
    struct core_pod p = {.metadata = {.name = name, .namespace = ns, .resource_version = rv}};
    p.spec.node_name = node;
    return object_new(&client_pods, &p);
}

TEST(cache_finds_objects_by_key_namespace_and_index) {
    struct cache *c = cache_new(true);
    int by_node = cache_add_index(c, index_by_pod_node);
    const char *names[] = {"c", "a", "b"};
    for (int i = 0; i < 3; i++) {
        struct object *o = pod("x", names[i], "n1", "1");
        CHECK(!cache_put(c, o));
        object_unref(o);
    }
    struct object *moved = pod("x", "b", "n2", "2"), *old = cache_put(c, moved);
    REQUIRE(old);
    CHECK_STR(old->rv, "1");
    object_unref(old);
    object_unref(moved);
    struct object_list l = {0};
    cache_by_index(c, by_node, "n1", &l);
    CHECK_INT(l.n, 2);
    CHECK_STR(l.items[0]->meta->name, "a");
    object_list_done(&l);
    cache_list(c, "x", &l);
    CHECK_INT(l.n, 3);
    object_list_done(&l);
    object_unref(cache_del(c, "x/a"));
    CHECK(!cache_get(c, "x/a"));
    cache_by_index(c, by_node, "n1", &l);
    CHECK_INT(l.n, 1);
    object_list_done(&l);
    cache_free(c);
}

/* ---- errors, paths ---- */

TEST(a_status_body_becomes_an_error_with_reason_and_details) {
    const char *body =
        "{\"kind\":\"Status\",\"message\":\"pods \\\"x\\\" not "
        "found\",\"reason\":\"NotFound\",\"details\":{\"name\":\"x\",\"kind\":\"pods\"},\"code\":404}";
    _cleanup_err_ struct err e = {0};
    CHECK_INT(client_status_err(404, body, strlen(body), &e), -ENOENT);
    CHECK(client_err_not_found(&e));
    CHECK_STR(e.reason, "NotFound");
    CHECK_STR(e.name, "x");
    _cleanup_err_ struct err plain = {0};
    client_status_err(502, "oops", 4, &plain);
    CHECK_INT(plain.status, 502);
}

TEST(paths_name_group_namespace_and_subresource) {
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK_STR(client_path(a, &client_pods, "d", "x", "status"), "/api/v1/namespaces/d/pods/x/status");
    CHECK_STR(client_path(a, &client_deployments, NULL, NULL, NULL), "/apis/apps/v1/deployments");
    CHECK_STR(client_path_query(a, client_path(a, &client_nodes, NULL, "n", NULL), "a", "b=c d"),
              "/api/v1/nodes/n?a=b%3Dc%20d");
}

/* ---- client and informer against a server of canned answers ---- */

struct canned {
    int fd, port;
    pthread_t thread;
    const char *const
        *script; /* bodies in order; "W:" begins a watch's lines, then the connection ends; "410" refuses */
    char requests[16][256];
    _Atomic int n;
};

static void *canned_thread(void *arg) {
    struct canned *c = arg;
    for (int i = 0; c->script[i]; i++) {
        int fd = accept(c->fd, NULL, NULL);
        if (fd < 0) return NULL;
        char rq[4096];
        size_t n = 0;
        while (n < sizeof(rq) - 1) {
            ssize_t r = recv(fd, rq + n, sizeof(rq) - 1 - n, 0);
            if (r <= 0) break;
            n += (size_t)r;
            rq[n] = 0;
            if (strstr(rq, "\r\n\r\n")) break;
        }
        if (i < 16) snprintf(c->requests[i], 256, "%.*s", (int)strcspn(rq, "\r"), rq);
        const char *s = c->script[i];
        bool gone = strcmp(s, "410") == 0;
        const char *body = gone                      ? "{\"kind\":\"Status\",\"reason\":\"Expired\",\"code\":410}"
                           : str_has_prefix(s, "W:") ? s + 2
                                                     : s;
        char *head = xasprintf(
            "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: "
            "close\r\n\r\n%s",
            gone ? "410 Gone" : "200 OK", strlen(body), body);
        fd_write_all(fd, head, strlen(head));
        free(head);
        c->n = i + 1;
        close(fd);
    }
    return NULL;
}

static struct client *canned_start(struct canned *c, const char *const *script) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    *c = (struct canned){.script = script};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(c->fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(c->fd, 16) < 0) abort();
    getsockname(c->fd, (struct sockaddr *)&at, &len);
    c->port = ntohs(at.sin_port);
    pthread_create(&c->thread, NULL, canned_thread, c);
    char url[64];
    snprintf(url, sizeof(url), "http://127.0.0.1:%d", c->port);
    struct client_config cfg = {.server = url};
    struct client *client = NULL;
    client_new(&cfg, &client, NULL);
    return client;
}

static void canned_end(struct canned *c) {
    shutdown(c->fd, SHUT_RDWR);
    pthread_join(c->thread, NULL);
    close(c->fd);
}

static bool wait_until(struct canned *c, int n) {
    for (int i = 0; i < 6000 && c->n < n; i++) usleep(10000);
    return c->n >= n;
}

TEST(a_get_decodes_and_a_missing_object_is_an_error) {
    static const char *const script[] = {
        "{\"kind\":\"Pod\",\"metadata\":{\"name\":\"x\",\"namespace\":\"d\"},\"spec\":{\"nodeName\":\"n1\"}}", "410",
        NULL};
    struct canned c;
    struct client *client = canned_start(&c, script);
    REQUIRE(client);
    _cleanup_arena_ struct arena *a = arena_new();
    struct core_pod p;
    _cleanup_err_ struct err e = {0};
    CHECK_INT(client_get(client, a, &client_pods, "d", "x", &p, &e), 0);
    CHECK_STR(p.spec.node_name, "n1");
    CHECK(client_get(client, a, &client_pods, "d", "x", &p, &e) < 0);
    CHECK_INT(e.status, 410);
    client_free(client);
    canned_end(&c);
}

struct events {
    int adds, updates, deletes;
    char last[64];
};
static void ev_add(void *arg, struct object *o) { ((struct events *)arg)->adds++; }
static void ev_update(void *arg, struct object *old, struct object *o) {
    struct events *x = arg;
    x->updates++;
    snprintf(x->last, sizeof(x->last), "%s->%s", old->rv, o->rv);
}
static void ev_delete(void *arg, struct object *o) { ((struct events *)arg)->deletes++; }

#define CM(name, rv) "{\"metadata\":{\"name\":\"" name "\",\"namespace\":\"d\",\"resourceVersion\":\"" rv "\"}}"

TEST(an_informer_lists_in_pages_watches_resumes_and_relists_after_410) {
    static const char *const script[] = {
        "{\"metadata\":{\"resourceVersion\":\"5\",\"continue\":\"more\"},\"items\":[" CM("a", "1") "]}",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[" CM("b", "2") "]}",
        "W:{\"type\":\"MODIFIED\",\"object\":" CM(
            "a", "6") "}\n{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n",
        "410",
        "{\"metadata\":{\"resourceVersion\":\"20\"},\"items\":[" CM("a", "6") "," CM("c", "15") "]}",
        "W:{\"type\":\"DELETED\",\"object\":" CM("c", "21") "}\n",
        "W:{\"type\":\"ADDED\",\"object\":" CM("d", "22") "}\n",
        NULL};
    struct canned c;
    struct client *client = canned_start(&c, script);
    REQUIRE(client);
    struct events x = {0};
    struct informer *i = informer_new(client, &client_configmaps, NULL);
    struct informer_handler h = {ev_add, ev_update, ev_delete, &x};
    informer_add_handler(i, &h);
    CHECK_INT(informer_wait_synced(i, 60000, NULL), 0);
    CHECK(wait_until(&c, 7));
    for (int n = 0; n < 6000 && *(volatile int *)&x.adds < 4; n++) usleep(10000); /* the last event's */
    CHECK(strstr(c.requests[1], "continue=more") != NULL);
    CHECK(strstr(c.requests[2], "resourceVersion=5") != NULL);
    CHECK(strstr(c.requests[3], "resourceVersion=9") != NULL);
    CHECK(strstr(c.requests[4], "watch=1") == NULL);
    CHECK(strstr(c.requests[6], "resourceVersion=21") != NULL);
    CHECK_INT(x.adds, 4);    /* a, b, c, d */
    CHECK_INT(x.updates, 1); /* a in the relist was known */
    CHECK_STR(x.last, "1->6");
    CHECK_INT(x.deletes, 2); /* b was missing in the relist; c */
    struct object *o = informer_get(i, "d/d");
    CHECK(o != NULL);
    object_unref(o);
    CHECK_INT(informer_count(i), 2);
    informer_free(i);
    client_free(client);
    canned_end(&c);
}

TEST(a_kubeconfig_gives_server_and_credentials_of_its_current_context) {
    char path[] = "/tmp/client-test-XXXXXX";
    int fd = mkstemp(path);
    const char *text =
        "apiVersion: v1\nkind: Config\ncurrent-context: two\ncontexts:\n- {name: one, context: {cluster: x, "
        "user: x}}\n"
        "- {name: two, context: {cluster: c, user: u}}\nclusters:\n- name: c\n  cluster: {server: "
        "'https://h:1', certificate-authority: ca.pem}\n"
        "users:\n- name: u\n  user: {token: secret, client-key-data: a2V5}\n";
    fd_write_all(fd, text, strlen(text));
    close(fd);
    _cleanup_arena_ struct arena *a = arena_new();
    struct client_config cfg;
    CHECK_INT(client_config_from_kubeconfig(a, path, &cfg, NULL), 0);
    CHECK_STR(cfg.server, "https://h:1");
    CHECK_STR(cfg.ca_file, "/tmp/ca.pem");
    CHECK_STR(cfg.token, "secret");
    CHECK_STR(cfg.key_data, "key");
    unlink(path);
}
