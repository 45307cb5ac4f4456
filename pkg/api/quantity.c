/* Quantities: a sign, decimal digits with an optional point, and a suffix that is a power of 1024 (Ki..Ei), a power of
 * 1000 (n..E), or a decimal exponent (e3). The value is kept in 10^-9 units in 128 bits.
 *
 * The canonical text is the shortest with a whole mantissa and the largest suffix of the quantity's own family: a binary
 * quantity below 1024, or one with a fraction, is written in the decimal family. Upstream: resource.Quantity. */
#include "pkg/api/quantity.h"

#include <ctype.h>

#define NANO ((__int128)1000000000)
/* What upstream caps binary quantities at. */
#define CAP ((__int128)INT64_MAX * NANO)
/* No computation goes beyond this. */
#define HUGE_NANO (((__int128)1 << 126))

static const struct {
    char text[3];
    int8_t power; /* of 1000, or of 1024 */
    bool binary;
} suffixes[] = {
    {"", 0, false},  {"n", -3, false}, {"u", -2, false}, {"m", -1, false}, {"k", 1, false}, {"M", 2, false},
    {"G", 3, false}, {"T", 4, false},  {"P", 5, false},  {"E", 6, false},  {"Ki", 1, true}, {"Mi", 2, true},
    {"Gi", 3, true}, {"Ti", 4, true},  {"Pi", 5, true},  {"Ei", 6, true},
};

enum { EXACT_DIGITS = 18, MAX_DIGITS = 28, MAX_EXPONENT = 60 };

struct digits {
    __int128 mantissa;
    int count;    /* digits seen, leading zeros apart */
    int exponent; /* of ten, of the mantissa's last digit */
    bool sticky;  /* a digit that is not zero was dropped */
};

static const char *read_digits(const char *p, struct digits *d, bool *any) {
    bool point = false;
    for (; isdigit((unsigned char)*p) || (*p == '.' && !point); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        *any = true;
        int digit = *p - '0';
        if (d->count || digit) d->count++;
        if (d->count > MAX_DIGITS) {
            d->sticky |= digit != 0;
            if (!point) d->exponent++;
        } else {
            d->mantissa = d->mantissa * 10 + digit;
            if (point) d->exponent--;
        }
    }
    return p;
}

static int read_suffix(const char *p, size_t n, int *ten, int *two, enum quantity_format *format) {
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        if (strlen(suffixes[i].text) != n || memcmp(suffixes[i].text, p, n) != 0) continue;
        *format = suffixes[i].binary ? QUANTITY_BINARY_SI : QUANTITY_DECIMAL_SI;
        *(suffixes[i].binary ? two : ten) = suffixes[i].power * (suffixes[i].binary ? 10 : 3);
        return 0;
    }
    if (n < 2 || (*p != 'e' && *p != 'E')) return -EINVAL;
    const char *q = p + 1, *end = p + n;
    bool negative = *q == '-';
    if (*q == '-' || *q == '+') q++;
    if (q == end) return -EINVAL;
    int exponent = 0;
    for (; q < end; q++) {
        if (!isdigit((unsigned char)*q)) return -EINVAL;
        if (exponent < 1000) exponent = exponent * 10 + (*q - '0');
    }
    *ten = negative ? -exponent : exponent;
    *format = QUANTITY_DECIMAL_EXPONENT;
    return 0;
}

/* mantissa * 10^exponent * 2^two in nano, rounded up. */
static __int128 scale(struct digits d, int two, bool *capped) {
    __int128 v = d.mantissa;
    bool sticky = d.sticky;
    int ten = d.exponent + 9;
    for (; two > 0; two--) {
        if (v > HUGE_NANO / 2) {
            *capped = true;
            return CAP;
        }
        v *= 2;
    }
    for (; ten > 0 && v; ten--) {
        if (v > HUGE_NANO / 10) {
            *capped = true;
            return CAP;
        }
        v *= 10;
    }
    for (; ten < 0 && v; ten++) {
        sticky |= v % 10 != 0;
        v /= 10;
    }
    return v + sticky;
}

int quantity_parse(const char *s, struct quantity *out) {
    if (!s) return -EINVAL;
    while (isspace((unsigned char)*s)) s++;
    size_t len = strlen(s);
    while (len && isspace((unsigned char)s[len - 1])) len--;
    const char *end = s + len;
    bool negative = *s == '-', any = false, capped = false;
    if (*s == '-' || *s == '+') s++;
    struct digits d = {0};
    const char *p = read_digits(s, &d, &any);
    int ten = 0, two = 0;
    enum quantity_format format;
    if (!any || p > end || read_suffix(p, (size_t)(end - p), &ten, &two, &format)) return -EINVAL;
    if (ten > MAX_EXPONENT) ten = MAX_EXPONENT;
    if (ten < -MAX_EXPONENT) ten = -MAX_EXPONENT;
    d.exponent += ten;
    __int128 nano = scale(d, two, &capped);
    if (two && nano > CAP) nano = CAP; /* only binary ones have a limit */
    if (format == QUANTITY_BINARY_SI && nano > 0 && nano < NANO) format = QUANTITY_DECIMAL_SI;
    *out = (struct quantity){negative ? -nano : nano, format};
    return 0;
}

