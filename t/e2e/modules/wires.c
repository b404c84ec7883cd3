/*
 * wires.c - a module of the end-to-end tests: a protocol of its own on each
 * listener that `listen … module=wires` gives it. Directives say which one.
 *
 *     wires_echo      what comes goes back; a line "bye" ends it
 *     wires_tunnel    a line "host:port", then the bytes of a tunnel to
 *                     wires_to, if the route of that CONNECT allows it
 *     wires_join      joined to wires_to by the module's own hands
 *     wires_sniff     HTTP goes to the server of wires_http, "?" is answered
 *                     with where the connection was bound for
 *     wires_udp       datagrams come back with "#" before them
 */
#include "kars_module.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

typedef struct {
    kars_str_t echo, tunnel, join, sniff, udp, http;
    kars_upstream_t *to;
    uint64_t idle_ms;
} wires_conf_t;

static kars_cycle_t *wires_cycle;

static void
wires_say(const char *what, int error)
{
    kars_cycle_log(wires_cycle, KARS_LOG_NOTICE, "wires: %s error=%d", what,
                   error);
}

/* Echo. */

static int
echo_accept(kars_stream_t *s, const kars_peer_t *peer, void *data)
{
    const wires_conf_t *wc = data;

    if (wc->idle_ms != 0) {
        kars_stream_timeout(s, (uint32_t) wc->idle_ms);
    }
    return KARS_OK;
}

static int
echo_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    if (bytes.len == 4 && memcmp(bytes.data, "bye\n", 4) == 0) {
        kars_stream_close(s, 0);
        return KARS_OK;
    }

    int rc = kars_stream_write(s, bytes);

    return rc == KARS_ERROR ? rc : kars_stream_take(s, bytes.len);
}

static void
echo_closed(kars_stream_t *s, int error, void *data)
{
    wires_say("echo closed", error);
}

/* Tunnel: the line is taken, what follows is not. */

static int
tunnel_decided(kars_stream_t *s, const kars_verdict_t *verdict, void *data)
{
    const wires_conf_t *wc = data;

    if (verdict->decision != KARS_ALLOW) {
        (void) kars_stream_write(s, KARS_STR("no: "));
        (void) kars_stream_write(s, verdict->reason);
        kars_stream_close(s, 0);
        return KARS_OK;
    }
    return kars_stream_tunnel(s, wc->to);
}

static int
tunnel_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    const char *lf = memchr(bytes.data, '\n', bytes.len);
    kars_str_t line = { bytes.data,
                        lf != NULL ? (size_t) (lf - bytes.data) : 0 };

    if (lf == NULL) {
        return bytes.len < 300 ? KARS_OK : KARS_ERROR;
    }

    int rc = kars_stream_decide(s, KARS_STR("CONNECT"), line, tunnel_decided);

    return kars_stream_take(s, line.len + 1) == KARS_OK ? rc : KARS_ERROR;
}

static void
tunnel_closed(kars_stream_t *s, int error, void *data)
{
    wires_say("tunnel closed", error);
}

/* Join: two streams, each held back by the other's lack of room. */

typedef struct {
    kars_stream_t *end[2]; /* NULL: closed */
} join_t;

static int
join_side(const join_t *j, const kars_stream_t *s)
{
    return j->end[1] == s;
}

static int
join_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    const join_t *j = data;
    kars_stream_t *to = j->end[1 - join_side(j, s)];

    if (to == NULL || kars_stream_write(to, bytes) == KARS_ERROR) {
        return KARS_OK; /* room() has it shown again */
    }
    return kars_stream_take(s, bytes.len);
}

static void
join_room(kars_stream_t *s, void *data)
{
    const join_t *j = data;
    kars_stream_t *other = j->end[1 - join_side(j, s)];

    if (other != NULL) {
        (void) kars_stream_take(other, 0);
    }
}

static void
join_closed(kars_stream_t *s, int error, void *data)
{
    join_t *j = data;
    int side = join_side(j, s);

    wires_say(side == 0 ? "near closed" : "far closed", error);
    j->end[side] = NULL;
    if (j->end[1 - side] != NULL) {
        kars_stream_close(j->end[1 - side], error);
    } else {
        free(j);
    }
}

static void
join_connected(kars_stream_t *s, void *data)
{
    wires_say("connected", 0);
    join_room(s, data);
}

static const kars_stream_handler_t join_far = {
    .size = sizeof(join_far),
    .readable = join_readable,
    .closed = join_closed,
    .connected = join_connected,
    .room = join_room,
};

static int
join_accept(kars_stream_t *s, const kars_peer_t *peer, void *data)
{
    const wires_conf_t *wc = data;
    join_t *j = calloc(1, sizeof(*j));

    if (j == NULL) {
        return KARS_ERROR;
    }
    j->end[0] = s;
    j->end[1] = kars_stream_open(wires_cycle, wc->to, &join_far, j);
    if (j->end[1] == NULL) {
        free(j);
        return KARS_ERROR;
    }
    kars_stream_data_set(s, j);
    return KARS_OK;
}

