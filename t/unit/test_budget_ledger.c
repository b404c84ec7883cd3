/*
 * test_budget_ledger.c - modules/budget/ledger.c and journal.c: what was spent
 * is never forgotten and never counted twice, wherever a worker dies.
 */
#include "t.h"

#include "budget/calendar.h"
#include "budget/journal.h"
#include "budget/ledger.h"

#include <stdio.h>

enum { DAY = 20780, IDS = 512, JOURNAL = 128 * 1024 };

/* The naive model: one entry per reservation, sums by walking all of them. */
typedef struct {
    uint64_t id;
    uint64_t tokens;  /* as the journal last had it */
    uint64_t charged; /* when settled */
    uint32_t day;
    int settled; /* in memory */
    int written; /* its settlement is in the journal */
    int dropped; /* its worker is dead and was swept */
} entry_t;

typedef struct {
    ledger_t *l;
    ledger_t *again; /* what replay makes of the journal */
    char *journal;
    size_t len;
    entry_t e[IDS];
    size_t n;
    uint32_t day;
} world_t;

static world_t w;
static unsigned rng;

static unsigned
dice(unsigned sides)
{
    rng = rng * 1103515245u + 12345u;
    return (rng >> 8) % sides;
}

static void
world_begin(void)
{
    static ledger_t ledgers[2];
    static char journal[JOURNAL];

    w.l = &ledgers[0];
    w.again = &ledgers[1];
    w.journal = journal;
    ledger_init(w.l);
    w.len = 0;
    w.n = 0;
    w.day = DAY;
    ledger_roll(w.l, DAY);
}

static void
replay(const char *bytes, size_t len)
{
    ledger_init(w.again);
    journal_replay(w.again, bytes, len);
}

static uint64_t
used_day(const ledger_t *l)
{
    return ledger_head(l)->used_day;
}

static uint64_t
used_month(const ledger_t *l)
{
    return ledger_head(l)->used_month;
}

static uint64_t
reserve(uint64_t worker, uint64_t tokens)
{
    uint64_t id = 0;

    CU_ASSERT_EQUAL_FATAL(ledger_reserve(w.l, worker, tokens, &id), KARS_OK);
    w.len +=
        journal_reserve(w.journal + w.len, id, ledger_head(w.l)->day, tokens);
    return id;
}

static void
settle(uint64_t id, uint64_t charge)
{
    CU_ASSERT_EQUAL(ledger_settle(w.l, id, charge), KARS_OK);
    w.len += journal_settle(w.journal + w.len, id, charge);
    ledger_written(w.l, id);
}

static void
test_budget_counts_reservations_and_settles_once(void)
{
    ledger_view_t v;

    world_begin();

    uint64_t a = reserve(1, 100);
    uint64_t b = reserve(1, 50);

    CU_ASSERT_NOT_EQUAL(a, b);
    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.open_day, 150);
    CU_ASSERT_EQUAL(v.used_day, 0);
    CU_ASSERT_EQUAL(ledger_adjust(w.l, a, 200), KARS_OK);
    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.open_month, 250);
    CU_ASSERT_EQUAL(ledger_settle(w.l, a, 70), KARS_OK);
    CU_ASSERT_EQUAL(ledger_settle(w.l, a, 70), KARS_ERROR);
    ledger_written(w.l, a);
    CU_ASSERT_EQUAL(ledger_settle(w.l, a, 70), KARS_ERROR);
    CU_ASSERT_EQUAL(ledger_adjust(w.l, a, 1), KARS_ERROR);
    ledger_cancel(w.l, b);
    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.used_day, 70);
    CU_ASSERT_EQUAL(v.used_month, 70);
    CU_ASSERT_EQUAL(v.open_day, 0);
}

