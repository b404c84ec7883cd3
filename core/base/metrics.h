/*
 * metrics.h - counters, gauges and histograms that all workers share and that
 * survive reloads: slots in one area of the state zone. Label sets are
 * bounded; what is beyond the bound counts as "other".
 */
#ifndef KARS_BASE_METRICS_H
#define KARS_BASE_METRICS_H

#include "base/pool.h"
#include "base/shm.h"

#define KARS__METRIC_SLOTS 1024u

typedef struct kars__metrics_s kars__metrics_t;

/* zone NULL: private memory (tests, commands). Lives in pool. */
kars__metrics_t *kars__metrics_create(kars_pool_t *pool, kars_zone_t *zone,
                                      kars_err_t *err);

/* The same name twice gives the same metric. NULL: no memory. */
kars_metric_t *kars__metric(kars__metrics_t *m, const kars_metric_def_t *def);

/* NULL when there is no room; every function takes NULL. */
kars_series_t *kars__series(kars_metric_t *metric, const kars_str_t *labels);
void kars__series_add(kars_series_t *series, double value);
void kars__series_set(kars_series_t *series, double value);

/* Prometheus text format 0.0.4, in pool. data NULL: no memory. */
kars_str_t kars__metrics_text(kars__metrics_t *m, kars_pool_t *pool);

#endif
