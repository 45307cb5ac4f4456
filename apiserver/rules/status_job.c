/* A Job's status: counters that only grow, conditions that stay, times and indexes that fit them. Only what an update
 * changes is looked at, since a spec may have changed below a status that was right. Upstream: ValidateJobStatusUpdate of
 * pkg/apis/batch/validation with the options of pkg/registry/batch/job. */
#include "apiserver/rules/kinds.h"
#include "apiserver/rules/validate_status.h"

static bool is_true(const struct json *st, const char *type, const char *value) {
    const struct json *c;
    JSON_FOREACH(c, json_get(st, "conditions"))
        if (str_eq(jstr(c, "type"), type) && str_eq(jstr(c, "status"), value)) return true;
    return false;
}

/* One side of a change: what the conditions come to. */
struct state {
    bool complete, failed, target, met, finished;
};
static struct state state_of(const struct json *st) {
    struct state s = {is_true(st, "Complete", "True"), is_true(st, "Failed", "True"),
                      is_true(st, "FailureTarget", "True"), is_true(st, "SuccessCriteriaMet", "True"), false};
    s.finished = s.complete || s.failed;
    return s;
}

static void bad_conditions(struct vctx *v, const char *why) {
    v_invalid_whole(v, FP(FP(NULL, "status"), "conditions"), "%s", why);
}

/* rules: it has a success policy. */
static void conditions(struct vctx *v, struct state s, struct state was, bool failed_indexes, bool rules) {
    bool complete = s.complete != was.complete, failed = s.failed != was.failed;
    if ((complete || failed) && s.complete && s.failed) bad_conditions(v, "cannot set Complete and Failed");
    if ((complete || s.target != was.target) && s.complete && s.target)
        bad_conditions(v, "cannot set Complete and FailureTarget");
    if ((failed || failed_indexes) && s.failed && !s.target)
        bad_conditions(v, "cannot set Failed without FailureTarget");
    if ((complete || s.met != was.met) && s.complete && !s.met)
        bad_conditions(v, "cannot set Complete without SuccessCriteriaMet");
    if (rules && s.complete && !s.met) bad_conditions(v, "cannot set Complete without SuccessCriteriaMet");
    if (s.met && s.failed) bad_conditions(v, "cannot set SuccessCriteriaMet and Failed");
    if (s.met && s.target) bad_conditions(v, "cannot set SuccessCriteriaMet and FailureTarget");
    if (was.failed && !s.failed) bad_conditions(v, "cannot disable the terminal condition Failed");
    if (was.complete && !s.complete) bad_conditions(v, "cannot disable the terminal condition Complete");
    if (was.target && !s.target) bad_conditions(v, "cannot disable the terminal condition FailureTarget");
    if (was.met && !s.met) bad_conditions(v, "cannot disable the condition SuccessCriteriaMet");
    if (was.complete && !was.met && s.met) bad_conditions(v, "cannot set SuccessCriteriaMet on a complete Job");
}

static void uncounted(struct vctx *v, const struct json *u, const struct fp *p) {
    static const char *const lists[] = {"succeeded", "failed"};
    const struct json *it;
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH(it, json_get(u, lists[i])) {
            const struct fp *at = FPI(FP(p, lists[i]), it_i);
            bool seen = false;
            for (size_t k = 0; k <= i; k++)
                for (size_t j = 0; j < (k == i ? it_i : json_len(json_get(u, lists[k]))); j++)
                    seen |= json_equal(json_item(json_get(u, lists[k]), j), it);
            if (!*str_or_empty(json_as_str(it)))
                v_invalid(v, at, it, "must not be empty");
            else if (seen)
                v_duplicate(v, at, it);
        }
}

/* Do "0-2,4" and "2,7" share an index? Both are well formed. */
static bool overlap(const char *x, const char *y) {
    for (const char *s = x; *s; s += strcspn(s, ",") + (strchr(s, ',') != NULL)) {
        char *end;
        int64_t lo = strtoll(s, &end, 10), hi = *end == '-' ? strtoll(end + 1, NULL, 10) : lo;
        for (const char *t = y; *t; t += strcspn(t, ",") + (strchr(t, ',') != NULL)) {
            int64_t from = strtoll(t, &end, 10), to = *end == '-' ? strtoll(end + 1, NULL, 10) : from;
            if (from <= hi && lo <= to) return true;
        }
    }
    return false;
}