static void
test_budget_refuses_when_the_table_is_full(void)
{
    uint64_t id = 0;
    uint64_t last = 0;

    world_begin();
    for (int i = 0; i < LEDGER_SLOTS; i++) {
        CU_ASSERT_EQUAL(ledger_reserve(w.l, 1, 1, &last), KARS_OK);
    }
    CU_ASSERT_EQUAL(ledger_reserve(w.l, 1, 1, &id), KARS_ERROR);
    CU_ASSERT_EQUAL(id, 0);
    CU_ASSERT_EQUAL(ledger_settle(w.l, last, 1), KARS_OK);
    CU_ASSERT_EQUAL(ledger_reserve(w.l, 1, 1, &id), KARS_ERROR);
    ledger_written(w.l, last);
    CU_ASSERT_EQUAL(ledger_reserve(w.l, 1, 1, &id), KARS_OK);
    CU_ASSERT_NOT_EQUAL(id, last);
}

static void
test_budget_resets_by_the_calendar_and_never_back(void)
{
    uint32_t first = calendar_next_month(DAY);

    world_begin();
    settle(reserve(1, 10), 10);
    ledger_roll(w.l, DAY + 1);
    CU_ASSERT_EQUAL(used_day(w.l), 0);
    CU_ASSERT_EQUAL(used_month(w.l), 10);
    settle(reserve(1, 10), 7);
    ledger_roll(w.l, DAY); /* the clock stepped back */
    CU_ASSERT_EQUAL(used_day(w.l), 7);
    CU_ASSERT_EQUAL(used_month(w.l), 17);
    ledger_roll(w.l, first);
    CU_ASSERT_EQUAL(used_day(w.l), 0);
    CU_ASSERT_EQUAL(used_month(w.l), 0);
    ledger_roll(w.l, first - 1);
    CU_ASSERT_EQUAL(ledger_head(w.l)->day, first);
}

static void
test_budget_charges_the_period_of_the_reservation(void)
{
    ledger_view_t v;

    world_begin();

    uint64_t a = reserve(1, 100);
    uint64_t b = reserve(1, 100);

    ledger_roll(w.l, DAY + 1);
    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.open_day, 0);
    CU_ASSERT_EQUAL(v.open_month, 200);
    settle(a, 60);
    CU_ASSERT_EQUAL(used_day(w.l), 0);
    CU_ASSERT_EQUAL(used_month(w.l), 60);
    ledger_roll(w.l, calendar_next_month(DAY));
    settle(b, 60);
    CU_ASSERT_EQUAL(used_month(w.l), 0);
    replay(w.journal, w.len);
    ledger_roll(w.again, ledger_head(w.l)->day);
    CU_ASSERT_EQUAL(used_month(w.again), 0);
}

static void
test_budget_sums_stop_at_the_largest_number(void)
{
    world_begin();

    uint64_t a = reserve(1, UINT64_MAX);
    uint64_t b = reserve(1, 5);
    ledger_view_t v;

    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.open_day, UINT64_MAX);
    settle(a, UINT64_MAX);
    settle(b, 5);
    CU_ASSERT_EQUAL(used_day(w.l), UINT64_MAX);
    CU_ASSERT_EQUAL(ledger_mul(UINT64_MAX, 2), UINT64_MAX);
    CU_ASSERT_EQUAL(ledger_mul(3, 0), 0);
}

static int
is_alive(void *data, uint64_t worker)
{
    return worker != *(const uint64_t *) data;
}

static void
test_budget_charges_what_a_dead_worker_left_open(void)
{
    uint64_t ids[8];
    uint64_t dead = 7;

    world_begin();

    uint64_t open = reserve(7, 100);
    uint64_t done = reserve(7, 100);
    uint64_t other = reserve(8, 100);

    CU_ASSERT_EQUAL(ledger_settle(w.l, done, 30), KARS_OK);
    CU_ASSERT_EQUAL(ledger_orphans(w.l, 9, is_alive, &dead, ids, 8), 2);
    CU_ASSERT_EQUAL(ids[0], open);
    CU_ASSERT_EQUAL(ids[1], done);
    CU_ASSERT_EQUAL(used_day(w.l), 130);
    CU_ASSERT_PTR_NOT_NULL(ledger_open(w.l, other));
    CU_ASSERT_EQUAL(ledger_orphans(w.l, 9, is_alive, &dead, ids, 8), 0);
    CU_ASSERT_EQUAL(used_day(w.l), 130);
}

