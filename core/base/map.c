/* map.c - a keyed store in a zone. */
#include "base/map.h"
#include "base/pool.h"

#include <errno.h>
#include <sodium.h>

#define MAP_LAYOUT  1u
#define MAP_ENTRIES (1u << 20)
#define MAP_BYTES   (1u << 20) /* of a key or a value */
#define MAP_NONE    UINT64_MAX

enum { SLOT_FREE = 0, SLOT_USED = 1 };

/* Links are indexes + 1; 0 is the end. */
typedef struct {
    uint32_t layout; /* 0: new */
    uint32_t free_slots;
    uint32_t used;
    uint32_t repairs;
    uint32_t max_key;
    uint32_t max_value;
    uint64_t seq;
    uint64_t next_over_ms; /* no entry is over before this */
    unsigned char seed[crypto_shorthash_KEYBYTES];
} map_head_t;

typedef struct {
    uint32_t state;
    uint32_t next;
    uint32_t key_len;
    uint32_t value_len;
    uint64_t hash;
    uint64_t seq;     /* of two with one key the greater one counts */
    uint64_t over_ms; /* MAP_NONE: never */
    char bytes[];     /* max_key, then the value */
} map_slot_t;

struct kars_map_s {
    kars_area_t *area;
    map_head_t *head;
    uint32_t *buckets;
    char *slots;
    size_t slot_size;
    uint32_t nslots;
    uint32_t nbuckets;
    uint32_t max_key;
    uint32_t max_value;
    kars__map_clock_t clock;
    char *scratch; /* max_key + max_value */
};

static map_slot_t *
map_slot(const kars_map_t *m, uint32_t link)
{
    return (map_slot_t *) (void *) (m->slots + (link - 1) * m->slot_size);
}

static kars_str_t
slot_key(const map_slot_t *s)
{
    return (kars_str_t){ s->bytes, s->key_len };
}

static kars_str_t
slot_value(const kars_map_t *m, const map_slot_t *s)
{
    return (kars_str_t){ s->bytes + m->max_key, s->value_len };
}

static uint64_t
map_hash(const kars_map_t *m, kars_str_t key)
{
    unsigned char out[crypto_shorthash_BYTES];
    uint64_t hash;

    (void) crypto_shorthash(out, (const unsigned char *) key.data, key.len,
                            m->head->seed);
    memcpy(&hash, out, sizeof(hash));
    return hash;
}

static uint32_t *
map_bucket(const kars_map_t *m, uint64_t hash)
{
    return &m->buckets[hash & (m->nbuckets - 1)];
}

/* The link of the entry; 0: there is none. *ret_at: what points to it. */
static uint32_t
map_find(const kars_map_t *m, kars_str_t key, uint64_t hash, uint32_t **ret_at)
{
    uint32_t *at = map_bucket(m, hash);

    while (*at != 0) {
        map_slot_t *s = map_slot(m, *at);

        if (s->hash == hash && kars_str_eq(slot_key(s), key)) {
            break;
        }
        at = &s->next;
    }
    *ret_at = at;
    return *at;
}

/* The state says so before any link does: a death in between leaves no entry
 * that only half exists. */
static void
map_free(kars_map_t *m, uint32_t *at)
{
    uint32_t link = *at;
    map_slot_t *s = map_slot(m, link);

    __atomic_store_n(&s->state, SLOT_FREE, __ATOMIC_RELEASE);
    *at = s->next;
    s->next = m->head->free_slots;
    m->head->free_slots = link;
    m->head->used--;
}

static void
map_link(kars_map_t *m, uint32_t link)
{
    map_slot_t *s = map_slot(m, link);
    uint32_t *bucket = map_bucket(m, s->hash);

    s->next = *bucket;
    *bucket = link;
    m->head->used++;
}

