/* test_audit_queue.c - room that is promised is there. */
#include "audit/queue.h"
#include "t.h"

static void
test_audit_queue_keeps_what_it_promised(void)
{
    audit_queue_t q;
    audit_fields_t f = { .agent_id = t_str("a"),
                         .action = t_str("b"),
                         .decision = t_str("c") };
    int promised = 0;

    CU_ASSERT_EQUAL_FATAL(audit_queue_init(&q, 16 * AUDIT_RECORD_MAX), 0);
    while (audit_queue_promise(&q)) {
        promised++;
    }
    CU_ASSERT_EQUAL(promised, 16);
    CU_ASSERT_PTR_NULL(audit_queue_push(&q, &f));
    for (int i = 0; i < promised; i++) {
        audit_queue_redeem(&q);
        CU_ASSERT_PTR_NOT_NULL(audit_queue_push(&q, &f));
    }
    CU_ASSERT_EQUAL(q.promised, 0);
    audit_queue_done(&q);
}

static void
test_audit_queue_drops_in_order(void)
{
    static const char *const actions[] = { "a", "bb", "ccc" };
    audit_queue_t q;

    CU_ASSERT_EQUAL_FATAL(audit_queue_init(&q, 1 << 20), 0);
    for (size_t i = 0; i < KARS_NELTS(actions); i++) {
        audit_fields_t f = { .action = t_str(actions[i]) };

        CU_ASSERT_PTR_NOT_NULL(audit_queue_push(&q, &f));
    }

    audit_queue_drop(&q, audit_queue_at(&q, 0)->size);
    CU_ASSERT_EQUAL(audit_queue_at(&q, 0)->action_len, 2);
    audit_queue_drop(&q, 0);
    audit_queue_drop(&q, q.used);
    CU_ASSERT_PTR_NULL(audit_queue_at(&q, 0));
    audit_queue_done(&q);
}

void
suite_audit_queue(void)
{
    T_SUITE(audit_queue);
    T_TEST(audit_queue, test_audit_queue_keeps_what_it_promised);
    T_TEST(audit_queue, test_audit_queue_drops_in_order);
}
