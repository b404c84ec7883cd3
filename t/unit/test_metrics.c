/*
 * test_metrics.c - metrics: the text format, bounded series, shared slots.
 */
#include "base/metrics.h"
#include "t.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const double bounds[] = { 0.1, 1, 10 };

/* clang-format off */
static const kars_metric_def_t
    plain = { .size = sizeof(plain), .name = "plain_total", .help = "Plain", .kind = KARS_COUNTER },
    gauge = { .size = sizeof(gauge), .name = "gauge", .help = "A gauge", .kind = KARS_GAUGE, .labels = "a b" },
    few   = { .size = sizeof(few), .name = "few_total", .help = "Few", .kind = KARS_COUNTER, .labels = "x", .max_series = 3 },
    many  = { .size = sizeof(many), .name = "many_total", .help = "Many", .kind = KARS_COUNTER, .labels = "x" },
    hist  = { .size = sizeof(hist), .name = "hist", .help = "H", .kind = KARS_HISTOGRAM, .labels = "x", .buckets = bounds, .nbuckets = 3 },
    bare  = { .size = sizeof(bare), .name = "bare", .help = "B", .kind = KARS_HISTOGRAM, .buckets = bounds, .nbuckets = 3 };
/* clang-format on */

static void
metrics_add(kars_metric_t *m, const char *a, const char *b, double value)
{
    kars_str_t labels[2] = { t_str(a), t_str(b) };

    kars__series_add(kars__series(m, labels), value);
}

/* The text as a string of the pool. */
static const char *
metrics_text(kars__metrics_t *m, kars_pool_t *pool)
{
    kars_str_t text = kars__metrics_text(m, pool);

    return kars__pdup(pool, text).data;
}

static void
test_metrics_text_is_as_the_format_says(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__metrics_t *m = kars__metrics_create(pool, NULL, &err);
    kars_metric_t *p = kars__metric(m, &plain);
    kars_metric_t *g = kars__metric(m, &gauge);
    kars_str_t labels[2] = { KARS_STR("1"), KARS_STR("q\"b\\s\nn") };

    kars__series_add(kars__series(p, NULL), 1);
    kars__series_add(kars__series(p, NULL), 2.5);
    kars__series_set(kars__series(g, labels), 7);
    kars__series_set(kars__series(g, labels), -1);
    CU_ASSERT_STRING_EQUAL(metrics_text(m, pool),
                           "# HELP plain_total Plain\n"
                           "# TYPE plain_total counter\n"
                           "plain_total 3.5\n"
                           "# HELP gauge A gauge\n"
                           "# TYPE gauge gauge\n"
                           "gauge{a=\"1\",b=\"q\\\"b\\\\s\\nn\"} -1\n");
    CU_ASSERT_PTR_EQUAL(kars__metric(m, &plain), p); /* by its name */
    kars__series_add(NULL, 1);
    kars__series_set(NULL, 1);
    kars__pool_destroy(pool);
}

static void
test_metrics_histograms_are_cumulative(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__metrics_t *m = kars__metrics_create(pool, NULL, &err);
    kars_metric_t *h = kars__metric(m, &hist), *b = kars__metric(m, &bare);
    const char *text;
    static const double seen[] = { 0.05, 0.1, 0.5, 1, 5, 100 };
    static const char *const want[] = {
        "hist_bucket{x=\"v\",le=\"0.1\"} 2\n",
        "hist_bucket{x=\"v\",le=\"1\"} 4\n",
        "hist_bucket{x=\"v\",le=\"10\"} 5\n",
        "hist_bucket{x=\"v\",le=\"+Inf\"} 6\n",
        "hist_count{x=\"v\"} 6\n",
        "bare_bucket{le=\"0.1\"} 2\n",
        "bare_bucket{le=\"+Inf\"} 6\n",
        "bare_count 6\n",
        "# TYPE hist histogram\n",
    };

    for (size_t i = 0; i < KARS_NELTS(seen); i++) {
        metrics_add(h, "v", "", seen[i]);
        kars__series_add(kars__series(b, NULL), seen[i]);
    }
    text = metrics_text(m, pool);
    for (size_t i = 0; i < KARS_NELTS(want); i++) {
        T_CASE(want[i]);
        CU_ASSERT_PTR_NOT_NULL(strstr(text, want[i]));
    }
    kars__pool_destroy(pool);
}

