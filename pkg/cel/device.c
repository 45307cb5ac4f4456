/* See device.h. */
#include "pkg/cel/device.h"

#include "pkg/api/resource.h"
#include "pkg/cel/opaque.h"

struct cel_env *cel_device_env_new(struct arena *a) {
    const struct cel_type *s = &cel_t_string;
    struct cel_type *t = cel_type_object(a, "kubernetes.DRADevice");
    cel_type_add_field(a, t, "driver", s);
    cel_type_add_field(a, t, "attributes", cel_type_map(a, s, cel_type_map(a, s, &cel_t_dyn)));
    cel_type_add_field(a, t, "capacity", cel_type_map(a, s, cel_type_map(a, s, cel_type_quantity())));
    cel_type_add_field(a, t, "allowMultipleAllocations", &cel_t_bool);
    struct cel_env *env = cel_env_new(a, CEL_LIB_K8S | CEL_LIB_EXTRA);
    cel_env_var(env, "device", t);
    return env;
}

int cel_device_compile(struct arena *a, const struct cel_env *env, const char *src, const struct cel_prog **out,
                       const char **issues) {
    int r = cel_compile(a, env, src, out, issues);
    if (r < 0) return r;
    enum cel_kind k = cel_type_kind(cel_prog_type(*out));
    return k == CEL_BOOL || k == CEL_DYN ? 0 : -EDOM;
}

/* ---- the value ---- */

static struct cel_map *map_of(struct cel_val v) { return (struct cel_map *)v.map; }

/* Puts the value under its domain and name, both parts of the qualified name. */
static void put(struct arena *a, struct cel_val domains, const char *driver, const char *name, struct cel_val v) {
    const char *slash = strchr(name, '/');
    struct cel_val domain = slash ? cel_strn(name, (size_t)(slash - name)) : cel_str(driver), inner;
    if (!map_get_val(domains.map, &domain, &inner)) {
        inner = val_map(map_new(a, 4));
        map_put_val(a, map_of(domains), domain, inner);
    }
    map_put_val(a, map_of(inner), cel_str(slash ? slash + 1 : name), v);
}

static int attribute(struct arena *a, const char *name, const struct resource_device_attribute *x, struct cel_val *out,
                     struct err *e) {
    if (x->int_) {
        *out = cel_int(*x->int_);
    } else if (x->bool_) {
        *out = cel_bool(*x->bool_);
    } else if (x->string) {
        *out = cel_str(x->string);
    } else if (x->version) {
        struct op_semver *v = opaque_new(a, sizeof(*v), &type_semver);
        const char *wrong = semver_parse(a, x->version, v);
        if (wrong) return err_set(e, -EINVAL, "attribute %s: parse semantic version: %s", name, wrong);
        *out = val_opaque(&v->head);
    } else {
        return err_set(e, -EINVAL, "attribute %s: unsupported attribute value", name);
    }
    return 0;
}

static struct cel_val domains_new(struct arena *a) {
    static const struct cel_map empty = {0};
    static const struct cel_val none = {.kind = CEL_MAP, .map = &empty};
    struct cel_map *m = map_new(a, 4);
    m->otherwise = &none;
    return val_map(m);
}

int cel_device_value(struct arena *a, const char *driver, const struct resource_device *d, struct cel_val *out,
                     struct err *e) {
    struct cel_val attributes = domains_new(a), capacity = domains_new(a), v;
    for (size_t i = 0; i < d->attributes.n; i++) {
        int r = attribute(a, d->attributes.items[i].key, &d->attributes.items[i].value, &v, e);
        if (r < 0) return r;
        put(a, attributes, driver, d->attributes.items[i].key, v);
    }
    for (size_t i = 0; i < d->capacity.n; i++) {
        struct op_quantity *q = opaque_new(a, sizeof(*q), &type_quantity);
        if (quantity_parse(str_or_empty(d->capacity.items[i].value.value), &q->q) < 0)
            return err_set(e, -EINVAL, "capacity %s: not a quantity", d->capacity.items[i].key);
        put(a, capacity, driver, d->capacity.items[i].key, val_opaque(&q->head));
    }
    struct cel_map *m = map_new(a, 4);
    map_put_val(a, m, cel_str("driver"), cel_str(driver));
    map_put_val(a, m, cel_str("attributes"), attributes);
    map_put_val(a, m, cel_str("capacity"), capacity);
    map_put_val(a, m, cel_str("allowMultipleAllocations"),
                cel_bool(d->allow_multiple_allocations && *d->allow_multiple_allocations));
    *out = val_map(m);
    return 0;
}
