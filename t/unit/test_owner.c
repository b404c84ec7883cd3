/*
 * test_owner.c - keys and their owners: two workers of one zone in this
 * process, on one loop and real sockets.
 */
#include "base/log.h"
#include "base/pool.h"
#include "http/owner.h"
#include "t.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    kars_cycle_t cycle;
    int heard; /* messages and calls */
    char key[40];
    char message[40];
    kars_token_t token;
    int rc;     /* what the ear returns */
    int silent; /* it does not answer */
} owner_end_t;

typedef struct {
    int fd;
    kars_zone_t *zone;
    kars__loop_t *loop;
    owner_end_t a, b;
    int answers;
    int error;
    char reply[40];
    size_t reply_len;
} owner_test_t;

static kars__mod_t owner_mods[] = {
    { .def = { .name = "one" }, .index = 0 },
    { .def = { .name = "two" }, .index = 1 },
};
static kars__mod_t *owner_mod_list[] = { &owner_mods[0], &owner_mods[1] };

static owner_end_t *
owner_end_of(kars_cycle_t *c)
{
    return (owner_end_t *) ((char *) c - offsetof(owner_end_t, cycle));
}

static int
owner_serve(kars_cycle_t *c, kars_str_t key, kars_str_t message,
            kars_token_t call, void *data)
{
    owner_end_t *e = owner_end_of(c);

    CU_ASSERT_PTR_EQUAL(data, e);
    CU_ASSERT_PTR_EQUAL(kars__mod_now, &owner_mods[0]);
    e->heard++;
    e->token = call;
    (void) snprintf(e->key, sizeof(e->key), "%.*s", KARS_STR_ARG(key));
    (void) snprintf(e->message, sizeof(e->message), "%.*s",
                    message.len < 39 ? (int) message.len : 39, message.data);
    if (call != 0 && !e->silent && e->rc == KARS_OK) {
        return kars__owner_reply(c, call, message);
    }
    return e->rc;
}

static int
owner_receive(kars_cycle_t *c, kars_str_t key, kars_str_t message, void *data)
{
    return owner_serve(c, key, message, 0, data);
}

static void
owner_answered(kars_cycle_t *c, int error, kars_str_t reply, void *data)
{
    owner_test_t *t = data;

    t->answers++;
    t->error = error;
    t->reply_len = reply.len;
    (void) snprintf(t->reply, sizeof(t->reply), "%.*s",
                    reply.len < 39 ? (int) reply.len : 39, reply.data);
}

static void
owner_worker(owner_test_t *t, owner_end_t *e)
{
    memset(e, 0, sizeof(*e));
    e->cycle.pool = kars__pool_create(0);
    e->cycle.loop = t->loop;
    e->cycle.zone = t->zone;
    e->cycle.mods = owner_mod_list;
    e->cycle.nmods = 2;
    e->cycle.worker_id = kars__zone_worker_new(t->zone);
    CU_ASSERT_EQUAL_FATAL(kars__owner_serve(&e->cycle, owner_serve, e),
                          KARS_OK);
}

/* It is killed: its sockets close, and the master writes that it is gone. */
static void
owner_dies(owner_test_t *t, owner_end_t *e)
{
    kars__owners_destroy(&e->cycle);
    kars__zone_worker_gone(t->zone, e->cycle.worker_id);
    kars__pool_destroy(e->cycle.pool);
    e->cycle.pool = NULL;
}

static void
owner_begin(owner_test_t *t)
{
    kars_err_t err = KARS_ERR_INIT;

    memset(t, 0, sizeof(*t));
    t->fd = kars__zone_make(2u << 20, &err);
    t->zone = kars__zone_map(t->fd, &err);
    t->loop = kars__loop_create(KARS__LOOP_FAKE, &err);
    CU_ASSERT_FATAL(t->zone != NULL && t->loop != NULL);
    kars__mod_now = &owner_mods[0];
    owner_worker(t, &t->a);
    owner_worker(t, &t->b);
}

