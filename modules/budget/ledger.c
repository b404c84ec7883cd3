/*
 * ledger.c - what a sandbox used, and what it may still be using.
 */
#include "ledger.h"

#include <string.h>

#include "calendar.h"
#include "kars_module.h"

uint64_t
ledger_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

uint64_t
ledger_mul(uint64_t a, uint64_t b)
{
    return b != 0 && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static uint64_t
ledger_sub(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* The head that does not count yet, as a copy of the one that does. */
static ledger_head_t *
ledger_draft(ledger_t *l)
{
    ledger_head_t *next = &l->head[(l->cur & 1) ^ 1];

    *next = *ledger_head(l);
    return next;
}

/* One store makes the draft the head. */
static void
ledger_commit(ledger_t *l)
{
    __atomic_store_n(&l->cur, (l->cur & 1) ^ 1, __ATOMIC_SEQ_CST);
}

static void
ledger_set_state(ledger_slot_t *s, uint32_t state)
{
    __atomic_store_n(&s->state, state, __ATOMIC_SEQ_CST);
}

static int
ledger_same_month(const ledger_head_t *h, uint32_t day)
{
    return day == h->day || calendar_month(day) == calendar_month(h->day);
}

/* Adds to, or takes from, the sums of what is open. */
static void
ledger_count(ledger_t *l, const ledger_slot_t *s, int add)
{
    const ledger_head_t *h = ledger_head(l);

    if (s->day == h->day) {
        l->open_day = add ? ledger_add(l->open_day, s->tokens)
                          : ledger_sub(l->open_day, s->tokens);
    }
    if (ledger_same_month(h, s->day)) {
        l->open_month = add ? ledger_add(l->open_month, s->tokens)
                            : ledger_sub(l->open_month, s->tokens);
    }
}

static void
ledger_recount(ledger_t *l)
{
    l->open_day = 0;
    l->open_month = 0;
    for (size_t i = 0; i < LEDGER_SLOTS; i++) {
        if (l->slots[i].state == LEDGER_OPEN) {
            ledger_count(l, &l->slots[i], 1);
        }
    }
}

void
ledger_init(ledger_t *l)
{
    memset(l, 0, sizeof(*l));
}

void
ledger_repair(ledger_t *l)
{
    const ledger_head_t *h = ledger_head(l);
    ledger_slot_t *s = &l->slots[h->settled_id % LEDGER_SLOTS];

    /* The head has the charge, the slot did not learn it any more. */
    if (h->settled_id != 0 && s->id == h->settled_id &&
        s->state == LEDGER_OPEN) {
        s->tokens = h->settled_tokens;
        ledger_set_state(s, LEDGER_SETTLED);
    }

    l->torn = 1;
    ledger_recount(l);
}

void
ledger_roll(ledger_t *l, uint32_t day)
{
    if (day <= ledger_head(l)->day) {
        return;
    }

    ledger_head_t *next = ledger_draft(l);

    if (!ledger_same_month(next, day)) {
        next->used_month = 0;
    }
    next->used_day = 0;
    next->day = day;
    ledger_commit(l);
    ledger_recount(l);
}

void
ledger_view(const ledger_t *l, ledger_view_t *ret)
{
    const ledger_head_t *h = ledger_head(l);

    ret->day = h->day;
    ret->used_day = h->used_day;
    ret->used_month = h->used_month;
    ret->open_day = l->open_day;
    ret->open_month = l->open_month;
}

static ledger_slot_t *
ledger_free_slot(ledger_t *l, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < LEDGER_SLOTS; i++) {
        uint32_t at = (l->hint + i) % LEDGER_SLOTS;

        if (l->slots[at].state == LEDGER_FREE) {
            l->hint = at + 1;
            *ret_index = at;
            return &l->slots[at];
        }
    }

    return NULL;
}

int
ledger_reserve(ledger_t *l, uint64_t worker, uint64_t tokens, uint64_t *ret_id)
{
    uint32_t index;
    ledger_slot_t *s = ledger_free_slot(l, &index);

    if (s == NULL) {
        return KARS_ERROR;
    }

    ledger_head_t *next = ledger_draft(l);

    next->seq++;
    ledger_commit(l);

    s->id = next->seq * LEDGER_SLOTS + index;
    s->worker = worker;
    s->tokens = tokens;
    s->day = next->day;
    ledger_set_state(s, LEDGER_OPEN);
    ledger_count(l, s, 1);
    *ret_id = s->id;
    return KARS_OK;
}

ledger_slot_t *
ledger_open(ledger_t *l, uint64_t id)
{
    ledger_slot_t *s = &l->slots[id % LEDGER_SLOTS];

    return s->state == LEDGER_OPEN && s->id == id ? s : NULL;
}

int
ledger_adjust(ledger_t *l, uint64_t id, uint64_t tokens)
{
    ledger_slot_t *s = ledger_open(l, id);

    if (s == NULL) {
        return KARS_ERROR;
    }

    ledger_count(l, s, 0);
    s->tokens = tokens;
    ledger_count(l, s, 1);
    return KARS_OK;
}

void
ledger_cancel(ledger_t *l, uint64_t id)
{
    ledger_slot_t *s = ledger_open(l, id);

    if (s != NULL) {
        ledger_count(l, s, 0);
        ledger_set_state(s, LEDGER_FREE);
    }
}

const ledger_slot_t *
ledger_fresh_at(const ledger_t *l, uint32_t i)
{
    const ledger_slot_t *s = &l->slots[l->fresh[i] % LEDGER_SLOTS];

    return s->state != LEDGER_FREE && s->id == l->fresh[i] ? s : NULL;
}

/* Entries move down before their number shrinks: whoever dies in between
 * leaves one twice, and none out. */
static void
ledger_fresh_tidy(ledger_t *l)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < l->nfresh; i++) {
        if (ledger_fresh_at(l, i) != NULL) {
            __atomic_store_n(&l->fresh[n++], l->fresh[i], __ATOMIC_SEQ_CST);
        }
    }
    __atomic_store_n(&l->nfresh, n, __ATOMIC_SEQ_CST);
}

