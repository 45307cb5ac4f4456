/* The subcommands of `coracle`: each takes its own arguments (argv[0] is its name) and returns an exit status. */
#pragma once

#include "cli/layout.h"

int cmd_up(int argc, char **argv);
int cmd_join(int argc, char **argv);
int cmd_down(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_token(int argc, char **argv);
int cmd_storage(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

/* Prints "coracle: message" and gives exit status 1. */
int cli_fail(struct err *e);
