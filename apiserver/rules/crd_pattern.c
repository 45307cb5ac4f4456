#include "apiserver/rules/crd_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

static void cleanup_code(pcre2_code **c) { pcre2_code_free(*c); }
static void cleanup_data(pcre2_match_data **d) { pcre2_match_data_free(*d); }
static void cleanup_context(pcre2_match_context **c) { pcre2_match_context_free(*c); }

static pcre2_code *compile(const char *pattern, int *error) {
    PCRE2_SIZE at;
    return pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, error, &at,
                         NULL);
}

const char *crd_pattern_fault(struct arena *a, const char *pattern) {
    int error = 0;
    if (strlen(pattern) > PATTERN_MAX) return "it is too long";
    _cleanup_(cleanup_code) pcre2_code *code = compile(pattern, &error);
    if (code) return NULL;
    char text[128] = "";
    pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof(text));
    return arena_strdup(a, text);
}

bool crd_pattern_matches(const char *pattern, const char *text, size_t len) {
    int error;
    _cleanup_(cleanup_code) pcre2_code *code = strlen(pattern) > PATTERN_MAX ? NULL : compile(pattern, &error);
    if (!code) return true;
    _cleanup_(cleanup_data) pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    _cleanup_(cleanup_context) pcre2_match_context *limits = pcre2_match_context_create(NULL);
    if (!data || !limits) return false;
    pcre2_set_match_limit(limits, PATTERN_MATCH_LIMIT);
    pcre2_set_heap_limit(limits, PATTERN_HEAP_KIB);
    return pcre2_match(code, (PCRE2_SPTR)text, len, 0, 0, data, limits) >= 0;
}
