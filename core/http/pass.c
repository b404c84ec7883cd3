/* pass.c - a request goes on to an upstream and its reply comes back: the
 * head is rewritten, bodies flow with back-pressure, attempts are repeated
 * where nothing was sent. */
#include "http/client.h"
#include "http/recheck.h"
#include "http/request.h"

#include <errno.h>
#include <stdio.h>

#define PASS_HIGH  (256u * 1024u) /* bytes that may wait for a slow reader */
#define PASS_LOW   (64u * 1024u)
#define PASS_TRIES 8u /* attempts of one request, whatever a module says */

struct kars__pass_s {
    kars_req_t *r;
    kars_pass_t conf;
    kars__upserver_t *server;
    uint64_t start_ms; /* of the first attempt */
    kars__xch_t *x;
    kars_str_t path;
    size_t hook; /* of UPSTREAM */
    uint32_t attempts;
    uint32_t tries;    /* those at this upstream */
    kars__mod_t *mod;  /* whose pass it is; NULL: the route's */
    uint8_t sent_body; /* a streaming body began to flow */
    uint8_t paused;
    uint8_t fresh;     /* a kept connection was stale: a new one now */
    uint8_t reading;   /* the client's body is being read */
    kars_buf_t *early; /* body that came before the exchange began */
    uint8_t early_last;
};

typedef kars__pass_t pass_t;

static void pass_attempt(pass_t *p);

static void
pass_unref(void *data)
{
    kars__upstream_unref(*(kars_upstream_t **) data);
}

/* An upstream made from a URL stays while the request may use it. */
static int
pass_hold(kars_req_t *r, kars_upstream_t *u)
{
    if (u->refs == 0) {
        return KARS_OK;
    }

    kars_upstream_t **held = kars__pown(r->pool, sizeof(u), pass_unref);

    if (held == NULL) {
        return KARS_ERROR;
    }
    kars__upstream_ref(u);
    *held = u;
    return KARS_OK;
}

int
kars__req_pass(kars_req_t *r, const kars_pass_t *pass)
{
    pass_t *p;

    if (r->answer != KARS__ANSWER_NONE) {
        return KARS_ERROR;
    }
    p = kars__pnew(r->pool, pass_t);
    if (p == NULL) {
        return KARS_ERROR;
    }
    memcpy(&p->conf, pass,
           pass->size < sizeof(p->conf) ? pass->size : sizeof(p->conf));
    p->r = r;
    p->mod = kars__mod_now;
    p->conf.pool_scope = kars__pdup(r->pool, p->conf.pool_scope);
    if (p->conf.upstream == NULL) {
        p->conf.upstream = r->route->core->pass;
    }
    if (p->conf.upstream == NULL || p->conf.pool_scope.data == NULL ||
        pass_hold(r, p->conf.upstream) != KARS_OK) {
        return KARS_ERROR;
    }
    if (kars_str_eq(r->head.method, KARS_STR("CONNECT"))) {
        return kars__req_tunnel(r, p->conf.upstream);
    }
    p->path =
        kars__pdup(r->pool, pass->path.len != 0 ? pass->path : r->head.target);
    if (p->path.data == NULL) {
        return KARS_ERROR;
    }
    for (size_t i = 0; i < p->path.len; i++) {
        unsigned char c = (unsigned char) p->path.data[i];

        if (c <= 0x20 || c >= 0x7f) {
            return KARS_ERROR; /* it would split the request line */
        }
    }
    r->pass = p;
    r->answer = KARS__ANSWER_PASS;
    return KARS_DONE;
}

/* rule: what decided, where the code does not tell; NULL: it does. */
static void
pass_refuse_by(pass_t *p, int status, const char *code, const char *reason,
               const char *rule)
{
    kars_req_t *r = p->r;
    const char *type = status == 503 ? "server_error" : "proxy_error";

    if (r->head_sent || r->last_in) {
        kars__req_fail_late(r, status, type, code, reason);
        return;
    }
    r->answer = KARS__ANSWER_NONE;
    r->out.n = 0;
    kars__filters_no_scan(r);
    (void) kars__req_refuse_by(r, status, type, code, reason, rule);
    kars__req_send_answer(r);
}

