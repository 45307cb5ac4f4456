/* Operations: what a row of a resource table means as paths, for OpenAPI v3 and v2.
 *
 * An operation's parameters are bits over the table below, which is in alphabetical order; those that all operations of
 * a path share stand once at the path, as in Kubernetes' own documents. In version 2 parameters are references to a
 * common list. Every operation goes through add_operation, whatever it is. */
#include <ctype.h>

#include "pkg/api/meta.h"
#include "pkg/api/openapi_internal.h"

static const struct {
    const char *name, *in, *type;
} params[] = {
    {"allowWatchBookmarks", "query", "boolean"},
    {"command", "query", "string"},
    {"container", "query", "string"},
    {"continue", "query", "string"},
    {"dryRun", "query", "string"},
    {"fieldManager", "query", "string"},
    {"fieldSelector", "query", "string"},
    {"fieldValidation", "query", "string"},
    {"follow", "query", "boolean"},
    {"force", "query", "boolean"},
    {"gracePeriodSeconds", "query", "integer"},
    {"ignoreStoreReadErrorWithClusterBreakingPotential", "query", "boolean"},
    {"insecureSkipTLSVerifyBackend", "query", "boolean"},
    {"labelSelector", "query", "string"},
    {"limit", "query", "integer"},
    {"limitBytes", "query", "integer"},
    {"name", "path", "string"},
    {"namespace", "path", "string"},
    {"orphanDependents", "query", "boolean"},
    {"path", "path", "string"},
    {"path", "query", "string"},
    {"ports", "query", "integer"},
    {"pretty", "query", "string"},
    {"previous", "query", "boolean"},
    {"propagationPolicy", "query", "string"},
    {"resourceVersion", "query", "string"},
    {"resourceVersionMatch", "query", "string"},
    {"sendInitialEvents", "query", "boolean"},
    {"shardSelector", "query", "string"},
    {"sinceSeconds", "query", "integer"},
    {"stderr", "query", "boolean"},
    {"stdin", "query", "boolean"},
    {"stdout", "query", "boolean"},
    {"stream", "query", "string"},
    {"tailLines", "query", "integer"},
    {"timeoutSeconds", "query", "integer"},
    {"timestamps", "query", "boolean"},
    {"tty", "query", "boolean"},
    {"watch", "query", "boolean"},
};

#define LIST_PARAMS                                                                                        \
    "allowWatchBookmarks continue fieldSelector labelSelector limit resourceVersion resourceVersionMatch " \
    "sendInitialEvents shardSelector timeoutSeconds watch pretty"
#define DELETE_PARAMS                                                                                                \
    "dryRun gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential orphanDependents propagationPolicy " \
    "pretty"
#define COLLECTION_PARAMS                                                               \
    DELETE_PARAMS                                                                       \
    " continue fieldSelector labelSelector limit resourceVersion resourceVersionMatch " \
    "sendInitialEvents shardSelector timeoutSeconds"
#define WRITE_PARAMS "dryRun fieldManager fieldValidation pretty"

enum body { BODY_NONE, BODY_OBJECT, BODY_PATCH, BODY_DELETE };
enum answer { ANSWER_OBJECT, ANSWER_LIST, ANSWER_STATUS, ANSWER_WATCH, ANSWER_TEXT, ANSWER_STREAM };

/* The ordinary operations. `id` makes the operationId: prefix, G for group and version, N for Namespaced, K for the
 * kind, S for the subresource, A for ForAllNamespaces. */
struct op {
    const char *method, *action, *id, *params;
    enum body body;
    enum answer answer;
    const char *codes; /* beside 401 */
};
static const struct op op_get = {"get", "get", "readGNKS", "pretty", BODY_NONE, ANSWER_OBJECT, "200"};
static const struct op op_list = {"get", "list", "listGNKA", LIST_PARAMS, BODY_NONE, ANSWER_LIST, "200"};
static const struct op op_create = {"post",      "post",        "createGNKS", WRITE_PARAMS,
                                    BODY_OBJECT, ANSWER_OBJECT, "200 201 202"};
