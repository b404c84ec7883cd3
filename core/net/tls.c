/* tls.c - the operations of a sock that speaks TLS. */
#include "net/tls.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/str.h"

#include <errno.h>
#include <openssl/err.h>
#include <unistd.h>

#define TLS_RECORD   16384 /* most bytes of one (RFC 8446 5.1) */
#define TLS_DIRECT   4096  /* a first buffer this long is not copied */
#define TLS_ROUNDS   16    /* records that one sendv writes */
#define TLS_AGAIN_MS 1     /* what OpenSSL still holds is read then */
#define TLS_FACTS    16384 /* memory for the names of one certificate */
#define TLS_LINES    10    /* failed handshakes told in one second */

typedef struct {
    kars__sock_t *s;
    SSL *ssl;
    kars__timer_t again;
    kars_str_t name; /* of the listener */
    kars_str_t alpn;
    const char *why; /* what went wrong; static */
    kars_pool_t *pool;
    kars__tls_facts_t facts;
    int error;          /* once failed */
    uint8_t role;       /* KARS__TLS_* */
    uint8_t recv_needs; /* for recv to go on: KARS__READ or KARS__WRITE */
    uint8_t send_needs;
    uint8_t tcp;     /* the TCP connection stands */
    uint8_t done;    /* the handshake ended well */
    uint8_t plain;   /* the peer speaks HTTP without TLS: so do answers */
    uint8_t more;    /* OpenSSL may hold bytes that nobody has read */
    uint8_t closing; /* close_notify has not left yet */
    uint8_t told;    /* recv has said that it failed */
} tls_t;

/* Small buffers become one record. One turn uses it at a time. */
static unsigned char tls_record[TLS_RECORD];

/* Log lines of handshakes: anybody can cause them. */
static struct {
    uint64_t second;
    uint32_t n;
} tls_lines;

static void
tls_log_failure(const tls_t *t)
{
    uint64_t second = kars__loop_now(t->s->io.loop) / 1000;
    kars__addr_t peer = { .len = sizeof(peer.u) };
    char text[KARS__ADDR_TEXT] = "-";

    if (tls_lines.second != second) {
        if (tls_lines.n > TLS_LINES) {
            kars__log(KARS_LOG_NOTICE, "tls: more failed handshakes n=%u",
                      tls_lines.n - TLS_LINES);
        }
        tls_lines.second = second;
        tls_lines.n = 0;
    }
    if (tls_lines.n++ >= TLS_LINES) {
        return;
    }
    if (getpeername(t->s->fd, &peer.u.sa, &peer.len) == 0) {
        (void) kars__addr_text(&peer, text);
    }
    kars__log(KARS_LOG_NOTICE,
              "tls: handshake failed listener=%.*s peer=%s reason=\"%s\"",
              KARS_STR_ARG(t->name), text, t->why);
}

static int
tls_fail(tls_t *t, int error, const char *why)
{
    t->error = error;
    t->why = why;
    t->more = 0;
    if (!t->done && t->role == KARS__TLS_SERVER &&
        BIO_number_read(SSL_get_rbio(t->ssl)) != 0) {
        tls_log_failure(t); /* who came and said nothing is no failure */
    }
    errno = error;
    return error;
}

/* What the last call of OpenSSL wants or found: 0 is an end in good order, else
 * the errno, which is set too. *needs: what to wait for, with EAGAIN. */
static int
tls_result(tls_t *t, int rc, uint8_t *needs)
{
    int e = errno;
    unsigned long code = ERR_peek_error();

    switch (SSL_get_error(t->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        *needs = KARS__READ;
        return errno = EAGAIN;
    case SSL_ERROR_WANT_WRITE:
        *needs = KARS__WRITE;
        return errno = EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return t->done ? 0 : tls_fail(t, ECONNRESET, "closed in the handshake");
    case SSL_ERROR_SYSCALL:
        return tls_fail(t, e != 0 ? e : ECONNRESET, "the connection broke off");
    default:
        break;
    }
    if (ERR_GET_LIB(code) != ERR_LIB_SSL) {
        return tls_fail(t, EPROTO, "an error of OpenSSL");
    }
    switch (ERR_GET_REASON(code)) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return tls_fail(t, ECONNRESET,
                        t->done ? "closed without close_notify"
                                : "closed in the handshake");
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return tls_fail(t, EKEYREJECTED,
                        kars__tls_refusal(SSL_get_verify_result(t->ssl)));
    case SSL_R_HTTP_REQUEST:
        t->plain = 1;
        return tls_fail(t, EPROTO, "a plain HTTP request came to a TLS port");
    default:
        break;
    }

    const char *why = ERR_reason_error_string(code);

    return tls_fail(t, EPROTO, why != NULL ? why : "a TLS error");
}

