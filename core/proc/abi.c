/* abi.c - the function table of kars_module.h over the core's own functions.
 * What this release does not have is NULL (KARS_API_HAS). */
#include "base/map.h"
#include "http/answer.h"
#include "http/conn.h"
#include "http/connect.h"
#include "http/event.h"
#include "http/exchange.h"
#include "http/owner.h"
#include "http/snapshot.h"
#include "http/stream.h"
#include "http/upstream.h"
#include "http/ws.h"
#include "proc/abi_later.h"
#include "proc/cycle.h"
#include "proc/logs.h"
#include "proc/module.h"
#include "proc/place.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

const kars__dresolve_t *kars__abi_resolve;

/* The module that names itself with this constant. */
static const kars__mod_t *
abi_mod(const kars_cycle_t *c, const kars_module_t *self)
{
    for (size_t i = 0; i < c->nmods; i++) {
        if (c->mods[i]->self == self) {
            return c->mods[i];
        }
    }
    return NULL;
}

/* Log. */

static void __attribute__((format(printf, 3, 4)))
abi_log(kars_req_t *r, uint32_t level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    kars__vlog(level, r->trace, fmt, ap);
    va_end(ap);
}

static void __attribute__((format(printf, 3, 4)))
abi_cycle_log(kars_cycle_t *c, uint32_t level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    kars__vlog(level, (kars_str_t){ NULL, 0 }, fmt, ap);
    va_end(ap);
}

/* Configuration. */

static int
abi_parse(const kars_setting_t *s, uint32_t type, kars_str_t in, void *ret,
          kars_err_t *err)
{
    return kars__directive_parse(type, in, NULL, ret, s->pool, s->file,
                                 kars__abi_resolve, err);
}

static const void *
abi_cycle_conf(kars_cycle_t *c, const kars_module_t *self)
{
    const kars__mod_t *m = abi_mod(c, self);

    return m != NULL ? m->main_conf : NULL;
}

static kars_pool_t *
abi_cycle_pool(kars_cycle_t *c)
{
    return c->pool;
}

static kars_str_t
abi_cycle_sandbox(kars_cycle_t *c)
{
    return c->sandbox;
}

static kars_str_t
abi_upstream_name(const kars_upstream_t *u)
{
    return u->name;
}

static int
abi_upstream_serves(const kars_upstream_t *u, kars_hostport_t at)
{
    for (size_t i = 0; i < u->nservers; i++) {
        if (u->servers[i].at.port == at.port &&
            kars__str_ieq(u->servers[i].at.host, at.host)) {
            return 1;
        }
    }
    return 0;
}

static void
abi_upstream_each(kars_cycle_t *c,
                  void (*fn)(const kars_upstream_state_t *s, void *data),
                  void *data)
{
    for (const kars_upstream_t *u = c->upstreams; u != NULL; u = u->next) {
        kars_upstream_state_t s = {
            .size = sizeof(s),
            .name = u->name,
            .healthy = (uint32_t) kars__upstream_healthy(c, u),
            .failure_streak = (uint32_t) kars__health_get(&u->health->failures),
            .first_failure_at_ms =
                kars__health_get(&u->health->first_failure_wall_ms),
            .last_success_at_ms =
                kars__health_get(&u->health->last_success_wall_ms),
        };

        fn(&s, data);
    }
}

/* The request. */

static kars_pool_t *
abi_req_pool(kars_req_t *r)
{
    return r->pool;
}

static kars_cycle_t *
abi_req_cycle(kars_req_t *r)
{
    return r->cycle;
}

static int
abi_req_peer(kars_req_t *r, kars_peer_t *ret)
{
    return r->conn != NULL ? kars__conn_peer(r->conn, ret) : KARS_ERROR;
}

static void *
abi_req_conn_ctx(kars_req_t *r, const kars_module_t *self)
{
    const kars__mod_t *m = abi_mod(r->cycle, self);

    return m != NULL && r->conn != NULL ? kars__conn_ctx(r->conn, m) : NULL;
}

static const void *
abi_req_conf(kars_req_t *r, const kars_module_t *self)
{
    const kars__mod_t *m = abi_mod(r->cycle, self);

    return m != NULL ? kars__req_conf(r, m->index) : NULL;
}

static void *
abi_req_ctx(kars_req_t *r, const kars_module_t *self)
{
    const kars__mod_t *m = abi_mod(r->cycle, self);

    return m != NULL ? kars__req_ctx(r, m->index) : NULL;
}

static kars_str_t
abi_req_method(kars_req_t *r)
{
    return r->head.method;
}

static kars_str_t
abi_req_path(kars_req_t *r)
{
    return r->path;
}

static kars_str_t
abi_req_query(kars_req_t *r)
{
    return r->query;
}

