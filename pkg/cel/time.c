/* Time: RFC 3339, Go durations, the civil calendar, and time zones by name.
 *
 * A zone is "+01:30", "-08", "UTC" or a name of the system's database: its file (TZif, RFC 8536) is read when an
 * expression asks, transitions and the POSIX rule for what follows them. Nothing is kept: zones in expressions are
 * rare, and a file is a kilobyte. The process's own zone and environment have no influence. Upstream:
 * common/types/timestamp.go, common/types/duration.go, Go's time.LoadLocation. */
#include <fcntl.h>

#include "pkg/cel/internal.h"

#define MIN_UNIX INT64_C(-62135596800) /* 0001-01-01T00:00:00Z */
#define MAX_UNIX INT64_C(253402300799) /* 9999-12-31T23:59:59Z */
enum { DAY = 86400, ZONE_FILE_MAX = 64 << 10, ZONE_NAME_MAX = 64 };

bool time_in_range(int64_t sec) { return sec >= MIN_UNIX && sec <= MAX_UNIX; }

/* ---- calendar (proleptic Gregorian; the algorithms are Howard Hinnant's, in his "chrono-compatible date" paper)
 * ---- */

int64_t civil_days(int64_t year, int month, int day) {
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t yoe = year - era * 400, doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static bool is_leap(int64_t y) { return y % 4 == 0 && (y % 100 != 0 || y % 400 == 0); }

static int month_days(int64_t y, int m) {
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return m == 2 && is_leap(y) ? 29 : days[m - 1];
}

void civil_of(int64_t sec, struct civil *c) {
    int64_t days = sec / DAY, rest = sec % DAY;
    if (rest < 0) {
        rest += DAY;
        days--;
    }
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int mp = (int)((5 * doy + 2) / 153);
    c->day = (int)(doy - (153 * mp + 2) / 5 + 1);
    c->month = mp < 10 ? mp + 3 : mp - 9;
    c->year = yoe + era * 400 + (c->month <= 2);
    c->hour = (int)(rest / 3600);
    c->minute = (int)(rest / 60 % 60);
    c->second = (int)(rest % 60);
    c->weekday = (int)(((days + 4) % 7 + 7) % 7);
    c->yearday = (int)(days - civil_days(c->year, 1, 1));
}

/* ---- RFC 3339 ---- */

struct scan {
    const char *p, *end;
};

static bool digits(struct scan *s, int n, int *out) {
    *out = 0;
    for (; n > 0; n--, s->p++) {
        if (s->p >= s->end || *s->p < '0' || *s->p > '9') return false;
        *out = *out * 10 + (*s->p - '0');
    }
    return true;
}

static bool literal(struct scan *s, char c) { return s->p < s->end && *s->p == c && s->p++; }

static bool offset_of(struct scan *s, int64_t *out) {
    int h, m, sign = s->p < s->end && *s->p == '-' ? -1 : 1;
    if (literal(s, 'Z')) {
        *out = 0;
        return true;
    }
    if (!literal(s, '+') && !literal(s, '-')) return false;
    if (!digits(s, 2, &h) || !literal(s, ':') || !digits(s, 2, &m) || h > 23 || m > 59) return false;
    *out = sign * (h * 3600 + m * 60);
    return true;
}

bool time_parse(const char *p, size_t n, int64_t *sec, uint32_t *nsec) {
    struct scan s = {p, p + n};
    int y, mo, d, h, mi, se;
    int64_t offset;
    if (!digits(&s, 4, &y) || !literal(&s, '-') || !digits(&s, 2, &mo) || !literal(&s, '-') || !digits(&s, 2, &d) ||
        !literal(&s, 'T') || !digits(&s, 2, &h) || !literal(&s, ':') || !digits(&s, 2, &mi) || !literal(&s, ':') ||
        !digits(&s, 2, &se))
        return false;
    if (mo < 1 || mo > 12 || d < 1 || d > month_days(y, mo) || h > 23 || mi > 59 || se > 59) return false;
    *nsec = 0;
    if (literal(&s, '.') || literal(&s, ',')) {
        uint32_t unit = 100000000;
        if (s.p >= s.end || *s.p < '0' || *s.p > '9') return false;
        for (; s.p < s.end && *s.p >= '0' && *s.p <= '9'; s.p++, unit /= 10) *nsec += (uint32_t)(*s.p - '0') * unit;
    }
    if (!offset_of(&s, &offset) || s.p != s.end) return false;
    *sec = civil_days(y, mo, d) * DAY + h * 3600 + mi * 60 + se - offset;
    return time_in_range(*sec);
}

const char *time_text(struct arena *a, int64_t sec, uint32_t nsec) {
    struct civil c;
    char fraction[16] = "";
    civil_of(sec, &c);
    if (nsec) {
        snprintf(fraction, sizeof(fraction), ".%09u", nsec);
        for (size_t i = strlen(fraction); fraction[i - 1] == '0'; i--) fraction[i - 1] = 0;
    }
    return arena_printf(a, "%04lld-%02d-%02dT%02d:%02d:%02d%sZ", (long long)c.year, c.month, c.day, c.hour, c.minute,
                        c.second, fraction);
}

bool duration_parse_n(const char *s, size_t n, int64_t *ns) {
    char text[256];
    if (n >= sizeof(text) || memchr(s, 0, n)) return false;
    memcpy(text, s, n);
    text[n] = 0;
    return duration_parse(text, ns) == 0;
}

/* Seconds with what fraction there is: "3600s", "1.5s". */
const char *duration_text(struct arena *a, int64_t ns) {
    uint64_t u = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;
    char fraction[16] = "";
    if (u % NS_PER_SEC) {
        snprintf(fraction, sizeof(fraction), ".%09llu", (unsigned long long)(u % NS_PER_SEC));
        for (size_t i = strlen(fraction); fraction[i - 1] == '0'; i--) fraction[i - 1] = 0;
    }
    return arena_printf(a, "%s%llu%ss", ns < 0 ? "-" : "", (unsigned long long)(u / NS_PER_SEC), fraction);
}

/* ---- zones ---- */

static bool fixed_offset(const char *zone, size_t n, int64_t *out) {
    struct scan s = {zone, zone + n};
    int h, m = 0, sign = literal(&s, '-') ? -1 : 1;
    if (sign > 0) literal(&s, '+');
    if (!digits(&s, 2, &h) || !literal(&s, ':') || !digits(&s, 2, &m) || s.p != s.end || h > 23 || m > 59) return false;
    *out = sign * (h * 3600 + m * 60);
    return true;
}

static int64_t be(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v = v << 8 | p[i];
    return n == 4 ? (int32_t)v : (int64_t)v;
}

/* The POSIX rule at the end of a file: "CET-1CEST,M3.5.0,M10.5.0/3". */
struct rule {
    int month, week, day;
    int64_t time;
    int julian; /* Jn: n, without leap days; -1 otherwise */
    int zero;   /* n: from 0, with leap days; -1 otherwise */
};

static bool rule_number(struct scan *s, int *out) {
    const char *before = s->p;
    for (*out = 0; s->p < s->end && *s->p >= '0' && *s->p <= '9' && *out < 10000; s->p++)
        *out = *out * 10 + (*s->p - '0');
    return s->p > before;
}

static bool rule_name(struct scan *s) {
    const char *before = s->p;
    if (literal(s, '<')) {
        while (s->p < s->end && *s->p != '>') s->p++;
        return literal(s, '>');
    }
    while (s->p < s->end && ((*s->p | 32) >= 'a' && (*s->p | 32) <= 'z')) s->p++;
    return s->p > before;
}

static bool rule_time(struct scan *s, int64_t *out) {
    int h, m = 0, sec = 0, sign = literal(s, '-') ? -1 : 1;
    if (sign > 0) literal(s, '+');
    if (!rule_number(s, &h)) return false;
    if (literal(s, ':') && !rule_number(s, &m)) return false;
    if (literal(s, ':') && !rule_number(s, &sec)) return false;
    *out = sign * (h * 3600 + m * 60 + sec);
    return true;
}

static bool rule_date(struct scan *s, struct rule *r) {
    *r = (struct rule){.julian = -1, .zero = -1, .time = 7200};
    if (!literal(s, ',')) return false;
    if (literal(s, 'M')) {
        if (!rule_number(s, &r->month) || !literal(s, '.') || !rule_number(s, &r->week) || !literal(s, '.') ||
            !rule_number(s, &r->day))
            return false;
        if (r->month < 1 || r->month > 12 || r->week < 1 || r->week > 5 || r->day > 6) return false;
    } else if (literal(s, 'J')) {
        if (!rule_number(s, &r->julian)) return false;
    } else if (!rule_number(s, &r->zero)) {
        return false;
    }
    return !literal(s, '/') || rule_time(s, &r->time);
}

/* The moment in local seconds since 1970 at which the rule strikes in this year. */
static int64_t rule_moment(const struct rule *r, int64_t year) {
    if (r->julian >= 0)
        return (civil_days(year, 1, 1) + r->julian - 1 + (is_leap(year) && r->julian >= 60)) * DAY + r->time;
    if (r->zero >= 0) return (civil_days(year, 1, 1) + r->zero) * DAY + r->time;
    int64_t first = civil_days(year, r->month, 1), weekday = ((first + 4) % 7 + 7) % 7;
    int64_t day = (r->day - weekday + 7) % 7 + (r->week - 1) * 7;
    while (day >= month_days(year, r->month)) day -= 7;
    return (first + day) * DAY + r->time;
}

static bool rule_offset(const char *p, size_t n, int64_t sec, int64_t *out) {
    struct scan s = {p, p + n};
    int64_t std, dst;
    struct rule start, end;
    struct civil c;
    if (!rule_name(&s) || !rule_time(&s, &std)) return false;
    std = -std;
    *out = std;
    if (s.p == s.end) return true;
    dst = std + 3600;
    if (!rule_name(&s)) return false;
    if (s.p < s.end && *s.p != ',') {
        if (!rule_time(&s, &dst)) return false;
        dst = -dst;
    }
    if (!rule_date(&s, &start) || !rule_date(&s, &end)) return false;
    civil_of(sec + std, &c);
    int64_t from = rule_moment(&start, c.year) - std, to = rule_moment(&end, c.year) - dst;
    bool summer = from < to ? sec >= from && sec < to : sec >= from || sec < to;
    *out = summer ? dst : std;
    return true;
}

/* A TZif file's second block: the last transition before the moment, or the rule after the last. */
static bool tzif_offset(const uint8_t *p, size_t n, int64_t sec, int64_t *out) {
    enum { HEADER = 44 };
    if (n < HEADER || memcmp(p, "TZif", 4) != 0) return false;
    uint64_t c[6]; /* isut, isstd, leap, time, type, char */
    for (int i = 0; i < 6; i++) c[i] = (uint32_t)be(p + 20 + 4 * i, 4);
    size_t wide = 4;
    if (p[4] >= '2') {
        uint64_t skip = HEADER + c[3] * 5 + c[4] * 6 + c[5] + c[2] * 8 + c[1] + c[0];
        if (skip > n || n - skip < HEADER) return false;
        p += skip;
        n -= skip;
        wide = 8;
        for (int i = 0; i < 6; i++) c[i] = (uint32_t)be(p + 20 + 4 * i, 4);
    }
    uint64_t need = HEADER + c[3] * (wide + 1) + c[4] * 6 + c[5] + c[2] * (wide + 4) + c[1] + c[0];
    if (need > n || c[4] == 0) return false;
    const uint8_t *times = p + HEADER, *kinds = times + c[3] * wide, *types = kinds + c[3];
    if (wide == 8 && n - need > 2 && (c[3] == 0 || sec >= be(times + (c[3] - 1) * 8, 8)) &&
        rule_offset((const char *)p + need + 1, n - need - 2, sec, out))
        return true;
    uint8_t kind = 0;
    for (uint64_t i = c[3]; i > 0; i--)
        if (sec >= be(times + (i - 1) * wide, wide)) {
            kind = kinds[i - 1];
            break;
        }
    if (kind >= c[4]) return false;
    *out = be(types + kind * 6, 4);
    return true;
}

bool cel_zone_offset(const char *zone, size_t n, int64_t sec, int64_t *offset) {
    *offset = 0;
    if (n == 0 || (n == 3 && memcmp(zone, "UTC", 3) == 0)) return true;
    if (memchr(zone, ':', n)) return fixed_offset(zone, n, offset);
    if (n >= ZONE_NAME_MAX || zone[0] == '/' || memmem(zone, n, "..", 2)) return false;
    for (size_t i = 0; i < n; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-/", zone[i]) || !zone[i])
            return false;
    char path[ZONE_NAME_MAX + 32];
    snprintf(path, sizeof(path), "/usr/share/zoneinfo/%.*s", (int)n, zone);
    _cleanup_free_ char *data = NULL;
    size_t len;
    if (file_read(path, ZONE_FILE_MAX, &data, &len)) return false;
    return tzif_offset((const uint8_t *)data, len, sec, offset);
}

/* ---- functions ---- */

static bool parts(struct ev *E, const struct cel_val *args, int n, struct civil *c, struct cel_val *err) {
    int64_t offset = 0;
    if (n > 1 && !cel_zone_offset(args[1].s, args[1].n, args[0].i, &offset)) {
        *err = val_errf(E->a, "unknown time zone %s", args[1].s);
        return false;
    }
    civil_of(args[0].i + offset, c);
    return true;
}

#define PART(name, what)                                                          \
    static struct cel_val name(struct ev *E, const struct cel_val *args, int n) { \
        struct civil c;                                                           \
        struct cel_val err;                                                       \
        return parts(E, args, n, &c, &err) ? cel_int(what) : err;                 \
    }
PART(fn_year, c.year)
PART(fn_month, c.month - 1)
PART(fn_yearday, c.yearday)
PART(fn_monthday, c.day - 1)
PART(fn_date, c.day)
PART(fn_weekday, c.weekday)
PART(fn_hours, c.hour)
PART(fn_minutes, c.minute)
PART(fn_seconds, c.second)

static struct cel_val fn_millis(struct ev *E, const struct cel_val *args, int n) {
    struct civil c;
    struct cel_val err;
    return parts(E, args, n, &c, &err) ? cel_int(args[0].n / 1000000) : err;
}

static struct cel_val fn_d_hours(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(args[0].i / (3600 * NS_PER_SEC));
}
static struct cel_val fn_d_minutes(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(args[0].i / (60 * NS_PER_SEC));
}
static struct cel_val fn_d_seconds(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(args[0].i / NS_PER_SEC);
}
static struct cel_val fn_d_millis(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(args[0].i / NS_PER_MS % 1000);
}

#define STAMP(name, id, impl) \
    {name, id, "t>i", 1, OP_CALL, 0, impl}, { name, id "_with_tz", "ts>i", 1, OP_CALL, 0, impl }
const struct cel_fn fns_time[] = {
    STAMP("getFullYear", "timestamp_to_year", fn_year),
    STAMP("getMonth", "timestamp_to_month", fn_month),
    STAMP("getDayOfYear", "timestamp_to_day_of_year", fn_yearday),
    STAMP("getDayOfMonth", "timestamp_to_day_of_month", fn_monthday),
    STAMP("getDate", "timestamp_to_day_of_month_1_based", fn_date),
    STAMP("getDayOfWeek", "timestamp_to_day_of_week", fn_weekday),
    STAMP("getHours", "timestamp_to_hours", fn_hours),
    STAMP("getMinutes", "timestamp_to_minutes", fn_minutes),
    STAMP("getSeconds", "timestamp_to_seconds", fn_seconds),
    STAMP("getMilliseconds", "timestamp_to_milliseconds", fn_millis),
    {"getHours", "duration_to_hours", "w>i", 1, OP_CALL, 0, fn_d_hours},
    {"getMinutes", "duration_to_minutes", "w>i", 1, OP_CALL, 0, fn_d_minutes},
    {"getSeconds", "duration_to_seconds", "w>i", 1, OP_CALL, 0, fn_d_seconds},
    {"getMilliseconds", "duration_to_milliseconds", "w>i", 1, OP_CALL, 0, fn_d_millis},
    {NULL},
};
