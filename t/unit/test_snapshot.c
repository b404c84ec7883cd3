/*
 * test_snapshot.c - values of watched files: who sees which, when they go, and
 * what long-lived requests are asked.
 */
#include "base/pool.h"
#include "http/conn.h"
#include "http/recheck.h"
#include "http/request.h"
#include "http/snapshot.h"
#include "http/snapshot_zone.h"
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RECHECK_OK, RECHECK_DENY, RECHECK_FAIL, RECHECK_WAIT };

typedef struct {
    kars_str_t path;
    kars_snapshot_t *policy;
} snap_conf_t;

static char snap_dir[64];
static char snap_path[160];
static int snap_values;    /* that are alive */
static int snap_published; /* calls of published() */
static kars_token_t snap_token;
static int snap_recheck;
static int snap_rechecks;
static char snap_rechecked[64]; /* snapshot and snapshot_now in recheck */

static void
snap_gone(void *data)
{
    snap_values -= *(int *) data;
}

/* The text of the file, without "bad" in it. */
static int
snap_parse(kars_pool_t *pool, kars_str_t name, kars_str_t bytes, void **ret,
           kars_err_t *err)
{
    int *alive = kars__api.pown(pool, sizeof(*alive), snap_gone);
    kars_str_t *text = kars__api.palloc(pool, sizeof(*text));

    CU_ASSERT_TRUE(kars_str_eq(name, KARS_STR("policy")));
    if (alive == NULL || text == NULL) {
        return kars__api.err(err, ENOMEM, "policy");
    }
    *alive = 1;
    snap_values++;
    if (bytes.len >= 3 && memcmp(bytes.data, "bad", 3) == 0) {
        return bytes.len == 3
                   ? KARS_ERROR
                   : kars__api.err(err, 0, "line 1: %.*s", KARS_STR_ARG(bytes));
    }
    *text = kars__pdup(pool, bytes);
    if (text->data == NULL) {
        return kars__api.err(err, ENOMEM, "policy");
    }
    *ret = text;
    return KARS_OK;
}

static void
snap_was_published(kars_cycle_t *cycle, const void *value, void *data)
{
    snap_published++;
}

static int
snap_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    snap_conf_t *sc = conf;
    kars_watch_t watch = { .size = sizeof(watch),
                           .path = sc->path,
                           .kind = KARS_STR("Policy"),
                           .parse = snap_parse,
                           .published = snap_was_published };

    return sc->path.len == 0
               ? KARS_OK
               : kars__api.watch(place->cycle, &watch, &sc->policy, err);
}

static kars_str_t
snap_text(const void *value)
{
    return value != NULL ? *(const kars_str_t *) value : KARS_STR("none");
}

static int
snap_woken(kars_req_t *r, int error, const void *conf, void *ctx)
{
    return KARS_OK;
}

/* /wait waits until the test resumes it. */
static int
snap_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    if (!kars_str_eq(kars__api.req_path(r), KARS_STR("/wait"))) {
        return KARS_OK;
    }
    snap_token = kars__api.suspend(r, 0, snap_woken);
    return KARS_AGAIN;
}

/* The answer is what the request's snapshot says. */
static int
snap_content(kars_req_t *r, const void *conf, void *ctx)
{
    const snap_conf_t *sc = conf;

    if (kars_str_eq(kars__api.req_path(r), KARS_STR("/stream"))) {
        return KARS_OK;
    }
    return kars__api.respond(r, 200, KARS_STR("text/plain"),
                             snap_text(kars__api.snapshot(r, sc->policy)));
}

