/*
 * test_map.c - the shared store: its limits, its times, and workers that are
 * killed while they change it.
 */
#include "base/map.h"
#include "base/pool.h"
#include "t.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TORTURE_KEYS 40u

static uint64_t map_time;

static uint64_t
map_time_of(const void *of)
{
    return *(const uint64_t *) of;
}

typedef struct {
    int fd;
    kars_zone_t *zone;
    kars_pool_t *pool;
    kars_map_t *map;
} map_test_t;

static const kars_map_def_t map_def = {
    .size = sizeof(map_def),
    .name = KARS_STR("test.map"),
    .version = 1,
    .max_entries = 4,
    .max_key = 8,
    .max_value = 16,
};

static kars_map_t *
map_open(map_test_t *t, const kars_map_def_t *def, kars_err_t *err)
{
    return kars__map_open(t->pool, t->zone, def,
                          (kars__map_clock_t){ map_time_of, &map_time }, err);
}

static void
map_begin(map_test_t *t, const kars_map_def_t *def)
{
    kars_err_t err = KARS_ERR_INIT;

    map_time = 1000;
    t->fd = kars__zone_make(KARS__ZONE_MIN, &err);
    CU_ASSERT_NOT_EQUAL_FATAL(t->fd, -1);
    t->zone = kars__zone_map(t->fd, &err);
    t->pool = kars__pool_create(0);
    CU_ASSERT_FATAL(t->zone != NULL && t->pool != NULL);
    t->map = map_open(t, def, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t->map);
}

static void
map_end(map_test_t *t)
{
    kars__pool_destroy(t->pool);
    kars__zone_unmap(t->zone);
    (void) close(t->fd);
}

static int
map_has(map_test_t *t, const char *key, const char *value)
{
    kars_str_t got = { NULL, 0 };

    return kars__map_get(t->map, t_str(key), t->pool, &got) == KARS_OK &&
           kars_str_eq(got, t_str(value));
}

static int
map_put(map_test_t *t, const char *key, const char *value, uint64_t ttl_ms)
{
    return kars__map_put(t->map, t_str(key), t_str(value), ttl_ms, 0);
}

static void
test_map_keeps_what_was_put(void)
{
    map_test_t t;
    kars_str_t got;

    map_begin(&t, &map_def);
    CU_ASSERT_EQUAL(kars__map_get(t.map, KARS_STR("a"), t.pool, &got),
                    KARS_DECLINED);
    CU_ASSERT_EQUAL(map_put(&t, "a", "one", 0), KARS_OK);
    CU_ASSERT_EQUAL(map_put(&t, "b", "", 0), KARS_OK);
    CU_ASSERT_TRUE(map_has(&t, "a", "one"));
    CU_ASSERT_TRUE(map_has(&t, "b", ""));
    CU_ASSERT_EQUAL(map_put(&t, "a", "another", 0), KARS_OK);
    CU_ASSERT_TRUE(map_has(&t, "a", "another"));
    CU_ASSERT_EQUAL(kars__map_used(t.map), 2);
    CU_ASSERT_EQUAL(
        kars__map_put(t.map, KARS_STR("a"), KARS_STR("no"), 0, KARS_NEW_ONLY),
        KARS_DECLINED);
    CU_ASSERT_TRUE(map_has(&t, "a", "another"));
    CU_ASSERT_EQUAL(kars__map_delete(t.map, KARS_STR("a")), KARS_OK);
    CU_ASSERT_EQUAL(kars__map_delete(t.map, KARS_STR("a")), KARS_DECLINED);
    CU_ASSERT_EQUAL(
        kars__map_put(t.map, KARS_STR("a"), KARS_STR("yes"), 0, KARS_NEW_ONLY),
        KARS_OK);
    CU_ASSERT_TRUE(map_has(&t, "a", "yes"));
    map_end(&t);
}

