/* Jobs and CronJobs. Upstream: pkg/apis/batch/validation/validation.go. */
#include "apiserver/rules/kinds.h"

enum {
    CRON_NAME_MAX = 52,
    FAILURE_RULES_MAX = 20,
    EXIT_CODES_MAX = 255,
    CONDITION_PATTERNS_MAX = 20,
    SUCCESS_RULES_MAX = 20,
    INDEXED_PARALLELISM_MAX = 100000,
    MANAGED_BY_MAX = 63,
};

/* ---- failure and success policies ---- */

static void exit_codes(struct vctx *v, const struct json *x, const struct json *tmpl, const struct fp *p) {
    const struct json *values = json_get(x, "values"), *c;
    const char *name = json_get_str(x, "containerName");
    v_enum(v, FP(p, "operator"), json_get(x, "operator"), ONE_OF("In", "NotIn"), true);
    if (name && !has_key(json_at(tmpl, "spec", "containers", NULL), "name", name) &&
        !has_key(json_at(tmpl, "spec", "initContainers", NULL), "name", name))
        v_invalid(v, FP(p, "containerName"), json_get(x, "containerName"),
                  "must be one of the container or initContainer names in the pod template");
    if (!json_len(values)) v_invalid(v, FP(p, "values"), values, "at least one value is required");
    if (json_len(values) > EXIT_CODES_MAX) v_too_many(v, FP(p, "values"), json_len(values), EXIT_CODES_MAX);
    bool ordered = true;
    JSON_FOREACH(c, values) {
        const struct fp *at = FPI(FP(p, "values"), c_i);
        if (str_eq(jstr(x, "operator"), "In") && json_as_int(c, 1) == 0)
            v_invalid(v, at, c, "must not be 0 for the In operator");
        for (size_t j = 0; j < c_i; j++)
            if (json_equal(json_item(values, j), c)) {
                v_duplicate(v, at, c);
                break;
            }
        if (c_i && json_as_int(json_item(values, c_i - 1), 0) > json_as_int(c, 0)) ordered = false;
    }
    if (!ordered) v_invalid(v, FP(p, "values"), values, "must be ordered");
}

static void failure_policy(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *rules = json_at(spec, "podFailurePolicy", "rules", NULL), *r, *c;
    static const char *const actions[] = {"Count", "FailIndex", "FailJob", "Ignore", NULL};
    if (json_len(rules) > FAILURE_RULES_MAX) v_too_many(v, FP(p, "rules"), json_len(rules), FAILURE_RULES_MAX);
    JSON_FOREACH(r, rules) {
        const struct fp *at = FPI(FP(p, "rules"), r_i);
        const struct json *codes = jget(r, "onExitCodes"), *conds = json_get(r, "onPodConditions");
        v_enum(v, FP(at, "action"), json_get(r, "action"), actions, true);
        if (str_eq(jstr(r, "action"), "FailIndex") && !jget(spec, "backoffLimitPerIndex"))
            v_invalid(v, FP(at, "action"), json_get(r, "action"), "requires the backoffLimitPerIndex to be set");
        if (codes) exit_codes(v, codes, json_get(spec, "template"), FP(at, "onExitCodes"));
        if (json_len(conds) > CONDITION_PATTERNS_MAX)
            v_too_many(v, FP(at, "onPodConditions"), json_len(conds), CONDITION_PATTERNS_MAX);
        JSON_FOREACH(c, conds) {
            const struct fp *cp = FPI(FP(at, "onPodConditions"), c_i);
            v_label_name(v, FP(cp, "type"), jstr(c, "type"));
            v_enum(v, FP(cp, "status"), json_get(c, "status"), ONE_OF("False", "True", "Unknown"), true);
        }
        if (codes && json_len(conds))
            v_invalid(v, at, NULL, "specifying both OnExitCodes and OnPodConditions is not supported");
        if (!codes && !json_len(conds))
            v_invalid(v, at, NULL, "specifying one of OnExitCodes and OnPodConditions is required");
    }
}

