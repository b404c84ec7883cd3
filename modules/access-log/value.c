/* value.c - the variables of log formats: facts of a request by name, its peer,
 * times, and headers that carry no credential. */
#include "value.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    VALUE_TEXT,   /* a fact that is text */
    VALUE_NUMBER, /* one that is a number */
    VALUE_COUNT,  /* one that is absent when it is 0 */
    VALUE_MS,     /* a number of milliseconds, in seconds */
    VALUE_FACT,   /* fact_NAME: whatever a module set */
    VALUE_HEADER,
    VALUE_SENT_HEADER,
    VALUE_TIME,
    VALUE_TIME_LOCAL,
    VALUE_TIME_MS,
    VALUE_REMOTE_ADDR,
    VALUE_REMOTE_PORT,
    VALUE_REMOTE_UID,
    VALUE_LISTENER,
    VALUE_TLS_VERSION,
    VALUE_TLS_NAME,
    VALUE_TLS_SUBJECT,
    VALUE_PID
};

/* clang-format off */
static const struct {
    const char *name;
    uint32_t how;
    const char *fact;
} values[] = {
    { "method",           VALUE_TEXT,        "method" },
    { "path",             VALUE_TEXT,        "path" },
    { "query",            VALUE_TEXT,        "query" },
    { "route",            VALUE_TEXT,        "route" },
    { "trace_id",         VALUE_TEXT,        "trace_id" },
    { "class",            VALUE_TEXT,        "class" },
    { "principal",        VALUE_TEXT,        "principal" },
    { "sandbox",          VALUE_TEXT,        "sandbox" },
    { "decision",         VALUE_TEXT,        "decision" },
    { "status",           VALUE_NUMBER,      "status" },
    { "bytes_in",         VALUE_NUMBER,      "bytes_in" },
    { "bytes_out",        VALUE_NUMBER,      "bytes_out" },
    { "body_bytes_sent",  VALUE_NUMBER,      "bytes_out" },
    { "bytes_sent",       VALUE_NUMBER,      "bytes_sent" },
    { "duration_ms",      VALUE_NUMBER,      "duration_ms" },
    { "request_time",     VALUE_MS,          "duration_ms" },
    { "upstream_time",    VALUE_MS,          "upstream_ms" },
    { "upstream",         VALUE_TEXT,        "upstream" },
    { "upstream_host",    VALUE_TEXT,        "upstream_host" },
    { "upstream_port",    VALUE_COUNT,       "upstream_port" },
    { "upstream_status",  VALUE_COUNT,       "upstream_status" },
    { "attempts",         VALUE_COUNT,       "attempts" },
    { "deny_module",      VALUE_TEXT,        "deny_module" },
    { "deny_code",        VALUE_TEXT,        "deny_code" },
    { "deny_reason",      VALUE_TEXT,        "deny_reason" },
    { "deny_rule",        VALUE_TEXT,        "deny_rule" },
    { "model",            VALUE_TEXT,        "model" },
    { "action",           VALUE_TEXT,        "action" },
    { "stream",           VALUE_NUMBER,      "stream" },
    { "tokens_in",        VALUE_COUNT,       "tokens_in" },
    { "tokens_out",       VALUE_COUNT,       "tokens_out" },
    { "tokens_total",     VALUE_COUNT,       "tokens_total" },
    { "tokens_charged",   VALUE_COUNT,       "tokens_charged" },
    { "tokens_estimated", VALUE_TEXT,        "tokens_estimated" },
    { "time_iso8601",     VALUE_TIME,        NULL },
    { "time_local",       VALUE_TIME_LOCAL,  NULL },
    { "time_ms",          VALUE_TIME_MS,     NULL },
    { "remote_addr",      VALUE_REMOTE_ADDR, NULL },
    { "remote_port",      VALUE_REMOTE_PORT, NULL },
    { "remote_uid",       VALUE_REMOTE_UID,  NULL },
    { "listener",         VALUE_LISTENER,    NULL },
    { "tls_version",      VALUE_TLS_VERSION, NULL },
    { "tls_server_name",  VALUE_TLS_NAME,    NULL },
    { "tls_subject",      VALUE_TLS_SUBJECT, NULL },
    { "pid",              VALUE_PID,         NULL },
};

