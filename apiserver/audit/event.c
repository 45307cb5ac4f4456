/* One request's event. Its parts are text of JSON in the request's arena; a stage's line puts them together in the order
 * of upstream's struct. The event lives in the arena too: the HTTP side tells when the answer begins and when the request is
 * over (http_req_observe), which is before the arena goes. */
#include "apiserver/audit/audit.h"
#include "apiserver/request.h"
#include "pkg/yaml/yaml.h"

enum { USER_AGENT_MAX = 1024, ID_MAX = 64 };

struct annotation {
    const char *key, *value;
};

struct audit_event {
    struct request *q;
    struct audit *au;
    struct audit_config conf;
    struct ktime received;
    const char *user, *impersonated;                 /* JSON */
    const char *name, *ns, *uid, *rv;                /* of objectRef, as they become known */
    const char *request, *response;                  /* JSON */
    const char *message, *reason, *status, *details; /* of a Status that was answered; details: JSON */
    struct annotation *annotations;
    size_t n_annotations, cap_annotations;
    bool long_running, failed_auth, started;
    int code;
};

const char *audit_id(struct request *q) {
    if (q->audit_id) return q->audit_id;
    const char *given = http_header(q->http, "audit-id");
    char *id = arena_alloc(q->a, 37);
    if (str_empty(given)) uuid_new(id);
    q->audit_id = str_empty(given) ? id : arena_strndup(q->a, given, MIN_OF(strlen(given), (size_t)ID_MAX));
    return q->audit_id;
}

/* ---- writing ---- */

static void put_str(struct buf *b, const char *key, const char *s) {
    if (str_empty(s)) return;
    buf_printf(b, "%s\"%s\":", b->data[b->len - 1] == '{' ? "" : ",", key);
    json_write_str(b, s, strlen(s));
}

static void put_raw(struct buf *b, const char *key, const char *json) {
    if (json) buf_printf(b, ",\"%s\":", key), buf_adds(b, json);
}

static void put_ips(struct buf *b, struct request *q) {
    const char *fwd = http_header(q->http, "x-forwarded-for"), *real = http_header(q->http, "x-real-ip"), *last = NULL;
    size_t n = 0;
    buf_adds(b, ",\"sourceIPs\":[");
    while (fwd && *fwd) {
        fwd += strspn(fwd, " ,");
        size_t len = strcspn(fwd, " ,");
        if (!len) break;
        last = arena_strndup(q->a, fwd, len);
        buf_adds(b, n++ ? "," : "");
        json_write_str(b, last, len);
        fwd += len;
    }
    const char *rest[] = {n ? NULL : real, q->http->peer->addr};
    for (size_t i = 0; i < ARRAY_LEN(rest); i++) {
        if (str_empty(rest[i]) || str_eq(rest[i], last)) continue;
        last = rest[i];
        buf_adds(b, n++ ? "," : "");
        json_write_str(b, last, strlen(last));
    }
    buf_addc(b, ']');
}

static void put_object_ref(struct buf *b, const struct audit_event *v) {
    const struct request *q = v->q;
    if (!q->is_resource) return;
    buf_adds(b, ",\"objectRef\":{");
    put_str(b, "resource", q->plural);
    put_str(b, "namespace", v->ns);
    put_str(b, "name", v->name);
    put_str(b, "uid", v->uid);
    put_str(b, "apiGroup", q->group);
    put_str(b, "apiVersion", q->version);
    put_str(b, "resourceVersion", v->rv);
    put_str(b, "subresource", q->subresource);
    buf_addc(b, '}');
}

static void put_response_status(struct buf *b, const struct audit_event *v) {
    if (!v->code && !v->message) return;
    buf_adds(b, ",\"responseStatus\":{\"metadata\":{}");
    put_str(b, "status", v->status);
    put_str(b, "message", v->message);
    put_str(b, "reason", v->reason);
    put_raw(b, "details", v->details);
    if (v->code) buf_printf(b, ",\"code\":%d", v->code);
    buf_addc(b, '}');
}

static int by_key(const void *x, const void *y) {
    return strcmp(((const struct annotation *)x)->key, ((const struct annotation *)y)->key);
}

static void put_annotations(struct buf *b, struct audit_event *v) {
    if (!v->n_annotations) return;
    qsort(v->annotations, v->n_annotations, sizeof(*v->annotations), by_key);
    buf_adds(b, ",\"annotations\":{");
    for (size_t i = 0; i < v->n_annotations; i++) {
        if (i) buf_addc(b, ',');
        json_write_str(b, v->annotations[i].key, strlen(v->annotations[i].key));
        buf_addc(b, ':');
        json_write_str(b, v->annotations[i].value, strlen(v->annotations[i].value));
    }
    buf_addc(b, '}');
}

