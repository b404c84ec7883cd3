/* test_offload.c - jobs on threads, and threads that wait to be started. */
#include "event/offload.h"
#include "t.h"

#include <sys/stat.h>

static int offload_done; /* jobs whose end was seen, on the loop */
static int offload_worked;

static int
work(void *data)
{
    __atomic_fetch_add(&offload_worked, 1, __ATOMIC_SEQ_CST);
    return *(int *) data;
}

static void
done(int error, void *data)
{
    CU_ASSERT_EQUAL(error, *(int *) data);
    offload_done++;
}

static nlink_t
threads(void)
{
    struct stat st;

    CU_ASSERT_EQUAL_FATAL(stat("/proc/self/task", &st), 0);
    return st.st_nlink;
}

static void
test_offload_holds_its_threads_back(void)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__loop_t *loop = kars__loop_create(0, &err);
    kars__offload_t *o = kars__offload_create(loop, &err);
    int errors[] = { 0, 5 };
    nlink_t before = threads();

    CU_ASSERT_PTR_NOT_NULL_FATAL(o);
    offload_done = offload_worked = 0;
    kars__offload_hold(o);
    for (size_t i = 0; i < KARS_NELTS(errors); i++) {
        CU_ASSERT_EQUAL(kars__offload(o, work, done, &errors[i]), KARS_OK);
    }
    kars__loop_turn(loop, 0);
    CU_ASSERT_EQUAL(threads(), before);
    CU_ASSERT_EQUAL(offload_worked, 0);

    CU_ASSERT_EQUAL(kars__offload_release(o), KARS_OK);
    kars__offload_drain(o);
    CU_ASSERT_EQUAL(offload_worked, 2);
    CU_ASSERT_EQUAL(offload_done, 2);
    kars__offload_destroy(o);
    kars__loop_destroy(loop);
}

static void
test_offload_without_jobs_needs_no_thread(void)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__loop_t *loop = kars__loop_create(0, &err);
    kars__offload_t *o = kars__offload_create(loop, &err);
    nlink_t before = threads();

    CU_ASSERT_PTR_NOT_NULL_FATAL(o);
    kars__offload_hold(o);
    CU_ASSERT_EQUAL(kars__offload_release(o), KARS_OK);
    CU_ASSERT_EQUAL(threads(), before);
    kars__offload_destroy(o);
    kars__loop_destroy(loop);
}

void
suite_offload(void)
{
    T_SUITE(offload);
    T_TEST(offload, test_offload_holds_its_threads_back);
    T_TEST(offload, test_offload_without_jobs_needs_no_thread);
}