static void
pass_refuse(pass_t *p, int status, const char *code, const char *reason)
{
    pass_refuse_by(p, status, code, reason, NULL);
}

/* One attempt: the UPSTREAM hooks, then the exchange. */

static char *
pass_put(char *h, kars_str_t s)
{
    if (s.len != 0) {
        memcpy(h, s.data, s.len);
    }
    return h + s.len;
}

/* "METHOD path HTTP/1.1" and Host, of the server that is asked. */
static char *
pass_put_line(const pass_t *p, char *h)
{
    kars_str_t host = p->server->at.host;
    int v6 = host.len != 0 && memchr(host.data, ':', host.len) != NULL;

    h = pass_put(h, p->r->head.method);
    h = pass_put(h, KARS_STR(" "));
    h = pass_put(h, p->path);
    h = pass_put(h, KARS_STR(" HTTP/1.1\r\nhost: "));
    if (host.len == 0) {
        return pass_put(h, KARS_STR("localhost\r\n"));
    }
    h = pass_put(h, v6 ? KARS_STR("[") : KARS_STR(""));
    h = pass_put(h, host);
    h = pass_put(h, v6 ? KARS_STR("]") : KARS_STR(""));
    if (p->conf.upstream->tls_client == NULL || p->server->at.port != 443) {
        h = pass_put(h, KARS_STR(":"));
        h += kars__u64_to_dec(p->server->at.port, h);
    }
    return pass_put(h, KARS_STR("\r\n"));
}

static size_t
pass_head_size(const pass_t *p)
{
    const kars_req_t *r = p->r;
    size_t size = p->path.len + r->head.method.len + p->server->at.host.len +
                  r->trace.len + 256;

    for (size_t i = 0; i < r->in.n; i++) {
        size += r->in.v[i].name.len + r->in.v[i].value.len + 4;
    }
    for (const kars__header_secret_t *s = r->secrets; s != NULL; s = s->next) {
        size += s->name.len + s->prefix.len + 4;
    }
    return size;
}

/* The text from *from to h ends a piece; what a secret holds follows it, as a
 * view: no copy of it is made. */
static int
pass_put_secret(pass_t *p, const kars__header_secret_t *s, char **from, char *h,
                kars_buf_t ***tail)
{
    kars_str_t value = kars__secret_str(s->secret);
    kars_buf_t *text =
        kars__buf_view(&p->r->bufs, NULL, *from, (size_t) (h - *from));
    kars_buf_t *secret =
        kars__buf_view(&p->r->bufs, NULL, value.data, value.len);

    if (text == NULL || secret == NULL) {
        return KARS_ERROR; /* they go with the request */
    }
    **tail = text;
    text->next = secret;
    *tail = &secret->next;
    *from = h;
    return KARS_OK;
}

/* The head, as a chain. NULL: no memory. */
static kars_buf_t *
pass_head(pass_t *p, uint64_t length, int chunked)
{
    kars_req_t *r = p->r;
    kars_buf_t *first = NULL, **tail = &first;
    char *from = kars__palloc(r->pool, pass_head_size(p));

    if (from == NULL) {
        return NULL;
    }

    char *h = pass_put_line(p, from);

    for (size_t i = 0; i < r->in.n; i++) {
        h = pass_put(h, r->in.v[i].name);
        h = pass_put(h, KARS_STR(": "));
        h = pass_put(h, r->in.v[i].value);
        h = pass_put(h, KARS_STR("\r\n"));
    }
    for (const kars__header_secret_t *s = r->secrets; s != NULL; s = s->next) {
        h = pass_put(h, s->name);
        h = pass_put(h, KARS_STR(": "));
        h = pass_put(h, s->prefix);
        if (pass_put_secret(p, s, &from, h, &tail) != KARS_OK) {
            return NULL;
        }
        h = pass_put(h, KARS_STR("\r\n"));
    }
    h = pass_put(h, KARS_STR("x-kars-trace-id: "));
    h = pass_put(h, r->trace);
    if (chunked) {
        h = pass_put(h, KARS_STR("\r\ntransfer-encoding: chunked"));
    } else if (length != 0 || r->head.content_length >= 0) {
        h = pass_put(h, KARS_STR("\r\ncontent-length: "));
        h += kars__u64_to_dec(length, h);
    }
    h = pass_put(h, KARS_STR("\r\n\r\n"));
    *tail = kars__buf_view(&r->bufs, NULL, from, (size_t) (h - from));
    return *tail != NULL ? first : NULL;
}

