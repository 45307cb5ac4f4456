/* Cron schedules, and just enough of the time zone database (RFC 8536, version 2 data: the transition times;
 * a rule for the years after the last of them is not evaluated, its last offset stays). */
#include "schedule.h"

#include <ctype.h>

enum { ZONE_FILE_MAX = 1024 * 1024, YEARS = 5 };
#define DAY 86400

/* ---- parsing ---- */

static const char *const month_names[] = {"",    "jan", "feb", "mar", "apr", "may", "jun",
                                          "jul", "aug", "sep", "oct", "nov", "dec", NULL};
static const char *const day_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};

struct field {
    int min, max;
    const char *const *names;
};
static const struct field fields[] = {
    {0, 59, NULL}, {0, 23, NULL}, {1, 31, NULL}, {1, 12, month_names}, {0, 7, day_names}};

static int number(const char **p, const struct field *f) {
    if (f->names && isalpha((unsigned char)**p)) {
        for (int i = 0; f->names[i]; i++)
            if (*f->names[i] && strncasecmp(*p, f->names[i], 3) == 0) {
                *p += 3;
                return i;
            }
        return -1;
    }
    if (!isdigit((unsigned char)**p)) return -1;
    int v = 0;
    while (isdigit((unsigned char)**p) && v < 1000) v = v * 10 + (*(*p)++ - '0');
    return v;
}

static bool parse_field(const char *p, const struct field *f, uint64_t *bits, bool *any) {
    *bits = 0;
    *any = false;
    for (;;) {
        int from, to, step = 1;
        if (*p == '*' || *p == '?') {
            from = f->min;
            to = f->max == 7 ? 6 : f->max;
            *any |= p[1] != '/' || strcmp(p + 1, "/1") == 0;
            p++;
        } else {
            from = to = number(&p, f);
            if (*p == '-') {
                p++;
                to = number(&p, f);
            } else if (*p == '/') {
                to = f->max;
            }
        }
        if (*p == '/') {
            p++;
            step = number(&p, &(struct field){0, 1000, NULL});
        }
        if (from < f->min || to > f->max || from > to || step < 1) return false;
        for (int i = from; i <= to; i += step) *bits |= UINT64_C(1) << (f->max == 7 ? i % 7 : i);
        if (*p == 0) return true;
        if (*p++ != ',') return false;
    }
}

int cron_parse(const char *text, struct cron_schedule *out, struct err *e) {
    static const char *const macros[][2] = {
        {"@hourly", "0 * * * *"},  {"@daily", "0 0 * * *"},  {"@midnight", "0 0 * * *"}, {"@weekly", "0 0 * * 0"},
        {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}};
    for (size_t i = 0; i < ARRAY_LEN(macros); i++)
        if (str_eq(text, macros[i][0])) text = macros[i][1];
    char part[5][128];
    size_t n = 0;
    for (const char *p = str_or_empty(text); *p;) {
        while (isspace((unsigned char)*p)) p++;
        size_t len = strcspn(p, " \t");
        if (!len) break;
        if (n == 5 || len >= sizeof(part[0])) return err_set(e, -EINVAL, "bad schedule \"%s\"", text);
        memcpy(part[n], p, len);
        part[n++][len] = 0;
        p += len;
    }
    bool any;
    bool ok = n == 5 && parse_field(part[0], &fields[0], &out->minutes, &any) &&
              parse_field(part[1], &fields[1], &out->hours, &any) &&
              parse_field(part[2], &fields[2], &out->days, &out->any_day) &&
              parse_field(part[3], &fields[3], &out->months, &any) &&
              parse_field(part[4], &fields[4], &out->weekdays, &out->any_weekday);
    return ok ? 0 : err_set(e, -EINVAL, "bad schedule \"%s\"", str_or_empty(text));
}

/* ---- zones ---- */

struct zone {
    size_t n;
    int64_t *when;
    int32_t *offset;
    int32_t first;
};

static int64_t be(const unsigned char *p, size_t n) {
    uint64_t v = n == 4 && (p[0] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = 0; i < n; i++) v = v << 8 | p[i];
    return (int64_t)v;
}

