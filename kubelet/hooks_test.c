/* Probes against a server on the loopback: HTTP answers and redirects, TCP, gRPC health. */
#include "kubelet/hooks.h"

#include "pkg/http/server.h"
#include "tests/test.h"

static int32_t health = 1; /* the status that the gRPC side answers */

static void answer_grpc(struct http_req *r) {
    const struct http_header h[] = {{"content-type", "application/grpc"}};
    const struct http_header ok[] = {{"grpc-status", "0"}}, not_found[] = {{"grpc-status", "5"}};
    http_stream_begin(r, 200, h, 1, 0);
    /* A request for the service "nope": prefix of five bytes, field 1, length 4. */
    bool unknown = r->body_len == 11 && memcmp(r->body + 7, "nope", 4) == 0;
    char message[7] = {0, 0, 0, 0, 2, 0x08, (char)health};
    if (!unknown) http_stream_write_copy(r, message, sizeof(message));
    http_stream_end_trailers(r, unknown ? not_found : ok, 1);
}

static void handler(struct http_req *r, void *arg) {
    const struct http_header local[] = {{"location", "/ok"}}, away[] = {{"location", "http://198.51.100.1/x"}},
                             loop[] = {{"location", "/loop"}};
    const char *agent = http_header(r, "user-agent");
    if (str_eq(r->path, "/grpc.health.v1.Health/Check"))
        answer_grpc(r);
    else if (str_eq(r->path, "/ok"))
        http_respond_text(r, 200, "fine");
    else if (str_eq(r->path, "/header"))
        http_respond_text(
            r, str_eq(http_header(r, "x-a"), "b") && str_has_prefix(str_or_empty(agent), "kube-probe/") ? 200 : 500,
            "x");
    else if (str_eq(r->path, "/local"))
        http_respond(r, 302, local, 1, "", 0, 0);
    else if (str_eq(r->path, "/away"))
        http_respond(r, 302, away, 1, "", 0, 0);
    else if (str_eq(r->path, "/loop"))
        http_respond(r, 302, loop, 1, "", 0, 0);
    else
        http_respond_text(r, 503, "no");
}

struct fixture {
    struct http_server *http;
    struct core_container container;
    struct core_container_port port;
    struct hook_target target;
    char output[HOOK_OUTPUT_MAX];
};

static void fixture_start(struct fixture *f) {
    struct http_server_options o = {.handler = handler};
    struct http_listen l = {.address = "127.0.0.1"};
    int id = 0;
    struct err e = {0};
    f->http = http_server_new(&o);
    if (http_server_listen(f->http, &l, &id, &e) < 0 || http_server_start(f->http, &e) < 0) TEST_FAIL("%s", e.msg);
    err_done(&e);
    f->port = (struct core_container_port){.name = "web", .container_port = http_server_port(f->http, id)};
    f->container = (struct core_container){.name = "c", .ports = {&f->port, 1}};
    f->target = (struct hook_target){.container = &f->container, .pod_ip = "127.0.0.1"};
}

static enum probe_result get(struct fixture *f, const char *path) {
    struct core_http_header header = {.name = "X-A", .value = "b"};
    struct core_http_get_action a = {
        .path = path, .port = {.set = true, .is_str = true, .s = "web"}, .http_headers = {&header, 1}};
    struct core_probe p = {.http_get = &a, .timeout_seconds = 2};
    return hook_probe(NULL, &p, &f->target, f->output);
}

TEST(http_probes_take_200_to_399_and_follow_redirects_on_the_host) {
    struct fixture f = {0};
    fixture_start(&f);
    CHECK_INT(get(&f, "/ok"), PROBE_SUCCESS);
    CHECK_INT(get(&f, "ok"), PROBE_SUCCESS); /* a missing slash is added */
    CHECK_INT(get(&f, "/header"), PROBE_SUCCESS);
    CHECK_INT(get(&f, "/local"), PROBE_SUCCESS);
    CHECK_INT(get(&f, "/away"), PROBE_WARNING); /* not followed: answering at all is good enough */
    CHECK(strncmp(f.output, "Probe terminated redirects, Response body:", 42) == 0);
    CHECK_INT(get(&f, "/bad"), PROBE_FAILURE);
    CHECK_STR(f.output, "HTTP probe failed with statuscode: 503");
    CHECK_INT(get(&f, "/loop"), PROBE_FAILURE);
    http_server_free(f.http);
    CHECK_INT(get(&f, "/ok"), PROBE_FAILURE);
    CHECK(strstr(f.output, "connect: connection refused") != NULL);
}

TEST(tcp_probes_connect) {
    struct fixture f = {0};
    fixture_start(&f);
    struct core_tcp_socket_action a = {.port = {.set = true, .i = f.port.container_port}};
    struct core_probe p = {.tcp_socket = &a, .timeout_seconds = 1};
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_SUCCESS);
    http_server_free(f.http);
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_FAILURE);
}

TEST(grpc_probes_ask_for_health) {
    struct fixture f = {0};
    fixture_start(&f);
    struct core_grpc_action a = {.port = f.port.container_port};
    struct core_probe p = {.grpc = &a, .timeout_seconds = 2};
    health = 1;
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_SUCCESS);
    health = 2;
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_FAILURE);
    CHECK_STR(f.output, "service unhealthy (responded with \"NOT_SERVING\")");
    health = 1;
    a.service = "nope";
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_FAILURE);
    a.service = "other";
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_SUCCESS);
    http_server_free(f.http);
    CHECK_INT(hook_probe(NULL, &p, &f.target, f.output), PROBE_FAILURE);
}

TEST(ports_are_numbers_or_names) {
    struct core_container_port port = {.name = "web", .container_port = 80};
    struct core_container c = {.ports = {&port, 1}};
    CHECK_INT(hook_port(&c, &(struct int_or_string){.set = true, .i = 8080}), 8080);
    CHECK_INT(hook_port(&c, &(struct int_or_string){.set = true, .is_str = true, .s = "web"}), 80);
    CHECK_INT(hook_port(&c, &(struct int_or_string){.set = true, .is_str = true, .s = "81"}), 81);
    CHECK_INT(hook_port(&c, &(struct int_or_string){.set = true, .is_str = true, .s = "none"}), 0);
    CHECK_INT(hook_port(&c, &(struct int_or_string){.set = true, .i = 70000}), 0);
}