static const struct op op_update = {"put", "put", "replaceGNKS", WRITE_PARAMS, BODY_OBJECT, ANSWER_OBJECT, "200 201"};
static const struct op op_patch = {"patch",    "patch",       "patchGNKS", WRITE_PARAMS " force",
                                   BODY_PATCH, ANSWER_OBJECT, "200 201"};
static const struct op op_delete = {"delete",    "delete",      "deleteGNKS", DELETE_PARAMS,
                                    BODY_DELETE, ANSWER_STATUS, "200 202"};
static const struct op op_deletecollection = {"delete",    "deletecollection", "deleteGCNK", COLLECTION_PARAMS,
                                              BODY_DELETE, ANSWER_STATUS,      "200"};
static const struct op op_watch = {"get", "watch", "watchGNK", LIST_PARAMS, BODY_NONE, ANSWER_WATCH, "200"};
static const struct op op_watchlist = {"get", "watchlist", "watchGNKLA", LIST_PARAMS, BODY_NONE, ANSWER_WATCH, "200"};
static const struct op op_log = {"get",
                                 "get",
                                 "readGNKS",
                                 "pretty container follow insecureSkipTLSVerifyBackend limitBytes "
                                 "previous sinceSeconds stream tailLines timestamps",
                                 BODY_NONE,
                                 ANSWER_TEXT,
                                 "200"};

/* Subresources that connect through. */
static const struct {
    const char *name, *options, *params, *methods;
} connects[] = {
    {"attach", "AttachOptions", "container stderr stdin stdout tty", "get post"},
    {"exec", "ExecOptions", "command container stderr stdin stdout tty", "get post"},
    {"portforward", "PortForwardOptions", "ports", "get post"},
    {"proxy", "ProxyOptions", "?path", "delete get head options patch post put"},
};

enum { MAX_OPS = 8, MAX_ID = 256, MAX_URL = 512 };

/* A path being put together. */
struct path {
    struct openapi *o;
    struct json *paths;
    const char *url;
    const char *group, *version; /* of the document */
    bool custom;
    uint64_t in_path; /* name, namespace, path */
    struct json *ops[MAX_OPS];
    const char *methods[MAX_OPS];
    uint64_t masks[MAX_OPS];
    struct json *bodies[MAX_OPS]; /* version 2: the body parameter */
    size_t n;
};

/* ---- names ---- */

/* "flowcontrol.apiserver.k8s.io" is FlowcontrolApiserver; "" is Core. */
static void group_words(const char *group, char *out, size_t max) {
    const char *suffix = strstr(group, ".k8s.io");
    size_t n = suffix ? (size_t)(suffix - group) : strlen(group), at = 0;
    if (!n) group = "core", n = 4;
    bool up = true;
    for (size_t i = 0; i < n && at + 1 < max; i++) {
        if (!isalnum((unsigned char)group[i])) {
            up = true;
            continue;
        }
        out[at++] = up ? (char)toupper((unsigned char)group[i]) : group[i];
        up = false;
    }
    out[at] = 0;
}

static char *tag_of(struct arena *a, const char *group, const char *version) {
    char words[128];
    group_words(group, words, sizeof(words));
    words[0] = (char)tolower((unsigned char)words[0]);
    return version ? arena_printf(a, "%s_%s", words, version) : arena_strdup(a, words);
}

static char *capital(struct arena *a, const char *s) {
    char *c = arena_strdup(a, s);
    c[0] = (char)toupper((unsigned char)c[0]);
    return c;
}

