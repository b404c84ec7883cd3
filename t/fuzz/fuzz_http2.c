/*
 * fuzz_http2.c - frames of any kind into a connection of the whole router, cut
 * at random. Whatever comes, the connection ends and leaves nothing behind, and
 * what the router says is a row of whole frames.
 */
#include "http/conn.h"
#include "http/http2_session.h"
#include "proc/cycle.h"
#include "proc/module.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(ok)                                               \
    do {                                                             \
        if (!(ok)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok); \
            abort();                                                 \
        }                                                            \
    } while (0)

static const char fuzz_begin[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                 "\0\0\0\4\0\0\0\0";

static const char fuzz_conf[] =
    "load_module gate; log stderr level=error; body_memory 100k wait=1s;"
    "server { listen 127.0.0.1:1; header_limit 4k; body_limit 64k;"
    "route GET / { respond 200 hello; }"
    "route POST /gated { gate on; respond 200 done; } }";

/* One end of the talk. */
static struct {
    const uint8_t *data;
    size_t size;
    size_t at; /* of fuzz_begin, then of data */
    uint64_t seed;
    int closed;
    size_t left; /* bytes to the router's next frame */
    uint8_t head[9];
    size_t nhead;
} fuzz;

static size_t
fuzz_some(size_t most)
{
    fuzz.seed = fuzz.seed * 6364136223846793005u + 1442695040888963407u;
    return 1 + (size_t) (fuzz.seed >> 33) % most;
}

static ssize_t
fuzz_recv(kars__sock_t *s, void *p, size_t n)
{
    size_t begin = sizeof(fuzz_begin); /* with the NUL: the length's end */
    size_t have = begin + fuzz.size - fuzz.at;
    size_t some = fuzz_some(fuzz.seed >> 60 < 8 ? 20 : 4000);

    some = some < n ? some : n;
    some = some < have ? some : have;
    if (fuzz.at < begin && fuzz.at + some > begin) {
        some = begin - fuzz.at;
    }
    if (some == 0) {
        return 0; /* the client closes */
    }
    memcpy(p,
           fuzz.at < begin ? fuzz_begin + fuzz.at
                           : (const char *) fuzz.data + (fuzz.at - begin),
           some);
    fuzz.at += some;
    return (ssize_t) some;
}

/* What the router says is cut into frames that have no end in their midst. */
static void
fuzz_said(const uint8_t *p, size_t n)
{
    for (; n > 0; p++, n--) {
        if (fuzz.left > 0) {
            fuzz.left--;
            continue;
        }
        fuzz.head[fuzz.nhead++] = *p;
        if (fuzz.nhead == sizeof(fuzz.head)) {
            fuzz.nhead = 0;
            fuzz.left = (size_t) fuzz.head[0] << 16 |
                        (size_t) fuzz.head[1] << 8 | fuzz.head[2];
            FUZZ_CHECK(fuzz.left <= 16384 && fuzz.head[3] <= 9);
        }
    }
}

static ssize_t
fuzz_sendv(kars__sock_t *s, const kars_buf_t *chain)
{
    size_t n = fuzz_some(5000), sent = 0;

    for (; chain != NULL && sent < n; chain = chain->next) {
        size_t some = chain->len < n - sent ? chain->len : n - sent;

        fuzz_said((const uint8_t *) chain->data, some);
        sent += some;
    }
    return (ssize_t) sent;
}

static void
fuzz_want(kars__sock_t *s, uint32_t events)
{
    /* the loop below looks at s->wanted */
}

static void
fuzz_close(kars__sock_t *s)
{
    fuzz.closed = 1;
}

static void
fuzz_shut(kars__sock_t *s)
{
    FUZZ_CHECK(fuzz.left == 0 && fuzz.nhead == 0);
}

static const kars__sock_ops_t fuzz_ops = {
    .recv = fuzz_recv,
    .sendv = fuzz_sendv,
    .want = fuzz_want,
    .close = fuzz_close,
    .shut = fuzz_shut,
};

/* A module that lets everybody in, and waits for bodies. */

static int
fuzz_access(kars_req_t *r, const void *conf, void *ctx)
{
    return kars__api.grant(r, KARS_STR("agent"), KARS_STR("someone"));
}

static int
fuzz_admit(kars_req_t *r, const void *conf, void *ctx)
{
    return KARS_OK;
}

static const kars_hook_t fuzz_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = fuzz_access },
    { .phase = KARS_PHASE_ADMIT, .run = fuzz_admit, .flags = KARS_NEEDS_BODY },
    { 0 },
};