static void
test_map_is_bounded(void)
{
    map_test_t t;
    char key[4] = "k0";

    map_begin(&t, &map_def);
    for (int i = 0; i < 4; i++, key[1]++) {
        CU_ASSERT_EQUAL(map_put(&t, key, "v", 0), KARS_OK);
    }
    CU_ASSERT_EQUAL(map_put(&t, "k4", "v", 0), KARS_ERROR); /* full */
    CU_ASSERT_EQUAL(map_put(&t, "k1", "new", 0), KARS_OK);  /* no more of it */
    CU_ASSERT_TRUE(map_has(&t, "k1", "new"));
    CU_ASSERT_EQUAL(kars__map_delete(t.map, KARS_STR("k0")), KARS_OK);
    CU_ASSERT_EQUAL(map_put(&t, "k4", "v", 0), KARS_OK);
    CU_ASSERT_EQUAL(map_put(&t, "k4", "0123456789abcdef", 0), KARS_OK);
    CU_ASSERT_EQUAL(map_put(&t, "k4", "0123456789abcdefg", 0), KARS_ERROR);
    CU_ASSERT_TRUE(map_has(&t, "k4", "0123456789abcdef"));
    CU_ASSERT_EQUAL(map_put(&t, "", "v", 0), KARS_ERROR);
    CU_ASSERT_EQUAL(map_put(&t, "123456789", "v", 0), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__map_delete(t.map, KARS_STR("123456789")),
                    KARS_DECLINED);
    CU_ASSERT_EQUAL(kars__map_used(t.map), 4);
    map_end(&t);
}

static void
test_map_entries_end_at_their_time(void)
{
    map_test_t t;
    char key[4] = "k0";

    map_begin(&t, &map_def);
    for (int i = 0; i < 4; i++, key[1]++) {
        CU_ASSERT_EQUAL(map_put(&t, key, "v", i == 3 ? 0 : 100 + i), KARS_OK);
    }
    map_time += 99;
    CU_ASSERT_TRUE(map_has(&t, "k0", "v"));
    CU_ASSERT_EQUAL(map_put(&t, "k4", "v", 5), KARS_ERROR);
    map_time += 1;
    CU_ASSERT_FALSE(map_has(&t, "k0", "v"));
    CU_ASSERT_TRUE(map_has(&t, "k1", "v"));
    CU_ASSERT_EQUAL(map_put(&t, "k4", "v", UINT64_MAX), KARS_OK);
    map_time += 1000;
    CU_ASSERT_FALSE(map_has(&t, "k2", "v"));
    CU_ASSERT_TRUE(map_has(&t, "k3", "v"));
    CU_ASSERT_TRUE(map_has(&t, "k4", "v"));
    CU_ASSERT_EQUAL(kars__map_put(t.map, KARS_STR("k2"), KARS_STR("again"), 0,
                                  KARS_NEW_ONLY),
                    KARS_OK); /* one that is over is not there */
    map_end(&t);
}

typedef struct {
    char seen[16];
    kars_str_t drop;
    size_t stop_at;
} map_walk_t;

static int
map_walk(kars_str_t key, kars_str_t value, void *data)
{
    map_walk_t *w = data;

    CU_ASSERT_TRUE(kars_str_eq(value, KARS_STR("v")));
    strncat(w->seen, key.data + 1, 1);
    if (strlen(w->seen) == w->stop_at) {
        return KARS_DONE;
    }
    return kars_str_eq(key, w->drop) ? KARS_DECLINED : KARS_OK;
}

static void
test_map_each_sees_deletes_and_stops(void)
{
    map_test_t t;
    map_walk_t all = { .drop = KARS_STR("k2") }, rest = { .drop = { NULL, 0 } };
    map_walk_t one = { .stop_at = 1 };
    char key[4] = "k0";

    map_begin(&t, &map_def);
    for (int i = 0; i < 4; i++, key[1]++) {
        CU_ASSERT_EQUAL(map_put(&t, key, "v", i == 0 ? 10 : 0), KARS_OK);
    }
    map_time += 10; /* k0 is over */
    kars__map_each(t.map, map_walk, &all);
    CU_ASSERT_EQUAL(strlen(all.seen), 3);
    CU_ASSERT_PTR_NULL(strchr(all.seen, '0'));
    kars__map_each(t.map, map_walk, &rest);
    CU_ASSERT_EQUAL(strlen(rest.seen), 2);
    CU_ASSERT_PTR_NULL(strchr(rest.seen, '2'));
    kars__map_each(t.map, map_walk, &one);
    CU_ASSERT_EQUAL(strlen(one.seen), 1);
    map_end(&t);
}

