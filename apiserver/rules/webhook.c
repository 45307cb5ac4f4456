/* Admission webhooks: an AdmissionReview for each webhook whose rules, selectors and matchConditions fit the write, sent
 * as JSON over HTTPS, and what its answer does.
 *
 *   mutating    in the order of the configurations' names; each sees what those before made of the object. When something
 *               changed, the chain of mutating plugins goes round once more, in which webhooks with reinvocationPolicy
 *               IfNeeded that something changed after are asked again
 *   validating  after all changes, all at once; of several refusals the first in the order of the configurations counts,
 *               warnings and audit annotations of all of them
 *
 * A call that fails refuses the write (500) or is ignored, as failurePolicy says; a webhook that is ignored so and every
 * change leave annotations in the audit log. Configurations of webhooks and policies are never sent to webhooks. Upstream:
 * apiserver/pkg/admission/plugin/webhook. */
#include "apiserver/rules/webhook.h"

#include <pthread.h>
#include <stdatomic.h>

#include "apiserver/rules/hook_client.h"
#include "apiserver/rules/policy.h"
#include "pkg/api/reason.h"
#include "pkg/base/bytes.h"
#include "pkg/json/patch.h"

enum { ANSWER_MAX = 3 << 20, DEFAULT_SECONDS = 10, SIDE_BY_SIDE_MAX = 16, CALLER_STACK = 256 * 1024 };

/* One webhook that is asked. */
struct call {
    const struct admission_hook *hook;
    struct admit_view view;
    const char *version; /* of the AdmissionReview */
    bool mutating;
    unsigned round;
    size_t index; /* among all that are configured (mutating), or that fit (validating) */
    /* how it went: */
    char uid[37];
    struct hook_request request;
    struct arena *arena; /* of the answer */
    struct json *answer;
    int rc;
    struct err why;
};

/* ---- which ---- */

static bool exempt(const struct rules_ctx *c) {
    static const char *const own[] = {"ValidatingWebhookConfiguration",
                                      "MutatingWebhookConfiguration",
                                      "ValidatingAdmissionPolicy",
                                      "ValidatingAdmissionPolicyBinding",
                                      "MutatingAdmissionPolicy",
                                      "MutatingAdmissionPolicyBinding",
                                      NULL};
    return c->no_extensions || (str_eq(c->group, ADMISSION_GROUP) && str_in(c->kind, own));
}

static bool ignores(const struct admission_hook *h) { return str_eq(jstr(h->hook, "failurePolicy"), "Ignore"); }

/* 1 with the view made when the webhook is to be asked, 0 when not, or an error. */
static int wanted(struct rules_ctx *c, const struct admission_hook *h, const struct json *obj, const struct json *old,
                  struct admit_view *view, struct err *e) {
    bool equivalent = str_eq(jstr(h->hook, "matchPolicy"), "Equivalent");
    struct rules_kind as;
    struct expr_input in;
    const char *why = NULL;
    if (!admit_selectors_match(c, h->hook, obj, old)) return 0;
    if (!admit_rules_match(c, json_get(h->hook, "rules"), equivalent, "", &as)) return 0;
    int rc = admit_view_make(c, &as, obj, old, view, e);
    if (rc) return err_wrap(e, "Internal error occurred"), rc;
    if (!h->n_conditions) return 1;
    expr_input_init(&in, c, view, obj, old, CEL_RUNTIME_BUDGET_MATCH);
    in.ns = NULL;
    bool match = expr_conditions_match(&in, h->env, h->conditions, h->n_conditions, ignores(h), &why);
    if (why) return admission_forbid(c, obj ? obj : old, e, "%s", why);
    return match;
}

/* ---- calling ---- */

static const char *review_version(const struct json *hook) {
    const struct json *it;
    JSON_FOREACH(it, json_get(hook, "admissionReviewVersions"))
        if (str_in(str_or_empty(json_as_str(it)), ONE_OF("v1", "v1beta1"))) return json_as_str(it);
    return NULL;
}

static struct json *review(struct rules_ctx *c, const struct call *x, const struct json *obj, const struct json *old,
                           const char *uid) {
    struct json *top = json_object(c->a), *r = admit_request(c, &x->view.as, obj, old, uid);
    json_set_str(c->a, top, "kind", "AdmissionReview");
    json_set_str(c->a, top, "apiVersion", arena_printf(c->a, "admission.k8s.io/%s", x->version));
    json_set(c->a, r, "object", x->view.obj ? x->view.obj : json_null(c->a));
    json_set(c->a, r, "oldObject", x->view.old ? x->view.old : json_null(c->a));
    json_set(c->a, top, "request", r);
    return top;
}

