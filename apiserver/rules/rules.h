/* What the files of this folder share: paths of fields, collecting findings, formats, and the table of kinds.
 */
#pragma once

#include "apiserver/rules/strategy.h"
#include "pkg/api/quantity.h"

/* ---- field paths ---- a chain of nodes on the stack, turned into text only when there is something to
 * report */
struct fp {
    const struct fp *up;
    const char *name; /* ".name" */
    const char *key;  /* "[key]" */
    int64_t index;    /* "[index]" when >= 0 and name and key are NULL */
};
#define FP(parent, member) (&(const struct fp){(parent), (member), NULL, -1})
#define FPI(parent, i) (&(const struct fp){(parent), NULL, NULL, (int64_t)(i)})
#define FPK(parent, k) (&(const struct fp){(parent), NULL, (k), -1})
const char *fp_text(struct arena *a, const struct fp *p);

/* ---- findings ---- */
struct finding {
    const char *reason, *field, *message;
};
struct vctx {
    struct rules_ctx *c;
    struct arena *a;
    struct finding *items;
    size_t n, cap;
};
void v_required(struct vctx *v, const struct fp *p, const char *detail);
void v_invalid(struct vctx *v, const struct fp *p, const struct json *value, const char *fmt, ...) _printf_(4, 5);
/* Of an object or list, whose value the message leaves out. */
void v_invalid_whole(struct vctx *v, const struct fp *p, const char *fmt, ...) _printf_(3, 4);
void v_forbidden(struct vctx *v, const struct fp *p, const char *fmt, ...) _printf_(3, 4);
void v_duplicate(struct vctx *v, const struct fp *p, const struct json *value);
void v_not_found(struct vctx *v, const struct fp *p, const struct json *value);
void v_type_invalid(struct vctx *v, const struct fp *p, const struct json *value, const char *fmt, ...) _printf_(4, 5);
void v_internal(struct vctx *v, const struct fp *p, const char *detail);
void v_too_long(struct vctx *v, const struct fp *p, size_t max);
void v_too_many(struct vctx *v, const struct fp *p, size_t have, size_t max);
void v_not_supported(struct vctx *v, const struct fp *p, const struct json *value, const char *const *allowed);
/* The value is one of `allowed` (NULL-terminated). With `required`, absent or "" is Required; without, it may be absent
 * but not "" (a member that "" leaves out is absent by now). */
void v_enum(struct vctx *v, const struct fp *p, const struct json *value, const char *const *allowed, bool required);
/* As v_enum, of a pointer that must be set: absent is Required, "" is one of the wrong values. */
void v_choice(struct vctx *v, const struct fp *p, const struct json *value, const char *const *allowed);
#define ONE_OF(...) ((const char *const[]){__VA_ARGS__, NULL})
bool str_in(const char *s, const char *const *list);
/* 422 Invalid when there are findings, else 0. */
int v_finish(struct vctx *v, const char *name, struct err *e);
/* The member is a number >= min; absent is fine. */
void v_min(struct vctx *v, const struct fp *up, const struct json *obj, const char *key, int64_t min);
void v_range(struct vctx *v, const struct fp *up, const struct json *obj, const char *key, int64_t min, int64_t max);
/* `obj[key]` did not change from `old[key]`; reports Invalid "field is immutable". True when it is the same.
 */
bool v_immutable(struct vctx *v, const struct fp *p, const struct json *now, const struct json *old);

/* A string member that is absent and one that is "" are the same here: never NULL. */
static inline const char *jstr(const struct json *o, const char *key) { return str_or_empty(json_get_str(o, key)); }
/* Present and not null. */
static inline struct json *jget(const struct json *o, const char *key) {
    struct json *v = json_get(o, key);
    return v && v->type != JSON_NULL ? v : NULL;
}
/* As json_equal, but absent, null and [] are alike (as after a round trip through Go's structs), at every level. */
bool jsame(const struct json *x, const struct json *y);
bool jempty(const struct json *v);