int64_t job_count_indexes(const char *s, int64_t completions) {
    int64_t total = 0, last = -1;
    if (!*s) return 0;
    for (;;) {
        char *end;
        int64_t lo = strtoll(s, &end, 10), hi = lo;
        if (end == s) return -1;
        if (*end == '-') {
            s = end + 1;
            hi = strtoll(s, &end, 10);
            if (end == s || hi <= lo) return -1;
        }
        if (lo <= last || hi >= completions) return -1;
        last = hi;
        total += hi - lo + 1;
        if (!*end) return total;
        if (*end != ',') return -1;
        s = end + 1;
    }
}

static void success_policy(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *rules = json_at(spec, "successPolicy", "rules", NULL), *r;
    int64_t completions = json_get_int(spec, "completions", 0);
    if (!str_eq(jstr(spec, "completionMode"), "Indexed")) {
        v_invalid(v, p, json_get(spec, "successPolicy"), "requires indexed completion mode");
        return;
    }
    if (!json_len(rules))
        v_required(v, FP(p, "rules"), "at least one rules must be specified when the successPolicy is specified");
    if (json_len(rules) > SUCCESS_RULES_MAX) v_too_many(v, FP(p, "rules"), json_len(rules), SUCCESS_RULES_MAX);
    JSON_FOREACH(r, rules) {
        const struct fp *at = FPI(FP(p, "rules"), r_i);
        const char *indexes = json_get_str(r, "succeededIndexes");
        const struct json *count = jget(r, "succeededCount");
        int64_t total = indexes ? job_count_indexes(indexes, completions) : 0;
        if (!count && !indexes)
            v_required(v, at, "at least one of succeededCount or succeededIndexes must be specified");
        if (total < 0)
            v_invalid(v, FP(at, "succeededIndexes"), json_get(r, "succeededIndexes"), "error parsing succeededIndexes");
        if (!count) continue;
        int64_t n = json_as_int(count, 0);
        if (n < 0) v_invalid(v, FP(at, "succeededCount"), count, "must be greater than or equal to 0");
        if (n > completions)
            v_invalid(v, FP(at, "succeededCount"), count,
                      "must be less than or equal to %lld (the number of specified completions)",
                      (long long)completions);
        if (indexes && n > MAX_OF(total, INT64_C(0)))
            v_invalid(v, FP(at, "succeededCount"), count,
                      "must be less than or equal to %lld (the number of indexes in the specified "
                      "succeededIndexes field)",
                      (long long)MAX_OF(total, INT64_C(0)));
    }
}

/* ---- the spec of a Job ---- */

