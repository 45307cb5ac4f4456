/* The RuntimeDefault seccomp profile: an allow-list; everything else fails with EPERM, as if the kernel refused it.
 * Calls that make sense only with a capability are allowed with it. The selection follows what container engines have
 * agreed on over the years: no kernel modules, no keyrings, no clock setting, no new namespaces, no raw I/O ports.
 *
 * Compiling the list for three architectures takes a runtime 10 ms for each container. crun takes the compiled filter
 * as an annotation instead (run.oci.seccomp_bpf_data), so it is compiled once here for each set of capabilities. */
#include <pthread.h>
#include <seccomp.h>
#include <sys/mman.h>

#include "pkg/base/bytes.h"
#include "pkg/base/map.h"
#include "spec.h"

static const char allow_always[] =
    "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32 "
    "clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep "
    "clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 "
    "epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit "
    "exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 "
    "fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat "
    "fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait "
    "futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid "
    "getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid "
    "getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname "
    "getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 "
    "inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl "
    "ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 "
    "lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr "
    "lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat "
    "mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive "
    "mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync "
    "munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open "
    "pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv "
    "preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 "
    "pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg "
    "remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction "
    "rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 "
    "rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam "
    "sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr "
    "sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 "
    "send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid "
    "setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid "
    "setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid "
    "setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask "
    "sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync "
    "sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime "
    "timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime "
    "timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime "
    "utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

