/* ws.c - WebSockets at work: frames in, frames out, pings, the close. */
#include "http/ws.h"

#include <errno.h>
#include <sys/random.h>

#define WS_READS    8u         /* recv calls for one readiness */
#define WS_CLOSE_MS 5000       /* for the peer's part of a close */
#define WS_DROP_MAX (1u << 20) /* bytes of one that broke the rules */

/* The router's own limits, where a handler names none. */
#define WS_MAX_FRAME   (1u << 20)
#define WS_MAX_MESSAGE (16u << 20)
#define WS_MAX_UNSENT  (1u << 20)
#define WS_PING_MS     30000u
#define WS_PONG_MS     10000u

#define WS_CALL(ws, stmt)                  \
    do {                                   \
        kars__mod_t *was_ = kars__mod_now; \
        kars__mod_now = (ws)->mod;         \
        stmt;                              \
        kars__mod_now = was_;              \
    } while (0)

static void ws_run(kars_ws_t *ws);

static void
ws_later(kars_ws_t *ws)
{
    if (!ws->over) {
        kars__work_queue(ws->cycle->loop, &ws->later, KARS__POST);
    }
}

/* Ends. */

/* Its head may hold a secret. */
void
kars__ws_forget_handshake(kars_ws_t *ws)
{
    if (ws->fields.len != 0) {
        explicit_bzero((void *) (uintptr_t) ws->fields.data, ws->fields.len);
        ws->fields.len = 0;
    }
    kars__pool_destroy(ws->pool);
    ws->pool = NULL;
}

void
kars__ws_free(kars_ws_t *ws)
{
    kars__timer_stop(ws->cycle->loop, &ws->timer);
    kars__work_cancel(ws->cycle->loop, &ws->later);
    if (ws->dial != NULL) {
        kars__dial_close(ws->dial);
    }
    kars__bufs_done(&ws->bufs);
    kars__block_unref(ws->rd);
    kars__free(ws->frame);
    kars__ws_forget_handshake(ws);
    kars__free(ws);
}

void
kars__ws_tell_closed(kars_ws_t *ws, int error)
{
    if (ws->over) {
        return;
    }
    ws->over = 1;
    kars__timer_stop(ws->cycle->loop, &ws->timer);
    kars__work_cancel(ws->cycle->loop, &ws->later);
    if (ws->sock != NULL) {
        kars__sock_want(ws->sock, 0);
    }
    if (ws->handler.closed != NULL) {
        WS_CALL(ws, ws->handler.closed(ws, error, ws->data));
    }
}

void
kars__ws_finish(kars_ws_t *ws, int error)
{
    kars_req_t *r = ws->r;

    if (ws->over) {
        return;
    }
    kars__ws_tell_closed(ws, error);
    if (r != NULL) {
        kars__req_over(r, error, ws->bytes_in, ws->bytes_out);
        if (error != 0) {
            kars__conn_close(r->conn);
        }
        return;
    }
    if (ws->prev != NULL) {
        ws->prev->next = ws->next;
    } else {
        ws->cycle->sockets = ws->next;
    }
    if (ws->next != NULL) {
        ws->next->prev = ws->prev;
    }
    kars__ws_free(ws);
}

void
kars__ws_end_all(kars_cycle_t *cycle)
{
    while (cycle->sockets != NULL) {
        kars__ws_leave(cycle->sockets);
        kars__ws_finish(cycle->sockets, ECANCELED);
    }
}

/* Out. */

/* head and payload in one buffer of our own. */
static int
ws_queue(kars_ws_t *ws, uint32_t opcode, kars_str_t payload)
{
    char head[KARS__WS_HEAD_MAX];
    uint8_t mask[4];

    if (ws->r == NULL && getrandom(mask, sizeof(mask), 0) != sizeof(mask)) {
        return KARS_ERROR;
    }

    size_t n =
        kars__wsf_put(head, opcode, payload.len, ws->r == NULL ? mask : NULL);
    kars__block_t *b = kars__block_get(n + payload.len);

    if (b == NULL) {
        return KARS_ERROR;
    }
    memcpy(b->data, head, n);
    if (payload.len != 0) {
        memcpy(b->data + n, payload.data, payload.len);
    }
    if (ws->r == NULL) {
        kars__wsf_mask(b->data + n, payload.len, mask, 0);
    }

    kars_buf_t *buf = kars__buf_view(&ws->bufs, b, b->data, n + payload.len);

    kars__block_unref(b);
    if (buf == NULL) {
        return KARS_ERROR;
    }
    if (ws->out == NULL) {
        ws->out = buf;
    } else {
        ws->out_last->next = buf;
    }
    ws->out_last = buf;
    ws->out_len += buf->len;
    ws_later(ws);
    return KARS_OK;
}

