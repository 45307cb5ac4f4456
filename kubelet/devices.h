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
/* The devices of a container: those it had, else fresh ones; the plugins' answers are appended to `out`.
 * Blocks. */
int devices_allocate(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                     struct deviceplugin_container_allocate_response_vec *out, struct err *e);
/* The pod has ended: its devices are free. */
void devices_release(struct devices *d, const char *pod_uid);