/* The answer as it must be (v1beta1 was lax). */
static int verify(const struct call *x, const struct json *answer, const char *uid, struct json **out, struct err *e) {
    struct json *resp = json_get(answer, "response");
    const char *api = jstr(answer, "apiVersion"), *kind = jstr(answer, "kind");
    bool lax = str_eq(x->version, "v1beta1"), patched = *jstr(resp, "patch") && x->mutating;
    if (!json_is(resp, JSON_OBJECT)) return err_set(e, -EPROTO, "webhook response was absent");
    *out = resp;
    if (lax) return 0;
    if (!str_eq(jstr(resp, "uid"), uid))
        return err_set(e, -EPROTO, "expected response.uid=\"%s\", got \"%s\"", uid, jstr(resp, "uid"));
    if (!str_eq(api, "admission.k8s.io/v1") || !str_eq(kind, "AdmissionReview"))
        return err_set(e, -EPROTO,
                       "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got %s%s, Kind=%s",
                       strchr(api, '/') ? "" : "/", api, kind);
    if (patched && !*jstr(resp, "patchType"))
        return err_set(e, -EPROTO, "webhook returned response.patch but not response.patchType");
    if (*jstr(resp, "patchType") && !patched && x->mutating)
        return err_set(e, -EPROTO, "webhook returned response.patchType but not response.patch");
    if (patched && !str_eq(jstr(resp, "patchType"), "JSONPatch"))
        return err_set(e, -EPROTO, "webhook returned invalid response.patchType of \"%s\"", jstr(resp, "patchType"));
    return 0;
}

/* Makes the request: what call_send then needs, in the arena of the write. */
static void call_prepare(struct rules_ctx *c, struct call *x, const struct json *obj, const struct json *old) {
    uuid_new(x->uid);
    x->request = (struct hook_request){.client_config = json_get(x->hook->hook, "clientConfig"),
                                       .body = x->version ? review(c, x, obj, old, x->uid) : NULL,
                                       .seconds = json_get_int(x->hook->hook, "timeoutSeconds", DEFAULT_SECONDS),
                                       .max_bytes = ANSWER_MAX};
}

/* Touches nothing of the write but to read it: several are on their way at once. */
static void call_send(struct rules *r, struct call *x) {
    x->arena = arena_new_sized(1024);
    if (!x->version)
        x->rc = err_set(
            &x->why, -EINVAL,
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)");
    else if ((x->rc = hook_call(r, x->arena, &x->request, &x->answer, &x->why)) < 0)
        err_wrap(&x->why, "failed to call webhook");
}

static void call_done(struct call *x) {
    arena_free(x->arena);
    x->arena = NULL;
    err_done(&x->why);
}

/* The webhook's own Status is the answer, with a code of at least 400. */
static int denied(struct rules_ctx *c, const char *name, const struct json *resp, struct err *e) {
    const struct json *st = json_get(resp, "status"), *d = json_get(st, "details"), *cause;
    int64_t code = json_get_int(st, "code", 0);
    const char *msg = jstr(st, "message"), *reason = jstr(st, "reason");
    if (code < 400 || code > 599) code = 400;
    const char *why = *msg      ? arena_printf(c->a, ": %s", msg)
                      : *reason ? arena_printf(c->a, ": %s", reason)
                                : " without explanation";
    int rc = err_status(e, (int)code, api_reason(reason), "admission webhook \"%s\" denied the request%s", name, why);
    if (d) err_details(e, json_get_str(d, "group"), json_get_str(d, "kind"), json_get_str(d, "name"));
    JSON_FOREACH(cause, json_get(d, "causes"))
        err_cause_add(e, jstr(cause, "reason"), jstr(cause, "field"), "%s", jstr(cause, "message"));
    return rc;
}

static void failed_open(struct rules_ctx *c, const struct call *x) {
    const char *kind = x->mutating ? "mutation" : "validating";
    rules_annotate(
        c, arena_printf(c->a, "failed-open.%s.webhook.admission.k8s.io/round_%u_index_%zu", kind, x->round, x->index),
        "%s", x->hook->name);
}

