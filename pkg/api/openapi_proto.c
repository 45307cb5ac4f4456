/* An OpenAPI v2 document as protobuf: gnostic's openapi.v2.Document, which kubectl before 1.27 and Helm 3 read.
 *
 * The tables name, for each message, its members by JSON name with number and form; what JSON calls by free names (paths,
 * definitions, properties) becomes a list of {name, value}. Members that no table knows are vendor extensions when they
 * begin with "x-", whose value is YAML text (JSON is YAML). */
#include "pkg/api/openapi.h"

enum form {
    F_STR,  /* string */
    F_STRS, /* list of strings */
    F_BOOL,
    F_INT,
    F_DOUBLE,
    F_ANY, /* {2: yaml} */
    F_ANYS,
    F_MSG,     /* message */
    F_MSGS,    /* list of messages */
    F_NAMED,   /* {field: [{1: name, 2: message}]} */
    F_STRLIST, /* {1: [string]}: "type" */
    F_ITEMS,   /* {1: [message]} */
    F_SCHEMA_OR_BOOL,
    F_NAMED_STRS, /* security requirement: the object is the list of {1: name, 2: {1: [string]}} */
};

struct message;
struct member {
    const char *json;
    uint32_t number;
    uint8_t form;
    const struct message *of;
};
struct message {
    const struct member *members;
    uint32_t extensions;                                  /* number of vendor_extension */
    const struct member *(*choose)(const struct json *v); /* oneof: which alternative; NULL: none */
    uint32_t named;                                       /* members of any other name go here as {1: name, 2: .of} */
    const struct message *named_of;
};

static const struct message schema, operation, path_item, parameter, parameter_or_ref, response, security;

static const struct member schema_members[] = {{"$ref", 1, F_STR, NULL},
                                               {"format", 2, F_STR, NULL},
                                               {"title", 3, F_STR, NULL},
                                               {"description", 4, F_STR, NULL},
                                               {"default", 5, F_ANY, NULL},
                                               {"multipleOf", 6, F_DOUBLE, NULL},
                                               {"maximum", 7, F_DOUBLE, NULL},
                                               {"exclusiveMaximum", 8, F_BOOL, NULL},
                                               {"minimum", 9, F_DOUBLE, NULL},
                                               {"exclusiveMinimum", 10, F_BOOL, NULL},
                                               {"maxLength", 11, F_INT, NULL},
                                               {"minLength", 12, F_INT, NULL},
                                               {"pattern", 13, F_STR, NULL},
                                               {"maxItems", 14, F_INT, NULL},
                                               {"minItems", 15, F_INT, NULL},
                                               {"uniqueItems", 16, F_BOOL, NULL},
                                               {"maxProperties", 17, F_INT, NULL},
                                               {"minProperties", 18, F_INT, NULL},
                                               {"required", 19, F_STRS, NULL},
                                               {"enum", 20, F_ANYS, NULL},
                                               {"additionalProperties", 21, F_SCHEMA_OR_BOOL, &schema},
                                               {"type", 22, F_STRLIST, NULL},
                                               {"items", 23, F_ITEMS, &schema},
                                               {"allOf", 24, F_MSGS, &schema},
                                               {"properties", 25, F_NAMED, &schema},
                                               {"discriminator", 26, F_STR, NULL},
                                               {"readOnly", 27, F_BOOL, NULL},
                                               {"example", 30, F_ANY, NULL},
                                               {0}};
static const struct message schema = {.members = schema_members, .extensions = 31};

/* SchemaItem {1: Schema} */
static const struct member schema_alternative = {"", 1, F_MSG, &schema};
static const struct member *choose_schema(const struct json *v) { return &schema_alternative; }
static const struct message schema_item = {.choose = choose_schema};

static const struct member response_members[] = {
    {"description", 1, F_STR, NULL}, {"schema", 2, F_MSG, &schema_item}, {0}};
static const struct message plain_response = {.members = response_members, .extensions = 5};
static const struct member reference_members[] = {{"$ref", 1, F_STR, NULL}, {"description", 2, F_STR, NULL}, {0}};
static const struct message reference = {.members = reference_members};
static const struct member response_alternatives[] = {{"", 1, F_MSG, &plain_response}, {"", 2, F_MSG, &reference}};
static const struct member *choose_response(const struct json *v) {
    return &response_alternatives[json_get(v, "$ref") != NULL];
}
static const struct message response = {.choose = choose_response};
static const struct message responses = {.named = 1, .named_of = &response, .extensions = 2};

static const struct member body_members[] = {{"description", 1, F_STR, NULL}, {"name", 2, F_STR, NULL},
                                             {"in", 3, F_STR, NULL},          {"required", 4, F_BOOL, NULL},
                                             {"schema", 5, F_MSG, &schema},   {0}};
static const struct message body = {.members = body_members, .extensions = 6};
static const struct member query_members[] = {{"required", 1, F_BOOL, NULL},     {"in", 2, F_STR, NULL},
                                              {"description", 3, F_STR, NULL},   {"name", 4, F_STR, NULL},
                                              {"type", 6, F_STR, NULL},          {"format", 7, F_STR, NULL},
                                              {"uniqueItems", 20, F_BOOL, NULL}, {0}};
