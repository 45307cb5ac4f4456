/* Between memory_manager.c and memory_state.c. */
#pragma once

#include "kubelet/cm/memory_manager.h"

enum { MEMORY_TYPES = 16, MEMORY_REUSE = 16 }; /* kinds of memory; groups of nodes that init containers leave */

/* A kind of memory on a node, in bytes. */
struct memory_table {
    bool there;
    int64_t total, system_reserved, allocatable, reserved, free;
};
struct memory_node {
    int id, assignments;
    uint64_t group; /* of nodes that it is used with; itself is among them */
    struct memory_table tables[MEMORY_TYPES];
};
struct promised {
    uint64_t nodes;
    int type;
    int64_t size;
};
/* What a container was promised. */
struct promise {
    struct promise *next; /* by uid, then container */
    char *uid, *container;
    struct promised blocks[MEMORY_TYPES];
    size_t n;
};
struct memory_reuse {
    uint64_t nodes;
    int64_t amount[MEMORY_TYPES];
};

struct memory_manager {
    const struct machine *m;
    struct memory_config c;
    char *file, *types[MEMORY_TYPES];
    size_t n_types;
    struct memory_node nodes[MACHINE_NODES]; /* in the machine's order */
    struct promise *promises;
    char *reuse_uid; /* of whose init containers memory may be used again */
    struct memory_reuse reuse[MEMORY_REUSE];
    size_t n_reuse;
};

/* The index of a kind, a new one if need be; -1: there are too many. */
int memory_type(struct memory_manager *m, const char *name);
/* Nodes as they are without any promise. */
void memory_reset(struct memory_manager *m);
/* A new promise, in its place. */
struct promise *memory_put(struct memory_manager *m, const char *uid, const char *container);
/* Takes it from its nodes. */
void memory_charge(struct memory_manager *m, const struct promise *p);
int memory_load(struct memory_manager *m, struct err *e);
void memory_save(struct memory_manager *m);