static kars_str_t
abi_req_route(kars_req_t *r)
{
    return r->route->path;
}

static kars_str_t
abi_req_segment(kars_req_t *r, kars_str_t name)
{
    for (size_t i = 0; i < r->nsegments; i++) {
        if (kars_str_eq(r->segments[i].name, name)) {
            return r->segments[i].value;
        }
    }
    return (kars_str_t){ NULL, 0 };
}

static kars_str_t
abi_req_class(kars_req_t *r)
{
    return r->klass;
}

static kars_str_t
abi_req_principal(kars_req_t *r)
{
    return r->principal;
}

static kars__headers_t *
abi_headers(kars_req_t *r, uint32_t dir)
{
    return dir == KARS_REQUEST ? &r->in : &r->out;
}

static kars_str_t
abi_header(kars_req_t *r, uint32_t dir, kars_str_t name)
{
    return kars__headers_get(abi_headers(r, dir), name);
}

/* Both in one piece of the request's memory. */
static int
abi_header_copy(kars_pool_t *pool, kars_str_t *name, kars_str_t *value)
{
    char *p = kars__palloc(pool, name->len + value->len + 1);

    if (p == NULL) {
        return KARS_ERROR;
    }

    memcpy(p, name->data, name->len);
    name->data = p;
    p += name->len;
    if (value->len != 0) {
        memcpy(p, value->data, value->len);
    }
    p[value->len] = '\0';
    value->data = p;
    return KARS_OK;
}

static int
abi_header_add(kars_req_t *r, uint32_t dir, kars_str_t name, kars_str_t value)
{
    if (!kars__head_name_ok(name) || !kars__head_value_ok(value) ||
        (dir == KARS_RESPONSE && r->head_sent) ||
        (dir == KARS_REQUEST && kars__header_secret_has(r, name))) {
        return KARS_ERROR;
    }

    return abi_header_copy(r->pool, &name, &value) == KARS_OK
               ? kars__headers_add(r->pool, abi_headers(r, dir), name, value)
               : KARS_ERROR;
}

static int
abi_header_set(kars_req_t *r, uint32_t dir, kars_str_t name, kars_str_t value)
{
    kars__headers_t *h = abi_headers(r, dir);

    if (dir == KARS_RESPONSE && r->head_sent) {
        return KARS_ERROR;
    }
    if (dir == KARS_REQUEST) {
        kars__header_secret_del(r, name);
    }
    if (value.data != NULL && kars__head_name_ok(name) &&
        kars__head_value_ok(value) &&
        abi_header_copy(r->pool, &name, &value) == KARS_OK) {
        return kars__headers_set(r->pool, h, name, value);
    }

    kars__headers_del(h, name); /* rather none than the one before */
    return value.data == NULL ? KARS_OK : KARS_ERROR;
}

static int
abi_header_each(kars_req_t *r, uint32_t dir,
                int (*fn)(kars_str_t name, kars_str_t value, void *data),
                void *data)
{
    kars__headers_t *h = abi_headers(r, dir);
    size_t o = 0;

    for (size_t i = 0; i < h->n; i++) {
        kars_header_t f = h->v[i];

        if (fn(f.name, f.value, data) != KARS_DECLINED) {
            h->v[o++] = f;
        }
    }
    h->n = o;
    return KARS_OK;
}

static int
abi_var_set(kars_req_t *r, kars_str_t name, kars_str_t value)
{
    kars__var_t *v = kars__var(r, name, 1);
    kars_str_t copy = kars__pdup(r->pool, value);

    if (v == NULL || copy.data == NULL) {
        return KARS_ERROR;
    }
    v->text = copy;
    return KARS_OK;
}

static int
abi_number_set(kars_req_t *r, kars_str_t name, int64_t value)
{
    kars__var_t *v = kars__var(r, name, 1);

    if (v == NULL) {
        return KARS_ERROR;
    }
    v->number = value;
    return KARS_OK;
}

static const kars_buf_t *
abi_req_body(kars_req_t *r)
{
    return r->body;
}

static uint64_t
abi_req_body_size(kars_req_t *r)
{
    return r->body_size;
}

/* Decisions. */

static int
abi_grant(kars_req_t *r, kars_str_t klass, kars_str_t principal)
{
    kars_str_t k = kars__pdup(r->pool, klass);
    kars_str_t p = kars__pdup(r->pool, principal);

    if (k.data == NULL || p.data == NULL || r->phase != KARS_PHASE_ACCESS) {
        return KARS_ERROR;
    }
    r->klass = k;
    r->principal = p;
    r->granted = 1;
    return KARS_OK;
}

static int
abi_deny(kars_req_t *r, const kars_denial_t *denial)
{
    if (r->answer == KARS__ANSWER_LOCAL || r->answer == KARS__ANSWER_GROWS) {
        return KARS_ERROR;
    }
    return kars__req_deny(r, denial, kars__mod_now);
}

