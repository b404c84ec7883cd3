/*
 * test_budget.c - modules/budget/budget.c and worker.c, their hooks called as
 * the router would, over a router of a few variables.
 */
#include "fake_budget.h"

static void
test_budget_refuses_over_limit(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 1000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_EQUAL(open_tokens(), 908);
    next_request();
    ask("max_tokens", "1");
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(429, "budget_exceeded"));
    CU_ASSERT_TRUE(
        kars_str_eq(fake.denial.type, t_str("token_budget_exceeded")));
    CU_ASSERT_TRUE(kars_str_starts(
        fake.denial.reason,
        t_str("Daily token budget exceeded (908/1000 tokens). Resets in 4h.")));
    CU_ASSERT_EQUAL(fake.denial.retry_after_ms, 12600000);
    CU_ASSERT_PTR_EQUAL(fake.denial.rule, &conf.day);
    CU_ASSERT_EQUAL(open_tokens(), 908);
    end();
}

static void
test_budget_refuses_over_the_monthly_limit(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 1000, 200);
    ask("max_tokens", "100");
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(429, "budget_exceeded"));
    CU_ASSERT_PTR_EQUAL(fake.denial.rule, &conf.month);
    CU_ASSERT_EQUAL(fake.denial.retry_after_ms, 7 * 86400000u + 12600000u);
    end();
}

static void
test_budget_refuses_over_the_cap_of_a_request(void)
{
    begin(WORKER_SYNC_INTERVAL, 500, 0, 0);
    ask("max_tokens", "5");
    ask("num_predict", "501");
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(429, "per_request_tokens_exceeded"));
    CU_ASSERT_TRUE(kars_str_eq(
        fake.denial.reason, t_str("Per-request token cap exceeded (asked for "
                                  "501, cap is 500).")));
    CU_ASSERT_EQUAL(open_tokens(), 0);
    end();
}

static void
test_budget_bounds_a_request_that_names_no_cap(void)
{
    begin(WORKER_SYNC_INTERVAL, 500, 0, 0);
    ask("n", "2");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "max_tokens=500;");
    CU_ASSERT_EQUAL(open_tokens(), 1108);

    next_request();
    ask("n_predict", "7"); /* not every server reads this one */
    conf.cap_as = ASK_AS_MAX_COMPLETION;
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "max_completion_tokens=7;");

    next_request();
    conf.request = 0;
    conf.cap_as = ASK_AS_MAX_TOKENS;
    conf.day = open_tokens() + 108 + 1000; /* that much is left */
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "max_tokens=1000;");

    next_request();
    conf.day = 0;
    ask("max_tokens", "0");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "max_tokens=1;");
    end();
}

static void
test_budget_asks_a_stream_for_its_usage(void)
{
    begin(WORKER_SYNC_INTERVAL, 500, 0, 0);
    ask("max_tokens", "1");
    ask("stream", "true");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits,
                           "stream_options={\"include_usage\":true};");

    next_request();
    ask("max_tokens", "1");
    ask("stream", "true");
    ask("stream_options", "{");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "stream_options.include_usage=true;");

    next_request();
    ask("max_tokens", "1");
    ask("stream", "true");
    ask("stream_options", "{");
    ask("stream_options.include_usage", "true");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "");

    next_request();
    fake.path = "/v1/messages";
    ask("max_tokens", "1");
    ask("stream", "true");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_STRING_EQUAL(fake.edits, "");
    end();
}

static void
test_budget_refuses_what_is_no_integer(void)
{
    begin(WORKER_SYNC_INTERVAL, 500, 0, 0);
    ask("max_tokens", "-1");
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(400, "invalid_request"));
    CU_ASSERT_TRUE(
        kars_str_starts(fake.denial.reason, t_str("\"max_tokens\"")));
    next_request();
    fake.body_size = 1; /* no object to write into */
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(400, "invalid_request"));
    end();
}

static void
test_budget_charges_what_the_reply_says(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    reply(200, "123");
    CU_ASSERT_EQUAL(used(), 123);
    CU_ASSERT_EQUAL(open_tokens(), 0);
    CU_ASSERT_STRING_EQUAL(fake.day_used, "908"); /* when the head left */
    CU_ASSERT_EQUAL(fake_number(req, KARS_STR("tokens_charged")), 123);
    CU_ASSERT_EQUAL(fake.estimated.len, 0);
    CU_ASSERT_EQUAL(worker.npending, 0);
    end();
}

