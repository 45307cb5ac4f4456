/* coracle down: stops the programs and the containers, and removes what they leave in the kernel. */
#include <ftw.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "cli/cli.h"
#include "pkg/base/ktime.h"

enum { STOP_WAIT_MS = 60000 };

static int stop_supervisor(const struct layout *l, struct err *e) {
    pid_t pid = layout_supervisor(l);
    if (!pid) return 0;
    if (kill(pid, SIGTERM) < 0) return err_errno(e, errno, "cannot stop the supervisor");
    for (int i = 0; i < STOP_WAIT_MS / 10; i++) {
        if (!layout_supervisor(l)) return 0;
        usleep(10000);
    }
    return err_set(e, -ETIMEDOUT, "the supervisor (process %d) does not end", (int)pid);
}

static int run(const char *const *argv, struct err *e) {
    pid_t pid = fork();
    if (pid < 0) return err_errno(e, errno, "fork");
    if (pid == 0) {
        execv(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return err_errno(e, errno, "waitpid");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : err_set(e, -EIO, "%s could not clean up", argv[0]);
}

/* Each program takes away what it made. All are tried; the first failure is reported. */
static int clean_up(const struct layout *l, struct err *e) {
    const char *shim, *kubelet, *proxy, *dns;
    int r = layout_program(l, "shim", "coracle-shim", &shim, e);
    if (r == 0) r = layout_program(l, "kubelet", "coracle-kubelet", &kubelet, e);
    if (r == 0) r = layout_program(l, "proxy", "coracle-proxy", &proxy, e);
    if (r == 0) r = layout_program(l, "dns", "coracle-dns", &dns, e);
    if (r < 0) return r;
    const char *const shim_argv[] = {shim,
                                     "--cleanup",
                                     arena_printf(l->a, "--root=%s/containers", l->data),
                                     arena_printf(l->a, "--state=%s/shim", l->run),
                                     arena_printf(l->a, "--bridge=%s", l->bridge),
                                     NULL};
    /* our own shim cleans up after itself; then the kubelet removes the cgroups of pods that had not reached the shim */
    const char *runtime = l->runtime ? layout_runtime(l) : "", *config = layout_data(l, "kubelet.yaml");
    const char *const kubelet_argv[] = {kubelet,
                                        "--cleanup",
                                        arena_printf(l->a, "--root-dir=%s/kubelet", l->data),
                                        arena_printf(l->a, "--container-runtime-endpoint=%s", runtime),
                                        access(config, R_OK) == 0 ? arena_printf(l->a, "--config=%s", config) : NULL,
                                        NULL};
    const char *const proxy_argv[] = {proxy, "--cleanup", NULL};
    const char *const dns_argv[] = {dns, "--cleanup", arena_printf(l->a, "--listen=%s:53", l->cluster_dns), NULL};
    const char *const *all[] = {shim_argv, kubelet_argv, proxy_argv, dns_argv};
    for (size_t i = l->runtime ? 1 : 0; i < ARRAY_LEN(all); i++) {
        int one = run(all[i], r == 0 ? e : NULL);
        if (r == 0) r = one;
    }
    return r;
}

/* Unmounts everything below the two folders (volumes, pinned namespaces), the newest first. */
static void unmount_below(const struct layout *l) {
    _cleanup_free_ char *text = NULL;
    if (file_read("/proc/self/mountinfo", 16 << 20, &text, NULL) < 0) return;
    const char *found[4096], *kubelet = layout_kubelet(l, false);
    bool shown = str_eq(kubelet, LAYOUT_KUBELET);
    size_t n = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line && n < ARRAY_LEN(found); line = strtok_r(NULL, "\n", &save)) {
        char *at = line, *field = NULL;
        for (int i = 0; i < 5; i++) field = strsep(&at, " ");
        if (field && shown && (str_eq(field, kubelet) || str_has_prefix(field, LAYOUT_KUBELET "/"))) found[n++] = field;
        if (field && (str_has_prefix(field, arena_printf(l->a, "%s/", l->data)) ||
                      str_has_prefix(field, arena_printf(l->a, "%s/", l->run))))
            found[n++] = field;
    }
    while (n > 0) umount2(found[--n], MNT_DETACH);
    if (shown) rmdir(LAYOUT_KUBELET);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *f) { return remove(path); }

static int remove_tree(const char *path, struct err *e) {
    if (access(path, F_OK) < 0) return 0;
    return nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0
               ? err_errno(e, errno, "cannot remove %s", path)
               : 0;
}

int cmd_down(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN};
    bool purge = false, keep_pods = false;
    const struct flag flags[] = {
        LAYOUT_FLAGS(l),
        {"purge", 0, FLAG_BOOL, &purge, NULL, "remove the data too: objects, images, volumes, certificates"},
        {"keep-pods", 0, FLAG_BOOL, &keep_pods, NULL, "stop coracle's programs only; containers and services go on"},
        {0}};
    flags_main("coracle down",
               "coracle down stops the cluster on this machine and cleans up after it.\n"
               "Objects, images and volumes stay for the next \"coracle up\", unless --purge.",
               flags, argc, argv, 0);
    int r = geteuid() == 0 ? 0 : err_set(&e, -EPERM, "this needs root");
    if (r == 0 && layout_load(&l, NULL) < 0 && !layout_supervisor(&l)) {
        printf("nothing is set up in %s\n", l.data);
        return 0;
    }
    struct err ignored = {0};
    layout_complete(&l, &ignored);
    err_done(&ignored);
    if (r == 0) r = stop_supervisor(&l, &e);
    if (r == 0 && !keep_pods) {
        r = clean_up(&l, &e);
        unmount_below(&l);
        if (r == 0) r = remove_tree(l.run, &e);
    }
    if (r == 0 && purge) r = remove_tree(l.data, &e);
    if (r < 0) return cli_fail(&e);
    printf("stopped%s\n", purge ? ", and its data removed" : keep_pods ? "; containers go on" : "");
    return 0;
}