static int call_failed(struct rules_ctx *c, const struct call *x, const char *why, struct err *e) {
    if (!ignores(x->hook))
        return err_status(e, 500, "InternalError", "Internal error occurred: failed calling webhook \"%s\": %s",
                          x->hook->name, why);
    failed_open(c, x);
    return 0;
}

static int dry_run_forbids(struct rules_ctx *c, const struct admission_hook *h, struct err *e) {
    if (!c->dry_run || str_in(jstr(h->hook, "sideEffects"), ONE_OF("None", "NoneOnDryRun"))) return 0;
    return err_status(e, 400, "BadRequest", "admission webhook \"%s\" does not support dry run", h->name);
}

/* What a webhook said about the write, with failurePolicy applied. *resp (in the arena of the write) NULL: nothing
 * (ignored). */
static int judge(struct rules_ctx *c, struct call *x, struct json **resp, struct err *e) {
    const char *name = x->hook->name;
    const struct json *w;
    *resp = NULL;
    if (x->rc == 0 && (x->rc = verify(x, json_clone(c->a, x->answer), x->uid, resp, &x->why)) < 0)
        err_wrap(&x->why, "received invalid webhook response");
    if (x->rc < 0) {
        *resp = NULL;
        return call_failed(c, x, x->why.msg, e);
    }
    JSON_FOREACH_MEMBER(m, json_get(*resp, "auditAnnotations"))
        rules_annotate(c, arena_printf(c->a, "%s/%s", name, m->key), "%s", str_or_empty(json_as_str(m->value)));
    JSON_FOREACH(w, json_get(*resp, "warnings"))
        if (json_as_str(w)) rules_warn(c, "%s", json_as_str(w));
    return json_get_bool(*resp, "allowed", false) ? 0 : denied(c, name, *resp, e);
}

/* ---- mutating ---- */

static int internal(struct err *e, const char *text) {
    return err_status(e, 500, "InternalError", "Internal error occurred: %s", text);
}

/* Makes the patch of an answer. An undecodable patch is a failed call, one that does not apply an error. */
static int apply_patch(struct rules_ctx *c, const struct call *x, const struct json *resp, struct json *obj,
                       bool *changed, struct err *e) {
    const char *b64 = jstr(resp, "patch");
    _cleanup_err_ struct err why = {0};
    struct json *patch = NULL, *out = NULL;
    *changed = false;
    if (!*b64) return 0;
    size_t n = strlen(b64);
    char *text = arena_alloc(c->a, n / 4 * 3 + 4);
    if (base64_decode(b64, n, text, &n) < 0 || json_parse(c->a, text, n, &patch, NULL, &why) < 0 ||
        !json_is(patch, JSON_ARRAY))
        return call_failed(c, x, arena_printf(c->a, "received undecodable patch in webhook response: %s", why.msg), e);
    if (!json_len(patch)) return 0;
    if (!obj)
        return internal(
            e, arena_printf(
                   c->a,
                   "admission webhook \"%s\" attempted to modify the object, which is not supported for this operation",
                   x->hook->name));
    int r = json_patch(c->a, x->view.obj, patch, &out, &why);
    if (r == 0) r = admit_replace(c, out, obj, changed, &why);
    if (r < 0) return internal(e, why.msg);
    struct json *note = json_object(c->a);
    json_set_str(c->a, note, "configuration", x->hook->config);
    json_set_str(c->a, note, "webhook", x->hook->name);
    json_set(c->a, note, "patch", patch);
    json_set_str(c->a, note, "patchType", "JSONPatch");
    rules_annotate(c, arena_printf(c->a, "patch.webhook.admission.k8s.io/round_%u_index_%zu", x->round, x->index), "%s",
                   json_text(c->a, note));
    c->annotations[c->n_annotations - 1].detail = true;
    return 0;
}

static void note_mutation(struct rules_ctx *c, const struct call *x, bool changed) {
    struct json *note = json_object(c->a);
    json_set_str(c->a, note, "configuration", x->hook->config);
    json_set_str(c->a, note, "webhook", x->hook->name);
    json_set_bool(c->a, note, "mutated", changed);
    rules_annotate(c, arena_printf(c->a, "mutation.webhook.admission.k8s.io/round_%u_index_%zu", x->round, x->index),
                   "%s", json_text(c->a, note));
}

