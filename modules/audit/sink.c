/* sink.c - see sink.h. */
#include "audit/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define AUDIT_QUEUE_SIZE ((size_t) 64 << 20) /* address space, not memory */
#define AUDIT_WAITERS    ((size_t) 1 << 17)
#define AUDIT_RETRY_MS   500
#define AUDIT_TICK_MS    1000

audit_worker_t audit_w;
const kars_signing_t *audit_signing;

static void sink_turn(kars_cycle_t *cycle, void *data);
static void sink_retry(kars_cycle_t *cycle, void *data);
static void sink_interval(kars_cycle_t *cycle, void *data);
static void sink_head_start(audit_worker_t *w);

/* Health */

void
audit_sink_fail(audit_worker_t *w, int errnum)
{
    if (w->failed == 0) {
        kars_cycle_log(w->cycle, KARS_LOG_ERR,
                       "audit: the log cannot be written, requests are refused "
                       "error=\"%s\" kept=%zu",
                       strerror(errnum), w->queue.used);
        kars_series_set(w->healthy, 0);
    }

    w->failed = errnum;
    if (w->retry == NULL) {
        w->retry = kars_timer(w->cycle, AUDIT_RETRY_MS, sink_retry, w);
    }
}

/* What was refused meanwhile, in one record. */
static void
sink_recover(audit_worker_t *w)
{
    audit_fields_t f = {
        .agent_id = w->store.subject,
        .action = KARS_STR("audit:unavailable"),
        .decision = KARS_STR("deny"),
        .code = KARS_STR("audit_unavailable"),
        .reason = KARS_STR("refused while the log could not be written"),
        .refused = (int64_t) w->refused,
    };

    w->failed = 0;
    kars_series_set(w->healthy, 1);
    kars_cycle_log(w->cycle, KARS_LOG_NOTICE,
                   "audit: the log can be written again unrecorded=%llu",
                   (unsigned long long) w->refused);
    if (w->refused > 0 && audit_queue_push(&w->queue, &f) != NULL) {
        w->refused = 0;
        if (!w->turn) {
            w->turn = kars_turn_end(w->cycle, sink_turn, w) == KARS_OK;
        }
    }
}

/* Waiters */

static void
sink_wake_all(audit_waiters_t *waiters, int error)
{
    for (size_t i = 0; i < waiters->n; i++) {
        (void) kars_resume(waiters->v[i], error);
    }
    waiters->n = 0;
}

static void
sink_wait(audit_waiters_t *waiters, kars_token_t token)
{
    if (waiters->n == AUDIT_WAITERS) {
        (void) kars_resume(token, EAGAIN);
        return;
    }
    waiters->v[waiters->n++] = token;
}

/* Syncing, on a thread. The job's fd is its own: the day may change. */

static int
sink_job_work(void *data)
{
    const audit_job_t *job = data;

    if (fdatasync(job->fd) == -1) {
        return errno;
    }

    return job->with_head ? audit_head_write(job->dirfd, &job->head) : 0;
}

static int
sink_job_start(audit_worker_t *w, audit_job_t *job,
               void (*done)(kars_cycle_t *cycle, int error, void *data))
{
    job->dirfd = w->store.dirfd;
    job->fd = fcntl(w->store.fd, F_DUPFD_CLOEXEC, 3);
    if (job->fd == -1) {
        return KARS_ERROR;
    }

    job->busy = 1;
    if (kars_task(w->cycle, sink_job_work, done, job) != KARS_OK) {
        (void) close(job->fd);
        job->busy = 0;
        return KARS_ERROR;
    }

    return KARS_OK;
}

static void sink_sync_done(kars_cycle_t *cycle, int error, void *data);

/* Group commit: what comes while one sync runs waits for the next. */
static void
sink_sync_start(audit_worker_t *w)
{
    audit_waiters_t idle = w->syncing;

    if (w->sync.busy || (w->written.n == 0 && !w->dirty)) {
        return;
    }

    w->syncing = w->written;
    w->written = idle;
    w->dirty = 0;
    if (sink_job_start(w, &w->sync, sink_sync_done) != KARS_OK) {
        w->dirty = 1;
        sink_wake_all(&w->syncing, EAGAIN);
        audit_sink_fail(w, EAGAIN);
    }
}

