/* Kubernetes' libraries for quantities, semantic versions and named formats; jsonpatch.escapeKey().
 * Upstream: k8s.io/apiserver/pkg/cel/library/{quantity,semverlib,format,jsonpatch}.go. */
#include "pkg/base/bytes.h"
#include "pkg/cel/opaque.h"

#define A0 (args[0])
#define A1 (args[1])

/* ---- quantities ---- */

#define Q(v) (((const struct op_quantity *)(v).opaque)->q)

static struct cel_val quantity_value_of(struct ev *E, struct quantity q) {
    struct op_quantity *o = opaque_new(E->a, sizeof(*o), &type_quantity);
    o->q = q;
    return val_opaque(&o->head);
}
static struct cel_val fn_quantity(struct ev *E, const struct cel_val *args, int n) {
    struct quantity q;
    if (quantity_parse(A0.s, &q))
        return val_errf(E->a,
                        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'");
    return quantity_value_of(E, q);
}
static struct cel_val fn_is_quantity(struct ev *E, const struct cel_val *args, int n) {
    struct quantity q;
    return cel_bool(quantity_parse(A0.s, &q) == 0);
}
static struct cel_val fn_q_sign(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(Q(A0).nano < 0 ? -1 : Q(A0).nano > 0);
}
static struct cel_val fn_q_gt(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(quantity_cmp(Q(A0), Q(A1)) > 0);
}
static struct cel_val fn_q_lt(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(quantity_cmp(Q(A0), Q(A1)) < 0);
}
static struct cel_val fn_q_cmp(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(quantity_cmp(Q(A0), Q(A1)));
}
static struct cel_val fn_q_float(struct ev *E, const struct cel_val *args, int n) {
    return cel_double((double)Q(A0).nano / 1e9);
}

static const __int128 nano = 1000000000;
static bool q_integer(struct quantity q, int64_t *out) {
    __int128 whole = q.nano / nano;
    if (q.nano % nano || whole > INT64_MAX || whole < INT64_MIN) return false;
    *out = (int64_t)whole;
    return true;
}
static struct cel_val fn_q_int(struct ev *E, const struct cel_val *args, int n) {
    int64_t i;
    return q_integer(Q(A0), &i) ? cel_int(i) : val_errf(E->a, "cannot convert value to integer");
}
static struct cel_val fn_q_is_int(struct ev *E, const struct cel_val *args, int n) {
    int64_t i;
    return cel_bool(q_integer(Q(A0), &i));
}
static struct quantity other(const struct cel_val *v) {
    if (v->kind == CEL_INT)
        return (struct quantity){.nano = (__int128)v->i * nano, .format = QUANTITY_DECIMAL_EXPONENT};
    return Q(*v);
}
static struct cel_val fn_q_add(struct ev *E, const struct cel_val *args, int n) {
    return quantity_value_of(E, quantity_add(Q(A0), other(&A1)));
}
static struct cel_val fn_q_sub(struct ev *E, const struct cel_val *args, int n) {
    return quantity_value_of(E, quantity_sub(Q(A0), other(&A1)));
}

/* ---- semantic versions (semver.org 2.0) ---- */

#define DIGITS "0123456789"
#define IDENT "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"

/* Dotted identifiers; numbers without leading zeros when `strict`. */
static bool dotted(const char *p, size_t n, bool strict) {
    size_t i = 0;
    for (;;) {
        size_t len = strspn(p + i, IDENT);
        len = MIN_OF(len, n - i);
        if (len == 0) return false;
        if (strict && len > 1 && p[i] == '0' && strspn(p + i, DIGITS) >= len) return false;
        i += len;
        if (i == n) return true;
        if (p[i++] != '.') return false;
    }
}

const char *semver_parse(struct arena *a, const char *s, struct op_semver *v) {
    v->pre = v->build = "";
    const char *p = s;
    if (!*s) return "Version string empty";
    for (int i = 0; i < 3; i++) {
        size_t n = strspn(p, DIGITS);
        if (n == 0)
            return i < 2 && !strchr(p, '.') ? "No Major.Minor.Patch elements found"
                                            : "Invalid character(s) found in version";
        if (n > 1 && *p == '0') return "Version number must not contain leading zeroes";
        errno = 0;
        v->v[i] = strtoull(p, NULL, 10);
        if (errno == ERANGE) return "value out of range";
        p += n;
        if (i < 2 && *p++ != '.') return "No Major.Minor.Patch elements found";
    }
    if (*p == '-') {
        size_t n = strcspn(++p, "+");
        if (!dotted(p, n, true)) return "Invalid character(s) found in prerelease";
        v->pre = arena_strndup(a, p, n);
        p += n;
    }
    if (*p == '+') {
        if (!dotted(p + 1, strlen(p + 1), false)) return "Invalid character(s) found in build meta data";
        v->build = arena_strdup(a, p + 1);
        p += strlen(p);
    }
    return *p ? "Invalid character(s) found in patch number" : NULL;
}

/* "v1.02" becomes "1.2.0". */
static const char *normalise_semver(struct arena *a, const char *s) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    int parts = 0;
    if (*s == 'v') s++;
    while (parts < 3) {
        size_t zeros = strspn(s, "0"), n = parts < 2 ? strcspn(s, ".") : strlen(s);
        if (zeros && zeros < n && s[zeros] >= '0' && s[zeros] <= '9')
            s += zeros, n -= zeros;
        else if (zeros > 1)
            s += zeros - 1, n -= zeros - 1;
        if (parts++) buf_addc(&b, '.');
        buf_add(&b, s, n);
        s += n;
        if (*s != '.') break;
        s++;
    }
    if (parts < 3 && b.data && strpbrk(b.data, "+-")) return arena_strndup(a, b.data, b.len);
    for (; parts < 3; parts++) buf_adds(&b, ".0");
    return arena_strndup(a, str_or_empty(b.data), b.len);
}

