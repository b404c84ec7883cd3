/*
 * test_budget_store.c - modules/budget/store.c: segments on a real file
 * system, as several workers and their successors see them.
 */
#include "t.h"

#include "budget/journal.h"
#include "budget/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DAY = 20780 };

static char parent[64];
static char folder[96];
static ledger_t *shared; /* the area */

static void
begin(void)
{
    static ledger_t area;

    (void) snprintf(parent, sizeof(parent), "/tmp/kars-budget-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(parent));
    (void) snprintf(folder, sizeof(folder), "%s/ledger", parent);
    shared = &area;
    ledger_init(shared);
}

static void
remove_segments(void)
{
    char file[160];

    for (int i = 0; i < 40; i++) {
        (void) snprintf(file, sizeof(file), "%s/demo.%d.journal", folder, i);
        (void) unlink(file);
    }
}

static void
end(void)
{
    remove_segments();
    (void) rmdir(folder);
    CU_ASSERT_EQUAL(rmdir(parent), 0); /* nothing else is left behind */
}

static int
exists(int segment)
{
    char file[160];

    (void) snprintf(file, sizeof(file), "%s/demo.%d.journal", folder, segment);
    return access(file, F_OK) == 0;
}

static void
init(store_t *st)
{
    CU_ASSERT_EQUAL_FATAL(
        store_init(st, folder, strlen(folder), "demo", strlen("demo")), 0);
}

static uint64_t
reserve(store_t *st, uint64_t tokens)
{
    char line[JOURNAL_LINE];
    uint64_t id = 0;

    CU_ASSERT_EQUAL_FATAL(ledger_reserve(shared, 1, tokens, &id), KARS_OK);

    size_t n = journal_reserve(line, id, ledger_head(shared)->day, tokens);

    CU_ASSERT_EQUAL(store_append(st, shared, line, n), 0);
    return id;
}

static void
settle(store_t *st, uint64_t id, uint64_t charge)
{
    char line[JOURNAL_LINE];

    CU_ASSERT_EQUAL(ledger_settle(shared, id, charge), KARS_OK);
    CU_ASSERT_EQUAL(
        store_append(st, shared, line, journal_settle(line, id, charge)), 0);
    ledger_written(shared, id);
}

/* Everything died: a new area, a new worker. */
static uint64_t
restart(store_t *st)
{
    memset(shared, 0xee, sizeof(*shared)); /* whatever was there */
    store_close(st);
    init(st);
    CU_ASSERT_EQUAL(store_load(st, shared), 0);
    return ledger_head(shared)->used_day;
}

static void
test_budget_survives_a_restart_with_open_reservations(void)
{
    store_t st;

    begin();
    init(&st);
    CU_ASSERT_EQUAL(store_load(&st, shared), 0); /* makes the folder */
    ledger_roll(shared, DAY);
    settle(&st, reserve(&st, 100), 40);
    (void) reserve(&st, 7);
    CU_ASSERT_EQUAL(restart(&st), 47);
    CU_ASSERT_EQUAL(restart(&st), 47); /* and once only */
    CU_ASSERT_TRUE(exists(3));
    CU_ASSERT_FALSE(exists(1));
    CU_ASSERT_FALSE(exists(2));
    store_close(&st);
    end();
}

static void
test_budget_workers_follow_a_new_segment(void)
{
    store_t a;
    store_t b;
    store_sync_t job;

    begin();
    init(&a);
    init(&b);
    CU_ASSERT_EQUAL(store_load(&a, shared), 0);
    ledger_roll(shared, DAY);

    uint64_t one = reserve(&a, 100);
    uint64_t two = reserve(&b, 100);

    CU_ASSERT_EQUAL(store_rotate(&a, shared), 0);
    settle(&b, two, 30);
    settle(&a, one, 20);
    CU_ASSERT_TRUE(exists(1)); /* until the new one is durable */
    CU_ASSERT_EQUAL(store_sync_begin(&a, shared->segment, &job), 0);
    CU_ASSERT_EQUAL(store_sync(&job), 0);
    CU_ASSERT_FALSE(exists(1));
    (void) reserve(&b, 5);
    store_close(&b);
    CU_ASSERT_EQUAL(restart(&a), 55);
    store_close(&a);
    end();
}

/* Killed within store_rotate(), at any byte of the new segment: nobody
 * appended to it, and the old one goes on. */
static void
test_budget_survives_a_death_while_a_segment_begins(void)
{
    static ledger_t before;
    char file[160];
    store_t st;

    for (int cut = 0; cut < 120; cut += 7) {
        begin();
        init(&st);
        CU_ASSERT_EQUAL(store_load(&st, shared), 0);
        ledger_roll(shared, DAY);
        settle(&st, reserve(&st, 100), 40);

        uint64_t open = reserve(&st, 9);

        before = *shared;
        CU_ASSERT_EQUAL(store_rotate(&st, shared), 0);
        (void) snprintf(file, sizeof(file), "%s/demo.2.journal", folder);
        CU_ASSERT_EQUAL(truncate(file, cut), 0);
        *shared = before; /* the number of the segment was not stored */

        if (cut % 2 == 0) { /* the next holder of the lock repairs */
            ledger_repair(shared);
            store_repair(&st, shared);
            CU_ASSERT_FALSE(exists(2));
            settle(&st, open, 4);
            CU_ASSERT_EQUAL(restart(&st), 44);
        } else { /* nobody is left */
            CU_ASSERT_EQUAL(restart(&st), 49);
        }
        store_close(&st);
        end();
    }
}

/* The file cannot grow: refused, nothing torn, and well again afterwards. */
static void
test_budget_recovers_from_a_full_disk(void)
{
    struct rlimit was;
    struct rlimit tight;
    char line[JOURNAL_LINE];
    store_t st;
    uint64_t id = 0;

    begin();
    init(&st);
    CU_ASSERT_EQUAL(store_load(&st, shared), 0);
    ledger_roll(shared, DAY);
    (void) reserve(&st, 100);

    struct stat sb;

    CU_ASSERT_EQUAL_FATAL(fstat(st.fd, &sb), 0);
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_FSIZE, &was), 0);
    (void) signal(SIGXFSZ, SIG_IGN);
    tight = was;
    tight.rlim_cur = (rlim_t) sb.st_size + 10; /* a line does not fit */
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &tight), 0);
    CU_ASSERT_EQUAL(ledger_reserve(shared, 1, 50, &id), KARS_OK);

    int rc =
        store_append(&st, shared, line, journal_reserve(line, id, DAY, 50));
    int rotated = store_rotate(&st, shared);

    CU_ASSERT_EQUAL(setrlimit(RLIMIT_FSIZE, &was), 0);
    (void) signal(SIGXFSZ, SIG_DFL);
    CU_ASSERT_EQUAL(rc, EFBIG);
    CU_ASSERT_EQUAL(rotated, EFBIG);
    CU_ASSERT_FALSE(exists(2));
    ledger_cancel(shared, id);
    (void) reserve(&st, 11);
    CU_ASSERT_EQUAL(restart(&st), 111);
    store_close(&st);
    end();
}