static void
sink_sync_done(kars_cycle_t *cycle, int error, void *data)
{
    audit_worker_t *w = &audit_w;

    (void) close(w->sync.fd);
    w->sync.busy = 0;
    sink_wake_all(&w->syncing, error);
    if (error != 0) {
        w->dirty = 1;
        w->sync_failed = 1;
        audit_sink_fail(w, error); /* the retry syncs again */
        return;
    }

    if (w->sync_failed) {
        w->sync_failed = 0;
        sink_recover(w);
    }
    sink_sync_start(w);
}

static void
sink_interval(kars_cycle_t *cycle, void *data)
{
    audit_worker_t *w = data;

    w->interval = NULL;
    sink_sync_start(w);
}

/* Writing */

/* Before the first record of this worker: is there a key, does the log end
 * where its head says? Services are ready only now, not at worker_start. */
static int
sink_first(audit_worker_t *w, uint64_t wall_ms)
{
    uint8_t key[32];
    kars_err_t err = { .size = sizeof(err) };

    if (!w->key_looked) {
        w->key_looked = 1;
        if (audit_signing == NULL ||
            audit_signing->public_key(key) != KARS_OK) {
            kars_cycle_log(w->cycle, KARS_LOG_WARN,
                           "audit: no signing_key, checkpoints and the head "
                           "are not signed");
        }
    }

    int rc = audit_store_check_head(&w->store, wall_ms, &err);

    if (rc == EBADMSG) {
        kars_cycle_log(w->cycle, KARS_LOG_ERR, "audit: %s", err.text);
        return 0; /* said, in the log and in the record */
    }
    return rc;
}

/* Tells those who wait, and forgets what is in the file. */
static void
sink_written(audit_worker_t *w, size_t done, int error)
{
    uint64_t n = 0;

    for (size_t at = 0; at < w->queue.used;) {
        audit_draft_t *d = audit_queue_at(&w->queue, at);

        if (d->token != 0 && at >= done) {
            (void) kars_resume(d->token, error);
        } else if (d->token != 0 && w->conf->sync == AUDIT_INTERVAL) {
            (void) kars_resume(d->token, 0);
        } else if (d->token != 0) {
            sink_wait(&w->written, d->token);
        }
        d->token = 0;
        n += at < done;
        at += d->size;
    }

    audit_queue_drop(&w->queue, done);
    kars_series_add(w->records, (double) n);
    kars_series_set(w->kept, (double) w->queue.used);
    w->dirty |= done > 0;
}

/* Everything that is queued to the file; checkpoints that are due. */
int
audit_sink_flush(audit_worker_t *w, uint64_t reserve)
{
    uint64_t wall_ms = kars_wall_ms(w->cycle);
    size_t done = 0;
    int died = kars_area_lock(w->area) == KARS_DONE;
    uint64_t since = w->store.shared->since_checkpoint;
    int rc = audit_store_ready(&w->store, wall_ms, died);

    if (rc == 0) {
        rc = sink_first(w, wall_ms);
    }
    if (rc == 0) {
        rc = audit_store_write(&w->store, &w->queue, wall_ms, &done);
    }
    if (rc == 0 && reserve > 0) {
        rc = audit_store_reserve(&w->store, reserve);
    }

    int checkpoint = w->store.shared->since_checkpoint == 0 && since + done > 0;

    kars_area_unlock(w->area);
    sink_written(w, done, rc);
    if (rc != 0) {
        audit_sink_fail(w, rc);
    }

    if (w->conf->sync == AUDIT_REQUEST) {
        sink_sync_start(w);
    } else if (w->dirty && w->interval == NULL) {
        w->interval = kars_timer(w->cycle, (uint32_t) w->conf->interval_ms,
                                 sink_interval, w);
    }
    if (checkpoint) {
        sink_head_start(w);
    }
    return rc;
}

static void
sink_turn(kars_cycle_t *cycle, void *data)
{
    audit_worker_t *w = data;

    w->turn = 0;
    if (w->failed == 0) { /* else the retry writes it */
        (void) audit_sink_flush(w, 0);
    }
}

static void
sink_retry(kars_cycle_t *cycle, void *data)
{
    audit_worker_t *w = data;

    w->retry = NULL;
    if (audit_sink_flush(w, AUDIT_RESERVE) != 0) {
        return;
    }
    if (w->sync_failed) {
        sink_sync_start(w);
    } else {
        sink_recover(w);
    }
}

