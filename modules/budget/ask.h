/*
 * ask.h - what a request asks for, and what its reply says was used.
 *
 * Gathers the watched members of both bodies as the scanner reports them, in
 * fragments, and answers what follows from them. A member that is reported
 * again starts afresh. Pure: the owner is whoever holds the structs.
 */
#ifndef BUDGET_ASK_H
#define BUDGET_ASK_H

#include "kars_module.h"

/* The numbers of a request. Those from ASK_MAX_TOKENS on cap its output. */
enum {
    ASK_N = 0,
    ASK_BEST_OF,
    ASK_MAX_TOKENS,
    ASK_MAX_COMPLETION,
    ASK_MAX_OUTPUT,
    ASK_N_PREDICT,
    ASK_MAX_NEW,
    ASK_NUM_PREDICT,
    ASK_NUMBERS
};

/* The member that the route's cap is written to; NONE: nothing is written. */
enum {
    ASK_AS_MAX_TOKENS = 0,
    ASK_AS_MAX_COMPLETION,
    ASK_AS_MAX_OUTPUT,
    ASK_AS_NONE
};

enum { ASK_ABSENT = 0, ASK_GOOD, ASK_BAD, ASK_PARTIAL };

typedef struct {
    uint64_t value;
    uint8_t state; /* ASK_* */
    uint8_t len;
    char text[22]; /* its digits so far */
} ask_number_t;

typedef struct {
    ask_number_t numbers[ASK_NUMBERS];
    uint64_t prompts; /* elements of prompt[] that are prompts */
    uint8_t stream;   /* ASK_ABSENT, ASK_GOOD (true), ASK_BAD */
    uint8_t include;  /* stream_options.include_usage, likewise */
    uint8_t options;  /* stream_options: ASK_GOOD is an object */
} ask_t;

enum { USED_TOTAL = 0, USED_IN, USED_OUT, USED_NUMBERS };

typedef struct {
    ask_number_t numbers[USED_NUMBERS];
    uint64_t seen[USED_NUMBERS]; /* the last sound value of each */
    uint8_t has[USED_NUMBERS];
} used_t;

/* One fragment of a number, of a boolean, of stream_options, of prompt[i]. */
void ask_number(ask_t *a, unsigned which, kars_str_t text, uint32_t flags);
void ask_bool(uint8_t *state, uint32_t flags);
void ask_options(ask_t *a, uint32_t flags);
void ask_prompt(ask_t *a, uint32_t index, uint32_t flags);
void ask_used(used_t *u, unsigned which, kars_str_t text, uint32_t flags);

/* The first member that is not what it must be, or an empty string. */
kars_str_t ask_bad_member(const ask_t *a, const char **ret_want);

/* The name of a number in the request. */
kars_str_t ask_name(unsigned which);

/* The largest cap that the request names; 0: none. A cap of 0 counts as 1. */
uint64_t ask_cap(const ask_t *a);

/* Does the backend surely read a cap that is there? `as` is ASK_AS_*. */
int ask_is_bounded(const ask_t *a, unsigned as);

/* How many answers one request makes: prompts times n (or best_of). */
uint64_t ask_answers(const ask_t *a);

/* What is reserved for the prompt: a quarter of the body and 8. */
uint64_t ask_prompt_estimate(uint64_t body_bytes);

/* The whole reservation. */
uint64_t ask_reserve(const ask_t *a, uint64_t body_bytes, uint64_t cap);

/* What the reply says was used; 0 in *ret_exact: it does not say. */
uint64_t ask_used_total(const used_t *u, int *ret_exact);

#endif
