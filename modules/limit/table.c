/* table.c - counts by key; see table.h. */
#include "table.h"

static uint64_t
table_rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

static void
table_sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = table_rotl(v[1], 13) ^ v[0];
    v[0] = table_rotl(v[0], 32);
    v[2] += v[3];
    v[3] = table_rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = table_rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = table_rotl(v[1], 17) ^ v[2];
    v[2] = table_rotl(v[2], 32);
}

/* One word into a SipHash-2-4 state (Aumasson and Bernstein, 2012). */
static void
table_sip_word(uint64_t v[4], uint64_t m)
{
    v[3] ^= m;
    table_sip_round(v);
    table_sip_round(v);
    v[0] ^= m;
}

/* Each piece is its length and then its bytes in words. */
static uint64_t
table_sip(const uint64_t k[2], const kars_str_t *pieces, size_t n)
{
    uint64_t v[4] = { k[0] ^ 0x736f6d6570736575u, k[1] ^ 0x646f72616e646f6du,
                      k[0] ^ 0x6c7967656e657261u, k[1] ^ 0x7465646279746573u };

    for (size_t i = 0; i < n; i++) {
        table_sip_word(v, pieces[i].len);
        for (size_t at = 0; at < pieces[i].len; at += 8) {
            uint64_t m = 0;
            size_t left = pieces[i].len - at;

            memcpy(&m, pieces[i].data + at, left < 8 ? left : 8);
            table_sip_word(v, m);
        }
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) {
        table_sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

size_t
table_size(uint64_t n, uint64_t *ret_slots)
{
    uint64_t slots = TABLE_WAYS;

    while (slots < n) {
        slots *= 2;
    }
    *ret_slots = slots;
    return sizeof(table_head_t) +
           (size_t) slots * (sizeof(table_rate_t) + sizeof(table_open_t));
}

void
table_init(void *table, uint64_t nslots, const uint64_t seed[4])
{
    table_head_t *h = table;

    memset(h + 1, 0,
           (size_t) nslots * (sizeof(table_rate_t) + sizeof(table_open_t)));
    memcpy(h->seed, seed, sizeof(h->seed));
    h->nslots = nslots;
    h->slots = sizeof(*h);
}

table_key_t
table_key(const void *table, const kars_str_t *pieces, size_t n)
{
    const table_head_t *h = table;
    table_key_t k = { { table_sip(h->seed, pieces, n),
                        table_sip(h->seed + 2, pieces, n) } };

    k.v[1] |= k.v[0] == 0; /* 0, 0 is a free slot */
    return k;
}

static int
table_same(table_key_t a, table_key_t b)
{
    return a.v[0] == b.v[0] && a.v[1] == b.v[1];
}

static table_rate_t *
table_rates(void *table)
{
    return (table_rate_t *) ((table_head_t *) table + 1);
}

static table_open_t *
table_opens(void *table)
{
    table_head_t *h = table;

    return (table_open_t *) (table_rates(table) + h->nslots);
}

static uint64_t
table_first(const table_head_t *h, table_key_t key)
{
    return key.v[0] & (h->nslots - 1) & ~(uint64_t) (TABLE_WAYS - 1);
}

uint64_t
table_take(void *table, table_key_t key, uint64_t now_ns, uint64_t every_ns,
           uint64_t burst)
{
    table_rate_t *r = table_rates(table) + table_first(table, key);
    table_rate_t *at = &r[0];

    for (uint32_t i = 0; i < TABLE_WAYS; i++) {
        if (table_same(r[i].key, key)) {
            at = &r[i];
            break;
        }
        if (r[i].full_ns < at->full_ns) {
            at = &r[i];
        }
    }
    if (!table_same(at->key, key)) {
        *at = (table_rate_t){ .key = key };
    }

    uint64_t from = at->full_ns > now_ns ? at->full_ns : now_ns;

    /* `burst` more than one at once: their times may lie ahead. */
    if (from - now_ns > burst * every_ns) {
        return from - now_ns - burst * every_ns;
    }
    at->full_ns = from + every_ns;
    return 0;
}

int
table_open(void *table, table_key_t key, uint64_t worker, uint64_t limit,
           int (*alive)(void *data, uint64_t worker), void *data)
{
    table_open_t *o = table_opens(table) + table_first(table, key);
    table_open_t *mine = NULL;
    table_open_t *free_one = NULL;
    uint64_t open = 0;

    for (uint32_t i = 0; i < TABLE_WAYS; i++) {
        if (o[i].open != 0 && o[i].worker != worker &&
            !alive(data, o[i].worker)) {
            o[i] = (table_open_t){ 0 };
        }
        if (o[i].open == 0) {
            free_one = free_one != NULL ? free_one : &o[i];
        } else if (table_same(o[i].key, key)) {
            open += o[i].open;
            mine = o[i].worker == worker ? &o[i] : mine;
        }
    }
    if (open >= limit) {
        return KARS_DECLINED;
    }
    if (mine != NULL) {
        mine->open++;
        return KARS_OK;
    }
    if (free_one == NULL) {
        return KARS_ERROR;
    }
    *free_one = (table_open_t){ .key = key, .worker = worker, .open = 1 };
    return KARS_OK;
}

void
table_close(void *table, table_key_t key, uint64_t worker)
{
    table_open_t *o = table_opens(table) + table_first(table, key);

    for (uint32_t i = 0; i < TABLE_WAYS; i++) {
        if (o[i].open != 0 && o[i].worker == worker &&
            table_same(o[i].key, key)) {
            o[i].open--;
            return;
        }
    }
}
