/* CDI files: which are understood, whose device is taken, what becomes of the specification. */
#include "cdi.h"

#include <sys/stat.h>

#include "fsutil.h"
#include "tests/test.h"

struct folder {
    char path[64];
    struct arena *a;
    const char *dirs[3]; /* one that comes first, one that comes before it */
};

static void set_up(struct folder *f) {
    snprintf(f->path, sizeof(f->path), "/tmp/cdi_test.XXXXXX");
    REQUIRE(mkdtemp(f->path));
    f->a = arena_new();
    f->dirs[0] = arena_printf(f->a, "%s/etc", f->path);
    f->dirs[1] = arena_printf(f->a, "%s/run", f->path);
    f->dirs[2] = NULL;
    for (size_t i = 0; i < 2; i++) REQUIRE(mkdir(f->dirs[i], 0700) == 0);
}

static void tear_down(struct folder *f) {
    fs_rm_rf(f->path);
    arena_free(f->a);
}

static void put(struct folder *f, size_t dir, const char *name, const char *text) {
    const char *path = arena_printf(f->a, "%s/%s", f->dirs[dir], name);
    REQUIRE(file_write_quick(path, text, strlen(text), 0600) == 0);
}

/* The specification with these devices as text, or the error. */
static const char *inject(struct folder *f, const char *spec, const char *names) {
    const char *list[8], *p = names;
    size_t n = 0;
    for (; *p && n < 8; p += *p == ' ') {
        size_t len = strcspn(p, " ");
        list[n++] = arena_strndup(f->a, p, len);
        p += len;
    }
    struct json *o;
    _cleanup_err_ struct err e = {0};
    if (json_parse(f->a, spec, strlen(spec), &o, NULL, NULL) < 0) abort();
    int r = cdi_inject(f->a, f->dirs, list, n, o, &e);
    return r < 0 ? arena_printf(f->a, "error: %s", e.msg) : json_text(f->a, o);
}

#define FILE_OF(kind, devices) "{\"cdiVersion\":\"0.6.0\",\"kind\":\"" kind "\",\"devices\":[" devices "]}"
#define ENV_DEVICE(name, value) "{\"name\":\"" name "\",\"containerEdits\":{\"env\":[\"X=" value "\"]}}"