static void
tls_clear(void)
{
    ERR_clear_error();
    errno = 0;
}

/* The events of the descriptor follow from what is wanted and what TLS needs
 * for it. */
static void
tls_apply(tls_t *t)
{
    uint32_t wanted = t->s->wanted;
    uint32_t events = t->closing ? KARS__WRITE : 0;

    if (t->role == KARS__TLS_CLIENT && !t->done) {
        events |= wanted == 0 ? 0u
                  : !t->tcp   ? (uint32_t) KARS__WRITE
                              : (uint32_t) t->recv_needs;
    } else {
        events |= wanted & KARS__READ ? t->recv_needs : 0u;
        events |= wanted & KARS__WRITE ? t->send_needs : 0u;
    }
    kars__io_want(&t->s->io, events);
}

static void
tls_again_start(tls_t *t)
{
    if (t->again.slot == 0) {
        kars__timer_start(t->s->io.loop, &t->again, TLS_AGAIN_MS);
    }
}

static void
tls_again(kars__timer_t *timer)
{
    tls_t *t = (tls_t *) ((char *) timer - offsetof(tls_t, again));

    if (t->more && (t->s->wanted & KARS__READ)) {
        t->s->ready(t->s, KARS__READ);
    }
}

/* The handshake's end: a session that goes on may be older than the
 * certificate that it began with was good for. */
static int
tls_stands(tls_t *t)
{
    const X509 *cert;

    if (t->done || !SSL_is_init_finished(t->ssl)) {
        return 0;
    }
    cert =
        SSL_session_reused(t->ssl) ? SSL_get0_peer_certificate(t->ssl) : NULL;
    if (cert != NULL && X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0) {
        return tls_fail(t, EKEYREJECTED,
                        kars__tls_refusal(X509_V_ERR_CERT_HAS_EXPIRED));
    }
    t->done = 1;
    t->more = 1; /* bytes may have come with the last of the handshake */
    return 0;
}

static int
tls_connected(kars__sock_t *s)
{
    tls_t *t = s->mem;
    int e = 0;
    socklen_t len = sizeof(e);

    if (!t->tcp) {
        if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &e, &len) == -1 || e != 0) {
            return e != 0 ? e : errno;
        }
        t->tcp = 1;
    }
    tls_clear();

    int rc = SSL_do_handshake(t->ssl);

    if (rc != 1) {
        e = tls_result(t, rc, &t->recv_needs);
        tls_apply(t);
        return e == EAGAIN ? EINPROGRESS : e;
    }
    return tls_stands(t);
}

/* A client whose handshake failed, after it was said: what it still sends must
 * be read, or a reset would overtake the alert. */
static ssize_t
tls_recv_failed(tls_t *t, void *p, size_t n)
{
    if (t->told && !t->done && t->role == KARS__TLS_SERVER) {
        return recv(t->s->fd, p, n, MSG_DONTWAIT);
    }
    t->told = 1;
    errno = t->error;
    return -1;
}

static ssize_t
tls_recv(kars__sock_t *s, void *p, size_t n)
{
    tls_t *t = s->mem;
    size_t got = 0;

    if (t->error != 0) {
        return tls_recv_failed(t, p, n);
    }
    t->recv_needs = KARS__READ;
    while (got < n) {
        size_t one = 0;

        tls_clear();

        int rc = SSL_read_ex(t->ssl, (char *) p + got, n - got, &one);

        if (tls_stands(t) != 0) {
            return -1;
        }
        if (rc == 1) {
            got += one;
            continue;
        }

        int e = tls_result(t, rc, &t->recv_needs);

        t->more = e != EAGAIN && got != 0; /* the end is told the next time */
        if (got == 0 || e == EAGAIN) {
            t->told |= t->error != 0;
            tls_apply(t);
            return got != 0 ? (ssize_t) got : e == 0 ? 0 : -1;
        }
        break;
    }
    t->more = 1;
    tls_again_start(t);
    return (ssize_t) got;
}

