/* log.c - the process's log. */
#include "base/log.h"

#include <stdio.h>
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

int
kars__log_wants(uint32_t level)
{
    return level <= log_conf.level;
}

static size_t
log_time(char *p, size_t cap)
{
    struct timespec ts;
    struct tm tm;

    (void) clock_gettime(CLOCK_REALTIME, &ts);
    (void) gmtime_r(&ts.tv_sec, &tm);

    size_t n = strftime(p, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    int m = snprintf(p + n, cap - n, ".%03ldZ", ts.tv_nsec / 1000000);

    return n + (m > 0 ? (size_t) m : 0);
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
    char when[40];

    when[log_time(when, sizeof(when) - 1)] = '\0';

    size_t o =
        (size_t) snprintf(line, cap,
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
        o = log_time(line, cap);
        o += (size_t) snprintf(line + o, cap - o, " %s ", log_names[level]);
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
