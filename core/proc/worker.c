/*
 * worker.c - a worker's life. It says READY once it could serve and accepts
 * when the master tells it to, which is when the whole load is ready. SIGQUIT:
 * finish what is open, then end; SIGTERM and SIGINT: end now; the channel's end
 * (the master died): as SIGTERM.
 */
#include "proc/worker.h"
#include "proc/cycle.h"
#include "proc/harden.h"
#include "proc/logs.h"
#include "proc/tls_set.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

typedef struct {
    kars_cycle_t *cycle;
    int channel;
    kars__io_t channel_io;
    kars__signal_t sig_quit;
    kars__signal_t sig_term;
    kars__signal_t sig_int;
    kars__timer_t drain_timer;
    kars__timer_t delay_timer;
} worker_t;

static worker_t worker;

static void
worker_stop(void)
{
    kars__loop_stop(worker.cycle->loop);
}

static void
worker_drained(kars_cycle_t *cycle)
{
    worker_stop();
}

/* Requests that did not end in time are cut; each still writes its record. */
static void
worker_drain_over(kars__timer_t *t)
{
    kars__log(KARS_LOG_WARN, "worker: drain_timeout over connections=%zu",
              worker.cycle->nconns);
    worker_stop();
}

/* force: idle connections are closed too, there is no successor for them. */
static void
worker_drain(int force)
{
    kars_cycle_t *c = worker.cycle;

    if (!c->draining) {
        kars__log(KARS_LOG_NOTICE, "worker: draining connections=%zu",
                  c->nconns);
        for (kars_listener_t *l = c->listeners; l != NULL; l = l->next) {
            kars__conn_unlisten(l);
            (void) close(l->fd);
            l->fd = -1;
        }
        worker.drain_timer.fn = worker_drain_over;
        kars__timer_start(c->loop, &worker.drain_timer, c->drain_timeout_ms);
        c->drained = worker_drained;
    }
    kars__conn_drain(c, force);
}

static void
worker_quit(kars__signal_t *sig)
{
    worker_drain(0);
}

static void
worker_term(kars__signal_t *sig)
{
    worker_stop();
}

static void
worker_delay_over(kars__timer_t *t)
{
    worker_drain(1);
}

/* The router stops, and nobody comes after. A worker that drains already does
 * not accept any more: there is nothing to be late for. */
static void
worker_end(void)
{
    kars_cycle_t *c = worker.cycle;

    c->ending = 1;
    if (c->draining || c->drain_delay_ms == 0) {
        worker_drain(1);
        return;
    }
    worker.delay_timer.fn = worker_delay_over;
    kars__timer_start(c->loop, &worker.delay_timer, c->drain_delay_ms);
}

static void
worker_told(const kars__ask_t *m)
{
    switch (m->kind) {
    case KARS__TELL_SERVE:
        if (!worker.cycle->draining) {
            kars__cycle_serve(worker.cycle);
        }
        break;
    case KARS__TELL_END:
        worker_end();
        break;
    default:
        kars__log(KARS_LOG_ERR, "worker: the master said %u", m->kind);
        break;
    }
}

/* What the master says after READY: worker_told(), or a log that it opened
 * again. Its end says that it is gone. */
static void
worker_channel(kars__io_t *io, uint32_t events)
{
    kars__ask_t m;
    int fd;
    int rc = kars__ask_recv(worker.channel, &m, &fd);

    if (rc == KARS_OK && m.kind == KARS__ASK_LOG) {
        if (fd != -1) {
            kars__logs_reopened(worker.cycle, m.text, fd);
        }
        return;
    }
    if (rc == KARS_OK && m.kind == KARS__ASK_SECRET) {
        kars__tls_set_answer(worker.cycle, &m, fd);
        return;
    }
    if (fd != -1) {
        (void) close(fd);
    }
    if (rc == KARS_OK) {
        worker_told(&m);
        return;
    }
    if (rc == KARS_AGAIN) {
        return;
    }
    kars__log(KARS_LOG_ERR, "worker: the master is gone, stopping");
    worker_stop();
}

static int
worker_serve(kars_cycle_t *c, int channel)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__ask_t ready = { .kind = KARS__ASK_READY };

    if (kars__harden_start(c, &err) != KARS_OK) {
        kars__log(KARS_LOG_ERR, "worker: %s", err.text);
        return KARS__EXIT_CONF;
    }
    kars__signal_start(c->loop, &worker.sig_quit, SIGQUIT, worker_quit);
    kars__signal_start(c->loop, &worker.sig_term, SIGTERM, worker_term);
    kars__signal_start(c->loop, &worker.sig_int, SIGINT, worker_term);
    (void) fcntl(channel, F_SETFL, O_NONBLOCK);
    kars__io_init(&worker.channel_io, c->loop, channel, worker_channel);
    kars__io_want(&worker.channel_io, KARS__READ);

    sigset_t none;

    (void) signal(SIGHUP, SIG_IGN); /* the master's, also for a whole group */
    (void) signal(SIGUSR1, SIG_IGN);
    (void) signal(SIGUSR2, SIG_IGN);
    (void) sigemptyset(&none);
    (void) sigprocmask(SIG_SETMASK, &none, NULL);
    if (kars__ask_send(channel, &ready, -1) != KARS_OK) {
        return KARS__EXIT_CHANNEL;
    }
    kars__tls_set_start(c);
    kars__loop_run(c->loop);

    kars__tls_set_stop(c);
    kars__timer_stop(c->loop, &worker.drain_timer);
    kars__timer_stop(c->loop, &worker.delay_timer);
    kars__io_want(&worker.channel_io, 0);
    kars__signal_stop(c->loop, &worker.sig_quit);
    kars__signal_stop(c->loop, &worker.sig_term);
    kars__signal_stop(c->loop, &worker.sig_int);
    return KARS__EXIT_OK;
}

int
kars__worker_run(const char *conf_path, int channel)
{
    kars_err_t err = KARS_ERR_INIT;
    kars_cycle_t *c =
        kars__cycle_load(conf_path, KARS__CYCLE_SERVE, channel, &err);

    if (c == NULL) {
        (void) fprintf(stderr, "kars-router: %s\n", err.text);
        return KARS__EXIT_CONF;
    }
    worker.cycle = c;
    worker.channel = channel;

    int rc = worker_serve(c, channel);

    if (rc == KARS__EXIT_OK) {
        kars__cycle_destroy(c);
    }
    return rc;
}
