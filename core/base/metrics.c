/* metrics.c - shared metrics; see metrics.h. */
#include "base/metrics.h"
#include "base/str.h"

#include <stdatomic.h>
#include <stdio.h>

#define METRIC_KEY    240u
#define METRIC_SERIES 64u /* label sets of one metric, unless it says less */
#define METRIC_LABELS 8u

/* One sample: its whole name with labels, as it is printed, and its value. */
typedef struct {
    char key[METRIC_KEY];
    _Atomic uint64_t bits; /* of a double */
    _Atomic uint32_t used;
    uint32_t unused;
} metric_slot_t;

typedef struct {
    metric_slot_t slots[KARS__METRIC_SLOTS];
} metric_area_t;

struct kars_series_s {
    kars_series_t *next;
    uint64_t hash;
    kars_metric_t *metric;
    metric_slot_t *value;   /* counter, gauge; of a histogram: _sum */
    metric_slot_t *count;   /* histogram: _count, the +Inf bucket is equal */
    metric_slot_t **bucket; /* histogram: one for each bound */
};

struct kars_metric_s {
    kars_metric_t *next;
    kars__metrics_t *all;
    kars_metric_def_t def;
    kars_str_t labels[METRIC_LABELS];
    size_t nlabels;
    kars_series_t *series;
    uint32_t nseries;
    kars_series_t *other;
};

struct kars__metrics_s {
    kars_pool_t *pool;
    kars_area_t *area; /* NULL: private */
    metric_area_t *slots;
    kars_metric_t *first;
    kars_metric_t **last;
};

kars__metrics_t *
kars__metrics_create(kars_pool_t *pool, kars_zone_t *zone, kars_err_t *err)
{
    kars__metrics_t *m = kars__pnew(pool, kars__metrics_t);

    if (m == NULL) {
        (void) kars__err(err, 0, "no memory for metrics");
        return NULL;
    }
    m->pool = pool;
    m->last = &m->first;
    if (zone != NULL) {
        m->area = kars__zone_area(zone, KARS_STR("metrics"),
                                  sizeof(metric_area_t), 1, err);
        m->slots = m->area != NULL ? kars__area_data(m->area) : NULL;
    } else {
        m->slots = kars__pnew(pool, metric_area_t);
    }
    return m->slots != NULL ? m : NULL;
}

static size_t
metric_split(const char *labels, kars_str_t *ret, size_t max)
{
    size_t n = 0;

    while (labels != NULL && *labels != '\0' && n < max) {
        size_t len = strcspn(labels, " ");

        if (len != 0) {
            ret[n++] = (kars_str_t){ labels, len };
        }
        labels += len;
        labels += strspn(labels, " ");
    }
    return n;
}

kars_metric_t *
kars__metric(kars__metrics_t *m, const kars_metric_def_t *def)
{
    for (kars_metric_t *k = m->first; k != NULL; k = k->next) {
        if (strcmp(k->def.name, def->name) == 0) {
            return k;
        }
    }

    kars_metric_t *k = kars__pnew(m->pool, kars_metric_t);

    if (k == NULL) {
        return NULL;
    }
    memcpy(&k->def, def,
           def->size < sizeof(k->def) ? def->size : sizeof(k->def));
    k->all = m;
    k->nlabels = metric_split(k->def.labels, k->labels, METRIC_LABELS);
    if (k->def.max_series == 0 || k->def.max_series > METRIC_SERIES) {
        k->def.max_series = METRIC_SERIES;
    }
    *m->last = k;
    m->last = &k->next;
    return k;
}

/* Appends s as a label value: at most 64 bytes, escaped as the format asks. */
static size_t
metric_put_value(char *p, size_t room, kars_str_t s)
{
    size_t o = 0;

    for (size_t i = 0; i < s.len && i < 64 && o + 3 < room; i++) {
        char c = s.data[i];

        if (c == '"' || c == '\\') {
            p[o++] = '\\';
            p[o++] = c;
        } else if (c == '\n') {
            p[o++] = '\\';
            p[o++] = 'n';
        } else {
            p[o++] = (unsigned char) c < 0x20 ? '?' : c;
        }
    }
    return o;
}

