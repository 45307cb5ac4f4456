/* Between the files of the resource managers. See cm.h. */
#pragma once

#include "kubelet/cm/cm.h"

enum cm_count {
    CM_CPU_REQUESTS,
    CM_CPU_ERRORS,
    CM_MEMORY_REQUESTS,
    CM_MEMORY_ERRORS,
    CM_ADMISSIONS,
    CM_ADMISSION_ERRORS,
    CM_CPU_ALLOCATIONS,
    CM_MEMORY_ALLOCATIONS,
    CM_MEMORY_ASSIGNMENTS,
    CM_COUNTS
};
/* Alignments that were wanted: to what, and of what. */
enum cm_boundary { CM_BY_NODE, CM_BY_CORE, CM_BY_UNCORE, CM_BOUNDARIES };

struct cm {
    struct kubelet *kl;
    struct machine *found, *machine; /* the same once all is ready; `machine` NULL: nothing is managed yet */
    enum topology_policy policy;
    bool by_pod, closest;
    pthread_mutex_t admitting; /* one pod after the other */
    pthread_mutex_t lock;      /* of what follows; never held while something outside is waited for */
    pthread_cond_t wake;
    struct cpu_manager *cpu;
    struct memory_manager *memory;
    bool cpu_exclusive, memory_pinned, full_cores;
    bool dirty, stopping, running;
    struct map moved; /* container id -> text of the cpuset it runs on */
    pthread_t thread;
    _Atomic uint64_t counts[CM_COUNTS];
    _Atomic uint64_t aligned[2][CM_BOUNDARIES], unaligned[2][CM_BOUNDARIES]; /* of a container, of a pod */
    struct prom_histogram admission;
};

/* cm_cpus.c: the thread that moves containers. */
void *cm_move_thread(void *arg);
void cm_move_soon(struct cm *c);
void cm_observe_admission(struct cm *c, int64_t since);
