/* What a URL and its headers ask for (upstream: apiserver/pkg/endpoints/request.RequestInfo and negotiation). */
#include "apiserver/request.h"

#include "apiserver/handlers.h"

#include "pkg/json/utf8.h"

#include <ctype.h>
#include <strings.h>

/* ---- URL ---- */

struct segments {
    const char *items[REQUEST_MAX_SEGMENTS];
    const char *after[REQUEST_MAX_SEGMENTS]; /* raw path behind the segment */
    size_t n;
};

/* Bytes that are no UTF-8 become U+FFFD: names are shown in answers. */
static const char *valid_utf8(struct arena *a, const char *s) {
    const char *p = s, *end = s + strlen(s);
    unsigned n;
    while (p < end && (n = utf8_len(p, end))) p += n;
    if (p == end) return s;
    char *out = arena_alloc(a, 3 * (size_t)(end - s) + 1), *o = out;
    for (p = s; p < end; p += n ? n : 1) {
        n = utf8_len(p, end);
        memcpy(o, n ? p : "\xef\xbf\xbd", n ? n : 3);
        o += n ? n : 3;
    }
    *o = '\0';
    return out;
}

static void split_path(struct arena *a, const char *path, struct segments *s) {
    const char *p = path;
    while (*p && s->n < REQUEST_MAX_SEGMENTS) {
        while (*p == '/') p++;
        if (!*p) break;
        const char *end = strchrnul(p, '/');
        char *seg = http_unescape(a, p, (size_t)(end - p), false), *part;
        if (!seg) seg = arena_strndup(a, p, (size_t)(end - p));
        p = end;
        while (s->n < REQUEST_MAX_SEGMENTS && (part = strsep(&seg, "/"))) { /* one that was escaped parts too */
            s->items[s->n] = valid_utf8(a, part);
            s->after[s->n++] = end;
        }
    }
}

static const char *seg(const struct segments *s, size_t i) { return i < s->n ? s->items[i] : NULL; }

/* The segments behind the version: [namespaces NS] resource [name [subresource [rest]]]. */
static void parse_resource(struct request *q, const struct segments *s, size_t at) {
    if (str_eq(seg(s, at), "watch") && seg(s, at + 1)) { /* the old form of watches */
        q->verb = "watch";
        at++;
    }
    if (str_eq(seg(s, at), "namespaces") && seg(s, at + 1)) {
        const char *next = seg(s, at + 2);
        if (next && !str_eq(next, "status") && !str_eq(next, "finalize")) {
            q->ns = seg(s, at + 1);
            at += 2;
        }
    }
    q->plural = seg(s, at);
    q->name = seg(s, at + 1);
    q->subresource = seg(s, at + 2);
    q->rest = q->subresource ? s->after[at + 2] : "";
    q->is_resource = q->plural != NULL;
}

static const char *verb_of(struct request *q) {
    const char *m = q->http->method;
    bool named = q->name != NULL;
    if (str_eq(m, "GET") || str_eq(m, "HEAD")) {
        if (named) return "get";
        return str_eq(q->verb, "watch") || request_query_bool(q, "watch") ? "watch" : "list";
    }
    if (str_eq(m, "POST")) return "create";
    if (str_eq(m, "PUT")) return "update";
    if (str_eq(m, "PATCH")) return "patch";
    if (str_eq(m, "DELETE")) return named ? "delete" : "deletecollection";
    return "";
}

static const char *lower(struct arena *a, const char *s) {
    char *out = arena_strdup(a, s);
    for (char *p = out; *p; p++) *p = (char)tolower((unsigned char)*p);
    return out;
}

static void parse_url(struct request *q) {
    struct segments s = {0};
    split_path(q->a, q->http->path, &s);
    q->prefix = seg(&s, 0);
    q->rest = "";
    if (str_eq(q->prefix, "api") && s.n >= 3) {
        q->group = "";
        q->version = seg(&s, 1);
        parse_resource(q, &s, 2);
    } else if (str_eq(q->prefix, "apis") && s.n >= 4) {
        q->group = seg(&s, 1);
        q->version = seg(&s, 2);
        parse_resource(q, &s, 3);
    }
    if (!q->is_resource) {
        q->verb = lower(q->a, q->http->method);
        return;
    }
    q->verb = verb_of(q);
    q->res = resource_find(q->s->resources, q->group, q->version, q->plural);
    if (q->res && q->subresource) q->sub = resource_sub_find(q->res, q->subresource);
}

