/* The values of Kubernetes' libraries: each a struct whose head says its type. */
#pragma once

#include "pkg/api/quantity.h"
#include "pkg/cel/internal.h"

struct op_quantity {
    struct cel_opaque head;
    struct quantity q;
};
struct op_ip { /* CIDR too */
    struct cel_opaque head;
    uint8_t addr[16], len; /* 4 or 16 bytes */
    uint8_t bits;          /* CIDR: of the prefix */
};
struct op_url {
    struct cel_opaque head;
    const char *text, *scheme, *host, *path, *query;
};
struct op_format {
    struct cel_opaque head;
    const struct named_format *format;
};
enum { SEMVER_MAX_PARTS = 32 };
struct op_semver {
    struct cel_opaque head;
    uint64_t v[3];
    const char *pre, *build; /* "rc.1", "" */
};
struct op_check { /* authorizer, its checks, decisions */
    struct cel_opaque head;
    struct cel_authz ask;
    struct cel_decision decision;
};

struct named_format {
    const char *name, *label; /* format.dns1123Label(), "DNS1123Label" */
    uint32_t regex_size;
    /* Adds what is wrong with s. */
    void (*validate)(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap);
};

static inline void *opaque_new(struct arena *a, size_t size, const struct cel_type *t) {
    struct cel_opaque *o = arena_zalloc(a, size);
    o->type = t;
    return o;
}
const char *ip_text(struct arena *a, const struct op_ip *ip, bool prefix);
/* NULL, or what is wrong with the text. */
const char *semver_parse(struct arena *a, const char *s, struct op_semver *v);
int semver_cmp(const struct op_semver *x, const struct op_semver *y);
const struct named_format *named_format_find(const char *name);