static int ident_cmp(const char *x, size_t nx, const char *y, size_t ny) {
    bool dx = strspn(x, DIGITS) >= nx, dy = strspn(y, DIGITS) >= ny;
    if (dx != dy) return dx ? -1 : 1;
    if (dx && nx != ny) return nx < ny ? -1 : 1;
    int c = memcmp(x, y, MIN_OF(nx, ny));
    return c ? (c < 0 ? -1 : 1) : nx < ny ? -1 : nx > ny;
}

int semver_cmp(const struct op_semver *x, const struct op_semver *y) {
    for (int i = 0; i < 3; i++)
        if (x->v[i] != y->v[i]) return x->v[i] < y->v[i] ? -1 : 1;
    const char *p = x->pre, *q = y->pre;
    if (!*p || !*q) return *p ? -1 : *q ? 1 : 0; /* a release comes after its candidates */
    while (*p && *q) {
        size_t np = strcspn(p, "."), nq = strcspn(q, ".");
        int c = ident_cmp(p, np, q, nq);
        if (c) return c;
        p += np + (p[np] == '.');
        q += nq + (q[nq] == '.');
    }
    return *p ? 1 : *q ? -1 : 0;
}

#define V(v) ((const struct op_semver *)(v).opaque)
static struct cel_val semver_value(struct ev *E, const struct cel_val *args, int n) {
    struct op_semver *v = opaque_new(E->a, sizeof(*v), &type_semver);
    const char *s = n > 1 && A1.b ? normalise_semver(E->a, A0.s) : A0.s, *err = semver_parse(E->a, s, v);
    return err ? val_errf(E->a, "%s", err) : val_opaque(&v->head);
}
static struct cel_val fn_semver(struct ev *E, const struct cel_val *args, int n) { return semver_value(E, args, n); }
static struct cel_val fn_is_semver(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val v = semver_value(E, args, n);
    return cel_bool(!is_err(&v));
}
static struct cel_val fn_v_gt(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(semver_cmp(V(A0), V(A1)) > 0);
}
static struct cel_val fn_v_lt(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(semver_cmp(V(A0), V(A1)) < 0);
}
static struct cel_val fn_v_cmp(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(semver_cmp(V(A0), V(A1)));
}
static struct cel_val fn_major(struct ev *E, const struct cel_val *args, int n) {
    return cel_int((int64_t)V(A0)->v[0]);
}
static struct cel_val fn_minor(struct ev *E, const struct cel_val *args, int n) {
    return cel_int((int64_t)V(A0)->v[1]);
}
static struct cel_val fn_patch(struct ev *E, const struct cel_val *args, int n) {
    return cel_int((int64_t)V(A0)->v[2]);
}

