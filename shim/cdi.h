/* The Container Device Interface: devices by name ("vendor.com/class=name"), described by JSON or YAML files that drivers
 * leave on the node. What a file says about a device (environment, device nodes, mounts, hooks, groups) is put into the
 * container's OCI specification. Specification: github.com/cncf-tags/container-device-interface, versions 0.3 to 1.1. */
#pragma once

#include "pkg/json/json.h"

enum {
    CDI_FILE_MAX = 4 << 20,
    CDI_FILES_MAX = 1024,  /* in a folder */
    CDI_DEVICES_MAX = 256, /* of a container */
};

/* The folders where files are looked for; what stands in a later one comes before what stands in an earlier one. */
extern const char *const cdi_dirs[]; /* NULL-ended: /etc/cdi, /var/run/cdi */

/* Changes the specification (an OCI config.json as a tree) for the devices named. Files that are not understood are left
 * out, unless a device is wanted that nobody else has. Blocks (reads the folders). -ENOENT: unknown devices, by name;
 * -EEXIST: one that two files of a folder describe; -EINVAL: a device node that cannot be. */
int cdi_inject(struct arena *a, const char *const *dirs, const char *const *names, size_t n, struct json *spec,
               struct err *e);
/* Checks one file's content; NULL-ended parts of the checks are in the error. -EINVAL. */
int cdi_check(struct arena *a, const struct json *file, struct err *e);
/* What a containerEdits object asks for, on the specification. The parts are checked. */
int cdi_apply(struct arena *a, const struct json *edits, struct json *spec, struct err *e);