static void
test_budget_charges_the_reservation_when_the_client_hangs_up(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    (void) fake_number_set(req, KARS_STR("attempts"), 1);
    ask("usage.total_tokens", "3"); /* so far */
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(used(), 908);
    CU_ASSERT_TRUE(kars_str_eq(fake.estimated, t_str("1")));
    end();
}

static void
test_budget_charges_the_reservation_when_usage_is_missing(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    reply(200, NULL);
    CU_ASSERT_EQUAL(used(), 908);
    next_request();
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    reply(504, NULL); /* it may have worked all the while */
    CU_ASSERT_EQUAL(used(), 1816);
    end();
}

static void
test_budget_charges_nothing_when_nothing_was_generated(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    reply(400, NULL);
    CU_ASSERT_EQUAL(used(), 0);
    next_request();
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK); /* another module refuses it */
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(used(), 0);
    CU_ASSERT_EQUAL(open_tokens(), 0);
    end();
}

static void
test_budget_reserves_once_however_often_it_is_asked(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 1000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_EQUAL(budget_admit(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(open_tokens(), 908);
    ask("max_tokens", "100");
    CU_ASSERT_EQUAL(admit(), KARS_OK);
    CU_ASSERT_EQUAL(open_tokens(), 208);
    ask("max_tokens", "900");
    CU_ASSERT_EQUAL(budget_admit(req, &conf, &ctx), KARS_DONE);
    CU_ASSERT_EQUAL(open_tokens(), 208);
    reply(200, "10");
    CU_ASSERT_EQUAL(used(), 10);
    end();
}

/* Puts a waiting request aside, and takes it up again. */
static void
swap(budget_ctx_t *other)
{
    budget_ctx_t now = ctx;

    ctx = *other;
    *other = now;
}

static void
test_budget_journals_a_turn_before_its_requests_go_on(void)
{
    budget_ctx_t first;

    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    fake.many = 1;
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(start(), KARS_AGAIN);
    first = ctx;
    next_request();
    ask("max_tokens", "100");
    CU_ASSERT_EQUAL(start(), KARS_AGAIN);
    CU_ASSERT_EQUAL(open_tokens(), 1116); /* at once */
    CU_ASSERT_EQUAL(lines('R'), 0);
    CU_ASSERT_EQUAL(fake.nwoken, 0);
    turn();
    CU_ASSERT_EQUAL(lines('R'), 2);
    CU_ASSERT_EQUAL(fake.nwoken, 2);
    CU_ASSERT_EQUAL(fake.woken, 0);
    CU_ASSERT_EQUAL(fake.wake(req, 0, &conf, &ctx), KARS_OK);
    reply(200, "5");
    swap(&first);
    CU_ASSERT_EQUAL(fake.wake(req, 0, &conf, &ctx), KARS_OK);
    reply(200, "6");
    CU_ASSERT_EQUAL(lines('R'), 2);
    CU_ASSERT_EQUAL(lines('S'), 2);
    CU_ASSERT_EQUAL(used(), 11);
    end();
}

static void
test_budget_refuses_all_whose_line_cannot_be_written(void)
{
    budget_ctx_t first;

    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    fake.many = 1;
    store_close(&worker.store);
    worker.store.path[0] = '?';
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(start(), KARS_AGAIN);
    first = ctx;
    next_request();
    ask("max_tokens", "100");
    CU_ASSERT_EQUAL(start(), KARS_AGAIN);
    turn();
    CU_ASSERT_EQUAL(fake.nwoken, 2);
    CU_ASSERT_EQUAL(fake.wake(req, fake.woken, &conf, &ctx), KARS_DONE);
    CU_ASSERT_TRUE(denied(503, "budget_unavailable"));
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    swap(&first);
    memset(&fake.denial, 0, sizeof(fake.denial));
    CU_ASSERT_EQUAL(fake.wake(req, fake.woken, &conf, &ctx), KARS_DONE);
    CU_ASSERT_TRUE(denied(503, "budget_unavailable"));
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(open_tokens(), 0);
    CU_ASSERT_EQUAL(used(), 0);
    CU_ASSERT_EQUAL(fake.logged, 1);
    turn();

    worker.store.path[0] = '/'; /* what was taken back is not written */
    next_request();
    ask("max_tokens", "1");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_EQUAL(lines('R'), 1);
    CU_ASSERT_EQUAL(lines('S'), 0);
    end();
}

static void
test_budget_settles_once_what_left_before_its_line_was_written(void)
{
    static ledger_t replayed;
    char journal[8192];
    char file[128];

    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(start(), KARS_AGAIN);
    CU_ASSERT_EQUAL(budget_ledger.charge(req, 7), KARS_OK);
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(open_tokens(), 0);
    CU_ASSERT_EQUAL(used(), 7);
    CU_ASSERT_EQUAL(lines('R'), 0);
    turn(); /* the token is stale by now: the router knows */
    CU_ASSERT_EQUAL(used(), 7);
    CU_ASSERT_EQUAL(lines('R'), 1);
    CU_ASSERT_EQUAL(lines('S'), 1);
    CU_ASSERT_EQUAL(worker.npending, 0);

    (void) snprintf(file, sizeof(file), "%s/demo.%d.journal", folder,
                    (int) fake.area->segment);

    FILE *f = fopen(file, "r");

    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    ledger_init(&replayed);
    journal_replay(&replayed, journal, fread(journal, 1, sizeof(journal), f));
    (void) fclose(f);
    CU_ASSERT_EQUAL(ledger_head(&replayed)->used_day, 7);
    CU_ASSERT_EQUAL(replayed.open_day, 0);
    end();
}

/* Another worker reserved before us and did not come to write: in the journal
 * its line must stand before ours. */
static void
test_budget_journals_for_all_workers(void)
{
    uint64_t id = 0;

    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    CU_ASSERT_EQUAL(ledger_reserve(fake.area, 9, 300, &id), KARS_OK);
    ledger_fresh(fake.area, id, 1);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_EQUAL(lines('R'), 2);
    CU_ASSERT_EQUAL(fake.area->nfresh, 0);

    static ledger_t fresh; /* all that a restart knows */
    store_t st;

    ledger_init(&fresh);
    CU_ASSERT_EQUAL(store_init(&st, folder, strlen(folder), "demo", 4), 0);
    CU_ASSERT_EQUAL(store_load(&st, &fresh), 0);
    CU_ASSERT_EQUAL(ledger_head(&fresh)->used_day, 1208);
    store_close(&st);
    fake.area->segment = fresh.segment;
    end();
}

static void
test_budget_waits_until_the_reservation_is_durable(void)
{
    begin(WORKER_SYNC_REQUEST, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_AGAIN);
    CU_ASSERT_EQUAL(fake.woken, -1);
    flush();
    CU_ASSERT_EQUAL(fake.woken, 0);
    CU_ASSERT_EQUAL(fake.wake(req, 0, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(budget_admit(req, &conf, &ctx), KARS_OK); /* known */
    reply(200, "5");

    next_request(); /* the time is up */
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_AGAIN);
    CU_ASSERT_EQUAL(fake.wake(req, ETIMEDOUT, &conf, &ctx), KARS_DONE);
    CU_ASSERT_TRUE(denied(503, "budget_unavailable"));
    CU_ASSERT_EQUAL(open_tokens(), 0);
    flush();
    turn();

    next_request(); /* the client leaves */
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_AGAIN);
    CU_ASSERT_EQUAL(budget_log(req, &conf, &ctx), KARS_OK);
    CU_ASSERT_EQUAL(open_tokens(), 0);
    flush();
    turn();

    next_request(); /* no thread */
    fake.task_busy = 1;
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_AGAIN);
    CU_ASSERT_EQUAL(fake.woken, EAGAIN);
    CU_ASSERT_EQUAL(fake.wake(req, fake.woken, &conf, &ctx), KARS_DONE);
    CU_ASSERT_EQUAL(used(), 5);
    turn();
    end();
}

static void
test_budget_refuses_while_the_ledger_is_unwritable(void)
{
    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    fake.area->version = 0; /* as if new, and the folder is gone */
    store_close(&worker.store);
    (void) snprintf(worker.store.path, sizeof(worker.store.path), "%s/no/where",
                    folder);
    ask("max_tokens", "1");
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(503, "budget_unavailable"));
    CU_ASSERT_EQUAL(fake.logged, 1);
    (void) snprintf(worker.store.path, sizeof(worker.store.path), "%s", folder);
    fake.now += 2000;
    next_request();
    ask("max_tokens", "1");
    CU_ASSERT_EQUAL(go(), KARS_OK);

    store_close(&worker.store); /* and gone again, in full flight */
    worker.store.path[0] = '?';

    uint64_t open = open_tokens();

    next_request();
    ask("max_tokens", "1");
    CU_ASSERT_EQUAL(go(), KARS_DONE);
    CU_ASSERT_TRUE(denied(503, "budget_unavailable"));
    CU_ASSERT_EQUAL(open_tokens(), open); /* nothing is held for it */
    CU_ASSERT_EQUAL(fake.logged, 2);
    worker.store.path[0] = '/';
    CU_ASSERT_EQUAL(go(), KARS_OK);
    end();
}