static const struct message query = {.members = query_members, .extensions = 23};
static const struct member path_members[] = {{"required", 1, F_BOOL, NULL},     {"in", 2, F_STR, NULL},
                                             {"description", 3, F_STR, NULL},   {"name", 4, F_STR, NULL},
                                             {"type", 5, F_STR, NULL},          {"format", 6, F_STR, NULL},
                                             {"uniqueItems", 19, F_BOOL, NULL}, {0}};
static const struct message in_path = {.members = path_members, .extensions = 22};
static const struct member non_body_alternatives[] = {{"", 3, F_MSG, &query}, {"", 4, F_MSG, &in_path}};
static const struct member *choose_non_body(const struct json *v) {
    return &non_body_alternatives[str_eq(json_get_str(v, "in"), "path")];
}
static const struct message non_body = {.choose = choose_non_body};
static const struct member parameter_alternatives[] = {{"", 1, F_MSG, &body}, {"", 2, F_MSG, &non_body}};
static const struct member *choose_parameter(const struct json *v) {
    return &parameter_alternatives[!str_eq(json_get_str(v, "in"), "body")];
}
static const struct message parameter = {.choose = choose_parameter};
static const struct member parameter_or_ref_alternatives[] = {{"", 1, F_MSG, &parameter}, {"", 2, F_MSG, &reference}};
static const struct member *choose_parameter_or_ref(const struct json *v) {
    return &parameter_or_ref_alternatives[json_get(v, "$ref") != NULL];
}
static const struct message parameter_or_ref = {.choose = choose_parameter_or_ref};

static const struct message security = {0};
static const struct member operation_members[] = {{"tags", 1, F_STRS, NULL},
                                                  {"summary", 2, F_STR, NULL},
                                                  {"description", 3, F_STR, NULL},
                                                  {"operationId", 5, F_STR, NULL},
                                                  {"produces", 6, F_STRS, NULL},
                                                  {"consumes", 7, F_STRS, NULL},
                                                  {"parameters", 8, F_MSGS, &parameter_or_ref},
                                                  {"responses", 9, F_MSG, &responses},
                                                  {"schemes", 10, F_STRS, NULL},
                                                  {"deprecated", 11, F_BOOL, NULL},
                                                  {0}};
static const struct message operation = {.members = operation_members, .extensions = 13};
static const struct member path_item_members[] = {{"get", 2, F_MSG, &operation},
                                                  {"put", 3, F_MSG, &operation},
                                                  {"post", 4, F_MSG, &operation},
                                                  {"delete", 5, F_MSG, &operation},
                                                  {"options", 6, F_MSG, &operation},
                                                  {"head", 7, F_MSG, &operation},
                                                  {"patch", 8, F_MSG, &operation},
                                                  {"parameters", 9, F_MSGS, &parameter_or_ref},
                                                  {0}};
static const struct message path_item = {.members = path_item_members, .extensions = 10};
static const struct message paths = {.named = 2, .named_of = &path_item, .extensions = 1};

static const struct member info_members[] = {
    {"title", 1, F_STR, NULL}, {"version", 2, F_STR, NULL}, {"description", 3, F_STR, NULL}, {0}};
static const struct message info = {.members = info_members, .extensions = 7};
static const struct member key_members[] = {
    {"type", 1, F_STR, NULL}, {"name", 2, F_STR, NULL}, {"in", 3, F_STR, NULL}, {"description", 4, F_STR, NULL}, {0}};
static const struct message api_key = {.members = key_members, .extensions = 5};
static const struct member key_alternative = {"", 2, F_MSG, &api_key};
static const struct member *choose_key(const struct json *v) { return &key_alternative; }
static const struct message security_definition = {.choose = choose_key};
static const struct member document_members[] = {{"swagger", 1, F_STR, NULL},
                                                 {"info", 2, F_MSG, &info},
                                                 {"paths", 8, F_MSG, &paths},
                                                 {"definitions", 9, F_NAMED, &schema},
                                                 {"parameters", 10, F_NAMED, &parameter},
                                                 {"security", 12, F_NAMED_STRS, &security},
                                                 {"securityDefinitions", 13, F_NAMED, &security_definition},
                                                 {0}};
static const struct message document = {.members = document_members, .extensions = 16};

/* ---- writing ---- */

static void put_varint(struct buf *b, uint64_t v) {
    for (; v >= 0x80; v >>= 7) buf_addc(b, (char)(v | 0x80));
    buf_addc(b, (char)v);
}

static void put_blob(struct buf *b, uint32_t number, const void *p, size_t n) {
    put_varint(b, (uint64_t)number << 3 | 2);
    put_varint(b, n);
    buf_add(b, p, n);
}

static void put_number(struct buf *b, uint32_t number, uint64_t v) {
    put_varint(b, (uint64_t)number << 3);
    put_varint(b, v);
}

static void put_string(struct buf *b, uint32_t number, const struct json *v) {
    if (json_is(v, JSON_STRING)) put_blob(b, number, v->str, v->n);
}