/* Is a streaming body of unknown length? As it came, or after its filters. */
static int
pass_is_chunked(const kars_req_t *r)
{
    return r->head.chunked || (r->reframed && r->head.content_length > 0);
}

/* A streaming body in the framing that its head announced. */
static kars_buf_t *
pass_frame(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    if (!pass_is_chunked(r)) {
        return in;
    }

    kars_buf_t *first = NULL, **tail = &first;
    size_t n = kars__chain_len(in);

    if (n != 0) {
        char size[24];
        int len = snprintf(size, sizeof(size), "%zx\r\n", n);
        kars_buf_t *b =
            kars__buf_copy(&r->bufs, (kars_str_t){ size, (size_t) len });
        kars_buf_t *end = kars__buf_view(&r->bufs, NULL, "\r\n", 2);

        if (b == NULL || end == NULL) {
            return NULL;
        }
        *tail = b;
        b->next = in;
        tail = kars__chain_tail(tail);
        *tail = end;
        tail = &end->next;
    }
    if (flags & KARS_LAST) {
        *tail = kars__buf_view(&r->bufs, NULL, "0\r\n\r\n", 5);
    }
    return first;
}

static const kars__xch_handler_t pass_handler;

static void
pass_send(pass_t *p)
{
    kars_req_t *r = p->r;
    uint64_t length = 0;
    kars_buf_t *body = NULL;
    int whole = r->gated || r->body_state == KARS__BODY_WHOLE ||
                (!r->head.chunked && r->head.content_length <= 0);

    if (r->gated && r->body != NULL &&
        kars__req_body_send(r, &body, &length) != KARS_OK) {
        pass_refuse(p, 503, "overloaded", "no memory for the upstream request");
        return;
    }
    if (!r->gated && r->head.content_length > 0) {
        length = (uint64_t) r->head.content_length;
    }

    kars_buf_t *out = pass_head(p, length, !r->gated && pass_is_chunked(r));

    if (out == NULL) {
        pass_refuse(p, 503, "overloaded", "no memory for the upstream request");
        return;
    }

    kars_buf_t **tail = kars__chain_tail(&out);

    *tail = body;
    if (p->early != NULL || p->early_last) {
        *tail = pass_frame(r, p->early, p->early_last ? KARS_LAST : 0);
        whole = p->early_last;
        p->early = NULL;
        p->early_last = 0;
        p->sent_body = 1;
    }

    kars__xch_conf_t conf = {
        .upstream = p->conf.upstream,
        .server = p->server,
        .bufs = &r->bufs,
        .pool = r->pool,
        .handler = &pass_handler,
        .data = p,
        .out = out,
        .last = whole != 0,
        .fresh = p->fresh,
        .is_head = kars_str_eq(r->head.method, KARS_STR("HEAD")),
        .total_ms = p->conf.timeout_ms,
        .scope = p->conf.pool_scope,
    };

    p->x = kars__xch_start(r->cycle, &conf);
    if (p->x == NULL) {
        pass_refuse(p, 503, "overloaded", "no memory for the upstream request");
        return;
    }
    if (!whole && !p->reading) {
        /* Read from when the connection stands (pass_writable), so that an
         * attempt that finds no server has taken nothing. */
        p->reading = 1;
        r->body_state = KARS__BODY_READING;
    }
}