/* The head. One worker writes it at a time. */

static void
sink_head_release(audit_worker_t *w, int written)
{
    audit_shared_t *sh = w->store.shared;

    (void) kars_area_lock(w->area);
    sh->head_worker = 0;
    if (written && w->head.head.seq + 1 > sh->head_seq) {
        sh->head_seq = w->head.head.seq + 1;
    }
    kars_area_unlock(w->area);
}

static void
sink_head_result(audit_worker_t *w, int error)
{
    sink_head_release(w, error == 0);
    if (error != 0 && !w->head_warned) {
        kars_cycle_log(w->cycle, KARS_LOG_WARN,
                       "audit: " AUDIT_HEAD_FILE
                       " cannot be written, trying on error=\"%s\"",
                       strerror(error));
    }
    w->head_warned = error != 0;
}

static void
sink_head_done(kars_cycle_t *cycle, int error, void *data)
{
    audit_worker_t *w = &audit_w;

    (void) close(w->head.fd);
    w->head.busy = 0;
    sink_head_result(w, error);
}

/* 1: there is a head to write, and it is ours to do. */
static int
sink_head_take(audit_worker_t *w)
{
    audit_shared_t *sh = w->store.shared;
    uint64_t me = kars_worker_id(w->cycle) + 1;
    int died = kars_area_lock(w->area) == KARS_DONE;
    int rc = 0;

    if (died) {
        sh->ready = 0; /* the next write looks at the file */
    } else if (sh->head_worker == 0 || sh->head_worker == me ||
               !kars_worker_alive(w->cycle, sh->head_worker - 1)) {
        rc = audit_store_head(&w->store, kars_wall_ms(w->cycle), &w->head.head);
        sh->head_worker = rc ? me : 0;
    }
    kars_area_unlock(w->area);
    return rc;
}

static void
sink_head_start(audit_worker_t *w)
{
    if (w->head.busy || w->store.fd == -1 || !sink_head_take(w)) {
        return;
    }

    w->head.with_head = 1;
    if (sink_job_start(w, &w->head, sink_head_done) != KARS_OK) {
        sink_head_release(w, 0);
    }
}

static void
sink_tick(kars_cycle_t *cycle, void *data)
{
    audit_worker_t *w = data;

    w->tick = kars_timer(cycle, AUDIT_TICK_MS, sink_tick, w);
    if (w->failed == 0) {
        (void) audit_sink_flush(w, 0); /* a checkpoint may be due */
    }
    sink_head_start(w);
}

void
audit_sink_schedule(audit_worker_t *w)
{
    if (!w->turn && w->failed == 0) {
        w->turn = kars_turn_end(w->cycle, sink_turn, w) == KARS_OK;
        if (!w->turn) {
            audit_sink_fail(w, ENOMEM); /* the retry will write it */
        }
    }
}