static const kars_directive_t fuzz_directives[] = {
    { .name = "gate",
      .at = KARS_AT_ROUTE,
      .type = KARS_T_FLAG,
      .doc = "makes the route wait for its body" },
    { 0 },
};

static const kars_module_t fuzz_gate = {
    .magic = KARS_MODULE_MAGIC,
    .abi_major = KARS_ABI_MAJOR,
    .abi_minor = KARS_ABI_MINOR,
    .size = sizeof(kars_module_t),
    .api_size = sizeof(kars_api_t),
    .directive_size = sizeof(kars_directive_t),
    .hook_size = sizeof(kars_hook_t),
    .filter_size = sizeof(kars_filter_def_t),
    .json_size = sizeof(kars_json_watch_t),
    .service_size = sizeof(kars_service_t),
    .need_size = sizeof(kars_need_t),
    .os_need_size = sizeof(kars_os_need_t),
    .command_size = sizeof(kars_command_t),
    .version = "0",
    .name = "gate",
    .flags = KARS_ALWAYS,
    .conf_size = sizeof(int32_t),
    .directives = fuzz_directives,
    .hooks = fuzz_hooks,
};

static kars_cycle_t *
fuzz_cycle(void)
{
    static const kars_module_t *const mods[] = { &fuzz_gate, NULL };
    kars_err_t err = KARS_ERR_INIT;
    int fd = memfd_create("router.conf", MFD_CLOEXEC);
    char path[40];

    FUZZ_CHECK(dprintf(fd, "%s", fuzz_conf) > 0);
    (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    kars__module_builtins = mods;
    kars__cycle_loop_flags = KARS__LOOP_FAKE;
    kars_cycle_t *c = kars__cycle_load(path, KARS__CYCLE_SERVE, -1, &err);

    (void) close(fd);
    if (c == NULL) {
        fprintf(stderr, "fuzz_http2: %s\n", err.text);
        abort();
    }
    c->listeners->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    FUZZ_CHECK(kars__cycle_start(c, &err) == KARS_OK);
    kars__log_setup(&(kars__log_conf_t){
        .target = { .kind = KARS__LOG_FILE, .fd = 2 }, .level = KARS_LOG_ERR });
    return c;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kars_cycle_t *cycle; /* one for all inputs */

    if (cycle == NULL) {
        cycle = fuzz_cycle();
    }
    memset(&fuzz, 0, sizeof(fuzz));
    fuzz.data = data;
    fuzz.size = size;
    for (size_t i = 0; i < size && i < 64; i++) {
        fuzz.seed = fuzz.seed * 31 + data[i];
    }

    kars_conn_t *c = kars__conn_open(cycle->listeners, cycle->loop);
    kars__sock_t *s = kars__conn_sock(c);

    s->ops = &fuzz_ops;
    kars__conn_begin(c);
    for (size_t turns = 0; !fuzz.closed; turns++) {
        FUZZ_CHECK(turns < 100000 + size); /* it spins */
        if (s->wanted != 0) {
            s->ready(s, s->wanted);
        }
        kars__loop_turn(cycle->loop, 0);
        if (!fuzz.closed && s->wanted == 0) {
            kars__loop_advance(cycle->loop, 1000);
        }
    }
    kars__loop_turn(cycle->loop, 0);
    FUZZ_CHECK(cycle->nconns == 0 && cycle->body_held == 0);
    return 0;
}