/* name + suffix + {labels, le}; 0 when it does not fit. */
static size_t
metric_key(const kars_metric_t *k, const char *suffix, const kars_str_t *labels,
           const char *le, char *ret)
{
    int n = snprintf(ret, METRIC_KEY, "%s%s", k->def.name, suffix);
    size_t o = n < 0 ? METRIC_KEY : (size_t) n;
    char sep = '{';

    for (size_t i = 0; i < k->nlabels && o + 80 < METRIC_KEY; i++) {
        ret[o++] = sep;
        sep = ',';
        n = snprintf(ret + o, METRIC_KEY - o, "%.*s=\"",
                     KARS_STR_ARG(k->labels[i]));
        o += (size_t) n;
        if (o + 70 > METRIC_KEY) {
            return 0;
        }
        o += metric_put_value(ret + o, METRIC_KEY - o - 8, labels[i]);
        ret[o++] = '"';
    }
    if (le != NULL && o + 40 < METRIC_KEY) {
        o += (size_t) snprintf(ret + o, METRIC_KEY - o, "%cle=\"%s\"", sep, le);
        sep = ',';
    }
    if (o + 2 >= METRIC_KEY) {
        return 0;
    }
    if (sep == ',') {
        ret[o++] = '}';
    }
    ret[o] = '\0';
    return o;
}

static metric_slot_t *
metric_slot(kars__metrics_t *m, const char *key)
{
    metric_slot_t *found = NULL;

    if (m->area != NULL) {
        (void) kars__area_lock(m->area);
    }
    for (size_t i = 0; i < KARS__METRIC_SLOTS; i++) {
        metric_slot_t *s = &m->slots->slots[i];

        if (!atomic_load_explicit(&s->used, memory_order_acquire)) {
            memset(s->key, 0, sizeof(s->key));
            memcpy(s->key, key, strlen(key));
            atomic_store_explicit(&s->used, 1, memory_order_release);
            found = s;
            break;
        }
        if (strcmp(s->key, key) == 0) {
            found = s;
            break;
        }
    }
    if (m->area != NULL) {
        kars__area_unlock(m->area);
    }
    return found;
}

static kars_series_t *
series_make(kars_metric_t *k, const kars_str_t *labels, uint64_t hash)
{
    kars__metrics_t *m = k->all;
    kars_series_t *s = kars__pnew(m->pool, kars_series_t);
    int histogram = k->def.kind == KARS_HISTOGRAM;
    char key[METRIC_KEY], le[32];

    if (s == NULL ||
        metric_key(k, histogram ? "_sum" : "", labels, NULL, key) == 0 ||
        (s->value = metric_slot(m, key)) == NULL) {
        return NULL;
    }
    s->metric = k;
    s->hash = hash;

    if (histogram) {
        s->bucket = kars__pnewn(m->pool, metric_slot_t *, k->def.nbuckets);
        if (s->bucket == NULL ||
            metric_key(k, "_count", labels, NULL, key) == 0 ||
            (s->count = metric_slot(m, key)) == NULL) {
            return NULL;
        }
        for (size_t i = 0; i < k->def.nbuckets; i++) {
            (void) snprintf(le, sizeof(le), "%g", k->def.buckets[i]);
            if (metric_key(k, "_bucket", labels, le, key) == 0 ||
                (s->bucket[i] = metric_slot(m, key)) == NULL) {
                return NULL;
            }
        }
    }

    s->next = k->series;
    k->series = s;
    k->nseries++;
    return s;
}

static uint64_t
series_hash(const kars_str_t *labels, size_t n)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */

    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < labels[i].len && j < 64; j++) {
            h = (h ^ (unsigned char) labels[i].data[j]) * 1099511628211u;
        }
        h = (h ^ 0xff) * 1099511628211u;
    }
    return h;
}

kars_series_t *
kars__series(kars_metric_t *k, const kars_str_t *labels)
{
    if (k == NULL) {
        return NULL;
    }

    uint64_t hash = series_hash(labels, k->nlabels);

    for (kars_series_t *s = k->series; s != NULL; s = s->next) {
        if (s->hash == hash) {
            return s;
        }
    }
    if (k->nseries < k->def.max_series) {
        return series_make(k, labels, hash);
    }
    if (k->other == NULL) {
        kars_str_t other[METRIC_LABELS];

        for (size_t i = 0; i < k->nlabels; i++) {
            other[i] = KARS_STR("other");
        }
        k->other = series_make(k, other, series_hash(other, k->nlabels));
    }
    return k->other;
}

static void
slot_add(metric_slot_t *slot, double by)
{
    uint64_t was = atomic_load_explicit(&slot->bits, memory_order_relaxed);
    uint64_t now;

    do {
        double d;

        memcpy(&d, &was, sizeof(d));
        d += by;
        memcpy(&now, &d, sizeof(now));
    } while (!atomic_compare_exchange_weak(&slot->bits, &was, now));
}