static char *operation_id(const struct path *p, const char *pattern, const char *kind, const char *sub) {
    struct arena *a = p->o->a;
    bool namespaced = strstr(p->url, "{namespace}") != NULL;
    char words[128], out[MAX_ID] = "";
    group_words(p->group, words, sizeof(words));
    for (; *pattern; pattern++) {
        const char *piece = "";
        char one[2] = {*pattern, 0};
        switch (*pattern) {
            case 'G': piece = arena_printf(a, "%s%s", words, capital(a, p->version)); break;
            case 'C': piece = "Collection"; break;
            case 'N': piece = namespaced ? "Namespaced" : ""; break;
            case 'K': piece = kind; break;
            case 'L': piece = "List"; break;
            case 'S': piece = sub ? capital(a, sub) : ""; break;
            case 'A': piece = p->o->all_namespaces ? "ForAllNamespaces" : ""; break;
            default: piece = one;
        }
        size_t n = strlen(out);
        snprintf(out + n, sizeof(out) - n, "%s", piece);
    }
    return arena_strdup(a, out);
}

static const char *kind_name(const struct openapi_kind *k) { return k->type ? k->type->name : k->kind; }
static const char *kind_group(const struct openapi_kind *k) { return k->type ? k->type->group : k->group; }
static const char *kind_version(const struct openapi_kind *k) { return k->type ? k->type->version : k->version; }

static struct json *kind_ref(struct openapi *o, const struct openapi_kind *k) {
    if (k->type) openapi_need(o, k->type);
    return openapi_ref(o->a, o->version, k->type ? k->type->openapi : k->name);
}

/* ---- parameters ---- */

/* "?path" is the query parameter of that name, "path" (and name, namespace) the one in the path. */
static uint64_t mask_of(const char *names) {
    uint64_t mask = 0;
    while (*names) {
        bool query = *names == '?';
        names += query;
        size_t n = strcspn(names, " ");
        for (size_t i = 0; i < ARRAY_LEN(params); i++)
            if (strlen(params[i].name) == n && memcmp(params[i].name, names, n) == 0 &&
                (!query || strcmp(params[i].in, "query") == 0)) {
                mask |= UINT64_C(1) << i;
                break;
            }
        names += n + strspn(names + n, " ");
    }
    return mask;
}

static struct json *parameter(struct openapi *o, size_t i) {
    struct arena *a = o->a;
    struct json *v = json_object(a), *schema = o->version == 3 ? json_object(a) : v;
    json_set_str(a, v, "in", params[i].in);
    json_set_str(a, v, "name", params[i].name);
    if (strcmp(params[i].in, "path") == 0) json_set_bool(a, v, "required", true);
    json_set_str(a, schema, "type", params[i].type);
    json_set_bool(a, schema, "uniqueItems", true);
    if (schema != v) json_set(a, v, "schema", schema);
    return v;
}

static char *parameter_name(struct arena *a, size_t i) {
    return arena_printf(a, "%s-%s", params[i].name, params[i].in);
}

/* Most of version 2's parameters are references. kubectl up to 1.26 looks for patches' dryRun by name, though, and follows
 * none. */
static bool written_out(const struct openapi *o, size_t i) {
    return o->version == 3 || strcmp(params[i].name, "dryRun") == 0;
}

static void set_parameters(struct openapi *o, struct json *owner, uint64_t mask, struct json *body) {
    if (!mask && !body) return;
    struct arena *a = o->a;
    struct json *list = json_set(a, owner, "parameters", json_array(a));
    if (body) json_append(a, list, body);
    for (size_t i = 0; i < ARRAY_LEN(params); i++) {
        if (!(mask >> i & 1)) continue;
        if (written_out(o, i)) {
            json_append(a, list, parameter(o, i));
            continue;
        }
        struct json *ref = json_object(a);
        json_set(a, ref, "$ref", json_strf(a, "#/parameters/%s", parameter_name(a, i)));
        json_append(a, list, ref);
    }
}

/* ---- bodies and answers ---- */

static const char *const plain_types[] = {"application/json", "application/vnd.kubernetes.protobuf", "application/yaml",
                                          NULL};
static const char *const watch_types[] = {"application/json",
                                          "application/json;stream=watch",
                                          "application/vnd.kubernetes.protobuf",
                                          "application/vnd.kubernetes.protobuf;stream=watch",
                                          "application/yaml",
                                          NULL};
