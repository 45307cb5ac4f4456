/* Selectors of devices, compiled once; see dra.h and pkg/cel/device.h. */
#include "dra.h"
#include "pkg/cel/device.h"

enum { SELECTORS_MAX = 512 };

struct dra_selector {
    const struct cel_prog *prog; /* NULL: it does not compile */
    const char *why;
};

void dra_selectors_trim(struct dra *d) {
    if (d->selectors.n <= SELECTORS_MAX) return;
    map_done(&d->selectors);
    d->selectors = (struct map)MAP_INIT;
    arena_free(d->selector_arena);
    d->selector_arena = NULL;
    d->env = NULL;
}

const struct cel_prog *dra_selector(struct dra *d, const char *expression, const char **why) {
    struct dra_selector *s = map_get(&d->selectors, expression);
    if (!s) {
        if (!d->selector_arena) d->selector_arena = arena_new();
        if (!d->env) d->env = cel_device_env_new(d->selector_arena);
        struct arena *a = d->selector_arena;
        s = arena_zalloc(a, sizeof(*s));
        /* A program refers to its text. */
        int r = cel_device_compile(a, d->env, arena_strdup(a, expression), &s->prog, &s->why);
        if (r < 0) s->prog = NULL;
        if (r == -EDOM) s->why = "must evaluate to bool";
        map_put(&d->selectors, expression, s);
    }
    *why = str_or_empty(s->why);
    return s->prog;
}

int dra_selectors_match(struct dra *d, struct arena *a, const struct resource_device_selector_vec *v,
                        const char *driver, const struct resource_device *dev, struct err *e) {
    struct cel_val device, out;
    for (size_t i = 0; i < v->n; i++) {
        const char *why;
        if (!v->items[i].cel)
            return err_set(e, -EINVAL, "selector #%zu: CEL expression empty (unsupported selector type?)", i);
        const struct cel_prog *p = dra_selector(d, str_or_empty(v->items[i].cel->expression), &why);
        if (!p) return err_set(e, -EINVAL, "selector #%zu: CEL compile error: compilation failed: %s", i, why);
        if (i == 0) {
            int r = cel_device_value(a, driver, dev, &device, e);
            if (r < 0) return err_wrap(e, "selector #%zu: CEL runtime error", i);
        }
        struct cel_run run = {.arena = a, .vars = &device, .n_vars = 1, .limit = CEL_PER_CALL_LIMIT};
        if (cel_eval(p, &run, &out) < 0)
            return err_set(e, -EINVAL, "selector #%zu: CEL runtime error: %s", i, str_or_empty(out.s));
        if (out.kind != CEL_BOOL)
            return err_set(e, -EINVAL,
                           "selector #%zu: CEL runtime error: CEL result of type %s could not be converted to bool", i,
                           cel_val_text(a, out));
        if (!out.b) return 0;
    }
    return 1;
}
