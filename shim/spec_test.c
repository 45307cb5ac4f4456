/* The OCI spec that comes from CRI's wishes. */
#include "spec.h"

#include <fcntl.h>
#include <signal.h>

#include "proc.h"
#include "tests/test.h"

struct fixture {
    struct arena *a;
    char dir[64];
    struct cri_container_config c;
    struct cri_pod_sandbox_config pod;
    struct cri_linux_container_config lc;
    struct cri_linux_container_security_context sc;
    struct cri_namespace_option ns;
    struct image_config image;
    struct spec_input in;
    struct spec_result out;
    struct err e;
};

static void put(const char *dir, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (!f) abort();
    fputs(text, f);
    fclose(f);
}

static void set_up(struct fixture *f) {
    static const char *entrypoint[] = {"/entry"}, *cmd[] = {"serve"}, *env[] = {"PATH=/img", "A=1"};
    *f = (struct fixture){.a = arena_new(), .dir = "/tmp/shim-spec-test-XXXXXX"};
    if (!mkdtemp(f->dir)) abort();
    char etc[80];
    snprintf(etc, sizeof(etc), "%s/etc", f->dir);
    mkdir(etc, 0755);
    put(f->dir, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\nbroken\n");
    put(f->dir, "etc/group", "root:x:0:\nlogs:x:50:web,other\nmore:x:51:webby,web\nnot:x:52:webby\n");
    f->image = (struct image_config){.user = "",
                                     .workdir = "",
                                     .stop_signal = "",
                                     .env = env,
                                     .n_env = 2,
                                     .entrypoint = entrypoint,
                                     .n_entrypoint = 1,
                                     .cmd = cmd,
                                     .n_cmd = 1};
    f->ns.pid = CRI_NAMESPACE_MODE_CONTAINER;
    f->sc.namespace_options = &f->ns;
    f->lc.security_context = &f->sc;
    f->c.linux = &f->lc;
    f->in = (struct spec_input){.config = &f->c,
                                .sandbox = &f->pod,
                                .image = &f->image,
                                .rootfs = f->dir,
                                .ns_dir = "/ns",
                                .sandbox_dir = f->dir,
                                .cgroups_path = "/cg/x",
                                .container_id = "x",
                                .sandbox_id = "s",
                                .hostname = "host"};
}

static void tear_down(struct fixture *f) {
    fs_rm_rf(f->dir);
    err_done(&f->e);
    arena_free(f->a);
}

static int build(struct fixture *f) { return spec_build(f->a, &f->in, &f->out, &f->e); }

/* Array of strings joined with spaces. */
static const char *joined(struct fixture *f, const struct json *v) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < json_len(v); i++)
        buf_printf(&b, "%s%s", i ? " " : "", str_or_empty(json_as_str(json_item(v, i))));
    return arena_strdup(f->a, b.data ? b.data : "");
}

static bool contains(const struct json *v, const char *s) {
    for (size_t i = 0; i < json_len(v); i++)
        if (str_eq(json_as_str(json_item(v, i)), s)) return true;
    return false;
}

static void check_args(const char **command, size_t n_command, const char **args, size_t n_args, const char *want) {
    struct fixture f;
    set_up(&f);
    f.c.command = (struct str_vec){command, n_command};
    f.c.args = (struct str_vec){args, n_args};
    CHECK_INT(build(&f), 0);
    CHECK_STR(joined(&f, json_at(f.out.spec, "process", "args", NULL)), want);
    tear_down(&f);
}

TEST(command_and_args_override_entrypoint_and_cmd) {
    const char *c[] = {"c1", "c2"}, *a[] = {"a1"};
    check_args(NULL, 0, NULL, 0, "/entry serve");
    check_args(NULL, 0, a, 1, "/entry a1");
    check_args(c, 2, NULL, 0, "c1 c2");
    check_args(c, 2, a, 1, "c1 c2 a1");
}