void
kars__series_add(kars_series_t *s, double value)
{
    if (s == NULL) {
        return;
    }
    slot_add(s->value, value);
    if (s->bucket != NULL) {
        const kars_metric_def_t *def = &s->metric->def;

        slot_add(s->count, 1);
        for (size_t i = 0; i < def->nbuckets; i++) {
            if (value <= def->buckets[i]) {
                slot_add(s->bucket[i], 1);
            }
        }
    }
}

void
kars__series_set(kars_series_t *s, double value)
{
    if (s != NULL) {
        uint64_t bits;

        memcpy(&bits, &value, sizeof(bits));
        atomic_store(&s->value->bits, bits);
    }
}

/* Does this slot belong to the metric: its name, then a suffix or a brace? */
static int
slot_of(const metric_slot_t *slot, const kars_metric_t *k)
{
    size_t n = strlen(k->def.name);

    if (strncmp(slot->key, k->def.name, n) != 0) {
        return 0;
    }

    const char *rest = slot->key + n;

    if (*rest == '{' || *rest == '\0') {
        return k->def.kind != KARS_HISTOGRAM;
    }
    return k->def.kind == KARS_HISTOGRAM &&
           (strncmp(rest, "_sum", 4) == 0 || strncmp(rest, "_count", 6) == 0 ||
            strncmp(rest, "_bucket", 7) == 0);
}

/* The +Inf bucket of a histogram equals its count: printed, not kept. */
static size_t
slot_print_inf(const kars_metric_t *k, const metric_slot_t *slot, double value,
               char *p, size_t room)
{
    const char *rest = slot->key + strlen(k->def.name);

    if (k->def.kind != KARS_HISTOGRAM || strncmp(rest, "_count", 6) != 0) {
        return 0;
    }
    rest += 6;

    size_t len = strlen(rest);
    int n = len == 0 ? snprintf(p, room, "%s_bucket{le=\"+Inf\"} %.17g\n",
                                k->def.name, value)
                     : snprintf(p, room, "%s_bucket%.*s,le=\"+Inf\"} %.17g\n",
                                k->def.name, (int) len - 1, rest, value);

    return n > 0 && (size_t) n < room ? (size_t) n : 0;
}

static size_t
metric_print(const kars__metrics_t *m, const kars_metric_t *k, char *p,
             size_t room)
{
    static const char *const kinds[] = { "", "counter", "gauge", "histogram" };
    int n = snprintf(p, room, "# HELP %s %s\n# TYPE %s %s\n", k->def.name,
                     k->def.help, k->def.name,
                     kinds[k->def.kind <= KARS_HISTOGRAM ? k->def.kind : 0]);
    size_t o = n > 0 && (size_t) n < room ? (size_t) n : 0;

    for (size_t i = 0; i < KARS__METRIC_SLOTS; i++) {
        metric_slot_t *s = &m->slots->slots[i];
        double value;

        if (!atomic_load_explicit(&s->used, memory_order_acquire)) {
            break;
        }
        if (!slot_of(s, k)) {
            continue;
        }

        uint64_t bits = atomic_load(&s->bits);

        memcpy(&value, &bits, sizeof(value));
        o += slot_print_inf(k, s, value, p + o, room - o);
        n = snprintf(p + o, room - o, "%s %.17g\n", s->key, value);
        o += n > 0 && (size_t) n < room - o ? (size_t) n : 0;
    }
    return o;
}

kars_str_t
kars__metrics_text(kars__metrics_t *m, kars_pool_t *pool)
{
    size_t room = 4096;

    for (const kars_metric_t *k = m->first; k != NULL; k = k->next) {
        room += 2 * strlen(k->def.name) + strlen(k->def.help) + 64;
    }
    for (size_t i = 0; i < KARS__METRIC_SLOTS && m->slots->slots[i].used; i++) {
        room += 2 * (strlen(m->slots->slots[i].key) + 64);
    }

    char *p = kars__palloc(pool, room);
    size_t o = 0;

    if (p == NULL) {
        return (kars_str_t){ NULL, 0 };
    }
    for (const kars_metric_t *k = m->first; k != NULL; k = k->next) {
        o += metric_print(m, k, p + o, room - o);
    }
    return (kars_str_t){ p, o };
}
