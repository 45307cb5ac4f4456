/* Printed tables (metav1.Table): what `kubectl get` shows. One printer a resource: the columns, and a function that
 * makes an object's cells. Upstream: pkg/printers/internalversion. */
#pragma once

#include "apiserver/request.h"

struct table_printer;

struct cells { /* of one row */
    const struct table_printer *printer;
    struct arena *a;
    struct json *out;
    struct ktime now;
};

/* One of a CustomResourceDefinition's additionalPrinterColumns. */
struct custom_column {
    const char *name, *type, *format, *description, *path;
    int64_t priority;
};

struct table_printer {
    const char *resource; /* "apps/v1/deployments", "v1/pods" */
    /* "Name Ready Age +Containers": a plus marks wide columns, ":i", ":b", ":d" integers, booleans, dates, '*' format
     * "name" (which Name has anyway, unless '!' follows); '_' stands for a space. */
    const char *columns;
    void (*cells)(struct cells *c, const struct json *o);
    const struct custom_column *custom; /* instead of `columns`, behind Name */
    size_t n_custom;
};

/* Printers by file, each set ended by one without a resource; NULL-terminated. */
extern const struct table_printer *const table_printers[];
extern const struct table_printer printers_core[], printers_workloads[], printers_other[];

/* The printer of a resource; one with Name and Created At when there is none of its own. */
const struct table_printer *table_printer_find(const char *group, const char *version, const char *plural);
/* Both make the same tables (as far as custom columns go). */
bool table_printer_same(const struct table_printer *x, const struct table_printer *y);
/* The table of a list; token: continue. */
void table_write(struct buf *b, struct request *q, const struct wc_list *l, const char *token);
/* Checks ?includeObject=: 400 when it is none of the known ones. */
int table_options(struct request *q, struct err *e);
/* The table of one object that is not stored, by the printer of this name. */
void table_write_tree(struct buf *b, struct request *q, const char *printer, struct json *v);
/* One object's table, for watches; columns only when `head`. */
void table_write_event(struct buf *b, struct request *q, const struct object *o, bool head);
/* A bookmark's: it has a row too, of an object that is empty but for its metadata. */
void table_write_bookmark(struct buf *b, struct request *q, struct json *v, bool head);
/* What the bookmark has that ends a watch's initial events. */
#define INITIAL_END "k8s.io/initial-events-end"
/* The object's PartialObjectMetadata: shares metadata with `v`. NULL for NULL. */
struct json *partial_tree(struct arena *a, struct json *v, const char *version);

/* ---- for printers ---- */
void cell_str(struct cells *c, const char *s); /* NULL: "" */
#define S(v, ...) json_as_str(json_at(v, __VA_ARGS__, NULL))
#define I(v, ...) json_as_int(json_at(v, __VA_ARGS__, NULL), 0)
void cell_fmt(struct cells *c, const char *fmt, ...) _printf_(2, 3);
void cell_int(struct cells *c, int64_t i);
void cell_bool(struct cells *c, bool b);
void cell_name(struct cells *c, const struct json *o);
/* "3d4h": how long ago; "<unknown>" without a time. */
void cell_age(struct cells *c, const struct json *o);
const char *human_duration(struct arena *a, int64_t seconds);
const char *human_age(struct arena *a, const char *time, struct ktime now);

/* ---- texts that several printers show (printers_util.c) ---- */
/* "a,b" of the strings in an array (member `field` of its elements, or the elements themselves when NULL); "" if none. */
const char *join(struct arena *a, const struct json *list, const char *field, const char *sep);
static inline const char *or_text(const char *s, const char *dflt) { return str_empty(s) ? dflt : s; }
/* Addresses or names of a loadBalancer status, each once and sorted. */
const char *load_balancer_points(struct arena *a, const struct json *lb);
/* "k=v,l=w" of a map; "<none>" when empty. */
const char *labels_text(struct arena *a, const struct json *map);
/* A LabelSelector: "a=b,c in (d,e)"; "<none>" when it selects everything, as FormatLabelSelector. */
const char *selector_text(struct arena *a, const struct json *sel);
/* Up to three of `n` texts, then " + N more..."; "<none>"/"<unset>" (none) when there are none. */
const char *first_three(struct arena *a, const char *const *list, size_t n, const char *none);
const struct json *find_condition(const struct json *conditions, const char *type);
bool condition_true(const struct json *conditions, const char *type);
/* Names and images of a pod template's containers: two wide cells. */
void cell_containers(struct cells *c, const struct json *pod_spec);
/* "RWO,ROX" */
const char *access_modes_text(struct arena *a, const struct json *modes);
/* A scalar as text: strings, integers, booleans; `dflt` when absent. */
const char *scalar_text(struct arena *a, const struct json *v, const char *dflt);
