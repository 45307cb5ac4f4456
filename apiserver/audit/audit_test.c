#include "apiserver/audit/audit.h"

#include <dirent.h>
#include <unistd.h>

#include "apiserver/auth/authn.h"
#include "tests/test.h"

static const char head[] = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

static struct audit_policy *policy(const char *rules) {
    _cleanup_err_ struct err e = {0};
    _cleanup_free_ char *text = xasprintf("%s%s", head, rules);
    struct audit_policy *p = NULL;
    if (audit_policy_parse(text, strlen(text), &p, &e)) TEST_FAIL("%s: %s", rules, e.msg);
    return p;
}

TEST(the_first_rule_that_matches_counts) {
    static const char *groups[] = {"dev", "system:authenticated"};
    struct user_info ann = {.name = "ann", .uid = "", .groups = groups, .n_groups = 2};
    struct audit_attrs pod = {.user = &ann,
                              .verb = "get",
                              .resource_request = true,
                              .group = "",
                              .resource = "pods",
                              .ns = "ns",
                              .name = "p"};
    struct audit_attrs log = pod, url = {.user = &ann, .verb = "get", .path = "/healthz/etcd"}, scale = pod,
                       nobody = pod;
    log.subresource = "log";
    scale.group = "apps", scale.resource = "deployments", scale.subresource = "scale";
    nobody.user = NULL;
    const struct {
        const char *rules;
        const struct audit_attrs *q;
        enum audit_level level;
    } cases[] = {
        {"rules: [{level: Metadata}]", &pod, AUDIT_METADATA},
        {"rules: [{level: Request, users: [bob]}, {level: Metadata, users: [ann]}]", &pod, AUDIT_METADATA},
        {"rules: [{level: Metadata, users: [ann]}]", &nobody, AUDIT_NONE},
        {"rules: [{level: Request, userGroups: [dev]}]", &pod, AUDIT_REQUEST},
        {"rules: [{level: Request, userGroups: [ops]}]", &pod, AUDIT_NONE},
        {"rules: [{level: Request, verbs: [list, watch]}]", &pod, AUDIT_NONE},
        {"rules: [{level: Request, namespaces: [ns]}]", &pod, AUDIT_REQUEST},
        {"rules: [{level: Request, namespaces: ['']}]", &pod, AUDIT_NONE},
        {"rules: [{level: Request, namespaces: [ns]}]", &url, AUDIT_NONE},
        {"rules: [{level: Request, resources: [{}]}]", &pod, AUDIT_REQUEST},
        {"rules: [{level: Request, resources: [{group: apps}]}]", &pod, AUDIT_NONE},
        {"rules: [{level: Request, resources: [{group: '*'}]}]", &scale, AUDIT_REQUEST},
        {"rules: [{level: Request, resources: [{resources: [pods]}]}]", &log, AUDIT_NONE},
        {"rules: [{level: Request, resources: [{resources: ['pods/*']}]}]", &log, AUDIT_REQUEST},
        {"rules: [{level: Request, resources: [{resources: ['*/scale'], group: apps}]}]", &scale, AUDIT_REQUEST},
        {"rules: [{level: Request, resources: [{resources: ['*/scale'], group: apps}]}]", &pod, AUDIT_NONE},
        {"rules: [{level: Request, resources: [{resources: [pods], resourceNames: [other]}]}]", &pod, AUDIT_NONE},
        {"rules: [{level: Request, resources: [{resources: [pods], resourceNames: [p]}]}]", &pod, AUDIT_REQUEST},
        {"rules: [{level: Request, nonResourceURLs: ['/healthz*']}]", &url, AUDIT_REQUEST},
        {"rules: [{level: Request, nonResourceURLs: ['/healthz']}]", &url, AUDIT_NONE},
        {"rules: [{level: Request, nonResourceURLs: ['*']}]", &pod, AUDIT_NONE},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct audit_policy *p = policy(cases[i].rules);
        int got = (int)audit_policy_decide(p, cases[i].q).level;
        if (got != (int)cases[i].level) TEST_FAIL("%s: level %d", cases[i].rules, got);
        audit_policy_free(p);
    }
}