static int
sink_map(audit_waiters_t *ret)
{
    void *v =
        mmap(NULL, AUDIT_WAITERS * sizeof(*ret->v), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (v == MAP_FAILED) {
        return KARS_ERROR;
    }

    ret->v = v;
    return KARS_OK;
}

static void
sink_unmap(audit_waiters_t *waiters)
{
    if (waiters->v != NULL) {
        (void) munmap(waiters->v, AUDIT_WAITERS * sizeof(*waiters->v));
    }
    memset(waiters, 0, sizeof(*waiters));
}

static void
sink_metrics(audit_worker_t *w)
{
    static const kars_metric_def_t defs[] = {
        { .size = sizeof(kars_metric_def_t),
          .name = "kars_audit_records_total",
          .help = "Records that this worker wrote to the audit log.",
          .kind = KARS_COUNTER,
          .max_series = 1 },
        { .size = sizeof(kars_metric_def_t),
          .name = "kars_audit_healthy",
          .help = "1 while the audit log can be written.",
          .kind = KARS_GAUGE,
          .max_series = 1 },
        { .size = sizeof(kars_metric_def_t),
          .name = "kars_audit_kept_bytes",
          .help = "Records in memory because the log cannot be written.",
          .kind = KARS_GAUGE,
          .max_series = 1 },
    };
    kars_series_t **series[] = { &w->records, &w->healthy, &w->kept };

    for (size_t i = 0; i < KARS_NELTS(defs); i++) {
        kars_metric_t *metric = kars_metric(w->cycle, &defs[i]);

        *series[i] = metric == NULL ? NULL : kars_series(metric, NULL);
    }
    kars_series_set(w->healthy, 1);
}

static void
sink_release(audit_worker_t *w)
{
    audit_store_close(&w->store);
    audit_queue_done(&w->queue);
    sink_unmap(&w->written);
    sink_unmap(&w->syncing);
    w->started = 0;
}

/* What fails for want of space passes; the rest is a mistake to be told. */
static int
sink_open(audit_worker_t *w, kars_err_t *err)
{
    int died = kars_area_lock(w->area) == KARS_DONE;
    int rc = audit_store_ready(&w->store, kars_wall_ms(w->cycle), died);

    kars_area_unlock(w->area);
    if (rc == ENOSPC || rc == EDQUOT || rc == EIO) {
        audit_sink_fail(w, rc);
        return KARS_OK;
    }
    if (rc == EBADMSG) {
        return kars_err(err, 0,
                        "audit_dir \"%.*s\": the newest file has no valid "
                        "record at its end: restore it, or begin a new folder",
                        KARS_STR_ARG(w->conf->dir));
    }
    if (rc != 0) {
        return kars_err(err, rc, "audit_dir \"%.*s\": cannot be written",
                        KARS_STR_ARG(w->conf->dir));
    }

    return KARS_OK;
}

int
audit_sink_start(kars_cycle_t *cycle, kars_err_t *err)
{
    audit_worker_t *w = &audit_w;

    memset(w, 0, sizeof(*w));
    w->cycle = cycle;
    w->conf = kars_cycle_conf(cycle);
    if (audit_store_open(&w->store, w->conf->dir, kars_cycle_sandbox(cycle),
                         err) != KARS_OK) {
        return KARS_ERROR;
    }
    w->store.signing = audit_signing; /* also of one that writes no record */

    w->store.checkpoint_records = w->conf->checkpoint_records;
    w->store.checkpoint_every_ms = w->conf->checkpoint_every_ms;
    w->area = kars_area(cycle, KARS_STR("audit"), sizeof(audit_shared_t),
                        AUDIT_SHARED_VERSION, err);
    if (w->area == NULL || audit_queue_init(&w->queue, AUDIT_QUEUE_SIZE) != 0 ||
        sink_map(&w->written) != KARS_OK || sink_map(&w->syncing) != KARS_OK) {
        sink_release(w);
        return w->area == NULL ? KARS_ERROR
                               : kars_err(err, ENOMEM, "audit: start");
    }

    w->store.shared = kars_area_data(w->area);
    sink_metrics(w);
    if (sink_open(w, err) != KARS_OK) {
        sink_release(w);
        return KARS_ERROR;
    }

    w->tick = kars_timer(cycle, AUDIT_TICK_MS, sink_tick, w);
    w->started = 1;
    return KARS_OK;
}

/* The loop is over: what is left is written here, not on a thread. */
void
audit_sink_stop(kars_cycle_t *cycle)
{
    audit_worker_t *w = &audit_w;
    kars_timer_t *timers[] = { w->tick, w->retry, w->interval };

    if (!w->started) {
        return;
    }

    size_t done = 0;
    int died = kars_area_lock(w->area) == KARS_DONE;
    int rc = audit_store_append(&w->store, &w->queue, kars_wall_ms(cycle), died,
                                &done);

    kars_area_unlock(w->area);
    audit_queue_drop(&w->queue, done);
    if (rc == 0 && fdatasync(w->store.fd) == -1) {
        rc = errno;
    }
    if (w->queue.used > 0 || rc != 0) {
        kars_cycle_log(cycle, KARS_LOG_ERR,
                       "audit: stopped with records that are not on disk "
                       "error=\"%s\" bytes=%zu refused=%llu",
                       strerror(rc), w->queue.used,
                       (unsigned long long) w->refused);
    } else if (sink_head_take(w)) {
        sink_head_result(w, audit_head_write(w->store.dirfd, &w->head.head));
    }

    for (size_t i = 0; i < KARS_NELTS(timers); i++) {
        if (timers[i] != NULL) {
            kars_timer_cancel(timers[i]);
        }
    }
    sink_release(w);
}