void
ledger_fresh(ledger_t *l, uint64_t id, int is_new)
{
    for (uint32_t i = 0; !is_new && i < l->nfresh; i++) {
        if (l->fresh[i] == id) {
            return;
        }
    }
    if (l->nfresh == LEDGER_SLOTS) {
        ledger_fresh_tidy(l); /* the others have a slot each: there is room */
    }

    l->fresh[l->nfresh] = id;
    __atomic_store_n(&l->nfresh, l->nfresh + 1, __ATOMIC_SEQ_CST);
}

void
ledger_fresh_written(ledger_t *l)
{
    __atomic_store_n(&l->nfresh, 0, __ATOMIC_SEQ_CST);
}

int
ledger_settle(ledger_t *l, uint64_t id, uint64_t charge)
{
    ledger_slot_t *s = ledger_open(l, id);

    if (s == NULL) {
        return KARS_ERROR;
    }

    ledger_head_t *next = ledger_draft(l);

    if (s->day == next->day) {
        next->used_day = ledger_add(next->used_day, charge);
    }
    if (ledger_same_month(next, s->day)) {
        next->used_month = ledger_add(next->used_month, charge);
    }
    next->settled_id = id;
    next->settled_tokens = charge;
    ledger_commit(l);

    ledger_count(l, s, 0);
    s->tokens = charge;
    ledger_set_state(s, LEDGER_SETTLED);
    return KARS_OK;
}

void
ledger_written(ledger_t *l, uint64_t id)
{
    ledger_slot_t *s = &l->slots[id % LEDGER_SLOTS];

    if (s->id == id && s->state == LEDGER_SETTLED) {
        ledger_set_state(s, LEDGER_FREE);
    }
}

size_t
ledger_orphans(ledger_t *l, uint64_t owner,
               int (*alive)(void *data, uint64_t worker), void *data,
               uint64_t *ret, size_t max)
{
    size_t n = 0;

    for (size_t i = 0; i < LEDGER_SLOTS && n < max; i++) {
        ledger_slot_t *s = &l->slots[i];

        if (s->state == LEDGER_FREE || s->worker == owner ||
            alive(data, s->worker)) {
            continue;
        }
        if (s->state == LEDGER_OPEN) {
            (void) ledger_settle(l, s->id, s->tokens);
        }
        s->worker = owner;
        ret[n++] = s->id;
    }

    return n;
}

void
ledger_restore(ledger_t *l, uint64_t id, uint32_t day, uint64_t tokens)
{
    ledger_slot_t *s = &l->slots[id % LEDGER_SLOTS];

    ledger_roll(l, day);
    if (s->state == LEDGER_OPEN) { /* its end was lost: the safe reading */
        (void) ledger_settle(l, s->id, s->tokens);
    }

    ledger_head_t *next = ledger_draft(l);

    if (ledger_seq(id) > next->seq) {
        next->seq = ledger_seq(id);
    }
    ledger_commit(l);

    s->id = id;
    s->worker = 0;
    s->tokens = tokens;
    s->day = day;
    ledger_set_state(s, LEDGER_OPEN);
    ledger_count(l, s, 1);
}

void
ledger_charge_open(ledger_t *l)
{
    for (size_t i = 0; i < LEDGER_SLOTS; i++) {
        ledger_slot_t *s = &l->slots[i];

        if (s->state == LEDGER_OPEN) {
            (void) ledger_settle(l, s->id, s->tokens);
        }
        ledger_set_state(s, LEDGER_FREE);
    }
}
