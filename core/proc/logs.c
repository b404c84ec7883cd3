/* logs.c - a worker's logs; see logs.h. */
#include "proc/logs.h"
#include "proc/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define LOGS_BUFFER 65536u /* more in one turn is written before its end */
#define LOGS_SAY_MS 10000u
#define LOGS_LABEL  64u /* bytes of a label's value */

static const kars_metric_def_t logs_lost = {
    .size = sizeof(logs_lost),
    .name = "kars_log_lines_lost_total",
    .help = "Lines that a log did not take, by log",
    .kind = KARS_COUNTER,
    .labels = "log",
};

int
kars__logs_is_named(kars_str_t directive)
{
    kars_str_t end = KARS_STR("_log");

    return kars_str_eq(directive, KARS_STR("log")) ||
           (directive.len > end.len &&
            memcmp(directive.data + directive.len - end.len, end.data,
                   end.len) == 0);
}

kars_log_t *
kars__logs_get(kars_cycle_t *c, kars_str_t word, kars_err_t *err)
{
    kars__log_target_t target;

    for (kars_log_t *log = c->logs; log != NULL; log = log->next) {
        if (kars_str_eq(log->name, word)) {
            return log;
        }
    }
    if (kars__log_target_parse(word, &target, err) != KARS_OK) {
        return NULL;
    }

    kars_log_t *log = kars__pnew(c->pool, kars_log_t);
    kars_str_t name = kars__pdup(c->pool, word);

    if (log == NULL || name.data == NULL) {
        (void) kars__err(err, ENOMEM, "a log");
        return NULL;
    }
    log->name = name;
    log->target = target;
    log->cycle = c;
    log->next = c->logs;
    c->logs = log;
    return log;
}

int
kars__logs_open(kars_log_t *log, int channel, kars_err_t *err)
{
    if (log->target.fd != -1) {
        return KARS_OK;
    }
    return log->target.kind == KARS__LOG_FILE
               ? kars__ask(channel, KARS__ASK_LOG, log->name, 0,
                           &log->target.fd, NULL, err)
               : kars__log_target_open(&log->target, err);
}

/* Said in the router's own log, not for every line. */
static void
logs_count_lost(kars_log_t *log, size_t n, int error)
{
    kars_cycle_t *c = log->cycle;
    uint64_t now = kars__loop_now(c->loop);
    kars_str_t label = log->name;

    if (label.len > LOGS_LABEL) { /* the end of a path tells more */
        label.data += label.len - LOGS_LABEL;
        label.len = LOGS_LABEL;
    }
    kars__series_add(kars__series(kars__metric(c->metrics, &logs_lost), &label),
                     (double) n);
    log->lost += n;
    if (log->said_ms == 0 || now - log->said_ms >= LOGS_SAY_MS) {
        kars__log(KARS_LOG_ERR, "log: lines lost log=\"%.*s\" lines=%llu: %s",
                  KARS_STR_ARG(log->name), (unsigned long long) log->lost,
                  strerror(error));
        log->said_ms = now;
        log->lost = 0;
    }
}

static void
logs_flush(kars_log_t *log)
{
    size_t lost =
        kars__log_target_write(&log->target, KARS_LOG_INFO, log->buf, log->len);

    log->len = 0;
    if (lost != 0) {
        logs_count_lost(log, lost, errno);
    }
}

static void
logs_turn_end(kars__work_t *work)
{
    logs_flush((kars_log_t *) ((char *) work - offsetof(kars_log_t, work)));
}

int
kars__logs_line(kars_log_t *log, kars_str_t line)
{
    size_t max = KARS__LOG_LINE - 1;
    size_t cut = sizeof(KARS__LOG_CUT) - 1;

    if (log == NULL || log->target.fd == -1 || line.len == 0) {
        return KARS_OK;
    }
    if (memchr(line.data, '\n', line.len) != NULL) {
        return KARS_ERROR;
    }
    if (log->buf == NULL && (log->buf = kars__alloc(LOGS_BUFFER)) == NULL) {
        return KARS_ERROR;
    }
    if (LOGS_BUFFER - log->len < KARS__LOG_LINE) {
        logs_flush(log);
    }

    size_t n = line.len > max ? max - cut : line.len;

    memcpy(log->buf + log->len, line.data, n);
    log->len += n;
    if (n != line.len) {
        memcpy(log->buf + log->len, KARS__LOG_CUT, cut);
        log->len += cut;
    }
    log->buf[log->len++] = '\n';
    log->work.fn = logs_turn_end;
    kars__work_queue(log->cycle->loop, &log->work, KARS__TURN_END);
    return KARS_OK;
}

void
kars__logs_reopened(kars_cycle_t *c, const char *path, int fd)
{
    kars_str_t name = kars__strz(path);

    for (kars_log_t *log = c->logs; log != NULL; log = log->next) {
        if (log->target.kind != KARS__LOG_FILE || log->target.fd == -1 ||
            !kars_str_eq(log->name, name)) {
            continue;
        }
        if (log->len != 0) {
            logs_flush(log);
        }
        /* The number stays: the process's own log has it too. */
        if (dup3(fd, log->target.fd, O_CLOEXEC) == -1) {
            kars__log(KARS_LOG_ERR, "log: take \"%s\": %s", path,
                      strerror(errno));
        }
        log->target.tail = 0;
    }
    (void) close(fd);
}

void
kars__logs_close(kars_cycle_t *c)
{
    for (kars_log_t *log = c->logs; log != NULL; log = log->next) {
        kars__work_cancel(c->loop, &log->work);
        if (log->len != 0) {
            logs_flush(log);
        }
        kars__free(log->buf);
        log->buf = NULL;
    }

    /* The process's own log is one of them: from here on to stderr. */
    kars__log_target_t *own = kars__log_target();

    for (kars_log_t *log = c->logs; log != NULL; log = log->next) {
        if (own->kind == log->target.kind && own->fd == log->target.fd &&
            own->fd != -1 && own->kind >= KARS__LOG_FILE) {
            *own = (kars__log_target_t){ .kind = KARS__LOG_STDERR, .fd = 2 };
        }
        kars__log_target_close(&log->target);
    }
}
