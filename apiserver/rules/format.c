/* Formats of names and values: RFC 1123 and 1035 names, labels, ports, addresses, and so on. Each check
 * returns NULL or the reason. Upstream: apimachinery/pkg/util/validation. */
#include <arpa/inet.h>
#include <ctype.h>

#include "apiserver/rules/rules.h"

static bool is_lower_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
static bool is_alnum(char c) { return is_lower_alnum(c) || (c >= 'A' && c <= 'Z'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Lower-case letters, digits and '-', beginning and ending with a letter or digit. */
static bool label_chars(const char *s, size_t n) {
    if (!n || !is_lower_alnum(s[0]) || !is_lower_alnum(s[n - 1])) return false;
    for (size_t i = 0; i < n; i++)
        if (!is_lower_alnum(s[i]) && s[i] != '-') return false;
    return true;
}

#define MSG_LABEL                                                                                     \
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must " \
    "start and end with an alphanumeric character"
#define MSG_SUBDOMAIN                                                                                 \
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', " \
    "and must start and end with an alphanumeric character"

const char *is_dns1123_label(const char *s) {
    size_t n = strlen(s);
    if (!label_chars(s, n)) return MSG_LABEL;
    return n > 63 ? "must be no more than 63 bytes" : NULL;
}

const char *is_dns1123_subdomain(const char *s) {
    if (strlen(s) > 253) return "must be no more than 253 bytes";
    for (const char *p = s;;) {
        size_t n = strcspn(p, ".");
        if (!label_chars(p, n)) return MSG_SUBDOMAIN;
        if (!p[n]) return NULL;
        p += n + 1;
    }
}

const char *is_dns1035_label(const char *s) {
    size_t n = strlen(s);
    if (!label_chars(s, n) || is_digit(s[0]))
        return "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
               "alphabetic "
               "character, and end with an alphanumeric character";
    return n > 63 ? "must be no more than 63 bytes" : NULL;
}

const char *is_path_segment_prefix(const char *s) { return strpbrk(s, "/%") ? "may not contain '/' or '%'" : NULL; }

const char *is_path_segment(const char *s) {
    if (str_eq(s, ".") || str_eq(s, "..")) return "may not be '.' or '..'";
    return is_path_segment_prefix(s);
}

/* [A-Za-z0-9][-A-Za-z0-9_.]*[A-Za-z0-9] */
static bool qualified_chars(const char *s) {
    size_t n = strlen(s);
    if (!n || !is_alnum(s[0]) || !is_alnum(s[n - 1])) return false;
    for (size_t i = 0; i < n; i++)
        if (!is_alnum(s[i]) && !strchr("-_.", s[i])) return false;
    return true;
}

size_t qualified_name_faults(const char *s) {
    size_t faults = 0;
    const char *slash = strchr(s, '/'), *name = s;
    if (slash) {
        if (strchr(slash + 1, '/')) return 1;
        char prefix[254];
        size_t n = (size_t)(slash - s);
        if (!n || n >= sizeof prefix) {
            faults++;
        } else {
            memcpy(prefix, s, n);
            prefix[n] = '\0';
            faults += is_dns1123_subdomain(prefix) != NULL;
        }
        name = slash + 1;
    }
    if (!*name) faults++;
    if (strlen(name) > 63) faults++;
    if (!qualified_chars(name)) faults++;
    return faults;
}

const char *is_qualified_name(const char *s) {
    return qualified_name_faults(s) ? "name part must consist of alphanumeric characters, '-', '_' or '.', "
                                      "and must start and end with an "
                                      "alphanumeric character, with an optional DNS subdomain prefix and '/'"
                                    : NULL;
}

size_t label_value_faults(const char *s) {
    if (!*s) return 0;
    return (strlen(s) > 63) + !qualified_chars(s);
}

const char *is_label_value(const char *s) {
    return label_value_faults(s) ? "a valid label must be an empty string or consist of at most 63 alphanumeric "
                                   "characters, '-', '_' or '.', and must start and end with an alphanumeric character"
                                 : NULL;
}

const char *is_config_map_key(const char *s) {
    size_t n = strlen(s);
    if (n > 253) return "must be no more than 253 characters";
    if (!n) return "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    for (size_t i = 0; i < n; i++)
        if (!is_alnum(s[i]) && !strchr("-_.", s[i]))
            return "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    if (str_eq(s, ".")) return "must not be '.'";
    if (str_eq(s, "..")) return "must not be '..'";
    return str_has_prefix(s, "..") ? "must not start with '..'" : NULL;
}

size_t config_map_key_faults(const char *s) {
    bool chars = *s;
    for (const char *q = s; *q; q++) chars &= is_alnum(*q) || strchr("-_.", *q) != NULL;
    return (strlen(s) > 253) + !chars + str_has_prefix(s, ".") * (str_eq(s, ".") || str_has_prefix(s, ".."));
}

/* Any printable ASCII except '='. */
const char *is_env_var_name(const char *s) {
    if (!*s) return "environment variable name must not be empty";
    for (const char *p = s; *p; p++)
        if (*p < 0x20 || *p > 0x7e || *p == '=')
            return "a valid environment variable name must consist only of printable ASCII characters other "
                   "than '='";
    return NULL;
}

size_t port_name_faults(const char *s) {
    size_t n = strlen(s), faults = 0;
    bool chars = true, letter = false, doubled = strstr(s, "--") != NULL;
    for (size_t i = 0; i < n; i++) {
        chars &= is_lower_alnum(s[i]) || s[i] == '-';
        letter |= s[i] >= 'a' && s[i] <= 'z';
    }
    faults += n > 15;
    faults += !chars || !n;
    faults += !letter;
    faults += doubled;
    faults += n && (s[0] == '-' || s[n - 1] == '-');
    return faults;
}

const char *is_http_header_name(const char *s) {
    if (!*s) return "a valid HTTP header must consist of alphanumeric characters or '-'";
    for (const char *p = s; *p; p++)
        if (!is_alnum(*p) && *p != '-') return "a valid HTTP header must consist of alphanumeric characters or '-'";
    return NULL;
}

const char *is_wildcard_subdomain(const char *s) {
    if (!str_has_prefix(s, "*.")) return "a wildcard DNS-1123 subdomain must start with '*.'";
    return is_dns1123_subdomain(s + 2);
}

const char *is_fqdn(const char *s) {
    size_t n = strlen(s);
    char name[255];
    if (!n) return "must not be empty";
    if (n >= sizeof name) return "must be no more than 253 bytes";
    memcpy(name, s, n + 1);
    if (name[n - 1] == '.') name[n - 1] = '\0';
    const char *bad = is_dns1123_subdomain(name);
    if (bad) return bad;
    return strchr(name, '.') ? NULL : "should be a domain with at least two segments separated by dots";
}

bool is_ip(const char *s, int *family) {
    unsigned char b[16];
    int f = strchr(s, ':') ? 6 : 4;
    if (inet_pton(f == 6 ? AF_INET6 : AF_INET, s, b) != 1) return false;
    if (family) *family = f;
    return true;
}

static bool mapped(const char *s) {
    struct in6_addr in;
    return strchr(s, ':') && inet_pton(AF_INET6, s, &in) == 1 && IN6_IS_ADDR_V4MAPPED(&in);
}

bool is_own_ip(const char *s, int *family) { return is_ip(s, family) && !mapped(s); }

static const char *canonical_ip(const char *s, char *text, size_t size) {
    struct in6_addr in;
    if (!strchr(s, ':') || inet_pton(AF_INET6, s, &in) != 1) return s;
    const uint8_t *b = in.s6_addr;
    if (!IN6_IS_ADDR_V4COMPAT(&in)) return inet_ntop(AF_INET6, &in, text, (socklen_t)size);
    unsigned high = b[12] * 256u + b[13], low = b[14] * 256u + b[15]; /* the C library would write them with dots */
    snprintf(text, size, high ? "::%x:%x" : "::%.0x%x", high, low);
    return text;
}

const char *ip_canonical(struct arena *a, const char *s) {
    char text[INET6_ADDRSTRLEN];
    return arena_strdup(a, canonical_ip(s, text, sizeof text));
}

bool is_canonical_ip(const char *s) {
    char text[INET6_ADDRSTRLEN];
    return is_own_ip(s, NULL) && str_eq(canonical_ip(s, text, sizeof text), s);
}

bool is_subnet(const char *s, int *family) {
    const char *slash = strchr(s, '/');
    char addr[64];
    uint8_t b[16] = {0};
    int f = 0;
    if (!is_cidr(s, &f)) return false;
    memcpy(addr, s, (size_t)(slash - s)); /* is_cidr saw to the length */
    addr[slash - s] = '\0';
    if (mapped(addr) || inet_pton(f == 6 ? AF_INET6 : AF_INET, addr, b) != 1) return false;
    for (size_t bit = strtoul(slash + 1, NULL, 10); bit < (f == 6 ? 128u : 32u); bit++)
        if (b[bit / 8] & 0x80 >> bit % 8) return false;
    if (family) *family = f;
    return true;
}

bool is_cidr(const char *s, int *family) {
    const char *slash = strchr(s, '/');
    char addr[64];
    int f;
    if (!slash || (size_t)(slash - s) >= sizeof addr) return false;
    memcpy(addr, s, (size_t)(slash - s));
    addr[slash - s] = '\0';
    if (!is_ip(addr, &f)) return false;
    size_t n = strlen(slash + 1);
    if (!n || n > 3 || (n > 1 && slash[1] == '0')) return false;
    int bits = 0;
    for (const char *p = slash + 1; *p; p++) {
        if (!is_digit(*p)) return false;
        bits = bits * 10 + (*p - '0');
    }
    if (family) *family = f;
    return bits <= (f == 6 ? 128 : 32);
}

bool is_percent(const char *s) {
    size_t n = strspn(s, "0123456789");
    return n && str_eq(s + n, "%");
}

bool is_c_identifier(const char *s) {
    if (!*s || is_digit(*s)) return false;
    for (; *s; s++)
        if (!is_alnum(*s) && *s != '_') return false;
    return true;
}

bool is_absolute_uri(const char *s) {
    size_t n = 0;
    while (is_alnum(s[n]) || (n && strchr("+-.", s[n]) && s[n])) n++;
    return n && s[n] == ':' && isalpha((unsigned char)s[0]);
}

/* ---- cron ---- five fields, or @hourly and friends, with an optional TZ= prefix that CronJob forbids
 * elsewhere */

static bool cron_number(const char **p, const char *const *names, int base, int *out) {
    if (is_digit(**p)) {
        int v = 0;
        while (is_digit(**p)) {
            v = v * 10 + (*(*p)++ - '0');
            if (v > 1000) return false;
        }
        *out = v;
        return true;
    }
    for (int i = 0; names && names[i]; i++) {
        if (strncasecmp(*p, names[i], 3) != 0) continue;
        *p += 3;
        *out = base + i;
        return true;
    }
    return false;
}

static bool cron_field(const char *f, size_t n, int min, int max, const char *const *names) {
    char text[256];
    if (!n || n >= sizeof text) return false;
    memcpy(text, f, n);
    text[n] = '\0';
    const char *p = text;
    for (;;) {
        int lo = min, hi = max;
        bool single = false;
        if (*p == '*' || *p == '?') {
            p++;
        } else {
            if (!cron_number(&p, names, min, &lo)) return false;
            hi = lo;
            single = true;
            if (*p == '-') {
                p++;
                if (!cron_number(&p, names, min, &hi)) return false;
                single = false;
            }
        }
        if (*p == '/') {
            int step;
            p++;
            if (!cron_number(&p, NULL, 0, &step) || step == 0) return false;
            if (single) hi = max;
        }
        if (lo < min || hi > max || lo > hi) return false;
        if (!*p) return true;
        if (*p++ != ',') return false;
    }
}

bool is_cron(const char *s) {
    static const char *const months[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul",
                                         "aug", "sep", "oct", "nov", "dec", NULL};
    static const char *const days[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};
    static const struct {
        int min, max;
        const char *const *names;
    } fields[] = {{0, 59, NULL}, {0, 23, NULL}, {1, 31, NULL}, {1, 12, months}, {0, 6, days}};
    if (*s == '@') {
        if (str_has_prefix(s, "@every ")) {
            int64_t ns;
            return duration_parse(s + 7, &ns) == 0;
        }
        return str_in(s, ONE_OF("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"));
    }
    size_t i = 0;
    for (const char *p = s; *(p += strspn(p, " \t"));) {
        size_t n = strcspn(p, " \t");
        if (i >= ARRAY_LEN(fields) || !cron_field(p, n, fields[i].min, fields[i].max, fields[i].names)) return false;
        i++;
        p += n;
    }
    return i == ARRAY_LEN(fields);
}

/* ---- checks that report ---- */

enum { LABEL_MAX = 63, SUBDOMAIN_MAX = 253 };

/* The name without the limit of its length, which is a finding of its own. */
static const char *characters(struct arena *a, const char *s, size_t max, const char *(*rule)(const char *)) {
    const char *bad = rule(s);
    if (!bad || strlen(s) <= max) return bad;
    for (const char *q = s; *q; q++)
        if (!is_lower_alnum(*q) && *q != '-' && !(*q == '.' && max == SUBDOMAIN_MAX)) return bad;
    const char *part = arena_printf(a, "%c%.32s%c", s[0], s + 1, s[strlen(s) - 1]);
    return rule(part);
}

static void v_name(struct vctx *v, const struct fp *p, const struct json *value, size_t max,
                   const char *(*rule)(const char *)) {
    const char *s = str_or_empty(json_as_str(value)), *bad = characters(v->a, s, max, rule);
    if (strlen(s) > max) v_invalid(v, p, value, "must be no more than %zu bytes", max);
    if (bad) v_invalid(v, p, value, "%s", bad);
}

void v_subdomain(struct vctx *v, const struct fp *p, const struct json *value) {
    v_name(v, p, value, SUBDOMAIN_MAX, is_dns1123_subdomain);
}
void v_label1123(struct vctx *v, const struct fp *p, const struct json *value) {
    v_name(v, p, value, LABEL_MAX, is_dns1123_label);
}
void v_label1035(struct vctx *v, const struct fp *p, const struct json *value) {
    v_name(v, p, value, LABEL_MAX, is_dns1035_label);
}

/* Each part between dots, by a rule. */
static void v_parts(struct vctx *v, const struct fp *p, const struct json *value, const char *s,
                    void (*rule)(struct vctx *, const struct fp *, const struct json *)) {
    for (;;) {
        size_t n = strcspn(s, ".");
        rule(v, p, json_str(v->a, arena_strndup(v->a, s, n)));
        if (!s[n]) return;
        s += n + 1;
    }
}

void v_signer_name(struct vctx *v, const struct fp *p, const struct json *value) {
    const char *s = str_or_empty(json_as_str(value)), *slash = strchr(s, '/');
    if (!*s) v_required(v, p, NULL);
    if (!slash || strchr(slash + 1, '/')) {
        v_invalid(v, p, value, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    }
    const char *domain = arena_strndup(v->a, s, (size_t)(slash - s));
    if (strlen(domain) > SUBDOMAIN_MAX) v_too_long(v, p, SUBDOMAIN_MAX);
    v_parts(v, p, value, domain, v_label1123);
    if (!strchr(domain, '.')) v_invalid(v, p, value, "should be a domain with at least two segments separated by dots");
    v_parts(v, p, value, slash + 1, v_subdomain);
    if (strlen(s) > 2 * SUBDOMAIN_MAX + LABEL_MAX + 2) v_too_long(v, p, 2 * SUBDOMAIN_MAX + LABEL_MAX + 2);
}

void v_config_key(struct vctx *v, const struct fp *p, const char *s) {
    for (size_t n = config_map_key_faults(s); n; n--) {
        const char *bad = is_config_map_key(s);
        v_invalid(v, p, json_str(v->a, s), "%s", bad ? bad : "is not a valid key");
    }
}

void v_label_name(struct vctx *v, const struct fp *p, const char *s) {
    for (size_t n = qualified_name_faults(s); n; n--) v_invalid(v, p, json_str(v->a, s), "%s", is_qualified_name(s));
}

void v_labels(struct vctx *v, const struct fp *p, const struct json *labels) {
    JSON_FOREACH_MEMBER(m, labels) {
        v_label_name(v, p, m->key);
        for (size_t n = label_value_faults(str_or_empty(json_as_str(m->value))); n; n--)
            v_invalid(v, p, m->value, "%s", is_label_value(json_as_str(m->value)));
    }
}

void v_annotations(struct vctx *v, const struct fp *p, const struct json *annotations) {
    enum { TOTAL_MAX = 256 * 1024 };
    size_t total = 0;
    JSON_FOREACH_MEMBER(m, annotations) {
        char *lower = arena_strdup(v->a, m->key);
        for (char *q = lower; *q; q++) *q = (char)tolower((unsigned char)*q);
        for (size_t n = qualified_name_faults(lower); n; n--)
            v_invalid(v, p, json_str(v->a, m->key), "%s", is_qualified_name(lower));
        total += strlen(m->key) + (json_is(m->value, JSON_STRING) ? m->value->n : 0);
    }
    if (total > TOTAL_MAX) v_too_long(v, p, TOTAL_MAX);
}

static void v_requirement(struct vctx *v, const struct fp *p, const struct json *r, bool allow_invalid_values) {
    const char *op = jstr(r, "operator");
    const struct json *values = json_get(r, "values"), *s;
    if (str_in(op, ONE_OF("In", "NotIn"))) {
        if (!json_len(values)) v_required(v, FP(p, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
    } else if (str_in(op, ONE_OF("Exists", "DoesNotExist"))) {
        if (json_len(values))
            v_forbidden(v, FP(p, "values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
    } else {
        v_invalid(v, FP(p, "operator"), json_get(r, "operator"), "not a valid selector operator");
    }
    v_label_name(v, FP(p, "key"), jstr(r, "key"));
    if (allow_invalid_values) return;
    JSON_FOREACH(s, values)
        for (size_t n = label_value_faults(str_or_empty(json_as_str(s))); n; n--)
            v_invalid(v, FPI(FP(p, "values"), s_i), s, "%s", is_label_value(json_as_str(s)));
}

void v_label_selector(struct vctx *v, const struct fp *p, const struct json *sel, bool allow_invalid_values) {
    const struct json *r;
    v_labels(v, FP(p, "matchLabels"), json_get(sel, "matchLabels"));
    JSON_FOREACH(r, json_get(sel, "matchExpressions"))
        v_requirement(v, FPI(FP(p, "matchExpressions"), r_i), r, allow_invalid_values);
}

bool selector_parses(struct vctx *v, const struct json *sel) {
    struct vctx probe = {.c = v->c, .a = v->a};
    v_label_selector(&probe, NULL, sel, false);
    return probe.n == 0;
}

static bool requirement_matches(const struct json *r, const struct json *labels) {
    const char *op = jstr(r, "operator"), *have = json_get_str(labels, jstr(r, "key"));
    const struct json *s;
    if (str_eq(op, "Exists")) return have != NULL;
    if (str_eq(op, "DoesNotExist")) return have == NULL;
    bool in = false;
    JSON_FOREACH(s, json_get(r, "values")) in |= have && str_eq(json_as_str(s), have);
    return str_eq(op, "NotIn") ? !in : in;
}

bool selector_matches(const struct json *sel, const struct json *labels) {
    const struct json *r;
    JSON_FOREACH_MEMBER(m, json_get(sel, "matchLabels"))
        if (!str_eq(json_get_str(labels, m->key), json_as_str(m->value))) return false;
    JSON_FOREACH(r, json_get(sel, "matchExpressions"))
        if (!requirement_matches(r, labels)) return false;
    return true;
}

void v_port(struct vctx *v, const struct fp *p, const struct json *num) {
    int64_t n = json_as_int(num, 0);
    if (n < 1 || n > 65535) v_invalid(v, p, num, "must be between 1 and 65535, inclusive");
}

void v_quantity(struct vctx *v, const struct fp *p, const char *s, bool non_negative) {
    struct quantity q;
    if (quantity_parse(s, &q) < 0) {
        v_invalid(v, p, json_str(v->a, s), "must be a quantity");
    } else if (non_negative && q.nano < 0) {
        v_invalid(v, p, json_str(v->a, s), "must be greater than or equal to 0");
    }
}