static void indexed(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *per_index = jget(spec, "backoffLimitPerIndex"), *max_failed = jget(spec, "maxFailedIndexes"),
                      *completions = jget(spec, "completions");
    if (max_failed && !per_index) v_required(v, FP(p, "backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    if (!jget(spec, "completionMode") || str_eq(jstr(spec, "completionMode"), "NonIndexed")) {
        if (per_index) v_invalid(v, FP(p, "backoffLimitPerIndex"), per_index, "requires indexed completion mode");
        if (max_failed) v_invalid(v, FP(p, "maxFailedIndexes"), max_failed, "requires indexed completion mode");
        return;
    }
    if (!str_eq(jstr(spec, "completionMode"), "Indexed")) return;
    if (!completions) v_required(v, FP(p, "completions"), "when completion mode is Indexed");
    if (json_get_int(spec, "parallelism", 0) > INDEXED_PARALLELISM_MAX)
        v_invalid(v, FP(p, "parallelism"), json_get(spec, "parallelism"),
                  "must be less than or equal to %d when completion mode is Indexed", INDEXED_PARALLELISM_MAX);
    if (completions && max_failed && json_as_int(max_failed, 0) > json_as_int(completions, 0))
        v_invalid(v, FP(p, "maxFailedIndexes"), max_failed, "must be less than or equal to completions");
    if (max_failed && json_as_int(max_failed, 0) > INDEXED_PARALLELISM_MAX)
        v_invalid(v, FP(p, "maxFailedIndexes"), max_failed, "must be less than or equal to %d",
                  INDEXED_PARALLELISM_MAX);
}

static void job_spec(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *p) {
    static const char *const counts[] = {
        "parallelism",          "completions",     "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
        "backoffLimitPerIndex", "maxFailedIndexes"};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) v_min(v, p, spec, counts[i], 0);
    const char *by = json_get_str(spec, "managedBy"), *slash = by ? strchr(by, '/') : NULL;
    if (by && !*by)
        v_required(v, FP(p, "managedBy"), NULL);
    else if (by && (!slash || slash == by || !slash[1] ||
                    is_dns1123_subdomain(arena_strndup(v->a, by, (size_t)(slash - by)))))
        v_invalid(v, FP(p, "managedBy"), json_get(spec, "managedBy"),
                  "must be a domain-prefixed path (such as \"acme.io/foo\")");
    if (by && strlen(by) > MANAGED_BY_MAX) v_too_long(v, FP(p, "managedBy"), MANAGED_BY_MAX);
    v_enum(v, FP(p, "completionMode"), json_get(spec, "completionMode"), ONE_OF("NonIndexed", "Indexed"), false);
    indexed(v, spec, p);
    bool failure = jget(spec, "podFailurePolicy");
    if (failure) failure_policy(v, spec, FP(p, "podFailurePolicy"));
    if (jget(spec, "successPolicy")) success_policy(v, spec, FP(p, "successPolicy"));
    v_enum(v, FP(p, "podReplacementPolicy"), json_get(spec, "podReplacementPolicy"),
           failure ? ONE_OF("Failed") : ONE_OF("Failed", "TerminatingOrFailed"), false);
    validate_pod_template(v, json_get(spec, "template"), json_get(old, "template"), FP(p, "template"));
    const struct json *restart = json_at(spec, "template", "spec", "restartPolicy", NULL);
    const struct fp *at = FP(FP(FP(p, "template"), "spec"), "restartPolicy");
    const char *policy = str_or_empty(json_as_str(restart));
    if (str_in(policy, ONE_OF("", "Always")))
        v_required(v, at, "valid values: \"OnFailure\", \"Never\"");
    else if (!str_in(policy, ONE_OF("OnFailure", "Never")))
        v_not_supported(v, at, restart, ONE_OF("OnFailure", "Never"));
    else if (failure && !str_eq(policy, "Never"))
        v_invalid(v, at, restart, "only \"Never\" is supported when podFailurePolicy is specified");
}

static void generated_selector(struct vctx *v, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec"), *sel = jget(spec, "selector"),
                      *labels = json_at(spec, "template", "metadata", "labels", NULL);
    const struct json *meta = json_get(obj, "metadata");
    if (json_get_bool(spec, "manualSelector", false) || !sel) return;
    const char *uid = jstr(meta, "uid"), *name = jstr(meta, "name");
    const char *const want[][2] = {{"controller-uid", uid},
                                   {"job-name", name},
                                   {"batch.kubernetes.io/controller-uid", uid},
                                   {"batch.kubernetes.io/job-name", name}};
    const struct fp *at = FP(FP(FP(FP(NULL, "spec"), "template"), "metadata"), "labels");
    struct json *expected = json_object(v->a);
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        const char *have = json_get_str(labels, want[i][0]);
        if (!have)
            v_required(v, FPK(at, want[i][0]), arena_printf(v->a, "must be '%s'", want[i][1]));
        else if (!str_eq(have, want[i][1]))
            v_invalid(v, FPK(at, want[i][0]), labels, "must be '%s'", want[i][1]);
        json_set_str(v->a, expected, want[i][0], want[i][1]);
    }
    if (selector_parses(v, sel) && !selector_matches(sel, expected))
        v_invalid(v, FP(FP(NULL, "spec"), "selector"), sel, "`selector` not auto-generated");
}