static int
ws_queue_close(kars_ws_t *ws, uint32_t code, kars_str_t reason)
{
    char text[KARS__WS_CONTROL_MAX];
    size_t n = reason.len < sizeof(text) - 2 ? reason.len : sizeof(text) - 2;

    /* cut at a character */
    while (n < reason.len && n > 0 && (reason.data[n] & 0xc0) == 0x80) {
        n--;
    }
    text[0] = (char) (code >> 8);
    text[1] = (char) code;
    if (n != 0) {
        memcpy(text + 2, reason.data, n);
    }
    ws->sent_close = 1;
    return ws_queue(ws, KARS__WS_CLOSE,
                    (kars_str_t){ text, code == 1005 ? 0 : n + 2 });
}

int
kars__ws_write(kars_ws_t *ws, uint32_t opcode, kars_str_t payload)
{
    kars__utf8_t utf8 = { 0 };

    if (ws->over || ws->sent_close || ws->failed ||
        (opcode != KARS__WS_TEXT && opcode != KARS__WS_BINARY &&
         opcode != KARS__WS_PING) ||
        (opcode == KARS__WS_PING && payload.len > KARS__WS_CONTROL_MAX) ||
        payload.len > ws->handler.max_unsent ||
        ws->out_len > ws->handler.max_unsent - payload.len) {
        return KARS_ERROR;
    }
    if (opcode == KARS__WS_TEXT &&
        (kars__utf8_feed(&utf8, payload.data, payload.len) != KARS_OK ||
         utf8.need != 0)) {
        return KARS_ERROR; /* the peer would have to close for it */
    }
    if (ws_queue(ws, opcode, payload) != KARS_OK) {
        return KARS_ERROR;
    }
    if (ws->out_len <= ws->handler.max_unsent / 2) {
        return KARS_OK;
    }
    ws->wants_room = 1;
    return KARS_AGAIN;
}

static void
ws_closing(kars_ws_t *ws)
{
    kars__timer_stop(ws->cycle->loop, &ws->timer);
    kars__timer_start(ws->cycle->loop, &ws->timer, WS_CLOSE_MS);
    ws_later(ws);
}

void
kars__ws_close(kars_ws_t *ws, uint32_t code, kars_str_t reason)
{
    if (ws->over || ws->sent_close || ws->failed) {
        return;
    }
    if (ws_queue_close(ws, code, reason) != KARS_OK) {
        ws->failed = 1;
        ws->error = ENOMEM;
    }
    ws_closing(ws);
}

void
kars__ws_leave(kars_ws_t *ws)
{
    if (ws->over || !ws->open || ws->sent_close || ws->sock == NULL) {
        return;
    }
    (void) ws_queue_close(ws, KARS__WS_GOING_AWAY, KARS_STR("the router ends"));
    if (ws->out != NULL) {
        (void) !kars__sock_sendv(ws->sock, ws->out);
    }
    kars__work_cancel(ws->cycle->loop, &ws->later);
}

/* The peer broke the rules: told so, and heard no more. */
static void
ws_fail(kars_ws_t *ws, uint32_t code)
{
    if (!ws->sent_close) {
        (void) ws_queue_close(ws, code, KARS_STR(""));
    }
    ws->failed = 1;
    ws->error = code == KARS__WS_TOO_BIG    ? EMSGSIZE
                : code == KARS__WS_NOT_TEXT ? EILSEQ
                : code == KARS__WS_INTERNAL ? ECONNABORTED
                                            : EPROTO;
    ws_closing(ws);
}

/* ERROR: the connection is broken. */
static int
ws_flush(kars_ws_t *ws)
{
    while (ws->out != NULL) {
        ssize_t n = kars__sock_sendv(ws->sock, ws->out);

        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK ? KARS_OK
                                                           : KARS_ERROR;
        }
        ws->bytes_out += (uint64_t) n;
        ws->out_len -= (size_t) n;
        ws->out = kars__chain_consume(ws->out, (size_t) n);
    }
    return KARS_OK;
}

/* In. */

static void
ws_heard(kars_ws_t *ws)
{
    ws->pinged = 0;
    if (!ws->sent_close && !ws->failed && !ws->paused) {
        kars__timer_start(ws->cycle->loop, &ws->timer, ws->handler.ping_ms);
    }
}

static void
ws_control(kars_ws_t *ws, const kars__wsf_part_t *part)
{
    kars_str_t payload = { ws->control, ws->control_len };
    uint32_t code;

    switch (part->opcode) {
    case KARS__WS_PING:
        /* One that sends pings and reads no pongs is not answered for ever. */
        if (!ws->sent_close && ws->out_len <= ws->handler.max_unsent) {
            (void) ws_queue(ws, KARS__WS_PONG, payload);
        }
        break;
    case KARS__WS_CLOSE:
        if (kars__wsf_close(payload.data, payload.len, &code) != KARS_OK) {
            ws_fail(ws, code);
            break;
        }
        ws->got_close = 1;
        if (!ws->sent_close) {
            (void) ws_queue_close(ws, code, KARS_STR(""));
        }
        ws_closing(ws);
        break;
    default:
        break; /* a pong: it was heard */
    }
}