/* ---- named formats ---- */

static void problem(struct arena *a, const char ***out, size_t *n, size_t *cap, const char *text) {
    ARENA_GROW(a, *out, *n, *cap);
    (*out)[(*n)++] = text;
}

/* What Kubernetes says of a name that does not match. */
struct name_rule {
    size_t max;
    const char *pattern, *words;
};
static const struct name_rule label_rule = {
    63, "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"};
static const struct name_rule subdomain_rule = {
    253, "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"};
static const struct name_rule dns1035_rule = {
    63, "[a-z]([-a-z0-9]*[a-z0-9])?",
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"};
static const struct name_rule value_rule = {
    63, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"};
static const struct name_rule qualified_rule = {
    63, "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"};

static bool full_match(struct arena *a, const char *pattern, const char *s) {
    const char *err, *p = arena_printf(a, "^(?:%s)$", pattern);
    struct regex *r = regex_new(a, p, strlen(p), &err);
    return r && regex_find(a, r, s, strlen(s), 0, NULL, NULL);
}

static void apply_rule(struct arena *a, const struct name_rule *r, const char *prefix, const char *s, const char ***out,
                       size_t *n, size_t *cap) {
    bool too_long = strlen(s) > r->max, bad = !full_match(a, r->pattern, s);
    const char *max = arena_printf(
        a, "%smust be no more than %zu %s", prefix, r->max,
        r == &label_rule || r == &dns1035_rule || r == &value_rule || r == &subdomain_rule || r == &qualified_rule
            ? "bytes"
            : "characters");
    if (too_long && r != &qualified_rule) problem(a, out, n, cap, max);
    if (bad) problem(a, out, n, cap, arena_printf(a, "%s%s", r == &qualified_rule ? "" : prefix, r->words));
    if (too_long && r == &qualified_rule) problem(a, out, n, cap, max);
}

#define RULE(fn, rule)                                                                          \
    static void fn(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) { \
        apply_rule(a, rule, "", s, out, n, cap);                                                \
    }
RULE(is_label, &label_rule)
RULE(is_subdomain, &subdomain_rule)
RULE(is_dns1035, &dns1035_rule)
RULE(is_label_value, &value_rule)

/* A prefix of a generated name may end in a dash. */
static const char *masked(struct arena *a, const char *s) {
    size_t n = strlen(s);
    if (n < 2 || s[n - 1] != '-') return s;
    char *copy = arena_strdup(a, s);
    copy[n - 1] = 'a';
    return copy;
}
#define PREFIX_RULE(fn, rule)                                                                   \
    static void fn(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) { \
        apply_rule(a, rule, "", masked(a, s), out, n, cap);                                     \
    }
PREFIX_RULE(is_label_prefix, &label_rule)
PREFIX_RULE(is_subdomain_prefix, &subdomain_rule)
PREFIX_RULE(is_dns1035_prefix, &dns1035_rule)

static void is_qualified(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) {
    const char *slash = strchr(s, '/'), *name = slash ? slash + 1 : s;
    if (slash && strchr(name, '/')) {
        problem(a, out, n, cap,
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
                "with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
                "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and "
                "'/' (e.g. 'example.com/MyName')");
        return;
    }
    if (slash == s)
        problem(a, out, n, cap, "prefix part must be non-empty");
    else if (slash)
        apply_rule(a, &subdomain_rule, "prefix part ", arena_strndup(a, s, (size_t)(slash - s)), out, n, cap);
    if (!*name) problem(a, out, n, cap, "name part must be non-empty");
    apply_rule(a, &qualified_rule, "name part ", name, out, n, cap);
}

static void is_uri(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) {
    bool absolute = s[0] == '/' || full_match(a, "[A-Za-z][A-Za-z0-9+.-]*:.*", s);
    if (!*s)
        problem(a, out, n, cap, "parse \"\": empty url");
    else if (!absolute || strpbrk(s, " \t\n\r"))
        problem(a, out, n, cap, arena_printf(a, "parse \"%s\": invalid URI for request", s));
}
static void is_uuid(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) {
    if (!full_match(a, "(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", s))
        problem(a, out, n, cap, "does not match the UUID format");
}
static void is_base64(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) {
    size_t len = strlen(s), got;
    if (len == 0 || base64_decode(s, len, arena_alloc(a, len + 4), &got)) problem(a, out, n, cap, "invalid base64");
}
static void is_date(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) {
    int64_t sec;
    uint32_t nsec;
    const char *t = arena_printf(a, "%sT00:00:00Z", s);
    if (strlen(s) != 10 || !time_parse(t, strlen(t), &sec, &nsec)) problem(a, out, n, cap, "invalid date");
}
static void is_datetime(struct arena *a, const char *s, const char ***out, size_t *n, size_t *cap) {
    int64_t sec;
    uint32_t nsec;
    if (!time_parse(s, strlen(s), &sec, &nsec)) problem(a, out, n, cap, "invalid datetime");
}

static const struct named_format formats[] = {
    {"dns1123Label", "DNS1123Label", 30, is_label},
    {"dns1123Subdomain", "DNS1123Subdomain", 60, is_subdomain},
    {"dns1035Label", "DNS1035Label", 30, is_dns1035},
    {"qualifiedName", "QualifiedName", 60, is_qualified},
    {"dns1123LabelPrefix", "DNS1123LabelPrefix", 30, is_label_prefix},
    {"dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, is_subdomain_prefix},
    {"dns1035LabelPrefix", "DNS1035LabelPrefix", 30, is_dns1035_prefix},
    {"labelValue", "LabelValue", 40, is_label_value},
    {"uri", "URI", 128, is_uri},
    {"uuid", "uuid", 108, is_uuid},
    {"byte", "byte", 84, is_base64},
    {"date", "date", 109, is_date},
    {"datetime", "datetime", 109, is_datetime},
};

const struct named_format *named_format_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

static struct cel_val format_value(struct ev *E, const char *name) {
    const struct named_format *f = named_format_find(name);
    if (!f) return cel_null();
    struct op_format *o = opaque_new(E->a, sizeof(*o), &type_format);
    o->format = f;
    return val_opaque(&o->head);
}
static struct cel_val fn_named(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val v = format_value(E, A0.s);
    return v.kind == CEL_NULL ? val_none() : val_some(E->a, v);
}
static struct cel_val fn_validate(struct ev *E, const struct cel_val *args, int n) {
    const char **list = NULL;
    size_t len = 0, cap = 0;
    ((const struct op_format *)A0.opaque)->format->validate(E->a, A1.s, &list, &len, &cap);
    if (!len) return val_none();
    struct cel_val *v = arena_alloc(E->a, len * sizeof(*v));
    for (size_t i = 0; i < len; i++) v[i] = cel_str(list[i]);
    return val_some(E->a, val_list(E->a, v, len));
}
#define FORMAT_FN(name)                                                                  \
    static struct cel_val fn_f_##name(struct ev *E, const struct cel_val *args, int n) { \
        return format_value(E, #name);                                                   \
    }
FORMAT_FN(dns1123Label)
FORMAT_FN(dns1123Subdomain)
FORMAT_FN(dns1035Label)
FORMAT_FN(qualifiedName)
FORMAT_FN(dns1123LabelPrefix)
FORMAT_FN(dns1123SubdomainPrefix)
FORMAT_FN(dns1035LabelPrefix)
FORMAT_FN(labelValue)
FORMAT_FN(uri)
FORMAT_FN(uuid)
FORMAT_FN(byte)
FORMAT_FN(date)
FORMAT_FN(datetime)

static struct cel_val fn_escape_key(struct ev *E, const struct cel_val *args, int n) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (uint32_t i = 0; i < A0.n; i++) {
        if (A0.s[i] == '~')
            buf_adds(&b, "~0");
        else if (A0.s[i] == '/')
            buf_adds(&b, "~1");
        else
            buf_addc(&b, A0.s[i]);
    }
    return val_copy_str(E->a, str_or_empty(b.data), b.len);
}

#define K8S CEL_LIB_K8S
#define M(name, id, sig, impl) \
    { name, id, sig, 1, OP_CALL, K8S, impl }
#define G(name, id, sig, impl) \
    { name, id, sig, 0, OP_CALL, K8S, impl }
#define F(name) G("format." #name, "format." #name, ">f", fn_f_##name)
const struct cel_fn fns_k8s[] = {
    G("quantity", "string_to_quantity", "s>q", fn_quantity),
    G("isQuantity", "is_quantity_string", "s>b", fn_is_quantity),
    M("sign", "quantity_sign", "q>i", fn_q_sign),
    M("isGreaterThan", "quantity_is_greater_than", "qq>b", fn_q_gt),
    M("isLessThan", "quantity_is_less_than", "qq>b", fn_q_lt),
    M("compareTo", "quantity_compare_to", "qq>i", fn_q_cmp),
    M("asApproximateFloat", "quantity_get_float", "q>d", fn_q_float),
    M("asInteger", "quantity_get_int", "q>i", fn_q_int),
    M("isInteger", "quantity_is_integer", "q>b", fn_q_is_int),
    M("add", "quantity_add", "qq>q", fn_q_add),
    M("add", "quantity_add_int", "qi>q", fn_q_add),
    M("sub", "quantity_sub", "qq>q", fn_q_sub),
    M("sub", "quantity_sub_int", "qi>q", fn_q_sub),
    G("semver", "string_to_semver", "s>v", fn_semver),
    G("semver", "string_bool_to_semver", "sb>v", fn_semver),
    G("isSemver", "is_semver_string", "s>b", fn_is_semver),
    G("isSemver", "is_semver_string_bool", "sb>b", fn_is_semver),
    M("isGreaterThan", "semver_is_greater_than", "vv>b", fn_v_gt),
    M("isLessThan", "semver_is_less_than", "vv>b", fn_v_lt),
    M("compareTo", "semver_compare_to", "vv>i", fn_v_cmp),
    M("major", "semver_major", "v>i", fn_major),
    M("minor", "semver_minor", "v>i", fn_minor),
    M("patch", "semver_patch", "v>i", fn_patch),
    M("validate", "format-validate", "fs>OLs", fn_validate),
    G("format.named", "format-named", "s>Of", fn_named),
    F(dns1123Label),
    F(dns1123Subdomain),
    F(dns1035Label),
    F(qualifiedName),
    F(dns1123LabelPrefix),
    F(dns1123SubdomainPrefix),
    F(dns1035LabelPrefix),
    F(labelValue),
    F(uri),
    F(uuid),
    F(byte),
    F(date),
    F(datetime),
    {"jsonpatch.escapeKey", "string_jsonpatch_escapeKey_string", "s>s", 0, OP_CALL, CEL_LIB_JSONPATCH, fn_escape_key},
    {NULL},
};