static const char *user_agent(struct request *q) {
    const char *ua = http_header(q->http, "user-agent");
    if (str_empty(ua) || strlen(ua) <= USER_AGENT_MAX) return ua;
    return arena_printf(q->a, "%.*s...TRUNCATED", USER_AGENT_MAX, ua);
}

/* The line of a stage. */
static void put_event(struct buf *b, struct audit_event *v, enum audit_stage stage, bool objects) {
    static const char *const levels[] = {"None", "Metadata", "Request", "RequestResponse"};
    static const char *const stages[] = {"RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"};
    char when[KTIME_MAX];
    struct request *q = v->q;
    buf_printf(b, AUDIT_EVENT_HEAD "\"level\":\"%s\"", levels[v->conf.level]);
    put_str(b, "auditID", audit_id(q));
    put_str(b, "stage", stages[stage]);
    put_str(b, "requestURI", q->http->target);
    put_str(b, "verb", q->verb);
    put_raw(b, "user", v->user);
    put_raw(b, "impersonatedUser", v->impersonated);
    put_ips(b, q);
    put_str(b, "userAgent", user_agent(q));
    put_object_ref(b, v);
    put_response_status(b, v);
    if (objects) {
        put_raw(b, "requestObject", v->request);
        put_raw(b, "responseObject", v->response);
    }
    put_str(b, "requestReceivedTimestamp", ktime_format_micro(v->received, when));
    if (stage != AUDIT_REQUEST_RECEIVED) ktime_format_micro(ktime_now(), when);
    put_str(b, "stageTimestamp", when);
    put_annotations(b, v);
    buf_adds(b, "}\n");
}

/* The line again, without the objects; with a note that says so. */
static void put_truncated(struct buf *b, struct audit_event *v, enum audit_stage stage) {
    size_t n = v->n_annotations;
    audit_annotate(v->q, "audit.k8s.io/truncated", "true");
    put_event(b, v, stage, false);
    for (size_t i = 0; v->n_annotations > n && i < v->n_annotations; i++) /* they have been sorted */
        if (str_eq(v->annotations[i].key, "audit.k8s.io/truncated"))
            v->annotations[i] = v->annotations[--v->n_annotations];
}

/* False: the request must not go on. */
static bool write_stage(struct audit_event *v, enum audit_stage stage) {
    struct audit *au = v->au;
    if (v->conf.omit & 1u << stage) return true;
    _cleanup_buf_ struct buf b = BUF_INIT, small = BUF_INIT;
    put_event(&b, v, stage, true);
    bool cut = (au->log && au->log_event_max && (int64_t)b.len > au->log_event_max) ||
               (au->hook && au->hook_event_max && (int64_t)b.len > au->hook_event_max);
    if (cut) put_truncated(&small, v, stage);
    const struct buf *to_log = au->log_event_max && (int64_t)b.len > au->log_event_max ? &small : &b,
                     *to_hook = au->hook_event_max && (int64_t)b.len > au->hook_event_max ? &small : &b;
    bool ok = true;
    if (au->log) ok = audit_log_write(au->log, to_log->data, to_log->len) || !au->log_strict;
    if (au->hook) audit_hook_write(au->hook, to_hook->data, to_hook->len);
    return ok;
}

/* ---- the life of an event ---- */

static void on_stage(struct http_req *r, enum http_req_stage stage, void *arg) {
    struct audit_event *v = arg;
    if (!v->code) v->code = http_req_status(r);
    if (stage == HTTP_REQ_STARTED) {
        v->started = true;
        if (v->long_running || v->failed_auth) write_stage(v, AUDIT_RESPONSE_STARTED);
        return;
    }
    if (v->failed_auth) return;
    if (!v->started) {
        v->code = 200;
        v->status = "Success";
        v->message = "Connection closed early";
        if (v->long_running) write_stage(v, AUDIT_RESPONSE_STARTED);
    }
    write_stage(v, AUDIT_RESPONSE_COMPLETE);
}

/* Requests that last as long as their client likes have a stage more. */
static bool is_long(const struct request *q) {
    static const char *const subs[] = {"attach", "exec", "log", "portforward", "proxy"};
    bool found = str_eq(q->verb, "watch");
    for (size_t i = 0; i < ARRAY_LEN(subs); i++) found |= str_eq(q->subresource, subs[i]);
    return found;
}

/* As upstream's request info has it: a namespace is in itself, and a selector of one name names. */
static const char *namespace_of(const struct request *q) {
    return str_eq(q->plural, "namespaces") && str_empty(q->ns) ? q->name : q->ns;
}

