/* coracle status: what runs here, what it costs, and what is not ready and why. */
#include <signal.h>

#include "cli/cli.h"
#include "cli/supervisor.h"
#include "pkg/api/core.h"
#include "pkg/base/ktime.h"
#include "pkg/client/client.h"

/* Proportional set size in kB: memory shared with others counts by its share. -1 when it cannot be read. */
static int64_t pss_kb(pid_t pid) {
    char path[64];
    _cleanup_free_ char *text = NULL;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    if (file_read(path, 65536, &text, NULL) < 0) return -1;
    const char *at = strstr(text, "\nPss:");
    long long kb;
    return at && sscanf(at, "\nPss: %lld kB", &kb) == 1 ? kb : -1;
}

static const char *age(char out[KTIME_MAX], int64_t since_unix_ns) {
    int64_t s = (ktime_unix_ns(ktime_now()) - since_unix_ns) / NS_PER_SEC;
    if (s < 120)
        snprintf(out, KTIME_MAX, "%llds", (long long)s);
    else if (s < 7200)
        snprintf(out, KTIME_MAX, "%lldm", (long long)s / 60);
    else if (s < 172800)
        snprintf(out, KTIME_MAX, "%lldh", (long long)s / 3600);
    else
        snprintf(out, KTIME_MAX, "%lldd", (long long)s / 86400);
    return out;
}

static bool show_programs(const struct layout *l, struct err *e) {
    struct component_state *st;
    size_t n;
    if (supervisor_state(l, &st, &n, e) < 0) return false;
    printf("%-12s %-9s %8s %6s %9s %10s\n", "PROGRAM", "STATE", "PID", "AGE", "RESTARTS", "MEMORY");
    int64_t total = 0;
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        bool up = st[i].pid && kill(st[i].pid, 0) == 0;
        int64_t kb = up ? pss_kb(st[i].pid) : 0;
        char a[KTIME_MAX];
        all &= up;
        if (kb > 0) total += kb;
        if (up)
            printf("%-12s %-9s %8d %6s %9lld %7.1f MB\n", st[i].name, "running", (int)st[i].pid,
                   age(a, st[i].started_unix_ns), (long long)st[i].restarts, (double)kb / 1024);
        else
            printf("%-12s %-9s %8s %6s %9lld   %s\n", st[i].name, st[i].pid || st[i].last_exit[0] ? "down" : "waiting",
                   "-", "-", (long long)st[i].restarts, st[i].last_exit);
    }
    printf("%-12s %-9s %8s %6s %9s %7.1f MB\n\n", "all", "", "", "", "", (double)total / 1024);
    return all;
}

/* One line a node, and why it is not Ready. */
static bool show_nodes(const struct layout *l, struct client *c, struct err *e) {
    struct client_list nodes;
    if (client_list(c, l->a, &client_nodes, NULL, NULL, &nodes, e) < 0) return false;
    bool all = nodes.n > 0;
    if (!nodes.n) printf("no node has registered yet\n");
    for (size_t i = 0; i < nodes.n; i++) {
        const struct core_node *n = nodes.items[i];
        const struct core_node_condition *ready = NULL;
        for (size_t k = 0; k < n->status.conditions.n; k++)
            if (str_eq(n->status.conditions.items[k].type, "Ready")) ready = &n->status.conditions.items[k];
        bool ok = ready && str_eq(ready->status, "True");
        all &= ok;
        printf("node %s: %s%s%s\n", n->metadata.name, ok ? "Ready" : "not Ready", ok || !ready ? "" : ": ",
               ok || !ready ? "" : str_or_empty(ready->message));
    }
    return all;
}

static bool show_pods(const struct layout *l, struct client *c, struct err *e) {
    struct client_list pods;
    if (client_list(c, l->a, &client_pods, NULL, NULL, &pods, e) < 0) return false;
    size_t running = 0;
    for (size_t i = 0; i < pods.n; i++) {
        const struct core_pod *p = pods.items[i];
        if (str_eq(p->status.phase, "Running") || str_eq(p->status.phase, "Succeeded")) running++;
    }
    printf("pods: %zu, %zu of them running or done\n", pods.n, running);
    return true;
}

int cmd_status(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN};
    const struct flag flags[] = {LAYOUT_FLAGS(l), {0}};
    flags_main("coracle status",
               "coracle status shows what runs here, the memory it takes, and what is not ready.\n"
               "Exit status 0: everything is ready.",
               flags, argc, argv, 0);
    if (layout_load(&l, &e) < 0) return cli_fail(&e);
    if (layout_complete(&l, &e) < 0) return cli_fail(&e);
    if (!layout_supervisor(&l)) {
        printf("stopped (start it with: sudo coracle up)\n");
        return 1;
    }
    bool ok = show_programs(&l, &e);
    bool server = str_eq(l.role, "server");
    const char *config = layout_data(&l, server ? "admin.kubeconfig" : "kubelet.kubeconfig");
    _cleanup_client_ struct client *c = NULL;
    struct client_config cfg = {.user_agent = "coracle", .timeout_ms = 5000};
    if (client_new_from_kubeconfig(config, &cfg, &c, &e) < 0) return cli_fail(&e);
    ok = show_nodes(&l, c, &e) && ok;
    if (server && !e.code) ok = show_pods(&l, c, &e) && ok;
    if (e.code) printf("API server %s: %s\n", l.server, e.msg);
    printf("store: %s   logs: %s/log   kubeconfig: %s\n", l.store, l.data, config);
    return ok ? 0 : 1;
}