static int
snap_do_recheck(kars_req_t *r, const void *conf, void *ctx)
{
    const snap_conf_t *sc = conf;
    kars_denial_t no = { .size = sizeof(no),
                         .status = 403,
                         .code = KARS_STR("policy_denied"),
                         .reason = KARS_STR("a \"new\" policy"),
                         .rule_text = KARS_STR("policy:1") };

    snap_rechecks++;
    (void) snprintf(
        snap_rechecked, sizeof(snap_rechecked), "%.*s %.*s",
        KARS_STR_ARG(snap_text(kars__api.snapshot(r, sc->policy))),
        KARS_STR_ARG(snap_text(kars__api.snapshot_now(sc->policy))));
    switch (snap_recheck) {
    case RECHECK_DENY:
        return kars__api.deny(r, &no);
    case RECHECK_FAIL:
        return KARS_ERROR;
    case RECHECK_WAIT:
        CU_ASSERT_EQUAL(kars__api.suspend(r, 0, snap_woken), 0);
        CU_ASSERT_EQUAL(kars__api.offload(r, NULL, snap_woken), KARS_ERROR);
        return KARS_AGAIN;
    default:
        return KARS_OK;
    }
}

static const kars_directive_t snap_directives[] = {
    { .name = "snap_path",
      .at = KARS_AT_MAIN,
      .type = KARS_T_PATH,
      .offset = offsetof(snap_conf_t, path),
      .doc = "a file" },
    { 0 },
};

static const kars_hook_t snap_hooks[] = {
    { .phase = KARS_PHASE_REWRITE, .run = snap_rewrite },
    { .phase = KARS_PHASE_CONTENT, .run = snap_content },
    { 0 },
};

static const kars_module_t snap_module = {
    T_MODULE_HEAD,
    .name = "snap",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(snap_conf_t),
    .directives = snap_directives,
    .hooks = snap_hooks,
    .check = snap_check,
    .recheck = snap_do_recheck,
};

static void
snap_put(const char *text)
{
    char tmp[200];

    (void) snprintf(tmp, sizeof(tmp), "%s.new", snap_path);

    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    CU_ASSERT_FATAL(fd != -1);
    CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t) strlen(text));
    (void) close(fd);
    CU_ASSERT_EQUAL(rename(tmp, snap_path), 0);
}

static const char *
snap_conf(void)
{
    static char conf[600];

    (void) snprintf(conf, sizeof(conf),
                    "snap_path %s;\n"
                    "upstream u { server 127.0.0.1:9; }\n"
                    "server { listen 127.0.0.1:8080;\n"
                    "route GET /wait { respond 204 \"\"; }\n"
                    "route GET /now { respond 204 \"\"; }\n"
                    "route GET /stream { pass u; } }",
                    snap_path);
    return conf;
}

