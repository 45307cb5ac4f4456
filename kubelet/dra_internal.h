/* Between dra.c (drivers, preparing), dra_state.c (what is prepared) and dra_slices.c (slices of drivers that are gone). */
#pragma once

#include "kubelet/dra.h"
#include "pkg/grpc/grpc.h"
#include "pkg/json/json.h"

enum { DRA_CLAIMS_MAX = 4096, DRA_DRIVERS_MAX = 64 };

/* A claim as the checkpoint has it: {"ClaimUID","ClaimName","Namespace","PodUIDs":{uid:{}},"DriverState":{driver:
 * {"Devices":[{"PoolName","DeviceName","ShareID","RequestNames":[],"CDIDeviceIDs":[]}]}}}. */
struct dra_claim {
    struct dra_claim *next;
    struct arena *arena; /* of `state`, remade with every change */
    struct json *state;
    bool prepared;
    bool busy; /* a pod has it prepared just now: others wait */
};

struct dra_endpoint {
    struct dra_endpoint *next;
    unsigned refs;
    char *driver, *path;
    struct grpc_client *grpc;
    bool beta;      /* speaks v1beta1 */
    bool connected; /* by the last look */
};

struct dra_wipe { /* slices of a driver that are to go */
    struct dra_wipe *next;
    char *driver; /* "": of all */
    int64_t at, delay;
};

struct dra {
    struct kubelet *kl;
    pthread_mutex_t lock;
    pthread_cond_t work, idle; /* idle: a claim is no longer busy */
    struct dra_claim *claims;
    struct dra_endpoint *endpoints; /* the newest first */
    struct dra_wipe *wipes;
    char *checkpoint;
    pthread_t thread;
    bool running, stopping;
};

/* dra_state.c; under the lock */
void dra_state_load(struct dra *d);
int dra_state_save(struct dra *d, struct err *e);
struct dra_claim *dra_state_find(struct dra *d, const char *ns, const char *name);
struct dra_claim *dra_state_add(struct dra *d, const char *ns, const char *name, const char *uid);
void dra_state_drop(struct dra *d, struct dra_claim *c);
void dra_state_free(struct dra *d);
/* Runs `change` on a copy of the state, which then takes its place. */
void dra_state_change(struct dra_claim *c, void (*change)(struct arena *a, struct json *state, const void *arg),
                      const void *arg);
void dra_state_pod(struct dra_claim *c, const char *uid, bool uses);
size_t dra_state_pods(const struct dra_claim *c);

/* dra.c */
/* Undoes what is prepared for a pod: names of claims in one namespace. */
int dra_unprepare_claims(struct dra *d, const char *pod_uid, const char *ns, const char *const *names, size_t n,
                         struct err *e);
void dra_endpoint_unref(struct dra *d, struct dra_endpoint *p);

/* dra_slices.c */
void *dra_thread(void *arg);
/* A driver came or went: its slices go after a while, or stay. Under the lock. */
void dra_slices_sync(struct dra *d, const char *driver);
void dra_slices_wipe(struct dra *d, const char *driver, int64_t in_ns);
