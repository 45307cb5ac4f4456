/* coracle doctor: checks this machine for what coracle needs. A check is a function in the table at the end; it says
 * what it found and, when that is not good, how to mend it. */
#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#include "cli/cli.h"

#define CAP_SYS_RESOURCE_BIT 24

enum grade { OK, NOTE, BAD };

struct finding {
    enum grade grade;
    char what[256], mend[256];
};

static void found(struct finding *f, enum grade g, const char *what, const char *mend) {
    f->grade = g;
    snprintf(f->what, sizeof(f->what), "%s", what);
    snprintf(f->mend, sizeof(f->mend), "%s", mend);
}

static bool file_has(const char *path, const char *text) {
    _cleanup_free_ char *s = NULL;
    return file_read(path, 1 << 20, &s, NULL) == 0 && strstr(s, text);
}

static void check_root(const struct layout *l, struct finding *f) {
    if (geteuid() == 0)
        found(f, OK, "runs as root", "");
    else
        found(f, BAD, "does not run as root", "use sudo: containers, the network and cgroups need it");
}

static void check_kernel(const struct layout *l, struct finding *f) {
    struct utsname u;
    uname(&u);
    int major = 0, minor = 0;
    sscanf(u.release, "%d.%d", &major, &minor);
    snprintf(f->what, sizeof(f->what), "kernel %s", u.release);
    if (major > 5 || (major == 5 && minor >= 10)) return;
    f->grade = BAD;
    snprintf(f->mend, sizeof(f->mend), "5.10 or newer is needed (nftables maps, clone3, overlayfs)");
}

static void check_cgroups(const struct layout *l, struct finding *f) {
    bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0, v1 = access("/sys/fs/cgroup/memory", F_OK) == 0;
    bool hybrid = v1 && access("/sys/fs/cgroup/unified/cgroup.controllers", F_OK) == 0;
    if (v2 && !file_has("/sys/fs/cgroup/cgroup.controllers", "memory"))
        found(f, BAD, "cgroup v2 without the memory controller",
              "boot with cgroup_enable=memory (Raspberry Pi: in cmdline.txt)");
    else if (v2)
        found(f, OK, "cgroup v2 with the memory controller", "");
    else if (hybrid)
        found(f, OK, "cgroups v1 beside v2 (hybrid): v1 is used", "");
    else if (v1)
        found(f, OK, "cgroups v1", "");
    else
        found(f, BAD, "no cgroups with a memory controller are mounted at /sys/fs/cgroup",
              "mount cgroup2 there, or boot with cgroup_enable=memory");
}

static void check_overlay(const struct layout *l, struct finding *f) {
    if (file_has("/proc/filesystems", "\toverlay\n"))
        found(f, OK, "overlayfs", "");
    else
        found(f, BAD, "overlayfs is missing", "modprobe overlay, and add it to /etc/modules");
}

static void check_programs(const struct layout *l, struct finding *f) {
    static const char *const dirs[] = {"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"};
    static const char *const names[] = {"crun", "conmon"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        bool have = false;
        for (size_t k = 0; k < ARRAY_LEN(dirs); k++)
            have |= access(arena_printf(l->a, "%s/%s", dirs[k], names[i]), X_OK) == 0;
        if (have) continue;
        found(f, BAD, arena_printf(l->a, "%s is not installed", names[i]),
              arena_printf(l->a, "apt-get install %s", names[i]));
        return;
    }
    found(f, OK, "crun and conmon are installed", "");
}

static void check_bridge(const struct layout *l, struct finding *f) {
    if (access("/proc/sys/net/bridge/bridge-nf-call-iptables", F_OK) == 0)
        found(f, OK, "bridged packets pass nftables", "");
    else
        found(f, NOTE, "bridged packets do not pass nftables",
              "modprobe br_netfilter: else pods of one node cannot reach each other through Services");
}

static void check_forwarding(const struct layout *l, struct finding *f) {
    if (file_has("/proc/sys/net/ipv4/ip_forward", "1"))
        found(f, OK, "IP forwarding is on", "");
    else
        found(f, NOTE, "IP forwarding is off", "coracle turns it on while it runs");
}

