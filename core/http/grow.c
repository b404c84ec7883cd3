/* grow.c - answers that grow: what a module writes is queued and goes through
 * the response filters from the loop, never from inside its call. */
#include "http/recheck.h"
#include "http/request.h"

#include <errno.h>

#define GROW_HIGH  (256u * 1024u)       /* bytes unsent: AGAIN */
#define GROW_LOW   (64u * 1024u)        /* and then room */
#define GROW_MAX   (4u * 1024u * 1024u) /* who writes on all the same is cut */
#define GROW_PIECE 4096u                /* small pieces share a block */

struct kars__grow_s {
    kars_req_t *r;
    kars_answer_t answer;
    uint32_t mod;
    kars__work_t work;
    kars_buf_t *queue; /* written, not yet given to the filters */
    kars_buf_t *last;
    size_t queued;
    kars__block_t *piece; /* of the last one: small pieces are put behind */
    uint32_t flags;       /* of what is queued */
    int error;            /* of answer_end() */
    uint8_t full;         /* AGAIN was said: room is owed */
    uint8_t ended;        /* by the module */
    uint8_t over;         /* nobody takes it any more */
};

typedef kars__grow_t grow_t;

static void grow_run(kars__work_t *work);

int
kars__answer_begin(kars_req_t *r, const kars_answer_t *answer)
{
    kars_answer_t a = { 0 };
    grow_t *g;

    memcpy(&a, answer, answer->size < sizeof(a) ? answer->size : sizeof(a));
    if (r->answer != KARS__ANSWER_NONE || r->phase != KARS_PHASE_CONTENT ||
        r->suspended || kars__mod_now == NULL || a.status < 200 ||
        a.status > 599) {
        return KARS_ERROR;
    }
    g = kars__pnew(r->pool, grow_t);
    a.content_type = kars__pdup(r->pool, a.content_type);
    if (g == NULL || a.content_type.data == NULL ||
        (a.content_type.len != 0 &&
         (!kars__head_value_ok(a.content_type) ||
          kars__headers_set(r->pool, &r->out, KARS_STR("content-type"),
                            a.content_type) != KARS_OK))) {
        return KARS_ERROR;
    }
    g->r = r;
    g->answer = a;
    g->mod = kars__mod_now->index;
    g->work.fn = grow_run;
    r->grow = g;
    r->status = a.status;
    r->open_ended = (a.flags & KARS_OPEN_ENDED) != 0;
    r->answer = KARS__ANSWER_GROWS;
    if (r->open_ended ||
        kars__str_istarts(a.content_type, KARS_STR("text/event-stream"))) {
        g->flags = KARS_FLUSH; /* the head goes before there are events */
        kars__work_queue(r->cycle->loop, &g->work, KARS__POST);
    }
    return KARS_AGAIN;
}

static void
grow_tell(grow_t *g, void (*fn)(kars_req_t *r, void *data))
{
    kars__mod_t *was = kars__mod_now;

    if (fn != NULL) {
        kars__mod_now = g->r->cycle->mods[g->mod];
        fn(g->r, g->answer.data);
        kars__mod_now = was;
    }
}

static void
grow_stop(grow_t *g)
{
    g->over = 1;
    kars__work_cancel(g->r->cycle->loop, &g->work);
    kars__chain_free(g->queue);
    g->queue = g->last = NULL;
    g->queued = 0;
    g->piece = NULL;
}

void
kars__grow_drop(kars_req_t *r)
{
    if (r->grow != NULL && !r->grow->over) {
        grow_stop(r->grow);
    }
}

void
kars__grow_gone(kars_req_t *r)
{
    grow_t *g = r->grow;

    if (g != NULL && !g->over) {
        int ended = g->ended;

        grow_stop(g);
        if (!ended) {
            grow_tell(g, g->answer.gone);
        }
    }
}

/* Bytes that the client has not taken. */
static size_t
grow_unsent(const grow_t *g)
{
    return g->queued + g->r->proto->unsent(g->r);
}

static int
grow_is_full(const grow_t *g)
{
    return grow_unsent(g) > GROW_HIGH || kars__filters_busy(g->r);
}

void
kars__grow_room(kars_req_t *r)
{
    grow_t *g = r->grow;

    if (g != NULL && g->full && !g->over && !g->ended &&
        grow_unsent(g) < GROW_LOW && !kars__filters_busy(r)) {
        g->full = 0;
        grow_tell(g, g->answer.room);
    }
}

