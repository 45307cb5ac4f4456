#include "spec.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "proc.h"

static const char default_path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* By number; the kernel's list. */
static const char *const cap_names[] = {"CHOWN",
                                        "DAC_OVERRIDE",
                                        "DAC_READ_SEARCH",
                                        "FOWNER",
                                        "FSETID",
                                        "KILL",
                                        "SETGID",
                                        "SETUID",
                                        "SETPCAP",
                                        "LINUX_IMMUTABLE",
                                        "NET_BIND_SERVICE",
                                        "NET_BROADCAST",
                                        "NET_ADMIN",
                                        "NET_RAW",
                                        "IPC_LOCK",
                                        "IPC_OWNER",
                                        "SYS_MODULE",
                                        "SYS_RAWIO",
                                        "SYS_CHROOT",
                                        "SYS_PTRACE",
                                        "SYS_PACCT",
                                        "SYS_ADMIN",
                                        "SYS_BOOT",
                                        "SYS_NICE",
                                        "SYS_RESOURCE",
                                        "SYS_TIME",
                                        "SYS_TTY_CONFIG",
                                        "MKNOD",
                                        "LEASE",
                                        "AUDIT_WRITE",
                                        "AUDIT_CONTROL",
                                        "SETFCAP",
                                        "MAC_OVERRIDE",
                                        "MAC_ADMIN",
                                        "SYSLOG",
                                        "WAKE_ALARM",
                                        "BLOCK_SUSPEND",
                                        "AUDIT_READ",
                                        "PERFMON",
                                        "BPF",
                                        "CHECKPOINT_RESTORE"};

/* What an ordinary container gets (the set docker made customary). */
static const char *const cap_defaults[] = {
    "CHOWN",  "DAC_OVERRIDE", "FSETID",  "FOWNER",           "MKNOD",      "NET_RAW", "SETGID",
    "SETUID", "SETFCAP",      "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL",    "AUDIT_WRITE"};

static int cap_number(const char *name) {
    if (strncasecmp(name, "CAP_", 4) == 0) name += 4;
    for (size_t i = 0; i < ARRAY_LEN(cap_names); i++)
        if (strcasecmp(name, cap_names[i]) == 0) return (int)i;
    return -1;
}

static bool is_all(const char *name) { return strcasecmp(name, "ALL") == 0; }

static int change_caps(uint64_t *set, const struct str_vec *v, bool add, struct err *e) {
    for (size_t i = 0; i < v->n; i++) {
        int n = cap_number(v->items[i]);
        if (is_all(v->items[i])) continue;
        if (n < 0) return err_set(e, -EINVAL, "unknown capability %s", v->items[i]);
        *set = add ? *set | UINT64_C(1) << n : *set & ~(UINT64_C(1) << n);
    }
    return 0;
}

static bool has_all(const struct str_vec *v) {
    for (size_t i = 0; i < v->n; i++)
        if (is_all(v->items[i])) return true;
    return false;
}

int spec_capabilities(struct arena *a, const struct cri_capability *c, bool privileged, struct json **out,
                      struct err *e) {
    uint64_t all = 0, set = 0;
    for (size_t i = 0; i < ARRAY_LEN(cap_names); i++)
        if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1) all |= UINT64_C(1) << i; /* nobody can give more than he has */
    for (size_t i = 0; i < ARRAY_LEN(cap_defaults); i++) set |= UINT64_C(1) << cap_number(cap_defaults[i]);
    if (privileged) set = all;
    if (c && !privileged) { /* ALL first, then the single ones: "drop ALL, add X" is X, "add ALL, drop X" all but X */
        if (has_all(&c->add_capabilities)) set = all;
        if (has_all(&c->drop_capabilities)) set = 0;
        int r = change_caps(&set, &c->add_capabilities, true, e);
        if (r == 0) r = change_caps(&set, &c->drop_capabilities, false, e);
        if (r < 0) return r;
    }
    set &= all;
    *out = json_array(a);
    for (size_t i = 0; i < ARRAY_LEN(cap_names); i++)
        if (set & UINT64_C(1) << i) json_append(a, *out, json_strf(a, "CAP_%s", cap_names[i]));
    return 0;
}

/* ---- process ---- */

static struct json *build_args(struct arena *a, const struct spec_input *in) {
    const struct cri_container_config *c = in->config;
    struct json *args = json_array(a);
    for (size_t i = 0; i < c->command.n; i++) json_append(a, args, json_str(a, c->command.items[i]));
    if (c->command.n == 0)
        for (size_t i = 0; i < in->image->n_entrypoint; i++)
            json_append(a, args, json_str(a, in->image->entrypoint[i]));
    for (size_t i = 0; i < c->args.n; i++) json_append(a, args, json_str(a, c->args.items[i]));
    if (c->command.n == 0 && c->args.n == 0)
        for (size_t i = 0; i < in->image->n_cmd; i++) json_append(a, args, json_str(a, in->image->cmd[i]));
    return args;
}