static void
test_budget_sweeps_after_a_dead_worker(void)
{
    uint64_t id = 0;

    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    CU_ASSERT_EQUAL(ledger_reserve(fake.area, 9, 300, &id), KARS_OK);
    worker_tick(cyc, NULL);
    CU_ASSERT_EQUAL(used(), 0); /* it lives */
    fake.dead = 9;
    fake.area_rc = KARS_DONE; /* it died inside the lock */
    worker_tick(cyc, NULL);
    CU_ASSERT_EQUAL(used(), 300);
    CU_ASSERT_EQUAL(worker.npending, 0);
    worker_tick(cyc, NULL);
    CU_ASSERT_EQUAL(used(), 300);
    end();
}

static void
test_budget_service_adds_to_the_charge(void)
{
    uint64_t day = 0;
    uint64_t month = 0;

    begin(WORKER_SYNC_INTERVAL, 0, 10000, 0);
    ask("max_tokens", "800");
    CU_ASSERT_EQUAL(go(), KARS_OK);
    CU_ASSERT_EQUAL(budget_ledger.charge(req, 30), KARS_OK);
    CU_ASSERT_EQUAL(budget_ledger.charge(req, 3), KARS_OK);
    reply(200, "100");
    CU_ASSERT_EQUAL(used(), 133);
    CU_ASSERT_EQUAL(budget_ledger.charge(req, 7), KARS_OK); /* late */
    CU_ASSERT_EQUAL(budget_ledger.usage(cyc, KARS_STR("demo"), &day, &month),
                    KARS_OK);
    CU_ASSERT_EQUAL(day, 140);
    CU_ASSERT_EQUAL(month, 140);
    CU_ASSERT_EQUAL(budget_ledger.usage(cyc, KARS_STR("other"), &day, &month),
                    KARS_ERROR);
    end();
}