static int
abi_respond(kars_req_t *r, int status, kars_str_t type, kars_str_t body)
{
    return status >= 200 && status <= 599
               ? kars__req_respond(r, (uint32_t) status, type, body)
               : KARS_ERROR;
}

static uint64_t
abi_now_ms(kars_cycle_t *c)
{
    return kars__loop_now(c->loop);
}

static uint64_t
abi_wall_ms(kars_cycle_t *c)
{
    return kars__loop_wall(c->loop);
}

/* Buffers. */

static kars_str_t
abi_buf_str(const kars_buf_t *b)
{
    return (kars_str_t){ b->data, b->len };
}

static kars_buf_t *
abi_buf_next(const kars_buf_t *b)
{
    return b->next;
}

static kars_buf_t *
abi_buf_copy(kars_req_t *r, kars_str_t bytes)
{
    return kars__buf_copy(&r->bufs, bytes);
}

static kars_req_t *
abi_filter_req(kars_filter_t *f)
{
    return f->r;
}

static const kars_buf_t *
abi_filter_held(kars_filter_t *f)
{
    return f->held;
}

/* Shared state and metrics. */

static kars_area_t *
abi_area(kars_cycle_t *c, kars_str_t name, size_t size, uint32_t version,
         kars_err_t *err)
{
    if (c->zone == NULL) {
        (void) kars__err(err, 0, "there is no zone outside a worker");
        return NULL;
    }
    return kars__zone_area(c->zone, name, size, version, err);
}

static uint64_t
abi_map_now(const void *of)
{
    return kars__loop_now(of);
}

static kars_map_t *
abi_map(kars_cycle_t *c, const kars_map_def_t *def, kars_err_t *err)
{
    kars_map_def_t d = { 0 };

    memcpy(&d, def, def->size < sizeof(d) ? def->size : sizeof(d));
    if (c->zone == NULL) {
        (void) kars__err(err, 0, "there is no zone outside a worker");
        return NULL;
    }
    return kars__map_open(c->pool, c->zone, &d,
                          (kars__map_clock_t){ abi_map_now, c->loop }, err);
}

static uint64_t
abi_worker_id(kars_cycle_t *c)
{
    return c->worker_id;
}

static int
abi_worker_alive(kars_cycle_t *c, uint64_t id)
{
    return c->zone != NULL && kars__zone_worker_alive(c->zone, id);
}

static kars_metric_t *
abi_metric(kars_cycle_t *c, const kars_metric_def_t *def)
{
    return kars__metric(c->metrics, def);
}

static int
abi_cycle_ending(kars_cycle_t *c)
{
    return c->ending != 0;
}

static kars_str_t
abi_metrics_text(kars_req_t *r)
{
    return kars__metrics_text(r->cycle->metrics, r->pool);
}

static kars_str_t
abi_reply_header(const kars_reply_t *reply, kars_str_t name)
{
    const kars__head_t *h = reply->handle;

    return h != NULL ? kars__head_get(h->headers, h->nheaders, name)
                     : (kars_str_t){ NULL, 0 };
}

static int
abi_random(void *ret, size_t n)
{
    char *p = ret;

    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);

        if (got < 0 && errno != EINTR) {
            return KARS_ERROR;
        }
        if (got > 0) {
            p += got;
            n -= (size_t) got;
        }
    }
    return KARS_OK;
}

