/* coracle image: the node's images, through the runtime's CRI socket. */
#include <sys/wait.h>

#include "cli/cli.h"
#include "pkg/api/cri.h"
#include "pkg/grpc/grpc.h"

#define METHOD(name) api_rpc_cri_image_service_##name
enum { PULL_TIMEOUT_MS = 3600 * 1000 };

static const char *human(char out[32], uint64_t bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1000 && u + 1 < ARRAY_LEN(units)) v /= 1000, u++;
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", v, units[u]);
    return out;
}

static int list(struct arena *a, struct grpc_client *c, struct err *e) {
    struct cri_list_images_request rq = {0};
    struct cri_list_images_response rs = {0};
    int r = grpc_call(c, &METHOD(list_images), &rq, a, &rs, 0, e);
    if (r < 0) return r;
    printf("%-60s %-14s %10s\n", "IMAGE", "ID", "SIZE");
    for (size_t i = 0; i < rs.images.n; i++) {
        const struct cri_image *im = &rs.images.items[i];
        const char *id = str_has_prefix(str_or_empty(im->id), "sha256:") ? im->id + 7 : str_or_empty(im->id);
        char size[32];
        human(size, im->size);
        for (size_t k = 0; k < im->repo_tags.n; k++) printf("%-60s %-14.12s %10s\n", im->repo_tags.items[k], id, size);
        if (!im->repo_tags.n)
            printf("%-60s %-14.12s %10s\n", im->repo_digests.n ? im->repo_digests.items[0] : "<none>", id, size);
    }
    return 0;
}

static int pull(struct arena *a, struct grpc_client *c, const char *name, const char *auth, struct err *e) {
    struct cri_image_spec spec = {.image = name};
    struct cri_auth_config creds = {0};
    struct cri_pull_image_request rq = {.image = &spec};
    struct cri_pull_image_response rs = {0};
    if (auth) {
        const char *colon = strchr(auth, ':');
        if (!colon) return err_set(e, -EINVAL, "--creds wants USER:PASSWORD");
        creds.username = arena_strndup(a, auth, (size_t)(colon - auth));
        creds.password = colon + 1;
        rq.auth = &creds;
    }
    int r = grpc_call(c, &METHOD(pull_image), &rq, a, &rs, PULL_TIMEOUT_MS, e);
    if (r == 0) printf("pulled %s (%s)\n", name, str_or_empty(rs.image_ref));
    return r;
}

static int remove_image(struct arena *a, struct grpc_client *c, const char *name, struct err *e) {
    struct cri_image_spec spec = {.image = name};
    struct cri_image_status_request ask = {.image = &spec};
    struct cri_image_status_response found = {0};
    int r = grpc_call(c, &METHOD(image_status), &ask, a, &found, 0, e);
    if (r == 0 && !found.image) return err_set(e, -ENOENT, "no image %s", name);
    struct cri_remove_image_request rq = {.image = &spec};
    struct cri_remove_image_response rs = {0};
    if (r == 0) r = grpc_call(c, &METHOD(remove_image), &rq, a, &rs, 0, e);
    if (r == 0) printf("removed %s\n", name);
    return r;
}

/* The shim's own command does it: the archive goes straight into the store, not through CRI, which has no word for it. */
static int import(const struct layout *l, const char *file, bool pin, struct err *e) {
    const char *shim;
    if (l->runtime)
        return err_set(e, -ENOTSUP, "%s has its own command for this, for containerd: ctr -n k8s.io images import %s",
                       l->runtime, file);
    int r = layout_program(l, "shim", "coracle-shim", &shim, e), status;
    if (r < 0) return r;
    const char *const argv[] = {shim,
                                "image",
                                "import",
                                file,
                                arena_printf(l->a, "--listen=%s/shim.sock", l->run),
                                arena_printf(l->a, "--root=%s/containers", l->data),
                                arena_printf(l->a, "--state=%s/shim", l->run),
                                pin ? "--pinned" : "--pinned=false",
                                NULL};
    pid_t pid = fork();
    if (pid < 0) return err_errno(e, errno, "fork");
    if (pid == 0) {
        execv(shim, (char **)(uintptr_t)argv);
        _exit(127);
    }
    if (waitpid(pid, &status, 0) < 0) return err_errno(e, errno, "waitpid");
    return status == 0 ? 0 : err_set(e, -EIO, "%s was not imported", file);
}

int cmd_image(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN};
    const char *creds = NULL;
    bool pin = true;
    const struct flag flags[] = {
        LAYOUT_FLAGS(l),
        {"creds", 0, FLAG_STR, &creds, "USER:PASSWORD", "pull: how to log in to the registry"},
        {"pin", 0, FLAG_BOOL, &pin, NULL, "import: garbage collection keeps the image, as no registry may have it"},
        {0}};
    int n = flags_main("coracle image",
                       "coracle image list | import FILE | pull NAME | remove NAME: container images of this node.\n"
                       "FILE is an OCI or docker archive (docker save, podman save, skopeo copy).",
                       flags, argc, argv, 2);
    layout_load(&l, NULL);
    struct grpc_client *c = grpc_client_new(layout_runtime(&l));
    const char *verb = n > 0 ? argv[1] : "";
    int r;
    if (n == 1 && str_eq(verb, "list"))
        r = list(a, c, &e);
    else if (n == 2 && str_eq(verb, "import"))
        r = import(&l, argv[2], pin, &e);
    else if (n == 2 && str_eq(verb, "pull"))
        r = pull(a, c, argv[2], creds, &e);
    else if (n == 2 && str_eq(verb, "remove"))
        r = remove_image(a, c, argv[2], &e);
    else
        r = err_set(&e, -EINVAL, "say list, import FILE, pull NAME or remove NAME (see coracle image --help)");
    grpc_client_free(c);
    return r < 0 ? cli_fail(&e) : 0;
}
