/* Runs a fuzz target over files: a regression test of what fuzzers have found, without a fuzzer. Arguments are files and
 * folders of files; the target is linked in. A target says what is wrong by dying. */
#include <dirent.h>

#include "pkg/base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

enum { INPUT_MAX = 16 << 20 };

static int run_file(const char *path) {
    char *text = NULL;
    size_t n = 0;
    if (file_read(path, INPUT_MAX, &text, &n)) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return -1;
    }
    uint8_t *exact = xmalloc(n + 1); /* of its own size, so that the sanitizer sees a step beyond */
    exact = realloc(exact, n ? n : 1);
    memcpy(exact, text, n);
    free(text);
    fprintf(stderr, "%s\n", path); /* the last one is the one that died */
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    return 0;
}

static int run_dir(const char *path, size_t *count) {
    DIR *d = opendir(path);
    int bad = 0;
    if (!d) return -1;
    for (struct dirent *x; (x = readdir(d));) {
        if (x->d_name[0] == '.') continue;
        _cleanup_free_ char *file = xasprintf("%s/%s", path, x->d_name);
        if (run_file(file))
            bad = -1;
        else
            (*count)++;
    }
    closedir(d);
    return bad;
}

int main(int argc, char **argv) {
    size_t count = 0;
    int bad = 0;
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) bad |= run_dir(argv[i], &count);
    printf("%zu passed, %d failed\n", count, bad ? 1 : 0);
    return bad || !count ? 1 : 0;
}
