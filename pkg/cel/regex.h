/* A compiled regular expression: shared by the compiler (regex_parse.c) and the matcher (regex.c). */
#pragma once

#include "pkg/cel/internal.h"

enum {
    RE_MAX_REPEAT = 1000,   /* of {n,m}, as in RE2 */
    RE_MAX_PROGRAM = 20000, /* instructions */
    RE_MAX_DEPTH = 200,     /* nested groups */
};

enum re_op {
    RE_CHAR,   /* x: code point */
    RE_ANY,    /* any code point */
    RE_CLASS,  /* x: index of the class */
    RE_SPLIT,  /* x, y: go on at both, x preferred */
    RE_JUMP,   /* x */
    RE_ASSERT, /* x: enum re_assert */
    RE_MATCH,
};
enum re_assert { RE_BEGIN_TEXT, RE_END_TEXT, RE_BEGIN_LINE, RE_END_LINE, RE_WORD, RE_NOT_WORD };

struct re_inst {
    uint8_t op;
    uint32_t x, y;
};
struct re_class {
    uint32_t (*ranges)[2]; /* sorted by nothing: few */
    uint32_t n, cap;
    bool negated, fold; /* fold: ASCII letters match in either case */
};
struct regex {
    struct re_inst *prog;
    uint32_t n, cap;
    struct re_class *classes;
    uint32_t n_classes, cap_classes;
};