/* What an UPSTREAM hook returned. OK: go on. */
static int
pass_hook_result(pass_t *p, int rc)
{
    kars_req_t *r = p->r;

    if (rc == KARS_OK || rc == KARS_DECLINED) {
        if (rc == KARS_DECLINED) {
            r->declined[r->route->hooks[p->hook].mod] = 1;
        }
        p->hook++;
        return KARS_OK;
    }
    if (rc == KARS_AGAIN && r->suspended) {
        return KARS_AGAIN;
    }
    if (rc == KARS_DONE && r->answer == KARS__ANSWER_LOCAL) {
        kars__req_send_answer(r);
        return KARS_DONE;
    }
    kars__log(KARS_LOG_ERR, "router: an UPSTREAM hook failed route=%.*s",
              KARS_STR_ARG(r->route->path));
    pass_refuse(p, 502, "bad_gateway", "the request could not be prepared");
    return KARS_DONE;
}

static void
pass_hooks(pass_t *p)
{
    kars_req_t *r = p->r;

    for (; p->hook < r->route->nhooks; p->hook++) {
        const kars__hook_t *h = &r->route->hooks[p->hook];

        if (h->phase != KARS_PHASE_UPSTREAM) {
            if (h->phase > KARS_PHASE_UPSTREAM) {
                break;
            }
            continue;
        }
        if (!kars__req_listens(r, h->mod)) {
            continue;
        }

        void *ctx = kars__req_ctx(r, h->mod);

        kars__mod_now = r->cycle->mods[h->mod];
        int rc = ctx == NULL ? KARS_ERROR
                             : h->run(r, kars__req_conf(r, h->mod), ctx);
        kars__mod_now = NULL;

        if (pass_hook_result(p, rc) != KARS_OK) {
            return;
        }
        p->hook--; /* the loop moves on itself */
    }
    pass_send(p);
}

void
kars__pass_continue(kars_req_t *r, int rc)
{
    if (pass_hook_result(r->pass, rc) == KARS_OK) {
        pass_hooks(r->pass);
    }
}

static void
pass_fact(kars_req_t *r, const char *name, kars_str_t text, int64_t number)
{
    kars__var_t *v = kars__var(r, kars__strz(name), 1);

    if (v != NULL) {
        v->text = text;
        v->number = number;
    }
}

static void
pass_attempt(pass_t *p)
{
    kars_req_t *r = p->r;

    p->server = kars__upstream_pick(r->cycle, p->conf.upstream, p->server);
    p->attempts++;
    p->tries++;
    p->hook = 0;
    pass_fact(r, "upstream", p->conf.upstream->name, 0);
    pass_fact(r, "upstream_host", p->server->at.host, 0);
    pass_fact(r, "upstream_port", (kars_str_t){ NULL, 0 }, p->server->at.port);
    pass_fact(r, "attempts", (kars_str_t){ NULL, 0 }, p->attempts);
    pass_hooks(p);
}

void
kars__pass_start(kars_req_t *r)
{
    r->phase = KARS_PHASE_UPSTREAM;
    kars__pass_clean_request(r);
    kars__headers_del(&r->in, KARS_STR("accept-encoding"));
    (void) kars__headers_add(r->pool, &r->in, KARS_STR("accept-encoding"),
                             KARS_STR("identity"));
    r->pass->start_ms = kars__loop_now(r->cycle->loop);
    pass_attempt(r->pass);
}

/* How long the upstream took: all attempts, to the reply's end. */
static void
pass_took(pass_t *p)
{
    uint64_t ms = kars__loop_now(p->r->cycle->loop) - p->start_ms;

    pass_fact(p->r, "upstream_ms", (kars_str_t){ NULL, 0 }, (int64_t) ms);
}

/* The client's body, where it streams. */
void
kars__pass_body(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    pass_t *p = r->pass;

    if (p == NULL || r->answer != KARS__ANSWER_PASS) { /* nobody reads it */
        kars__chain_free(in);
        return;
    }
    if (r->route->nin_filters != 0) {
        p->sent_body = 1; /* they saw it: it cannot be sent again */
        kars__reqfilters_body(r, in, flags);
        return;
    }
    kars__pass_stream(r, in, flags);
}