static void
owner_end(owner_test_t *t)
{
    kars__mod_now = NULL;
    if (t->a.cycle.pool != NULL) {
        owner_dies(t, &t->a);
    }
    if (t->b.cycle.pool != NULL) {
        owner_dies(t, &t->b);
    }
    kars__loop_destroy(t->loop);
    kars__zone_unmap(t->zone);
    (void) close(t->fd);
}

/* Until it is so; the module's code runs again then. */
static void
owner_until(owner_test_t *t, const int *what, int n)
{
    time_t end = time(NULL) + 20;

    kars__mod_now = NULL;
    while (*what < n && time(NULL) < end) {
        kars__loop_turn(t->loop, 0);
    }
    CU_ASSERT_EQUAL(*what, n);
    for (int i = 0; i < 5; i++) {
        kars__loop_turn(t->loop, 0);
    }
    CU_ASSERT_EQUAL(*what, n);
    kars__mod_now = &owner_mods[0];
}

static int
owner_claim(owner_end_t *e, const char *key)
{
    return kars__owner_claim(&e->cycle, t_str(key), 1000);
}

static int
owner_ask(owner_test_t *t, owner_end_t *e, const char *key, const char *text)
{
    return kars__owner_call(&e->cycle, t_str(key), t_str(text), 500,
                            owner_answered, t);
}

static void
test_owner_is_one_worker(void)
{
    owner_test_t t;

    owner_begin(&t);
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s1"), KARS_OK);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s1"), KARS_DECLINED);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s2"), KARS_OK);
    kars__owner_release(&t.b.cycle, KARS_STR("s1")); /* not its own */
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s1"), KARS_DECLINED);
    kars__mod_now = &owner_mods[1]; /* another module: another name */
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s1"), KARS_OK);
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s1"), KARS_DECLINED);
    kars__mod_now = &owner_mods[0];

    kars__loop_advance(t.loop, 900);
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s1"), KARS_OK); /* for 1000 more */
    kars__loop_advance(t.loop, 900);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s1"), KARS_DECLINED);
    kars__loop_advance(t.loop, 100);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s1"), KARS_OK); /* the lease ended */
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s1"), KARS_DECLINED);
    kars__owner_release(&t.b.cycle, KARS_STR("s1"));
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s1"), KARS_OK);
    owner_dies(&t, &t.a);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s1"), KARS_OK); /* free at once */
    owner_end(&t);
}

static void
test_owner_refuses_what_cannot_be(void)
{
    owner_test_t t;
    static char big[KARS__OWNER_MESSAGE + 1];
    char key[KARS__OWNER_KEY + 1];
    kars_str_t message = { big, sizeof(big) };

    owner_begin(&t);
    memset(key, 'k', sizeof(key));
    CU_ASSERT_EQUAL(owner_claim(&t.a, ""), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__owner_claim(&t.a.cycle, KARS_STR("k"), 0),
                    KARS_ERROR);
    CU_ASSERT_EQUAL(
        kars__owner_claim(&t.a.cycle, (kars_str_t){ key, sizeof(key) }, 1000),
        KARS_ERROR);
    CU_ASSERT_EQUAL(kars__owner_claim(
                        &t.a.cycle, (kars_str_t){ key, sizeof(key) - 1 }, 1000),
                    KARS_OK);
    CU_ASSERT_EQUAL(kars__owner_send(&t.b.cycle,
                                     (kars_str_t){ key, sizeof(key) - 1 },
                                     message),
                    KARS_ERROR);
    message.len--;
    CU_ASSERT_EQUAL(kars__owner_call(&t.b.cycle,
                                     (kars_str_t){ key, sizeof(key) - 1 },
                                     message, 0, owner_answered, &t),
                    KARS_OK);
    owner_until(&t, &t.answers, 1);
    CU_ASSERT_EQUAL(t.error, 0);
    CU_ASSERT_EQUAL(t.reply_len, KARS__OWNER_MESSAGE);

    kars_cycle_t none = { 0 }; /* outside a worker */

    CU_ASSERT_EQUAL(kars__owner_claim(&none, KARS_STR("k"), 1), KARS_ERROR);
    CU_ASSERT_EQUAL(kars__owner_send(&none, KARS_STR("k"), KARS_STR("")),
                    KARS_ERROR);
    CU_ASSERT_EQUAL(kars__owner_reply(&none, 1, KARS_STR("")), KARS_OK);
    owner_end(&t);
}

