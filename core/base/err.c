/* err.c - error texts. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int
kars__err(kars_err_t *err, int errnum, const char *fmt, ...)
{
    if (err == NULL) {
        return KARS_ERROR;
    }

    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);

    if (errnum != 0 && n >= 0 && (size_t) n < sizeof(err->text)) {
        char text[96];

        (void) snprintf(err->text + n, sizeof(err->text) - (size_t) n, ": %s",
                        strerror_r(errnum, text, sizeof(text)));
    }
    return KARS_ERROR;
}

int
kars__err_prefix(kars_err_t *err, const char *fmt, ...)
{
    if (err == NULL) {
        return KARS_ERROR;
    }

    char was[sizeof(err->text)];
    va_list ap;

    memcpy(was, err->text, sizeof(was));
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);

    if (n >= 0 && (size_t) n + 2 < sizeof(err->text)) {
        size_t room = sizeof(err->text) - (size_t) n - 3;

        memcpy(err->text + n, ": ", 2);
        memcpy(err->text + n + 2, was, room);
        err->text[sizeof(err->text) - 1] = '\0';
    }
    return KARS_ERROR;
}
