/* What all values of Kubernetes' libraries have: a text, equality, a size for costs.
 * Upstream: k8s.io/apiserver/pkg/cel/{quantity,ip,cidr,url,format,semver}.go. */
#include "pkg/cel/opaque.h"

const char *opaque_text(struct arena *a, const struct cel_opaque *o) {
    if (o->type == &type_quantity) return quantity_format(a, ((const struct op_quantity *)o)->q);
    if (o->type == &type_ip) return ip_text(a, (const struct op_ip *)o, false);
    if (o->type == &type_cidr) return ip_text(a, (const struct op_ip *)o, true);
    if (o->type == &type_url) return ((const struct op_url *)o)->text;
    if (o->type == &type_format) return ((const struct op_format *)o)->format->label;
    if (o->type == &type_semver) {
        const struct op_semver *v = (const struct op_semver *)o;
        return arena_printf(a, "%llu.%llu.%llu%s%s%s%s", (unsigned long long)v->v[0], (unsigned long long)v->v[1],
                            (unsigned long long)v->v[2], *v->pre ? "-" : "", v->pre, *v->build ? "+" : "", v->build);
    }
    return o->type->name;
}

static bool checks_equal(const struct cel_authz *x, const struct cel_authz *y) {
    return str_eq(x->path, y->path) && str_eq(x->group, y->group) && str_eq(x->resource, y->resource) &&
           str_eq(x->subresource, y->subresource) && str_eq(x->ns, y->ns) && str_eq(x->name, y->name) &&
           str_eq(x->sa_ns, y->sa_ns) && str_eq(x->sa_name, y->sa_name) &&
           str_eq(x->field_selector, y->field_selector) && str_eq(x->label_selector, y->label_selector);
}

bool opaque_equal(const struct cel_opaque *x, const struct cel_opaque *y) {
    if (x == y) return true;
    if (x->type != y->type) return false;
    if (x->type == &type_quantity)
        return quantity_cmp(((const struct op_quantity *)x)->q, ((const struct op_quantity *)y)->q) == 0;
    if (x->type == &type_ip || x->type == &type_cidr) {
        const struct op_ip *p = (const struct op_ip *)x, *q = (const struct op_ip *)y;
        return p->len == q->len && p->bits == q->bits && memcmp(p->addr, q->addr, p->len) == 0;
    }
    if (x->type == &type_url) return strcmp(((const struct op_url *)x)->text, ((const struct op_url *)y)->text) == 0;
    if (x->type == &type_format) return ((const struct op_format *)x)->format == ((const struct op_format *)y)->format;
    if (x->type == &type_semver) return semver_cmp((const struct op_semver *)x, (const struct op_semver *)y) == 0;
    const struct op_check *p = (const struct op_check *)x, *q = (const struct op_check *)y;
    return checks_equal(&p->ask, &q->ask) && p->decision.allowed == q->decision.allowed &&
           str_eq(p->decision.reason, q->decision.reason) && str_eq(p->decision.error, q->decision.error);
}

uint64_t opaque_size(const struct cel_opaque *o) {
    if (o->type == &type_ip) return ((const struct op_ip *)o)->len;
    if (o->type == &type_cidr) return (((const struct op_ip *)o)->bits + 7) / 8;
    return 1;
}