void spec_set_env(struct arena *a, struct json *env, const char *entry) {
    size_t key = strcspn(entry, "=") + 1;
    for (size_t i = 0; i < json_len(env); i++) {
        if (strncmp(json_as_str(json_item(env, i)), entry, key) != 0) continue;
        env->items[i] = json_str(a, entry);
        return;
    }
    json_append(a, env, json_str(a, entry));
}

static struct json *build_env(struct arena *a, const struct spec_input *in, const struct proc_user *user) {
    struct json *env = json_array(a);
    spec_set_env(a, env, default_path);
    if (!str_empty(in->hostname)) spec_set_env(a, env, arena_printf(a, "HOSTNAME=%s", in->hostname));
    if (in->config->tty) spec_set_env(a, env, "TERM=xterm");
    spec_set_env(a, env, arena_printf(a, "HOME=%s", user->home));
    for (size_t i = 0; i < in->image->n_env; i++)
        if (strchr(in->image->env[i], '=')) spec_set_env(a, env, in->image->env[i]);
    for (size_t i = 0; i < in->config->envs.n; i++) {
        const struct cri_key_value *kv = &in->config->envs.items[i];
        spec_set_env(a, env,
                     arena_printf(a, "%s=%.*s", str_or_empty(kv->key), (int)kv->value.n, (const char *)kv->value.p));
    }
    return env;
}

static int resolve_user(struct arena *a, const struct spec_input *in,
                        const struct cri_linux_container_security_context *sc, struct proc_user *u, struct err *e) {
    const char *who = in->image->user;
    bool merge = !sc || sc->supplemental_groups_policy == CRI_SUPPLEMENTAL_GROUPS_POLICY_MERGE;
    if (sc && !str_empty(sc->run_as_username)) who = sc->run_as_username;
    if (sc && sc->run_as_user) who = arena_printf(a, "%lld", (long long)sc->run_as_user->value);
    if (sc && sc->run_as_group && !sc->run_as_user && str_empty(sc->run_as_username) && str_empty(who))
        return err_set(e, -EINVAL, "run_as_group without a user");
    int r = user_lookup(a, in->rootfs, who, merge, u, e);
    if (r < 0) return r;
    if (sc && sc->run_as_group) u->gid = (uint32_t)sc->run_as_group->value;
    for (size_t i = 0; sc && i < sc->supplemental_groups.n; i++)
        user_add_group(a, u, (uint32_t)sc->supplemental_groups.items[i]);
    user_add_group(a, u, u->gid);
    /* the primary group is told first */
    for (size_t i = u->n_groups; i-- > 1;)
        if (u->groups[i] == u->gid) {
            u->groups[i] = u->groups[i - 1];
            u->groups[i - 1] = u->gid;
        }
    return 0;
}

/* Without CAP_SYS_RESOURCE a process cannot make itself (or a child) less killable than it is. */
static int64_t clamp_oom_score(int64_t want) {
    char text[32];
    int64_t own = 0;
    want = want < -1000 ? -1000 : want > 1000 ? 1000 : want;
    if (prctl(PR_CAPBSET_READ, 24 /* CAP_SYS_RESOURCE */, 0, 0, 0) == 1) return want;
    if (fs_read_str("/proc/self/oom_score_adj", text, sizeof(text)) == 0) str_to_i64(text, &own);
    return MAX_OF(want, own);
}

/* The name of the AppArmor profile a container is to run under; NULL: none is asked for. */
static const char *apparmor_profile(const struct cri_linux_container_security_context *sc) {
    const char *old = sc ? str_or_empty(sc->apparmor_profile) : "";
    const struct cri_security_profile *p = sc ? sc->apparmor : NULL;
    const char *name = p && p->profile_type == CRI_SECURITY_PROFILE_PROFILE_TYPE_LOCALHOST    ? p->localhost_ref
                       : p && p->profile_type == CRI_SECURITY_PROFILE_PROFILE_TYPE_UNCONFINED ? "unconfined"
                                                                                              : NULL;
    if (!p && str_has_prefix(old, "localhost/")) name = old + strlen("localhost/");
    return access("/sys/kernel/security/apparmor/profiles", F_OK) == 0 ? name : NULL;
}