/* One slot, as it was found: into a chain, or to those that are free. */
static void
map_relink(kars_map_t *m, uint32_t link)
{
    map_slot_t *s = map_slot(m, link);
    uint32_t *at;

    if (s->state == SLOT_USED && s->key_len <= m->max_key &&
        s->value_len <= m->max_value) {
        uint32_t other = map_find(m, slot_key(s), s->hash, &at);

        if (other == 0 || map_slot(m, other)->seq < s->seq) {
            if (other != 0) {
                map_free(m, at);
            }
            map_link(m, link);
            return;
        }
    }
    s->state = SLOT_FREE;
    s->next = m->head->free_slots;
    m->head->free_slots = link;
}

/* All links are made anew from what the slots say of themselves. */
static void
map_repair(kars_map_t *m)
{
    map_head_t *h = m->head;

    memset(m->buckets, 0, m->nbuckets * sizeof(*m->buckets));
    h->free_slots = 0;
    h->used = 0;
    h->next_over_ms = 0;
    for (uint32_t link = m->nslots; link > 0; link--) {
        if (map_slot(m, link)->seq > h->seq) {
            h->seq = map_slot(m, link)->seq;
        }
        map_relink(m, link);
    }
}

static void
map_lock(kars_map_t *m)
{
    if (kars__area_lock(m->area) == KARS_DONE && m->head->layout != 0) {
        m->head->repairs++;
        map_repair(m);
    }
}

static void
map_unlock(kars_map_t *m)
{
    kars__area_unlock(m->area);
}

static uint64_t
map_now(const kars_map_t *m)
{
    return m->clock.now_ms(m->clock.of);
}

static int
map_check(const kars_map_def_t *def, kars_err_t *err)
{
    if (def->max_entries == 0 || def->max_entries > MAP_ENTRIES ||
        def->max_key == 0 || def->max_key > MAP_BYTES ||
        def->max_value > MAP_BYTES || def->version >= 1u << 24) {
        return kars__err(err, 0,
                         "map \"%.*s\": a map has 1 to %u entries, keys of 1 "
                         "and values of 0 to %u bytes, a version below 2^24",
                         KARS_STR_ARG(def->name), MAP_ENTRIES, MAP_BYTES);
    }
    return KARS_OK;
}

kars_map_t *
kars__map_open(kars_pool_t *pool, kars_zone_t *zone, const kars_map_def_t *def,
               kars__map_clock_t clock, kars_err_t *err)
{
    if (map_check(def, err) != KARS_OK) {
        return NULL;
    }

    kars_map_t *m = kars__pnew(pool, kars_map_t);
    char *scratch = kars__palloc(pool, (size_t) def->max_key + def->max_value);

    if (m == NULL || scratch == NULL || sodium_init() < 0) {
        (void) kars__err(err, ENOMEM, "map \"%.*s\"", KARS_STR_ARG(def->name));
        return NULL;
    }
    *m = (kars_map_t){ .nslots = def->max_entries + 1,
                       .nbuckets = 1,
                       .max_key = def->max_key,
                       .max_value = def->max_value,
                       .clock = clock,
                       .scratch = scratch };
    while (m->nbuckets < m->nslots) {
        m->nbuckets *= 2;
    }
    m->slot_size = (sizeof(map_slot_t) + def->max_key + def->max_value + 15) &
                   ~(size_t) 15;

    size_t links = (m->nbuckets * sizeof(uint32_t) + 15) & ~(size_t) 15;
    size_t head = (sizeof(map_head_t) + 15) & ~(size_t) 15;
    kars_str_t name = kars__pprintf(pool, "m.%.*s", KARS_STR_ARG(def->name));

    m->area =
        kars__zone_area(zone, name, head + links + m->nslots * m->slot_size,
                        def->version << 8 | MAP_LAYOUT, err);
    if (m->area == NULL) {
        return NULL;
    }

    char *p = kars__area_data(m->area);

    m->head = (map_head_t *) (void *) p;
    m->buckets = (uint32_t *) (void *) (p + head);
    m->slots = p + head + links;
    map_lock(m);
    if (m->head->layout == 0) {
        randombytes_buf(m->head->seed, sizeof(m->head->seed));
        m->head->max_key = m->max_key;
        m->head->max_value = m->max_value;
        map_repair(m);
        __atomic_store_n(&m->head->layout, MAP_LAYOUT, __ATOMIC_RELEASE);
    }

    int same = m->head->max_key == m->max_key;

    map_unlock(m);
    if (!same) { /* limits that happen to need as many bytes */
        (void) kars__err(err, 0,
                         "map \"%.*s\" is there with other limits: raise its "
                         "version",
                         KARS_STR_ARG(def->name));
        return NULL;
    }
    return m;
}