/* In `was` the containers get what they ask for now. */
static void keep_resources(struct arena *a, struct json *was, const struct json *now) {
    static const char *const lists[] = {"containers", "initContainers"};
    struct json *k;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *list = json_get(now, lists[i]);
        if (json_len(list) != json_len(json_get(was, lists[i]))) continue;
        JSON_FOREACH(k, json_get(was, lists[i])) {
            const struct json *n = json_item(list, k_i), *res = json_get(n, "resources");
            if (str_eq(jstr(n, "name"), jstr(k, "name")))
                json_set(a, k, "resources", res ? json_clone(a, res) : json_object(a));
        }
    }
}

/* And the node affinity of now, where only that differs. */
static void keep_node_affinity(struct arena *a, struct json *was, const struct json *now) {
    struct json *before = jget(was, "affinity");
    const struct json *wanted = jget(now, "affinity"), *node = json_get(wanted, "nodeAffinity");
    if (!before && !wanted) return;
    if (!before) before = json_set(a, was, "affinity", json_object(a));
    json_del(before, "nodeAffinity");
    if (node) json_set(a, before, "nodeAffinity", json_clone(a, node));
    if (!wanted && !json_len(before)) json_del(was, "affinity");
}

static void job_update(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *p) {
    static const char *const fixed[] = {"selector",  "completionMode", "podFailurePolicy", "backoffLimitPerIndex",
                                        "managedBy", "successPolicy"};
    static const char *const when_suspended[] = {"nodeSelector", "tolerations", "schedulingGates"};
    struct json *before = json_clone(v->a, old), *was = json_get(before, "template");
    if (json_get_bool(old, "suspend", false)) { /* a suspended Job may still be given other scheduling directives */
        const struct json *now = json_get(spec, "template");
        for (size_t i = 0; i < ARRAY_LEN(when_suspended); i++) {
            const struct json *x = json_at(now, "spec", when_suspended[i], NULL);
            struct json *ws = json_ensure_object(v->a, was, "spec");
            if (x)
                json_set(v->a, ws, when_suspended[i], json_clone(v->a, x));
            else
                json_del(ws, when_suspended[i]);
        }
        keep_resources(v->a, json_get(was, "spec"), json_get(now, "spec"));
        keep_node_affinity(v->a, json_get(was, "spec"), json_get(now, "spec"));
        v_immutable(v, FP(FP(p, "template"), "spec"), json_get(now, "spec"), json_get(was, "spec"));
    } else {
        v_immutable(v, FP(p, "template"), json_get(spec, "template"), was);
    }
    bool is_indexed = str_eq(jstr(spec, "completionMode"), "Indexed");
    const struct json *done = json_get(spec, "completions"), *done_before = json_get(old, "completions");
    if (!is_indexed)
        v_immutable(v, FP(p, "completions"), done, done_before);
    else if (!jsame(done, done_before) && !json_equal(done, json_get(spec, "parallelism")))
        v_invalid(v, FP(p, "completions"), done, "can only be modified in tandem with spec.parallelism");
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        v_immutable(v, FP(p, fixed[i]), json_get(spec, fixed[i]), json_get(before, fixed[i]));
}

static void job_checks(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *p) {
    const struct json *sel = jget(spec, "selector"), *labels = json_at(spec, "template", "metadata", "labels", NULL);
    job_spec(v, spec, old, p);
    if (!sel)
        v_required(v, FP(p, "selector"), NULL);
    else
        v_label_selector(v, FP(p, "selector"), sel, false);
    if (!sel || (selector_parses(v, sel) && !selector_matches(sel, labels)))
        v_invalid(v, FP(FP(FP(p, "template"), "metadata"), "labels"), labels,
                  "`selector` does not match template `labels`");
}

