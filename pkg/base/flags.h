/* Command-line flags as a table: name, kind, where the value goes, what it means. Parsing, --help and the check for
 * unknown flags come from the table. Accepts --name=value and --name value, -x short forms, and --bool, --bool=false.
 *
 *     struct opts { const char *kubeconfig; int64_t v; bool leader_elect; } o = {.leader_elect = true};
 *     const struct flag flags[] = {
 *         {"kubeconfig", 0, FLAG_STR, &o.kubeconfig, "FILE", "how to reach the API server"},
 *         {"v", 'v', FLAG_INT, &o.v, "N", "log level: 0 quiet, 4 debug"},
 *         {"leader-elect", 0, FLAG_BOOL, &o.leader_elect, NULL, "take part in leader election"},
 *         {0}};
 */
#pragma once

#include "pkg/base/err.h"

enum flag_kind {
    FLAG_STR,      /* const char **: points into argv */
    FLAG_INT,      /* int64_t * */
    FLAG_BOOL,     /* bool * */
    FLAG_DURATION, /* int64_t *: nanoseconds, from "10s" */
    FLAG_LIST,     /* struct flag_list *: comma-separated or repeated */
    FLAG_STRINGS,  /* struct flag_list *: repeated, each value taken whole */
    FLAG_IGNORED,  /* accepted for compatibility, has no effect (value optional) */
};

struct flag_list {
    const char **items; /* heap; the strings too. flag_list_done */
    size_t n, cap;
};
void flag_list_add(struct flag_list *l, const char *value, size_t len); /* copies */
void flag_list_done(struct flag_list *l);

struct flag {
    const char *name;
    char short_name;
    enum flag_kind kind;
    void *value;
    const char *arg;  /* name of the argument in --help; NULL for booleans */
    const char *help; /* a line; the default is shown from *value */
};

/* Parses argv[1..]; the arguments that are no flags are moved to the front of argv[1..] and counted in *n_args (NULL: an
 * argument is an error). "--" ends the flags. -EINVAL with a message that names the flag. "--help" and "-h" are left to
 * flags_main. */
int flags_parse(const struct flag *flags, int argc, char **argv, int *n_args, struct err *e);
/* Prints the table. */
void flags_help(const struct flag *flags, FILE *to);
/* For main: handles --help (prints `about`, then the table, exits 0), --version (prints it, exits 0), and errors (prints,
 * exits 2). Returns the number of arguments left in argv[1..]; exits when there are more than `max_args`. */
int flags_main(const char *program, const char *about, const struct flag *flags, int argc, char **argv, int max_args);

/* "v1.36.0+coracle.0.1": what /version and --version say. */
#define CORACLE_VERSION "v1.36.0+coracle.0.1"
