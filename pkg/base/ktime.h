/* Time as the API carries it: a point in UTC with nanoseconds, or unset. metav1.Time is written with whole seconds
 * ("2026-01-02T03:04:05Z"), metav1.MicroTime with six digits. And the clocks: programs read time through here, and a
 * test can put a clock of its own in place. */
#pragma once

#include "util.h"

struct ktime {
    int64_t sec;  /* seconds since 1970-01-01T00:00:00Z */
    int32_t nsec; /* 0..999999999 */
    bool set;     /* false: absent, whatever the other fields say */
};

enum { KTIME_MAX = 64 }; /* room for any formatted time and its NUL */

/* The wall clock (settable, see clock_set_for_tests). */
struct ktime ktime_now(void);
/* RFC 3339, any offset, fractions up to nanoseconds. 0 or -EINVAL. */
int ktime_parse(const char *s, struct ktime *out);
/* "2026-01-02T03:04:05Z"; returns `out`. An unset time gives "". */
char *ktime_format(struct ktime t, char out[KTIME_MAX]);
/* "2026-01-02T03:04:05.123456Z" */
char *ktime_format_micro(struct ktime t, char out[KTIME_MAX]);
/* "2026-01-02T03:04:05.123456789Z", as CRI logs want it */
char *ktime_format_nano(struct ktime t, char out[KTIME_MAX]);
/* a - b in nanoseconds (saturating); unset counts as 1970. */
int64_t ktime_diff_ns(struct ktime a, struct ktime b);
struct ktime ktime_add_ns(struct ktime t, int64_t ns);
int64_t ktime_unix_ns(struct ktime t);
struct ktime ktime_from_unix_ns(int64_t ns);
int ktime_cmp(struct ktime a, struct ktime b);

/* Nanoseconds of a clock that never goes back. */
int64_t mono_ns(void);
#define NS_PER_SEC INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)

/* Puts functions of a test in place of the two clocks; NULL restores the real one. */
void clock_set_for_tests(struct ktime (*now)(void), int64_t (*mono)(void));

/* Go durations ("1h30m", "1.5s", "250ms"): nanoseconds in *out, 0 or -EINVAL. */
int duration_parse(const char *s, int64_t *out);
/* As Go prints them: "1m0s", "1.5s", "0s". */
char *duration_format(int64_t ns, char out[KTIME_MAX]);
