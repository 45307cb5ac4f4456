#include "ktime.h"

#include <time.h>

static struct ktime (*test_now)(void);
static int64_t (*test_mono)(void);

void clock_set_for_tests(struct ktime (*now)(void), int64_t (*mono)(void)) {
    test_now = now;
    test_mono = mono;
}

struct ktime ktime_now(void) {
    if (test_now) return test_now();
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (struct ktime){ts.tv_sec, (int32_t)ts.tv_nsec, true};
}

int64_t mono_ns(void) {
    if (test_mono) return test_mono();
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

/* Days since 1970-01-01 of a civil date (Gregorian, any year). */
static int64_t days_from_civil(int64_t y, int m, int d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static bool digits(const char **s, int n, int *out) {
    int v = 0;
    for (int i = 0; i < n; i++) {
        char c = (*s)[i];
        if (c < '0' || c > '9') return false;
        v = v * 10 + (c - '0');
    }
    *s += n;
    *out = v;
    return true;
}

static int month_days(int y, int m) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    return m == 2 && leap ? 29 : days[m - 1];
}

int ktime_parse(const char *s, struct ktime *out) {
    int y, mo, d, h, mi, sec, off_h = 0, off_m = 0, sign = 0;
    if (!s) return -EINVAL;
    if (!digits(&s, 4, &y) || *s++ != '-' || !digits(&s, 2, &mo) || *s++ != '-' || !digits(&s, 2, &d)) return -EINVAL;
    if (*s != 'T') return -EINVAL;
    s++;
    if (!digits(&s, 2, &h) || *s++ != ':' || !digits(&s, 2, &mi) || *s++ != ':' || !digits(&s, 2, &sec)) return -EINVAL;
    int64_t frac = 0, scale = NS_PER_SEC;
    if (*s == '.' || *s == ',') {
        s++;
        if (*s < '0' || *s > '9') return -EINVAL;
        for (; *s >= '0' && *s <= '9'; s++) {
            scale /= 10;
            frac += (*s - '0') * scale;
        }
    }
    if (*s == 'Z') {
        s++;
    } else if (*s == '+' || *s == '-') {
        sign = *s++ == '+' ? 1 : -1;
        if (!digits(&s, 2, &off_h) || *s++ != ':' || !digits(&s, 2, &off_m)) return -EINVAL;
    } else {
        return -EINVAL;
    }
    if (*s || mo < 1 || mo > 12 || d < 1 || d > month_days(y, mo) || h > 23 || mi > 59 || sec > 59 || off_h > 23 ||
        off_m > 59)
        return -EINVAL;
    int64_t t = days_from_civil(y, mo, d) * 86400 + h * 3600 + mi * 60 + sec - sign * (off_h * 3600 + off_m * 60);
    *out = (struct ktime){t, (int32_t)frac, true};
    return 0;
}

static char *put_digits(char *o, int64_t v, int width) {
    for (int i = width - 1; i >= 0; i--, v /= 10) o[i] = (char)('0' + v % 10);
    return o + width;
}

static int format_seconds(struct ktime t, char *out) {
    int64_t days = t.sec / 86400, rem = t.sec % 86400;
    if (rem < 0) {
        rem += 86400;
        days--;
    }
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153, d = doy - (153 * mp + 2) / 5 + 1, m = mp < 10 ? mp + 3 : mp - 9;
    int64_t y = yoe + era * 400 + (m <= 2);
    const struct {
        int64_t value;
        char before;
    } parts[] = {{m, '-'}, {d, '-'}, {rem / 3600, 'T'}, {rem / 60 % 60, ':'}, {rem % 60, ':'}};
    char *o = out;
    if (y < 0 || y > 9999)
        o += snprintf(out, KTIME_MAX, "%04d", (int)y);
    else
        o = put_digits(o, y, 4);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        *o++ = parts[i].before;
        o = put_digits(o, parts[i].value, 2);
    }
    *o = 0;
    return (int)(o - out);
}

static char *format_digits(struct ktime t, char *out, int width, int32_t divisor) {
    if (!t.set) {
        out[0] = 0;
        return out;
    }
    char *o = out + format_seconds(t, out);
    if (width) {
        *o++ = '.';
        o = put_digits(o, t.nsec / divisor, width);
    }
    memcpy(o, "Z", 2);
    return out;
}

char *ktime_format(struct ktime t, char out[KTIME_MAX]) { return format_digits(t, out, 0, 1); }
char *ktime_format_micro(struct ktime t, char out[KTIME_MAX]) { return format_digits(t, out, 6, 1000); }
char *ktime_format_nano(struct ktime t, char out[KTIME_MAX]) { return format_digits(t, out, 9, 1); }

