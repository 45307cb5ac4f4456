/* Device plugins: programs that offer devices of the node as extended resources ("example.com/gpu").
 *
 * A plugin registers on <root>/device-plugins/kubelet.sock (or through plugins_registry), and then tells
 * which devices it has as long as its ListAndWatch stream lasts. Their number is the node's capacity, the
 * healthy ones are allocatable. When a container that asks for them is made, devices are chosen (the plugin
 * may have a preference), the plugin prepares them (Allocate), and its answer (environment, mounts, device
 * nodes) goes into the container. Which container has which devices is written to a checkpoint, so that a
 * restart of the kubelet forgets nothing.
 *
 * Upstream: pkg/kubelet/cm/devicemanager; API deviceplugin v1beta1. */
#pragma once

#include "kubelet/kubelet.h"
#include "pkg/api/deviceplugin.h"

struct devices;
struct devices *devices_new(struct kubelet *kl);
/* Serves the registration socket. Without it (an error) plugins can still come through plugins_registry. */
int devices_start(struct devices *d, struct err *e);
void devices_free(struct devices *d);

/* A plugin of plugins_registry. */
int devices_register(struct devices *d, const char *resource, const char *endpoint, const struct str_vec *versions,
                     struct err *e);
void devices_unregister(struct devices *d, const char *resource);

/* Adds what plugins offer to the node's capacity and allocatable, in `a`. Either may be NULL. */
void devices_add(struct devices *d, struct arena *a, struct str_map *capacity, struct str_map *allocatable);
/* A device, and the NUMA nodes it is near to (bits; 0: unknown). */
struct device_use {
    const char *resource, *id;
    uint64_t nodes;
};
/* Those that containers could have, and those that one has; in `a`. */
struct device_use *devices_healthy(struct devices *d, struct arena *a, size_t *n);
struct device_use *devices_of(struct devices *d, struct arena *a, const char *pod_uid, const char *container,
                              size_t *n);

/* Admission: chooses the devices of a container that has none yet, and has their plugin allocate them; near to the NUMA
 * nodes (bits; 0: anywhere) when there is a choice. Blocks. -EAGAIN while the plugin is not running. */
int devices_reserve(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                    uint64_t nodes, struct err *e);
/* Between which of the `known` NUMA nodes a container's devices could be (c NULL: the whole pod's). */
struct hint_set;
void devices_hints(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                   uint64_t known, struct hint_set *out);
/* The devices of a container: those it had, else fresh ones; the plugins' answers are appended to `out`.
 * Blocks. */
int devices_allocate(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                     struct deviceplugin_container_allocate_response_vec *out, struct err *e);
/* The pod has ended: its devices are free. */
void devices_release(struct devices *d, const char *pod_uid);