static void
snap_dir_make(void)
{
    snap_values = snap_published = snap_rechecks = 0;
    snap_recheck = RECHECK_OK;
    (void) snprintf(snap_dir, sizeof(snap_dir), "/tmp/kars-snap-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(snap_dir));
    (void) snprintf(snap_path, sizeof(snap_path), "%s/policy", snap_dir);
}

static t_loop_t *
snap_begin(const char *text)
{
    snap_dir_make();
    if (text != NULL) {
        snap_put(text);
    }
    return t_loop(snap_conf(), &t_open, &snap_module);
}

static void
snap_end(t_loop_t *t)
{
    if (t != NULL) {
        t_loop_destroy(t);
    }
    CU_ASSERT_EQUAL(snap_values, 0); /* every pool was given back */
    (void) unlink(snap_path);
    CU_ASSERT_EQUAL(rmdir(snap_dir), 0);
}

static int
snap_count(t_loop_t *t, const char *said)
{
    int n = 0;

    for (const char *p = t_log(t); (p = strstr(p, said)) != NULL; p++) {
        n++;
    }
    return n;
}

/* Until the log says it, so many times. */
static void
snap_until(t_loop_t *t, const char *said, int times)
{
    time_t end = time(NULL) + 20;

    while (snap_count(t, said) < times && time(NULL) < end) {
        t_advance_ms(t, 5);
        (void) usleep(500);
    }
    CU_ASSERT_EQUAL(snap_count(t, said), times);
    t_run(t);
}

static const char *
snap_now(t_loop_t *t)
{
    t_request(t, "GET /now HTTP/1.1\r\nhost: x\r\n\r\n");
    CU_ASSERT_EQUAL(t_status(t), 200);
    return t_body(t);
}

static void
test_snapshot_is_published_and_kept_by_requests(void)
{
    t_loop_t *t = snap_begin("one");

    CU_ASSERT_STRING_EQUAL(snap_now(t), "one");
    CU_ASSERT_EQUAL(snap_published, 0); /* it took nobody's place */

    t_end_t *waits = t_client(t);

    t_request(t, "GET /wait HTTP/1.1\r\nhost: x\r\n\r\n");
    snap_put("two");
    snap_until(t, "watch: published", 1);
    CU_ASSERT_EQUAL(snap_published, 1);
    CU_ASSERT_EQUAL(snap_values, 2); /* the old one has a request */
    (void) t_client(t);
    CU_ASSERT_STRING_EQUAL(snap_now(t), "two");
    CU_ASSERT_EQUAL(kars__api.resume(snap_token, 0), KARS_OK);
    t_run(t);
    t->client = waits;
    CU_ASSERT_STRING_EQUAL(t_body(t), "one"); /* what it began with */
    CU_ASSERT_EQUAL(snap_values, 1);
    CU_ASSERT_STRING_EQUAL(snap_now(t), "two");
    snap_end(t);
}

static void
snap_state(const kars_watch_state_t *s, void *data)
{
    kars_watch_state_t *ret = data;

    CU_ASSERT_TRUE(kars_str_eq(s->kind, KARS_STR("Policy")));
    CU_ASSERT_TRUE(kars_str_eq(s->path, t_str(snap_path)));
    *ret = *s;
}

static void
test_snapshot_of_a_bad_file_is_the_one_before(void)
{
    t_loop_t *t = snap_begin("one");
    kars_watch_state_t good = { 0 }, bad = { 0 }, back = { 0 };
    char digest[32];

    kars__api.watch_each(t->cycle, snap_state, &good);
    CU_ASSERT_EQUAL_FATAL(good.digest.len, 32);
    CU_ASSERT_EQUAL(good.error.len, 0);
    CU_ASSERT_NOT_EQUAL(good.loaded_at_ms, 0);
    memcpy(digest, good.digest.data, 32);

    snap_put("bad words");
    snap_until(t, "error=\"line 1: bad words\": the one before stays", 1);
    CU_ASSERT_STRING_EQUAL(snap_now(t), "one");
    kars__api.watch_each(t->cycle, snap_state, &bad);
    CU_ASSERT_TRUE(kars_str_eq(bad.error, KARS_STR("line 1: bad words")));
    CU_ASSERT_EQUAL(memcmp(bad.digest.data, digest, 32), 0);
    CU_ASSERT_EQUAL(bad.loaded_at_ms, good.loaded_at_ms);
    CU_ASSERT_EQUAL(snap_values, 1);

    t_advance_ms(t, 25000); /* polls: it is said once */
    CU_ASSERT_PTR_NULL(strstr(strstr(t_log(t), "refused") + 1, "refused"));
    snap_put("bad");
    snap_until(t, "without a word why", 1);
    snap_put("one"); /* what is published already: nothing to publish */
    for (int i = 0; i < 400 && (i == 0 || back.error.len != 0); i++) {
        t_advance_ms(t, 5);
        (void) usleep(500);
        kars__api.watch_each(t->cycle, snap_state, &back);
    }
    CU_ASSERT_EQUAL(back.error.len, 0);
    CU_ASSERT_EQUAL(snap_published, 0);
    CU_ASSERT_EQUAL(unlink(snap_path), 0);
    snap_until(t, "No such file or directory\": the one before stays", 1);
    CU_ASSERT_STRING_EQUAL(snap_now(t), "one");
    snap_end(t);
}

static void
test_snapshot_of_a_file_that_is_not_there_yet(void)
{
    t_loop_t *t = snap_begin(NULL);
    kars_watch_state_t state = { 0 };

    CU_ASSERT_STRING_EQUAL(snap_now(t), "none");
    kars__api.watch_each(t->cycle, snap_state, &state);
    CU_ASSERT_EQUAL(state.digest.len, 0);
    CU_ASSERT_EQUAL(state.loaded_at_ms, 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(state.error.data, "No such file"));
    snap_put("first");
    snap_until(t, "watch: published", 1);
    CU_ASSERT_EQUAL(snap_published, 1);
    CU_ASSERT_STRING_EQUAL(snap_now(t), "first");
    snap_end(t);
}

static void
test_snapshot_refused_at_load_is_an_error(void)
{
    const kars_module_t *const mods[] = { &t_open, &snap_module, NULL };
    const char *text;

    snap_dir_make();
    snap_put("bad words");
    text = t_load_error(snap_conf(), mods);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "Policy \""));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "line 1: bad words"));
    CU_ASSERT_EQUAL(unlink(snap_path), 0);
    CU_ASSERT_EQUAL(mkdir(snap_path, 0755), 0);
    text = t_load_error(snap_conf(), mods);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "is a folder"));
    CU_ASSERT_EQUAL(rmdir(snap_path), 0);
    snap_end(NULL);
}

