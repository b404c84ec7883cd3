/* wait.c - suspensions: numbers that end exactly once, from any thread. */
#include "http/request.h"

#include <errno.h>
#include <pthread.h>

enum { WAIT_FREE = 0, WAIT_WAITS, WAIT_MADE /* nobody waits for it yet */ };

/* A token is generation << 32 | index + 1: a late one finds another
 * generation and does nothing. */
typedef struct {
    kars__timer_t timer; /* first: the timer finds the slot */
    kars__waits_t *all;
    uint32_t index;
    uint32_t generation;
    uint32_t used;      /* WAIT_* */
    uint32_t listed;    /* among those that were made */
    uint32_t next_made; /* of that list, from 1 */
    void (*fn)(void *owner, int error);
    void *owner;
} wait_slot_t;

typedef struct {
    kars_token_t token;
    int error;
} wait_end_t;

struct kars__waits_s {
    kars_cycle_t *cycle;
    wait_slot_t **slots;
    uint32_t nslots;
    uint32_t *free_slots; /* a stack */
    uint32_t nfree;
    uint32_t made; /* the first of them, from 1; some may be taken */
    kars__wake_t wake;
    kars__work_t work;
    kars__work_t reap; /* of those that nobody took */
    pthread_t thread;  /* the loop's */
    pthread_mutex_t lock;
    wait_end_t *ended;
    size_t nended;
    size_t cap;
};

static kars__waits_t *waits_now; /* one loop a process */

/* The slot of a live token, or NULL. */
static wait_slot_t *
wait_slot(const kars__waits_t *w, kars_token_t token)
{
    uint32_t index = (uint32_t) token - 1;

    if ((uint32_t) token == 0 || index >= w->nslots) {
        return NULL;
    }

    wait_slot_t *s = w->slots[index];

    return s->used != WAIT_FREE && s->generation == (uint32_t) (token >> 32)
               ? s
               : NULL;
}

static kars_token_t
wait_token(const wait_slot_t *s)
{
    return (kars_token_t) s->generation << 32 | (s->index + 1);
}

static void
wait_fire(kars__waits_t *w, kars_token_t token, int error)
{
    const wait_slot_t *s = wait_slot(w, token);

    if (s == NULL || s->used != WAIT_WAITS) {
        return;
    }

    void (*fn)(void *, int) = s->fn;
    void *owner = s->owner;

    kars__wait_cancel(w, token);
    fn(owner, error);
}

static void
wait_timeout(kars__timer_t *t)
{
    wait_slot_t *s = (wait_slot_t *) t;

    wait_fire(s->all, wait_token(s), ETIMEDOUT);
}

static void
wait_run(kars__waits_t *w)
{
    (void) pthread_mutex_lock(&w->lock);
    wait_end_t *ended = w->ended;
    size_t n = w->nended;

    w->ended = NULL;
    w->nended = 0;
    w->cap = 0;
    (void) pthread_mutex_unlock(&w->lock);

    for (size_t i = 0; i < n; i++) {
        wait_fire(w, ended[i].token, ended[i].error);
    }
    kars__free(ended);
}

static void
wait_woken(kars__wake_t *wake)
{
    wait_run((kars__waits_t *) ((char *) wake - offsetof(kars__waits_t, wake)));
}

static void
wait_posted(kars__work_t *work)
{
    wait_run((kars__waits_t *) ((char *) work - offsetof(kars__waits_t, work)));
}

/* The hook that made them has returned, and left them alone. */
static void
wait_reap(kars__work_t *work)
{
    kars__waits_t *w =
        (kars__waits_t *) ((char *) work - offsetof(kars__waits_t, reap));

    while (w->made != 0) {
        wait_slot_t *s = w->slots[w->made - 1];

        w->made = s->next_made;
        s->listed = 0;
        if (s->used == WAIT_MADE) {
            kars__wait_cancel(w, wait_token(s));
        }
    }
}

kars__waits_t *
kars__waits_create(kars_cycle_t *cycle, kars_err_t *err)
{
    kars__waits_t *w = kars__alloc(sizeof(*w));

    if (w == NULL) {
        (void) kars__err(err, ENOMEM, "suspensions");
        return NULL;
    }
    w->cycle = cycle;
    w->thread = pthread_self();
    w->work.fn = wait_posted;
    w->reap.fn = wait_reap;
    (void) pthread_mutex_init(&w->lock, NULL);
    kars__wake_start(cycle->loop, &w->wake, wait_woken);
    waits_now = w;
    return w;
}

