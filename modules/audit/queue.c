/* queue.c - see queue.h. */
#include "audit/queue.h"

#include <errno.h>
#include <sys/mman.h>

#define QUEUE_KEEP (1u << 20) /* pages that stay when the queue is empty */

int
audit_queue_init(audit_queue_t *q, size_t cap)
{
    void *base = mmap(NULL, cap, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED) {
        return errno;
    }

    *q = (audit_queue_t){ .base = base, .cap = cap };
    return 0;
}

void
audit_queue_done(audit_queue_t *q)
{
    if (q->base != NULL) {
        (void) munmap(q->base, q->cap);
    }
    memset(q, 0, sizeof(*q));
}

static int
queue_has_room(const audit_queue_t *q)
{
    return (q->promised + 1) * AUDIT_RECORD_MAX <= q->cap - q->used;
}

int
audit_queue_promise(audit_queue_t *q)
{
    if (!queue_has_room(q)) {
        return 0;
    }

    q->promised++;
    return 1;
}

void
audit_queue_redeem(audit_queue_t *q)
{
    if (q->promised > 0) {
        q->promised--;
    }
}

audit_draft_t *
audit_queue_push(audit_queue_t *q, const audit_fields_t *f)
{
    if (!queue_has_room(q)) {
        return NULL;
    }

    audit_draft_t *d = (audit_draft_t *) (void *) (q->base + q->used);

    q->used += audit_draft(f, d);
    return d;
}

audit_draft_t *
audit_queue_at(const audit_queue_t *q, size_t at)
{
    return at < q->used ? (audit_draft_t *) (void *) (q->base + at) : NULL;
}

void
audit_queue_drop(audit_queue_t *q, size_t n)
{
    size_t was = q->used;

    q->used -= n;
    if (q->used > 0 && n > 0) {
        memmove(q->base, q->base + n, q->used);
    }
    if (was > QUEUE_KEEP && q->used < QUEUE_KEEP) {
        (void) madvise(q->base + QUEUE_KEEP, q->cap - QUEUE_KEEP,
                       MADV_DONTNEED);
    }
}
