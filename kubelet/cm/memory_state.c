/* The memory manager's file: what was promised to containers, and how that leaves the NUMA nodes, so that a machine (or
 * reservations) that changed meanwhile are noticed. See memory_manager.h. */
#include "kubelet/cm/memory_internal.h"
#include "kubelet/cm/state_file.h"
#include "pkg/base/log.h"

static const struct {
    const char *json, *dumped;
    size_t offset;
} table_fields[] = {
    {"total", "TotalMemSize", offsetof(struct memory_table, total)},
    {"systemReserved", "SystemReserved", offsetof(struct memory_table, system_reserved)},
    {"allocatable", "Allocatable", offsetof(struct memory_table, allocatable)},
    {"reserved", "Reserved", offsetof(struct memory_table, reserved)},
    {"free", "Free", offsetof(struct memory_table, free)},
};

static const char *policy_name(const struct memory_manager *m) { return m->c.pinned ? "Static" : "None"; }

static void json_nodes(struct arena *a, struct json *list, uint64_t nodes) {
    for (; nodes; nodes &= nodes - 1) json_append(a, list, json_int(a, __builtin_ctzll(nodes)));
}

/* ---- the text that upstream's checksum is made of ---- */

static void dump_numbers(struct buf *b, const struct json *list) {
    struct json *item;
    size_t n = 0;
    JSON_FOREACH(item, list) buf_printf(b, "%s%lld", n++ ? " " : "", (long long)json_as_int(item, 0));
}

static void dump_node(struct buf *b, const char *id, const struct json *n) {
    size_t k = 0;
    buf_printf(b, "%s:<*>{NumberOfAssignments:(int)%lld MemoryMap:(map[v1.ResourceName]*state.MemoryTable)map[", id,
               (long long)json_get_int(n, "numberOfAssignments", 0));
    JSON_FOREACH_MEMBER(t, json_get(n, "memoryMap")) {
        buf_printf(b, "%s%s:<*>{", k++ ? " " : "", t->key);
        for (size_t i = 0; i < ARRAY_LEN(table_fields); i++)
            buf_printf(b, "%s%s:(uint64)%lld", i ? " " : "", table_fields[i].dumped,
                       (long long)json_get_int(t->value, table_fields[i].json, 0));
        buf_addc(b, '}');
    }
    buf_adds(b, "] Cells:([]int)[");
    dump_numbers(b, json_get(n, "cells"));
    buf_adds(b, "]}");
}

static void dump_blocks(struct buf *b, const struct json *blocks) {
    struct json *x;
    size_t n = 0;
    JSON_FOREACH(x, blocks) {
        buf_printf(b, "%s{NUMAAffinity:([]int)[", n++ ? " " : "");
        dump_numbers(b, json_get(x, "numaAffinity"));
        buf_printf(b, "] Type:(v1.ResourceName)%s Size:(uint64)%lld}", str_or_empty(json_get_str(x, "type")),
                   (long long)json_get_int(x, "size", 0));
    }
}

static char *dump(struct arena *a, const struct json *o) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    size_t n = 0, pods = 0;
    buf_printf(&b, "(*state.MemoryManagerCheckpoint){PolicyName:(string)%s MachineState:(state.NUMANodeMap)map[",
               str_or_empty(json_get_str(o, "policyName")));
    for (int id = 0; id < MACHINE_NODES; id++) { /* by number, however the file has them */
        const char *key = arena_printf(a, "%d", id);
        const struct json *node = json_get(json_get(o, "machineState"), key);
        if (!node) continue;
        if (n++) buf_addc(&b, ' ');
        dump_node(&b, key, node);
    }
    buf_adds(&b, "] Entries:(state.ContainerMemoryAssignments)map[");
    JSON_FOREACH_MEMBER(pod, json_get(o, "entries")) {
        buf_printf(&b, "%s%s:map[", pods++ ? " " : "", pod->key);
        n = 0;
        JSON_FOREACH_MEMBER(c, pod->value) {
            buf_printf(&b, "%s%s:[", n++ ? " " : "", c->key);
            dump_blocks(&b, c->value);
            buf_addc(&b, ']');
        }
        buf_addc(&b, ']');
    }
    buf_adds(&b, "] Checksum:(checksum.Checksum)0}");
    return arena_strndup(a, b.data, b.len);
}

