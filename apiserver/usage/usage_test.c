/* Reading a kubelet's numbers, and rates between two samples. */
#include "apiserver/usage/internal.h"
#include "tests/test.h"

#define C(pod, container) "{container=\"" container "\",namespace=\"ns\",pod=\"" pod "\"} "

static struct usage_sample *read_text(const char *text) {
    struct usage_sample *s = NULL;
    struct err e = {0};
    CHECK_INT(usage_parse(text, strlen(text), &s, &e), 0);
    return s;
}

static int error_of(const char *text) {
    struct usage_sample *s = NULL;
    int rc = usage_parse(text, strlen(text), &s, NULL);
    usage_sample_free(s);
    return rc;
}

/* clang-format off */
#define CONTAINERS_AND_NODE \
    "# HELP x\n" \
    "container_cpu_usage_seconds_total" C("p", "b") "1.5 1000\n" \
    "container_memory_working_set_bytes" C("p", "b") "4096 1000\n" \
    "container_start_time_seconds" C("p", "b") "0.25\n" \
    "container_cpu_usage_seconds_total" C("p", "a") "3 2000\n" \
    "node_cpu_usage_seconds_total 9 2000\n" \
    "node_memory_working_set_bytes 7 2000\n" \
    "up 1\n"
/* clang-format on */

TEST(lines_of_one_container_become_one_point) {
    struct usage_sample *s = read_text(CONTAINERS_AND_NODE);
    const struct usage_point *p = usage_find(s, "ns", "p", "b");
    size_t n;
    REQUIRE(p);
    CHECK(p->cpu_seconds == 1.5 && p->memory == 4096 && p->started == 0.25);
    CHECK_INT(s->n, 2);
    CHECK_INT(s->at_ms, 2000);
    CHECK(s->has_node && s->node_cpu_seconds == 9 && s->node_memory == 7);
    CHECK_STR(usage_pod(s, "ns", "p", &n)->container, "a");
    CHECK_INT(n, 2);
    CHECK(!usage_pod(s, "ns", "q", &n));
    usage_sample_free(s);
}

TEST(labels_may_hold_anything_quoted) {
    struct usage_sample *s =
        read_text("container_cpu_usage_seconds_total{x=\"},\\\"\",container=\"a\\\\b\",namespace=\"n\",pod=\"p\"} 1\n");
    CHECK(usage_find(s, "n", "p", "a\\b"));
    usage_sample_free(s);
}

TEST(broken_lines_are_refused) {
    CHECK_INT(error_of("container_cpu_usage_seconds_total{container=\"a\" 1\n"), -EINVAL);
    CHECK_INT(error_of("container_cpu_usage_seconds_total{container=\"a} 1\n"), -EINVAL);
    CHECK_INT(error_of("container_cpu_usage_seconds_total" C("p", "a") "many\n"), -EINVAL);
    CHECK_INT(error_of("container_cpu_usage_seconds_total{container=\"a\"} 1\n"), -EINVAL); /* no pod */
    CHECK_INT(error_of("node_cpu_usage_seconds_total nan\n"), -EINVAL);
    CHECK_INT(error_of("something_else{ broken\n"), 0);
}

static double rate(const char *before, const char *now, int64_t *window) {
    struct usage_sample *a = before ? read_text(before) : NULL, *b = read_text(now);
    double r = usage_rate(b, &b->points[0], a, window);
    usage_sample_free(a);
    usage_sample_free(b);
    return r;
}

TEST(a_rate_is_between_two_samples) {
    int64_t w = 0;
    CHECK(rate("container_cpu_usage_seconds_total" C("p", "a") "10 1000\n",
               "container_cpu_usage_seconds_total" C("p", "a") "11 5000\n", &w) == 0.25);
    CHECK_INT(w, 4000);
    CHECK(rate(NULL, "container_cpu_usage_seconds_total" C("p", "a") "11 5000\n", &w) < 0);
    CHECK(rate("node_cpu_usage_seconds_total 1 1000\n", "container_cpu_usage_seconds_total" C("p", "a") "11 5000\n",
               &w) < 0);
}

TEST(a_counter_that_went_back_tells_nothing) {
    int64_t w;
    CHECK(rate("container_cpu_usage_seconds_total" C("p", "a") "10 1000\n",
               "container_cpu_usage_seconds_total" C("p", "a") "1 5000\n", &w) < 0);
}

TEST(a_container_that_started_since_counts_from_its_start) {
    int64_t w = 0;
    static const char old[] = "container_cpu_usage_seconds_total" C("p", "a") "10 1000\n";
    CHECK(
        rate(old,
             "container_cpu_usage_seconds_total" C("p", "a") "5 22000\ncontainer_start_time_seconds" C("p", "a") "2\n",
             &w) == 0.25);
    CHECK_INT(w, 20000);
    CHECK(rate(old,
               "container_cpu_usage_seconds_total" C("p", "a") "5 4000\ncontainer_start_time_seconds" C("p", "a") "2\n",
               &w) < 0); /* too young */
}