static void
test_owner_gets_what_others_send(void)
{
    owner_test_t t;

    owner_begin(&t);
    CU_ASSERT_EQUAL(kars__owner_send(&t.a.cycle, KARS_STR("s"), KARS_STR("x")),
                    KARS_ERROR); /* nobody's */
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s"), KARS_OK);
    CU_ASSERT_EQUAL(
        kars__owner_send(&t.b.cycle, KARS_STR("s"), KARS_STR("from b")),
        KARS_OK);
    owner_until(&t, &t.a.heard, 1);
    CU_ASSERT_STRING_EQUAL(t.a.message, "from b");
    CU_ASSERT_STRING_EQUAL(t.a.key, "s");
    CU_ASSERT_EQUAL(t.a.token, 0);
    CU_ASSERT_EQUAL(
        kars__owner_send(&t.a.cycle, KARS_STR("s"), KARS_STR("from a")),
        KARS_OK);
    CU_ASSERT_EQUAL(t.a.heard, 1); /* later, from the loop */
    owner_until(&t, &t.a.heard, 2);
    CU_ASSERT_STRING_EQUAL(t.a.message, "from a");
    CU_ASSERT_EQUAL(kars__owner_serve(&t.a.cycle, NULL, NULL), KARS_OK);
    CU_ASSERT_EQUAL(kars__owner_receive(&t.a.cycle, owner_receive, &t.a),
                    KARS_OK);
    CU_ASSERT_EQUAL(
        kars__owner_send(&t.b.cycle, KARS_STR("s"), KARS_STR("received")),
        KARS_OK);
    owner_until(&t, &t.a.heard, 3);
    CU_ASSERT_STRING_EQUAL(t.a.message, "received");
    CU_ASSERT_EQUAL(t.b.heard, 0);
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "?"), KARS_OK);
    owner_until(&t, &t.answers, 1); /* it takes no questions */
    CU_ASSERT_EQUAL(t.error, ECONNRESET);
    owner_end(&t);
}

static void
test_owner_answers_calls(void)
{
    owner_test_t t;

    owner_begin(&t);
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "anyone?"), KARS_OK);
    CU_ASSERT_EQUAL(t.answers, 0);
    owner_until(&t, &t.answers, 1);
    CU_ASSERT_EQUAL(t.error, ENOENT);
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s"), KARS_OK);
    for (int i = 0; i < 2; i++) { /* of another, and its own */
        CU_ASSERT_EQUAL(owner_ask(&t, i ? &t.a : &t.b, "s", "echo"), KARS_OK);
        owner_until(&t, &t.answers, 2 + i);
        CU_ASSERT_EQUAL(t.error, 0);
        CU_ASSERT_STRING_EQUAL(t.reply, "echo");
    }
    t.a.silent = 1; /* it answers later */
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "later"), KARS_OK);
    owner_until(&t, &t.a.heard, 3);
    CU_ASSERT_EQUAL(t.answers, 3);
    CU_ASSERT_EQUAL(
        kars__owner_reply(&t.a.cycle, t.a.token, KARS_STR("at last")), KARS_OK);
    CU_ASSERT_EQUAL(kars__owner_reply(&t.a.cycle, t.a.token, KARS_STR("twice")),
                    KARS_OK);
    owner_until(&t, &t.answers, 4);
    CU_ASSERT_STRING_EQUAL(t.reply, "at last");
    t.a.rc = KARS_ERROR;
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "no"), KARS_OK);
    owner_until(&t, &t.answers, 5);
    CU_ASSERT_EQUAL(t.error, ECONNRESET);
    owner_end(&t);
}