static char *put_number(char *end, unsigned __int128 v) {
    *end = 0;
    do *--end = (char)('0' + (int)(v % 10));
    while (v /= 10);
    return end;
}

static const char *suffix_text(int power, bool binary) {
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
        if (suffixes[i].binary == binary && suffixes[i].power == power) return suffixes[i].text;
    return power == 0 ? "" : NULL;
}

char *quantity_format(struct arena *a, struct quantity q) {
    if (q.nano == 0) return arena_strdup(a, "0");
    bool negative = q.nano < 0;
    unsigned __int128 v = (unsigned __int128)(negative ? -q.nano : q.nano);
    int power = 0;
    char text[48];
    if (q.format == QUANTITY_BINARY_SI && v >= 1024 * NANO && v % NANO == 0) {
        v /= NANO;
        for (; power < 6 && v % 1024 == 0; power++) v /= 1024;
        char *p = put_number(text + sizeof(text) - 1, v);
        return arena_printf(a, "%s%s%s", negative ? "-" : "", p, power ? suffix_text(power, true) : "");
    }
    for (power = -3; v % 1000 == 0; power++) {
        if (q.format != QUANTITY_DECIMAL_EXPONENT && power == 6) break;
        v /= 1000;
    }
    char *p = put_number(text + sizeof(text) - 1, v);
    if (q.format == QUANTITY_DECIMAL_EXPONENT && power)
        return arena_printf(a, "%s%se%d", negative ? "-" : "", p, power * 3);
    return arena_printf(a, "%s%s%s", negative ? "-" : "", p, suffix_text(power, false));
}

/* Whether upstream keeps the text as it is: what has few enough digits for a 64-bit number and looks canonical but for a
 * plus sign, zeros in front or a point at the end. Most quantities in the wild do. */
static bool keeps_text(const char *s, size_t len) {
    const char *p = s, *end = s + len;
    if (p < end && (*p == '-' || *p == '+')) p++;
    while (p < end && *p == '0') p++;
    const char *num = p;
    while (p < end && isdigit((unsigned char)*p)) p++;
    size_t n = (size_t)(p - num), frac = 0;
    if (!n) return false;
    const char *last = p; /* one past the last digit */
    if (p < end && *p == '.') {
        for (p++; p < end && isdigit((unsigned char)*p); p++) frac++;
        if (frac) last = p;
    }
    int ten = 0, two = 0;
    enum quantity_format format;
    if (read_suffix(p, (size_t)(end - p), &ten, &two, &format)) return false;
    if (format == QUANTITY_BINARY_SI) {
        bool fits = 15 - (int)n - two * 3 / 10 - 1 >= 0;
        return !frac && fits && (last[-1] % 2 || strtoull(num, NULL, 10) % 8);
    }
    int scale_of = ten - (int)frac;
    if (n + frac > EXACT_DIGITS || scale_of < -9 || scale_of % 3) return false;
    int zeros = 0;
    for (const char *q = last; q > num && (q[-1] == '0' || q[-1] == '.') && zeros < 3; q--) zeros += q[-1] == '0';
    return zeros < 3;
}

char *quantity_canonical(struct arena *a, const char *s) {
    struct quantity q;
    if (!s) return NULL;
    while (isspace((unsigned char)*s)) s++;
    size_t len = strlen(s);
    while (len && isspace((unsigned char)s[len - 1])) len--;
    if (keeps_text(s, len)) return arena_strndup(a, s, len);
    return quantity_parse(s, &q) ? NULL : quantity_format(a, q);
}

static int64_t whole(__int128 nano, __int128 unit) {
    __int128 v = nano / unit, rest = nano % unit;
    v += rest > 0 ? 1 : rest < 0 ? -1 : 0;
    return v > INT64_MAX ? INT64_MAX : v < INT64_MIN ? INT64_MIN : (int64_t)v;
}

int64_t quantity_value(struct quantity q) { return whole(q.nano, NANO); }
int64_t quantity_milli(struct quantity q) { return whole(q.nano, NANO / 1000); }

int64_t quantity_str_value(const char *s) {
    struct quantity q;
    return quantity_parse(s, &q) ? 0 : quantity_value(q);
}

int64_t quantity_str_milli(const char *s) {
    struct quantity q;
    return quantity_parse(s, &q) ? 0 : quantity_milli(q);
}

int quantity_cmp(struct quantity a, struct quantity b) { return (a.nano > b.nano) - (a.nano < b.nano); }

/* A zero takes the other's family. */
struct quantity quantity_add(struct quantity a, struct quantity b) {
    return (struct quantity){a.nano + b.nano, a.nano ? a.format : b.format};
}

struct quantity quantity_sub(struct quantity a, struct quantity b) {
    return (struct quantity){a.nano - b.nano, a.nano ? a.format : b.format};
}