static const struct {
    const char *cap, *calls;
} allow_with[] = {
    {"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
    {"CAP_SYS_ADMIN",
     "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount "
     "open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"},
    {"CAP_SYS_BOOT", "reboot"},
    {"CAP_SYS_CHROOT", "chroot"},
    {"CAP_SYS_MODULE", "delete_module init_module finit_module"},
    {"CAP_SYS_PACCT", "acct"},
    {"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"},
    {"CAP_SYS_RAWIO", "iopl ioperm"},
    {"CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"},
    {"CAP_SYS_TTY_CONFIG", "vhangup"},
    {"CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
    {"CAP_SYSLOG", "syslog"},
    {"CAP_BPF", "bpf"},
    {"CAP_PERFMON", "perf_event_open"},
};

enum {
    NEW_NAMESPACE_FLAGS = 0x7E020000, /* CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET} and NEWNS */
    SECCOMP_EPERM = 1,
    SECCOMP_ENOSYS = 38,
    AF_VSOCK_NUMBER = 40,
};

static void add_names(struct arena *a, struct json *names, const char *list) {
    while (*list) {
        size_t n = strcspn(list, " ");
        json_append(a, names, json_strn(a, list, n));
        list += n + (list[n] == ' ');
    }
}

static struct json *add_rule(struct arena *a, struct json *rules, const char *names, const char *action,
                             int errno_ret) {
    struct json *r = json_object(a), *list = json_array(a);
    add_names(a, list, names);
    json_set(a, r, "names", list);
    json_set_str(a, r, "action", action);
    if (errno_ret) json_set_int(a, r, "errnoRet", errno_ret);
    json_append(a, rules, r);
    return r;
}

static void add_arg(struct arena *a, struct json *rule, int index, const char *op, int64_t value, int64_t value_two) {
    struct json *arg = json_object(a);
    json_set_int(a, arg, "index", index);
    json_set_int(a, arg, "value", value);
    if (value_two >= 0) json_set_int(a, arg, "valueTwo", value_two);
    json_set_str(a, arg, "op", op);
    json_append(a, json_ensure_array(a, rule, "args"), arg);
}

static bool has_cap(const struct json *caps, const char *name) {
    for (size_t i = 0; i < json_len(caps); i++)
        if (str_eq(json_as_str(json_item(caps, i)), name)) return true;
    return false;
}

static struct json *runtime_default(struct arena *a, const struct json *caps) {
    static const int64_t personalities[] = {0x0, 0x8, 0x20000, 0x20008, 0xffffffff};
    struct json *p = json_object(a), *rules = json_array(a), *arches = json_array(a);
    json_set_str(a, p, "defaultAction", "SCMP_ACT_ERRNO");
    json_set_int(a, p, "defaultErrnoRet", SECCOMP_EPERM);
#if defined(__x86_64__)
    add_names(a, arches, "SCMP_ARCH_X86_64 SCMP_ARCH_X86 SCMP_ARCH_X32");
#elif defined(__aarch64__)
    add_names(a, arches, "SCMP_ARCH_AARCH64 SCMP_ARCH_ARM");
#endif
    if (json_len(arches)) json_set(a, p, "architectures", arches);
    add_rule(a, rules, allow_always, "SCMP_ACT_ALLOW", 0);
    add_arg(a, add_rule(a, rules, "socket", "SCMP_ACT_ALLOW", 0), 0, "SCMP_CMP_NE", AF_VSOCK_NUMBER, -1);
    for (size_t i = 0; i < ARRAY_LEN(personalities); i++)
        add_arg(a, add_rule(a, rules, "personality", "SCMP_ACT_ALLOW", 0), 0, "SCMP_CMP_EQ", personalities[i], -1);
    for (size_t i = 0; i < ARRAY_LEN(allow_with); i++)
        if (has_cap(caps, allow_with[i].cap)) add_rule(a, rules, allow_with[i].calls, "SCMP_ACT_ALLOW", 0);
    if (!has_cap(caps, "CAP_SYS_ADMIN")) {
        add_arg(a, add_rule(a, rules, "clone", "SCMP_ACT_ALLOW", 0), 0, "SCMP_CMP_MASKED_EQ", NEW_NAMESPACE_FLAGS, 0);
        add_rule(a, rules, "clone3", "SCMP_ACT_ERRNO", SECCOMP_ENOSYS); /* flags in memory: libcs fall back to clone */
    }
    json_set(a, p, "syscalls", rules);
    return p;
}

int spec_seccomp(struct arena *a, const struct cri_security_profile *p, const struct json *caps, struct json **out,
                 struct err *e) {
    *out = NULL;
    if (!p || p->profile_type == CRI_SECURITY_PROFILE_PROFILE_TYPE_UNCONFINED) return 0;
    if (p->profile_type == CRI_SECURITY_PROFILE_PROFILE_TYPE_RUNTIME_DEFAULT) {
        *out = runtime_default(a, caps);
        return 0;
    }
    const char *path = str_or_empty(p->localhost_ref);
    if (str_has_prefix(path, "localhost/")) path += strlen("localhost/");
    int r = fs_read_json(a, path, out, e);
    return r < 0 ? err_wrap(e, "seccomp profile") : 0;
}

/* ---- compiled ---- */

enum { SECCOMP_CACHE_MAX = 32, SECCOMP_BPF_MAX = 512 << 10 };

struct seccomp_cache {
    pthread_mutex_t lock;
    struct map filters; /* by the profile's SHA-256: base64 text */
};

struct seccomp_cache *seccomp_cache_new(void) {
    struct seccomp_cache *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

struct seccomp_cache *seccomp_cache_free(struct seccomp_cache *c) {
    if (!c) return NULL;
    map_done_with(&c->filters, free);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return NULL;
}

static uint32_t action_of(const struct json *rule) {
    if (str_eq(json_get_str(rule, "action"), "SCMP_ACT_ALLOW")) return SCMP_ACT_ALLOW;
    return SCMP_ACT_ERRNO((uint16_t)json_get_int(rule, "errnoRet", SECCOMP_EPERM));
}

static enum scmp_compare compare_of(const char *op) {
    if (str_eq(op, "SCMP_CMP_NE")) return SCMP_CMP_NE;
    return str_eq(op, "SCMP_CMP_MASKED_EQ") ? SCMP_CMP_MASKED_EQ : SCMP_CMP_EQ;
}

static int add_compiled(scmp_filter_ctx ctx, const struct json *rule) {
    const struct json *arg = json_item(json_get(rule, "args"), 0), *name; /* the profile above has at most one */
    struct scmp_arg_cmp cmp = {0};
    if (arg) {
        cmp.arg = (unsigned)json_get_int(arg, "index", 0);
        cmp.op = compare_of(json_get_str(arg, "op"));
        cmp.datum_a = (uint64_t)json_get_int(arg, "value", 0);
        cmp.datum_b = (uint64_t)json_get_int(arg, "valueTwo", 0);
    }
    JSON_FOREACH(name, json_get(rule, "names")) {
        int nr = seccomp_syscall_resolve_name(json_as_str(name));
        if (nr == __NR_SCMP_ERROR) continue; /* newer than the library */
        int r = seccomp_rule_add_array(ctx, action_of(rule), nr, arg ? 1 : 0, arg ? &cmp : NULL);
        if (r < 0) return r;
    }
    return 0;
}

static int export_filter(scmp_filter_ctx ctx, char **text) {
    _cleanup_close_ int fd = memfd_create("seccomp", MFD_CLOEXEC);
    struct stat st;
    int r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);
    if (r == 0 && (fstat(fd, &st) < 0 || lseek(fd, 0, SEEK_SET) < 0)) r = -errno;
    if (r == 0 && st.st_size > SECCOMP_BPF_MAX) r = -EFBIG;
    if (r < 0) return r;
    _cleanup_free_ char *raw = xmalloc((size_t)st.st_size);
    r = fd_read_all(fd, raw, (size_t)st.st_size);
    if (r < 0) return r;
    *text = xcalloc(1, base64_encoded_len((size_t)st.st_size) + 1);
    base64_encode(raw, (size_t)st.st_size, *text);
    return 0;
}

/* The profile made by runtime_default as a filter in base64; the caller frees it. */
static int compile(const struct json *profile, char **text) {
    const struct json *rule, *arch;
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(SECCOMP_EPERM));
    int r = ctx ? seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) : -ENOMEM; /* a binary tree, not a list */
    JSON_FOREACH(arch, json_get(profile, "architectures")) {
        char name[32]; /* SCMP_ARCH_X86_64 is x86_64 there */
        const char *from = json_as_str(arch) + strlen("SCMP_ARCH_");
        size_t n = 0;
        for (; from[n] && n < sizeof(name) - 1; n++)
            name[n] = (char)(from[n] | (from[n] >= 'A' && from[n] <= 'Z' ? 0x20 : 0));
        name[n] = 0;
        if (r == 0) r = seccomp_arch_add(ctx, seccomp_arch_resolve_name(name));
        if (r == -EEXIST) r = 0;
    }
    JSON_FOREACH(rule, json_get(profile, "syscalls"))
        if (r == 0) r = add_compiled(ctx, rule);
    if (r == 0) r = export_filter(ctx, text);
    seccomp_release(ctx);
    return r;
}

const char *seccomp_compiled(struct seccomp_cache *c, struct arena *a, const struct json *profile) {
    char key[SHA256_HEX + 1], *text = NULL;
    const char *source = json_text(a, profile), *copy = NULL;
    sha256_of(source, strlen(source), key);
    pthread_mutex_lock(&c->lock);
    text = map_get(&c->filters, key);
    if (!text && compile(profile, &text) == 0) {
        if (c->filters.n >= SECCOMP_CACHE_MAX) map_done_with(&c->filters, free);
        map_put(&c->filters, key, text);
    }
    if (text) copy = arena_strdup(a, text);
    pthread_mutex_unlock(&c->lock);
    return copy;
}
