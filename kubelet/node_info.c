/* See node_info.h. */
#include "kubelet/node_info.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#include "kubelet/swap.h"
#include "pkg/base/flags.h"
#include "pkg/netlink/netlink.h"

static int64_t file_number(const char *path) {
    _cleanup_free_ char *text = NULL;
    int64_t v = 0;
    if (file_read(path, 64, &text, NULL) < 0) return 0;
    text[strcspn(text, "\n")] = '\0';
    return str_to_i64(text, &v) == 0 ? v : 0;
}

void node_measure(const char *root_dir, struct node_sizes *out) {
    struct statvfs fs;
    *out = (struct node_sizes){.cpus = sysconf(_SC_NPROCESSORS_ONLN),
                               .memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE)};
    const char *dirs[] = {root_dir, "/var", "/"};
    for (size_t i = 0; i < ARRAY_LEN(dirs) && !out->storage; i++)
        if (dirs[i] && statvfs(dirs[i], &fs) == 0) out->storage = (int64_t)fs.f_blocks * (int64_t)fs.f_frsize;
    out->huge_2m = file_number("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages") * 2 * 1024 * 1024;
}

static const char *first_line(struct arena *a, const char *path) {
    _cleanup_free_ char *text = NULL;
    if (file_read(path, 4096, &text, NULL) < 0) return "";
    text[strcspn(text, "\n")] = '\0';
    return arena_strdup(a, text);
}

static const char *os_image(struct arena *a) {
    _cleanup_free_ char *text = NULL;
    if (file_read("/etc/os-release", 65536, &text, NULL) < 0) return "Linux";
    char *s = strstr(text, "PRETTY_NAME=");
    if (!s) return "Linux";
    s += strlen("PRETTY_NAME=");
    if (*s == '"') s++;
    s[strcspn(s, "\"\n")] = '\0';
    return arena_strdup(a, s);
}

void node_system_info(struct arena *a, struct core_node_system_info *out) {
    struct utsname u;
    uname(&u);
    *out = (struct core_node_system_info){0};
    out->machine_id = first_line(a, "/etc/machine-id");
    out->system_uuid = first_line(a, "/sys/class/dmi/id/product_uuid");
    if (!*out->system_uuid) out->system_uuid = out->machine_id;
    out->boot_id = first_line(a, "/proc/sys/kernel/random/boot_id");
    out->kernel_version = arena_strdup(a, u.release);
    out->os_image = os_image(a);
    struct swap swap = swap_of_machine("/sys/fs/cgroup", "/proc/meminfo", "");
    if (swap.amount > 0) {
        int64_t *capacity = arena_alloc(a, sizeof(*capacity));
        *capacity = swap.amount;
        out->swap = arena_zalloc(a, sizeof(*out->swap));
        out->swap->capacity = capacity;
    }
    out->kubelet_version = CORACLE_VERSION;
    out->kube_proxy_version = "";
    out->operating_system = "linux";
    out->architecture = str_eq(u.machine, "x86_64")    ? "amd64"
                        : str_eq(u.machine, "aarch64") ? "arm64"
                        : str_eq(u.machine, "armv7l")  ? "arm"
                                                       : arena_strdup(a, u.machine);
}

/* The source address for an IPv6 destination that only the default route leads to. Nothing is sent. */
static bool route_source6(const char *to, char out[64]) {
    _cleanup_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
    socklen_t len = sizeof(a);
    return fd >= 0 && inet_pton(AF_INET6, to, &a.sin6_addr) == 1 && connect(fd, (struct sockaddr *)&a, len) == 0 &&
           getsockname(fd, (struct sockaddr *)&a, &len) == 0 && inet_ntop(AF_INET6, &a.sin6_addr, out, 64);
}

static bool first_interface6(char out[64]) {
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all) < 0) return false;
    for (struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET6 || (i->ifa_flags & IFF_LOOPBACK) ||
            !(i->ifa_flags & IFF_UP))
            continue;
        const struct in6_addr *addr = &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr;
        found = !IN6_IS_ADDR_LINKLOCAL(addr) && inet_ntop(AF_INET6, addr, out, 64) != NULL;
    }
    freeifaddrs(all);
    return found;
}

size_t node_addresses(const char *node_ip, const char *was, char out[][64], size_t max) {
    size_t n = 0;
    for (const char *s = str_or_empty(node_ip); *s && n < max;) {
        size_t len = strcspn(s, ",");
        if (len && len < 64) {
            memcpy(out[n], s, len);
            out[n++][len] = '\0';
        }
        s += len + (s[len] == ',');
    }
    if (n) return n;
    if (netlink_has_address(was)) {
        snprintf(out[n++], 64, "%s", was);
        return n;
    }
    if (n < max && netlink_node_address(out[n], NULL) == 0) n++;
    /* A documentation address: routed like any other, and nobody's. */
    if (!n && (route_source6("2001:db8::1", out[n]) || first_interface6(out[n]))) n++;
    if (!n) {
        memcpy(out[0], "127.0.0.1", sizeof("127.0.0.1"));
        n = 1;
    }
    return n;
}