/* Killed after the head learnt of the charge and before the slot did. */
static void
test_budget_repairs_half_a_settlement(void)
{
    ledger_view_t v;

    world_begin();

    uint64_t id = reserve(1, 100);
    ledger_slot_t before = *ledger_open(w.l, id);

    CU_ASSERT_EQUAL(ledger_settle(w.l, id, 30), KARS_OK);
    w.l->slots[id % LEDGER_SLOTS] = before;
    w.l->open_day = 12345; /* a cache in any state */
    ledger_repair(w.l);
    ledger_repair(w.l);
    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.used_day, 30);
    CU_ASSERT_EQUAL(v.open_day, 0);
    CU_ASSERT_EQUAL(ledger_settle(w.l, id, 30), KARS_ERROR);
    CU_ASSERT_EQUAL(used_day(w.l), 30);
}

/* Cut after any byte: each whole line counts, the torn one does not. */
static void
test_budget_replays_a_journal_cut_at_every_byte(void)
{
    struct {
        size_t end;
        uint64_t total; /* with what is open charged in full */
    } marks[64];
    size_t n = 0;
    uint64_t ids[8];
    uint64_t total = 0;

    world_begin();
    for (size_t i = 0; i < 8; i++) {
        ids[i] = reserve(1, 100 + i);
        total += 100 + i;
        marks[n].end = w.len;
        marks[n++].total = total;
        if (i >= 2) {
            settle(ids[i - 2], 10);
            total -= 100 + i - 2 - 10;
            marks[n].end = w.len;
            marks[n++].total = total;
        }
    }

    size_t mark = 0;
    uint64_t want = 0;

    for (size_t len = 0; len <= w.len; len++) {
        if (mark < n && len == marks[mark].end) {
            want = marks[mark++].total;
        }
        replay(w.journal, len);
        ledger_charge_open(w.again);
        CU_ASSERT_EQUAL(used_day(w.again), want);
        CU_ASSERT_EQUAL(used_month(w.again), want);
    }
}

static void
test_budget_replay_ignores_damage_and_repetition(void)
{
    char noise[256];

    world_begin();

    uint64_t id = reserve(1, 100);

    settle(id, 40);
    memcpy(w.journal + w.len, w.journal, w.len); /* all of it twice */
    w.len *= 2;
    replay(w.journal, w.len);
    ledger_charge_open(w.again);
    CU_ASSERT_EQUAL(used_day(w.again), 40);

    for (size_t i = 0; i < w.len / 2; i++) { /* one bit of every byte */
        for (int bit = 0; bit < 8; bit++) {
            memcpy(noise, w.journal, w.len / 2);
            noise[i] ^= (char) (1 << bit);
            replay(noise, w.len / 2);
            ledger_charge_open(w.again);

            uint64_t used = used_day(w.again);

            CU_ASSERT_TRUE(used == 40 || used == 100 || used == 0);
        }
    }
}

static void
test_budget_base_counts_whole_or_not_at_all(void)
{
    char base[4 * JOURNAL_LINE];
    char both[JOURNAL_LINE * 16];

    world_begin();
    settle(reserve(1, 100), 40);

    uint64_t id = reserve(1, 7);
    size_t n = journal_base(base, w.l, 1);

    n += journal_reserve(base + n, id, DAY, 7);
    for (size_t len = 0; len <= n; len++) {
        memcpy(both, w.journal, w.len); /* the old segment, then the new */
        memcpy(both + w.len, base, len);
        replay(both, w.len + len);
        CU_ASSERT_EQUAL(used_day(w.again), 40);
        ledger_charge_open(w.again);
        CU_ASSERT_EQUAL(used_day(w.again), 47);
    }
    replay(base, n); /* the old segment is gone */
    CU_ASSERT_EQUAL(used_month(w.again), 40);
    CU_ASSERT_PTR_NOT_NULL(ledger_open(w.again, id));
    CU_ASSERT_EQUAL(ledger_head(w.again)->seq, ledger_head(w.l)->seq);
}

