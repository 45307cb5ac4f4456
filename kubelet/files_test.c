/* Files that the kubelet writes for containers or reads of them: volumes' content, paths in volumes, trees, logs. */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "kubelet/atomic_writer.h"
#include "kubelet/kubelet.h"
#include "kubelet/logs.h"
#include "kubelet/safepath.h"
#include "pkg/base/bytes.h"
#include "tests/test.h"

static struct arena *test_arena(void) {
    static struct arena *a; /* of the test before this one */
    arena_free(a);
    return a = arena_new();
}

static const char *temp_dir(struct arena *a) {
    char *path = arena_strdup(a, "/tmp/kubelet-test-XXXXXX");
    if (!mkdtemp(path)) TEST_FAIL("mkdtemp");
    return path;
}

/* ---- files ---- */

static char *slurp(struct arena *a, const char *path) {
    _cleanup_free_ char *text = NULL;
    return file_read(path, 65536, &text, NULL) < 0 ? NULL : arena_strdup(a, text);
}

static struct bytes str_bytes(const char *s) { return (struct bytes){(const uint8_t *)s, strlen(s)}; }

TEST(the_atomic_writer_switches_all_files_at_once) {
    struct arena *a = test_arena();
    const char *dir = temp_dir(a);
    struct payload p = {0};
    char before[256] = "", after[256] = "";
    const char *link = arena_printf(a, "%s/..data", dir);
    CHECK_INT(payload_add(a, &p, "k", str_bytes("one"), 0644, -1, NULL), 0);
    CHECK_INT(payload_add(a, &p, "sub/deep", str_bytes("two"), 0400, -1, NULL), 0);
    CHECK_INT(atomic_write(dir, &p, -1, NULL), 0);
    CHECK_STR(slurp(a, arena_printf(a, "%s/k", dir)), "one");
    CHECK_STR(slurp(a, arena_printf(a, "%s/sub/deep", dir)), "two");
    struct stat st;
    CHECK(lstat(arena_printf(a, "%s/k", dir), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK(stat(arena_printf(a, "%s/sub/deep", dir), &st) == 0 && (st.st_mode & 0777) == 0400);
    CHECK(readlink(link, before, sizeof(before) - 1) > 0);
    CHECK_INT(atomic_write(dir, &p, -1, NULL), 0); /* the same again: nothing is written */
    CHECK(readlink(link, after, sizeof(after) - 1) > 0);
    CHECK_STR(after, before);
    struct payload q = {0};
    payload_add(a, &q, "k", str_bytes("new"), 0644, -1, NULL);
    CHECK_INT(atomic_write(dir, &q, -1, NULL), 0);
    memset(after, 0, sizeof(after));
    CHECK(readlink(link, after, sizeof(after) - 1) > 0 && strcmp(after, before) != 0);
    CHECK_STR(slurp(a, arena_printf(a, "%s/k", dir)), "new");
    CHECK(lstat(arena_printf(a, "%s/sub", dir), &st) < 0);
    CHECK(*before && lstat(arena_printf(a, "%s/%s", dir, before), &st) < 0); /* the old content is gone */
    CHECK_INT(payload_add(a, &q, "../x", str_bytes(""), 0644, -1, NULL), -EINVAL);
    CHECK_INT(payload_add(a, &q, "/x", str_bytes(""), 0644, -1, NULL), -EINVAL);
    CHECK_INT(payload_add(a, &q, "a/../../x", str_bytes(""), 0644, -1, NULL), -EINVAL);
    CHECK_INT(path_remove_tree(dir, NULL), 0);
    CHECK(lstat(dir, &st) < 0);
}

TEST(a_path_in_a_volume_cannot_leave_it) {
    struct arena *a = test_arena();
    const char *dir = temp_dir(a), *vol = arena_printf(a, "%s/vol", dir);
    CHECK_INT(mkdir_p(vol, 0755), 0);
    file_write_atomic(arena_printf(a, "%s/secret", dir), "host", 4, 0644);
    file_write_atomic(arena_printf(a, "%s/ok", vol), "fine", 4, 0644);
    CHECK(symlink("../secret", arena_printf(a, "%s/up", vol)) == 0);
    CHECK(symlink(dir, arena_printf(a, "%s/abs", vol)) == 0);
    CHECK(symlink("/etc", arena_printf(a, "%s/etc", vol)) == 0);
    int fd = safepath_open(vol, "ok", false, 0, NULL);
    CHECK(fd >= 0);
    close(fd);
    /* "up" stays inside: .. at the root is the root, and there is no "secret" in the volume. */
    CHECK_INT(safepath_open(vol, "up", false, 0, NULL), -EXDEV);
    CHECK(safepath_open(vol, "abs/secret", false, 0, NULL) < 0);
    CHECK(safepath_open(vol, "etc/passwd", false, 0, NULL) < 0);
    CHECK_INT(safepath_open(vol, "../secret", false, 0, NULL), -EXDEV);
    fd = safepath_open(vol, "a/b/c", true, 0750, NULL);
    CHECK(fd >= 0);
    close(fd);
    struct stat st;
    CHECK(stat(arena_printf(a, "%s/a/b/c", vol), &st) == 0 && (st.st_mode & 0777) == 0750);
    /* A missing path under a link that points outside is not made out there. */
    CHECK(safepath_open(vol, "abs/made", true, 0750, NULL) < 0 || stat(arena_printf(a, "%s/made", dir), &st) < 0);
    CHECK(path_is_local("a/b"));
    CHECK(!path_is_local("a/../b") && !path_is_local("/a") && !path_is_local("..") && !path_is_local(""));
    CHECK_INT(path_remove_tree(dir, NULL), 0);
}

TEST(removing_a_tree_does_not_follow_links) {
    struct arena *a = test_arena();
    const char *dir = temp_dir(a), *keep = temp_dir(a);
    file_write_atomic(arena_printf(a, "%s/file", keep), "x", 1, 0644);
    CHECK(symlink(keep, arena_printf(a, "%s/link", dir)) == 0);
    CHECK_INT(path_remove_tree(dir, NULL), 0);
    CHECK_STR(slurp(a, arena_printf(a, "%s/file", keep)), "x");
    path_remove_tree(keep, NULL);
}

/* ---- logs ---- */

static int to_buf(void *arg, const char *p, size_t n) {
    buf_add(arg, p, n);
    return 0;
}

static const char *logs(struct arena *a, const char *path, struct log_options o) {
    struct buf b = BUF_INIT;
    struct log_sink sink = {.write = to_buf, .arg = &b};
    CHECK(logs_read(path, &o, &sink, NULL) >= 0);
    char *s = arena_strndup(a, b.data ? b.data : "", b.len);
    buf_done(&b);
    return s;
}

TEST(logs_are_read_by_tail_since_limit_and_stream) {
    struct arena *a = test_arena();
    const char *path = arena_printf(a, "%s/0.log", temp_dir(a));
    static const char text[] =
        "2026-01-01T00:00:01.5Z stdout F one\n"
        "2026-01-01T00:00:02.000000001Z stderr F two\n"
        "2026-01-01T00:00:03Z stdout P thr\n"
        "2026-01-01T00:00:03Z stdout F ee\n"
        "garbage\n"
        "2026-01-01T00:00:04Z stdout F \n"
        "2026-01-01T00:00:05Z stdout F five with  spaces\n";
    file_write_atomic(path, text, strlen(text), 0644);
    struct log_options o = LOG_OPTIONS_INIT;
    CHECK_STR(logs(a, path, o), "one\ntwo\nthree\n\nfive with  spaces\n");
    o.tail = 2;
    CHECK_STR(logs(a, path, o), "\nfive with  spaces\n");
    o.tail = 0;
    CHECK_STR(logs(a, path, o), "");
    o.tail = 1000;
    o.limit_bytes = 5;
    CHECK_STR(logs(a, path, o), "one\nt");
    o = (struct log_options)LOG_OPTIONS_INIT;
    ktime_parse("2026-01-01T00:00:04Z", &o.since);
    CHECK_STR(logs(a, path, o), "\nfive with  spaces\n");
    o = (struct log_options)LOG_OPTIONS_INIT;
    o.only_stderr = o.timestamps = true;
    CHECK_STR(logs(a, path, o), "2026-01-01T00:00:02.000000001Z two\n");
    char *tail = logs_tail_text(path, 80, 8);
    CHECK_STR(tail, " spaces\n");
    free(tail);
}

static _Atomic bool log_goes_on;
static _Atomic size_t followed; /* bytes that came to the reader */
static int to_follower(void *arg, const char *p, size_t n) {
    to_buf(arg, p, n);
    followed += n;
    return 0;
}
static void wait_followed(size_t n) {
    for (int i = 0; i < 12000 && followed < n; i++) usleep(5000);
}
static bool goes_on(void *arg) { return log_goes_on; }

static void *write_more(void *arg) {
    const char *path = arg;
    if (!path) return NULL;
    wait_followed(sizeof("one\n") - 1);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    fd_write_all(fd, "2026-01-01T00:00:02Z stdout F two\n", 34);
    wait_followed(sizeof("one\ntwo\n") - 1);
    _cleanup_free_ char *old = xasprintf("%s.1", path);
    rename(path, old); /* rotation */
    _cleanup_close_ int next = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    fd_write_all(next, "2026-01-01T00:00:03Z stdout F three\n", 36);
    wait_followed(sizeof("one\ntwo\nthree\n") - 1);
    log_goes_on = false;
    return NULL;
}

TEST(following_a_log_goes_on_after_rotation_and_ends_with_the_container) {
    struct arena *a = test_arena();
    const char *path = arena_printf(a, "%s/0.log", temp_dir(a));
    file_write_atomic(path, "2026-01-01T00:00:01Z stdout F one\n", 34, 0644);
    log_goes_on = true;
    followed = 0;
    pthread_t t;
    pthread_create(&t, NULL, write_more, (void *)path);
    struct buf b = BUF_INIT;
    struct log_sink sink = {.write = to_follower, .running = goes_on, .arg = &b};
    struct log_options o = LOG_OPTIONS_INIT;
    o.follow = true;
    CHECK_INT(logs_read(path, &o, &sink, NULL), 0);
    pthread_join(t, NULL);
    CHECK_STR(b.data, "one\ntwo\nthree\n");
    buf_done(&b);
}