/* ---- formats: NULL when right, else what is wrong ---- */
const char *is_dns1123_label(const char *s);
const char *is_dns1123_subdomain(const char *s);
const char *is_dns1035_label(const char *s);
const char *is_path_segment(const char *s);
const char *is_path_segment_prefix(const char *s);
const char *is_qualified_name(const char *s);
/* Kubernetes reports several messages for one bad qualified name: how many. */
size_t qualified_name_faults(const char *s);
size_t label_value_faults(const char *s);
const char *is_label_value(const char *s);
const char *is_config_map_key(const char *s);
size_t config_map_key_faults(const char *s);
const char *is_env_var_name(const char *s);
size_t port_name_faults(const char *s);
const char *is_http_header_name(const char *s);
const char *is_wildcard_subdomain(const char *s);
const char *is_fqdn(const char *s);
bool is_ip(const char *s, int *family);     /* 4 or 6; as Go's netip, without leading zeros */
bool is_own_ip(const char *s, int *family); /* and no IPv4 address in the form of an IPv6 one */
bool is_cidr(const char *s, int *family);
bool is_subnet(const char *s, int *family); /* a CIDR without bits beyond its prefix, of such an address */
bool is_canonical_ip(const char *s);
/* An IPv6 address as RFC 5952 writes it; anything else as it is. */
const char *ip_canonical(struct arena *a, const char *s);
bool is_percent(const char *s);
bool is_c_identifier(const char *s);
bool is_cron(const char *s);
bool is_absolute_uri(const char *s); /* has a scheme */

/* A finding for each rule that the name breaks: its length, its characters. */
void v_subdomain(struct vctx *v, const struct fp *p, const struct json *value);
void v_label1123(struct vctx *v, const struct fp *p, const struct json *value);
void v_label1035(struct vctx *v, const struct fp *p, const struct json *value);
/* A key of a ConfigMap or Secret. */
void v_config_key(struct vctx *v, const struct fp *p, const char *s);
/* domain.example/name, as signers of certificates are called. */
void v_signer_name(struct vctx *v, const struct fp *p, const struct json *value);
/* A CSI driver's name. */
void validate_driver_name(struct vctx *v, const struct fp *p, const struct json *name);
void v_label_name(struct vctx *v, const struct fp *p, const char *s); /* qualified name: a finding for each fault */
void v_labels(struct vctx *v, const struct fp *p, const struct json *labels);
void v_annotations(struct vctx *v, const struct fp *p, const struct json *annotations);
void v_label_selector(struct vctx *v, const struct fp *p, const struct json *sel, bool allow_invalid_values);
bool selector_matches(const struct json *label_selector, const struct json *labels);
/* Whether it can be used at all: known operators, with values where they want some, and names that labels can have. */
bool selector_parses(struct vctx *v, const struct json *label_selector);
void v_port(struct vctx *v, const struct fp *p, const struct json *num);
void v_quantity(struct vctx *v, const struct fp *p, const char *s, bool non_negative);
bool has_key(const struct json *arr, const char *member, const char *value); /* arr[i][member] == value */

/* ---- metadata ---- */
void meta_prepare_create(struct rules_ctx *c, struct json *obj);
/* Of a new object. */
void meta_validate(struct vctx *v, const struct json *meta, const struct fp *p);
void meta_validate_update(struct vctx *v, const struct json *meta, const struct json *old);

/* ---- the table of kinds (kinds.c) ---- */
enum name_rule { NAME_SUBDOMAIN, NAME_LABEL, NAME_LABEL1035, NAME_PATH, NAME_ANY, NAME_RBAC, NAME_IP };
enum kind_flags {
    K_STATUS = 1 << 0,     /* status is written through /status only */
    K_GENERATION = 1 << 1, /* generation counts changes of the spec */
    K_KEEP_STATUS_ON_CREATE = 1 << 2,
    K_UNCONDITIONAL_UPDATE = 1 << 3,
    K_GENERATION_ON_CREATE = 1 << 4,
    K_GENERATION_ON_UPDATE = 1 << 5, /* as K_GENERATION, but a new object has none */
};
struct kind_rules {
    const char *group, *kind;
    uint32_t flags;
    enum name_rule name;
    void (*defaults)(struct rules_ctx *c, struct json *obj);
    void (*prepare)(struct rules_ctx *c, struct json *obj, const struct json *old); /* old NULL: create */
    void (*validate)(struct vctx *v, const struct json *obj, const struct json *old);
    void (*finish)(struct rules_ctx *c, struct json *obj,
                   const struct json *old); /* after the object was found right */
};
const struct kind_rules *kind_find(const char *group, const char *kind);

