/* Sets of completion indexes, and questions about jobs that other controllers ask. */
#pragma once

#include "pkg/api/batch.h"

struct index_range {
    int32_t from, to;
};
struct index_set { /* sorted, no two ranges touch */
    struct index_range *items;
    size_t n, cap;
};
void index_set_add(struct arena *a, struct index_set *s, int32_t i);
bool index_set_has(const struct index_set *s, int32_t i);
int32_t index_set_count(const struct index_set *s);
char *index_set_format(struct arena *a, const struct index_set *s);
void index_set_parse(struct arena *a, const char *text, struct index_set *s);

bool job_is_finished(const struct batch_job *j);