static int build_process(struct arena *a, const struct spec_input *in, struct spec_result *out, struct err *e) {
    const struct cri_linux_container_config *lc = in->config->linux;
    const struct cri_linux_container_security_context *sc = lc ? lc->security_context : NULL;
    struct json *p = json_object(a), *args = build_args(a, in), *caps;
    if (json_len(args) == 0) return err_set(e, -EINVAL, "no command specified");
    int r = resolve_user(a, in, sc, &out->user, e);
    if (r == 0) r = spec_capabilities(a, sc ? sc->capabilities : NULL, sc && sc->privileged, &caps, e);
    if (r < 0) return r;
    json_set_bool(a, p, "terminal", in->config->tty);
    struct json *user = json_object(a), *groups = json_array(a);
    json_set_int(a, user, "uid", out->user.uid);
    json_set_int(a, user, "gid", out->user.gid);
    for (size_t i = 0; i < out->user.n_groups; i++) json_append(a, groups, json_int(a, out->user.groups[i]));
    json_set(a, user, "additionalGids", groups);
    json_set(a, p, "user", user);
    json_set(a, p, "args", args);
    json_set(a, p, "env", build_env(a, in, &out->user));
    const char *cwd = !str_empty(in->config->working_dir) ? in->config->working_dir : in->image->workdir;
    json_set_str(a, p, "cwd", str_empty(cwd) ? "/" : cwd);
    struct json *sets = json_object(a);
    json_set(a, sets, "bounding", caps);
    json_set(a, sets, "effective", caps);
    json_set(a, sets, "permitted", caps);
    json_set(a, p, "capabilities", sets);
    json_set_bool(a, p, "noNewPrivileges", sc && sc->no_new_privs);
    if (lc && lc->resources) json_set_int(a, p, "oomScoreAdj", clamp_oom_score(lc->resources->oom_score_adj));
    const char *profile = apparmor_profile(sc);
    if (profile) json_set_str(a, p, "apparmorProfile", profile);
    json_set(a, out->spec, "process", p);
    return 0;
}

struct json *spec_exec_process(struct arena *a, const struct json *spec, const struct str_vec *cmd, bool tty) {
    struct json *p = json_clone(a, json_get(spec, "process")), *args = json_array(a);
    for (size_t i = 0; i < cmd->n; i++) json_append(a, args, json_str(a, cmd->items[i]));
    json_set(a, p, "args", args);
    json_set_bool(a, p, "terminal", tty);
    if (tty) spec_set_env(a, json_ensure_array(a, p, "env"), "TERM=xterm");
    return p;
}

/* ---- linux ---- */

struct json *spec_resources(struct arena *a, const struct cri_linux_container_resources *r) {
    struct json *o = json_object(a), *cpu = json_object(a), *mem = json_object(a);
    if (r->cpu_shares > 0) json_set_int(a, cpu, "shares", r->cpu_shares);
    if (r->cpu_quota > 0) json_set_int(a, cpu, "quota", r->cpu_quota); /* -1, none, is what a new cgroup has */
    if (r->cpu_period > 0) json_set_int(a, cpu, "period", r->cpu_period);
    if (!str_empty(r->cpuset_cpus)) json_set_str(a, cpu, "cpus", r->cpuset_cpus);
    if (!str_empty(r->cpuset_mems)) json_set_str(a, cpu, "mems", r->cpuset_mems);
    if (json_len(cpu)) json_set(a, o, "cpu", cpu);
    if (r->memory_limit_in_bytes > 0) {
        json_set_int(a, mem, "limit", r->memory_limit_in_bytes);
        if (r->memory_swap_limit_in_bytes > 0) json_set_int(a, mem, "swap", r->memory_swap_limit_in_bytes);
    }
    if (json_len(mem)) json_set(a, o, "memory", mem);
    for (size_t i = 0; i < r->hugepage_limits.n; i++) {
        struct json *h = json_object(a);
        json_set_str(a, h, "pageSize", r->hugepage_limits.items[i].page_size);
        json_set_int(a, h, "limit", (int64_t)r->hugepage_limits.items[i].limit);
        if (r->hugepage_limits.items[i].limit > 0) json_append(a, json_ensure_array(a, o, "hugepageLimits"), h);
    }
    for (size_t i = 0; i < r->unified.n; i++)
        json_set_str(a, json_ensure_object(a, o, "unified"), r->unified.items[i].key, r->unified.items[i].value);
    return o;
}

static void add_namespace(struct arena *a, struct json *list, const char *type, const char *path) {
    struct json *o = json_object(a);
    json_set_str(a, o, "type", type);
    if (path) json_set_str(a, o, "path", path);
    json_append(a, list, o);
}