/* What the model says: by walking all that ever happened. */
static void
model(int restarted, uint64_t *ret_day, uint64_t *ret_month,
      uint64_t *ret_open_day)
{
    *ret_day = 0;
    *ret_month = 0;
    *ret_open_day = 0;
    for (size_t i = 0; i < w.n; i++) {
        const entry_t *e = &w.e[i];
        int closed = restarted ? e->written : e->settled;
        uint64_t charge = closed ? e->charged : e->tokens;
        int today = e->day == w.day;
        int this_month = calendar_month(e->day) == calendar_month(w.day);

        if (!closed && !restarted) {
            *ret_open_day += today ? charge : 0;
            continue;
        }
        *ret_day += today ? charge : 0;
        *ret_month += this_month ? charge : 0;
    }
}

static void
agrees_live(void)
{
    ledger_view_t v;
    uint64_t day;
    uint64_t month;
    uint64_t open;

    model(0, &day, &month, &open);
    ledger_view(w.l, &v);
    CU_ASSERT_EQUAL(v.used_day, day);
    CU_ASSERT_EQUAL(v.used_month, month);
    CU_ASSERT_EQUAL(v.open_day, open);
}

/* All processes die, perhaps within a write: what would a new start say? */
static void
agrees_after_a_crash(size_t torn)
{
    uint64_t day;
    uint64_t month;
    uint64_t open;

    model(1, &day, &month, &open);
    replay(w.journal, w.len + torn);
    ledger_charge_open(w.again);
    ledger_roll(w.again, w.day);
    CU_ASSERT_EQUAL(used_day(w.again), day);
    CU_ASSERT_EQUAL(used_month(w.again), month);
}

static void
step_reserve(void)
{
    entry_t *e = &w.e[w.n];
    uint64_t worker = 1 + dice(2);

    *e = (entry_t){ .tokens = dice(1000), .day = w.day };
    if (w.n == IDS - 1 ||
        ledger_reserve(w.l, worker, e->tokens, &e->id) != KARS_OK) {
        return;
    }
    if (dice(10) == 0) { /* the journal cannot be written */
        ledger_cancel(w.l, e->id);
        return;
    }
    w.len += journal_reserve(w.journal + w.len, e->id, e->day, e->tokens);
    w.n++;
}

static void
step_settle(entry_t *e)
{
    uint64_t charge = dice(1200);

    if (e->settled) {
        CU_ASSERT_EQUAL(ledger_settle(w.l, e->id, charge), KARS_ERROR);
        return;
    }
    CU_ASSERT_EQUAL(ledger_settle(w.l, e->id, charge), KARS_OK);
    e->settled = 1;
    e->charged = charge;
}

static void
step_write(entry_t *e)
{
    if (e->settled && !e->written) {
        w.len += journal_settle(w.journal + w.len, e->id, e->charged);
        if (dice(4) == 0) { /* dies between write and free: written again */
            w.len += journal_settle(w.journal + w.len, e->id, e->charged);
        }
        ledger_written(w.l, e->id);
        e->written = 1;
    }
}

static void
step_adjust(entry_t *e)
{
    if (!e->settled) {
        e->tokens = dice(1500);
        CU_ASSERT_EQUAL(ledger_adjust(w.l, e->id, e->tokens), KARS_OK);
        w.len += journal_reserve(w.journal + w.len, e->id, e->day, e->tokens);
    }
}

static void
step_worker_dies(void)
{
    uint64_t ids[IDS];
    uint64_t dead = 1 + dice(2);

    ledger_repair(w.l);

    size_t n = ledger_orphans(w.l, 3, is_alive, &dead, ids, IDS);

    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < w.n; k++) {
            if (w.e[k].id == ids[i] && !w.e[k].settled) {
                w.e[k].settled = 1;
                w.e[k].charged = w.e[k].tokens;
            }
        }
    }
}

/* A new segment: the old one is gone with what it said. */
static void
step_rotate(void)
{
    size_t nopen = 0;

    for (size_t i = 0; i < w.n; i++) {
        nopen += !w.e[i].settled;
        w.e[i].written |= w.e[i].settled; /* the base has it */
    }
    w.len = journal_base(w.journal, w.l, nopen);
    for (size_t i = 0; i < w.n; i++) {
        if (!w.e[i].settled) {
            w.len += journal_reserve(w.journal + w.len, w.e[i].id, w.e[i].day,
                                     w.e[i].tokens);
        }
    }
}