/* Without memory for the new one the old one stays, and nothing is lost. */
static void
test_snapshot_publish_without_memory(void)
{
    t_loop_t *t = snap_begin("0");
    char was[8] = "0", text[8];
    int refused = 0, news = 0;

    for (uint64_t n = 1; n <= 8; n++) {
        (void) snprintf(text, sizeof(text), "v%d", (int) n);
        snap_put(text);
        kars__pool_fail_at(n); /* nobody else takes any meanwhile */
        snap_until(t, " watch: ", ++news);
        kars__pool_fail_at(0);
        if (strcmp(snap_now(t), was) == 0) {
            refused++;
        } else {
            CU_ASSERT_STRING_EQUAL(t_body(t), text);
        }
        CU_ASSERT_EQUAL(snap_values, 1);
        (void) snprintf(was, sizeof(was), "w%d", (int) n);
        snap_put(was);
        snap_until(t, " watch: ", ++news);
        CU_ASSERT_STRING_EQUAL(snap_now(t), was);
    }
    CU_ASSERT_TRUE(refused >= 3 && refused < 8); /* a pool, an owner, a text */
    snap_end(t);
}

static void
snap_folder(const char *dir, void *data)
{
    (void) snprintf((char *) data + strlen(data), 400, "%s ", dir);
}

static void
test_snapshot_folders_are_told(void)
{
    t_loop_t *t = snap_begin("one");
    char said[1000] = "", want[100];

    kars__snapshot_folders(t->cycle, snap_folder, said);
    (void) snprintf(want, sizeof(want), "%s ", snap_dir);
    CU_ASSERT_STRING_EQUAL(said, want);
    snap_end(t);
}

