/* Between the files of volumes: setting one volume of a pod up. */
#pragma once

#include "kubelet/volumes.h"

/* What a volume is being set up for. */
struct setup {
    struct kubelet *kl;
    struct arena *a;
    const struct core_pod *pod;
    const struct core_volume *vol;
    const struct env_facts *facts;
    struct volume_mount_source *out;
};
/* <pod>/volumes/kubernetes.io~<plugin>/<volume> */
char *setup_dir(struct setup *s, const char *plugin);
/* Gives the tree to the pod's fsGroup, if it has one. */
int setup_fs_group(struct setup *s, const char *dir, struct err *e);
int setup_host_path(struct setup *s, const char *path, const char *type, struct err *e);

/* ---- volume_pv.c ---- */
int setup_claim(struct setup *s, const char *claim, bool read_only, struct err *e);
int setup_inline_csi(struct setup *s, struct err *e);
/* `name` is that of the folder. */
int setup_nfs(struct setup *s, const char *name, const char *server, const char *path, bool read_only,
              const struct str_vec *options, struct err *e);
