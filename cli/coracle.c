/* coracle: the operator's command. One subcommand a file; this one only finds it. */
#include "cli/cli.h"

#include <signal.h>

#include "pkg/base/log.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"up", cmd_up, "start a cluster on this machine (or go on with the one that is there)"},
    {"join", cmd_join, "make this machine a node of another machine's cluster"},
    {"down", cmd_down, "stop everything on this machine and clean up after it"},
    {"status", cmd_status, "what runs, what it costs, and what is not ready and why"},
    {"image", cmd_image, "import, pull, list and remove container images of this node"},
    {"token", cmd_token, "make, list and delete the tokens with which nodes join"},
    {"storage", cmd_storage, "copy a cluster's objects between the embedded store and etcd"},
    {"doctor", cmd_doctor, "check this machine, and say how to mend what is wrong"},
};

int cli_fail(struct err *e) {
    fprintf(stderr, "coracle: %s\n", e->msg);
    err_done(e);
    return 1;
}

static void help(FILE *to) {
    fprintf(to, "coracle runs Kubernetes on this machine.\n\nUsage: coracle COMMAND [flags]\n\nCommands:\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].help);
    fprintf(to,
            "\n\"coracle COMMAND --help\" shows a command's flags. First steps:\n"
            "  sudo coracle up\n"
            "  export KUBECONFIG=" LAYOUT_DATA
            "/admin.kubeconfig\n"
            "  kubectl get nodes\n");
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    log_init("coracle", LOG_INFO);
    if (argc < 2 || str_eq(argv[1], "--help") || str_eq(argv[1], "-h") || str_eq(argv[1], "help")) {
        help(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (str_eq(argv[1], "--version") || str_eq(argv[1], "version")) {
        printf("coracle %s\n", CORACLE_VERSION);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (str_eq(argv[1], commands[i].name)) return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "coracle: no command \"%s\" (see coracle --help)\n", argv[1]);
    return 2;
}