/* Names beside the table: a prefix, and the rest is what is asked for. */
static const struct {
    const char *prefix;
    uint32_t how;
} value_prefixes[] = {
    { "sent_http_", VALUE_SENT_HEADER },
    { "http_",      VALUE_HEADER },
    { "fact_",      VALUE_FACT },
};

/* In the name of a header that may carry a credential. */
static const char *const value_secret[] = {
    "auth", "cookie", "token", "secret", "key", "password", "passwd",
    "credential", "session", "signature", "assertion", "jwt", "jws", "api_k",
    "cert", "proof", "dpop", "nonce",
};
/* clang-format on */

#define VALUE_PREFIXED 1000u /* numbers of value_prefixes begin here */

static int
value_is_secret(kars_str_t name)
{
    for (size_t i = 0; i < KARS_NELTS(value_secret); i++) {
        size_t n = strlen(value_secret[i]);

        if (memmem(name.data, name.len, value_secret[i], n) != NULL) {
            return 1;
        }
    }
    return 0;
}

int
value_resolve(kars_str_t name, uint32_t *ret_var, kars_str_t *ret_rest,
              kars_err_t *err)
{
    for (uint32_t i = 0; i < KARS_NELTS(values); i++) {
        if (kars_str_eq(
                name, (kars_str_t){ values[i].name, strlen(values[i].name) })) {
            *ret_var = i;
            return KARS_OK;
        }
    }
    for (uint32_t i = 0; i < KARS_NELTS(value_prefixes); i++) {
        kars_str_t prefix = { value_prefixes[i].prefix,
                              strlen(value_prefixes[i].prefix) };

        if (!kars_str_starts(name, prefix) || name.len == prefix.len) {
            continue;
        }
        *ret_rest =
            (kars_str_t){ name.data + prefix.len, name.len - prefix.len };
        *ret_var = VALUE_PREFIXED + i;
        for (size_t c = 0; c < ret_rest->len; c++) {
            if (ret_rest->data[c] >= 'A' && ret_rest->data[c] <= 'Z') {
                return kars_err(err, 0, "write $%.*s in small letters",
                                KARS_STR_ARG(name));
            }
        }
        if (value_prefixes[i].how != VALUE_FACT && value_is_secret(*ret_rest)) {
            return kars_err(err, 0,
                            "$%.*s may carry a credential, which is never "
                            "logged",
                            KARS_STR_ARG(name));
        }
        return KARS_OK;
    }
    return kars_err(err, 0,
                    "there is no variable $%.*s; facts of other modules are "
                    "$fact_NAME",
                    KARS_STR_ARG(name));
}

static void
value_text(format_value_t *v, kars_str_t s)
{
    v->kind = s.len != 0 ? FORMAT_TEXT : FORMAT_ABSENT;
    v->text = s;
}

static void
value_number(format_value_t *v, int64_t n)
{
    int len = snprintf(v->buf, sizeof(v->buf), "%lld", (long long) n);

    v->kind = FORMAT_NUMBER;
    v->text = (kars_str_t){ v->buf, (size_t) len };
}

static void
value_seconds(format_value_t *v, int64_t ms)
{
    int len = snprintf(v->buf, sizeof(v->buf), "%lld.%03lld",
                       (long long) (ms / 1000), (long long) (ms % 1000));

    v->kind = FORMAT_NUMBER;
    v->text = (kars_str_t){ v->buf, (size_t) len };
}

static void
value_time(format_value_t *v, uint64_t wall_ms, int local)
{
    time_t t = (time_t) (wall_ms / 1000);
    struct tm tm;
    size_t n;

    if (local) {
        (void) localtime_r(&t, &tm);
        n = strftime(v->buf, sizeof(v->buf), "%d/%b/%Y:%H:%M:%S %z", &tm);
    } else {
        (void) gmtime_r(&t, &tm);
        n = strftime(v->buf, sizeof(v->buf), "%Y-%m-%dT%H:%M:%S", &tm);
        n += (size_t) snprintf(v->buf + n, sizeof(v->buf) - n, ".%03uZ",
                               (unsigned) (wall_ms % 1000));
    }
    v->kind = FORMAT_TEXT;
    v->text = (kars_str_t){ v->buf, n };
}

