/*
 * test_reactor.c - timers, queues of work and the fake clock.
 */
#include "event/reactor.h"
#include "t.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static kars__loop_t *reactor;
static char reactor_ran[256];

static void
ran(const char *name)
{
    size_t o = strlen(reactor_ran);

    (void) snprintf(reactor_ran + o, sizeof(reactor_ran) - o, "%s ", name);
}

static void
reactor_begin(void)
{
    kars_err_t err = KARS_ERR_INIT;

    reactor = kars__loop_create(KARS__LOOP_FAKE, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(reactor);
    reactor_ran[0] = '\0';
}

typedef struct {
    kars__timer_t timer; /* first */
    char name[8];
} named_t;

static void
named_fire(kars__timer_t *t)
{
    ran(((named_t *) t)->name);
}

static void
test_timers_fire_in_their_order(void)
{
    static const unsigned after[] = { 50, 10, 30, 10, 0, 40 };
    named_t t[6];

    reactor_begin();
    memset(t, 0, sizeof(t));
    for (size_t i = 0; i < 6; i++) {
        (void) snprintf(t[i].name, sizeof(t[i].name), "%u", after[i]);
        t[i].timer.fn = named_fire;
        kars__timer_start(reactor, &t[i].timer, after[i]);
    }
    kars__timer_stop(reactor, &t[2].timer);
    kars__timer_stop(reactor, &t[2].timer); /* twice is harmless */
    kars__loop_advance(reactor, 9);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "0 ");
    kars__loop_advance(reactor, 1);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "0 10 10 ");
    kars__loop_advance(reactor, 40);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "0 10 10 40 50 ");
    kars__loop_destroy(reactor);
}

static void
test_timers_may_be_moved(void)
{
    named_t a = { { .fn = named_fire }, "a" },
            b = { { .fn = named_fire }, "b" };

    reactor_begin();
    kars__timer_start(reactor, &a.timer, 10);
    kars__timer_start(reactor, &b.timer, 20);
    kars__timer_start(reactor, &a.timer, 30); /* later */
    kars__loop_advance(reactor, 20);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "b ");
    kars__timer_start(reactor, &b.timer, 100);
    kars__timer_start(reactor, &b.timer, 5); /* earlier */
    kars__loop_advance(reactor, 5);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "b b ");
    kars__loop_advance(reactor, 5);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "b b a ");
    kars__loop_destroy(reactor);
}

/* A random life of many timers against a plain list. */
static uint64_t reactor_due[200];
static unsigned reactor_wrong;

typedef struct {
    kars__timer_t timer; /* first */
    size_t i;
} counted_t;

static void
counted_fire(kars__timer_t *t)
{
    size_t i = ((counted_t *) t)->i;

    reactor_wrong += reactor_due[i] != kars__loop_now(reactor);
    reactor_due[i] = 0;
}

static void
test_timers_agree_with_a_plain_list(void)
{
    static counted_t t[200];
    uint64_t seed = 7;

    reactor_begin();
    reactor_wrong = 0;
    memset(reactor_due, 0, sizeof(reactor_due));
    memset(t, 0, sizeof(t));
    for (size_t step = 0; step < 20000; step++) {
        size_t i;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        i = (size_t) (seed >> 33) % 200;
        t[i].i = i;
        t[i].timer.fn = counted_fire;
        switch ((seed >> 50) % 4) {
        case 0:
            kars__timer_stop(reactor, &t[i].timer);
            reactor_due[i] = 0;
            break;
        case 1:
            kars__loop_advance(reactor, (seed >> 40) % 5);
            break;
        default:
            kars__timer_start(reactor, &t[i].timer, 1 + (seed >> 42) % 300);
            reactor_due[i] = kars__loop_now(reactor) + 1 + (seed >> 42) % 300;
            break;
        }
        for (size_t n = 0; n < 200; n++) {
            reactor_wrong +=
                reactor_due[n] != 0 && reactor_due[n] < kars__loop_now(reactor);
        }
    }
    CU_ASSERT_EQUAL(reactor_wrong, 0);
    kars__loop_destroy(reactor);
}

static named_t again;

static void
again_fire(kars__timer_t *t)
{
    ran("x");
    kars__timer_start(reactor, t, 10);
}

static void
test_timer_may_start_itself_again(void)
{
    reactor_begin();
    again.timer.fn = again_fire;
    again.timer.slot = 0;
    kars__timer_start(reactor, &again.timer, 10);
    kars__loop_advance(reactor, 35);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "x x x ");
    kars__timer_stop(reactor, &again.timer);
    kars__loop_destroy(reactor);
}

static void
test_clock_stands_until_it_is_moved(void)
{
    uint64_t now, wall;

    reactor_begin();
    now = kars__loop_now(reactor);
    wall = kars__loop_wall(reactor);
    (void) usleep(3000);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_EQUAL(kars__loop_now(reactor), now);
    CU_ASSERT_EQUAL(kars__loop_wall(reactor), wall);
    kars__loop_advance(reactor, 12345);
    CU_ASSERT_EQUAL(kars__loop_now(reactor), now + 12345);
    CU_ASSERT_EQUAL(kars__loop_wall(reactor), wall + 12345);
    kars__loop_destroy(reactor);
}

