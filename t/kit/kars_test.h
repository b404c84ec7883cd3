/*
 * kars_test.h - unit tests of a module: requests through the whole router, in
 * this process, without a socket, on a clock that stands still until the test
 * moves it. Links with libkars-test (pkg-config kars-test); any test framework
 * will do, or none:
 *
 *     #include <kars_test.h>
 *
 *     int
 *     main(void)
 *     {
 *         kars_test_t *t = kars_test("route GET / { hello world; respond 200;
 * }", &kars_test_open, &kars_module);
 *
 *         kars_test_ask(t, "GET", "/", "x-name: me\r\n", NULL);
 *         KARS_TEST(kars_test_status(t) == 200);
 *         KARS_TEST_STR(kars_test_header(t, "x-hello"), "world");
 *         kars_test_destroy(t);
 *         return kars_test_failures() != 0;
 *     }
 *
 * The configuration is what stands inside `server { }`; text that has a
 * `server {` of its own is taken as it is, and may name further modules with
 * module_path and load_module. Nothing is confined, nobody's privileges
 * change, and there is one worker, which is this process.
 *
 * Upstreams are played by the test: every connection that the router makes is
 * kept here, and connected unless kars_test_connects() says otherwise. Servers
 * are best written as addresses; a name would be looked up.
 *
 * One test at a time, on one thread. Every string that is returned belongs to
 * the test and lives until the next call that returns one. What the kit cannot
 * go on after (a configuration that does not load, a broken promise of the
 * router, an upstream that is not there) ends the program with a line that
 * says why.
 */
#ifndef KARS_TEST_H
#define KARS_TEST_H

#include <kars_module.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kars_test_s kars_test_t;

/* A router with these modules, in the order of loading; ends with NULL. */
kars_test_t *kars_test_create(const char *conf,
                              const kars_module_t *const *modules);

/* The router stops. What a module left behind is reported by a sanitizer. */
void kars_test_destroy(kars_test_t *t);

/* kars_test("…", &one, &other) */
#ifndef __cplusplus
#define kars_test(conf, ...) \
    kars_test_create(        \
        conf, (const kars_module_t *const[]){ NULL, ##__VA_ARGS__, NULL } + 1)
#endif

/* The error that a configuration deserves; "" when it loads. */
const char *kars_test_load_error(const char *conf,
                                 const kars_module_t *const *modules);

/* A module that grants every request to the agent "someone". */
extern const kars_module_t kars_test_open;

/* Time. Calls that send run all that can be done at this instant; run does
 * the same after what the test changed in the module itself. */
void kars_test_run(kars_test_t *t);
void kars_test_advance_ms(kars_test_t *t, uint64_t ms);
/* With real threads at work (kars_offload()), until *what is not 0; 20 s. */
void kars_test_until(kars_test_t *t, const int *what);

/* The client. It speaks HTTP/1.1; a request on a connection that was closed
 * opens another. headers: lines with their "\r\n", or NULL; a body brings its
 * content-length, and type application/json unless headers name one. */
void kars_test_ask(kars_test_t *t, const char *method, const char *target,
                   const char *headers, const char *body);
void kars_test_request(kars_test_t *t, const char *raw);
void kars_test_send(kars_test_t *t, const char *bytes, size_t n);
void kars_test_client(kars_test_t *t);      /* another connection, from now */
void kars_test_client_gone(kars_test_t *t); /* it breaks its connection */
void kars_test_client_half(kars_test_t *t); /* it sends no more, and says so */
int kars_test_client_is_open(const kars_test_t *t);   /* by the router */
void kars_test_client_room(kars_test_t *t, size_t n); /* takes n bytes more */

/* Answers on the newest connection: how many are complete, and of the last one
 * that has a head: status (0: none), decoded body, a header (NULL: none). */
int kars_test_answers(kars_test_t *t);
int kars_test_status(kars_test_t *t);
int kars_test_status_at(kars_test_t *t, int i); /* from 0; 0: there is none */
const char *kars_test_body(kars_test_t *t);
const char *kars_test_header(kars_test_t *t, const char *name);
const char *kars_test_raw(kars_test_t *t); /* all bytes that it got */

/* Upstreams; i counts the router's connections from 0. got: all that the router
 * sent there; body: what stands after the last head. */
int kars_test_upstreams(const kars_test_t *t);
const char *kars_test_upstream_got(kars_test_t *t, int i);
const char *kars_test_upstream_body(kars_test_t *t, int i);
int kars_test_upstream_is_open(kars_test_t *t, int i); /* by the router */
void kars_test_upstream_reply(kars_test_t *t, const char *raw); /* the newest */
void kars_test_upstream_send(kars_test_t *t, int i, const char *bytes,
                             size_t n);
void kars_test_upstream_gone(kars_test_t *t, int i); /* closes its side */

/* How the next connections to upstreams end: 0 they stand, KARS_TEST_HANGS,
 * or an errno. Borrowed until they were made. */
#define KARS_TEST_HANGS -1
void kars_test_connects(kars_test_t *t, const int *ends, size_t n);

/* All that was logged, at every level. */
const char *kars_test_log(kars_test_t *t);

/* Facts of the request that ended last, as logs and audit see them
 * (kars_req_var(), kars_req_number()): "decision", "deny_code", "deny_rule",
 * "principal", "tokens_total", those of your own. NULL, 0: not set. */
int kars_test_ended(const kars_test_t *t); /* requests, so far */
const char *kars_test_fact(const kars_test_t *t, const char *name);
int64_t kars_test_number(const kars_test_t *t, const char *name);

/* Nothing of any request is left: no connection, no held body. */
int kars_test_is_empty(const kars_test_t *t);

/*
 * The nth allocation of pool memory from now on is refused (1: the next one;
 * 0: none). Run a request for n = 1, 2, … until refused() says that there was
 * no nth any more: each must end, in an answer or without.
 */
void kars_test_refuse_alloc(uint64_t n);
int kars_test_refused(void);

/* Checks: a line names what did not hold; the test goes on. */
#define KARS_TEST(condition) \
    kars_test_check((condition) ? 1 : 0, #condition, __FILE__, __LINE__)
#define KARS_TEST_STR(got, want) \
    kars_test_check_str(got, want, #got, __FILE__, __LINE__)
int kars_test_check(int ok, const char *what, const char *file, int line);
int kars_test_check_str(const char *got, const char *want, const char *what,
                        const char *file, int line);
int kars_test_failures(void); /* so far */

#ifdef __cplusplus
}
#endif

#endif