/* ---- Accept ---- */

bool request_media_is(const char *content_type, const char *want) {
    size_t n = strcspn(str_or_empty(content_type), ";");
    while (n && isspace((unsigned char)content_type[n - 1])) n--;
    return strlen(want) == n && strncasecmp(content_type, want, n) == 0;
}

/* Reviews and bindings are answers, not objects: they have no columns. Nor have a few forms of objects, upstream. */
static bool no_table(const struct request *q) {
    static const char *const bare[][2] = {{"resourceclaims", "status"},
                                          {"customresourcedefinitions", "status"},
                                          {"apiservices", "status"},
                                          {"certificatesigningrequests", "approval"},
                                          {"namespaces", "finalize"},
                                          {"pods", "ephemeralcontainers"},
                                          {"pods", "resize"}};
    for (size_t i = 0; i < ARRAY_LEN(bare); i++)
        if (q->sub && str_eq(q->plural, bare[i][0]) && str_eq(q->sub->name, bare[i][1])) return true;
    bool answer = q->sub && (str_eq(q->sub->name, "binding") || str_eq(q->sub->name, "eviction") ||
                             str_eq(q->sub->name, "token"));
    return answer || (q->res && q->res->stored == RES_VIRTUAL && !str_eq(q->res->plural, "componentstatuses"));
}

enum { ACCEPT_MAX = 32 }; /* clauses looked at */

/* One clause of Accept: "application/json;as=Table;v=v1;g=meta.k8s.io;q=0.5". */
struct clause {
    const char *type, *as, *g, *v, *stream, *sv;
    double q;
};

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);) s[--n] = '\0';
    return s;
}

static bool clause_parse(char *text, struct clause *c) {
    *c = (struct clause){.q = 1};
    char *type = trim(strsep(&text, ";")), *slash = strchr(type, '/');
    c->type = str_eq(type, "*") ? "*/*" : type;
    if (c->type == type && (!slash || strchr(slash + 1, '/'))) return false;
    for (char *param; (param = strsep(&text, ";"));) {
        char *value = strchr(param, '=');
        if (!value || !value[1] || strchr(value + 1, '=')) continue;
        *value++ = '\0';
        const char *name = trim(param);
        value = trim(value);
        if (str_eq(name, "q")) c->q = strtod(value, NULL);
        if (str_eq(name, "as")) c->as = value;
        if (str_eq(name, "g")) c->g = value;
        if (str_eq(name, "v")) c->v = value;
        if (str_eq(name, "stream")) c->stream = value;
        if (str_eq(name, "sv")) c->sv = value;
    }
    return true;
}

static bool goes_before(const struct clause *x, const struct clause *y) {
    if (x->q != y->q) return x->q > y->q; /* as said, no arithmetic between */
    bool any_x = str_eq(x->type, "*/*"), any_y = str_eq(y->type, "*/*");
    if (any_x != any_y) return any_y;
    return !str_has_suffix(x->type, "/*") && str_has_suffix(y->type, "/*");
}

static bool takes(const struct clause *c, const char *type) {
    return str_eq(c->type, "*/*") || str_eq(c->type, type) || str_eq(c->type, "application/*");
}

/* The form that the clause asks for; false when objects have no such form. */
static bool clause_form(const struct request *q, const struct clause *c, enum media media, enum media_as *as) {
    bool custom = q->res && q->res->custom;
    *as = AS_OBJECT;
    if ((c->stream && !str_eq(c->stream, "watch")) || (c->sv && !str_eq(c->sv, "v1"))) return false;
    if (!c->as && !c->g && !c->v) return !(custom && media == MEDIA_PROTO);
    if (!q->is_resource && str_eq(c->g, "apidiscovery.k8s.io") && str_eq(c->v, "v2") &&
        str_eq(c->as, "APIGroupDiscoveryList")) {
        *as = AS_DISCOVERY;
        return true;
    }
    if (!q->is_resource || !str_eq(c->g, "meta.k8s.io") || (!str_eq(c->v, "v1") && !str_eq(c->v, "v1beta1")))
        return false;
    if (str_eq(c->as, "Table")) *as = AS_TABLE;
    if (str_eq(c->as, "PartialObjectMetadata")) *as = AS_PARTIAL;
    if (str_eq(c->as, "PartialObjectMetadataList")) *as = AS_PARTIAL_LIST;
    if (*as == AS_TABLE) return media != MEDIA_PROTO && !no_table(q);
    return *as != AS_OBJECT;
}