static void
ws_deliver(kars_ws_t *ws, const kars__wsf_part_t *part, kars_str_t payload)
{
    int rc = KARS_OK;

    if (ws->handler.frame != NULL && !ws->sent_close) {
        WS_CALL(ws, rc = ws->handler.frame(
                        ws, part->opcode, payload,
                        (part->first ? (uint32_t) KARS_FIRST : 0) |
                            (part->last ? (uint32_t) KARS_LAST : 0),
                        ws->data));
    }
    if (rc == KARS_ERROR) {
        ws_fail(ws, KARS__WS_INTERNAL);
    }
}

/* Grows with what has come, not with what was announced. */
static int
ws_gather(kars_ws_t *ws, const kars__wsf_part_t *part)
{
    if (ws->frame_len + part->len > ws->frame_cap) {
        size_t cap = ws->frame_cap == 0 ? 4096 : ws->frame_cap;

        while (cap < ws->frame_len + part->len) {
            cap *= 2;
        }

        char *frame = kars__realloc(ws->frame, cap);

        if (frame == NULL) {
            return KARS_ERROR;
        }
        ws->frame = frame;
        ws->frame_cap = cap;
    }
    if (part->len != 0) {
        memcpy(ws->frame + ws->frame_len, part->data, part->len);
    }
    ws->frame_len += part->len;
    return KARS_OK;
}

static void
ws_part(kars_ws_t *ws, const kars__wsf_part_t *part)
{
    if (part->opcode >= KARS__WS_CLOSE) {
        ws->control_len = part->begins ? 0 : ws->control_len;
        if (part->len != 0) {
            memcpy(ws->control + ws->control_len, part->data, part->len);
        }
        ws->control_len += (uint32_t) part->len;
        if (part->ends) {
            ws_control(ws, part);
        }
        return;
    }
    if (part->begins && part->ends) {
        ws_deliver(ws, part, (kars_str_t){ part->data, part->len });
        return;
    }
    if (ws_gather(ws, part) != KARS_OK) {
        ws_fail(ws, KARS__WS_TOO_BIG);
        return;
    }
    if (part->ends) {
        ws_deliver(ws, part, (kars_str_t){ ws->frame, ws->frame_len });
        kars__free(ws->frame); /* an idle one holds nothing */
        ws->frame = NULL;
        ws->frame_len = ws->frame_cap = 0;
    }
}

static void
ws_parse(kars_ws_t *ws)
{
    while (ws->rd != NULL && !ws->paused && !ws->failed && !ws->got_close) {
        char *p = ws->rd->data + ws->rd_at;
        kars__wsf_part_t part;
        uint32_t code;
        int rc = kars__wsf_next(&ws->in, &p, ws->rd->data + ws->rd_end, &part,
                                &code);

        ws->rd_at = (uint32_t) (p - ws->rd->data);
        if (rc == KARS_AGAIN) {
            break;
        }
        if (rc == KARS_ERROR) {
            ws_fail(ws, code);
        } else {
            ws_part(ws, &part);
        }
    }
    if (ws->rd != NULL &&
        (ws->rd_at == ws->rd_end || ws->failed || ws->got_close)) {
        kars__block_unref(ws->rd);
        ws->rd = NULL;
        ws->rd_at = ws->rd_end = 0;
    }
}

/* OK; DONE: the peer is gone. */
static int
ws_read(kars_ws_t *ws)
{
    for (unsigned i = 0; i < WS_READS && !ws->paused; i++) {
        if (ws->rd == NULL) {
            ws->rd = kars__block_get(0);
            ws->rd_at = ws->rd_end = 0;
        }
        if (ws->rd == NULL) {
            errno = ENOMEM;
            return KARS_DONE;
        }

        size_t room = ws->rd->size - ws->rd_end;

        if (room == 0) {
            break; /* what is there comes first */
        }

        ssize_t n = kars__sock_recv(ws->sock, ws->rd->data + ws->rd_end, room);

        if (n < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                ws_parse(ws); /* lets go of the block */
                break;
            }
            return KARS_DONE;
        }
        if (n == 0) {
            errno = ECONNRESET; /* without a close */
            return KARS_DONE;
        }
        ws->rd_end += (uint32_t) n;
        ws->bytes_in += (uint64_t) n;
        ws->dropped += ws->failed ? (uint32_t) n : 0;
        if (ws->dropped > WS_DROP_MAX) {
            return KARS_DONE;
        }
        ws_heard(ws);
        ws_parse(ws);
        if ((size_t) n < room) {
            break;
        }
    }
    return KARS_OK;
}

