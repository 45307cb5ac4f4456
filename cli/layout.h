/* Where a node keeps things, and what its cluster looks like: shared by all subcommands.
 *
 *   DATA (/var/lib/coracle)            RUN (/run/coracle)
 *     coracle.json   how it was set up   supervisor.pid   locked by the supervisor while it runs
 *     pki/           CA, certificates    components.json  what runs (written by the supervisor)
 *     *.kubeconfig   one per program     shim.sock        CRI
 *     state.db       the sqlite store    shim/            sandboxes and containers
 *     etcd/          the etcd store
 *     containers/    images, layers
 *     kubelet/       volumes, checkpoints
 *     manifests/     static pods
 *     log/           a file per program
 *     kubelet.yaml     a KubeletConfiguration, when the operator put one there
 *     registries.yaml  mirrors of image registries, likewise (shim/registries.h); else /etc/coracle/registries.yaml
 */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/base/flags.h"

/* Programs whose flags an operator may add to. */
enum layout_args { ARGS_APISERVER, ARGS_CONTROLLERS, ARGS_SCHEDULER, ARGS_KUBELET, ARGS_PROXY, LAYOUT_ARGS };

struct layout {
    struct arena *a;
    const char *data, *run; /* folders */
    /* settings, stored in DATA/coracle.json by the first `up` */
    const char *role;  /* "server": control plane and node; "agent": node that joined */
    const char *store; /* "sqlite" or "etcd" */
    const char *node_name;
    const char *node_ip; /* as given, or that of the machine now; kept in coracle.json only when it was given */
    bool node_ip_found;  /* nobody gave it: the programs find it themselves, and follow it when it changes */
    const char *certificate_validity; /* how long certificates are good for, NULL: a year */
    const char *server;               /* URL of the API server for the node's programs */
    int64_t port;                     /* of the API server */
    const char *cluster_cidr, *service_cidr, *cluster_dns, *cluster_domain, *bridge;
    const char *runtime;       /* CRI endpoint of a runtime that somebody else runs; NULL: our shim, on RUN/shim.sock */
    const char *legacy_tokens; /* "true": ServiceAccounts have Secrets with tokens, as before 1.24 */
    const char *local_storage; /* "true": there is a default StorageClass, local-path */
    /* lists of the operator's flags, which win over ours: {"audit-log-path=/var/log/a", NULL}; or NULL */
    const char *const *args[LAYOUT_ARGS];
};

#define LAYOUT_DATA "/var/lib/coracle"
#define LAYOUT_RUN "/run/coracle"

/* Fills defaults, then what DATA/coracle.json says. -ENOENT when nothing was set up there. */
int layout_load(struct layout *l, struct err *e);
/* Writes DATA/coracle.json. */
int layout_save(const struct layout *l, struct err *e);
/* Takes over the lists that flags have filled (LAYOUT_NODE_ARGS, LAYOUT_SERVER_ARGS); empty ones leave what is there. */
void layout_take_args(struct layout *l, struct flag_list lists[LAYOUT_ARGS]);
/* Fills what is still NULL: node name from the host, address from the default route, ... */
int layout_complete(struct layout *l, struct err *e);
/* DATA/name, RUN/name, in the layout's arena. */
char *layout_data(const struct layout *l, const char *name);
char *layout_run(const struct layout *l, const char *name);
/* Where the kubelet keeps volumes. Manifests of others (CSI drivers, log collectors) name /var/lib/kubelet, so a cluster in the
 * usual place shows its folder there, unless another kubelet has it. `make`: mount it there if it is not. */
#define LAYOUT_KUBELET "/var/lib/kubelet"
const char *layout_kubelet(const struct layout *l, bool make);
/* A program of coracle: beside this one, or in the build folder next to this one's. -ENOENT. */
int layout_program(const struct layout *l, const char *folder, const char *name, const char **out, struct err *e);
/* The socket of the node's container runtime. */
const char *layout_runtime(const struct layout *l);
/* The pid of the running supervisor, 0 when there is none. */
pid_t layout_supervisor(const struct layout *l);

/* --data-dir and --run-dir: for the flag table of every subcommand. */
#define LAYOUT_FLAGS(l)                                                               \
    {"data-dir", 0, FLAG_STR, &(l).data, "DIR", "what must survive a reboot"}, {      \
        "run-dir", 0, FLAG_STR, &(l).run, "DIR", "sockets and the state of what runs" \
    }
/* The flags that add to those of the programs, under the names that k3s gave them. */
#define LAYOUT_ARG(lists, name, which)                                    \
    {                                                                     \
        name, 0, FLAG_STRINGS, &(lists)[which], "FLAG=VALUE",             \
            "a flag for that program; may be repeated, and is remembered" \
    }
#define LAYOUT_NODE_ARGS(lists) \
    LAYOUT_ARG(lists, "kubelet-arg", ARGS_KUBELET), LAYOUT_ARG(lists, "kube-proxy-arg", ARGS_PROXY)
#define LAYOUT_SERVER_ARGS(lists)                                           \
    LAYOUT_ARG(lists, "kube-apiserver-arg", ARGS_APISERVER),                \
        LAYOUT_ARG(lists, "kube-controller-manager-arg", ARGS_CONTROLLERS), \
        LAYOUT_ARG(lists, "kube-scheduler-arg", ARGS_SCHEDULER)
