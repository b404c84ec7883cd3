/* log_target.c - lines to files and to syslog; see log_target.h. */
#include "base/log_target.h"
#include "base/parse.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define TARGET_HEAD 200 /* bytes of a syslog line's head, at most */

/* RFC 5424 table 1, by number. */
static const char *const target_facilities[] = {
    "kern",   "user",   "mail",   "daemon", "auth",     "syslog",
    "lpr",    "news",   "uucp",   "cron",   "authpriv", "ftp",
    "ntp",    "audit",  "alert",  "clock",  "local0",   "local1",
    "local2", "local3", "local4", "local5", "local6",   "local7"
};

/* RFC 5424 table 2, by KARS_LOG_*. */
static const uint8_t target_severities[] = { 6, 3, 4, 5, 6, 7 };

static int
target_unix(kars_str_t path, kars__log_target_t *t, kars_err_t *err)
{
    struct sockaddr_un *un = (struct sockaddr_un *) &t->addr;

    if (path.len == 0 || path.len >= sizeof(un->sun_path) ||
        path.data[0] != '/') {
        return kars__err(err, 0, "expected unix:/PATH of a syslog socket");
    }
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path.data, path.len);
    t->addr_len =
        (socklen_t) (offsetof(struct sockaddr_un, sun_path) + path.len + 1);
    return KARS_OK;
}

static int
target_server(kars_str_t s, kars__log_target_t *t, kars_err_t *err)
{
    struct sockaddr_in *in4 = (struct sockaddr_in *) &t->addr;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *) &t->addr;
    kars_str_t prefix = KARS_STR("unix:");
    kars_hostport_t at;
    char host[64];

    memset(&t->addr, 0, sizeof(t->addr));
    if (kars_str_starts(s, prefix)) {
        return target_unix(
            (kars_str_t){ s.data + prefix.len, s.len - prefix.len }, t, err);
    }
    if (kars__parse_hostport(s, &at) == KARS_OK && at.host.len < sizeof(host)) {
        memcpy(host, at.host.data, at.host.len);
        host[at.host.len] = '\0';
        if (inet_pton(AF_INET, host, &in4->sin_addr) == 1) {
            in4->sin_family = AF_INET;
            in4->sin_port = htons((uint16_t) at.port);
            t->addr_len = sizeof(*in4);
            return KARS_OK;
        }
        if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
            in6->sin6_family = AF_INET6;
            in6->sin6_port = htons((uint16_t) at.port);
            t->addr_len = sizeof(*in6);
            return KARS_OK;
        }
    }
    return kars__err(err, 0,
                     "expected server=unix:/PATH or server=IP:PORT, got "
                     "\"%.*s\"",
                     KARS_STR_ARG(s));
}

static int
target_facility(kars_str_t s, kars__log_target_t *t, kars_err_t *err)
{
    for (size_t i = 0; i < KARS_NELTS(target_facilities); i++) {
        if (kars_str_eq(s, kars__strz(target_facilities[i]))) {
            t->facility = (uint32_t) i;
            return KARS_OK;
        }
    }
    return kars__err(err, 0,
                     "unknown facility \"%.*s\": expected one such as daemon "
                     "or local0",
                     KARS_STR_ARG(s));
}

static int
target_tag(kars_str_t s, kars__log_target_t *t, kars_err_t *err)
{
    int good = s.len != 0 && s.len < sizeof(t->tag);

    for (size_t i = 0; i < s.len && good; i++) {
        good = s.data[i] > ' ' && s.data[i] <= '~';
    }
    if (!good) {
        return kars__err(err, 0, "a tag has 1 to 32 printable characters");
    }
    memcpy(t->tag, s.data, s.len);
    t->tag[s.len] = '\0';
    return KARS_OK;
}

static int
target_option(kars_str_t s, kars__log_target_t *t, kars_err_t *err)
{
    static const struct {
        const char *key;
        int (*set)(kars_str_t s, kars__log_target_t *t, kars_err_t *err);
    } options[] = {
        { "server=", target_server },
        { "facility=", target_facility },
        { "tag=", target_tag },
    };

    for (size_t i = 0; i < KARS_NELTS(options); i++) {
        kars_str_t key = kars__strz(options[i].key);

        if (kars_str_starts(s, key)) {
            return options[i].set(
                (kars_str_t){ s.data + key.len, s.len - key.len }, t, err);
        }
    }
    return kars__err(err, 0,
                     "expected syslog:server=…,facility=…,tag=…, got \"%.*s\"",
                     KARS_STR_ARG(s));
}

static int
target_syslog(kars_str_t s, kars__log_target_t *t, kars_err_t *err)
{
    t->kind = KARS__LOG_SYSLOG;
    t->facility = 3; /* daemon */
    memcpy(t->tag, "kars", 5);
    (void) target_unix(KARS_STR("/dev/log"), t, err);
    while (s.len != 0) {
        const char *comma = memchr(s.data, ',', s.len);
        size_t n = comma != NULL ? (size_t) (comma - s.data) : s.len;

        if (target_option((kars_str_t){ s.data, n }, t, err) != KARS_OK) {
            return KARS_ERROR;
        }
        n += comma != NULL;
        s = (kars_str_t){ s.data + n, s.len - n };
    }
    return KARS_OK;
}

