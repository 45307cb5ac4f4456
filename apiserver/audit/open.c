/* The flags of the audit log and its webhook. Without a policy nothing would be recorded: then neither is opened, as
 * upstream. */
#include "apiserver/apiserver.h"
#include "apiserver/audit/audit.h"

enum { POLICY_MAX = 1 << 20 };

/* One of the log's three modes; *batch, *strict say which. */
static int read_mode(const char *mode, bool *batch, bool *strict, struct err *e) {
    if (str_empty(mode)) mode = "blocking";
    *batch = str_eq(mode, "batch");
    *strict = str_eq(mode, "blocking-strict");
    if (*batch || *strict || str_eq(mode, "blocking")) return 0;
    return err_set(e, -EINVAL, "--audit-log-mode must be batch, blocking or blocking-strict");
}

static int open_log(const struct apiserver_options *o, struct audit *a, struct err *e) {
    struct audit_log_options lo = {.path = o->audit_log_path,
                                   .max_size_mb = o->audit_log_maxsize,
                                   .max_backups = o->audit_log_maxbackup,
                                   .max_age_days = o->audit_log_maxage,
                                   .compress = o->audit_log_compress,
                                   .queue = o->audit_log_queue};
    int rc = read_mode(o->audit_log_mode, &lo.batch, &a->log_strict, e);
    if (rc) return rc;
    if (!str_empty(o->audit_log_format) && !str_eq(o->audit_log_format, "json"))
        return err_set(e, -EINVAL, "--audit-log-format must be json; other formats are not supported");
    a->log_event_max = o->audit_log_truncate ? o->audit_log_event_max : 0;
    return audit_log_open(&lo, &a->log, e);
}

static int open_hook(const struct apiserver_options *o, struct audit *a, struct err *e) {
    struct audit_hook_options ho = {.file = o->audit_hook_file,
                                    .queue = o->audit_hook_queue,
                                    .batch_size = o->audit_hook_batch_size,
                                    .batch_wait_ns = o->audit_hook_batch_wait_ns,
                                    .qps = o->audit_hook_throttle ? o->audit_hook_qps : 0,
                                    .burst = o->audit_hook_burst,
                                    .backoff_ns = o->audit_hook_backoff_ns};
    if (!str_empty(o->audit_hook_mode) && !str_eq(o->audit_hook_mode, "batch"))
        return err_set(e, -EINVAL, "--audit-webhook-mode must be batch; the other modes are not supported");
    if (ho.queue < 1 || ho.batch_size < 1 || ho.batch_size > ho.queue)
        return err_set(e, -EINVAL, "--audit-webhook-batch-max-size must be positive and fit into the buffer");
    a->hook_event_max = o->audit_hook_truncate ? o->audit_hook_event_max : 0;
    return audit_hook_open(&ho, &a->hook, e);
}

int audit_open(const struct apiserver_options *o, struct audit **out, struct err *e) {
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    bool log = !str_empty(o->audit_log_path), hook = !str_empty(o->audit_hook_file);
    *out = NULL;
    if (str_empty(o->audit_policy_file) || (!log && !hook)) return 0;
    int rc = file_read(o->audit_policy_file, POLICY_MAX, &text, &len);
    if (rc) return err_errno(e, rc, "failed to read file path \"%s\"", o->audit_policy_file);
    struct audit *a = xcalloc(1, sizeof(*a));
    rc = audit_policy_parse(text, len, &a->policy, e);
    if (rc) err_wrap(e, "loading audit policy file: %s", o->audit_policy_file);
    if (!rc && log) rc = open_log(o, a, e);
    if (!rc && hook) rc = open_hook(o, a, e);
    if (rc)
        audit_close(a);
    else
        *out = a;
    return rc;
}

void audit_close(struct audit *a) {
    if (!a) return;
    audit_log_close(a->log);
    audit_hook_close(a->hook);
    audit_policy_free(a->policy);
    free(a);
}