bool audit_begin(struct request *q, bool failed) {
    struct audit *au = q->s->audit;
    if (!au) return true;
    struct audit_attrs at = {.user = failed ? NULL : &q->user,
                             .verb = q->verb,
                             .resource_request = q->is_resource,
                             .group = q->group,
                             .resource = q->plural,
                             .subresource = q->subresource,
                             .ns = namespace_of(q),
                             .name = q->name,
                             .path = q->http->path};
    struct audit_config conf = audit_policy_decide(au->policy, &at);
    if (conf.level == AUDIT_NONE) return true;
    struct audit_event *v = arena_zalloc(q->a, sizeof(*v));
    *v = (struct audit_event){
        .q = q, .au = au, .conf = conf, .failed_auth = failed, .ns = namespace_of(q), .name = q->name};
    v->received = ktime_add_ns(ktime_now(), q->http->start_ns - mono_ns());
    v->long_running = is_long(q);
    v->user = failed ? "{}" : json_text(q->a, user_to_json(q->a, &q->user));
    if (failed)
        v->message = http_header(q->http, "authorization") ? "Authentication failed, attempted: bearer"
                                                           : "Authentication failed, no credentials provided";
    q->audit = v;
    http_req_observe(q->http, on_stage, v);
    return failed || write_stage(v, AUDIT_REQUEST_RECEIVED);
}

void audit_impersonated(struct request *q) {
    if (q->audit) q->audit->impersonated = json_text(q->a, user_to_json(q->a, &q->user));
}

void audit_annotate(struct request *q, const char *key, const char *value) {
    struct audit_event *v = q->audit;
    if (!v) return;
    for (size_t i = 0; i < v->n_annotations; i++)
        if (str_eq(v->annotations[i].key, key)) return;
    ARENA_GROW(q->a, v->annotations, v->n_annotations, v->cap_annotations);
    v->annotations[v->n_annotations++] = (struct annotation){arena_strdup(q->a, key), arena_strdup(q->a, value)};
}

/* ---- objects ---- */

static void drop_managed(struct json *v) {
    struct json *it;
    json_del(json_get(v, "metadata"), "managedFields");
    JSON_FOREACH(it, json_get(v, "items")) json_del(json_get(it, "metadata"), "managedFields");
    JSON_FOREACH(it, json_get(v, "rows")) json_del(json_at(it, "object", "metadata", NULL), "managedFields");
}

static const char *text_of(struct audit_event *v, const struct json *tree) {
    if (!v->conf.omit_managed_fields) return json_text(v->q->a, tree);
    struct json *copy = json_clone(v->q->a, tree);
    drop_managed(copy);
    return json_text(v->q->a, copy);
}

void audit_request_object(struct request *q, const struct json *tree) {
    struct audit_event *v = q->audit;
    if (!v || !tree) return;
    const struct json *m = json_get(tree, "metadata");
    const char **known[] = {&v->name, &v->ns, &v->uid, &v->rv};
    static const char *const keys[] = {"name", "namespace", "uid", "resourceVersion"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (str_empty(*known[i]) && !str_empty(json_get_str(m, keys[i])))
            *known[i] = arena_strdup(q->a, json_get_str(m, keys[i]));
    if (v->conf.level >= AUDIT_REQUEST) v->request = text_of(v, tree);
}

void audit_request_patch(struct request *q, const char *body, size_t len) {
    struct audit_event *v = q->audit;
    struct json *tree = NULL;
    if (!v || v->conf.level < AUDIT_REQUEST) return;
    if (yaml_parse_one(q->a, body, len, &tree, NULL, NULL) == 0) v->request = json_text(q->a, tree);
}

bool audit_wants_request(const struct request *q) { return q->audit && q->audit->conf.level >= AUDIT_REQUEST; }

bool audit_wants_response(const struct request *q) {
    return q->audit && q->is_resource && q->audit->conf.level >= AUDIT_REQUEST_RESPONSE && !q->audit->response;
}

void audit_response_object(struct request *q, const struct json *tree) {
    struct audit_event *v = q->audit;
    if (!v) return;
    if (str_eq(json_get_str(tree, "kind"), "Status")) {
        v->status = json_get_str(tree, "status");
        v->message = json_get_str(tree, "message");
        v->reason = json_get_str(tree, "reason");
        v->details = json_get(tree, "details") ? json_text(q->a, json_get(tree, "details")) : NULL;
    }
    if (audit_wants_response(q)) v->response = text_of(v, tree);
}

void audit_response_text(struct request *q, const char *text, size_t len) {
    struct audit_event *v = q->audit;
    struct json *tree = NULL;
    if (!audit_wants_response(q)) return;
    while (len && text[len - 1] == '\n') len--;
    if (json_parse(q->a, text, len, &tree, NULL, NULL)) return; /* no object: /version's cousins */
    v->response = text_of(v, tree);
}
