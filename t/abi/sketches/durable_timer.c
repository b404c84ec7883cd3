/* sketch: a timer with durable state - one worker sweeps, whoever it is. */
#include "kars_module.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { SWEEP_MS = 60000 };

typedef struct {
    kars_str_t path;
} sweep_conf_t;

typedef struct {
    int fd;
    uint64_t last_ms;
} sweep_state_t; /* one per worker, from the cycle's pool */

static void
sweep_close(void *data)
{
    (void) close(((sweep_state_t *) data)->fd); /* -1 is harmless here */
}

/* On a thread: it may wait for the disk. */
static int
sweep_write(void *data)
{
    sweep_state_t *st = data;
    ssize_t n = pwrite(st->fd, &st->last_ms, sizeof(st->last_ms), 0);

    return n == (ssize_t) sizeof(st->last_ms) && fdatasync(st->fd) == 0 ? 0
                                                                        : errno;
}

static void sweep_run(kars_cycle_t *cycle, void *data);

static void
sweep_done(kars_cycle_t *cycle, int error, void *data)
{
    if (error != 0) {
        kars_cycle_log(cycle, KARS_LOG_WARN, "sweep: not written error=%d",
                       error);
    }
    (void) kars_timer(cycle, SWEEP_MS, sweep_run, data);
}

static void
sweep_run(kars_cycle_t *cycle, void *data)
{
    sweep_state_t *st = data;

    if (kars_owner_claim(cycle, KARS_STR("sweep"), 2 * SWEEP_MS) == KARS_OK) {
        st->last_ms = kars_wall_ms(cycle);
        if (kars_task(cycle, sweep_write, sweep_done, st) == KARS_OK) {
            return; /* sweep_done goes on */
        }
    }
    (void) kars_timer(cycle, SWEEP_MS, sweep_run, st);
}

static int
sweep_worker(kars_cycle_t *cycle, kars_err_t *err)
{
    const sweep_conf_t *sc = kars_cycle_conf(cycle);
    sweep_state_t *st =
        kars_pown(kars_cycle_pool(cycle), sizeof(*st), sweep_close);

    if (st == NULL) {
        return kars_err(err, ENOMEM, "sweep");
    }
    st->fd = open(sc->path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (st->fd == -1 ||
        pread(st->fd, &st->last_ms, sizeof(st->last_ms), 0) == -1) {
        return kars_err(err, errno, "open \"%s\"", sc->path.data);
    }

    uint64_t due = st->last_ms + SWEEP_MS, now = kars_wall_ms(cycle);
    uint32_t wait = due <= now ? 0 : (uint32_t) (due - now);

    return kars_timer(cycle, wait, sweep_run, st) != NULL
               ? KARS_OK
               : kars_err(err, ENOMEM, "sweep");
}

/* clang-format off */
static const kars_directive_t sweep_directives[] = {
    { .name = "sweep_state", .at = KARS_AT_MAIN, .type = KARS_T_PATH,
      .offset = offsetof(sweep_conf_t, path) },
    { 0 },
};
static const kars_os_need_t sweep_os[] = {
    { KARS_OS_WRITE, "sweep_state", "when the last sweep was" },
    { 0 },
};
/* clang-format on */

KARS_MODULE(durable_timer) = {
    KARS_MODULE_HEAD,
    .name = "durable-timer",
    .version = "1.0.0",
    .conf_size = sizeof(sweep_conf_t),
    .directives = sweep_directives,
    .os_needs = sweep_os,
    .worker_start = sweep_worker,
};
