/* A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1, YAML or JSON), as kubeadm and others write it.
 * The fields that have a setting here are taken. Of the others, those that ask for something that is not there are refused
 * by name; those that have no effect are named in the log. */
#pragma once

#include "kubelet/kubelet.h"
#include "pkg/json/json.h"

/* `path` or `dir` may be NULL. Files of the folder that end in .conf, in the order of their names (folders inside too), are
 * merged into the file's document as JSON merge patches. Strings live as long as the program. Call before the flags are
 * parsed: they win. */
int config_file_read(const char *path, const char *dir, struct kubelet_config *c, struct err *e);
/* Logs the fields that have no effect, and those that are unknown; once the log is there. */
void config_file_warn(const char *path, const char *dir);
/* The names of the fields without a setting, "a, b, c", in `a`: those that are refused, or those that have no effect. */
char *config_file_fields(struct arena *a, bool refused);
/* There is a field of that name. */
bool config_file_knows(const char *path);
/* The settings as a KubeletConfiguration (without kind), in `a`. */
struct json *config_file_show(struct arena *a, const struct kubelet_config *c);
/* The value of a flag ("config", "config-dir") among the arguments, or NULL. */
const char *config_file_of(const char *flag, int argc, char **argv);