static void
test_budget_says_when_its_folder_is_gone(void)
{
    char line[JOURNAL_LINE];
    store_t st;

    begin();
    init(&st);
    CU_ASSERT_EQUAL(store_load(&st, shared), 0);
    ledger_roll(shared, DAY);
    settle(&st, reserve(&st, 100), 40);
    CU_ASSERT_TRUE(store_linked(&st, shared));
    remove_segments();
    (void) rmdir(folder);
    CU_ASSERT_FALSE(store_linked(&st, shared));
    CU_ASSERT_EQUAL(store_reopen(&st), 0); /* made again */
    CU_ASSERT_EQUAL(store_append(&st, shared, line, journal_settle(line, 1, 1)),
                    ENOENT);
    CU_ASSERT_EQUAL(store_rotate(&st, shared), 0);
    CU_ASSERT_TRUE(store_linked(&st, shared));
    CU_ASSERT_EQUAL(restart(&st), 40);
    store_close(&st);
    end();
}

static void
test_budget_refuses_names_that_lead_elsewhere(void)
{
    store_t st;

    CU_ASSERT_EQUAL(store_init(&st, "/tmp", 4, "../x", 4), EINVAL);
    CU_ASSERT_EQUAL(store_init(&st, "/tmp", 4, "a/b", 3), EINVAL);
    CU_ASSERT_EQUAL(store_init(&st, "/tmp", 4, "", 0), EINVAL);
    CU_ASSERT_EQUAL(store_init(&st, "", 0, "a", 1), EINVAL);
    CU_ASSERT_EQUAL(store_init(&st, "/nowhere/at/all", 15, "a", 1), 0);

    static ledger_t l;

    CU_ASSERT_EQUAL(store_load(&st, &l), ENOENT); /* its parent is not there */
    store_close(&st);
}

void
suite_budget_store(void)
{
    T_SUITE(budget_store);
    T_TEST(budget_store, test_budget_survives_a_restart_with_open_reservations);
    T_TEST(budget_store, test_budget_workers_follow_a_new_segment);
    T_TEST(budget_store, test_budget_survives_a_death_while_a_segment_begins);
    T_TEST(budget_store, test_budget_recovers_from_a_full_disk);
    T_TEST(budget_store, test_budget_says_when_its_folder_is_gone);
    T_TEST(budget_store, test_budget_refuses_names_that_lead_elsewhere);
}