static const char *const media_types[] = {[MEDIA_JSON] = "application/json",
                                          [MEDIA_YAML] = "application/yaml",
                                          [MEDIA_PROTO] = "application/vnd.kubernetes.protobuf"};

static bool clause_serves(struct request *q, const struct clause *c) {
    for (enum media m = MEDIA_JSON; m <= MEDIA_PROTO; m++) {
        enum media_as as;
        if (!takes(c, media_types[m]) || !clause_form(q, c, m, &as)) continue;
        q->media = m;
        q->as = as;
        q->as_version = as != AS_OBJECT ? c->v : NULL;
        q->stream_param = c->stream != NULL;
        return true;
    }
    return false;
}

static void parse_accept(struct request *q) {
    const char *header = str_or_empty(http_header(q->http, "accept"));
    struct clause clauses[ACCEPT_MAX];
    size_t n = 0;
    q->acceptable = q->accept_known = !*header;
    for (char *rest = arena_strdup(q->a, header), *part; n < ACCEPT_MAX && (part = strsep(&rest, ","));) {
        struct clause c;
        if (!clause_parse(part, &c)) continue;
        size_t at = n++;
        for (; at && goes_before(&c, &clauses[at - 1]); at--) clauses[at] = clauses[at - 1];
        clauses[at] = c;
        q->accept_known |= str_eq(c.type, "*/*");
        for (size_t i = 0; i < ARRAY_LEN(media_types); i++) q->accept_known |= str_eq(c.type, media_types[i]);
    }
    for (size_t i = 0; i < n && !q->acceptable; i++) q->acceptable = clause_serves(q, &clauses[i]);
    bool unrouted = (q->res && q->res->custom) || (!q->is_resource && discovery_of_groups(q));
    q->acceptable &= q->accept_known || unrouted;
    q->accept_known |= unrouted;
    for (size_t i = 0; i < n && !q->acceptable && q->res && q->res->custom; i++) /* the refusal itself has that form */
        if (!clauses[i].as && str_eq(clauses[i].type, media_types[MEDIA_PROTO])) q->media = MEDIA_PROTO;
    q->content_type = media_types[q->media];
}

int request_acceptable(struct request *q, struct err *e) {
    if (q->acceptable) return 0;
    return err_status(e, 406, "NotAcceptable",
                      "only the following media types are accepted: application/json, application/yaml, "
                      "application/vnd.kubernetes.protobuf");
}

struct request *request_new(struct apiserver *s, struct http_req *http) {
    struct request *q = arena_zalloc(http->arena, sizeof(*q));
    q->s = s;
    q->http = http;
    q->a = http->arena;
    parse_url(q);
    parse_accept(q);
    return q;
}

/* ---- parameters ---- */

bool request_true(const char *v) { return !str_eq(v, "0") && strcasecmp(v, "false") != 0; }

bool request_query_bool(struct request *q, const char *name) {
    const char *v = http_query(q->http, name);
    return v && request_true(v) && !str_eq(v, "f") && !str_eq(v, "F");
}

int request_query_int(struct request *q, const char *name, int64_t dflt, int64_t *out, struct err *e) {
    const char *v = http_query(q->http, name);
    *out = dflt;
    if (str_empty(v)) return 0;
    if (str_to_i64(v, out) == 0) return 0;
    return err_status(e, 400, "BadRequest", "strconv.ParseInt: parsing \"%.100s\": invalid syntax", v);
}

void request_warn(struct request *q, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ARENA_GROW(q->a, q->warnings, q->n_warnings, q->cap_warnings);
    q->warnings[q->n_warnings++] = arena_vprintf(q->a, fmt, ap);
    va_end(ap);
}