void
kars__pass_stream(kars_req_t *r, kars_buf_t *in, uint32_t flags)
{
    pass_t *p = r->pass;

    if (p->x == NULL) {
        *kars__chain_tail(&p->early) = in;
        p->early_last |= (flags & KARS_LAST) != 0;
        return;
    }
    p->sent_body = 1;
    kars__xch_write(p->x, pass_frame(r, in, flags), (flags & KARS_LAST) != 0);
    if (p->x != NULL && !(flags & KARS_LAST) &&
        kars__xch_unsent(p->x) > PASS_HIGH) {
        r->proto->read_body(r, 0);
    }
}

static void
pass_writable(kars__xch_t *x, void *data)
{
    pass_t *p = data;

    if (p->r->body_state == KARS__BODY_READING &&
        (p->r->in_filters == NULL || !kars__reqfilters_busy(p->r))) {
        p->r->proto->read_body(p->r, 1);
    }
}

/* The reply. */

/* RFC 9110 9.2.2: to do it twice is to do it once. */
static int
pass_is_idempotent(kars_str_t method)
{
    static const kars_str_t safe[] = {
        KARS_STR("GET"), KARS_STR("HEAD"),   KARS_STR("OPTIONS"),
        KARS_STR("PUT"), KARS_STR("DELETE"), KARS_STR("TRACE"),
    };

    for (size_t i = 0; i < KARS_NELTS(safe); i++) {
        if (kars_str_eq(method, safe[i])) {
            return 1;
        }
    }
    return 0;
}

/* The upstream says that it did nothing: misdirected (RFC 9110 15.5.20), too
 * early (RFC 8470), too many (RFC 6585), not available. */
static int
pass_is_unprocessed(int32_t status)
{
    return status == 421 || status == 425 || status == 429 || status == 503;
}

/* May the request be sent once more, if its module wants that? */
static int
pass_may_ask(const pass_t *p, const kars_reply_t *reply, int reached)
{
    if (p->conf.retry == NULL || p->sent_body || p->r->head_filtered ||
        p->attempts >= PASS_TRIES) {
        return 0;
    }
    return reached != KARS__REACHED || pass_is_unprocessed(reply->status) ||
           (p->conf.flags & KARS_RETRY_UNSAFE) != 0 ||
           pass_is_idempotent(p->r->head.method);
}

/* Asks the module about an attempt that came to this. 1: another has begun. */
static int
pass_retry(pass_t *p, const kars_reply_t *reply, int reached)
{
    kars_upstream_t *next = p->conf.upstream;
    kars__mod_t *was = kars__mod_now;

    if (!pass_may_ask(p, reply, reached)) {
        return 0;
    }

    kars__mod_now = p->mod;
    int rc = p->conf.retry(p->r, reply, p->attempts, &next, p->conf.data);
    kars__mod_now = was;

    if (rc != KARS_DONE || next == NULL || pass_hold(p->r, next) != KARS_OK) {
        return 0;
    }
    if (next != p->conf.upstream) {
        p->tries = 0;
        p->server = NULL;
        p->conf.upstream = next;
    }
    if (p->x != NULL) {
        kars__xch_cancel(p->x);
        p->x = NULL;
    }
    p->fresh = 0;
    pass_attempt(p);
    return 1;
}

/* Is someone looking into the reply? Then it must be readable. */
static int
pass_is_watched(const kars_req_t *r)
{
    return r->route->watch[1].prog != NULL || r->gated;
}

static void
pass_got_head(kars__xch_t *x, const kars__head_t *head, void *data)
{
    pass_t *p = data;
    kars_req_t *r = p->r;
    kars_str_t coding = kars__head_get(head->headers, head->nheaders,
                                       KARS_STR("content-encoding"));
    kars_reply_t reply = {
        .size = sizeof(reply),
        .status = (int32_t) head->status,
        .content_type = kars__head_get(head->headers, head->nheaders,
                                       KARS_STR("content-type")),
        .handle = head,
    };

    if (pass_retry(p, &reply, KARS__REACHED)) {
        return;
    }
    r->status = head->status;
    r->out.n = 0;
    pass_fact(r, "upstream_status", (kars_str_t){ NULL, 0 }, head->status);
    if (kars__pass_copy_headers(r, head) != KARS_OK) { /* filters go by them */
        kars__pass_cancel(r);
        pass_refuse(p, 503, "overloaded", "no memory for the reply");
        return;
    }
    if (coding.len != 0 && !kars__str_ieq(coding, KARS_STR("identity")) &&
        pass_is_watched(r)) {
        kars__pass_cancel(r);
        pass_refuse(p, 502, "unsupported_encoding",
                    "the upstream sent an encoded reply that nobody can read");
        return;
    }

    int rc = kars__filters_head(r);

    if (rc == KARS_DONE) {
        kars__pass_cancel(r);
        kars__req_send_answer(r);
    } else if (rc != KARS_OK) {
        kars__pass_cancel(r);
        r->proto->abort(r);
    } else if (r->event_stream) {
        r->proto->output(r, NULL, 0); /* before its first event */
        kars__lasting_add(r, NULL);
    }
}