const kars_api_t kars__api = {
    .size = sizeof(kars_api_t),
    .abi_major = KARS_ABI_MAJOR,
    .abi_minor = KARS_ABI_MINOR,
    .palloc = kars__palloc,
    .pcalloc = kars__pcalloc,
    .pown = kars__pown,
    .log = abi_log,
    .cycle_log = abi_cycle_log,
    .err = kars__err,
    .parse = abi_parse,
    .block_each = kars__directive_block_each,
    .cycle_conf = abi_cycle_conf,
    .cycle_pool = abi_cycle_pool,
    .cycle_sandbox = abi_cycle_sandbox,
    .secret = kars__secret_str,
    .upstream_name = abi_upstream_name,
    .upstream_serves = abi_upstream_serves,
    .upstream_each = abi_upstream_each,
    .req_pool = abi_req_pool,
    .req_cycle = abi_req_cycle,
    .req_peer = abi_req_peer,
    .req_conn_ctx = abi_req_conn_ctx,
    .req_conf = abi_req_conf,
    .req_ctx = abi_req_ctx,
    .conn_peer = kars__conn_peer,
    .conn_cycle = kars__conn_cycle,
    .req_method = abi_req_method,
    .req_path = abi_req_path,
    .req_query = abi_req_query,
    .req_route = abi_req_route,
    .req_segment = abi_req_segment,
    .req_class = abi_req_class,
    .req_principal = abi_req_principal,
    .header = abi_header,
    .header_set = abi_header_set,
    .header_add = abi_header_add,
    .header_each = abi_header_each,
    .req_var = kars__req_var,
    .var_set = abi_var_set,
    .req_number = kars__req_number,
    .number_set = abi_number_set,
    .req_body = abi_req_body,
    .req_body_size = abi_req_body_size,
    .json_set = kars__req_json_set,
    .grant = abi_grant,
    .conn_grant = kars__connect_grant,
    .deny = abi_deny,
    .respond = abi_respond,
    .pass = kars__req_pass,
    .filter_deny = kars__filter_deny,
    .call = kars__req_call,
    .suspend = kars__req_suspend,
    .resume = kars__wait_end,
    .offload = kars__abi_offload,
    .timer = kars__abi_timer,
    .timer_cancel = kars__abi_timer_cancel,
    .task = kars__abi_task,
    .turn_end = kars__abi_turn_end,
    .now_ms = abi_now_ms,
    .wall_ms = abi_wall_ms,
    .buf_str = abi_buf_str,
    .buf_next = abi_buf_next,
    .buf_copy = abi_buf_copy,
    .filter_req = abi_filter_req,
    .filter_next = kars__filter_next,
    .filter_hold = kars__filter_hold,
    .filter_held = abi_filter_held,
    .filter_release = kars__filter_release,
    .filter_suspend = kars__filter_suspend,
    .area = abi_area,
    .area_data = kars__area_data,
    .area_lock = kars__area_lock,
    .area_unlock = kars__area_unlock,
    .worker_id = abi_worker_id,
    .worker_alive = abi_worker_alive,
    .metric = abi_metric,
    .series = kars__series,
    .series_add = kars__series_add,
    .series_set = kars__series_set,
    .metrics_text = abi_metrics_text,
    .cycle_ending = abi_cycle_ending,
    .reply_header = abi_reply_header,
    .watch = kars__snapshot_watch,
    .snapshot = kars__snapshot_of,
    .snapshot_now = kars__snapshot_now,
    .map = abi_map,
    .map_get = kars__map_get,
    .map_put = kars__map_put,
    .map_delete = kars__map_delete,
    .map_each = kars__map_each,
    .owner_claim = kars__owner_claim,
    .owner_send = kars__owner_send,
    .owner_receive = kars__owner_receive,
    .owner_call = kars__owner_call,
    .owner_serve = kars__owner_serve,
    .owner_reply = kars__owner_reply,
    .owner_release = kars__owner_release,
    .watch_each = kars__snapshot_each,
    .log_line = kars__logs_line,
    .answer_begin = kars__answer_begin,
    .answer_write = kars__answer_write,
    .answer_end = kars__answer_end,
    .exchange = kars__exchange,
    .exchange_pause = kars__exchange_pause,
    .exchange_cancel = kars__exchange_cancel,
    .filter_call = kars__filter_call,
    .upstream_from_url = kars__upstream_from_url,
    .upstream_unref = kars__upstream_unref,
    .token_make = kars__req_token,
    .token_waits = kars__wait_waits,
    .await = kars__req_await,
    .filter_await = kars__filter_await,
    .loop_run = kars__cycle_run,
    .loop_stop = kars__cycle_run_stop,
    .event_name = kars__event_name,
    .event_data = kars__event_data,
    .event_replace = kars__event_replace,
    .rewrite_path = kars__req_rewrite_path,
    .json_watch = kars__place_watch,
    .pool_create = kars__cycle_pool_create,
    .pool_destroy = kars__pool_destroy,
    .header_secret = kars__header_secret,
    .secret_create = kars__secret_copy,
    .secret_share = kars__secret_share,
    .check_err = kars__place_err,
    .req_body_flat = kars__req_body_flat,
    .random = abi_random,
    .conn_suspend = kars__connect_suspend,
    .conn_deny = kars__connect_deny,
    .listen = kars__stream_listen,
    .stream_take = kars__stream_take,
    .stream_write = kars__stream_write,
    .stream_reply = kars__stream_reply,
    .stream_tunnel = kars__stream_tunnel,
    .stream_req = kars__stream_req,
    .stream_close = kars__stream_close,
    .stream_data_set = kars__stream_data_set,
    .stream_pool = kars__stream_pool,
    .stream_timeout = kars__stream_timeout,
    .stream_decide = kars__stream_decide,
    .stream_http = kars__stream_http,
    .stream_open = kars__stream_open,
    .ws_accept = kars__ws_accept,
    .ws_write = kars__ws_write,
    .ws_close = kars__ws_close,
    .ws_connect = kars__ws_connect,
    .ws_pause = kars__ws_pause,
};