void
kars__waits_destroy(kars__waits_t *w)
{
    if (w == NULL) {
        return;
    }
    waits_now = NULL;
    kars__wake_stop(&w->wake);
    kars__work_cancel(w->cycle->loop, &w->work);
    kars__work_cancel(w->cycle->loop, &w->reap);
    for (uint32_t i = 0; i < w->nslots; i++) {
        kars__timer_stop(w->cycle->loop, &w->slots[i]->timer);
        kars__free(w->slots[i]);
    }
    kars__free(w->slots);
    kars__free(w->free_slots);
    kars__free(w->ended);
    (void) pthread_mutex_destroy(&w->lock);
    kars__free(w);
}

static int
wait_grow(kars__waits_t *w)
{
    uint32_t n = w->nslots + 64;
    wait_slot_t **slots = kars__realloc(w->slots, n * sizeof(*slots));

    if (slots == NULL) {
        return KARS_ERROR;
    }
    w->slots = slots;

    uint32_t *spare = kars__realloc(w->free_slots, n * sizeof(*spare));

    if (spare == NULL) {
        return KARS_ERROR;
    }
    w->free_slots = spare;
    while (w->nslots < n) {
        wait_slot_t *s = kars__alloc(sizeof(*s));

        if (s == NULL) {
            return w->nfree > 0 ? KARS_OK : KARS_ERROR;
        }
        s->all = w;
        s->index = w->nslots;
        s->timer.fn = wait_timeout;
        w->slots[w->nslots] = s;
        w->free_slots[w->nfree++] = w->nslots++;
    }
    return KARS_OK;
}

kars_token_t
kars__wait_add(kars__waits_t *w, uint32_t timeout_ms,
               void (*fn)(void *owner, int error), void *owner)
{
    if (w->nfree == 0 && wait_grow(w) != KARS_OK) {
        return 0;
    }

    wait_slot_t *s = w->slots[w->free_slots[--w->nfree]];

    s->used = WAIT_WAITS;
    s->generation++;
    s->fn = fn;
    s->owner = owner;
    if (timeout_ms != 0) {
        kars__timer_start(w->cycle->loop, &s->timer, timeout_ms);
    }
    return wait_token(s);
}

void
kars__wait_cancel(kars__waits_t *w, kars_token_t token)
{
    wait_slot_t *s = wait_slot(w, token);

    if (s != NULL) {
        s->used = WAIT_FREE;
        kars__timer_stop(w->cycle->loop, &s->timer);
        w->free_slots[w->nfree++] = s->index;
    }
}

kars_token_t
kars__wait_make(kars__waits_t *w, const kars_req_t *r)
{
    kars_token_t token =
        r->finished ? 0 : kars__wait_add(w, 0, NULL, (void *) r);
    wait_slot_t *s = wait_slot(w, token);

    if (s != NULL) {
        s->used = WAIT_MADE;
        if (!s->listed) {
            s->listed = 1;
            s->next_made = w->made;
            w->made = s->index + 1;
        }
        kars__work_queue(w->cycle->loop, &w->reap, KARS__POST);
    }
    return token;
}

int
kars__wait_take(kars__waits_t *w, kars_token_t token, uint32_t timeout_ms,
                const kars_req_t *r, void (*fn)(void *owner, int error),
                void *owner)
{
    wait_slot_t *s = wait_slot(w, token);

    if (s == NULL || s->used != WAIT_MADE || s->owner != r) {
        return KARS_ERROR;
    }
    s->used = WAIT_WAITS;
    s->fn = fn;
    s->owner = owner;
    if (timeout_ms != 0) {
        kars__timer_start(w->cycle->loop, &s->timer, timeout_ms);
    }
    return KARS_OK;
}

int
kars__wait_waits(kars_token_t token)
{
    return waits_now != NULL && wait_slot(waits_now, token) != NULL;
}

int
kars__wait_end(kars_token_t token, int error)
{
    kars__waits_t *w = waits_now;

    if (w == NULL) {
        return KARS_ERROR;
    }

    (void) pthread_mutex_lock(&w->lock);
    if (w->nended == w->cap) {
        size_t cap = w->cap == 0 ? 64 : w->cap * 2;
        wait_end_t *ended = kars__realloc(w->ended, cap * sizeof(*ended));

        if (ended == NULL) {
            (void) pthread_mutex_unlock(&w->lock);
            return KARS_ERROR; /* its time-out ends it */
        }
        w->ended = ended;
        w->cap = cap;
    }
    w->ended[w->nended].token = token;
    w->ended[w->nended].error = error;
    w->nended++;
    (void) pthread_mutex_unlock(&w->lock);

    if (pthread_equal(pthread_self(), w->thread)) {
        kars__work_queue(w->cycle->loop, &w->work, KARS__POST);
    } else {
        kars__wake(&w->wake);
    }
    return KARS_OK;
}
