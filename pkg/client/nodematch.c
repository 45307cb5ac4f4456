/* Matching of taints and tolerations, node selectors and node affinity. */
#include "nodematch.h"

#include "pkg/api/meta.h"
#include "pkg/client/informer.h"

static bool value_in(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

bool toleration_tolerates(const struct core_toleration *t, const struct core_taint *taint) {
    if (!str_empty(t->effect) && !str_eq(t->effect, taint->effect)) return false;
    if (!str_empty(t->key) && !str_eq(t->key, taint->key)) return false;
    const char *op = str_empty(t->operator) ? "Equal" : t->operator;
    if (strcmp(op, "Exists") == 0) return true;
    if (str_empty(t->key)) return false; /* an empty key needs Exists */
    if (strcmp(op, "Equal") == 0) return strcmp(str_or_empty(t->value), str_or_empty(taint->value)) == 0;
    int64_t want, have;
    if (str_to_i64(str_or_empty(t->value), &want) < 0 || str_to_i64(str_or_empty(taint->value), &have) < 0)
        return false;
    if (strcmp(op, "Gt") == 0) return have > want;
    return strcmp(op, "Lt") == 0 && have < want;
}

const struct core_taint *untolerated(const struct core_toleration_vec *tolerations, const struct core_taint_vec *taints,
                                     const char *effects) {
    for (size_t i = 0; i < taints->n; i++) {
        const struct core_taint *t = &taints->items[i];
        if (str_empty(t->effect) || !strstr(effects, t->effect)) continue;
        if (strcmp(t->effect, "NoSchedule") == 0 && strcmp(effects, "PreferNoSchedule") == 0) continue;
        bool ok = false;
        for (size_t k = 0; k < tolerations->n && !ok; k++) ok = toleration_tolerates(&tolerations->items[k], t);
        if (!ok) return t;
    }
    return NULL;
}

static bool requirement_matches(const struct core_node_selector_requirement *q, const char *value) {
    const char *op = str_or_empty(q->operator);
    if (strcmp(op, "In") == 0) return value && value_in(&q->values, value);
    if (strcmp(op, "NotIn") == 0) return !value || !value_in(&q->values, value);
    if (strcmp(op, "Exists") == 0) return value != NULL;
    if (strcmp(op, "DoesNotExist") == 0) return value == NULL;
    int64_t have, want;
    if (!value || q->values.n != 1 || str_to_i64(value, &have) < 0 || str_to_i64(q->values.items[0], &want) < 0)
        return false;
    if (strcmp(op, "Gt") == 0) return have > want;
    return strcmp(op, "Lt") == 0 && have < want;
}

bool node_selector_term_matches(const struct core_node_selector_term *t, const struct core_node *n) {
    if (t->match_expressions.n == 0 && t->match_fields.n == 0) return false;
    for (size_t i = 0; i < t->match_expressions.n; i++) {
        const struct core_node_selector_requirement *q = &t->match_expressions.items[i];
        if (!requirement_matches(q, str_map_get(&n->metadata.labels, q->key))) return false;
    }
    for (size_t i = 0; i < t->match_fields.n; i++) {
        const struct core_node_selector_requirement *q = &t->match_fields.items[i];
        if (!str_eq(q->key, "metadata.name") || !requirement_matches(q, n->metadata.name)) return false;
    }
    return true;
}

bool node_selector_matches(const struct core_node_selector *s, const struct core_node *n) {
    for (size_t i = 0; i < s->node_selector_terms.n; i++)
        if (node_selector_term_matches(&s->node_selector_terms.items[i], n)) return true;
    return false;
}

bool pod_node_affinity_matches(const struct core_pod *p, const struct core_node *n) {
    if (!label_map_matches(&p->spec.node_selector, &n->metadata.labels)) return false;
    const struct core_affinity *a = p->spec.affinity;
    if (!a || !a->node_affinity || !a->node_affinity->required_during_scheduling_ignored_during_execution) return true;
    return node_selector_matches(a->node_affinity->required_during_scheduling_ignored_during_execution, n);
}
