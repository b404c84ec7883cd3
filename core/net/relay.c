/* relay.c - bytes between two sockets. */
#include "net/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define RELAY_STEPS 16          /* pieces of one direction in one turn */
#define RELAY_PIECE (1u << 16u) /* what a pipe of the default size holds */

/* Pipes. */

static int
pipe_take(kars__pipes_t *p, int ret[2])
{
    if (p->n > 0) {
        p->n--;
        ret[0] = p->fds[p->n][0];
        ret[1] = p->fds[p->n][1];
        return KARS_OK;
    }
    return pipe2(ret, O_NONBLOCK | O_CLOEXEC) == 0 ? KARS_OK : KARS_ERROR;
}

/* Only an empty one may come back. */
static void
pipe_give(kars__pipes_t *p, int fds[2], int is_empty)
{
    if (is_empty && p->n < KARS__PIPES) {
        p->fds[p->n][0] = fds[0];
        p->fds[p->n][1] = fds[1];
        p->n++;
    } else {
        (void) close(fds[0]);
        (void) close(fds[1]);
    }
    fds[0] = fds[1] = -1;
}

void
kars__pipes_done(kars__pipes_t *p)
{
    while (p->n > 0) {
        p->n--;
        (void) close(p->fds[p->n][0]);
        (void) close(p->fds[p->n][1]);
    }
}

/* One direction. */

static int
flow_holds(const kars__flow_t *f)
{
    return f->chain != NULL || f->piped != 0;
}

static void
flow_let_go(kars__relay_t *r, kars__flow_t *f)
{
    if (f->pipe[0] != -1) {
        pipe_give(r->pipes, f->pipe, f->piped == 0);
    }
    f->piped = 0;
}

