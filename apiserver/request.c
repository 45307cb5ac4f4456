/* What a URL and its headers ask for (upstream: apiserver/pkg/endpoints/request.RequestInfo and negotiation). */
#include "apiserver/request.h"

#include <ctype.h>
#include <strings.h>

/* ---- URL ---- */

struct segments {
    const char *items[REQUEST_MAX_SEGMENTS];
    const char *after[REQUEST_MAX_SEGMENTS]; /* raw path behind the segment */
    size_t n;
};

static void split_path(struct arena *a, const char *path, struct segments *s) {
    const char *p = path;
    while (*p && s->n < REQUEST_MAX_SEGMENTS) {
        while (*p == '/') p++;
        if (!*p) break;
        const char *end = strchrnul(p, '/');
        char *seg = http_unescape(a, p, (size_t)(end - p), false);
        s->items[s->n] = seg ? seg : arena_strndup(a, p, (size_t)(end - p));
        s->after[s->n++] = end;
        p = end;
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

static bool token_is(const char *p, size_t n, const char *want) {
    return strlen(want) == n && strncasecmp(p, want, n) == 0;
}

/* Reviews and bindings are answers, not objects: they have no columns. */
static bool no_table(const struct request *q) {
    bool answer = q->sub && (str_eq(q->sub->name, "binding") || str_eq(q->sub->name, "eviction") ||
                             str_eq(q->sub->name, "token"));
    return answer || (q->res && q->res->stored == RES_VIRTUAL && !str_eq(q->res->plural, "componentstatuses"));
}

/* One clause of Accept: "application/json;as=Table;v=v1;g=meta.k8s.io". True when we can serve it. */
static bool accept_clause(struct request *q, const char *p, size_t n) {
    enum media_as as = AS_OBJECT;
    bool as_known = true, stream = false;
    const char *end = p + n, *g = NULL, *v = NULL;
    size_t type_len = strcspn(p, ";");
    if (type_len > n) type_len = n;
    const char *t = p;
    while (type_len && isspace((unsigned char)t[type_len - 1])) type_len--;
    for (const char *c = memchr(p, ';', n); c && c < end;) {
        const char *next = memchr(c + 1, ';', (size_t)(end - c - 1));
        const char *stop = next ? next : end;
        c++;
        while (c < stop && isspace((unsigned char)*c)) c++;
        while (stop > c && isspace((unsigned char)stop[-1])) stop--;
        size_t len = (size_t)(stop - c);
        if (len > 3 && strncmp(c, "as=", 3) == 0) {
            const char *kind = c + 3;
            size_t klen = len - 3;
            if (token_is(kind, klen, "Table"))
                as = AS_TABLE;
            else if (token_is(kind, klen, "PartialObjectMetadata") || token_is(kind, klen, "PartialObjectMetadataList"))
                as = AS_PARTIAL;
            else
                as_known = false;
        } else if (len > 2 && strncmp(c, "g=", 2) == 0) {
            g = arena_strndup(q->a, c + 2, len - 2);
        } else if (len > 2 && strncmp(c, "v=", 2) == 0) {
            v = arena_strndup(q->a, c + 2, len - 2);
        } else if (token_is(c, len, "stream=watch")) {
            stream = true;
        }
        c = next;
    }
    if (!as_known) return false;
    if (as != AS_OBJECT && (!str_eq(g, "meta.k8s.io") || (!str_eq(v, "v1") && !str_eq(v, "v1beta1")))) return false;
    if (token_is(t, type_len, "application/json") || token_is(t, type_len, "*/*") ||
        token_is(t, type_len, "application/*"))
        q->media = MEDIA_JSON;
    else if (token_is(t, type_len, "application/yaml"))
        q->media = MEDIA_YAML;
    else if (token_is(t, type_len, "application/vnd.kubernetes.protobuf") && !(q->res && q->res->custom))
        q->media = MEDIA_PROTO;
    else
        return false;
    if (as == AS_TABLE && (q->media == MEDIA_PROTO || no_table(q))) return false;
    q->as = as;
    q->stream_param = stream;
    return true;
}

static void parse_accept(struct request *q) {
    const char *v;
    bool any = false;
    for (size_t i = 0; !q->acceptable && (v = http_header_n(q->http, "accept", i)); i++) {
        for (const char *p = v; *p && !q->acceptable;) {
            while (*p == ',' || isspace((unsigned char)*p)) p++;
            size_t n = strcspn(p, ",");
            if (n) {
                any = true;
                q->acceptable = accept_clause(q, p, n);
            }
            p += n;
        }
    }
    if (!any) q->acceptable = true; /* JSON */
    q->content_type = q->media == MEDIA_YAML    ? "application/yaml"
                      : q->media == MEDIA_PROTO ? "application/vnd.kubernetes.protobuf"
                                                : "application/json";
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

int request_dry_run(struct request *q, bool *out, struct err *e) {
    size_t it = 0;
    const char *name, *value;
    *out = false;
    while (http_query_next(q->http, &it, &name, &value)) {
        if (!str_eq(name, "dryRun")) continue;
        if (!str_eq(value, "All")) {
            err_status(e, 422, "Invalid", "dryRun: Unsupported value: \"%.100s\": supported values: \"All\"", value);
            err_details(e, "meta.k8s.io", "CreateOptions", NULL);
            err_cause_add(e, "FieldValueNotSupported", "dryRun", "Unsupported value: \"%.100s\"", value);
            return -EINVAL;
        }
        *out = true;
    }
    return 0;
}

void request_warn(struct request *q, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    ARENA_GROW(q->a, q->warnings, q->n_warnings, q->cap_warnings);
    q->warnings[q->n_warnings++] = arena_vprintf(q->a, fmt, ap);
    va_end(ap);
}

const char *request_manager(struct request *q) {
    const char *m = http_query(q->http, "fieldManager");
    if (!str_empty(m)) return m;
    const char *ua = http_header(q->http, "user-agent");
    if (str_empty(ua)) return "unknown";
    size_t n = strcspn(ua, "/");
    if (n > 128) n = 128;
    return n ? arena_strndup(q->a, ua, n) : "unknown";
}
