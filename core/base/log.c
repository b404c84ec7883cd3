/* log.c - the process's log. */
#include "base/log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_TEXT  2048 /* of what is said; escapes make it longer */
#define LOG_TRACE 128

static kars__log_conf_t log_conf = {
    .target = { .kind = KARS__LOG_STDERR, .fd = 2 },
    .level = KARS_LOG_NOTICE,
};

static const char *const log_names[] = { "",       "error", "warn",
                                         "notice", "info",  "debug" };

void
kars__log_setup(const kars__log_conf_t *conf)
{
    log_conf = *conf;
}

kars__log_target_t *
kars__log_target(void)
{
    return &log_conf.target;
}

static size_t
log_digits(char *p, uint64_t n, size_t width)
{
    for (size_t i = width; i > 0; i--) {
        p[i - 1] = (char) ('0' + n % 10);
        n /= 10;
    }
    return width;
}

/* A day of the Gregorian calendar from the days since 1970-01-01, counted in
 * years that begin in March (400 of them have 146097 days). */
static size_t
log_date(char *p, uint64_t days)
{
    uint64_t z = days + 719468, era = z / 146097, doe = z % 146097;
    uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    uint64_t mp = (5 * doy + 2) / 153;
    uint64_t month = mp < 10 ? mp + 3 : mp - 9;
    size_t n = log_digits(p, yoe + era * 400 + (month <= 2), 4);

    p[n++] = '-';
    n += log_digits(p + n, month, 2);
    p[n++] = '-';
    return n + log_digits(p + n, doy - (153 * mp + 2) / 5 + 1, 2);
}

void
kars__log_time(char p[KARS__LOG_TIME], const struct timespec *at)
{
    uint64_t s = (uint64_t) at->tv_sec % 86400;
    size_t n = log_date(p, (uint64_t) at->tv_sec / 86400);

    p[n++] = 'T';
    n += log_digits(p + n, s / 3600, 2);
    p[n++] = ':';
    n += log_digits(p + n, s / 60 % 60, 2);
    p[n++] = ':';
    n += log_digits(p + n, s % 60, 2);
    p[n++] = '.';
    n += log_digits(p + n, (uint64_t) at->tv_nsec / 1000000, 3);
    p[n++] = 'Z';
    p[n] = '\0';
}

static void
log_now(char p[KARS__LOG_TIME])
{
    struct timespec now;

    (void) clock_gettime(CLOCK_REALTIME, &now);
    kars__log_time(p, &now);
}

/* Escapes what is not printable; in JSON the quote and the backslash too.
 * Bytes from 0x80 pass: logs are UTF-8. What does not fit into cap ends in a
 * mark, for which there is room behind it. Returns how much was written. */
static size_t
log_escape(char *out, size_t cap, const char *in, size_t n, int json)
{
    size_t o = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char) in[i];

        if (o + 6 > cap) {
            memcpy(out + o, KARS__LOG_CUT, sizeof(KARS__LOG_CUT) - 1);
            return o + sizeof(KARS__LOG_CUT) - 1;
        }
        if (c < 0x20 || c == 0x7f) {
            o += (size_t) snprintf(out + o, 7, json ? "\\u%04x" : "\\x%02x", c);
        } else if (json && (c == '"' || c == '\\')) {
            out[o++] = '\\';
            out[o++] = (char) c;
        } else {
            out[o++] = (char) c;
        }
    }
    return o;
}

static size_t
log_json(char *line, size_t cap, uint32_t level, kars_str_t trace,
         const char *text, size_t n)
{
    char when[KARS__LOG_TIME];
    size_t o;

    log_now(when);
    o = (size_t) snprintf(line, cap,
                          "{\"time\":\"%s\",\"level\":\"%s\","
                          "\"pid\":%d,\"trace_id\":\"%.*s\","
                          "\"msg\":\"",
                          when, log_names[level], (int) getpid(),
                          (int) (trace.len > LOG_TRACE ? LOG_TRACE : trace.len),
                          trace.len != 0 ? trace.data : "");

    o += log_escape(line + o, cap - o - 16, text, n, 1);
    memcpy(line + o, "\"}", 2);
    return o + 2;
}

/* syslog says when and how bad in its own head. */
static size_t
log_text(char *line, size_t cap, uint32_t level, kars_str_t trace,
         const char *text, size_t n)
{
    size_t o = 0;

    if (log_conf.target.kind != KARS__LOG_SYSLOG) {
        char when[KARS__LOG_TIME];

        log_now(when);
        o = (size_t) snprintf(line, cap, "%s %s ", when, log_names[level]);
    }
    o += log_escape(line + o, cap - o - LOG_TRACE - 32, text, n, 0);
    if (trace.len != 0 && trace.len <= LOG_TRACE) {
        o += (size_t) snprintf(line + o, cap - o, " trace=%.*s",
                               KARS_STR_ARG(trace));
    }
    return o;
}

void
kars__vlog(uint32_t level, kars_str_t trace, const char *fmt, va_list ap)
{
    if (level > log_conf.level || level < KARS_LOG_ERR ||
        level > KARS_LOG_DEBUG) {
        return;
    }

    char text[LOG_TEXT + sizeof(KARS__LOG_CUT)], line[KARS__LOG_LINE];
    int len = vsnprintf(text, LOG_TEXT, fmt, ap);
    size_t n = len < 0 ? 0 : (size_t) len;

    if (n >= LOG_TEXT) {
        memcpy(text + LOG_TEXT - 1, KARS__LOG_CUT, sizeof(KARS__LOG_CUT));
        n = LOG_TEXT + sizeof(KARS__LOG_CUT) - 2;
    }

    size_t o = log_conf.json
                   ? log_json(line, sizeof(line), level, trace, text, n)
                   : log_text(line, sizeof(line), level, trace, text, n);

    line[o++] = '\n';
    /* nobody is left to tell */
    (void) kars__log_target_write(&log_conf.target, level, line, o);
}

void
kars__log(uint32_t level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    kars__vlog(level, (kars_str_t){ NULL, 0 }, fmt, ap);
    va_end(ap);
}

static size_t
log_append(char *line, size_t n, const char *text)
{
    size_t len = strlen(text);

    if (len > KARS__LOG_LINE - 4 - n) {
        len = KARS__LOG_LINE - 4 - n;
    }
    memcpy(line + n, text, len);
    return n + len;
}

void
kars__log_signal(uint32_t level, const char *text)
{
    char line[KARS__LOG_LINE], when[KARS__LOG_TIME], pid[16];
    uint64_t me = (uint64_t) getpid();
    size_t width = 1, n = 0;

    for (uint64_t rest = me / 10; rest != 0; rest /= 10) {
        width++;
    }
    pid[log_digits(pid, me, width)] = '\0';
    log_now(when);

    const char *json[] = { "{\"time\":\"",
                           when,
                           "\",\"level\":\"",
                           log_names[level],
                           "\",\"pid\":",
                           pid,
                           ",\"trace_id\":\"\",\"msg\":\"",
                           text,
                           "\"}" };
    const char *plain[] = { when, " ", log_names[level], " ", text };
    const char **parts = log_conf.json ? json : plain;
    size_t nparts = log_conf.json ? KARS_NELTS(json) : KARS_NELTS(plain);

    for (size_t i = 0; i < nparts; i++) {
        n = log_append(line, n, parts[i]);
    }
    line[n++] = '\n';
    (void) kars__log_target_write(&log_conf.target, level, line, n);
}