static const char *const text_types[] = {"application/json", "application/vnd.kubernetes.protobuf", "application/yaml",
                                         "text/plain", NULL};
static const char *const any_type[] = {"*/*", NULL};
static const char *const patch_types[] = {"application/apply-patch+yaml", "application/json-patch+json",
                                          "application/merge-patch+json", "application/strategic-merge-patch+json",
                                          NULL};

/* Custom resources know neither protobuf nor strategic merge patch. */
static bool spoken(const struct path *p, const char *type) {
    return !p->custom || (!strstr(type, "protobuf") && !strstr(type, "strategic"));
}

static struct json *content(const struct path *p, const char *const *types, struct json *schema) {
    struct arena *a = p->o->a;
    struct json *v = json_object(a);
    for (size_t i = 0; types[i]; i++) {
        if (!spoken(p, types[i])) continue;
        json_set(a, json_set(a, v, types[i], json_object(a)), "schema", schema);
    }
    return v;
}

static struct json *type_list(const struct path *p, const char *const *types) {
    struct json *v = json_array(p->o->a);
    for (size_t i = 0; types[i]; i++)
        if (spoken(p, types[i])) json_append(p->o->a, v, json_str(p->o->a, types[i]));
    return v;
}

static struct json *answer_schema(const struct path *p, enum answer answer, const struct openapi_kind *kind,
                                  const struct openapi_kind *list) {
    static const struct openapi_kind status = {.type = &api_meta_status}, event = {.type = &api_meta_watch_event};
    struct json *text;
    switch (answer) {
        case ANSWER_OBJECT: return kind_ref(p->o, kind);
        case ANSWER_LIST: return kind_ref(p->o, list);
        case ANSWER_STATUS: return kind_ref(p->o, &status);
        case ANSWER_WATCH: return kind_ref(p->o, &event);
        case ANSWER_TEXT:
        case ANSWER_STREAM: break;
    }
    text = json_object(p->o->a);
    json_set_str(p->o->a, text, "type", "string");
    return text;
}

static const char *const *answer_types(enum answer answer) {
    return answer == ANSWER_LIST || answer == ANSWER_WATCH ? watch_types
           : answer == ANSWER_TEXT                         ? text_types
           : answer == ANSWER_STREAM                       ? any_type
                                                           : plain_types;
}

static void set_answers(const struct path *p, struct json *op, const struct op *o, struct json *schema) {
    struct arena *a = p->o->a;
    const char *const *types = answer_types(o->answer);
    struct json *all = json_set(a, op, "responses", json_object(a));
    for (const char *c = o->codes; *c; c += strspn(c, " ")) {
        char code[4] = {c[0], c[1], c[2], 0};
        struct json *one = json_set(a, all, code, json_object(a));
        json_set_str(a, one, "description",
                     strcmp(code, "200") == 0   ? "OK"
                     : strcmp(code, "201") == 0 ? "Created"
                                                : "Accepted");
        if (p->o->version == 3)
            json_set(a, one, "content", content(p, types, schema));
        else
            json_set(a, one, "schema", schema);
        c += 3;
    }
    json_set_str(a, json_set(a, all, "401", json_object(a)), "description", "Unauthorized");
    if (p->o->version == 2) json_set(a, op, "produces", type_list(p, types));
}

/* Version 3 has a requestBody, version 2 a parameter, which is returned. */
static struct json *set_body(const struct path *p, struct json *op, enum body body, struct json *schema) {
    struct arena *a = p->o->a;
    const char *const *types = body == BODY_PATCH ? patch_types : any_type;
    struct json *v = json_object(a);
    if (p->o->version == 2) {
        json_set(a, op, "consumes", type_list(p, types));
        if (body == BODY_NONE) return NULL;
        json_set_str(a, v, "in", "body");
        json_set_str(a, v, "name", "body");
        if (body != BODY_DELETE) json_set_bool(a, v, "required", true);
        json_set(a, v, "schema", schema);
        return v;
    }
    if (body == BODY_NONE) return NULL;
    json_set(a, v, "content", content(p, types, schema));
    if (body != BODY_DELETE) json_set_bool(a, v, "required", true);
    json_set(a, op, "requestBody", v);
    return NULL;
}