/* What is due, in its order. May end it. */
static void
ws_run(kars_ws_t *ws)
{
    if (ws->owes_open) {
        int rc = KARS_OK;

        ws->owes_open = 0;
        if (ws->handler.open != NULL) {
            WS_CALL(ws, rc = ws->handler.open(ws, ws->data));
        }
        if (rc == KARS_ERROR) {
            ws_fail(ws, KARS__WS_INTERNAL);
        }
    }
    ws_parse(ws);
    if (ws_flush(ws) != KARS_OK) {
        kars__ws_finish(ws, ws->error != 0 ? ws->error : errno);
        return;
    }
    if (ws->out == NULL && ws->got_close && !ws->failed) {
        kars__ws_finish(ws, 0); /* both have said it */
        return;
    }
    if (ws->out == NULL && ws->failed && !ws->shut) {
        ws->shut = 1; /* its end is awaited, so that it can read why */
        ws->sock->ops->shut(ws->sock);
    }
    if (ws->wants_room && !ws->sent_close &&
        ws->out_len <= ws->handler.max_unsent / 4) {
        ws->wants_room = 0;
        if (ws->handler.room != NULL) {
            WS_CALL(ws, ws->handler.room(ws, ws->data));
        }
    }
    kars__sock_want(ws->sock, (ws->paused ? 0 : KARS__READ) |
                                  (ws->out != NULL ? KARS__WRITE : 0));
}

void
kars__ws_ready(kars_ws_t *ws, uint32_t events)
{
    if (ws->over) {
        return;
    }
    if ((events & KARS__READ) && ws_read(ws) == KARS_DONE) {
        kars__ws_finish(ws, ws->error != 0 ? ws->error : errno);
        return;
    }
    ws_run(ws);
}

void
kars__ws_pause(kars_ws_t *ws, int on)
{
    if (ws->over || ws->paused == (on != 0)) {
        return;
    }
    ws->paused = on != 0;
    if (ws->open && !ws->sent_close && !ws->failed) {
        kars__timer_stop(ws->cycle->loop, &ws->timer);
        ws_heard(ws); /* silence is ours meanwhile */
    }
    ws_later(ws);
}

static void
ws_work(kars__work_t *work)
{
    kars_ws_t *ws = (kars_ws_t *) ((char *) work - offsetof(kars_ws_t, later));

    if (ws->open) {
        ws_run(ws);
    }
}

static void
ws_timeout(kars__timer_t *t)
{
    kars_ws_t *ws = (kars_ws_t *) ((char *) t - offsetof(kars_ws_t, timer));

    if (!ws->open || ws->pinged || ws->sent_close || ws->failed) {
        kars__ws_finish(ws, ws->error != 0 ? ws->error : ETIMEDOUT);
        return;
    }
    ws->pinged = 1;
    (void) ws_queue(ws, KARS__WS_PING, KARS_STR(""));
    kars__timer_start(ws->cycle->loop, &ws->timer, ws->handler.pong_ms);
}

/* Making. */

static uint32_t
ws_or(uint32_t value, uint32_t other)
{
    return value != 0 ? value : other;
}

kars_ws_t *
kars__ws_make(kars_cycle_t *cycle, const kars_ws_handler_t *handler, void *data)
{
    kars_ws_t *ws = kars__mod_now != NULL ? kars__alloc(sizeof(*ws)) : NULL;

    if (ws == NULL) {
        return NULL;
    }
    ws->cycle = cycle;
    ws->mod = kars__mod_now;
    ws->data = data;
    memcpy(&ws->handler, handler,
           handler->size < sizeof(ws->handler) ? handler->size
                                               : sizeof(ws->handler));
    ws->handler.max_frame = ws_or(ws->handler.max_frame, WS_MAX_FRAME);
    ws->handler.max_message = ws_or(ws->handler.max_message, WS_MAX_MESSAGE);
    ws->handler.max_unsent = ws_or(ws->handler.max_unsent, WS_MAX_UNSENT);
    ws->handler.ping_ms = ws_or(ws->handler.ping_ms, WS_PING_MS);
    ws->handler.pong_ms = ws_or(ws->handler.pong_ms, WS_PONG_MS);
    ws->in.max_frame = ws->handler.max_frame;
    ws->in.max_message = ws->handler.max_message;
    ws->later.fn = ws_work;
    ws->timer.fn = ws_timeout;
    return ws;
}

void
kars__ws_begin(kars_ws_t *ws, kars__sock_t *sock)
{
    ws->sock = sock;
    ws->in.masked = ws->r != NULL;
    ws->open = 1;
    ws->owes_open = 1;
    kars__timer_stop(ws->cycle->loop, &ws->timer);
    kars__timer_start(ws->cycle->loop, &ws->timer, ws->handler.ping_ms);
    ws_later(ws);
}
