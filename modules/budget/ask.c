/*
 * ask.c - what a request asks for, and what its reply says was used.
 */
#include "ask.h"

#include "ledger.h"

/* clang-format off */
static const char *const ask_names[ASK_NUMBERS] = {
    [ASK_N] = "n",
    [ASK_BEST_OF] = "best_of",
    [ASK_MAX_TOKENS] = "max_tokens",
    [ASK_MAX_COMPLETION] = "max_completion_tokens",
    [ASK_MAX_OUTPUT] = "max_output_tokens",
    [ASK_N_PREDICT] = "n_predict",
    [ASK_MAX_NEW] = "max_new_tokens",
    [ASK_NUM_PREDICT] = "num_predict",
};
/* clang-format on */

kars_str_t
ask_name(unsigned which)
{
    return (kars_str_t){ ask_names[which], strlen(ask_names[which]) };
}

/* The digits are all there: an integer without sign, point or exponent. */
static void
ask_finish(ask_number_t *n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n->len; i++) {
        uint64_t d = (uint64_t) n->text[i] - '0';

        if (d > 9 || v > (INT64_MAX - d) / 10) {
            n->state = ASK_BAD;
            return;
        }
        v = v * 10 + d;
    }

    n->state = n->len == 0 ? ASK_BAD : ASK_GOOD;
    n->value = v;
}

static void
ask_digits(ask_number_t *n, kars_str_t text, uint32_t flags)
{
    if (flags & KARS_FIRST) {
        n->len = 0;
        n->state = ASK_PARTIAL;
    }

    if (n->state != ASK_PARTIAL) {
        return;
    }
    if (flags & KARS_JSON_NULL) {
        n->state = ASK_ABSENT;
        return;
    }
    if (!(flags & KARS_JSON_NUMBER) || text.len > sizeof(n->text) - n->len) {
        n->state = ASK_BAD;
        return;
    }

    if (text.len > 0) {
        memcpy(n->text + n->len, text.data, text.len);
        n->len = (uint8_t) (n->len + text.len);
    }
    if (flags & KARS_LAST) {
        ask_finish(n);
    }
}

void
ask_number(ask_t *a, unsigned which, kars_str_t text, uint32_t flags)
{
    ask_number_t *n = &a->numbers[which];

    ask_digits(n, text, flags);
    if (n->state == ASK_GOOD && n->value == 0 &&
        (which == ASK_N || which == ASK_BEST_OF)) {
        n->state = ASK_BAD;
    }
}

void
ask_bool(uint8_t *state, uint32_t flags)
{
    *state = flags & KARS_JSON_TRUE                       ? ASK_GOOD
             : flags & (KARS_JSON_FALSE | KARS_JSON_NULL) ? ASK_ABSENT
                                                          : ASK_BAD;
}

void
ask_options(ask_t *a, uint32_t flags)
{
    a->options = flags & KARS_JSON_OBJECT ? ASK_GOOD
                 : flags & KARS_JSON_NULL ? ASK_ABSENT
                                          : ASK_BAD;
    if (a->options != ASK_GOOD) {
        a->include = ASK_ABSENT;
    }
}

/* ["a","b"] and [[1],[2]] are two prompts each, [1,2] is one. */
void
ask_prompt(ask_t *a, uint32_t index, uint32_t flags)
{
    if (flags & (KARS_JSON_STRING | KARS_JSON_ARRAY)) {
        a->prompts = (uint64_t) index + 1;
    }
}

/* In a stream many events may say it: the last one that is sound counts. */
void
ask_used(used_t *u, unsigned which, kars_str_t text, uint32_t flags)
{
    ask_number_t *n = &u->numbers[which];

    ask_digits(n, text, flags);
    if (n->state == ASK_GOOD) {
        u->seen[which] = n->value;
        u->has[which] = 1;
    }
}

kars_str_t
ask_bad_member(const ask_t *a, const char **ret_want)
{
    for (unsigned i = 0; i < ASK_NUMBERS; i++) {
        uint8_t state = a->numbers[i].state;

        if (state == ASK_BAD || state == ASK_PARTIAL) {
            *ret_want = i == ASK_N || i == ASK_BEST_OF
                            ? "an integer of at least 1"
                            : "an integer of at least 0";
            return ask_name(i);
        }
    }

    *ret_want = "true, false or null";
    if (a->stream == ASK_BAD) {
        return KARS_STR("stream");
    }
    if (a->include == ASK_BAD) {
        return KARS_STR("stream_options.include_usage");
    }
    if (a->options == ASK_BAD) {
        *ret_want = "an object or null";
        return KARS_STR("stream_options");
    }

    return KARS_STR("");
}

uint64_t
ask_cap(const ask_t *a)
{
    uint64_t cap = 0;

    for (unsigned i = ASK_MAX_TOKENS; i < ASK_NUMBERS; i++) {
        const ask_number_t *n = &a->numbers[i];

        if (n->state == ASK_GOOD && n->value >= cap) {
            cap = n->value > 0 ? n->value : 1;
        }
    }

    return cap;
}

int
ask_is_bounded(const ask_t *a, unsigned as)
{
    if (as == ASK_AS_NONE) {
        return 1;
    }
    if (as == ASK_AS_MAX_OUTPUT) {
        return a->numbers[ASK_MAX_OUTPUT].state == ASK_GOOD;
    }

    return a->numbers[ASK_MAX_TOKENS].state == ASK_GOOD ||
           a->numbers[ASK_MAX_COMPLETION].state == ASK_GOOD;
}

uint64_t
ask_answers(const ask_t *a)
{
    uint64_t n = 1;

    for (unsigned i = ASK_N; i <= ASK_BEST_OF; i++) {
        if (a->numbers[i].state == ASK_GOOD && a->numbers[i].value > n) {
            n = a->numbers[i].value;
        }
    }

    return ledger_mul(n, a->prompts > 1 ? a->prompts : 1);
}

uint64_t
ask_prompt_estimate(uint64_t body_bytes)
{
    return body_bytes / 4 + (body_bytes % 4 != 0) + 8;
}

uint64_t
ask_reserve(const ask_t *a, uint64_t body_bytes, uint64_t cap)
{
    return ledger_add(ask_prompt_estimate(body_bytes),
                      ledger_mul(ask_answers(a), cap));
}

uint64_t
ask_used_total(const used_t *u, int *ret_exact)
{
    uint64_t parts = ledger_add(u->seen[USED_IN], u->seen[USED_OUT]);
    uint64_t total = u->seen[USED_TOTAL];

    *ret_exact = u->has[USED_TOTAL] || (u->has[USED_IN] && u->has[USED_OUT]);
    return total > parts ? total : parts;
}
