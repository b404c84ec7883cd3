/*
 * logs.h - the logs that a configuration names, in a worker.
 *
 * The master opens files (proc/plan.h): a log is the first word of a directive
 * that is called `log` or ends in `_log`, so core's own grammar finds it before
 * any module is there. Lines gather until the turn's end and go out whole. On
 * USR1 the master opens the files again and passes the descriptors, which take
 * the place of the ones before under the same numbers.
 */
#ifndef KARS_PROC_LOGS_H
#define KARS_PROC_LOGS_H

#include "base/log_target.h"
#include "http/runtime.h"

struct kars_log_s {
    kars_log_t *next; /* of the cycle */
    kars_str_t name;  /* as the configuration has it; a path is absolute */
    kars__log_target_t target;
    kars_cycle_t *cycle;
    kars__work_t work; /* for the turn's end */
    char *buf;         /* whole lines */
    size_t len;
    uint32_t announced; /* the text names it where a log may stand */
    uint64_t lost;      /* lines, since it was last said */
    uint64_t said_ms;
};

/* The log of that word, made when it is not there yet. Opens nothing. NULL:
 * *err says why. */
kars_log_t *kars__logs_get(kars_cycle_t *c, kars_str_t word, kars_err_t *err);

/* Does the first word of this directive name a log? */
int kars__logs_is_named(kars_str_t directive);

/* channel: to the master, which opens files. */
int kars__logs_open(kars_log_t *log, int channel, kars_err_t *err);

/* One line without its end. OK, also where nothing is written; ERROR: it has a
 * line end inside, or there is no memory. What is too long is cut with a mark.
 * What the disk does not take is counted (kars_log_lines_lost_total). */
int kars__logs_line(kars_log_t *log, kars_str_t line);

/* The master opened a file again; fd is taken. */
void kars__logs_reopened(kars_cycle_t *c, const char *path, int fd);

/* Writes what is left and closes them. */
void kars__logs_close(kars_cycle_t *c);

#endif