/* The module failed its answer: it must not look whole. */
static void
grow_fail(grow_t *g)
{
    kars_req_t *r = g->r;
    int late = g->error == ETIMEDOUT;
    int status = late ? 504 : 502;
    const char *code = late ? "upstream_timeout" : "bad_gateway";
    const char *reason = late ? "the answer did not come in time"
                              : "the answer broke off at its source";

    if (r->head_sent || r->head_filtered) {
        kars__req_fail_late(r, status, "proxy_error", code, reason);
        return;
    }
    r->answer = KARS__ANSWER_NONE;
    r->out.n = 0;
    kars__filters_no_scan(r);
    (void) kars__req_refuse(r, status, "proxy_error", code, reason);
    kars__req_send_answer(r);
}

/* OK: the answer goes on. */
static int
grow_head(grow_t *g)
{
    kars_req_t *r = g->r;
    int rc = r->head_filtered ? KARS_OK : kars__filters_head(r);

    if (rc == KARS_OK) {
        return KARS_OK;
    }
    kars__grow_gone(r);
    if (rc == KARS_DONE) {
        kars__req_send_answer(r);
    } else {
        r->proto->abort(r);
    }
    return KARS_ERROR;
}

static void
grow_run(kars__work_t *work)
{
    grow_t *g = (grow_t *) ((char *) work - offsetof(grow_t, work));
    kars_req_t *r = g->r;
    kars_buf_t *in = g->queue;
    uint32_t flags = g->flags;

    if (g->error != 0 && !r->head_filtered) {
        grow_stop(g);
        grow_fail(g);
        return;
    }
    if (grow_head(g) != KARS_OK) {
        return;
    }
    g->queue = g->last = NULL;
    g->queued = 0;
    g->piece = NULL;
    g->flags = 0;
    if (g->ended && g->error == 0) {
        flags |= KARS_LAST;
    } else if (r->open_ended || r->event_stream) {
        kars__lasting_add(r, NULL);
    }
    (void) kars__filters_body(r, in, flags);
    if (g->error != 0 && !g->over) {
        grow_stop(g);
        grow_fail(g);
    } else if (g->full) {
        kars__grow_room(r);
    }
}

/* Behind the last piece, where there is room. OK, or DECLINED: there is none.
 */
static int
grow_append(grow_t *g, kars_str_t bytes)
{
    kars_buf_t *b = g->last;

    if (b == NULL || g->piece == NULL || g->piece != b->block ||
        b->data + b->len + bytes.len > g->piece->data + g->piece->size) {
        return KARS_DECLINED;
    }
    memcpy((char *) b->data + b->len, bytes.data, bytes.len);
    b->len += bytes.len;
    return KARS_OK;
}

static int
grow_queue(grow_t *g, kars_str_t bytes)
{
    size_t size = bytes.len < GROW_PIECE ? GROW_PIECE : bytes.len;
    kars__block_t *block;
    kars_buf_t *b;

    if (bytes.len == 0 || grow_append(g, bytes) == KARS_OK) {
        return KARS_OK;
    }
    block = kars__block_get(size);
    if (block == NULL) {
        return KARS_ERROR;
    }
    memcpy(block->data, bytes.data, bytes.len);
    b = kars__buf_view(&g->r->bufs, block, block->data, bytes.len);
    kars__block_unref(block); /* the view holds it */
    if (b == NULL) {
        return KARS_ERROR;
    }
    if (g->last != NULL) {
        g->last->next = b;
    } else {
        g->queue = b;
    }
    g->last = b;
    g->piece = block;
    return KARS_OK;
}

int
kars__answer_write(kars_req_t *r, kars_str_t bytes, uint32_t flags)
{
    grow_t *g = r->grow;

    if (g == NULL || g->over || g->ended) {
        return KARS_ERROR;
    }
    if (grow_unsent(g) > GROW_MAX) {
        kars__log(KARS_LOG_ERR,
                  "router: a module writes on where nobody reads module=%s "
                  "trace=%.*s",
                  r->cycle->mods[g->mod]->def.name, KARS_STR_ARG(r->trace));
        r->proto->abort(r);
        return KARS_ERROR;
    }
    if (grow_queue(g, bytes) != KARS_OK) {
        return KARS_ERROR;
    }
    g->queued += bytes.len;
    g->flags |= flags & KARS_FLUSH;
    kars__work_queue(r->cycle->loop, &g->work, KARS__POST);
    if (grow_is_full(g)) {
        g->full = 1;
        return KARS_AGAIN;
    }
    return KARS_OK;
}

int
kars__answer_end(kars_req_t *r, int error)
{
    grow_t *g = r->grow;

    if (g == NULL || g->over || g->ended) {
        return KARS_ERROR;
    }
    g->ended = 1;
    g->error = error;
    kars__work_queue(r->cycle->loop, &g->work, KARS__POST);
    return KARS_OK;
}