static struct json *body_schema(const struct path *p, enum body body, const struct openapi_kind *kind) {
    static const struct openapi_kind options = {.type = &api_meta_delete_options}, patch = {.type = &api_meta_patch};
    switch (body) {
        case BODY_OBJECT: return kind_ref(p->o, kind);
        case BODY_PATCH: return kind_ref(p->o, &patch);
        case BODY_DELETE: return kind_ref(p->o, &options);
        case BODY_NONE: break;
    }
    return NULL;
}

/* ---- operations and paths ---- */

static struct json *new_operation(struct path *p, const char *method, const char *id, uint64_t mask) {
    struct arena *a = p->o->a;
    struct json *op = json_object(a), *tags = json_array(a);
    json_set_str(a, op, "operationId", id);
    if (p->o->version == 2) {
        json_append(a, json_set(a, op, "schemes", json_array(a)), json_str(a, "https"));
    }
    json_append(a, tags, json_str(a, tag_of(a, p->group, p->version)));
    json_set(a, op, "tags", tags);
    p->methods[p->n] = method;
    p->masks[p->n] = mask | p->in_path;
    p->ops[p->n++] = op;
    return op;
}

static void add_operation(struct path *p, const struct op *o, const struct openapi_resource *row,
                          const struct openapi_kind *kind, const char *sub) {
    struct arena *a = p->o->a;
    struct op use = *o;
    if (o->body == BODY_DELETE && o->answer == ANSWER_STATUS && row->delete_gives_object && o == &op_delete)
        use.answer = ANSWER_OBJECT;
    size_t at = p->n;
    struct json *op =
        new_operation(p, o->method, operation_id(p, o->id, kind_name(&row->kind), sub), mask_of(o->params));
    p->bodies[at] = set_body(p, op, use.body, body_schema(p, use.body, kind));
    set_answers(p, op, &use, answer_schema(p, use.answer, kind, &row->list));
    json_set_str(a, op, "x-kubernetes-action", o->action);
    json_set(a, op, "x-kubernetes-group-version-kind",
             openapi_gvk(a, kind_group(kind), kind_version(kind), kind_name(kind)));
}

static struct path begin_path(struct openapi *o, struct json *paths, const char *group, const char *version,
                              const struct openapi_resource *row, const char *url) {
    struct path p = {
        .o = o, .paths = paths, .group = group, .version = version, .url = url, .custom = row && !row->kind.type};
    if (strstr(url, "{name}")) p.in_path |= mask_of("name");
    if (strstr(url, "{namespace}")) p.in_path |= mask_of("namespace");
    if (strstr(url, "{path}")) p.in_path |= mask_of("path");
    return p;
}

static void end_path(struct path *p) {
    struct arena *a = p->o->a;
    if (!p->n) return;
    uint64_t shared = ~UINT64_C(0);
    for (size_t i = 0; i < p->n; i++) shared &= p->masks[i];
    struct json *v = json_object(a);
    for (size_t i = 0; i < p->n; i++) {
        set_parameters(p->o, p->ops[i], p->masks[i] & ~shared, p->bodies[i]);
        json_sort_keys(p->ops[i], false);
        json_set(a, v, p->methods[i], p->ops[i]);
    }
    set_parameters(p->o, v, shared, NULL);
    json_sort_keys(v, false);
    json_set(a, p->paths, p->url, v);
}

/* ---- rows ---- */

struct rows {
    struct openapi *o;
    struct json *paths;
    const char *group, *version;
    const char *base; /* "/apis/apps/v1" */
};

static struct path row_path(const struct rows *r, const struct openapi_resource *row, const char *url) {
    return begin_path(r->o, r->paths, r->group, r->version, row, url);
}