int64_t ktime_unix_ns(struct ktime t) {
    int64_t ns;
    if (__builtin_mul_overflow(t.sec, NS_PER_SEC, &ns) || __builtin_add_overflow(ns, (int64_t)t.nsec, &ns))
        return t.sec < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

struct ktime ktime_from_unix_ns(int64_t ns) {
    int64_t sec = ns / NS_PER_SEC, rem = ns % NS_PER_SEC;
    if (rem < 0) {
        rem += NS_PER_SEC;
        sec--;
    }
    return (struct ktime){sec, (int32_t)rem, true};
}

int64_t ktime_diff_ns(struct ktime a, struct ktime b) {
    int64_t d, x = a.set ? ktime_unix_ns(a) : 0, y = b.set ? ktime_unix_ns(b) : 0;
    if (__builtin_sub_overflow(x, y, &d)) return x < y ? INT64_MIN : INT64_MAX;
    return d;
}

struct ktime ktime_add_ns(struct ktime t, int64_t ns) {
    return ktime_from_unix_ns(ktime_unix_ns(t) + ns);
}

int ktime_cmp(struct ktime a, struct ktime b) {
    if (a.sec != b.sec) return a.sec < b.sec ? -1 : 1;
    return (a.nsec > b.nsec) - (a.nsec < b.nsec);
}

static const struct {
    const char *name;
    int64_t ns;
} duration_units[] = {{"ns", 1},         {"us", 1000},           {"\u00b5s", 1000},       {"ms", NS_PER_MS},
                      {"s", NS_PER_SEC}, {"m", 60 * NS_PER_SEC}, {"h", 3600 * NS_PER_SEC}};

int duration_parse(const char *s, int64_t *out) {
    if (!s || !*s) return -EINVAL;
    bool neg = *s == '-';
    if (*s == '-' || *s == '+') s++;
    if (strcmp(s, "0") == 0) {
        *out = 0;
        return 0;
    }
    double total = 0;
    if (!*s) return -EINVAL;
    while (*s) {
        double v = 0, scale = 1;
        bool any = false;
        for (; *s >= '0' && *s <= '9'; s++, any = true) v = v * 10 + (*s - '0');
        if (*s == '.')
            for (s++; *s >= '0' && *s <= '9'; s++, any = true) v += (*s - '0') * (scale /= 10);
        if (!any) return -EINVAL;
        size_t unit_len = strcspn(s, "0123456789.+-"), i = 0;
        for (; i < ARRAY_LEN(duration_units); i++)
            if (strlen(duration_units[i].name) == unit_len && memcmp(duration_units[i].name, s, unit_len) == 0) break;
        if (i == ARRAY_LEN(duration_units)) return -EINVAL;
        total += v * (double)duration_units[i].ns;
        s += unit_len;
    }
    if (total >= 9.2e18) return -EINVAL;
    int64_t ns = (int64_t)(total + 0.5);
    *out = neg ? -ns : ns;
    return 0;
}

static void trim_fraction(char *s) {
    size_t n = strlen(s);
    while (n && s[n - 1] == '0') s[--n] = 0;
    if (n && s[n - 1] == '.') s[n - 1] = 0;
}

char *duration_format(int64_t ns, char out[KTIME_MAX]) {
    if (ns == 0) return memcpy(out, "0s", 3);
    uint64_t u = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;
    const char *sign = ns < 0 ? "-" : "";
    char num[32];
    if (u < (uint64_t)NS_PER_SEC) {
        static const struct {
            uint64_t div;
            const char *unit;
        } small[] = {{1000000, "ms"}, {1000, "\u00b5s"}, {1, "ns"}};
        size_t i = u >= 1000000 ? 0 : u >= 1000 ? 1 : 2;
        snprintf(num, sizeof(num), "%llu.%06llu", (unsigned long long)(u / small[i].div),
                 (unsigned long long)(u % small[i].div * (1000000 / small[i].div)));
        trim_fraction(num);
        snprintf(out, KTIME_MAX, "%s%s%s", sign, num, small[i].unit);
        return out;
    }
    uint64_t sec = u / 1000000000u, h = sec / 3600, m = sec / 60 % 60;
    snprintf(num, sizeof(num), "%llu.%09llu", (unsigned long long)(sec % 60), (unsigned long long)(u % 1000000000u));
    trim_fraction(num);
    if (h)
        snprintf(out, KTIME_MAX, "%s%lluh%llum%ss", sign, (unsigned long long)h, (unsigned long long)m, num);
    else if (m)
        snprintf(out, KTIME_MAX, "%s%llum%ss", sign, (unsigned long long)m, num);
    else
        snprintf(out, KTIME_MAX, "%s%ss", sign, num);
    return out;
}