static void
test_owner_call_ends_in_time(void)
{
    owner_test_t t;

    owner_begin(&t);
    t.a.silent = 1;
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s"), KARS_OK);
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "slow"), KARS_OK);
    owner_until(&t, &t.a.heard, 1);
    kars__loop_advance(t.loop, 499);
    CU_ASSERT_EQUAL(t.answers, 0);
    kars__loop_advance(t.loop, 1);
    CU_ASSERT_EQUAL(t.answers, 1);
    CU_ASSERT_EQUAL(t.error, ETIMEDOUT);
    kars__loop_advance(t.loop, 100);
    CU_ASSERT_EQUAL(kars__owner_reply(&t.a.cycle, t.a.token, KARS_STR("late")),
                    KARS_OK);
    owner_until(&t, &t.answers, 1);
    owner_end(&t);
}

static void
test_owner_that_dies_ends_calls(void)
{
    owner_test_t t;

    owner_begin(&t);
    t.a.silent = 1;
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s"), KARS_OK);
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "one"), KARS_OK);
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "two"), KARS_OK);
    owner_until(&t, &t.a.heard, 2);
    owner_dies(&t, &t.a);
    owner_until(&t, &t.answers, 2);
    CU_ASSERT_EQUAL(t.error, ECONNRESET);
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "three"), KARS_OK);
    owner_until(&t, &t.answers, 3);
    CU_ASSERT_EQUAL(t.error, ENOENT);

    owner_worker(&t, &t.a); /* a caller that dies leaves nothing behind */
    CU_ASSERT_EQUAL(owner_claim(&t.b, "s"), KARS_OK);
    t.b.silent = 1;
    CU_ASSERT_EQUAL(owner_ask(&t, &t.a, "s", "four"), KARS_OK);
    owner_until(&t, &t.b.heard, 1);
    owner_dies(&t, &t.a);
    CU_ASSERT_EQUAL(t.answers, 4); /* the module is told at its end */
    CU_ASSERT_EQUAL(t.error, ECONNRESET);
    owner_until(&t, &t.answers, 4);
    CU_ASSERT_EQUAL(kars__owner_reply(&t.b.cycle, t.b.token, KARS_STR("?")),
                    KARS_OK);
    owner_end(&t);
}

static void
test_owner_calls_are_bounded(void)
{
    owner_test_t t;
    int n = 0;

    owner_begin(&t);
    t.a.silent = 1;
    CU_ASSERT_EQUAL(owner_claim(&t.a, "s"), KARS_OK);
    while (n < 5000 && owner_ask(&t, &t.b, "s", "more") == KARS_OK) {
        n++;
    }
    CU_ASSERT_EQUAL(n, 1024);
    owner_until(&t, &t.a.heard, n);
    kars__loop_advance(t.loop, 500);
    CU_ASSERT_EQUAL(t.answers, n);
    t.a.silent = 0;
    CU_ASSERT_EQUAL(owner_ask(&t, &t.b, "s", "again"), KARS_OK);
    owner_until(&t, &t.answers, n + 1);
    CU_ASSERT_EQUAL(t.error, 0);
    owner_end(&t);
}

/* Leases of the dead make room when there is none. */
static void
test_owner_keys_are_bounded(void)
{
    owner_test_t t;
    char key[16];
    int n = 0, rc;

    owner_begin(&t);
    do {
        (void) snprintf(key, sizeof(key), "key%d", n);
        rc = kars__owner_claim(&t.a.cycle, t_str(key), 1000000);
    } while (rc == KARS_OK && ++n < 5000);
    CU_ASSERT_EQUAL(n, 2048);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "mine"), KARS_ERROR);
    owner_dies(&t, &t.a);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "mine"), KARS_OK);
    CU_ASSERT_EQUAL(owner_claim(&t.b, "key7"), KARS_OK);
    owner_end(&t);
}

void
suite_owner(void)
{
    T_SUITE(owner);
    T_TEST(owner, test_owner_is_one_worker);
    T_TEST(owner, test_owner_refuses_what_cannot_be);
    T_TEST(owner, test_owner_gets_what_others_send);
    T_TEST(owner, test_owner_answers_calls);
    T_TEST(owner, test_owner_call_ends_in_time);
    T_TEST(owner, test_owner_that_dies_ends_calls);
    T_TEST(owner, test_owner_calls_are_bounded);
    T_TEST(owner, test_owner_keys_are_bounded);
}
