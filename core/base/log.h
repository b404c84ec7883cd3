/*
 * log.h - one event a line: "area: what happened key=value".
 *
 * One log per process. A line is one write(2) or one syslog datagram; bytes
 * that could forge a line or move a terminal's cursor are escaped; what is too
 * long ends in a mark.
 */
#ifndef KARS_BASE_LOG_H
#define KARS_BASE_LOG_H

#include "base/log_target.h"

#include <stdarg.h>
#include <time.h>

typedef struct {
    kars__log_target_t target; /* borrowed, of kars__log_target() afterwards */
    uint32_t level;            /* lines above it (KARS_LOG_*) are dropped */
    uint32_t json;             /* one JSON object a line instead of text */
} kars__log_conf_t;

void kars__log_setup(const kars__log_conf_t *conf);

/* Where the lines go, for whoever opens its file again. */
kars__log_target_t *kars__log_target(void);

void kars__log(uint32_t level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The same with the trace id of a request (may be empty). */
void kars__vlog(uint32_t level, kars_str_t trace, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

/* "2026-01-31T12:34:56.789Z", until the year 9999. By our own arithmetic, since
 * a signal handler may not call gmtime() or strftime(). */
enum { KARS__LOG_TIME = 32 };
void kars__log_time(char p[KARS__LOG_TIME], const struct timespec *at);

/*
 * A line from a signal handler: takes no lock, allocates nothing. text is
 * printable ASCII without quotes and backslashes, which the caller sees to.
 */
void kars__log_signal(uint32_t level, const char *text);

#endif