TEST(stages_and_managed_fields_are_left_out_by_policy_and_rule) {
    struct audit_attrs q = {.verb = "get", .path = "/"};
    struct audit_policy *p = policy(
        "omitStages: [RequestReceived]\nomitManagedFields: true\n"
        "rules: [{level: Metadata, omitStages: [Panic], omitManagedFields: false}]");
    struct audit_config c = audit_policy_decide(p, &q);
    CHECK_INT(c.omit, 1u << AUDIT_REQUEST_RECEIVED | 1u << AUDIT_PANIC);
    CHECK(!c.omit_managed_fields);
    audit_policy_free(p);
}

TEST(wrong_policies_are_refused_with_the_place) {
    static const struct {
        const char *rules, *message;
    } cases[] = {
        {"rules: []", "loaded illegal policy with 0 rules"},
        {"rules: [{}]", "rules[0].level: Required value"},
        {"rules: [{level: None}, {level: All}]", "rules[1].level: Unsupported value: \"All\""},
        {"rules: [{level: None, user: [a]}]", "unknown field \"rules[0].user\""},
        {"rules: [{level: None, users: a}]", "rules[0].users: must be a list"},
        {"rules: [{level: None, omitStages: [Later]}]", "rules[0].omitStages: Invalid value: \"Later\""},
        {"rules: [{level: None, namespaces: [a], nonResourceURLs: ['*']}]", "rules cannot apply to both"},
        {"rules: [{level: None, nonResourceURLs: [healthz]}]", "must begin with a '/'"},
        {"rules: [{level: None, nonResourceURLs: ['/a*b']}]", "must be the final character"},
        {"rules: [{level: None, resources: [{resourceNames: [a]}]}]", "rules[0].resources[0].resourceNames"},
        {"rules: [{level: None, resources: [{group: apps/v1}]}]", "must be a group"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_err_ struct err e = {0};
        _cleanup_free_ char *text = xasprintf("%s%s", head, cases[i].rules);
        struct audit_policy *p = NULL;
        if (!audit_policy_parse(text, strlen(text), &p, &e)) TEST_FAIL("%s is taken", cases[i].rules);
        if (!strstr(e.msg, cases[i].message)) TEST_FAIL("%s: %s", cases[i].rules, e.msg);
    }
}

static size_t files_in(const char *dir) {
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *en; d && (en = readdir(d));) n += en->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static void rotate_twelve(bool compress, size_t files, size_t packed) {
    char dir[] = "/tmp/audit-test-XXXXXX";
    REQUIRE(mkdtemp(dir));
    _cleanup_free_ char *path = xasprintf("%s/audit.log", dir), *line = xcalloc(1, 400 * 1024 + 2);
    memset(line, 'x', 400 * 1024);
    line[400 * 1024] = '\n';
    struct audit_log_options o = {.path = path, .max_size_mb = 1, .max_backups = 2, .compress = compress};
    struct audit_log *l = NULL;
    REQUIRE(audit_log_open(&o, &l, NULL) == 0);
    for (int i = 0; i < 12; i++) {
        CHECK(audit_log_write(l, line, 400 * 1024 + 1));
        usleep(1500); /* backups are named by the millisecond */
    }
    CHECK_INT(audit_log_lost(l), 0);
    audit_log_close(l);
    CHECK_INT(files_in(dir), files);
    struct dirent *en;
    DIR *d = opendir(dir);
    while ((en = readdir(d))) {
        if (str_has_suffix(en->d_name, ".gz")) packed--;
        unlinkat(dirfd(d), en->d_name, 0);
    }
    CHECK_INT(packed, 0);
    closedir(d);
    rmdir(dir);
}

TEST(the_file_is_rotated_and_old_ones_go) { rotate_twelve(false, 3, 0); }

TEST(rotated_files_are_compressed_where_asked_for) { rotate_twelve(true, 3, 2); }

TEST(a_full_queue_drops_and_counts) {
    char path[] = "/tmp/audit-test-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    close(fd);
    struct audit_log_options o = {.path = path, .batch = true, .queue = 1};
    struct audit_log *l = NULL;
    size_t ok = 0;
    REQUIRE(audit_log_open(&o, &l, NULL) == 0);
    for (int i = 0; i < 20000; i++) ok += audit_log_write(l, "line\n", 5);
    CHECK_INT(ok + audit_log_lost(l), 20000);
    CHECK(audit_log_lost(l) > 0);
    audit_log_close(l);
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    CHECK(file_read(path, 1 << 20, &text, &len) == 0);
    CHECK_INT(len, ok * 5); /* what was taken is written */
    unlink(path);
}