int
kars__map_get(kars_map_t *m, kars_str_t key, kars_pool_t *pool, kars_str_t *ret)
{
    uint64_t now = map_now(m), hash = map_hash(m, key);
    uint32_t *at;
    int rc = KARS_DECLINED;

    map_lock(m);
    if (map_find(m, key, hash, &at) != 0 && map_slot(m, *at)->over_ms > now) {
        *ret = kars__pdup(pool, slot_value(m, map_slot(m, *at)));
        rc = ret->data != NULL ? KARS_OK : KARS_ERROR;
    }
    map_unlock(m);
    return rc;
}

/* Entries that are over go; the time of the next one that will be is noted. */
static void
map_sweep(kars_map_t *m, uint64_t now)
{
    uint64_t next = MAP_NONE;

    if (now < m->head->next_over_ms) {
        return;
    }
    for (uint32_t link = 1; link <= m->nslots; link++) {
        map_slot_t *s = map_slot(m, link);
        uint32_t *at;

        if (s->state != SLOT_USED) {
            continue;
        }
        if (s->over_ms <= now) {
            (void) map_find(m, slot_key(s), s->hash, &at);
            map_free(m, at);
        } else if (s->over_ms < next) {
            next = s->over_ms;
        }
    }
    m->head->next_over_ms = next;
}

/* There is one slot more than entries, so that the new entry is whole before
 * the old one goes. */
static int
map_store(kars_map_t *m, kars_str_t key, uint64_t hash,
          const kars__map_new_t *new, uint64_t now)
{
    map_head_t *h = m->head;
    uint32_t *at;
    uint32_t old = map_find(m, key, hash, &at);

    if (old == 0 && h->used >= m->nslots - 1) {
        map_sweep(m, now);
    }
    if (h->free_slots == 0 || (old == 0 && h->used >= m->nslots - 1)) {
        return KARS_ERROR;
    }

    uint32_t link = h->free_slots;
    map_slot_t *s = map_slot(m, link);
    uint64_t over = new->ttl_ms == 0 || new->ttl_ms >= MAP_NONE - now
                        ? MAP_NONE
                        : now + new->ttl_ms;

    h->free_slots = s->next;
    s->hash = hash;
    s->seq = ++h->seq;
    s->over_ms = over;
    s->key_len = (uint32_t) key.len;
    s->value_len = (uint32_t) new->len;
    memcpy(s->bytes, key.data, key.len);
    if (new->len != 0) {
        memcpy(s->bytes + m->max_key, new->value, new->len);
    }
    if (over < h->next_over_ms) {
        h->next_over_ms = over;
    }
    __atomic_store_n(&s->state, SLOT_USED, __ATOMIC_RELEASE);
    if (old != 0) {
        map_free(m, at);
    }
    map_link(m, link);
    return KARS_OK;
}

int
kars__map_update(kars_map_t *m, kars_str_t key,
                 int (*fn)(kars_str_t old, kars__map_new_t *ret, void *data),
                 void *data)
{
    kars__map_new_t new = { .value = m->scratch };
    uint64_t now = map_now(m), hash = map_hash(m, key);
    kars_str_t old = { NULL, 0 };
    uint32_t *at;

    if (key.len == 0 || key.len > m->max_key) {
        return KARS_ERROR;
    }
    map_lock(m);
    if (map_find(m, key, hash, &at) != 0) {
        if (map_slot(m, *at)->over_ms > now) {
            old = slot_value(m, map_slot(m, *at));
        } else {
            map_free(m, at);
        }
    }

    int rc = fn(old, &new, data);

    if (rc == KARS_OK) {
        rc = map_store(m, key, hash, &new, now);
    } else if (rc == KARS_DONE && old.data != NULL) {
        map_free(m, at);
    }
    map_unlock(m);
    return rc;
}