VALIDATE_FN(job) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *p = FP(NULL, "spec");
    generated_selector(v, obj);
    job_checks(v, spec, json_get(old, "spec"), p);
    if (str_eq(jstr(spec, "completionMode"), "Indexed") && json_get_int(spec, "completions", 0) > 0) {
        const char *host = arena_printf(v->a, "%s-%lld", jstr(json_get(obj, "metadata"), "name"),
                                        (long long)json_get_int(spec, "completions", 0) - 1);
        if (is_dns1123_label(host))
            v_invalid(v, FP(FP(NULL, "metadata"), "name"), json_at(obj, "metadata", "name", NULL),
                      "will not able to create pod with invalid DNS label: %s", host);
    }
    if (!old) return;
    job_checks(v, spec, json_get(old, "spec"),
               p); /* upstream looks twice at an update, and clients see each finding twice */
    job_update(v, spec, json_get(old, "spec"), p);
}

/* ---- CronJob ---- */

static bool is_time_zone(const char *s) {
    if (!*s || strcasecmp(s, "Local") == 0) return false;
    for (const char *q = s; *q;) {
        size_t n = strcspn(q, "/");
        if (!n || *q == '-' || *q == '.' ||
            strspn(q, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-") < n)
            return false;
        q += n + (q[n] == '/');
    }
    if (str_eq(s, "UTC")) return true;
    char path[512];
    int n = snprintf(path, sizeof path, "/usr/share/zoneinfo/%s", s);
    /* without a zone database every well-formed name passes */
    return n > 0 && (size_t)n < sizeof path && (access(path, R_OK) == 0 || access("/usr/share/zoneinfo", R_OK) != 0);
}

VALIDATE_FN(cron_job) {
    const struct json *spec = json_get(obj, "spec"), *job = json_at(spec, "jobTemplate", "spec", NULL),
                      *zone = jget(spec, "timeZone");
    const struct fp *p = FP(NULL, "spec");
    const char *schedule = jstr(spec, "schedule"), *name = jstr(json_get(obj, "metadata"), "name");
    bool tz = strstr(schedule, "TZ") != NULL, had_tz = strstr(jstr(json_get(old, "spec"), "schedule"), "TZ") != NULL;
    if (!*schedule) {
        v_required(v, FP(p, "schedule"), NULL);
    } else {
        const char *fields = tz && strchr(schedule, ' ') ? strchr(schedule, ' ') + 1 : schedule;
        if (!is_cron(fields))
            v_invalid(v, FP(p, "schedule"), json_get(spec, "schedule"),
                      "expected exactly 5 fields or a descriptor such as @hourly");
        if (tz && !had_tz)
            v_invalid(v, FP(p, "schedule"), json_get(spec, "schedule"),
                      "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        else if (tz && zone)
            v_invalid(v, FP(p, "schedule"), json_get(spec, "schedule"),
                      "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    }
    v_min(v, p, spec, "startingDeadlineSeconds", 0);
    if (zone && !*str_or_empty(json_as_str(zone)))
        v_invalid(v, FP(p, "timeZone"), zone, "timeZone must be nil or non-empty string");
    else if (zone && !jsame(zone, json_at(old, "spec", "timeZone", NULL)) &&
             !is_time_zone(str_or_empty(json_as_str(zone))))
        v_invalid(v, FP(p, "timeZone"), zone, "unknown time zone");
    v_enum(v, FP(p, "concurrencyPolicy"), json_get(spec, "concurrencyPolicy"), ONE_OF("Allow", "Forbid", "Replace"),
           true);
    const struct fp *jp = FP(FP(p, "jobTemplate"), "spec");
    job_spec(v, job, json_at(old, "spec", "jobTemplate", "spec", NULL), jp);
    if (jget(job, "selector"))
        v_invalid(v, FP(jp, "selector"), json_get(job, "selector"), "`selector` will be auto-generated");
    if (json_get_bool(job, "manualSelector", false))
        v_not_supported(v, FP(jp, "manualSelector"), json_get(job, "manualSelector"), ONE_OF("nil", "false"));
    v_min(v, p, spec, "successfulJobsHistoryLimit", 0);
    v_min(v, p, spec, "failedJobsHistoryLimit", 0);
    if (!old && strlen(name) > CRON_NAME_MAX)
        v_invalid(v, FP(FP(NULL, "metadata"), "name"), json_at(obj, "metadata", "name", NULL),
                  "must be no more than %d characters", CRON_NAME_MAX);
}
