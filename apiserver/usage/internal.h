/* Inside usage/. */
#pragma once

#include <pthread.h>

#include "apiserver/usage/usage.h"
#include "pkg/base/map.h"
#include "pkg/http/client.h"

/* The last two samples of a node. Each may be NULL. */
struct usage_pair {
    struct usage_sample *prev, *last;
};

struct usage {
    struct apiserver *s;
    pthread_mutex_t lock;
    pthread_cond_t cond; /* for the collector and for those who wait */
    struct map nodes;    /* name -> struct usage_pair * */
    int64_t asked_ns;    /* when somebody last wanted to know */
    uint64_t rounds;     /* since collecting began; 0: it rests */
    bool running, stop;
    struct http_cancel cancel;
    pthread_t thread;
};

/* collect.c: begins or goes on collecting; waits (a few seconds at most) until there are two samples. With
 * the lock held, which it gives up while it waits. */
void usage_ask(struct usage *u);

/* The rate of a counter in cores between two samples, or a negative number when they do not tell. *window_ms
 * out. */
double usage_rate(const struct usage_sample *last, const struct usage_point *p, const struct usage_sample *prev,
                  int64_t *window_ms);
double usage_node_rate(const struct usage_pair *pair, int64_t *window_ms);

/* documents.c: JSON texts. */
extern const char usage_resources[], usage_definitions[], usage_paths[];
