/*
 * text.c - entries of policy-status as JSON. Owns nothing.
 */
#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

/* n > cap: something did not fit. */
typedef struct {
    char *p;
    size_t cap;
    size_t n;
} text_out_t;

static void
text_put(text_out_t *o, const char *s, size_t len)
{
    if (o->n > o->cap || len > o->cap - o->n) {
        o->n = o->cap + 1;
        return;
    }

    if (len > 0) {
        memcpy(o->p + o->n, s, len);
        o->n += len;
    }
}

static void
text_puts(text_out_t *o, const char *s)
{
    text_put(o, s, strlen(s));
}

static void
text_quote(text_out_t *o, kars_str_t s)
{
    text_put(o, "\"", 1);
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char) s.data[i];
        char esc[8];

        if (c < 0x20) {
            text_put(o, esc, (size_t) snprintf(esc, sizeof(esc), "\\u%04x", c));
        } else {
            text_put(o, "\\", c == '"' || c == '\\');
            text_put(o, s.data + i, 1);
        }
    }
    text_put(o, "\"", 1);
}

static void
text_uint(text_out_t *o, uint64_t n)
{
    char digits[24];

    text_put(o, digits,
             (size_t) snprintf(digits, sizeof(digits), "%" PRIu64, n));
}

/* Zero is "never", which the controller reads as null. */
static void
text_time(text_out_t *o, uint64_t ms)
{
    if (ms == 0) {
        text_puts(o, "null");
    } else {
        text_uint(o, ms);
    }
}

size_t
status_health(const kars_upstream_state_t *s, char *ret, size_t cap)
{
    text_out_t o = { ret, cap, 0 };

    text_puts(&o, "{\"deployment\":");
    text_quote(&o, s->name);
    text_puts(&o, s->healthy ? ",\"healthy\":true" : ",\"healthy\":false");
    text_puts(&o, ",\"failure_streak\":");
    text_uint(&o, s->failure_streak);
    text_puts(&o, ",\"first_failure_at_ms\":");
    text_time(&o, s->first_failure_at_ms);
    text_puts(&o, ",\"last_success_at_ms\":");
    text_time(&o, s->last_success_at_ms);
    text_puts(&o, "}");
    return o.n > cap ? 0 : o.n;
}

static void
text_digest(text_out_t *o, kars_str_t digest)
{
    static const char hex[] = "0123456789abcdef";

    text_puts(o, "\"sha256:");
    for (size_t i = 0; i < digest.len; i++) {
        unsigned char c = (unsigned char) digest.data[i];

        text_put(o, hex + (c >> 4), 1);
        text_put(o, hex + (c & 15), 1);
    }
    text_puts(o, "\"");
}

/* RFC 3339. */
static void
text_date(text_out_t *o, uint64_t ms)
{
    time_t seconds = (time_t) (ms / 1000);
    struct tm tm;
    char text[48];
    size_t n = gmtime_r(&seconds, &tm) != NULL
                   ? strftime(text, 40, "\"%Y-%m-%dT%H:%M:%S", &tm)
                   : 0;

    if (n == 0) {
        text_puts(o, "null");
        return;
    }
    n += (size_t) snprintf(text + n, sizeof(text) - n, ".%03uZ\"",
                           (unsigned) (ms % 1000));
    text_put(o, text, n);
}

size_t
status_watched(const kars_watch_state_t *s, char *ret, size_t cap)
{
    text_out_t o = { ret, cap, 0 };
    kars_str_t error = s->error;

    if (error.len > STATUS_ERROR_MAX) {
        error.len = STATUS_ERROR_MAX;
    }
    text_puts(&o, "{\"kind\":");
    text_quote(&o, s->kind);
    text_puts(&o, ",\"digest\":");
    if (s->digest.len == 32) {
        text_digest(&o, s->digest);
    } else {
        text_puts(&o, "null");
    }
    text_puts(&o, ",\"source_path\":");
    text_quote(&o, s->path);
    text_puts(&o, ",\"loaded_at\":");
    if (s->loaded_at_ms != 0) {
        text_date(&o, s->loaded_at_ms);
    } else {
        text_puts(&o, "null");
    }
    text_puts(&o, ",\"last_error\":");
    if (error.len != 0) {
        text_quote(&o, error);
    } else {
        text_puts(&o, "null");
    }
    text_puts(&o, "}");
    return o.n > cap ? 0 : o.n;
}
