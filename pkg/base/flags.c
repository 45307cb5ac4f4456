#include "pkg/base/flags.h"

#include "pkg/base/ktime.h"

void flag_list_done(struct flag_list *l) {
    for (size_t i = 0; i < l->n; i++) free((char *)l->items[i]);
    free(l->items);
    *l = (struct flag_list){0};
}

static const struct flag *find(const struct flag *flags, const char *name, size_t len) {
    for (const struct flag *f = flags; f->name; f++)
        if (strlen(f->name) == len && memcmp(f->name, name, len) == 0) return f;
    return NULL;
}

static const struct flag *find_short(const struct flag *flags, char c) {
    for (const struct flag *f = flags; f->name; f++)
        if (f->short_name == c) return f;
    return NULL;
}

void flag_list_add(struct flag_list *l, const char *value, size_t len) {
    VEC_GROW(l->items, l->n, l->cap);
    l->items[l->n++] = xstrndup(value, len);
}

static void add_list(struct flag_list *l, const char *value) {
    while (*value) {
        size_t n = strcspn(value, ",");
        if (n) flag_list_add(l, value, n);
        value += n + (value[n] == ',');
    }
}

static int set(const struct flag *f, const char *value, struct err *e) {
    switch (f->kind) {
        case FLAG_STR: *(const char **)f->value = value; return 0;
        case FLAG_INT:
            if (str_to_i64(value, f->value) == 0) return 0;
            return err_set(e, -EINVAL, "--%s wants a number, not \"%s\"", f->name, value);
        case FLAG_DURATION:
            if (duration_parse(value, f->value) == 0) return 0;
            return err_set(e, -EINVAL, "--%s wants a duration such as 10s or 5m, not \"%s\"", f->name, value);
        case FLAG_BOOL:
            if (str_eq(value, "true") || str_eq(value, "1"))
                *(bool *)f->value = true;
            else if (str_eq(value, "false") || str_eq(value, "0"))
                *(bool *)f->value = false;
            else
                return err_set(e, -EINVAL, "--%s is true or false, not \"%s\"", f->name, value);
            return 0;
        case FLAG_LIST: add_list(f->value, value); return 0;
        case FLAG_STRINGS: flag_list_add(f->value, value, strlen(value)); return 0;
        case FLAG_IGNORED: return 0;
    }
    return 0;
}

/* One flag at argv[*i] (without its dashes in `name`); takes the next argument when the value stands there. */
static int parse_one(const struct flag *flags, int argc, char **argv, int *i, struct err *e) {
    const char *arg = argv[*i], *name = arg + (arg[1] == '-' ? 2 : 1), *eq = strchr(name, '=');
    size_t len = eq ? (size_t)(eq - name) : strlen(name);
    const struct flag *f = arg[1] != '-' && len == 1 ? find_short(flags, name[0]) : find(flags, name, len);
    if (!f) return err_set(e, -EINVAL, "unknown flag: %.*s", (int)(len + (size_t)(name - arg)), arg);
    if (eq) return set(f, eq + 1, e);
    if (f->kind == FLAG_BOOL) return set(f, "true", e);
    bool has_next = *i + 1 < argc && argv[*i + 1][0] != '-';
    if (f->kind == FLAG_IGNORED) {
        if (f->arg && has_next) ++*i;
        return 0;
    }
    if (*i + 1 >= argc) return err_set(e, -EINVAL, "--%s wants a value", f->name);
    return set(f, argv[++*i], e);
}

int flags_parse(const struct flag *flags, int argc, char **argv, int *n_args, struct err *e) {
    int args = 0, i = 1;
    for (; i < argc; i++) {
        if (str_eq(argv[i], "--")) {
            i++;
            break;
        }
        if (argv[i][0] == '-' && argv[i][1]) {
            int r = parse_one(flags, argc, argv, &i, e);
            if (r < 0) return r;
        } else {
            if (!n_args) return err_set(e, -EINVAL, "unexpected argument: %s", argv[i]);
            argv[1 + args++] = argv[i];
        }
    }
    for (; i < argc && n_args; i++) argv[1 + args++] = argv[i];
    if (n_args) *n_args = args;
    return 0;
}

static void print_default(const struct flag *f, FILE *to) {
    char text[KTIME_MAX];
    switch (f->kind) {
        case FLAG_STR:
            if (*(const char **)f->value) fprintf(to, " (default %s)", *(const char **)f->value);
            break;
        case FLAG_INT: fprintf(to, " (default %lld)", (long long)*(int64_t *)f->value); break;
        case FLAG_DURATION: fprintf(to, " (default %s)", duration_format(*(int64_t *)f->value, text)); break;
        case FLAG_BOOL:
            if (*(bool *)f->value) fprintf(to, " (default true)");
            break;
        case FLAG_LIST:
        case FLAG_STRINGS: break;
        case FLAG_IGNORED: fprintf(to, " (accepted, no effect)"); break;
    }
}

void flags_help(const struct flag *flags, FILE *to) {
    for (const struct flag *f = flags; f->name; f++) {
        char left[80];
        char brief[8] = "";
        if (f->short_name) snprintf(brief, sizeof(brief), "-%c, ", f->short_name);
        snprintf(left, sizeof(left), "  %s--%s%s%s", brief, f->name, f->arg ? " " : "", str_or_empty(f->arg));
        fprintf(to, "%-38s %s", left, str_or_empty(f->help));
        print_default(f, to);
        fputc('\n', to);
    }
}

int flags_main(const char *program, const char *about, const struct flag *flags, int argc, char **argv, int max_args) {
    for (int i = 1; i < argc && !str_eq(argv[i], "--"); i++) {
        if (str_eq(argv[i], "--help") || str_eq(argv[i], "-h")) {
            printf("%s\n\nFlags:\n", about);
            flags_help(flags, stdout);
            exit(0);
        }
        if (str_eq(argv[i], "--version")) {
            printf("%s %s\n", program, CORACLE_VERSION);
            exit(0);
        }
    }
    _cleanup_err_ struct err e = {0};
    int n = 0, r = flags_parse(flags, argc, argv, &n, &e);
    if (r == 0 && n > max_args) r = err_set(&e, -EINVAL, "unexpected argument: %s", argv[1 + max_args]);
    if (r < 0) {
        fprintf(stderr, "%s: %s (see %s --help)\n", program, e.msg, program);
        exit(2);
    }
    return n;
}