/* The next bytes of a chain as one piece: the first buffer where it is long,
 * else as many as fit into a record. A repeated call gives the same bytes or
 * more, as OpenSSL wants it of a write that is repeated. */
static size_t
tls_gather(const kars_buf_t **chain, size_t *skip, const void **ret)
{
    const kars_buf_t *b = *chain;
    size_t n = 0;

    while (b != NULL && b->len == *skip) {
        b = b->next;
        *skip = 0;
    }
    *chain = b;
    if (b == NULL) {
        return 0;
    }
    if (b->len - *skip >= TLS_DIRECT) {
        *ret = b->data + *skip;
        return b->len - *skip;
    }
    for (size_t off = *skip; b != NULL && n < TLS_RECORD; b = b->next) {
        size_t one = b->len - off;

        one = one < TLS_RECORD - n ? one : TLS_RECORD - n;
        if (one != 0) {
            memcpy(tls_record + n, b->data + off, one);
        }
        n += one;
        off = 0;
    }
    *ret = tls_record;
    return n;
}

static void
tls_skip(const kars_buf_t **chain, size_t *skip, size_t n)
{
    while (n != 0) {
        size_t left = (*chain)->len - *skip;

        if (n < left) {
            *skip += n;
            return;
        }
        n -= left;
        *skip = 0;
        *chain = (*chain)->next;
    }
}