/* ---- writing ---- */

static struct json *node_json(const struct memory_manager *m, struct arena *a, const struct memory_node *n) {
    struct json *o = json_object(a), *map = NULL;
    size_t order[MEMORY_TYPES], count = 0;
    json_set_int(a, o, "numberOfAssignments", n->assignments);
    map = json_set(a, o, "memoryMap", json_object(a));
    for (size_t t = 0; t < m->n_types; t++) { /* by name: the checksum wants them so */
        size_t at = count;
        if (!n->tables[t].there) continue;
        for (; at && strcmp(m->types[order[at - 1]], m->types[t]) > 0; at--) order[at] = order[at - 1];
        order[at] = t;
        count++;
    }
    for (size_t i = 0; i < count; i++) {
        const struct memory_table *x = &n->tables[order[i]];
        struct json *t = json_set(a, map, m->types[order[i]], json_object(a));
        for (size_t f = 0; f < ARRAY_LEN(table_fields); f++)
            json_set_int(a, t, table_fields[f].json, *(const int64_t *)((const char *)x + table_fields[f].offset));
    }
    json_nodes(a, json_ensure_array(a, o, "cells"), n->group);
    return o;
}

static struct json *promise_json(const struct memory_manager *m, struct arena *a, const struct promise *p) {
    struct json *list = json_array(a);
    for (size_t i = 0; i < p->n; i++) {
        struct json *x = json_object(a);
        json_nodes(a, json_ensure_array(a, x, "numaAffinity"), p->blocks[i].nodes);
        json_set_str(a, x, "type", m->types[p->blocks[i].type]);
        json_set_int(a, x, "size", p->blocks[i].size);
        json_append(a, list, x);
    }
    return list;
}

void memory_save(struct memory_manager *m) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct json *o = json_object(a), *entries, *pod = NULL;
    const char *uid = NULL;
    if (!m->file) return;
    json_set_str(a, o, "policyName", policy_name(m));
    struct json *state = json_set(a, o, "machineState", json_object(a));
    for (size_t i = 0; m->c.pinned && i < m->m->n_nodes; i++)
        json_set(a, state, arena_printf(a, "%d", m->nodes[i].id), node_json(m, a, &m->nodes[i]));
    if (m->promises) {
        entries = json_set(a, o, "entries", json_object(a));
        for (const struct promise *p = m->promises; p; p = p->next) {
            if (!str_eq(uid, p->uid)) pod = json_set(a, entries, uid = p->uid, json_object(a));
            json_set(a, pod, p->container, promise_json(m, a, p));
        }
    }
    if (state_file_write(a, m->file, o, dump(a, o), &e) < 0)
        log_error("cannot write down which memory is promised", "error", e.msg, NULL);
}

/* ---- reading ---- */

static uint64_t nodes_from(const struct json *list) {
    struct json *item;
    uint64_t nodes = 0;
    JSON_FOREACH(item, list) {
        int64_t id = json_as_int(item, -1);
        if (id >= 0 && id < MACHINE_NODES) nodes |= UINT64_C(1) << id;
    }
    return nodes;
}

static bool take_blocks(struct memory_manager *m, struct promise *p, const struct json *list) {
    struct json *x;
    JSON_FOREACH(x, list) {
        uint64_t nodes = nodes_from(json_get(x, "numaAffinity"));
        int type = memory_type(m, str_or_empty(json_get_str(x, "type")));
        int64_t size = json_get_int(x, "size", -1);
        if (!nodes || nodes & ~machine_nodes(m->m) || type < 0 || size < 0 || p->n >= MEMORY_TYPES) return false;
        p->blocks[p->n++] = (struct promised){.nodes = nodes, .type = type, .size = size};
    }
    return true;
}