static void indexes(struct vctx *v, const struct json *spec, const struct json *st, const struct json *was,
                    const struct fp *p) {
    const struct json *done = json_get(st, "completedIndexes"), *failed = jget(st, "failedIndexes");
    const char *d = jstr(st, "completedIndexes"), *f = jstr(st, "failedIndexes");
    bool done_new = !str_eq(d, jstr(was, "completedIndexes")),
         failed_new = !failed != !jget(was, "failedIndexes") || !str_eq(f, jstr(was, "failedIndexes"));
    bool counted = jget(spec, "completions"), per_index = jget(spec, "backoffLimitPerIndex");
    int64_t n = json_get_int(spec, "completions", 0);
    bool done_bad = job_count_indexes(d, n) < 0, failed_bad = job_count_indexes(f, n) < 0;
    if (done_new && counted && done_bad)
        v_invalid(v, FP(p, "completedIndexes"), done, "error parsing completedIndexes");
    if (failed_new && counted && per_index && failed && failed_bad)
        v_invalid(v, FP(p, "failedIndexes"), failed, "error parsing failedIndexes");
    if (done_new && *d && !str_eq(jstr(spec, "completionMode"), "Indexed"))
        v_invalid(v, FP(p, "completedIndexes"), done, "wants the completion mode Indexed");
    if (failed_new && failed && !per_index) v_invalid(v, FP(p, "failedIndexes"), failed, "wants backoffLimitPerIndex");
    if ((failed_new || done_new) && counted && *d && *f && (done_bad || failed_bad || overlap(d, f)))
        v_invalid(v, FP(p, "failedIndexes"), failed, "shares indexes with completedIndexes");
}

static void times(struct vctx *v, const struct json *spec, const struct json *st, const struct json *was,
                  struct state s, struct state old, const struct fp *p) {
    const struct json *start = jget(st, "startTime"), *end = jget(st, "completionTime"),
                      *old_start = jget(was, "startTime"), *old_end = jget(was, "completionTime");
    bool start_new = !jsame(start, old_start), end_new = !jsame(end, old_end), ended = s.finished != old.finished;
    bool done_new = s.complete != old.complete, suspended = json_get_bool(spec, "suspend", false);
    bool idle = suspended && jget(spec, "completions") && json_get_int(spec, "completions", 1) == 0;
    bool resuming = is_true(was, "Suspended", "True") && is_true(st, "Suspended", "False");
    struct ktime a, b;
    if ((done_new || end_new) && end && !s.complete)
        v_invalid(v, FP(p, "completionTime"), end, "cannot be set without the condition Complete");
    if ((done_new || end_new) && !end && s.complete) v_required(v, FP(p, "completionTime"), "of a complete Job");
    if ((start_new || end_new) && start && end && ktime_parse(jstr(st, "startTime"), &a) == 0 &&
        ktime_parse(jstr(st, "completionTime"), &b) == 0 && b.sec < a.sec)
        v_invalid(v, FP(p, "completionTime"), end, "must be equal to or after `startTime`");
    if ((ended || start_new) && !idle && !start && s.finished) v_required(v, FP(p, "startTime"), "of a finished Job");
    if (end && old_end && end_new) v_invalid(v, FP(p, "completionTime"), end, "field is immutable");
    if (start_new && !resuming && old_start && !suspended)
        v_invalid(v, FP(p, "startTime"), start, "field is immutable for an unsuspended Job once set");
}

void validate_job_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *st = json_get(obj, "status"), *was = json_get(old, "status"), *spec = json_get(obj, "spec");
    const struct fp *p = FP(NULL, "status");
    const struct json *unc = jget(st, "uncountedTerminatedPods");
    struct state s = state_of(st), before = state_of(was);
    bool ended = s.finished != before.finished;
    int64_t active = json_get_int(st, "active", 0);
    bool active_new = active != json_get_int(was, "active", 0);
    uncounted(v, unc, FP(p, "uncountedTerminatedPods"));
    conditions(v, s, before, !jsame(json_get(st, "failedIndexes"), json_get(was, "failedIndexes")),
               jget(spec, "successPolicy"));
    times(v, spec, st, was, s, before, p);
    indexes(v, spec, st, was, p);
    if ((ended || active_new) && active > 0 && s.finished)
        v_invalid(v, FP(p, "active"), json_get(st, "active"), "active>0 is invalid for finished job");
    if ((ended || !jsame(unc, json_get(was, "uncountedTerminatedPods"))) && s.finished &&
        json_len(json_get(unc, "failed")) + json_len(json_get(unc, "succeeded")) > 0)
        v_invalid(v, FP(p, "uncountedTerminatedPods"), NULL, "must be empty for finished job");
    if ((ended || !jsame(json_get(st, "terminating"), json_get(was, "terminating"))) && s.finished &&
        json_get_int(st, "terminating", 0) > 0)
        v_invalid(v, FP(p, "terminating"), json_get(st, "terminating"), "terminating>0 is invalid for finished job");
    if ((active_new || !jsame(json_get(st, "ready"), json_get(was, "ready"))) && jget(st, "ready") &&
        json_get_int(st, "ready", 0) > active)
        v_invalid(v, FP(p, "ready"), json_get(st, "ready"), "cannot set more ready pods than active");
    bool scalable = str_eq(jstr(spec, "completionMode"), "Indexed") &&
                    jsame(json_get(spec, "completions"), json_get(spec, "parallelism"));
    if (json_get_int(st, "failed", 0) < json_get_int(was, "failed", 0))
        v_invalid(v, FP(p, "failed"), json_get(st, "failed"), "cannot decrease the failed counter");
    if (!scalable && json_get_int(st, "succeeded", 0) < json_get_int(was, "succeeded", 0))
        v_invalid(v, FP(p, "succeeded"), json_get(st, "succeeded"), "cannot decrease the succeeded counter");
}