void
suite_budget(void)
{
    T_SUITE(budget);
    T_TEST(budget, test_budget_refuses_over_limit);
    T_TEST(budget, test_budget_refuses_over_the_monthly_limit);
    T_TEST(budget, test_budget_refuses_over_the_cap_of_a_request);
    T_TEST(budget, test_budget_bounds_a_request_that_names_no_cap);
    T_TEST(budget, test_budget_asks_a_stream_for_its_usage);
    T_TEST(budget, test_budget_refuses_what_is_no_integer);
    T_TEST(budget, test_budget_charges_what_the_reply_says);
    T_TEST(budget,
           test_budget_charges_the_reservation_when_the_client_hangs_up);
    T_TEST(budget, test_budget_charges_the_reservation_when_usage_is_missing);
    T_TEST(budget, test_budget_charges_nothing_when_nothing_was_generated);
    T_TEST(budget, test_budget_reserves_once_however_often_it_is_asked);
    T_TEST(budget, test_budget_journals_a_turn_before_its_requests_go_on);
    T_TEST(budget, test_budget_refuses_all_whose_line_cannot_be_written);
    T_TEST(budget,
           test_budget_settles_once_what_left_before_its_line_was_written);
    T_TEST(budget, test_budget_journals_for_all_workers);
    T_TEST(budget, test_budget_waits_until_the_reservation_is_durable);
    T_TEST(budget, test_budget_refuses_while_the_ledger_is_unwritable);
    T_TEST(budget, test_budget_sweeps_after_a_dead_worker);
    T_TEST(budget, test_budget_service_adds_to_the_charge);
}