TEST(files_that_make_no_sense_are_refused) {
    static const struct {
        const char *file, *why;
    } cases[] = {
        {"{}", "unknown cdiVersion \"\""},
        {"{\"cdiVersion\":\"9.0.0\"}", "unknown cdiVersion \"9.0.0\""},
        {FILE_OF("vendor", ENV_DEVICE("a", "1")), "invalid kind \"vendor\""},
        {FILE_OF("v.com/1x", ENV_DEVICE("a", "1")), "invalid kind \"v.com/1x\""},
        {FILE_OF("v.com/gpu", ""), "no devices"},
        {FILE_OF("v.com/gpu", ENV_DEVICE("a b", "1")), "invalid device name \"a b\""},
        {FILE_OF("v.com/gpu", ENV_DEVICE("a", "1") "," ENV_DEVICE("a", "2")), "device \"a\" is there twice"},
        {FILE_OF("v.com/gpu", "{\"name\":\"a\",\"containerEdits\":{\"env\":[\"=1\"]}}"),
         "device a: invalid environment variable \"=1\""},
        {FILE_OF("v.com/gpu", "{\"name\":\"a\",\"containerEdits\":{\"deviceNodes\":[{\"path\":\"dev\"}]}}"),
         "device a: device node without a path"},
        {FILE_OF("v.com/gpu",
                 "{\"name\":\"a\",\"containerEdits\":{\"deviceNodes\":[{\"path\":\"/d\",\"type\":\"x\"}]}}"),
         "device a: device node /d: invalid type \"x\""},
        {FILE_OF("v.com/gpu",
                 "{\"name\":\"a\",\"containerEdits\":{\"hooks\":[{\"hookName\":\"later\",\"path\":\"/x\"}]}}"),
         "device a: invalid hook name \"later\""},
        {FILE_OF("v.com/gpu", "{\"name\":\"a\",\"containerEdits\":{\"mounts\":[{\"hostPath\":\"/x\"}]}}"),
         "device a: a mount needs hostPath, containerPath, and options that are strings"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        _cleanup_err_ struct err e = {0};
        struct json *o;
        REQUIRE(json_parse(a, cases[i].file, strlen(cases[i].file), &o, NULL, NULL) == 0);
        CHECK_INT(cdi_check(a, o, &e), -EINVAL);
        CHECK_STR(e.msg, cases[i].why);
    }
}

TEST(the_specification_gets_what_the_device_says) {
    struct folder f;
    set_up(&f);
    put(&f, 1, "d.yaml",
        "cdiVersion: 0.7.0\nkind: v.com/gpu\ncontainerEdits: {env: [ALL=1], additionalGIDs: [44, 7]}\ndevices:\n"
        "- name: g0\n  containerEdits:\n    env: [X=new]\n    deviceNodes: [{path: /dev/g0, hostPath: /dev/null, "
        "permissions: rw}]\n    mounts: [{hostPath: /lib, containerPath: /a/lib, options: [ro]}]\n"
        "    hooks: [{hookName: createContainer, path: /bin/hook, args: [hook, x], timeout: 3}]\n");
    CHECK_STR(
        inject(&f,
               "{\"process\":{\"env\":[\"X=old\"],\"user\":{\"uid\":5,\"additionalGids\":[7]}},\"mounts\":[{"
               "\"destination\":\"/a\"},{\"destination\":\"/a/lib/deep\"}]}",
               "v.com/gpu=g0"),
        "{\"process\":{\"env\":[\"X=new\",\"ALL=1\"],\"user\":{\"uid\":5,\"additionalGids\":[7,44]}},\"mounts\":[{"
        "\"destination\":\"/a\"},{\"destination\":\"/a/lib\",\"source\":\"/lib\",\"type\":\"bind\",\"options\":["
        "\"ro\"]},{\"destination\":\"/a/lib/deep\"}],\"linux\":{\"devices\":[{\"path\":\"/dev/g0\",\"type\":\"c\","
        "\"major\":1,\"minor\":3,\"fileMode\":438,\"uid\":5}],\"resources\":{\"devices\":[{\"allow\":true,\"type\":"
        "\"c\",\"major\":1,\"minor\":3,\"access\":\"rw\"}]}},\"hooks\":{\"createContainer\":[{\"path\":\"/bin/hook\","
        "\"args\":[\"hook\",\"x\"],\"timeout\":3}]}}");
    tear_down(&f);
}

TEST(later_folders_come_first_and_equal_ones_conflict) {
    struct folder f;
    set_up(&f);
    put(&f, 0, "a.json", FILE_OF("v.com/gpu", ENV_DEVICE("g", "etc") "," ENV_DEVICE("h", "etc")));
    put(&f, 1, "b.json", FILE_OF("v.com/gpu", ENV_DEVICE("g", "run")));
    put(&f, 1, "broken.json", "{\"kind\":");
    put(&f, 1, "other.txt", FILE_OF("v.com/gpu", ENV_DEVICE("h", "text")));
    CHECK_STR(inject(&f, "{}", "v.com/gpu=g v.com/gpu=h"), "{\"process\":{\"env\":[\"X=etc\"],\"user\":{}}}");
    CHECK_STR(inject(&f, "{}", "v.com/gpu=h v.com/gpu=g"), "{\"process\":{\"env\":[\"X=run\"],\"user\":{}}}");
    CHECK_STR(inject(&f, "{}", "v.com/gpu=g v.com/gpu=none x/y=z"),
              "error: unresolvable CDI devices v.com/gpu=none, x/y=z");
    put(&f, 1, "c.json", FILE_OF("v.com/gpu", ENV_DEVICE("g", "again")));
    CHECK(strstr(inject(&f, "{}", "v.com/gpu=g"), "error: conflicting CDI device \"v.com/gpu=g\""));
    CHECK_STR(inject(&f, "{}", ""), "{}");
    tear_down(&f);
}

TEST(device_nodes_must_be_what_they_say) {
    struct folder f;
    set_up(&f);
    put(&f, 0, "a.json",
        FILE_OF("v.com/gpu",
                "{\"name\":\"gone\",\"containerEdits\":{\"deviceNodes\":[{\"path\":\"/dev/no-such\"}]}},"
                "{\"name\":\"dir\",\"containerEdits\":{\"deviceNodes\":[{\"path\":\"/dev/x\",\"hostPath\":\"/"
                "tmp\"}]}},{\"name\":\"block\",\"containerEdits\":{\"deviceNodes\":[{\"path\":\"/dev/null\","
                "\"type\":\"b\"}]}},{\"name\":\"made\",\"containerEdits\":{\"deviceNodes\":[{\"path\":\"/dev/"
                "new\",\"type\":\"c\",\"major\":10,\"minor\":200}]}}"));
    CHECK_STR(inject(&f, "{}", "v.com/gpu=gone"),
              "error: CDI device v.com/gpu=gone: device node /dev/no-such: No such file or directory");
    CHECK_STR(inject(&f, "{}", "v.com/gpu=dir"),
              "error: CDI device v.com/gpu=dir: /tmp is no device node of type \"\"");
    CHECK_STR(inject(&f, "{}", "v.com/gpu=block"),
              "error: CDI device v.com/gpu=block: /dev/null is no device node of type \"b\"");
    CHECK(
        strstr(inject(&f, "{}", "v.com/gpu=made"), "\"path\":\"/dev/new\",\"type\":\"c\",\"major\":10,\"minor\":200"));
    tear_down(&f);
}