static struct zone *read_zone(const unsigned char *p, size_t len) {
    for (int version = 1; version <= 2; version++) {
        if (len < 44 || memcmp(p, "TZif", 4) != 0) return NULL;
        size_t width = version == 1 ? 4 : 8;
        size_t isut = (size_t)be(p + 20, 4), isstd = (size_t)be(p + 24, 4), leap = (size_t)be(p + 28, 4),
               times = (size_t)be(p + 32, 4), types = (size_t)be(p + 36, 4), chars = (size_t)be(p + 40, 4);
        if ((times | types | chars | leap | isut | isstd) > ZONE_FILE_MAX) return NULL;
        size_t size = times * (width + 1) + types * 6 + chars + leap * (width + 4) + isstd + isut;
        if (size > len - 44 || types == 0) return NULL;
        if (version == 1 && p[4] >= '2') {
            p += 44 + size;
            len -= 44 + size;
            continue;
        }
        const unsigned char *when = p + 44, *which = when + times * width, *type = which + times;
        struct zone *z = xcalloc(1, sizeof(*z));
        z->n = times;
        z->when = xcalloc(times + 1, sizeof(*z->when));
        z->offset = xcalloc(times + 1, sizeof(*z->offset));
        z->first = (int32_t)be(type, 4);
        for (size_t i = 0; i < times; i++) {
            z->when[i] = be(when + i * width, width);
            z->offset[i] = which[i] < types ? (int32_t)be(type + which[i] * 6, 4) : 0;
        }
        return z;
    }
    return NULL;
}

int zone_load(const char *name, struct zone **out, struct err *e) {
    if (strstr(name, "..") || *name == '/') return err_set(e, -EINVAL, "unknown time zone %s", name);
    _cleanup_free_ char *path = xasprintf("/usr/share/zoneinfo/%s", name), *data = NULL;
    size_t len = 0;
    if (file_read(path, ZONE_FILE_MAX, &data, &len) < 0) {
        if (strcmp(name, "UTC") == 0 || strcmp(name, "Etc/UTC") == 0) {
            *out = NULL;
            return 0;
        }
        return err_set(e, -EINVAL, "unknown time zone %s", name);
    }
    *out = read_zone((const unsigned char *)data, len);
    return *out ? 0 : err_set(e, -EINVAL, "time zone %s cannot be read", name);
}

void zone_free(struct zone *z) {
    if (!z) return;
    free(z->when);
    free(z->offset);
    free(z);
}

int32_t zone_offset(const struct zone *z, int64_t t) {
    if (!z) return 0;
    size_t lo = 0, hi = z->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (z->when[mid] <= t)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo ? z->offset[lo - 1] : z->first;
}

/* ---- next ---- */

/* Year, month and day of a day number (days since 1970-01-01), proleptic Gregorian. */
static void civil(int64_t days, int *month, int *day) {
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    unsigned doe = (unsigned)(z - era * 146097), yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    *day = (int)(doy - (153 * mp + 2) / 5 + 1);
    *month = (int)(mp < 10 ? mp + 3 : mp - 9);
}

static bool day_matches(const struct cron_schedule *s, int64_t day) {
    int month, dom, dow = (int)(((day + 4) % 7 + 7) % 7);
    civil(day, &month, &dom);
    if (!(s->months >> month & 1)) return false;
    bool by_day = s->days >> dom & 1, by_weekday = s->weekdays >> dow & 1;
    return s->any_day || s->any_weekday ? by_day && by_weekday : by_day || by_weekday;
}

int64_t cron_next(const struct cron_schedule *s, const struct zone *z, int64_t after) {
    int64_t t = after - after % 60 + 60, end = after + (int64_t)YEARS * 366 * DAY;
    while (t < end) {
        int64_t local = t + zone_offset(z, t), day = local / DAY, second = local % DAY;
        if (!day_matches(s, day)) {
            t += DAY - second > 7200 ? DAY - second - 7200
                                     : 60; /* stop short of midnight: the offset may change on the way */
            continue;
        }
        if (!(s->hours >> (second / 3600) & 1))
            t += 3600 - second % 3600;
        else if (!(s->minutes >> (second % 3600 / 60) & 1))
            t += 60;
        else
            return t;
    }
    return 0;
}