/* Rows of workers: the one that is behind is told of. */
static void
test_snapshot_zone_tells_the_oldest(void)
{
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__zone_make(KARS__ZONE_MIN, &err);
    kars_zone_t *zone = kars__zone_map(fd, &err);
    kars_area_t *rows = kars__snap_rows(zone, &err);
    unsigned char id[KARS__SNAP_ID] = "x", other[KARS__SNAP_ID] = "y";
    kars__snap_row_t old = { .digest = "old", .loaded_at_ms = 10 }, got;
    kars__snap_row_t new = { .digest = "new", .loaded_at_ms = 20 };
    kars__snap_row_t none = { .failed = 1 };
    uint64_t a = kars__zone_worker_new(zone), b = kars__zone_worker_new(zone);

    CU_ASSERT_PTR_NOT_NULL_FATAL(rows);
    CU_ASSERT_EQUAL(kars__snap_row_oldest(rows, zone, id, &got), KARS_DECLINED);
    CU_ASSERT_EQUAL(kars__snap_row_set(rows, zone, a, id, &old), KARS_OK);
    CU_ASSERT_EQUAL(kars__snap_row_set(rows, zone, b, id, &old), KARS_OK);
    CU_ASSERT_EQUAL(kars__snap_row_set(rows, zone, b, other, &none), KARS_OK);
    CU_ASSERT_EQUAL(kars__snap_row_set(rows, zone, a, id, &new), KARS_OK);
    CU_ASSERT_EQUAL(kars__snap_row_oldest(rows, zone, id, &got), KARS_OK);
    CU_ASSERT_STRING_EQUAL((char *) got.digest, "old");
    CU_ASSERT_EQUAL(got.failed, 0);
    CU_ASSERT_EQUAL(kars__snap_row_set(rows, zone, b, id, &none), KARS_OK);
    CU_ASSERT_EQUAL(kars__snap_row_oldest(rows, zone, id, &got), KARS_OK);
    CU_ASSERT_EQUAL(got.loaded_at_ms, 0); /* one has none */
    CU_ASSERT_EQUAL(got.failed, 1);
    kars__zone_worker_gone(zone, b);
    CU_ASSERT_EQUAL(kars__snap_row_oldest(rows, zone, id, &got), KARS_OK);
    CU_ASSERT_STRING_EQUAL((char *) got.digest, "new");
    CU_ASSERT_EQUAL(got.failed, 0);

    int n = 0;

    for (uint32_t i = 1000; i < 3000;
         i++) { /* bounded; the dead one's are free */
        memcpy(other, &i, sizeof(i));
        n += kars__snap_row_set(rows, zone, a, other, &new) == KARS_OK;
    }
    CU_ASSERT_EQUAL(n, 1023);
    kars__zone_unmap(zone);
    (void) close(fd);
}

/* Rechecks. */

static t_loop_t *
snap_stream(int recheck, const char *events)
{
    t_loop_t *t = snap_begin("one");

    t_request(t, "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n");
    t_upstream_reply(t, "HTTP/1.1 200 OK\r\n"
                        "content-type: text/event-stream\r\n\r\n");
    if (events != NULL) {
        t_upstream_reply(t, events);
    }
    CU_ASSERT_EQUAL(t_status(t), 200);
    snap_recheck = recheck;
    snap_put("two");
    snap_until(t, "watch: published", 1);
    CU_ASSERT_EQUAL(snap_rechecks, 1);
    CU_ASSERT_STRING_EQUAL(snap_rechecked, "one two");
    return t;
}

static void
test_snapshot_recheck_lets_a_stream_go_on(void)
{
    t_loop_t *t = snap_stream(RECHECK_OK, "data: 1\n\n");

    t_upstream_reply(t, "data: 2\n\n");
    t_upstream_gone(t, 0);
    CU_ASSERT_STRING_EQUAL(t_body(t), "data: 1\n\ndata: 2\n\n");
    CU_ASSERT_EQUAL(snap_values, 1);
    snap_put("three"); /* nobody is left to ask */
    snap_until(t, "watch: published", 2);
    CU_ASSERT_EQUAL(snap_rechecks, 1);
    snap_end(t);
}

static void
snap_ended(t_loop_t *t, const char *before, const char *type, const char *code,
           const char *message)
{
    char want[300];

    (void) snprintf(want, sizeof(want),
                    "%sdata: {\"error\":{\"message\":\"%s\",\"type\":\"%s\","
                    "\"code\":\"%s\"}}\n\ndata: [DONE]\n\n",
                    before, message, type, code);
    CU_ASSERT_EQUAL(t_answers(t), 1); /* whole */
    CU_ASSERT_STRING_EQUAL(t_body(t), want);
    CU_ASSERT_FALSE(t_upstream(t, 0)->sock != NULL); /* nobody reads on */
}

static void
test_snapshot_recheck_ends_a_stream(void)
{
    static const char *const ends[] = { "data: 1\n\n", "data: 1\r\n\r\n",
                                        "data: 1\r\r", "" };

    for (size_t i = 0; i < KARS_NELTS(ends); i++) {
        T_CASE(ends[i]);
        t_loop_t *t =
            snap_stream(RECHECK_DENY, ends[i][0] != '\0' ? ends[i] : NULL);

        snap_ended(t, ends[i], "policy_violation", "policy_denied",
                   "a \\\"new\\\" policy");
        CU_ASSERT_PTR_NOT_NULL(strstr(t_log(t), "rule=\"policy:1\""));
        CU_ASSERT_STRING_EQUAL(snap_now(t), "two");
        snap_end(t);
    }
}