static void put_strings(struct buf *b, uint32_t number, const struct json *v) {
    struct json *item;
    if (json_is(v, JSON_STRING)) put_string(b, number, v);
    if (json_is(v, JSON_ARRAY))
        JSON_FOREACH(item, v) put_string(b, number, item);
}

static void put_message(struct buf *b, const struct message *m, const struct json *v);

static void put_nested(struct buf *b, uint32_t number, const struct message *m, const struct json *v) {
    _cleanup_buf_ struct buf inner = BUF_INIT;
    put_message(&inner, m, v);
    put_blob(b, number, inner.data, inner.len);
}

/* {2: yaml text} */
static void put_any(struct buf *b, uint32_t number, const struct json *v) {
    _cleanup_buf_ struct buf inner = BUF_INIT, text = BUF_INIT;
    json_write(&text, v);
    buf_addc(&text, '\n');
    put_blob(&inner, 2, text.data, text.len);
    put_blob(b, number, inner.data, inner.len);
}

static void put_named(struct buf *b, uint32_t number, const char *name, const struct message *m, const struct json *v) {
    _cleanup_buf_ struct buf inner = BUF_INIT;
    put_blob(&inner, 1, name, strlen(name));
    if (m)
        put_nested(&inner, 2, m, v);
    else
        put_any(&inner, 2, v);
    put_blob(b, number, inner.data, inner.len);
}

static void put_double(struct buf *b, uint32_t number, double d) {
    uint64_t bits;
    memcpy(&bits, &d, sizeof(bits));
    put_varint(b, (uint64_t)number << 3 | 1);
    for (int i = 0; i < 8; i++) buf_addc(b, (char)(bits >> (8 * i)));
}

/* [{"BearerToken": []}] is a list of {1: [{1: name, 2: {1: [string]}}]} */
static void put_security(struct buf *b, uint32_t number, const struct json *list) {
    struct json *item;
    JSON_FOREACH(item, list) {
        _cleanup_buf_ struct buf outer = BUF_INIT;
        JSON_FOREACH_MEMBER(m, item) {
            _cleanup_buf_ struct buf inner = BUF_INIT, strings = BUF_INIT;
            put_blob(&inner, 1, m->key, strlen(m->key));
            put_strings(&strings, 1, m->value);
            put_blob(&inner, 2, strings.data, strings.len);
            put_blob(&outer, 1, inner.data, inner.len);
        }
        put_blob(b, number, outer.data, outer.len);
    }
}

static void put_wrapped(struct buf *b, const struct member *f, const struct json *v) {
    _cleanup_buf_ struct buf inner = BUF_INIT;
    if (f->form == F_STRLIST) {
        put_strings(&inner, 1, v);
    } else if (f->form == F_NAMED) {
        JSON_FOREACH_MEMBER(m, v) put_named(&inner, 1, m->key, f->of, m->value);
    } else if (json_is(v, JSON_BOOL)) {
        put_number(&inner, 2, v->b);
    } else {
        put_nested(&inner, 1, f->of, v);
    }
    put_blob(b, f->number, inner.data, inner.len);
}

static void put_member(struct buf *b, const struct member *f, const struct json *v) {
    struct json *item;
    switch ((enum form)f->form) {
        case F_STR: put_string(b, f->number, v); break;
        case F_STRS: put_strings(b, f->number, v); break;
        case F_BOOL:
            if (json_is(v, JSON_BOOL) && v->b) put_number(b, f->number, 1);
            break;
        case F_INT: put_number(b, f->number, (uint64_t)json_as_int(v, 0)); break;
        case F_DOUBLE: put_double(b, f->number, json_as_double(v, 0)); break;
        case F_ANY: put_any(b, f->number, v); break;
        case F_ANYS:
            JSON_FOREACH(item, v) put_any(b, f->number, item);
            break;
        case F_MSG: put_nested(b, f->number, f->of, v); break;
        case F_MSGS:
            JSON_FOREACH(item, v) put_nested(b, f->number, f->of, item);
            break;
        case F_NAMED_STRS: put_security(b, f->number, v); break;
        case F_NAMED:
        case F_STRLIST:
        case F_ITEMS:
        case F_SCHEMA_OR_BOOL: put_wrapped(b, f, v); break;
    }
}

static const struct member *find(const struct message *m, const char *key) {
    for (const struct member *f = m->members; f && f->json; f++)
        if (strcmp(f->json, key) == 0) return f;
    return NULL;
}

static void put_message(struct buf *b, const struct message *m, const struct json *v) {
    if (m->choose) {
        put_member(b, m->choose(v), v);
        return;
    }
    JSON_FOREACH_MEMBER(j, v) {
        const struct member *f = find(m, j->key);
        if (f)
            put_member(b, f, j->value);
        else if (m->extensions && str_has_prefix(j->key, "x-"))
            put_named(b, m->extensions, j->key, NULL, j->value);
        else if (m->named)
            put_named(b, m->named, j->key, m->named_of, j->value);
    }
}

void openapi_v2_to_proto(struct buf *b, const struct json *doc) { put_message(b, &document, doc); }
