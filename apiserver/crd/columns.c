/* additionalPrinterColumns: a column finds its value by JSONPath and shows it by the column's type. The first column is
 * the object's name. Upstream: apiextensions-apiserver/pkg/registry/customresource/tableconvertor. */
#include "apiserver/crd/columns.h"

#include "apiserver/crd/jsonpath.h"

static const char name_description[] =
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a "
    "client to request the generation of an appropriate name automatically.";
static const char age_description[] = "When the object was created, as the time that has passed since.";

static void cell(struct cells *c, struct json *v) { json_append(c->a, c->out, v ? v : json_null(c->a)); }

static struct json *date_cell(struct cells *c, const struct json *v) {
    struct ktime t;
    const char *text = json_as_str(v);
    if (!text) return NULL;
    if (ktime_parse(text, &t)) return json_str(c->a, "<invalid>");
    return json_str(c->a, human_age(c->a, text, c->now));
}

/* Values of another type than the column's show nothing. */
static struct json *typed_cell(struct cells *c, const char *type, const struct json *v) {
    bool number = v->type == JSON_INT || v->type == JSON_NUMBER;
    if (str_eq(type, "integer")) return number ? json_int(c->a, (int64_t)json_as_double(v, 0)) : NULL;
    if (str_eq(type, "number")) return number ? (struct json *)v : NULL;
    if (str_eq(type, "boolean")) return v->type == JSON_BOOL ? (struct json *)v : NULL;
    if (str_eq(type, "date")) return date_cell(c, v);
    if (v->type == JSON_STRING) return (struct json *)v;
    return json_str(c->a, v->type == JSON_NULL ? "<nil>" : json_text(c->a, v));
}

static void custom_cells(struct cells *c, const struct json *o) {
    const struct table_printer *p = c->printer;
    cell_name(c, o);
    for (size_t i = 1; i < p->n_custom; i++) {
        const struct json *v = jsonpath_first(c->a, p->custom[i].path, o);
        if (v && v->type == JSON_INT && str_eq(p->custom[i].type, "integer"))
            cell(c, (struct json *)v);
        else
            cell(c, v ? typed_cell(c, p->custom[i].type, v) : NULL);
    }
}

const struct table_printer *crd_columns(struct arena *a, const struct json *columns) {
    size_t n = json_len(columns), k = 0;
    struct custom_column *list = arena_zalloc(a, (n + 2) * sizeof(*list));
    struct table_printer *p = arena_zalloc(a, sizeof(*p));
    const struct json *it;
    list[k++] = (struct custom_column){"Name", "string", "name", name_description, NULL, 0};
    JSON_FOREACH(it, columns)
        list[k++] =
            (struct custom_column){.name = arena_strdup(a, str_or_empty(json_get_str(it, "name"))),
                                   .type = arena_strdup(a, str_or_empty(json_get_str(it, "type"))),
                                   .format = arena_strdup(a, str_or_empty(json_get_str(it, "format"))),
                                   .description = arena_strdup(a, str_or_empty(json_get_str(it, "description"))),
                                   .path = arena_strdup(a, str_or_empty(json_get_str(it, "jsonPath"))),
                                   .priority = json_get_int(it, "priority", 0)};
    if (!n) list[k++] = (struct custom_column){"Age", "date", "", age_description, ".metadata.creationTimestamp", 0};
    *p = (struct table_printer){.resource = "", .columns = "", .cells = custom_cells, .custom = list, .n_custom = k};
    return p;
}