/* Underscores of a variable stand for dashes of a header. */
static void
value_header(kars_req_t *r, uint32_t dir, kars_str_t rest, format_value_t *v)
{
    char name[128];

    if (rest.len > sizeof(name)) {
        v->kind = FORMAT_ABSENT;
        return;
    }
    for (size_t i = 0; i < rest.len; i++) {
        name[i] = rest.data[i] == '_' ? '-' : rest.data[i];
    }
    value_text(v, kars_header(r, dir, (kars_str_t){ name, rest.len }));
}

static void
value_address(const kars_peer_t *peer, format_value_t *v)
{
    if (peer->family == AF_UNIX) {
        value_text(v, KARS_STR("unix:"));
    } else if (inet_ntop((int) peer->family, peer->addr, v->buf,
                         sizeof(v->buf)) != NULL) {
        value_text(v, (kars_str_t){ v->buf, strlen(v->buf) });
    }
}

static void
value_peer(kars_req_t *r, uint32_t how, format_value_t *v)
{
    kars_peer_t peer = { .size = sizeof(peer) };

    v->kind = FORMAT_ABSENT;
    if (kars_req_peer(r, &peer) != KARS_OK) {
        return;
    }
    switch (how) {
    case VALUE_REMOTE_ADDR:
        value_address(&peer, v);
        return;
    case VALUE_REMOTE_PORT:
        if (peer.family != AF_UNIX) {
            value_number(v, peer.port);
        }
        return;
    case VALUE_REMOTE_UID:
        if (peer.family == AF_UNIX) {
            value_number(v, peer.uid);
        }
        return;
    case VALUE_LISTENER:
        value_text(v, peer.listener);
        return;
    case VALUE_TLS_VERSION:
        value_text(v, peer.tls_version);
        return;
    case VALUE_TLS_NAME:
        value_text(v, peer.tls_server_name);
        return;
    default:
        value_text(v, peer.tls_peer_subject);
        return;
    }
}

static void
value_fact(kars_req_t *r, kars_str_t name, format_value_t *v)
{
    kars_str_t text = kars_req_var(r, name);
    int64_t number = kars_req_number(r, name);

    value_text(v, text);
    if (text.len == 0 && number != 0) {
        value_number(v, number);
    }
}

void
value_get(void *data, const format_part_t *part, format_value_t *v)
{
    kars_req_t *r = data;
    int pre = part->var >= VALUE_PREFIXED;
    uint32_t how = pre ? value_prefixes[part->var - VALUE_PREFIXED].how
                       : values[part->var].how;
    const char *fact = pre ? NULL : values[part->var].fact;
    kars_str_t name = { fact, fact != NULL ? strlen(fact) : 0 };
    int64_t n;

    switch (how) {
    case VALUE_TEXT:
        value_text(v, kars_req_var(r, name));
        return;
    case VALUE_NUMBER:
        value_number(v, kars_req_number(r, name));
        return;
    case VALUE_COUNT:
        n = kars_req_number(r, name);
        v->kind = FORMAT_ABSENT;
        if (n != 0) {
            value_number(v, n);
        }
        return;
    case VALUE_MS:
        v->kind = FORMAT_ABSENT;
        if (fact[0] == 'd' || kars_req_number(r, KARS_STR("attempts")) != 0) {
            value_seconds(v, kars_req_number(r, name));
        }
        return;
    case VALUE_FACT:
        value_fact(r, part->text, v);
        return;
    case VALUE_HEADER:
        value_header(r, KARS_REQUEST, part->text, v);
        return;
    case VALUE_SENT_HEADER:
        value_header(r, KARS_RESPONSE, part->text, v);
        return;
    case VALUE_TIME:
    case VALUE_TIME_LOCAL:
        value_time(v, kars_wall_ms(kars_req_cycle(r)), how == VALUE_TIME_LOCAL);
        return;
    case VALUE_TIME_MS:
        value_number(v, (int64_t) kars_wall_ms(kars_req_cycle(r)));
        return;
    case VALUE_PID:
        value_number(v, getpid());
        return;
    default:
        value_peer(r, how, v);
        return;
    }
}