static void
test_map_is_kept_by_the_zone(void)
{
    map_test_t t;
    kars_err_t err = KARS_ERR_INIT;
    kars_map_def_t next = map_def;

    map_begin(&t, &map_def);
    CU_ASSERT_EQUAL(map_put(&t, "a", "one", 0), KARS_OK);
    kars__zone_unmap(t.zone); /* another worker, after a reload */
    t.zone = kars__zone_map(t.fd, &err);
    t.map = map_open(&t, &map_def, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t.map);
    CU_ASSERT_TRUE(map_has(&t, "a", "one"));
    next.version = 2;
    t.map = map_open(&t, &next, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(t.map);
    CU_ASSERT_FALSE(map_has(&t, "a", "one"));
    map_end(&t);
}

static void
test_map_refuses_limits_that_cannot_be(void)
{
    map_test_t t;
    kars_err_t err = KARS_ERR_INIT;
    kars_map_def_t d;

    map_begin(&t, &map_def);
    d = map_def;
    d.max_entries = 0;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    d.max_entries = UINT32_MAX;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    d = map_def;
    d.max_key = 0;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    d = map_def;
    d.max_value = UINT32_MAX;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    d = map_def;
    d.version = 1u << 24;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    d = map_def;
    d.max_entries = 1u << 20;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "zone state"));
    d = map_def;
    d.max_key = map_def.max_value; /* as many bytes, cut elsewhere */
    d.max_value = map_def.max_key;
    CU_ASSERT_PTR_NULL(map_open(&t, &d, &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "raise its version"));
    map_end(&t);
}

static void
test_map_open_without_memory(void)
{
    map_test_t t;
    kars_err_t err = KARS_ERR_INIT;

    map_begin(&t, &map_def);
    for (uint64_t n = 1; n <= 3; n++) {
        kars__pool_fail_at(n);
        CU_ASSERT_PTR_NULL(map_open(&t, &map_def, &err));
        kars__pool_fail_at(0);
    }
    CU_ASSERT_EQUAL(map_put(&t, "a", "one", 0), KARS_OK);
    kars_str_t got = { NULL, 0 };
    kars__pool_fail_at(1);
    CU_ASSERT_EQUAL(kars__map_get(t.map, KARS_STR("a"), t.pool, &got),
                    KARS_ERROR);
    kars__pool_fail_at(0);
    CU_ASSERT_TRUE(map_has(&t, "a", "one"));
    map_end(&t);
}

/* Torture: every value says whose it is and is whole, or it is not there. */

typedef struct {
    uint32_t key;
    uint32_t fill[15]; /* all alike */
} torture_value_t;

static const kars_map_def_t torture_def = {
    .size = sizeof(torture_def),
    .name = KARS_STR("torture"),
    .version = 1,
    .max_entries = 32, /* fewer than keys: full is an ordinary day */
    .max_key = sizeof(uint32_t),
    .max_value = sizeof(torture_value_t),
};

static int
torture_is_whole(kars_str_t key, kars_str_t value)
{
    torture_value_t v;
    uint32_t k;

    if (key.len != sizeof(k) || value.len != sizeof(v)) {
        return 0;
    }
    memcpy(&k, key.data, sizeof(k));
    memcpy(&v, value.data, sizeof(v));
    for (size_t i = 1; i < KARS_NELTS(v.fill); i++) {
        if (v.fill[i] != v.fill[0]) {
            return 0;
        }
    }
    return v.key == k && k < TORTURE_KEYS;
}

/* A worker that changes entries until it dies, wherever it then is: after some
 * milliseconds of its own work, however busy the machine; or until it finds a
 * broken one. */
