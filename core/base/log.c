/* log.c - the process's log. */
#include "base/log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE 2048

static kars__log_conf_t log_conf = { .fd = 2, .level = KARS_LOG_NOTICE };

static const char *const log_names[] = { "",       "error", "warn",
                                         "notice", "info",  "debug" };

void
kars__log_setup(const kars__log_conf_t *conf)
{
    log_conf = *conf;
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
 * Bytes from 0x80 pass: logs are UTF-8. Returns how much was written. */
static size_t
log_escape(char *out, size_t cap, const char *in, size_t n, int json)
{
    size_t o = 0;

    for (size_t i = 0; i < n && o + 6 < cap; i++) {
        unsigned char c = (unsigned char) in[i];

        if (c < 0x20 || c == 0x7f) {
            o += (size_t) snprintf(out + o, cap - o,
                                   json ? "\\u%04x" : "\\x%02x", c);
        } else if (json && (c == '"' || c == '\\')) {
            out[o++] = '\\';
            out[o++] = (char) c;
        } else {
            out[o++] = (char) c;
        }
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

    char text[LOG_LINE / 2], line[LOG_LINE], when[40];
    int len = vsnprintf(text, sizeof(text), fmt, ap);
    size_t n = len < 0                       ? 0
               : (size_t) len < sizeof(text) ? (size_t) len
                                             : sizeof(text) - 1;
    size_t o;

    when[log_time(when, sizeof(when) - 1)] = '\0';
    if (log_conf.json) {
        o = (size_t) snprintf(line, sizeof(line),
                              "{\"time\":\"%s\",\"level\":\"%s\",\"pid\":%d,"
                              "\"trace_id\":\"%.*s\",\"msg\":\"",
                              when, log_names[level], (int) getpid(),
                              (int) (trace.len > 128 ? 128 : trace.len),
                              trace.len != 0 ? trace.data : "");
        o += log_escape(line + o, sizeof(line) - o - 3, text, n, 1);
        memcpy(line + o, "\"}", 2);
        o += 2;
    } else {
        o = (size_t) snprintf(line, sizeof(line), "%s %s ", when,
                              log_names[level]);
        o += log_escape(line + o, sizeof(line) - o - 140, text, n, 0);
        if (trace.len != 0 && trace.len <= 128) {
            o += (size_t) snprintf(line + o, sizeof(line) - o, " trace=%.*s",
                                   KARS_STR_ARG(trace));
        }
    }
    line[o++] = '\n';
    (void) !write(log_conf.fd, line, o); /* nobody is left to tell */
}

void
kars__log(uint32_t level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    kars__vlog(level, (kars_str_t){ NULL, 0 }, fmt, ap);
    va_end(ap);
}
