/* Plugins that say themselves what they are: a program puts a socket into <root>/plugins_registry, the
 * kubelet asks it (GetInfo), takes the plugin in, and tells it how that went (NotifyRegistrationStatus). When
 * the socket goes, so does the plugin. This is how CSI drivers' node-driver-registrar, drivers of dynamic
 * resources and newer device plugins come to a node.
 *
 * Upstream: pkg/kubelet/pluginmanager. */
#pragma once

#include "kubelet/kubelet.h"

struct plugins;
/* Makes <root>/plugins and <root>/plugins_registry and starts to watch. NULL when that cannot be. */
struct plugins *plugins_new(struct kubelet *kl);
/* Ends the watch; what was registered stays with whoever took it. NULL-safe. */
void plugins_free(struct plugins *p);