/* What is held goes out. 0, EAGAIN: not all, or the errno that ends it. */
static int
flow_out(kars__flow_t *f, kars__sock_t *to)
{
    while (f->chain != NULL) {
        ssize_t n = kars__sock_sendv(to, f->chain);

        if (n < 0) {
            return errno;
        }
        f->bytes += (uint64_t) n;
        f->chain = kars__chain_consume(f->chain, (size_t) n);
    }
    while (f->piped != 0) {
        ssize_t n = splice(f->pipe[0], NULL, to->fd, NULL, f->piped,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

        if (n <= 0) {
            return n == 0 ? EPIPE : errno;
        }
        f->bytes += (uint64_t) n;
        f->piped -= (size_t) n;
    }
    return 0;
}

/* Through memory. */
static int
flow_copy_in(kars__relay_t *r, kars__flow_t *f, kars__sock_t *from)
{
    kars__block_t *block = kars__block_get(0);

    if (block == NULL) {
        return ENOMEM;
    }

    ssize_t n = kars__sock_recv(from, block->data, block->size);
    int e = n < 0 ? errno : 0;

    if (n == 0) {
        f->eof = 1;
    } else if (n > 0) {
        f->chain = kars__buf_view(&r->bufs, block, block->data, (size_t) n);
        e = f->chain == NULL ? ENOMEM : 0;
    }
    kars__block_unref(block);
    return e;
}

/* More comes in. 0 (maybe the end), EAGAIN: nothing is there, or the errno. */
static int
flow_in(kars__relay_t *r, kars__flow_t *f, kars__sock_t *from,
        const kars__sock_t *to)
{
    if (r->copies || !from->ops->plain || !to->ops->plain ||
        (f->pipe[0] == -1 && pipe_take(r->pipes, f->pipe) != KARS_OK)) {
        return flow_copy_in(r, f, from);
    }

    ssize_t n = splice(from->fd, NULL, f->pipe[1], NULL, RELAY_PIECE,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

    if (n > 0) {
        f->piped = (size_t) n;
    } else if (n == 0) {
        f->eof = 1;
    } else if (errno == EINVAL) { /* no such pair of files: from now on so */
        r->copies = 1;
        return flow_copy_in(r, f, from);
    } else {
        return errno;
    }
    return 0;
}

/* 0, or the errno that ends the relay. */
static int
flow_run(kars__relay_t *r, int d)
{
    kars__flow_t *f = &r->flow[d];
    kars__sock_t *from = r->end[d], *to = r->end[1 - d];
    int e = 0;

    for (int i = 0; i < RELAY_STEPS && e == 0; i++) {
        e = flow_out(f, to);
        if (e == 0 && f->eof) {
            if (!f->shut) {
                f->shut = 1;
                to->ops->shut(to);
            }
            break;
        }
        if (e == 0) {
            e = flow_in(r, f, from, to);
        }
    }
    if (!flow_holds(f)) {
        flow_let_go(r, f);
    }
    return e == EAGAIN || e == EINTR ? 0 : e;
}

/* Both. */

static void
relay_end(kars__relay_t *r, int error)
{
    if (!r->over) {
        kars__relay_stop(r);
        r->done(r, error);
    }
}

static void
relay_idle_over(kars__timer_t *t)
{
    relay_end((kars__relay_t *) ((char *) t - offsetof(kars__relay_t, idle)),
              ETIMEDOUT);
}

static void
relay_total_over(kars__timer_t *t)
{
    relay_end((kars__relay_t *) ((char *) t - offsetof(kars__relay_t, total)),
              ETIMEDOUT);
}

static void
relay_want(kars__relay_t *r)
{
    uint32_t want[2] = { 0, 0 };

    for (int d = 0; d < 2; d++) {
        if (flow_holds(&r->flow[d])) {
            want[1 - d] |= KARS__WRITE;
        } else if (!r->flow[d].eof) {
            want[d] |= KARS__READ;
        }
    }
    kars__sock_want(r->end[0], want[0]);
    kars__sock_want(r->end[1], want[1]);
}

void
kars__relay_run(kars__relay_t *r)
{
    uint64_t before = r->flow[0].bytes + r->flow[1].bytes;
    int e = 0;

    if (r->over) {
        return;
    }
    for (int d = 0; d < 2 && e == 0; d++) {
        e = flow_run(r, d);
    }
    if (e != 0 || (r->flow[0].shut && r->flow[1].shut)) {
        relay_end(r, e);
        return;
    }
    if (r->flow[0].bytes + r->flow[1].bytes != before) {
        kars__relay_idle(r, r->idle_ms);
    }
    relay_want(r);
}

void
kars__relay_idle(kars__relay_t *r, uint64_t idle_ms)
{
    r->idle_ms = idle_ms;
    if (idle_ms != 0) {
        kars__timer_start(r->loop, &r->idle, idle_ms);
    } else {
        kars__timer_stop(r->loop, &r->idle);
    }
}

int
kars__relay_start(kars__relay_t *r, kars__loop_t *loop, kars__pipes_t *pipes,
                  kars__sock_t *a, kars__sock_t *b, kars_str_t first,
                  uint64_t idle_ms, uint64_t total_ms,
                  void (*done)(kars__relay_t *r, int error))
{
    memset(r, 0, sizeof(*r));
    r->loop = loop;
    r->pipes = pipes;
    r->end[0] = a;
    r->end[1] = b;
    r->done = done;
    r->idle.fn = relay_idle_over;
    r->total.fn = relay_total_over;
    for (int d = 0; d < 2; d++) {
        r->flow[d].pipe[0] = r->flow[d].pipe[1] = -1;
    }
    if (first.len != 0) {
        r->flow[0].chain = kars__buf_copy(&r->bufs, first);
        if (r->flow[0].chain == NULL) {
            r->over = 1;
            return KARS_ERROR;
        }
    }
    kars__relay_idle(r, idle_ms);
    if (total_ms != 0) {
        kars__timer_start(loop, &r->total, total_ms);
    }
    /* Not run from here: done may free what the caller still holds. */
    kars__sock_want(a, KARS__READ | KARS__WRITE);
    kars__sock_want(b, KARS__READ | KARS__WRITE);
    return KARS_OK;
}

void
kars__relay_stop(kars__relay_t *r)
{
    if (r->over) {
        return;
    }
    r->over = 1;
    kars__timer_stop(r->loop, &r->idle);
    kars__timer_stop(r->loop, &r->total);
    for (int d = 0; d < 2; d++) {
        kars__sock_want(r->end[d], 0);
        flow_let_go(r, &r->flow[d]);
        r->flow[d].chain = NULL;
    }
    kars__bufs_done(&r->bufs);
}