/* ---- defaults, by topic ---- */
void def_str(struct arena *a, struct json *o, const char *key, const char *v); /* when absent or "" */
void def_ptr(struct arena *a, struct json *o, const char *key, const char *v); /* when absent: "" is a value */
void def_int(struct arena *a, struct json *o, const char *key, int64_t v);     /* when absent */
void def_bool(struct arena *a, struct json *o, const char *key, bool v);
void default_pod_spec(struct rules_ctx *c, struct json *spec);
void default_volumes(struct arena *a, struct json *volumes);
void default_pod_template(struct rules_ctx *c, struct json *tmpl);
/* A field and the list that succeeded it ("podIP", "podIPs"): whichever is absent follows the other. `member`
 * names the string inside the list's objects, NULL for a list of strings. */
void sync_one_and_many(struct arena *a, struct json *o, const char *one, const char *many, const char *member);
void default_pvc_spec(struct arena *a, struct json *spec);
/* The amounts of a ResourceList, rounded up to thousandths. */
void default_amounts(struct arena *a, struct json *list);

/* ---- validation, by topic ---- */
void validate_pod_spec(struct vctx *v, const struct json *spec, const struct json *meta, const struct fp *p,
                       bool is_template);
void validate_pod_template(struct vctx *v, const struct json *tmpl, const struct json *old, const struct fp *p);
void validate_resources(struct vctx *v, const struct json *res, const struct fp *p, const struct json *pod_claims);
void validate_resource_name(struct vctx *v, const struct fp *p, const char *name);
void validate_affinity(struct vctx *v, const struct json *aff, const struct fp *p);
void validate_node_selector(struct vctx *v, const struct json *sel, const struct fp *p);
void validate_node_selector_term(struct vctx *v, const struct json *term, const struct fp *p);
void validate_tolerations(struct vctx *v, const struct json *tols, const struct fp *p);
void validate_security_context(struct vctx *v, const struct json *spec, const struct fp *p);
void validate_pvc_spec(struct vctx *v, const struct json *spec, const struct fp *p);
/* A PersistentVolume's spec; is_inline: as part of a VolumeAttachment. */
void validate_pv_spec(struct vctx *v, const struct json *spec, const char *name, bool is_inline, const struct fp *p);
/* Gives the volumes that are right: mounts of the others are reported too. */
struct json *validate_volumes(struct vctx *v, const struct json *vols, const struct json *meta, const struct fp *p);
bool resource_is_extended(const char *name);
/* "0,2-4": ascending indexes below `completions`. Their number, or -1. */
int64_t job_count_indexes(const char *s, int64_t completions);
/* Names and amounts of a quota's hard or used. */
void validate_quota_amounts(struct vctx *v, const struct json *list, const struct fp *p);
/* The names of a definition; required: all but the short ones must be there. */
void validate_definition_names(struct vctx *v, const struct json *names, bool required, const struct fp *p);
/* Metadata of objects that will be made: labels and annotations, nothing else. */
void validate_template_meta(struct vctx *v, const struct json *meta, const struct fp *p);

/* clusterIPs, ipFamilies and ipFamilyPolicy of a Service that has addresses; `old`: the stored spec or NULL. */
void validate_service_addresses(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *sp);
/* A number >= 0 or a percentage. */
void v_int_or_percent(struct vctx *v, const struct fp *p, const struct json *x);
void validate_endpoint_ip(struct vctx *v, const struct fp *p, const struct json *ip);

/* defaults_*.c and validate_*.c: functions of the table in kinds.c are declared in kinds.h */