TEST(environment_of_the_config_wins_over_the_images) {
    struct fixture f;
    set_up(&f);
    struct cri_key_value kv[] = {{"A", {(const uint8_t *)"2", 1}}, {"B", {(const uint8_t *)"x=y", 3}}};
    f.c.envs.items = kv;
    f.c.envs.n = 2;
    CHECK_INT(build(&f), 0);
    const struct json *env = json_at(f.out.spec, "process", "env", NULL);
    CHECK_STR(joined(&f, env), "PATH=/img HOSTNAME=host HOME=/root A=2 B=x=y");
    tear_down(&f);
}

TEST(users_are_looked_up_in_the_image) {
    static const struct {
        const char *image, *name;
        int64_t uid, gid; /* of the config; -1: not given */
        int r;
        uint32_t want_uid, want_gid;
        const char *groups;
    } cases[] = {
        {"", "", -1, -1, 0, 0, 0, "0"},
        {"web", "", -1, -1, 0, 33, 34, "34,50,51"},
        {"33", "", -1, -1, 0, 33, 34, "34,50,51"},
        {"web:logs", "", -1, -1, 0, 33, 50, "50,51"},
        {"web:77", "", -1, -1, 0, 33, 77, "77,50,51"},
        {"", "web", -1, -1, 0, 33, 34, "34,50,51"},
        {"web", "", 1000, -1, 0, 1000, 0, "0"},
        {"web", "", 1000, 2000, 0, 1000, 2000, "2000"},
        {"nobody-here", "", -1, -1, -ENOENT, 0, 0, ""},
        {"web:nogroup-here", "", -1, -1, -ENOENT, 0, 0, ""},
        {"", "", -1, 5, -EINVAL, 0, 0, ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f;
        set_up(&f);
        struct cri_int64_value uid = {cases[i].uid}, gid = {cases[i].gid};
        f.image.user = cases[i].image;
        f.sc.run_as_username = cases[i].name;
        if (cases[i].uid >= 0) f.sc.run_as_user = &uid;
        if (cases[i].gid >= 0) f.sc.run_as_group = &gid;
        CHECK_INT(build(&f), cases[i].r);
        if (cases[i].r == 0) {
            char groups[64] = "";
            for (size_t k = 0; k < f.out.user.n_groups; k++)
                snprintf(groups + strlen(groups), sizeof(groups) - strlen(groups), "%s%u", k ? "," : "",
                         f.out.user.groups[k]);
            CHECK_INT(f.out.user.uid, cases[i].want_uid);
            CHECK_INT(f.out.user.gid, cases[i].want_gid);
            CHECK_STR(groups, cases[i].groups);
        }
        tear_down(&f);
    }
}

static void check_caps(const char *add, const char *drop, bool privileged, const char *has, const char *lacks) {
    struct arena *a = arena_new();
    struct json *out;
    const char *adds[] = {add}, *drops[] = {drop};
    struct cri_capability c = {.add_capabilities = {adds, add ? 1 : 0}, .drop_capabilities = {drops, drop ? 1 : 0}};
    CHECK_INT(spec_capabilities(a, &c, privileged, &out, NULL), 0);
    if (has && !contains(out, has)) TEST_FAIL("add %s drop %s: no %s", str_or_empty(add), str_or_empty(drop), has);
    if (lacks && contains(out, lacks))
        TEST_FAIL("add %s drop %s: has %s", str_or_empty(add), str_or_empty(drop), lacks);
    arena_free(a);
}

TEST(capabilities_are_added_to_and_dropped_from_the_default_set) {
    check_caps(NULL, NULL, false, "CAP_CHOWN", "CAP_SYS_ADMIN");
    check_caps("SYS_ADMIN", NULL, false, "CAP_SYS_ADMIN", NULL);
    check_caps("cap_sys_admin", NULL, false, "CAP_SYS_ADMIN", NULL);
    check_caps(NULL, "CHOWN", false, "CAP_KILL", "CAP_CHOWN");
    check_caps(NULL, "ALL", false, NULL, "CAP_CHOWN");
    check_caps("NET_BIND_SERVICE", "ALL", false, "CAP_NET_BIND_SERVICE", "CAP_CHOWN");
    check_caps("ALL", "NET_RAW", false, "CAP_SYS_ADMIN", "CAP_NET_RAW");
    check_caps(NULL, "ALL", true, "CAP_SYS_ADMIN", NULL);
    struct arena *a = arena_new();
    struct json *out;
    const char *bad[] = {"NO_SUCH"};
    struct cri_capability c = {.add_capabilities = {bad, 1}};
    CHECK_INT(spec_capabilities(a, &c, false, &out, NULL), -EINVAL);
    arena_free(a);
}

static const struct json *find_by(const struct json *list, const char *key, const char *value) {
    const struct json *v;
    JSON_FOREACH(v, list)
        if (str_eq(json_get_str(v, key), value)) return v;
    return NULL;
}

TEST(namespaces_follow_the_modes) {
    struct fixture f;
    set_up(&f);
    f.ns.network = CRI_NAMESPACE_MODE_NODE;
    f.ns.ipc = CRI_NAMESPACE_MODE_NODE;
    CHECK_INT(build(&f), 0);
    const struct json *ns = json_at(f.out.spec, "linux", "namespaces", NULL);
    CHECK(!find_by(ns, "type", "network") && !find_by(ns, "type", "ipc"));
    CHECK(find_by(ns, "type", "pid") && !json_get(find_by(ns, "type", "pid"), "path"));
    f.ns = (struct cri_namespace_option){.pid = CRI_NAMESPACE_MODE_POD};
    CHECK_INT(build(&f), 0);
    ns = json_at(f.out.spec, "linux", "namespaces", NULL);
    CHECK_STR(json_get_str(find_by(ns, "type", "network"), "path"), "/ns/net");
    CHECK_STR(json_get_str(find_by(ns, "type", "pid"), "path"), "/ns/pid");
    f.ns.pid = CRI_NAMESPACE_MODE_TARGET;
    CHECK_INT(build(&f), -EINVAL);
    f.in.target_pid = 7;
    CHECK_INT(build(&f), 0);
    CHECK_STR(json_get_str(find_by(json_at(f.out.spec, "linux", "namespaces", NULL), "type", "pid"), "path"),
              "/proc/7/ns/pid");
    struct cri_id_mapping map = {.host_id = 65536, .length = 65536};
    struct cri_user_namespace u = {.mode = CRI_NAMESPACE_MODE_POD, .uids = {&map, 1}, .gids = {&map, 1}};
    f.in.user = &u;
    CHECK_INT(build(&f), 0);
    CHECK_STR(json_get_str(find_by(json_at(f.out.spec, "linux", "namespaces", NULL), "type", "user"), "path"),
              "/ns/user");
    CHECK_INT(json_get_int(json_item(json_at(f.out.spec, "linux", "uidMappings", NULL), 0), "hostID", 0), 65536);
    tear_down(&f);
}

TEST(mounts_come_parents_first_with_their_propagation) {
    struct fixture f;
    set_up(&f);
    struct cri_mount m[] = {
        {.container_path = "/a/b/c", .host_path = "/tmp"},
        {.container_path = "/a", .host_path = "/tmp", .readonly = true, .propagation = 1},
        {.container_path = "/dev/shm", .host_path = "/tmp"},
    };
    f.c.mounts.items = m;
    f.c.mounts.n = 3;
    CHECK_INT(build(&f), 0);
    const struct json *list = json_get(f.out.spec, "mounts"), *v;
    size_t at_a = 0, at_c = 0, shm = 0;
    for (size_t i = 0; i < json_len(list); i++) {
        v = json_item(list, i);
        const char *dest = json_get_str(v, "destination");
        if (str_eq(dest, "/a")) at_a = i;
        if (str_eq(dest, "/a/b/c")) at_c = i;
        if (str_eq(dest, "/dev/shm")) shm++;
    }
    CHECK(at_a < at_c);
    CHECK_INT(shm, 1);
    CHECK_STR(joined(&f, json_get(json_item(list, at_a), "options")), "rbind rslave ro");
    CHECK_STR(json_at(f.out.spec, "linux", "rootfsPropagation", NULL)->str, "rslave");
    m[0].container_path = "relative";
    CHECK_INT(build(&f), -EINVAL);
    tear_down(&f);
}

TEST(seccomp_allows_by_capability) {
    struct fixture f;
    set_up(&f);
    struct cri_security_profile p = {.profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_RUNTIME_DEFAULT};
    f.sc.seccomp = &p;
    CHECK_INT(build(&f), 0);
    const struct json *rules = json_at(f.out.spec, "linux", "seccomp", "syscalls", NULL), *r;
    bool mount = false, read_ = false, clone3_enosys = false;
    JSON_FOREACH(r, rules) {
        bool allow = str_eq(json_get_str(r, "action"), "SCMP_ACT_ALLOW");
        mount |= allow && contains(json_get(r, "names"), "mount");
        read_ |= allow && contains(json_get(r, "names"), "read");
        clone3_enosys |= !allow && contains(json_get(r, "names"), "clone3") && json_get_int(r, "errnoRet", 0) == 38;
    }
    CHECK(read_ && !mount && clone3_enosys);
    f.in.seccomp = seccomp_cache_new();
    CHECK_INT(build(&f), 0);
    CHECK(!json_at(f.out.spec, "linux", "seccomp", NULL));
    const char *bpf = json_at(f.out.spec, "annotations", "run.oci.seccomp_bpf_data", NULL)->str;
    CHECK(bpf && strlen(bpf) > 1000);
    CHECK_INT(build(&f), 0);
    CHECK_STR(json_at(f.out.spec, "annotations", "run.oci.seccomp_bpf_data", NULL)->str, bpf);
    f.in.seccomp = seccomp_cache_free(f.in.seccomp);
    f.sc.privileged = true;
    CHECK_INT(build(&f), 0);
    CHECK(!json_at(f.out.spec, "linux", "seccomp", NULL));
    f.sc.privileged = false;
    p.profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_LOCALHOST;
    p.localhost_ref = "/no/such/profile.json";
    CHECK(build(&f) < 0);
    tear_down(&f);
}

TEST(resources_and_devices_are_translated) {
    struct fixture f;
    set_up(&f);
    struct cri_linux_container_resources r = {
        .cpu_shares = 10, .cpu_quota = -1, .memory_limit_in_bytes = 1000, .oom_score_adj = 5};
    struct cri_device d = {.host_path = "/dev/null", .container_path = "/dev/mine", .permissions = "r"};
    f.lc.resources = &r;
    f.c.devices.items = &d;
    f.c.devices.n = 1;
    CHECK_INT(build(&f), 0);
    const struct json *l = json_get(f.out.spec, "linux");
    CHECK_INT(json_as_int(json_at(l, "resources", "cpu", "shares", NULL), 0), 10);
    CHECK(!json_at(l, "resources", "cpu", "quota", NULL)); /* no limit is what a new cgroup has */
    CHECK_INT(json_as_int(json_at(l, "resources", "memory", "limit", NULL), 0), 1000);
    CHECK_INT(json_get_int(find_by(json_get(l, "devices"), "path", "/dev/mine"), "minor", 0), 3);
    CHECK(!json_get_bool(json_item(json_at(l, "resources", "devices", NULL), 0), "allow", true));
    CHECK_STR(json_get_str(json_item(json_at(l, "resources", "devices", NULL), 1), "access"), "r");
    CHECK(json_as_int(json_at(f.out.spec, "process", "oomScoreAdj", NULL), -1) >= 5);
    tear_down(&f);
}

TEST(signal_names_are_understood) {
    CHECK_INT(signal_parse("SIGTERM"), SIGTERM);
    CHECK_INT(signal_parse("QUIT"), SIGQUIT);
    CHECK_INT(signal_parse("9"), SIGKILL);
    CHECK_INT(signal_parse("SIGRTMIN+3"), SIGRTMIN + 3);
    CHECK_INT(signal_parse("SIGRTMAX-1"), SIGRTMAX - 1);
    CHECK_INT(signal_parse("SIGRTMIN"), SIGRTMIN);
    CHECK_INT(signal_parse("RTMAXMINUS2"), SIGRTMAX - 2);
    CHECK_INT(signal_parse("SIGNOPE"), -EINVAL);
    CHECK_INT(signal_parse(""), -EINVAL);
    CHECK_INT(signal_parse("0"), -EINVAL);
    CHECK_INT(signal_parse("SIGIOT"), SIGABRT);
}