static int mutate_one(struct rules_ctx *c, struct call *x, struct json *obj, const struct json *old, struct err *e) {
    struct admit_rounds *rounds = c->rounds;
    struct json *resp;
    bool changed = false;
    int r = dry_run_forbids(c, x->hook, e);
    if (r < 0) return note_mutation(c, x, false), r;
    call_prepare(c, x, obj, old);
    call_send(c->rules, x);
    r = judge(c, x, &resp, e);
    call_done(x);
    if (r == 0 && resp) r = apply_patch(c, x, resp, obj, &changed, e);
    note_mutation(c, x, changed);
    if (r < 0) return r;
    if (changed) {
        reinvocation_require(c->a, &rounds->hooks);
        rounds->wanted = true;
    }
    if (str_eq(jstr(x->hook->hook, "reinvocationPolicy"), "IfNeeded"))
        reinvocation_add(c->a, &rounds->hooks, arena_strdup(c->a, x->hook->key));
    return 0;
}

int webhooks_mutate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    struct admit_rounds *rounds = c->rounds;
    if (!rounds || exempt(c)) return 0;
    _cleanup_policy_set_ struct policy_set *s = policy_set_get(c, SET_MUTATING_HOOKS);
    if (!s->n) return 0;
    if (rounds->second && !json_equal(rounds->hooks.last, obj)) reinvocation_require(c->a, &rounds->hooks);
    for (size_t i = 0; i < s->n; i++) {
        struct call x = {.hook = &s->hooks[i], .mutating = true, .round = rounds->second, .index = i};
        x.version = review_version(x.hook->hook);
        int r = wanted(c, x.hook, obj, old, &x.view, e);
        if (r == 1 && rounds->second && !reinvocation_wanted(&rounds->hooks, x.hook->key)) r = 0;
        if (r == 1) r = mutate_one(c, &x, obj, old, e);
        if (r < 0) return r;
    }
    rounds->hooks.last = json_clone(c->a, obj);
    return 0;
}

/* ---- validating ---- */

/* Calls that are made side by side; whoever is free takes the next. */
struct volley {
    struct rules *rules;
    struct call *calls;
    size_t n;
    _Atomic size_t next;
};

static void *caller(void *arg) {
    struct volley *v = arg;
    for (size_t i; (i = atomic_fetch_add(&v->next, 1)) < v->n;) call_send(v->rules, &v->calls[i]);
    return NULL;
}

static void call_all(struct rules *rules, struct call *calls, size_t n) {
    struct volley v = {.rules = rules, .calls = calls, .n = n};
    pthread_t threads[SIDE_BY_SIDE_MAX];
    pthread_attr_t attr;
    size_t started = 0;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, CALLER_STACK);
    while (started + 1 < n && started + 1 < SIDE_BY_SIDE_MAX &&
           pthread_create(&threads[started], &attr, caller, &v) == 0)
        started++;
    pthread_attr_destroy(&attr);
    caller(&v);
    for (size_t i = 0; i < started; i++) pthread_join(threads[i], NULL);
}

/* Every answer is looked at, for its warnings and annotations; the first refusal is kept. */
static int judge_all(struct rules_ctx *c, struct call *calls, size_t n, struct err *e) {
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        _cleanup_err_ struct err mine = {0};
        struct json *resp;
        int r = judge(c, &calls[i], &resp, &mine);
        call_done(&calls[i]);
        if (r == 0 || rc) continue;
        rc = r;
        err_move(e, &mine);
    }
    return rc;
}

int webhooks_validate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    size_t n = 0;
    if (exempt(c)) return 0;
    _cleanup_policy_set_ struct policy_set *s = policy_set_get(c, SET_VALIDATING_HOOKS);
    struct call *calls = s->n ? arena_zalloc(c->a, s->n * sizeof(*calls)) : NULL;
    for (size_t i = 0; i < s->n; i++) {
        struct call *x = &calls[n];
        *x = (struct call){.hook = &s->hooks[i], .index = n};
        x->version = review_version(x->hook->hook);
        int r = wanted(c, x->hook, obj, old, &x->view, e);
        if (r == 1) {
            r = dry_run_forbids(c, x->hook, e);
            n++;
        }
        if (r < 0) return r;
    }
    for (size_t i = 0; i < n; i++) call_prepare(c, &calls[i], obj, old);
    call_all(c->rules, calls, n);
    return judge_all(c, calls, n, e);
}
