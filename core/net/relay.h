/*
 * relay.h - two sockets joined: what one says the other hears, both ways,
 * until both have said all.
 *
 * Bytes go by splice(2) through a pipe where both ends are plain sockets, and
 * through a block of memory where one is not or no pipe is to be had. Either
 * holds a bounded number of bytes; a side that does not take them stops the
 * reading of the other. A flow that moves nothing holds neither: pipes go back
 * to a small pool of the worker (the kernel counts their pages per account).
 */
#ifndef KARS_NET_RELAY_H
#define KARS_NET_RELAY_H

#include "net/sock.h"

#define KARS__PIPES 32u /* empty ones that are kept open */

/* Zeroed to begin. */
typedef struct {
    int fds[KARS__PIPES][2];
    uint32_t n;
} kars__pipes_t;

void kars__pipes_done(kars__pipes_t *p); /* closes those that are kept */

/* One direction. */
typedef struct {
    kars_buf_t *chain; /* goes out before what is in the pipe */
    int pipe[2];       /* -1: none */
    size_t piped;      /* bytes in it */
    uint64_t bytes;    /* that were handed on */
    uint8_t eof;       /* the source says no more */
    uint8_t shut;      /* and the other end was told */
} kars__flow_t;

typedef struct kars__relay_s kars__relay_t;
struct kars__relay_s {
    kars__loop_t *loop;
    kars__pipes_t *pipes;
    kars__sock_t *end[2];
    kars__flow_t flow[2]; /* 0: from end 0 to end 1 */
    kars__bufs_t bufs;
    kars__timer_t idle;
    kars__timer_t total;
    uint64_t idle_ms; /* without a byte either way: ETIMEDOUT; 0: never */
    uint8_t copies;   /* the kernel would not splice these */
    uint8_t over;
    void (*done)(kars__relay_t *r, int error);
};

/*
 * Joins two connected sockets, which stay their owners'. first: bytes that end
 * 0 said already (copied; KARS_ERROR: no memory). total_ms 0: no limit. done
 * runs once, from the loop: 0 when both sides have said all, else the errno.
 * Whoever hears of either socket's readiness calls kars__relay_run().
 */
int kars__relay_start(kars__relay_t *r, kars__loop_t *loop,
                      kars__pipes_t *pipes, kars__sock_t *a, kars__sock_t *b,
                      kars_str_t first, uint64_t idle_ms, uint64_t total_ms,
                      void (*done)(kars__relay_t *r, int error));
void kars__relay_run(kars__relay_t *r);

/* Another idle time from now on. */
void kars__relay_idle(kars__relay_t *r, uint64_t idle_ms);

/* Lets go of everything but the sockets; done is not called any more. */
void kars__relay_stop(kars__relay_t *r);

#endif
