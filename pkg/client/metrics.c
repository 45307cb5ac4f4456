#include "metrics.h"

#include "pkg/base/flags.h"
#include "pkg/base/prom.h"
#include "transfer.h"

static const double durations[] = {0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 0};

static const char *host_of(const struct client *c, char *out, size_t size) {
    const char *s = strstr(c->cfg.server, "://");
    s = s ? s + 3 : c->cfg.server;
    snprintf(out, size, "%.*s", (int)strcspn(s, "/"), s);
    return out;
}

void client_count(struct client *c, const char *method, long code, int64_t took_ns, bool stream) {
    pthread_mutex_lock(&c->lock);
    size_t i = 0;
    while (i < CLIENT_COUNTS - 1 && c->counts[i].n &&
           (c->counts[i].code != (int)code || strcmp(c->counts[i].method, method) != 0))
        i++;
    if (!c->counts[i].n) {
        c->counts[i].code = (int)code;
        snprintf(c->counts[i].method, sizeof(c->counts[i].method), "%s", method);
    }
    c->counts[i].n++;
    for (i = 0; !stream && i < ARRAY_LEN(client_verbs); i++)
        if (strcmp(client_verbs[i], method) == 0) prom_observe(&c->took[i], durations, took_ns);
    pthread_mutex_unlock(&c->lock);
}

const char *const client_verbs[CLIENT_VERBS] = {"GET", "POST", "PUT", "PATCH", "DELETE"};

void client_metrics(struct client *c, struct buf *b) {
    char host[256], labels[320], code[16];
    host_of(c, host, sizeof(host));
    prom_head(b, "rest_client_requests_total", "counter",
              "Number of HTTP requests, partitioned by status code, method, and host.");
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < CLIENT_COUNTS && c->counts[i].n; i++) {
        snprintf(code, sizeof(code), c->counts[i].code ? "%d" : "<error>", c->counts[i].code);
        buf_printf(b, "rest_client_requests_total{code=\"%s\",host=\"%s\",method=\"%s\"} %llu\n", code, host,
                   c->counts[i].method, (unsigned long long)c->counts[i].n);
    }
    prom_head(b, "rest_client_request_duration_seconds", "histogram",
              "Request latency in seconds. Broken down by verb, and host.");
    for (size_t i = 0; i < CLIENT_VERBS; i++) {
        snprintf(labels, sizeof(labels), "host=\"%s\",verb=\"%s\"", host, client_verbs[i]);
        prom_write(b, "rest_client_request_duration_seconds", labels, &c->took[i], durations);
    }
    pthread_mutex_unlock(&c->lock);
}

void program_metrics(struct buf *b, const char *lease, bool leads) {
    if (lease) {
        prom_head(b, "leader_election_master_status", "gauge",
                  "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates "
                  "master. 'name' is the string used to identify the lease.");
        buf_printf(b, "leader_election_master_status{name=\"%s\"} %d\n", lease, leads);
    }
    prom_build_info(b, CORACLE_VERSION);
    prom_process(b);
}
