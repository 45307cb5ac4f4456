/* References, and extraction of hostile and ordinary layers. */
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "layer.h"
#include "ref.h"
#include "tests/test.h"

static void check_ref(const char *in, const char *want) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct image_ref r;
    int rc = image_ref_parse(a, in, &r, NULL);
    CHECK_INT(rc, 0);
    if (rc == 0) CHECK_STR(image_ref_str(a, &r), want);
}

#define D64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

TEST(references_are_normalised_to_host_repository_and_tag) {
    check_ref("busybox", "docker.io/library/busybox:latest");
    check_ref("busybox:1.36", "docker.io/library/busybox:1.36");
    check_ref("team/app", "docker.io/team/app:latest");
    check_ref("docker.io/busybox", "docker.io/library/busybox:latest");
    check_ref("index.docker.io/library/busybox", "docker.io/library/busybox:latest");
    check_ref("localhost/app", "localhost/app:latest");
    check_ref("localhost:5000/app", "localhost:5000/app:latest");
    check_ref("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1");
    check_ref("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
    check_ref("[::1]:5000/app:x", "[::1]:5000/app:x");
    check_ref("busybox@sha256:" D64, "docker.io/library/busybox@sha256:" D64);
    check_ref("busybox:1@sha256:" D64, "docker.io/library/busybox:1@sha256:" D64);
}

TEST(bad_references_are_refused) {
    static const char *const bad[] = {
        "",    "Busybox", "a//b", "a/", "/a",           "a:",       "a:b:c",  "a@sha256:12",
        "a b", "../etc",  "a/..", "-a", ("a@md5:" D64), "host:x/a", "[::1/a", "a:-tag"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct image_ref r;
        if (image_ref_parse(a, bad[i], &r, NULL) == 0) TEST_FAIL("\"%s\" was accepted", bad[i]);
    }
}

/* ---- layers ---- */

struct tar {
    struct archive *w;
    char file[80], dir[64];
};

static void tar_begin(struct tar *t, int filter) {
    snprintf(t->dir, sizeof(t->dir), "/tmp/shim-image-test-XXXXXX");
    if (!mkdtemp(t->dir)) abort();
    snprintf(t->file, sizeof(t->file), "%s.tar", t->dir);
    t->w = archive_write_new();
    archive_write_set_format_pax(t->w);
    archive_write_add_filter(t->w, filter);
    if (archive_write_open_filename(t->w, t->file) != ARCHIVE_OK) abort();
}

static void tar_add(struct tar *t, const char *name, mode_t type, const char *data_or_link, mode_t perm) {
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, type ? type : AE_IFREG);
    archive_entry_set_perm(e, perm);
    archive_entry_set_mtime(e, 1000000000, 0);
    if (type == AE_IFLNK) archive_entry_set_symlink(e, data_or_link);
    if (type == 0) archive_entry_set_hardlink(e, data_or_link);
    size_t n = type == AE_IFREG ? strlen(data_or_link) : 0;
    archive_entry_set_size(e, (la_int64_t)n);
    archive_write_header(t->w, e);
    if (n) archive_write_data(t->w, data_or_link, n);
    archive_entry_free(e);
}

static int tar_extract(struct tar *t, struct layer_result *res) {
    archive_write_close(t->w);
    archive_write_free(t->w);
    int fd = open(t->file, O_RDONLY | O_CLOEXEC);
    struct err e = {0};
    int r = layer_extract(fd, t->dir, res, &e);
    err_done(&e);
    close(fd);
    unlink(t->file);
    return r;
}

static bool exists(const char *dir, const char *name) {
    char p[256];
    struct stat st;
    snprintf(p, sizeof(p), "%s/%s", dir, name);
    return lstat(p, &st) == 0;
}

static void content(const char *dir, const char *name, const char *want) {
    char p[256];
    _cleanup_free_ char *text = NULL;
    snprintf(p, sizeof(p), "%s/%s", dir, name);
    CHECK_INT(file_read(p, 1000, &text, NULL), 0);
    CHECK_STR(text, want);
}

TEST(a_layer_is_extracted_with_modes_times_and_links) {
    static const int filters[] = {ARCHIVE_FILTER_NONE, ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_ZSTD};
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        struct tar t;
        struct layer_result res = {0};
        struct stat st;
        char p[256];
        tar_begin(&t, filters[i]);
        tar_add(&t, "etc/", AE_IFDIR, NULL, 0711);
        tar_add(&t, "etc/passwd", AE_IFREG, "root", 04755);
        tar_add(&t, "./etc/link", AE_IFLNK, "/etc/passwd", 0777);
        tar_add(&t, "deep/er/hard", 0, "etc/passwd", 0644);
        CHECK_INT(tar_extract(&t, &res), 0);
        content(t.dir, "etc/passwd", "root");
        content(t.dir, "deep/er/hard", "root");
        snprintf(p, sizeof(p), "%s/etc", t.dir);
        CHECK_INT(stat(p, &st), 0);
        CHECK_INT(st.st_mode & 07777, 0711);
        CHECK_INT(st.st_mtime, 1000000000);
        snprintf(p, sizeof(p), "%s/etc/passwd", t.dir);
        CHECK_INT(stat(p, &st), 0);
        CHECK_INT(st.st_mode & 07777, 04755);
        CHECK_INT(st.st_nlink, 2);
        CHECK_INT(res.entries, 4);
        CHECK(digest_valid(res.diff_id));
        fs_rm_rf(t.dir);
    }
}