static void
pass_got_body(kars__xch_t *x, kars_buf_t *in, uint32_t flags, void *data)
{
    pass_t *p = data;
    kars_req_t *r = p->r;

    if (flags & KARS_LAST) {
        p->x = NULL;
        pass_took(p);
    }
    (void) kars__filters_body(r, in, flags);
    if (p->x != NULL &&
        (r->proto->unsent(r) > PASS_HIGH || kars__filters_busy(r))) {
        p->paused = 1;
        kars__xch_pause(p->x, 1);
    }
}

void
kars__pass_room(kars_req_t *r)
{
    pass_t *p = r->pass;

    kars__grow_room(r);
    if (p != NULL && p->x != NULL && p->paused &&
        r->proto->unsent(r) < PASS_LOW && !kars__filters_busy(r)) {
        p->paused = 0;
        kars__xch_pause(p->x, 0);
    }
}

/* The caller's line: with what TLS found wrong, where it is that. */
static const char *
pass_unreached(const kars_req_t *r, const char *why)
{
    kars_str_t text =
        why != NULL ? kars__pprintf(
                          r->pool, "Failed to reach inference backend: %s", why)
                    : (kars_str_t){ NULL, 0 };

    return text.data != NULL ? text.data : "Failed to reach inference backend";
}

static void
pass_failed(kars__xch_t *x, int error, int reached, void *data)
{
    pass_t *p = data;
    kars_req_t *r = p->r;
    kars_upstream_t *u = p->conf.upstream;
    kars_reply_t reply = { .size = sizeof(reply), .error = error };
    const char *why = kars__xch_why(x);

    p->x = NULL;
    pass_took(p);
    kars__log(KARS_LOG_WARN,
              "router: upstream failed upstream=%.*s server=%.*s attempt=%u "
              "error=\"%s\" trace=%.*s",
              KARS_STR_ARG(u->name), KARS_STR_ARG(p->server->text), p->attempts,
              why != NULL ? why : strerror(error), KARS_STR_ARG(r->trace));
    if (reached != KARS__REACHED && !p->sent_body && !r->head_filtered) {
        int stale = reached == KARS__REACHED_STALE && !p->fresh;

        if (stale || (reached == KARS__REACHED_NOT && error != EBUSY &&
                      u->retry_on == 0 && p->tries <= u->retries)) {
            p->fresh |= stale != 0;
            pass_attempt(p);
            return;
        }
    }
    if (pass_retry(p, &reply, reached)) {
        return;
    }
    if (error == EBUSY) {
        pass_refuse_by(p, 503, "overloaded",
                       "the inference backend has too many requests", "queue");
    } else if (error == ETIMEDOUT) {
        pass_refuse(p, 504, "upstream_timeout",
                    "the inference backend did not answer in time");
    } else {
        pass_refuse(p, 502, "bad_gateway", pass_unreached(r, why));
    }
}

static const kars__xch_handler_t pass_handler = {
    .head = pass_got_head,
    .body = pass_got_body,
    .fail = pass_failed,
    .room = pass_writable,
};

void
kars__pass_cancel(kars_req_t *r)
{
    kars__grow_gone(r);
    if (r->pass != NULL && r->pass->x != NULL) {
        kars__xch_t *x = r->pass->x;

        r->pass->x = NULL;
        kars__xch_cancel(x);
    }
}