static struct json *id_mappings(struct arena *a, const struct cri_id_mapping_vec *v) {
    struct json *list = json_array(a);
    for (size_t i = 0; i < v->n; i++) {
        struct json *m = json_object(a);
        json_set_int(a, m, "containerID", v->items[i].container_id);
        json_set_int(a, m, "hostID", v->items[i].host_id);
        json_set_int(a, m, "size", v->items[i].length);
        json_append(a, list, m);
    }
    return list;
}

static int build_namespaces(struct arena *a, const struct spec_input *in, struct json *linux_, struct err *e) {
    static const struct cri_namespace_option none = {.pid = CRI_NAMESPACE_MODE_CONTAINER};
    const struct cri_linux_container_config *lc = in->config->linux;
    const struct cri_namespace_option *o = lc && lc->security_context && lc->security_context->namespace_options
                                               ? lc->security_context->namespace_options
                                               : &none;
    struct json *list = json_array(a);
    if (in->user) {
        add_namespace(a, list, "user", arena_printf(a, "%s/user", in->ns_dir));
        json_set(a, linux_, "uidMappings", id_mappings(a, &in->user->uids));
        json_set(a, linux_, "gidMappings", id_mappings(a, &in->user->gids));
    }
    add_namespace(a, list, "mount", NULL);
    add_namespace(a, list, "uts", arena_printf(a, "%s/uts", in->ns_dir));
    if (o->network != CRI_NAMESPACE_MODE_NODE) add_namespace(a, list, "network", arena_printf(a, "%s/net", in->ns_dir));
    if (o->ipc != CRI_NAMESPACE_MODE_NODE) add_namespace(a, list, "ipc", arena_printf(a, "%s/ipc", in->ns_dir));
    if (o->pid == CRI_NAMESPACE_MODE_CONTAINER) add_namespace(a, list, "pid", NULL);
    if (o->pid == CRI_NAMESPACE_MODE_POD) add_namespace(a, list, "pid", arena_printf(a, "%s/pid", in->ns_dir));
    if (o->pid == CRI_NAMESPACE_MODE_TARGET) {
        if (in->target_pid <= 0) return err_set(e, -EINVAL, "the target container is not running");
        add_namespace(a, list, "pid", arena_printf(a, "/proc/%d/ns/pid", (int)in->target_pid));
    }
    if (in->cgroup_v2) add_namespace(a, list, "cgroup", NULL);
    json_set(a, linux_, "namespaces", list);
    return 0;
}

static void add_device(struct arena *a, struct json *linux_, const char *host, const char *path, const char *access) {
    struct stat st;
    if (stat(host, &st) < 0 || !(S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))) return;
    const char *type = S_ISCHR(st.st_mode) ? "c" : "b";
    struct json *d = json_object(a), *allow = json_object(a);
    json_set_str(a, d, "path", path);
    json_set_str(a, d, "type", type);
    json_set_int(a, d, "major", (int64_t)major(st.st_rdev));
    json_set_int(a, d, "minor", (int64_t)minor(st.st_rdev));
    json_set_int(a, d, "fileMode", st.st_mode & 0777);
    json_set_int(a, d, "uid", st.st_uid);
    json_set_int(a, d, "gid", st.st_gid);
    json_append(a, json_ensure_array(a, linux_, "devices"), d);
    if (!access) return;
    json_set_bool(a, allow, "allow", true);
    json_set_str(a, allow, "type", type);
    json_set_int(a, allow, "major", (int64_t)major(st.st_rdev));
    json_set_int(a, allow, "minor", (int64_t)minor(st.st_rdev));
    json_set_str(a, allow, "access", access);
    json_append(a, json_ensure_array(a, json_ensure_object(a, linux_, "resources"), "devices"), allow);
}

enum { SPEC_DEVICE_DEPTH = 3 };

/* Every device node of a folder of the host: what a privileged container sees. */
static void add_host_devices(struct arena *a, struct json *linux_, const char *dir, int depth) {
    static const char *const skip[] = {"pts",       "shm",  "fd",   "mqueue", "console", "ptmx",    ".udev",
                                       "hugepages", "null", "zero", "full",   "random",  "urandom", "tty"};
    const char **names;
    size_t n;
    if (depth > SPEC_DEVICE_DEPTH || fs_list(a, dir, &names, &n) < 0) return;
    for (size_t i = 0; i < n; i++) {
        bool skipped = false;
        for (size_t k = 0; depth == 0 && k < ARRAY_LEN(skip); k++) skipped |= str_eq(names[i], skip[k]);
        const char *path = arena_printf(a, "%s/%s", dir, names[i]);
        struct stat st;
        if (skipped || lstat(path, &st) < 0) continue;
        if (S_ISDIR(st.st_mode))
            add_host_devices(a, linux_, path, depth + 1);
        else if (!S_ISLNK(st.st_mode))
            add_device(a, linux_, path, path, NULL);
    }
}