static void
torture_child(map_test_t *t, unsigned seed)
{
    struct itimerval end = { .it_value.tv_usec = 500 + rand_r(&seed) % 8000 };

    (void) setitimer(ITIMER_VIRTUAL, &end, NULL); /* SIGVTALRM ends it */
    for (;;) {
        uint32_t k = (uint32_t) rand_r(&seed) % TORTURE_KEYS;
        kars_str_t key = { (const char *) &k, sizeof(k) }, got;
        torture_value_t v = { .key = k };
        uint32_t fill = (uint32_t) rand_r(&seed);

        for (size_t i = 0; i < KARS_NELTS(v.fill); i++) {
            v.fill[i] = fill;
        }
        switch (rand_r(&seed) % 4) {
        case 0:
            (void) kars__map_delete(t->map, key);
            break;
        case 1: {
            kars_pool_t *pool = kars__pool_create(0);

            if (kars__map_get(t->map, key, pool, &got) == KARS_OK &&
                !torture_is_whole(key, got)) {
                _exit(3);
            }
            kars__pool_destroy(pool);
            break;
        }
        default:
            (void) kars__map_put(t->map, key,
                                 (kars_str_t){ (const char *) &v, sizeof(v) },
                                 (uint64_t) (rand_r(&seed) % 2), 0);
        }
    }
}

static int
torture_see(kars_str_t key, kars_str_t value, void *data)
{
    uint64_t *seen = data;
    uint32_t k;

    CU_ASSERT_TRUE(torture_is_whole(key, value));
    if (seen != NULL) {
        memcpy(&k, key.data, sizeof(k));
        CU_ASSERT_FALSE(*seen & (1ull << k)); /* each key once */
        *seen |= 1ull << k;
    }
    return KARS_OK;
}

static pid_t
torture_start(map_test_t *t, unsigned seed)
{
    pid_t pid = fork();

    if (pid == 0) {
        torture_child(t, seed);
    }
    return pid;
}

static void
test_map_survives_workers_killed_inside(void)
{
    map_test_t t;
    pid_t pid;
    time_t end = time(NULL) + 60;
    int deaths = 0, living = 0, status;

    map_begin(&t, &torture_def);
    while (deaths < 60 && time(NULL) < end) {
        for (; living < 4; living++) {
            CU_ASSERT_FATAL(torture_start(&t, (unsigned) (deaths + living)) >
                            0);
        }
        pid = wait(&status);
        CU_ASSERT_TRUE_FATAL(pid > 0);
        CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGVTALRM);
        living--;
        deaths++;
        kars__map_each(t.map, torture_see, NULL);
    }
    for (; living > 0; living--) {
        CU_ASSERT_TRUE(wait(&status) > 0);
    }
    CU_ASSERT_EQUAL(deaths, 60);
    CU_ASSERT_TRUE(kars__map_repairs(t.map) >= 3); /* with the lock in hand */

    uint64_t seen = 0;
    int n = 0;

    map_time += 10; /* those with a time are over, and their slots free */
    for (uint32_t k = 0; k < TORTURE_KEYS; k++) {
        (void) kars__map_delete(t.map,
                                (kars_str_t){ (const char *) &k, sizeof(k) });
    }
    CU_ASSERT_EQUAL(kars__map_used(t.map), 0);
    for (uint32_t k = 0; k < 33; k++) {
        torture_value_t v = { .key = k };

        n += kars__map_put(t.map, (kars_str_t){ (const char *) &k, sizeof(k) },
                           (kars_str_t){ (const char *) &v, sizeof(v) }, 0,
                           0) == KARS_OK;
    }
    CU_ASSERT_EQUAL(n, 32); /* no slot was lost, none was won */
    kars__map_each(t.map, torture_see, &seen);
    CU_ASSERT_EQUAL(seen, (1ull << 32) - 1);
    map_end(&t);
}

void
suite_map(void)
{
    T_SUITE(map);
    T_TEST(map, test_map_keeps_what_was_put);
    T_TEST(map, test_map_is_bounded);
    T_TEST(map, test_map_entries_end_at_their_time);
    T_TEST(map, test_map_each_sees_deletes_and_stops);
    T_TEST(map, test_map_is_kept_by_the_zone);
    T_TEST(map, test_map_refuses_limits_that_cannot_be);
    T_TEST(map, test_map_open_without_memory);
    T_TEST(map, test_map_survives_workers_killed_inside);
}