int
kars__log_target_parse(kars_str_t word, kars__log_target_t *ret,
                       kars_err_t *err)
{
    static const char *const names[] = { "off", "stderr", "stdout" };
    kars_str_t syslog = KARS_STR("syslog:");
    kars__log_target_t t = { .kind = KARS__LOG_FILE, .fd = -1 };

    for (uint32_t i = 0; i < KARS_NELTS(names); i++) {
        if (kars_str_eq(word, kars__strz(names[i]))) {
            t.kind = i;
        }
    }
    if (kars_str_starts(word, syslog) &&
        target_syslog(
            (kars_str_t){ word.data + syslog.len, word.len - syslog.len }, &t,
            err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (word.len == 0) {
        return kars__err(err, 0, "expected stderr, stdout, syslog:… or a path");
    }
    *ret = t;
    return KARS_OK;
}

int
kars__log_is_path(kars_str_t word)
{
    kars__log_target_t t;
    kars_err_t err = KARS_ERR_INIT;

    return kars__log_target_parse(word, &t, &err) == KARS_OK &&
           t.kind == KARS__LOG_FILE;
}

int
kars__log_target_open(kars__log_target_t *t, kars_err_t *err)
{
    switch (t->kind) {
    case KARS__LOG_STDERR:
        t->fd = 2;
        return KARS_OK;
    case KARS__LOG_STDOUT:
        t->fd = 1;
        return KARS_OK;
    case KARS__LOG_SYSLOG:
        if (gethostname(t->host, sizeof(t->host) - 1) == -1 ||
            t->host[0] == '\0') {
            memcpy(t->host, "-", 2);
        }
        /* Not connected: a syslog daemon may be restarted under us. */
        t->fd = socket(t->addr.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        return t->fd == -1 ? kars__err(err, errno, "a socket for syslog")
                           : KARS_OK;
    default:
        return KARS_OK;
    }
}

/* One line without its end, as RFC 5424 writes it. */
static int
target_send(const kars__log_target_t *t, uint32_t level, const char *p,
            size_t n)
{
    char line[TARGET_HEAD + KARS__LOG_LINE];
    struct timespec ts;
    struct tm tm;
    char when[32];

    (void) clock_gettime(CLOCK_REALTIME, &ts);
    (void) gmtime_r(&ts.tv_sec, &tm);
    (void) strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);

    int head = snprintf(line, TARGET_HEAD, "<%u>1 %s.%03ldZ %s %s %d - - ",
                        t->facility * 8 + target_severities[level], when,
                        ts.tv_nsec / 1000000, t->host, t->tag, (int) getpid());

    memcpy(line + head, p, n);
    return sendto(t->fd, line, (size_t) head + n, MSG_DONTWAIT | MSG_NOSIGNAL,
                  (const struct sockaddr *) &t->addr, t->addr_len) == -1
               ? KARS_ERROR
               : KARS_OK;
}

static size_t
target_count(const char *p, size_t n)
{
    size_t lines = 0;

    for (size_t i = 0; i < n; i++) {
        lines += p[i] == '\n';
    }
    return lines;
}

/* A disk that is full takes a piece: the next line begins on one of its own. */
static size_t
target_append(kars__log_target_t *t, const char *p, size_t n)
{
    if (t->tail && write(t->fd, "\n", 1) != 1) {
        return target_count(p, n);
    }
    t->tail = 0;

    ssize_t done;

    do {
        done = write(t->fd, p, n);
    } while (done == -1 && errno == EINTR);
    if (done == (ssize_t) n) {
        return 0;
    }
    if (done < 0) {
        return target_count(p, n);
    }
    t->tail = done > 0 && p[done - 1] != '\n';
    errno = ENOSPC;
    return target_count(p + done, n - (size_t) done);
}

size_t
kars__log_target_write(kars__log_target_t *t, uint32_t level, const char *lines,
                       size_t n)
{
    struct stat st;
    size_t lost = 0;

    if (t->fd == -1) {
        return 0;
    }
    if (t->kind == KARS__LOG_FILE ||
        (t->kind != KARS__LOG_SYSLOG && fstat(t->fd, &st) == 0 &&
         S_ISREG(st.st_mode))) {
        return target_append(t, lines, n);
    }
    while (n != 0) {
        const char *end = memchr(lines, '\n', n);
        size_t len = end != NULL ? (size_t) (end - lines) : n - 1;

        if (len >= KARS__LOG_LINE) {
            len = KARS__LOG_LINE - 1;
        }
        lost += t->kind == KARS__LOG_SYSLOG
                    ? target_send(t, level, lines, len) != KARS_OK
                    : target_append(t, lines, len + 1) != 0;
        lines += len + 1;
        n -= len + 1;
    }
    return lost;
}

void
kars__log_target_close(kars__log_target_t *t)
{
    if ((t->kind == KARS__LOG_FILE || t->kind == KARS__LOG_SYSLOG) &&
        t->fd != -1) {
        (void) close(t->fd);
    }
    t->fd = -1;
}