static void build_devices(struct arena *a, const struct spec_input *in, struct json *linux_, bool privileged) {
    struct json *rule = json_object(a);
    json_set_bool(a, rule, "allow", privileged);
    json_set_str(a, rule, "access", "rwm");
    json_append(a, json_ensure_array(a, json_ensure_object(a, linux_, "resources"), "devices"), rule);
    if (privileged) add_host_devices(a, linux_, "/dev", 0);
    for (size_t i = 0; i < in->config->devices.n; i++) {
        const struct cri_device *d = &in->config->devices.items[i];
        add_device(a, linux_, str_or_empty(d->host_path),
                   str_empty(d->container_path) ? d->host_path : d->container_path,
                   str_empty(d->permissions) ? "rwm" : d->permissions);
    }
}

static struct json *path_list(struct arena *a, const struct str_vec *v) {
    struct json *out = json_array(a);
    for (size_t i = 0; i < v->n; i++) json_append(a, out, json_str(a, v->items[i]));
    return out;
}

static int check_lsm(const struct cri_linux_container_security_context *sc, struct err *e) {
    bool wanted = sc && ((sc->apparmor && sc->apparmor->profile_type == CRI_SECURITY_PROFILE_PROFILE_TYPE_LOCALHOST) ||
                         str_has_prefix(str_or_empty(sc->apparmor_profile), "localhost/"));
    if (wanted && access("/sys/kernel/security/apparmor/profiles", F_OK) < 0)
        return err_set(e, -ENOTSUP, "this machine has no AppArmor");
    return 0; /* SELinux labels do nothing without SELinux: ignored, as other runtimes do */
}

static int build_linux(struct arena *a, const struct spec_input *in, struct json *spec, struct err *e) {
    const struct cri_linux_container_config *lc = in->config->linux;
    const struct cri_linux_container_security_context *sc = lc ? lc->security_context : NULL;
    bool privileged = sc && sc->privileged;
    struct json *l = json_object(a), *seccomp = NULL;
    json_set_str(a, l, "cgroupsPath", in->cgroups_path);
    if (lc && lc->resources) json_set(a, l, "resources", spec_resources(a, lc->resources));
    int r = check_lsm(sc, e);
    if (r == 0) r = build_namespaces(a, in, l, e);
    if (r < 0) return r;
    build_devices(a, in, l, privileged);
    if (sc && !privileged) {
        if (sc->masked_paths.n) json_set(a, l, "maskedPaths", path_list(a, &sc->masked_paths));
        if (sc->readonly_paths.n) json_set(a, l, "readonlyPaths", path_list(a, &sc->readonly_paths));
        const struct json *caps = json_at(spec, "process", "capabilities", "bounding", NULL);
        r = spec_seccomp(a, sc->seccomp, caps, &seccomp, e);
        if (r < 0) return r;
        bool dflt = seccomp && sc->seccomp->profile_type == CRI_SECURITY_PROFILE_PROFILE_TYPE_RUNTIME_DEFAULT;
        const char *bpf = dflt && in->seccomp ? seccomp_compiled(in->seccomp, a, seccomp) : NULL;
        if (bpf)
            json_set_str(a, json_ensure_object(a, spec, "annotations"), "run.oci.seccomp_bpf_data", bpf);
        else if (seccomp)
            json_set(a, l, "seccomp", seccomp);
    }
    json_set(a, spec, "linux", l);
    return 0;
}

int spec_build(struct arena *a, const struct spec_input *in, struct spec_result *out, struct err *e) {
    const struct cri_linux_container_config *lc = in->config->linux;
    out->spec = json_object(a);
    json_set_str(a, out->spec, "ociVersion", "1.0.2");
    struct json *root = json_object(a), *notes = json_ensure_object(a, out->spec, "annotations");
    json_set_str(a, root, "path", in->rootfs);
    json_set_bool(a, root, "readonly", lc && lc->security_context && lc->security_context->readonly_rootfs);
    json_set(a, out->spec, "root", root);
    int r = build_process(a, in, out, e);
    if (r == 0) r = build_linux(a, in, out->spec, e);
    if (r == 0) r = spec_mounts(a, in, out->spec, e);
    json_set_str(a, notes, "io.kubernetes.cri.container-type", "container");
    json_set_str(a, notes, "io.kubernetes.cri.sandbox-id", in->sandbox_id);
    return r;
}