static void
step(void)
{
    entry_t *e = w.n > 0 ? &w.e[dice((unsigned) w.n)] : NULL;
    unsigned what = dice(100);

    if (what < 45 || e == NULL) {
        step_reserve();
    } else if (what < 65) {
        step_settle(e);
    } else if (what < 85) {
        step_write(e);
    } else if (what < 91) {
        step_adjust(e);
    } else if (what < 94) {
        step_rotate();
    } else if (what < 96) {
        step_worker_dies();
    } else { /* days pass; now and then the clock steps back */
        uint32_t to = dice(4) == 0 ? w.day - 1 : w.day + dice(12);

        ledger_roll(w.l, to);
        w.day = to > w.day ? to : w.day;
    }
}

static void
test_budget_agrees_with_a_naive_model_over_random_histories(void)
{
    char label[32];

    for (unsigned seed = 1; seed <= 1000; seed++) {
        (void) snprintf(label, sizeof(label), "seed %u", seed);
        T_CASE(label);
        rng = seed;
        world_begin();
        for (int i = 0; i < 200; i++) {
            step();
            if (i % 8 == 0 || i == 199) {
                agrees_live();
            }
            if (i % 16 == 0 || i == 199) { /* half a line of the next */
                size_t torn =
                    journal_reserve(w.journal + w.len, 99999999, w.day, 5);

                agrees_after_a_crash(dice((unsigned) torn));
            }
        }
    }
}

static void
test_budget_remembers_what_the_journal_lacks(void)
{
    static ledger_t l;
    uint64_t id = 0;
    uint64_t kept = 0;

    ledger_init(&l);
    ledger_roll(&l, DAY);
    CU_ASSERT_EQUAL(ledger_reserve(&l, 1, 10, &kept), KARS_OK);
    ledger_fresh(&l, kept, 1);
    for (int i = 0; i < 3 * LEDGER_SLOTS; i++) { /* all taken back */
        CU_ASSERT_EQUAL_FATAL(ledger_reserve(&l, 1, 10, &id), KARS_OK);
        ledger_fresh(&l, id, 1);
        CU_ASSERT_TRUE_FATAL(l.nfresh <= LEDGER_SLOTS);
        ledger_cancel(&l, id);
        CU_ASSERT_PTR_NULL(ledger_fresh_at(&l, l.nfresh - 1));
    }
    ledger_fresh(&l, kept, 0); /* once */
    CU_ASSERT_PTR_NOT_NULL_FATAL(ledger_fresh_at(&l, 0));
    CU_ASSERT_EQUAL(ledger_fresh_at(&l, 0)->id, kept);
    for (uint32_t i = 1; i < l.nfresh; i++) {
        CU_ASSERT_PTR_NULL(ledger_fresh_at(&l, i));
    }

    CU_ASSERT_EQUAL(ledger_settle(&l, kept, 4), KARS_OK);
    CU_ASSERT_EQUAL(ledger_fresh_at(&l, 0)->tokens, 4); /* still to be told */
    ledger_fresh_written(&l);
    CU_ASSERT_EQUAL(l.nfresh, 0);
}

void
suite_budget_ledger(void)
{
    T_SUITE(budget_ledger);
    T_TEST(budget_ledger, test_budget_counts_reservations_and_settles_once);
    T_TEST(budget_ledger, test_budget_refuses_when_the_table_is_full);
    T_TEST(budget_ledger, test_budget_resets_by_the_calendar_and_never_back);
    T_TEST(budget_ledger, test_budget_charges_the_period_of_the_reservation);
    T_TEST(budget_ledger, test_budget_sums_stop_at_the_largest_number);
    T_TEST(budget_ledger, test_budget_charges_what_a_dead_worker_left_open);
    T_TEST(budget_ledger, test_budget_remembers_what_the_journal_lacks);
    T_TEST(budget_ledger, test_budget_repairs_half_a_settlement);
    T_TEST(budget_ledger, test_budget_replays_a_journal_cut_at_every_byte);
    T_TEST(budget_ledger, test_budget_replay_ignores_damage_and_repetition);
    T_TEST(budget_ledger, test_budget_base_counts_whole_or_not_at_all);
    T_TEST(budget_ledger,
           test_budget_agrees_with_a_naive_model_over_random_histories);
}