static void
test_snapshot_recheck_cuts_in_the_midst_of_an_event(void)
{
    t_loop_t *t = snap_stream(RECHECK_DENY, "data: 1\n\ndata: hal");

    CU_ASSERT_EQUAL(t_answers(t), 0);
    CU_ASSERT_FALSE(t_is_open(t->client));
    CU_ASSERT_PTR_NULL(strstr(t_raw(t), "policy_denied"));
    snap_end(t);
}

static void
test_snapshot_recheck_that_fails_ends_it_too(void)
{
    t_loop_t *t = snap_stream(RECHECK_FAIL, "data: 1\n\n");

    snap_ended(t, "data: 1\n\n", "server_error", "internal_error",
               "the router failed; its log says more");
    snap_end(t);
    t = snap_stream(RECHECK_WAIT, "data: 1\n\n");
    snap_ended(t, "data: 1\n\n", "server_error", "internal_error",
               "the router failed; its log says more");
    snap_end(t);
}

static kars_req_t *snap_own_end;

static void
snap_ends_itself(kars_req_t *r, const kars_denial_t *denial)
{
    CU_ASSERT_EQUAL(denial->status, 403);
    snap_own_end = r;
    kars__pass_cancel(r);
    r->proto->abort(r);
}

/* What other long-lived requests use: an end of their own, and none when they
 * are done. */
static void
test_snapshot_recheck_has_other_ends(void)
{
    t_loop_t *t = snap_begin("one");

    t_request(t, "GET /stream HTTP/1.1\r\nhost: x\r\n\r\n");
    CU_ASSERT_PTR_NULL(t->cycle->lasting);

    kars_req_t *r = t->client->conn->h1.r;

    kars__lasting_add(r, snap_ends_itself);
    kars__lasting_add(r, NULL); /* the first word counts */
    CU_ASSERT_PTR_EQUAL(t->cycle->lasting, r);
    kars__lasting_del(r);
    kars__lasting_del(r);
    CU_ASSERT_PTR_NULL(t->cycle->lasting);
    kars__lasting_add(r, snap_ends_itself);
    snap_recheck = RECHECK_DENY;
    kars__recheck_soon(t->cycle);
    kars__recheck_soon(t->cycle);
    t_run(t);
    CU_ASSERT_EQUAL(snap_rechecks, 1);
    CU_ASSERT_PTR_EQUAL(snap_own_end, r);
    CU_ASSERT_PTR_NULL(t->cycle->lasting);
    CU_ASSERT_TRUE(t_is_empty(t));
    snap_end(t);
}

void
suite_snapshot(void)
{
    T_SUITE(snapshot);
    T_TEST(snapshot, test_snapshot_is_published_and_kept_by_requests);
    T_TEST(snapshot, test_snapshot_of_a_bad_file_is_the_one_before);
    T_TEST(snapshot, test_snapshot_of_a_file_that_is_not_there_yet);
    T_TEST(snapshot, test_snapshot_refused_at_load_is_an_error);
    T_TEST(snapshot, test_snapshot_publish_without_memory);
    T_TEST(snapshot, test_snapshot_folders_are_told);
    T_TEST(snapshot, test_snapshot_zone_tells_the_oldest);
    T_TEST(snapshot, test_snapshot_recheck_lets_a_stream_go_on);
    T_TEST(snapshot, test_snapshot_recheck_ends_a_stream);
    T_TEST(snapshot, test_snapshot_recheck_cuts_in_the_midst_of_an_event);
    T_TEST(snapshot, test_snapshot_recheck_that_fails_ends_it_too);
    T_TEST(snapshot, test_snapshot_recheck_has_other_ends);
}