/* To one that does not speak TLS: the answer in clear, or nowhere. */
static ssize_t
tls_send_failed(const tls_t *t, const kars_buf_t *chain)
{
    ssize_t all = 0;

    if (t->done) {
        errno = t->error;
        return -1;
    }
    for (; chain != NULL; chain = chain->next) {
        if (t->plain && chain->len != 0) {
            (void) send(t->s->fd, chain->data, chain->len,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        all += (ssize_t) chain->len;
    }
    return all;
}

static ssize_t
tls_sendv(kars__sock_t *s, const kars_buf_t *chain)
{
    tls_t *t = s->mem;
    size_t sent = 0, skip = 0;

    if (t->error != 0) {
        return tls_send_failed(t, chain);
    }
    t->send_needs = KARS__WRITE;
    for (int i = 0; i < TLS_ROUNDS; i++) {
        const void *p = NULL;
        size_t one = 0, n = tls_gather(&chain, &skip, &p);

        if (n == 0) {
            break;
        }
        tls_clear();

        int rc = SSL_write_ex(t->ssl, p, n, &one);

        if (rc != 1) {
            int e = tls_result(t, rc, &t->send_needs);

            if (sent != 0 && e == EAGAIN) {
                break;
            }
            tls_apply(t);
            errno = e != 0 ? e : EPIPE;
            return -1;
        }
        sent += one;
        tls_skip(&chain, &skip, one);
    }
    return (ssize_t) sent;
}

static void
tls_want(kars__sock_t *s, uint32_t events)
{
    tls_t *t = s->mem;

    if ((events & KARS__READ) && t->more) {
        tls_again_start(t);
    }
    tls_apply(t);
}

/* Sends close_notify, then the end of the stream; later when it must. */
static void
tls_notify(tls_t *t)
{
    int rc = 0;

    if (t->done && t->error == 0) {
        tls_clear();
        rc = SSL_shutdown(t->ssl);
    }
    t->closing = rc < 0 && SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_WRITE;
    if (!t->closing) {
        (void) shutdown(t->s->fd, SHUT_WR);
    }
    tls_apply(t);
}

static void
tls_shut(kars__sock_t *s)
{
    tls_notify(s->mem);
}

static void
tls_close(kars__sock_t *s)
{
    tls_t *t = s->mem;

    if (s->fd == -1) {
        return;
    }
    if (t->done && t->error == 0 && !s->cut &&
        !(SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN)) {
        tls_clear();
        (void) SSL_shutdown(t->ssl);
    } else if (!t->done && t->error == 0) {
        (void) tls_fail(t, ETIMEDOUT, "it did not end in time");
    }
    s->wanted = 0;
    kars__timer_stop(s->io.loop, &t->again);
    kars__io_want(&s->io, 0);
    SSL_free(t->ssl);
    kars__pool_destroy(t->pool);
    kars__free(t);
    s->mem = NULL;
    (void) close(s->fd);
    s->fd = -1;
}

/* One byte is read to find out: nobody may send one, but tickets and key
 * updates come at any time, and are no end. */
static int
tls_idle_ok(kars__sock_t *s)
{
    char c;

    return tls_recv(s, &c, 1) == -1 && errno == EAGAIN;
}

static kars_str_t
tls_alpn(const kars__sock_t *s)
{
    const tls_t *t = s->mem;
    const unsigned char *p = NULL;
    unsigned int n = 0;

    if (t != NULL && t->done) {
        SSL_get0_alpn_selected(t->ssl, &p, &n);
    }
    return (kars_str_t){ (const char *) p, n };
}

static const char *
tls_why(const kars__sock_t *s)
{
    const tls_t *t = s->mem;

    return t != NULL ? t->why : NULL;
}

static void
tls_peer(kars__sock_t *s, kars_peer_t *ret)
{
    tls_t *t = s->mem;
    X509 *cert;

    if (t == NULL || !t->done) {
        return;
    }
    ret->tls_version = kars__strz(SSL_get_version(t->ssl));
    ret->tls_server_name =
        kars__strz(SSL_get_servername(t->ssl, TLSEXT_NAMETYPE_host_name));
    cert = SSL_get0_peer_certificate(t->ssl);
    if (cert == NULL || SSL_get_verify_result(t->ssl) != X509_V_OK) {
        return;
    }
    if (t->pool == NULL) {
        t->pool = kars__pool_create(TLS_FACTS);
        if (t->pool == NULL ||
            kars__tls_facts(cert, t->pool, &t->facts) != KARS_OK) {
            memset(&t->facts, 0, sizeof(t->facts)); /* nobody we know */
        }
    }
    ret->tls_peer_subject = t->facts.subject;
    ret->tls_peer_sha256 = t->facts.sha256;
    ret->tls_peer_names = t->facts.names;
}

static const kars__sock_ops_t tls_ops = {
    .recv = tls_recv,
    .sendv = tls_sendv,
    .want = tls_want,
    .close = tls_close,
    .shut = tls_shut,
    .connected = tls_connected,
    .idle_ok = tls_idle_ok,
    .alpn = tls_alpn,
    .why = tls_why,
    .peer = tls_peer,
};

static void
tls_event(kars__io_t *io, uint32_t events)
{
    kars__sock_t *s = (kars__sock_t *) io;
    tls_t *t = s->mem;
    uint32_t ready = 0;

    if (t->closing && (events & KARS__WRITE)) {
        tls_notify(t);
    }
    if (t->role == KARS__TLS_CLIENT && !t->done) {
        s->ready(s, events);
        return;
    }
    if ((s->wanted & KARS__READ) && (events & t->recv_needs)) {
        ready |= KARS__READ;
    }
    if ((s->wanted & KARS__WRITE) && (events & t->send_needs)) {
        ready |= KARS__WRITE;
    }
    if (ready != 0) {
        s->ready(s, ready);
    }
}

int
kars__tls_over(kars__sock_t *s, SSL *ssl, uint32_t role, kars_str_t name,
               kars_str_t alpn)
{
    tls_t *t = kars__alloc(sizeof(*t));

    if (t == NULL || SSL_set_fd(ssl, s->fd) != 1) {
        kars__free(t);
        SSL_free(ssl);
        return KARS_ERROR;
    }
    if (role == KARS__TLS_SERVER) {
        SSL_set_accept_state(ssl);
        t->tcp = 1;
    } else {
        SSL_set_connect_state(ssl);
    }
    SSL_set_app_data(ssl, t);
    t->s = s;
    t->ssl = ssl;
    t->role = (uint8_t) role;
    t->name = name;
    t->alpn = alpn;
    t->recv_needs = KARS__READ;
    t->send_needs = KARS__WRITE;
    t->again.fn = tls_again;
    s->mem = t;
    s->ops = &tls_ops;
    s->io.fn = tls_event;
    return KARS_OK;
}

kars_str_t
kars__tls_offer(const SSL *ssl)
{
    return ((const tls_t *) SSL_get_app_data(ssl))->alpn;
}

uint64_t
kars__tls_wall(const SSL *ssl)
{
    const tls_t *t = SSL_get_app_data(ssl);

    return t != NULL ? kars__loop_wall(t->s->io.loop) : 0;
}