static bool port_free(uint16_t port) {
    int on = 1;
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static void check_ports(const struct layout *l, struct finding *f) {
    if (layout_supervisor(l)) {
        found(f, OK, "the ports are coracle's", "");
        return;
    }
    static const uint16_t ports[] = {6443, 10250};
    for (size_t i = 0; i < ARRAY_LEN(ports); i++) {
        if (port_free(ports[i])) continue;
        found(f, BAD, arena_printf(l->a, "port %u is taken by another program", ports[i]),
              "see which one with: ss -ltnp");
        return;
    }
    found(f, OK, "ports 6443 and 10250 are free", "");
}

static void check_dns(const struct layout *l, struct finding *f) {
    _cleanup_free_ char *s = NULL;
    if (file_read("/etc/resolv.conf", 65536, &s, NULL) < 0 || !strstr(s, "nameserver"))
        found(f, NOTE, "/etc/resolv.conf names no server",
              "names outside of the cluster will not resolve in pods; services do");
    else
        found(f, OK, "/etc/resolv.conf names a server", "");
}

static void check_firewall(const struct layout *l, struct finding *f) {
    _cleanup_free_ char *s = NULL;
    /* iptables' default policy, as the kernel shows it to the legacy tools; nftables hosts are seen by their service */
    if (file_read("/proc/net/ip_tables_names", 4096, &s, NULL) == 0 && strstr(s, "filter"))
        found(f, NOTE, "legacy iptables rules are loaded",
              "a FORWARD policy of DROP cuts pods off: iptables -P FORWARD ACCEPT");
    else
        found(f, OK, "no legacy iptables rules", "");
}

static void check_disk(const struct layout *l, struct finding *f) {
    struct statvfs st;
    const char *at = access(l->data, F_OK) == 0 ? l->data : "/var/lib";
    if (statvfs(at, &st) < 0) return found(f, NOTE, "the disk's free space cannot be read", "");
    double gb = (double)st.f_bavail * (double)st.f_frsize / 1e9,
           share = st.f_blocks ? (double)st.f_bavail / (double)st.f_blocks : 0;
    const char *what = arena_printf(l->a, "%.1f GB free at %s (%.0f%%)", gb, at, share * 100);
    if (gb < 0.5)
        found(f, BAD, what, "images and logs need room: free some");
    else if (share < 0.1)
        found(f, NOTE, what, "below 10% pods are evicted: free some");
    else
        found(f, OK, what, "");
}

static void check_capabilities(const struct layout *l, struct finding *f) {
    if (prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE_BIT) == 1)
        found(f, OK, "all capabilities that containers may need", "");
    else
        found(f, NOTE, "CAP_SYS_RESOURCE is missing",
              "containers cannot be protected from the OOM killer; everything else works");
}

static const struct {
    const char *name;
    void (*check)(const struct layout *l, struct finding *f);
} checks[] = {
    {"user", check_root},         {"kernel", check_kernel},         {"cgroups", check_cgroups},
    {"overlayfs", check_overlay}, {"programs", check_programs},     {"capabilities", check_capabilities},
    {"bridge", check_bridge},     {"forwarding", check_forwarding}, {"ports", check_ports},
    {"dns", check_dns},           {"firewall", check_firewall},     {"disk", check_disk},
};

int cmd_doctor(int argc, char **argv) {
    static const char *const grades[] = {"ok", "note", "BAD"};
    _cleanup_arena_ struct arena *a = arena_new();
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN};
    const struct flag flags[] = {LAYOUT_FLAGS(l), {0}};
    flags_main("coracle doctor", "coracle doctor checks this machine. Exit status 0: nothing is in the way.", flags,
               argc, argv, 0);
    unsigned bad = 0;
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        struct finding f = {0};
        checks[i].check(&l, &f);
        printf("%-5s %-13s %s\n", grades[f.grade], checks[i].name, f.what);
        if (f.grade != OK && f.mend[0]) printf("%-5s %-13s -> %s\n", "", "", f.mend);
        bad += f.grade == BAD;
    }
    printf(bad ? "\n%u of these must be mended first.\n" : "\nThis machine can run coracle.\n", bad);
    return bad != 0;
}