/* Work. */

static kars__work_t post, post2, end, flush;

static void
on_post(kars__work_t *w)
{
    ran("post");
}

static void
on_post2(kars__work_t *w)
{
    ran("post2");
}

static void
on_end(kars__work_t *w)
{
    ran("end");
    kars__work_queue(reactor, &post2, KARS__POST); /* still in this turn */
}

static void
on_flush(kars__work_t *w)
{
    ran("flush");
}

static void
test_work_runs_queue_by_queue(void)
{
    reactor_begin();
    post = (kars__work_t){ .fn = on_post };
    post2 = (kars__work_t){ .fn = on_post2 };
    end = (kars__work_t){ .fn = on_end };
    flush = (kars__work_t){ .fn = on_flush };
    kars__work_queue(reactor, &flush, KARS__FLUSH);
    kars__work_queue(reactor, &end, KARS__TURN_END);
    kars__work_queue(reactor, &post, KARS__POST);
    kars__work_queue(reactor, &post, KARS__POST); /* once */
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "post end post2 flush ");
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "post end post2 flush ");

    reactor_ran[0] = '\0';
    kars__work_queue(reactor, &post, KARS__POST);
    kars__work_queue(reactor, &post2, KARS__POST);
    kars__work_cancel(reactor, &post);
    kars__work_cancel(reactor, &post);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "post2 ");
    kars__loop_destroy(reactor);
}

static void
on_spin(kars__work_t *w)
{
    kars__work_queue(reactor, w, KARS__POST);
}

static void
test_work_that_posts_itself_does_not_stop_the_loop(void)
{
    reactor_begin();
    post = (kars__work_t){ .fn = on_spin };
    flush = (kars__work_t){ .fn = on_flush };
    kars__work_queue(reactor, &post, KARS__POST);
    kars__work_queue(reactor, &flush, KARS__FLUSH);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "flush ");
    kars__work_cancel(reactor, &post);
    kars__loop_destroy(reactor);
}

/* Readiness and threads. */

static kars__io_t reader;

static void
on_read(kars__io_t *io, uint32_t events)
{
    char c;

    CU_ASSERT_EQUAL(events, KARS__READ);
    CU_ASSERT_EQUAL(read(io->ev.fd, &c, 1), 1);
    ran("read");
}

static void
test_io_is_told_as_long_as_it_is_wanted(void)
{
    int fds[2];

    reactor_begin();
    CU_ASSERT_EQUAL_FATAL(pipe(fds), 0);
    kars__io_init(&reader, reactor, fds[0], on_read);
    CU_ASSERT_EQUAL(kars__io_wanted(&reader), 0);
    kars__io_want(&reader, KARS__READ);
    CU_ASSERT_EQUAL(kars__io_wanted(&reader), KARS__READ);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "");
    CU_ASSERT_EQUAL(write(fds[1], "ab", 2), 2);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "read ");
    kars__io_want(&reader, 0);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "read ");
    kars__io_want(&reader, KARS__READ);
    kars__loop_turn(reactor, 0);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "read read ");
    kars__io_want(&reader, 0);
    (void) close(fds[0]);
    (void) close(fds[1]);
    kars__loop_destroy(reactor);
}

static kars__wake_t waker;
static pthread_t woken_on;

static void
on_wake(kars__wake_t *w)
{
    woken_on = pthread_self();
    ran("wake");
    kars__loop_stop(reactor);
}

static void *
wake_thread(void *arg)
{
    kars__wake(&waker);
    return NULL;
}

static void
test_wake_ends_the_wait_of_a_real_loop(void)
{
    kars_err_t err = KARS_ERR_INIT;
    pthread_t thread;

    reactor_begin();
    kars__loop_destroy(reactor);
    reactor = kars__loop_create(0, &err);
    kars__wake_start(reactor, &waker, on_wake);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, wake_thread, NULL), 0);
    kars__loop_run(reactor);
    (void) pthread_join(thread, NULL);
    CU_ASSERT_STRING_EQUAL(reactor_ran, "wake ");
    CU_ASSERT_TRUE(pthread_equal(woken_on, pthread_self()));
    kars__wake_stop(&waker);
    kars__loop_destroy(reactor);
}

void
suite_reactor(void)
{
    T_SUITE(reactor);
    T_TEST(reactor, test_timers_fire_in_their_order);
    T_TEST(reactor, test_timers_may_be_moved);
    T_TEST(reactor, test_timers_agree_with_a_plain_list);
    T_TEST(reactor, test_timer_may_start_itself_again);
    T_TEST(reactor, test_clock_stands_until_it_is_moved);
    T_TEST(reactor, test_work_runs_queue_by_queue);
    T_TEST(reactor, test_work_that_posts_itself_does_not_stop_the_loop);
    T_TEST(reactor, test_io_is_told_as_long_as_it_is_wanted);
    T_TEST(reactor, test_wake_ends_the_wait_of_a_real_loop);
}
