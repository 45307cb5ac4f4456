/* The controller manager: what every controller is given, and the table of controllers.
 *
 * A controller is one file: its start function makes a queue, subscribes to informers, and its reconcile
 * function brings one key's object to the wished state. Queues start to be worked on when all informers they
 * name have synced. */
#pragma once

#include "pkg/client/client.h"
#include "pkg/client/events.h"
#include "pkg/client/informer.h"
#include "pkg/client/workqueue.h"

struct manager_options {
    const char *root_ca_file;
    const char *signing_cert_file, *signing_key_file;
    const char *cluster_cidr;
    const char *local_path_dir; /* where coracle.io/local-path makes volumes on nodes; NULL: it makes none */
    bool allocate_node_cidrs;
    bool legacy_tokens; /* a Secret with a token for every ServiceAccount */
    int64_t node_cidr_mask;
    int64_t node_monitor_period_ns, node_monitor_grace_ns;
    int64_t terminated_pod_threshold;
    int64_t signing_duration_ns;
    int64_t hpa_sync_ns, hpa_down_window_ns, hpa_cpu_initialization_ns, hpa_readiness_delay_ns;
    const char *hpa_tolerance; /* "0.1": a tenth off the target changes nothing */
};

struct manager {
    struct client *client;
    struct informers *informers;
    struct workpool *pool;
    struct manager_options opt;
    struct pending *pending; /* queues that wait for informers */
    struct owned *owned;     /* what the controllers allocated */
    struct at_end *at_end;
};

/* A row of the table. */
struct controller {
    const char *name; /* as in --controllers */
    int (*start)(struct manager *m, struct err *e);
    bool off; /* unless named */
};
extern const struct controller controllers[]; /* ends with a row without a name */

/* A queue that is worked on once the informers of all the resources named (a NULL-ended list of const struct
 * client_resource *) have synced. */
struct workqueue *manager_queue(struct manager *m, const char *name, unsigned concurrency, workqueue_fn *fn, void *arg,
                                ...) __attribute__((sentinel));
/* The queue waits for this informer too: for one that is not shared. */
void manager_queue_needs(struct manager *m, struct workqueue *q, struct informer *i);
/* An informer of one controller alone, for part of a resource; freed with the manager. */
struct informer *manager_own_informer(struct manager *m, const struct client_resource *r,
                                      const struct informer_opts *o);
/* The shared informer of a resource. */
struct informer *manager_informer(struct manager *m, const struct client_resource *r);
/* Calls `fn` for each object that was added, changed (old and new) or deleted. */
typedef void manager_object_fn(void *arg, const struct object *o);
void manager_watch(struct manager *m, const struct client_resource *r, manager_object_fn *fn, void *arg);
/* Puts the key of each object that changed on the queue. */
void manager_watch_keys(struct manager *m, const struct client_resource *r, struct workqueue *q);
/* Memory of a controller, zeroed; freed with the manager, after `done` (may be NULL) ran on it. */
void *manager_alloc(struct manager *m, size_t n, void (*done)(void *));
/* Runs `fn` when the workers have ended and the client still lives: for informers that are not shared. */
void manager_at_end(struct manager *m, void (*fn)(void *), void *arg);
struct event_recorder *manager_recorder(struct manager *m, const char *component);

/* For main: starts the queues whose informers have synced; true when none is left waiting. */
bool manager_enable_ready(struct manager *m);
/* For main: stops the workers, the informers, and frees what controllers own. The client is freed after it.
 */
void manager_done(struct manager *m);

/* Puts "ns/name" of the object's controlling owner of the kind on the queue. */
void queue_add_controller_of(struct workqueue *q, const struct object *o, const char *kind);

#define CONTROLLER(id) int id##_start(struct manager *m, struct err *e)
CONTROLLER(replicaset);
CONTROLLER(replicationcontroller);
CONTROLLER(deployment);
CONTROLLER(serviceaccount);
CONTROLLER(rootca);
CONTROLLER(namespace);
CONTROLLER(garbagecollector);
CONTROLLER(endpoints);
CONTROLLER(endpointslice);
CONTROLLER(endpointmirroring);
CONTROLLER(nodelifecycle);
CONTROLLER(nodeipam);
CONTROLLER(podgc);
CONTROLLER(csrapproving);
CONTROLLER(csrsigning);
CONTROLLER(csrcleaner);
CONTROLLER(job);
CONTROLLER(cronjob);
CONTROLLER(daemonset);
CONTROLLER(statefulset);
CONTROLLER(disruption);
CONTROLLER(ttlafterfinished);
CONTROLLER(resourcequota);
CONTROLLER(persistentvolume);
CONTROLLER(serviceaccounttoken);
CONTROLLER(ephemeralvolume);
CONTROLLER(attachdetach);
CONTROLLER(localpath);
CONTROLLER(policystatus);
CONTROLLER(horizontalpodautoscaler);
CONTROLLER(volumeattributesclass);
CONTROLLER(servicecidr);
CONTROLLER(resourceclaim);
CONTROLLER(devicetainteviction);