TEST(names_and_links_do_not_lead_out_of_the_layer) {
    struct tar t;
    struct layer_result res;
    char outside[] = "/tmp/shim-outside-XXXXXX", name[128];
    REQUIRE(mkdtemp(outside));
    tar_begin(&t, ARCHIVE_FILTER_NONE);
    tar_add(&t, "abs", AE_IFLNK, outside, 0777);
    tar_add(&t, "rel", AE_IFLNK, "../../../../../../../../tmp", 0777);
    snprintf(name, sizeof(name), "abs/planted");
    tar_add(&t, name, AE_IFREG, "x", 0644);
    snprintf(name, sizeof(name), "rel/%s/planted2", outside + 5);
    tar_add(&t, name, AE_IFREG, "x", 0644);
    tar_extract(&t, &res);
    CHECK(!exists(outside, "planted"));
    CHECK(!exists(outside, "planted2"));
    fs_rm_rf(t.dir);

    tar_begin(&t, ARCHIVE_FILTER_NONE);
    snprintf(name, sizeof(name), "a/../../../tmp/%s/up", outside + 5);
    tar_add(&t, name, AE_IFREG, "x", 0644);
    CHECK_INT(tar_extract(&t, &res), -EINVAL);
    CHECK(!exists(outside, "up"));
    fs_rm_rf(t.dir);

    tar_begin(&t, ARCHIVE_FILTER_NONE);
    tar_add(&t, "passwd", 0, "../../../../etc/passwd", 0644);
    CHECK_INT(tar_extract(&t, &res), -EINVAL);
    fs_rm_rf(t.dir);

    tar_begin(&t, ARCHIVE_FILTER_NONE); /* writing through a link that stands where a file goes */
    snprintf(name, sizeof(name), "%s/through", outside);
    tar_add(&t, "f", AE_IFLNK, name, 0777);
    tar_add(&t, "f", AE_IFREG, "x", 0644);
    CHECK_INT(tar_extract(&t, &res), 0);
    CHECK(!exists(outside, "through"));
    content(t.dir, "f", "x");
    fs_rm_rf(t.dir);
    fs_rm_rf(outside);
}

TEST(whiteouts_become_those_of_overlayfs) {
    if (geteuid() != 0) return; /* device nodes and trusted attributes */
    struct tar t;
    struct layer_result res;
    struct stat st;
    char p[256], v[8];
    tar_begin(&t, ARCHIVE_FILTER_GZIP);
    tar_add(&t, "dir/", AE_IFDIR, NULL, 0755);
    tar_add(&t, "dir/.wh.gone", AE_IFREG, "", 0644);
    tar_add(&t, "opaque/.wh..wh..opq", AE_IFREG, "", 0644);
    tar_add(&t, ".wh..wh.plnk/x", AE_IFREG, "", 0644);
    tar_add(&t, "kept", AE_IFREG, "x", 0644);
    tar_add(&t, ".wh.kept", AE_IFREG, "", 0644);
    tar_add(&t, ".wh.again", AE_IFREG, "", 0644);
    tar_add(&t, "again/new", AE_IFREG, "", 0644);
    tar_add(&t, "dir2/", AE_IFDIR, NULL, 0755);
    tar_add(&t, ".wh.dir2", AE_IFREG, "", 0644);
    tar_add(&t, ".wh.dir3", AE_IFREG, "", 0644);
    tar_add(&t, "dir3/", AE_IFDIR, NULL, 0755);
    CHECK_INT(tar_extract(&t, &res), 0);
    snprintf(p, sizeof(p), "%s/dir/gone", t.dir);
    REQUIRE(lstat(p, &st) == 0);
    CHECK(S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0));
    snprintf(p, sizeof(p), "%s/opaque", t.dir);
    CHECK_INT(getxattr(p, "trusted.overlay.opaque", v, sizeof(v)), 1);
    content(t.dir, "kept", "x");
    CHECK(exists(t.dir, "again/new"));
    static const char *const opaque[] = {"again", "dir2", "dir3"};
    for (size_t i = 0; i < ARRAY_LEN(opaque); i++) {
        snprintf(p, sizeof(p), "%s/%s", t.dir, opaque[i]);
        CHECK_INT(getxattr(p, "trusted.overlay.opaque", v, sizeof(v)), 1);
    }
    fs_rm_rf(t.dir);
}

TEST(garbage_is_not_a_layer) {
    char dir[] = "/tmp/shim-garbage-XXXXXX", file[80];
    struct layer_result res;
    REQUIRE(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s.tar", dir);
    FILE *f = fopen(file, "w");
    for (int i = 0; i < 5000; i++) fputc(i * 7919 % 251, f);
    fclose(f);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    CHECK(layer_extract(fd, dir, &res, NULL) < 0);
    close(fd);
    unlink(file);
    fs_rm_rf(dir);
}
