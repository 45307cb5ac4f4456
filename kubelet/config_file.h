/* A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1, YAML or JSON), as kubeadm and others write it.
 * The fields that have a setting here are taken; the others have no effect, as there is nothing behind them.
 */
#pragma once

#include "kubelet/kubelet.h"

/* Strings live as long as the program. Call before the flags are parsed: they win. */
int config_file_read(const char *path, struct kubelet_config *c, struct err *e);
/* The value of --config among the arguments, or NULL. */
const char *config_file_of(int argc, char **argv);
