/*
 * test_shm.c - zones: areas, their locks, who is alive.
 */
#include "base/shm.h"
#include "t.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static kars_zone_t *
shm_zone(int *fd)
{
    kars_err_t err = KARS_ERR_INIT;
    kars_zone_t *zone;

    *fd = kars__zone_make(KARS__ZONE_MIN, &err);
    CU_ASSERT_NOT_EQUAL_FATAL(*fd, -1);
    zone = kars__zone_map(*fd, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(zone);
    return zone;
}

static void
test_zone_areas_are_found_again(void)
{
    int fd;
    kars_zone_t *zone = shm_zone(&fd), *other;
    kars_err_t err = KARS_ERR_INIT;
    kars_area_t *a = kars__zone_area(zone, KARS_STR("a"), 100, 1, &err);
    kars_area_t *b = kars__zone_area(zone, KARS_STR("b"), 100, 1, &err);

    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    CU_ASSERT_EQUAL(*(int *) kars__area_data(a), 0);
    *(int *) kars__area_data(a) = 42;
    memset(kars__area_data(b), 0xff, 100);
    CU_ASSERT_EQUAL(*(int *) kars__area_data(a), 42);
    CU_ASSERT_PTR_EQUAL(
        kars__area_data(kars__zone_area(zone, KARS_STR("a"), 100, 1, &err)),
        kars__area_data(a));

    other = kars__zone_map(fd, &err); /* another worker */
    CU_ASSERT_PTR_NOT_NULL_FATAL(other);
    CU_ASSERT_EQUAL(*(int *) kars__area_data(
                        kars__zone_area(other, KARS_STR("a"), 100, 1, &err)),
                    42);
    /* another size or version is another area, and new */
    CU_ASSERT_EQUAL(*(int *) kars__area_data(
                        kars__zone_area(other, KARS_STR("a"), 104, 1, &err)),
                    0);
    CU_ASSERT_EQUAL(*(int *) kars__area_data(
                        kars__zone_area(other, KARS_STR("a"), 100, 2, &err)),
                    0);
    kars__zone_unmap(other);
    kars__zone_unmap(zone);
    (void) close(fd);
}

static void
test_zone_refuses_what_does_not_fit(void)
{
    int fd;
    kars_zone_t *zone = shm_zone(&fd);
    kars_err_t err = KARS_ERR_INIT;
    size_t n = 0;

    CU_ASSERT_PTR_NULL(
        kars__zone_area(zone, KARS_STR("a"), KARS__ZONE_MIN, 1, &err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "zone state"));
    CU_ASSERT_PTR_NULL(kars__zone_area(zone, KARS_STR("a"), SIZE_MAX, 1, &err));
    CU_ASSERT_PTR_NULL(
        kars__zone_area(zone, KARS_STR("a"), SIZE_MAX - 8, 1, &err));
    CU_ASSERT_PTR_NULL(kars__zone_area(zone, KARS_STR(""), 8, 1, &err));
    CU_ASSERT_PTR_NULL(kars__zone_area(zone, KARS_STR("a"), 0, 1, &err));
    CU_ASSERT_PTR_NULL(kars__zone_area(
        zone, KARS_STR("a-name-of-more-than-thirty-one-bytes"), 8, 1, &err));
    for (; n < 10000; n++) {
        char name[16];
        int len = snprintf(name, sizeof(name), "n%zu", n);

        if (kars__zone_area(zone, (kars_str_t){ name, (size_t) len }, 8, 1,
                            &err) == NULL) {
            break;
        }
    }
    CU_ASSERT_TRUE(n > 4 && n < 10000); /* bounded */
    kars__zone_unmap(zone);
    (void) close(fd);
}

static void
test_zone_map_refuses_what_is_no_zone(void)
{
    kars_err_t err = KARS_ERR_INIT;
    FILE *f = tmpfile();

    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_PTR_NULL(kars__zone_map(fileno(f), &err)); /* empty */
    CU_ASSERT_EQUAL(ftruncate(fileno(f), KARS__ZONE_MIN), 0);
    CU_ASSERT_PTR_NULL(kars__zone_map(fileno(f), &err)); /* zeros */
    CU_ASSERT_NOT_EQUAL(err.text[0], '\0');
    (void) fclose(f);
}

/* A worker that is killed inside a lock blocks nobody. */
static void
test_zone_lock_of_a_killed_holder_is_told(void)
{
    int fd, status;
    kars_zone_t *zone = shm_zone(&fd);
    kars_err_t err = KARS_ERR_INIT;
    kars_area_t *a = kars__zone_area(zone, KARS_STR("a"), 8, 1, &err);
    pid_t pid;

    CU_ASSERT_EQUAL(kars__area_lock(a), KARS_OK);
    kars__area_unlock(a);
    for (int round = 0; round < 2; round++) {
        pid = fork();
        if (pid == 0) {
            (void) kars__area_lock(a);
            (void) raise(SIGKILL);
        }
        CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
        CU_ASSERT_TRUE(WIFSIGNALED(status));
        CU_ASSERT_EQUAL(kars__area_lock(a), KARS_DONE);
        kars__area_unlock(a);
        CU_ASSERT_EQUAL(kars__area_lock(a), KARS_OK); /* told once */
        kars__area_unlock(a);
    }
    kars__zone_unmap(zone);
    (void) close(fd);
}

static void
test_zone_lock_counts_right_with_many_workers(void)
{
    int fd, status;
    kars_zone_t *zone = shm_zone(&fd);
    kars_err_t err = KARS_ERR_INIT;
    kars_area_t *a =
        kars__zone_area(zone, KARS_STR("a"), sizeof(uint64_t), 1, &err);
    volatile uint64_t *n = kars__area_data(a);

    for (int i = 0; i < 4; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            for (int k = 0; k < 5000; k++) {
                (void) kars__area_lock(a);
                *n = *n + 1;
                kars__area_unlock(a);
            }
            _exit(0);
        }
        CU_ASSERT_TRUE(pid > 0);
    }
    while (wait(&status) > 0) {
        CU_ASSERT_EQUAL(status, 0);
    }
    CU_ASSERT_EQUAL(*n, 20000);
    kars__zone_unmap(zone);
    (void) close(fd);
}