static char *url_of(const struct rows *r, const struct openapi_resource *row, bool watch, bool all, const char *rest) {
    return arena_printf(r->o->a, "%s%s%s/%s%s", r->base, watch ? "/watch" : "",
                        row->namespaced && !all ? "/namespaces/{namespace}" : "", row->plural, rest);
}

static void add_collection(const struct rows *r, const struct openapi_resource *row) {
    struct path p = row_path(r, row, url_of(r, row, false, false, ""));
    if (row->verbs & OPENAPI_DELETECOLLECTION) add_operation(&p, &op_deletecollection, row, &row->kind, NULL);
    if (row->verbs & OPENAPI_LIST) add_operation(&p, &op_list, row, &row->kind, NULL);
    if (row->verbs & OPENAPI_CREATE) add_operation(&p, &op_create, row, &row->kind, NULL);
    end_path(&p);
    if (!row->namespaced || !(row->verbs & OPENAPI_LIST)) return;
    r->o->all_namespaces = true;
    p = row_path(r, row, url_of(r, row, false, true, ""));
    add_operation(&p, &op_list, row, &row->kind, NULL);
    end_path(&p);
    r->o->all_namespaces = false;
}

static void add_item(const struct rows *r, const struct openapi_resource *row) {
    struct path p = row_path(r, row, url_of(r, row, false, false, "/{name}"));
    if (row->verbs & OPENAPI_DELETE) add_operation(&p, &op_delete, row, &row->kind, NULL);
    if (row->verbs & OPENAPI_GET) add_operation(&p, &op_get, row, &row->kind, NULL);
    if (row->verbs & OPENAPI_PATCH) add_operation(&p, &op_patch, row, &row->kind, NULL);
    if (row->verbs & OPENAPI_UPDATE) add_operation(&p, &op_update, row, &row->kind, NULL);
    end_path(&p);
}

/* The deprecated watch paths; custom resources never had them. */
static void add_watches(const struct rows *r, const struct openapi_resource *row) {
    if (!(row->verbs & OPENAPI_WATCH) || !row->kind.type) return;
    struct path p = row_path(r, row, url_of(r, row, true, false, ""));
    add_operation(&p, &op_watchlist, row, &row->kind, NULL);
    end_path(&p);
    p = row_path(r, row, url_of(r, row, true, false, "/{name}"));
    add_operation(&p, &op_watch, row, &row->kind, NULL);
    end_path(&p);
    if (!row->namespaced) return;
    r->o->all_namespaces = true;
    p = row_path(r, row, url_of(r, row, true, true, ""));
    add_operation(&p, &op_watchlist, row, &row->kind, NULL);
    end_path(&p);
    r->o->all_namespaces = false;
}

static void add_connect(const struct rows *r, const struct openapi_resource *row, size_t which, bool with_path) {
    static const char *const methods[] = {"delete", "get", "head", "options", "patch", "post", "put"};
    struct arena *a = r->o->a;
    char rest[64];
    snprintf(rest, sizeof(rest), "/{name}/%s%s", connects[which].name, with_path ? "/{path}" : "");
    struct path p = row_path(r, row, url_of(r, row, false, false, rest));
    struct op o = {.answer = ANSWER_STREAM, .codes = "200"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (!strstr(connects[which].methods, methods[i])) continue;
        const char *id = arena_printf(a, "%s%s", operation_id(&p, "connectG", "", NULL), capital(a, methods[i]));
        id = arena_printf(a, "%s%s%s", id, operation_id(&p, "NKS", kind_name(&row->kind), connects[which].name),
                          with_path ? "WithPath" : "");
        struct json *op = new_operation(&p, methods[i], id, mask_of(connects[which].params));
        set_body(&p, op, BODY_NONE, NULL);
        set_answers(&p, op, &o, answer_schema(&p, ANSWER_STREAM, NULL, NULL));
        json_set_str(a, op, "x-kubernetes-action", "connect");
        json_set(a, op, "x-kubernetes-group-version-kind",
                 openapi_gvk(a, "", "v1", arena_printf(a, "%s%s", kind_name(&row->kind), connects[which].options)));
    }
    end_path(&p);
}

