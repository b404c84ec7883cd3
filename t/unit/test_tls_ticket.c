/* test_tls_ticket.c - core/net/tls_ticket.c */
#include "t.h"
#include "base/shm.h"
#include "net/tls_ticket.h"

#include <unistd.h>

#define HOUR 3600000u

static void
test_tls_ticket_keys_change_with_their_age(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars__tickets_t *t = kars__tickets_create(pool, NULL, NULL);
    kars__ticket_key_t a, b, got;
    uint64_t now = 1000 * HOUR;

    CU_ASSERT_EQUAL(kars__tickets_newest(t, now, HOUR, &a), KARS_OK);
    CU_ASSERT_EQUAL(kars__tickets_newest(t, now + HOUR - 1, HOUR, &b), KARS_OK);
    CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof(a)), 0);
    CU_ASSERT_EQUAL(kars__tickets_find(t, a.name, now + 1, HOUR, &got),
                    KARS_OK);
    CU_ASSERT_EQUAL(memcmp(&a, &got, sizeof(a)), 0);

    CU_ASSERT_EQUAL(kars__tickets_newest(t, now + HOUR, HOUR, &b), KARS_OK);
    CU_ASSERT_NOT_EQUAL(memcmp(a.name, b.name, sizeof(a.name)), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(a.aes, b.aes, sizeof(a.aes)), 0);
    CU_ASSERT_NOT_EQUAL(memcmp(a.hmac, b.hmac, sizeof(a.hmac)), 0);

    /* The older one still opens, and asks for a new ticket; then no more. */
    CU_ASSERT_EQUAL(kars__tickets_find(t, a.name, now + HOUR, HOUR, &got),
                    KARS_DONE);
    CU_ASSERT_EQUAL(memcmp(&a, &got, sizeof(a)), 0);
    CU_ASSERT_EQUAL(kars__tickets_find(t, b.name, now + HOUR, HOUR, &got),
                    KARS_OK);
    CU_ASSERT_EQUAL(kars__tickets_find(t, a.name, now + 2 * HOUR, HOUR, &got),
                    KARS_ERROR);
    CU_ASSERT_EQUAL(kars__tickets_find(t, b.name, now + 2 * HOUR, HOUR, &got),
                    KARS_DONE);
    kars__pool_destroy(pool);
}

static void
test_tls_ticket_of_nobody(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars__tickets_t *t = kars__tickets_create(pool, NULL, NULL);
    kars__ticket_key_t got, zero = { 0 };

    CU_ASSERT_EQUAL(kars__tickets_find(t, zero.name, 5, HOUR, &got),
                    KARS_ERROR); /* no key there is none of zeros */
    CU_ASSERT_EQUAL(kars__tickets_newest(t, 5, HOUR, &got), KARS_OK);
    CU_ASSERT_EQUAL(kars__tickets_find(t, zero.name, 5, HOUR, &got),
                    KARS_ERROR);
    kars__pool_destroy(pool);
}

static void
test_tls_ticket_clock_that_goes_back(void)
{
    kars_pool_t *pool = kars__pool_create(0);
    kars__tickets_t *t = kars__tickets_create(pool, NULL, NULL);
    kars__ticket_key_t a, b;

    CU_ASSERT_EQUAL(kars__tickets_newest(t, 9 * HOUR, HOUR, &a), KARS_OK);
    CU_ASSERT_EQUAL(kars__tickets_newest(t, 2 * HOUR, HOUR, &b), KARS_OK);
    CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof(a)), 0);
    CU_ASSERT_EQUAL(kars__tickets_find(t, a.name, 2 * HOUR, HOUR, &b), KARS_OK);
    kars__pool_destroy(pool);
}

static void
test_tls_ticket_is_known_to_all_workers(void)
{
    int fd = kars__zone_make(KARS__ZONE_MIN, NULL);
    kars_zone_t *one = kars__zone_map(fd, NULL);
    kars_zone_t *two = kars__zone_map(fd, NULL);
    kars_pool_t *pool = kars__pool_create(0);
    kars__tickets_t *a = kars__tickets_create(pool, one, NULL);
    kars__tickets_t *b = kars__tickets_create(pool, two, NULL);
    kars__ticket_key_t mine, theirs;

    CU_ASSERT_FATAL(a != NULL && b != NULL);
    CU_ASSERT_EQUAL(kars__tickets_newest(a, HOUR, HOUR, &mine), KARS_OK);
    CU_ASSERT_EQUAL(kars__tickets_find(b, mine.name, HOUR, HOUR, &theirs),
                    KARS_OK);
    CU_ASSERT_EQUAL(memcmp(&mine, &theirs, sizeof(mine)), 0);
    kars__pool_destroy(pool);
    kars__zone_unmap(one);
    kars__zone_unmap(two);
    (void) close(fd);
}

void
suite_tls_ticket(void)
{
    T_SUITE(tls_ticket);
    T_TEST(tls_ticket, test_tls_ticket_keys_change_with_their_age);
    T_TEST(tls_ticket, test_tls_ticket_of_nobody);
    T_TEST(tls_ticket, test_tls_ticket_clock_that_goes_back);
    T_TEST(tls_ticket, test_tls_ticket_is_known_to_all_workers);
}