/* Sniff. */

static int
sniff_accept(kars_stream_t *s, const kars_peer_t *peer, void *data)
{
    char *orig = kars_palloc(kars_stream_pool(s), 64);
    char addr[INET6_ADDRSTRLEN] = "-";

    if (orig == NULL) {
        return KARS_ERROR;
    }
    if (peer->orig_family != 0) {
        (void) inet_ntop((int) peer->orig_family, peer->orig_addr, addr,
                         sizeof(addr));
    }
    (void) snprintf(orig, 64, "%s %u\n", addr, peer->orig_port);
    kars_stream_data_set(s, orig);
    return KARS_OK;
}

static int
sniff_readable(kars_stream_t *s, kars_str_t bytes, void *data)
{
    const wires_conf_t *wc = kars_cycle_conf(wires_cycle);

    if (bytes.data[0] != '?') {
        return kars_stream_http(s, wc->http);
    }
    (void) kars_stream_write(s, (kars_str_t){ data, strlen(data) });
    return kars_stream_take(s, 1);
}

/* Datagrams. */

static int
udp_datagram(kars_stream_t *s, const kars_peer_t *from, kars_str_t bytes,
             void *data)
{
    char out[2000] = "#";
    size_t n = bytes.len < sizeof(out) - 1 ? bytes.len : sizeof(out) - 1;

    memcpy(out + 1, bytes.data, n);
    return kars_stream_reply(s, from, (kars_str_t){ out, n + 1 });
}

/* clang-format off */
static const kars_stream_handler_t wires_echo = {
    .size = sizeof(wires_echo), .accept = echo_accept,
    .readable = echo_readable, .closed = echo_closed
};
static const kars_stream_handler_t wires_tunnel = {
    .size = sizeof(wires_tunnel), .accept = echo_accept,
    .readable = tunnel_readable, .closed = tunnel_closed
};
static const kars_stream_handler_t wires_join = {
    .size = sizeof(wires_join), .accept = join_accept,
    .readable = join_readable, .closed = join_closed, .room = join_room
};
static const kars_stream_handler_t wires_sniff = {
    .size = sizeof(wires_sniff), .accept = sniff_accept,
    .readable = sniff_readable, .closed = echo_closed
};
static const kars_stream_handler_t wires_udp = {
    .size = sizeof(wires_udp), .datagram = udp_datagram
};
/* clang-format on */

static int
wires_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    wires_conf_t *wc = conf;
    const struct {
        kars_str_t at;
        const kars_stream_handler_t *handler;
        uint32_t datagram;
    } roles[] = {
        { wc->echo, &wires_echo, 0 }, { wc->tunnel, &wires_tunnel, 0 },
        { wc->join, &wires_join, 0 }, { wc->sniff, &wires_sniff, 0 },
        { wc->udp, &wires_udp, 1 },
    };

    if (place->at != KARS_AT_MAIN) {
        return KARS_OK;
    }
    for (size_t i = 0; i < KARS_NELTS(roles); i++) {
        if (roles[i].at.len != 0 &&
            kars_listen(place->cycle, roles[i].at, roles[i].datagram,
                        roles[i].handler, wc, err) != KARS_OK) {
            return KARS_ERROR;
        }
    }
    return KARS_OK;
}

static int
wires_start(kars_cycle_t *cycle, kars_err_t *err)
{
    wires_cycle = cycle;
    return KARS_OK;
}

/* clang-format off */
#define WIRES_ROW(word, field_type, field) \
    { .name = word, .at = KARS_AT_MAIN, .type = field_type, \
      .offset = offsetof(wires_conf_t, field), .doc = "see the file" }
static const kars_directive_t wires_directives[] = {
    WIRES_ROW("wires_echo", KARS_T_STR, echo),
    WIRES_ROW("wires_tunnel", KARS_T_STR, tunnel),
    WIRES_ROW("wires_join", KARS_T_STR, join),
    WIRES_ROW("wires_sniff", KARS_T_STR, sniff),
    WIRES_ROW("wires_udp", KARS_T_STR, udp),
    WIRES_ROW("wires_http", KARS_T_STR, http),
    WIRES_ROW("wires_to", KARS_T_UPSTREAM, to),
    WIRES_ROW("wires_idle", KARS_T_MSEC, idle_ms),
    { 0 },
};
/* clang-format on */

KARS_MODULE(wires) = {
    KARS_MODULE_HEAD,
    .name = "wires",
    .version = "1.0.0",
    .conf_size = sizeof(wires_conf_t),
    .directives = wires_directives,
    .check = wires_check,
    .worker_start = wires_start,
};