static void
test_metrics_series_are_bounded(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__metrics_t *m = kars__metrics_create(pool, NULL, &err);
    kars_metric_t *f = kars__metric(m, &few), *y = kars__metric(m, &many);
    const char *text;
    double total = 0;
    int lines = 0;

    for (int i = 0; i < 1000; i++) {
        char v[16];

        (void) snprintf(v, sizeof(v), "v%d", i);
        metrics_add(f, v, "", 1);
        metrics_add(y, v, "", 1);
    }
    metrics_add(f, "v0", "", 1); /* known: still its own */
    text = metrics_text(m, pool);
    for (const char *p = text; (p = strstr(p, "\nfew_total{")) != NULL; p++) {
        total += strtod(strchr(p, ' '), NULL);
        lines++;
    }
    CU_ASSERT_TRUE(lines <= 4);
    CU_ASSERT_EQUAL(total, 1001); /* nothing is lost */
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "few_total{x=\"v0\"} 2\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "few_total{x=\"other\"} 99"));
    total = 0;
    lines = 0;
    for (const char *p = text; (p = strstr(p, "\nmany_total{")) != NULL; p++) {
        total += strtod(strchr(p, ' '), NULL);
        lines++;
    }
    CU_ASSERT_TRUE(lines <= 65);
    CU_ASSERT_EQUAL(total, 1000);
    kars__pool_destroy(pool);
}

/* Names that callers choose (models, paths): a million of them are not one byte
 * more than the first hundred. */
static void
test_metrics_memory_is_flat_over_a_million_labels(void)
{
    kars_pool_t *pool = kars__pool_create(4u << 20);
    kars_err_t err = KARS_ERR_INIT;
    kars__metrics_t *m = kars__metrics_create(pool, NULL, &err);
    kars_metric_t *y = kars__metric(m, &many);
    const char *text;

    CU_ASSERT_PTR_NOT_NULL_FATAL(y);
    for (uint32_t i = 0; i < 100; i++) {
        char v[24];

        (void) snprintf(v, sizeof(v), "model-%u", i);
        metrics_add(y, v, "", 1);
    }

    size_t before = kars__pool_used(pool);

    for (uint32_t i = 0; i < 1000000; i++) {
        char v[24];

        (void) snprintf(v, sizeof(v), "model-%u", i * 7919);
        metrics_add(y, v, "", 1);
    }

    CU_ASSERT_EQUAL(kars__pool_used(pool), before);
    CU_ASSERT_TRUE(before > 0);
    text = metrics_text(m, pool);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "many_total{x=\"other\"} "));
    kars__pool_destroy(pool);
}

static void
test_metrics_are_shared_and_stay(void)
{
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__zone_make(1024 * 1024, &err);
    kars_zone_t *zone = kars__zone_map(fd, &err);

    for (int i = 1; i <= 3; i++) { /* reloads */
        kars_pool_t *pool = kars__pool_create(0);
        kars__metrics_t *m = kars__metrics_create(pool, zone, &err);
        char want[40];

        CU_ASSERT_PTR_NOT_NULL_FATAL(m);
        metrics_add(kars__metric(m, &few), "v", "", 1);
        (void) snprintf(want, sizeof(want), "few_total{x=\"v\"} %d\n", i);
        CU_ASSERT_PTR_NOT_NULL(strstr(metrics_text(m, pool), want));
        kars__pool_destroy(pool);
    }
    kars__zone_unmap(zone);
    (void) close(fd);
}

static void
test_metrics_survive_full_slots(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars_err_t err = KARS_ERR_INIT;
    kars__metrics_t *m = kars__metrics_create(pool, NULL, &err);
    char names[60][24];

    for (int i = 0; i < 60; i++) {
        kars_metric_def_t def = many;
        kars_metric_t *k;

        (void) snprintf(names[i], sizeof(names[i]), "metric_%d_total", i);
        def.name = names[i];
        k = kars__metric(m, &def);
        for (int v = 0; v < 64; v++) {
            char text[16];

            (void) snprintf(text, sizeof(text), "%d", v);
            metrics_add(k, text, "", 1);
        }
    }
    CU_ASSERT_PTR_NOT_NULL(
        strstr(metrics_text(m, pool), "metric_0_total{x=\"63\"} 1\n"));
    kars__pool_destroy(pool);
}

void
suite_metrics(void)
{
    T_SUITE(metrics);
    T_TEST(metrics, test_metrics_text_is_as_the_format_says);
    T_TEST(metrics, test_metrics_histograms_are_cumulative);
    T_TEST(metrics, test_metrics_series_are_bounded);
    T_TEST(metrics, test_metrics_memory_is_flat_over_a_million_labels);
    T_TEST(metrics, test_metrics_are_shared_and_stay);
    T_TEST(metrics, test_metrics_survive_full_slots);
}