static void
test_zone_worker_ids_are_never_given_twice(void)
{
    int fd;
    kars_zone_t *zone = shm_zone(&fd);
    uint64_t last = 0;

    for (int i = 0; i < 200; i++) {
        uint64_t id = kars__zone_worker_new(zone);

        CU_ASSERT_TRUE(id > last);
        CU_ASSERT_TRUE(kars__zone_worker_alive(zone, id));
        kars__zone_worker_gone(zone, id);
        CU_ASSERT_FALSE(kars__zone_worker_alive(zone, id));
        last = id;
    }
    CU_ASSERT_FALSE(kars__zone_worker_alive(zone, 0));
    CU_ASSERT_FALSE(kars__zone_worker_alive(zone, last + 1));
    for (unsigned i = 0; i < 2 * KARS__ZONE_WORKERS; i++) {
        CU_ASSERT_NOT_EQUAL(kars__zone_worker_new(zone), 0);
    }
    CU_ASSERT_EQUAL(kars__zone_worker_new(zone), 0); /* too many at once */
    kars__zone_worker_gone(zone, last + 1);
    CU_ASSERT_NOT_EQUAL(kars__zone_worker_new(zone), 0);
    kars__zone_unmap(zone);
    (void) close(fd);
}

void
suite_shm(void)
{
    T_SUITE(shm);
    T_TEST(shm, test_zone_areas_are_found_again);
    T_TEST(shm, test_zone_refuses_what_does_not_fit);
    T_TEST(shm, test_zone_map_refuses_what_is_no_zone);
    T_TEST(shm, test_zone_lock_of_a_killed_holder_is_told);
    T_TEST(shm, test_zone_lock_counts_right_with_many_workers);
    T_TEST(shm, test_zone_worker_ids_are_never_given_twice);
}