/* What the file says that a node is like, against what the promises make of the machine's. A group is compared as a whole:
 * which of its nodes gave what depends on the order of the allocations. */
static bool same_node(struct memory_manager *m, const struct memory_node *n, const struct json *state) {
    char key[16];
    snprintf(key, sizeof(key), "%d", n->id);
    const struct json *have = json_get(state, key);
    if (!have || json_get_int(have, "numberOfAssignments", -1) != n->assignments) return false;
    uint64_t group = nodes_from(json_get(have, "cells"));
    if (group && group != n->group) return false;
    size_t kinds = 0;
    for (size_t t = 0; t < m->n_types; t++) {
        const struct json *x = json_get(json_get(have, "memoryMap"), m->types[t]);
        int64_t is_free = 0, should = 0;
        if (!n->tables[t].there) continue;
        kinds++;
        if (!x || json_get_int(x, "total", -1) != n->tables[t].total ||
            json_get_int(x, "systemReserved", -1) != n->tables[t].system_reserved ||
            json_get_int(x, "allocatable", -1) != n->tables[t].allocatable)
            return false;
        for (size_t i = 0; i < m->m->n_nodes; i++) {
            if (!(n->group >> m->nodes[i].id & 1)) continue;
            snprintf(key, sizeof(key), "%d", m->nodes[i].id);
            const struct json *other = json_get(json_get(json_get(state, key), "memoryMap"), m->types[t]);
            is_free += json_get_int(other, "free", 0);
            should += m->nodes[i].tables[t].free;
        }
        if (is_free != should) return false;
    }
    return json_len(json_get(have, "memoryMap")) == kinds;
}

static bool same_machine(struct memory_manager *m, const struct json *state) {
    if (json_len(state) != m->m->n_nodes) return false;
    for (size_t i = 0; i < m->m->n_nodes; i++)
        if (!same_node(m, &m->nodes[i], state)) return false;
    return true;
}

static int take(struct memory_manager *m, const struct json *o, struct err *e) {
    const struct json *state = json_get(o, "machineState");
    JSON_FOREACH_MEMBER(pod, json_get(o, "entries"))
        JSON_FOREACH_MEMBER(c, pod->value) {
            struct promise *p = memory_put(m, pod->key, c->key);
            if (!take_blocks(m, p, c->value))
                return state_file_advise(
                    e, "memory", m->file,
                    "invalid state: (pod: %s, container: %s) the memory assignment uses what does not "
                    "exist",
                    pod->key, c->key);
            memory_charge(m, p);
        }
    if (json_len(state) == 0 && !m->promises) return 0;
    if (!same_machine(m, state))
        return state_file_advise(e, "memory", m->file,
                                 "invalid state: the expected machine state is different from the real one");
    return 0;
}

int memory_load(struct memory_manager *m, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err why = {0};
    struct json *o;
    int r = state_file_read(a, m->file, &o, &why);
    if (r == -ENOENT) return 0;
    if (r < 0) return state_file_advise(e, "memory", m->file, "could not restore state from checkpoint: %s", why.msg);
    const char *policy = str_or_empty(json_get_str(o, "policyName"));
    /* Of an empty state upstream's releases have written different checksums. */
    if (json_len(json_get(o, "machineState")) && !state_file_intact(o, dump(a, o)))
        return state_file_advise(e, "memory", m->file,
                                 "could not restore state from checkpoint: checkpoint is corrupted (checksum)");
    if (!str_eq(policy, policy_name(m)))
        return state_file_advise(e, "memory", m->file,
                                 "could not restore state from checkpoint: configured policy \"%s\" differs from state "
                                 "checkpoint policy \"%s\"",
                                 policy_name(m), policy);
    return m->c.pinned ? take(m, o, e) : 0;
}
