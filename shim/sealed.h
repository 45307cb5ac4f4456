/* A program in a sealed copy in memory: sealed.c says why. Thread-safe. */
#pragma once

#include "pkg/base/err.h"

struct sealed;

/* Copies the program. NULL with an error where the machine cannot do it (then run the program itself). */
struct sealed *sealed_new(const char *program, struct err *e);
struct sealed *sealed_free(struct sealed *s); /* NULL-safe, returns NULL */
/* A path to execute, by any process while this one lives. A program that was replaced meanwhile (an upgrade) is copied
 * again first. */
const char *sealed_path(struct sealed *s);
