/* Cron schedules and time zones: pure functions. */
#pragma once

#include "pkg/base/err.h"

struct cron_schedule {
    uint64_t minutes, hours, days, months, weekdays; /* a bit each */
    bool any_day, any_weekday;                       /* "*": only the other one restricts */
};
/* Five fields with lists, ranges, steps and names, or @hourly, @daily, @midnight, @weekly, @monthly, @yearly,
 * @annually. */
int cron_parse(const char *text, struct cron_schedule *out, struct err *e);

/* A time zone's offsets, from the system's database; NULL for the machine's own zone or UTC. */
struct zone;
int zone_load(const char *name, struct zone **out, struct err *e);
void zone_free(struct zone *z);
/* Seconds east of UTC at a moment. */
int32_t zone_offset(const struct zone *z, int64_t unix_seconds);

/* The first scheduled second after `after`, or 0 when there is none within five years. */
int64_t cron_next(const struct cron_schedule *s, const struct zone *z, int64_t after);