typedef struct {
    const kars_map_t *map;
    kars_str_t value;
    uint64_t ttl_ms;
    uint32_t flags;
} map_put_t;

static int
map_put_fn(kars_str_t old, kars__map_new_t *ret, void *data)
{
    const map_put_t *put = data;

    if (old.data != NULL && (put->flags & KARS_NEW_ONLY)) {
        return KARS_DECLINED;
    }
    if (put->value.len != 0) {
        memcpy(ret->value, put->value.data, put->value.len);
    }
    ret->len = put->value.len;
    ret->ttl_ms = put->ttl_ms;
    return KARS_OK;
}

int
kars__map_put(kars_map_t *m, kars_str_t key, kars_str_t value, uint64_t ttl_ms,
              uint32_t flags)
{
    map_put_t put = { m, value, ttl_ms, flags };

    return value.len <= m->max_value
               ? kars__map_update(m, key, map_put_fn, &put)
               : KARS_ERROR;
}

static int
map_delete_fn(kars_str_t old, kars__map_new_t *ret, void *data)
{
    return old.data != NULL ? KARS_DONE : KARS_DECLINED;
}

int
kars__map_delete(kars_map_t *m, kars_str_t key)
{
    return kars__map_update(m, key, map_delete_fn, NULL) == KARS_DONE
               ? KARS_OK
               : KARS_DECLINED;
}

/* A copy of the entry in the slot into bytes; its seq, 0: there is none. */
static uint64_t
map_copy(kars_map_t *m, uint32_t link, char *bytes, kars_str_t *key,
         kars_str_t *value)
{
    uint64_t now = map_now(m), seq = 0;

    map_lock(m);

    const map_slot_t *s = map_slot(m, link);

    if (s->state == SLOT_USED && s->over_ms > now) {
        memcpy(bytes, s->bytes, m->max_key + m->max_value);
        *key = (kars_str_t){ bytes, s->key_len };
        *value = (kars_str_t){ bytes + m->max_key, s->value_len };
        seq = s->seq;
    }
    map_unlock(m);
    return seq;
}

/* Unless it was changed since it was copied. */
static void
map_delete_seq(kars_map_t *m, uint32_t link, uint64_t seq)
{
    uint32_t *at;

    map_lock(m);

    map_slot_t *s = map_slot(m, link);

    if (s->state == SLOT_USED && s->seq == seq) {
        (void) map_find(m, slot_key(s), s->hash, &at);
        map_free(m, at);
    }
    map_unlock(m);
}

void
kars__map_each(kars_map_t *m,
               int (*fn)(kars_str_t key, kars_str_t value, void *data),
               void *data)
{
    char *bytes = kars__alloc((size_t) m->max_key + m->max_value);
    int rc = bytes != NULL ? KARS_OK : KARS_DONE;

    for (uint32_t link = 1; link <= m->nslots && rc != KARS_DONE; link++) {
        kars_str_t key, value;
        uint64_t seq = map_copy(m, link, bytes, &key, &value);

        if (seq == 0) {
            continue;
        }
        rc = fn(key, value, data);
        if (rc == KARS_DECLINED) {
            map_delete_seq(m, link, seq);
        }
    }
    kars__free(bytes);
}

uint32_t
kars__map_used(kars_map_t *m)
{
    map_lock(m);

    uint32_t n = m->head->used;

    map_unlock(m);
    return n;
}

uint32_t
kars__map_repairs(kars_map_t *m)
{
    return m->head->repairs;
}