static void add_subresource(const struct rows *r, const struct openapi_resource *row,
                            const struct openapi_subresource *s) {
    for (size_t i = 0; i < ARRAY_LEN(connects); i++) {
        if (strcmp(connects[i].name, s->name) != 0) continue;
        add_connect(r, row, i, false);
        if (strcmp(s->name, "proxy") == 0) add_connect(r, row, i, true);
        return;
    }
    struct path p = row_path(r, row, url_of(r, row, false, false, arena_printf(r->o->a, "/{name}/%s", s->name)));
    if (strcmp(s->name, "log") == 0) {
        add_operation(&p, &op_log, row, &row->kind, s->name);
    } else {
        if (s->verbs & OPENAPI_DELETE) add_operation(&p, &op_delete, row, &s->kind, s->name);
        if (s->verbs & OPENAPI_GET) add_operation(&p, &op_get, row, &s->kind, s->name);
        if (s->verbs & OPENAPI_PATCH) add_operation(&p, &op_patch, row, &s->kind, s->name);
        if (s->verbs & OPENAPI_CREATE) add_operation(&p, &op_create, row, &s->kind, s->name);
        if (s->verbs & OPENAPI_UPDATE) add_operation(&p, &op_update, row, &s->kind, s->name);
    }
    end_path(&p);
}

/* GET of discovery documents: "getAppsV1APIResources" and the like. */
static void add_discovery(struct openapi *o, struct json *paths, const char *url, const char *id, const char *tag,
                          const struct api_type *type) {
    struct arena *a = o->a;
    struct path p = begin_path(o, paths, "", "", NULL, url);
    const struct openapi_kind kind = {.type = type};
    static const struct op get = {.answer = ANSWER_OBJECT, .codes = "200"};
    struct json *op = new_operation(&p, "get", id, 0);
    json_append(a, json_set(a, op, "tags", json_array(a)), json_str(a, tag));
    if (o->version == 2) json_set(a, op, "consumes", type_list(&p, plain_types));
    set_answers(&p, op, &get, answer_schema(&p, ANSWER_OBJECT, &kind, NULL));
    end_path(&p);
}

void openapi_rows(struct openapi *o, struct json *paths, const char *group, const char *version,
                  const struct openapi_resource *rows, size_t n) {
    struct arena *a = o->a;
    char words[128];
    struct rows r = {o, paths, group, version,
                     *group ? arena_printf(a, "/apis/%s/%s", group, version) : arena_printf(a, "/api/%s", version)};
    group_words(group, words, sizeof(words));
    add_discovery(o, paths, arena_printf(a, "%s/", r.base),
                  arena_printf(a, "get%s%sAPIResources", words, capital(a, version)), tag_of(a, group, version),
                  &api_meta_api_resource_list);
    for (size_t i = 0; i < n; i++) {
        add_collection(&r, &rows[i]);
        add_item(&r, &rows[i]);
        add_watches(&r, &rows[i]);
        for (size_t j = 0; j < rows[i].n_subs; j++) add_subresource(&r, &rows[i], &rows[i].subs[j]);
    }
}

void openapi_group(struct openapi *o, struct json *paths, const char *group, bool core) {
    struct arena *a = o->a;
    char words[128];
    if (!group) {
        add_discovery(o, paths, core ? "/api/" : "/apis/", core ? "getCoreAPIVersions" : "getAPIVersions",
                      core ? "core" : "apis", core ? &api_meta_api_versions : &api_meta_api_group_list);
        return;
    }
    group_words(group, words, sizeof(words));
    add_discovery(o, paths, arena_printf(a, "/apis/%s/", group), arena_printf(a, "get%sAPIGroup", words),
                  tag_of(a, group, NULL), &api_meta_api_group);
}

void openapi_parameters(struct openapi *o, struct json *into) {
    for (size_t i = 0; i < ARRAY_LEN(params); i++) json_set(o->a, into, parameter_name(o->a, i), parameter(o, i));
}
