/* test_tls.c - core/net/tls.c over a real pair of sockets, both ends here. */
#include "base/log.h"
#include "base/pool.h"
#include "cert.h"
#include "net/tls_server.h"
#include "t.h"

#include <errno.h>
#include <openssl/err.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    kars_pool_t *pool;
    kars__loop_t *loop;
    t_cert_t *cert;
    kars__sock_t s; /* ours: the server */
    SSL_CTX *ctx;   /* of the client */
    SSL *client;
    int fd;       /* the client's */
    int nready;   /* how often s was ready to be read */
    int nrecords; /* that the client received */
    kars__bufs_t bufs;
} tls_pair_t;

static void
tls_ready(kars__sock_t *s, uint32_t events)
{
    tls_pair_t *t = (tls_pair_t *) ((char *) s - offsetof(tls_pair_t, s));

    t->nready += (events & KARS__READ) != 0;
}

static void
tls_io(kars__io_t *io, uint32_t events)
{
}

static void
tls_record_in(int write, int version, int type, const void *buf, size_t n,
              SSL *ssl, void *data)
{
    if (!write && type == SSL3_RT_HEADER) {
        ((tls_pair_t *) data)->nrecords++;
    }
}

static tls_pair_t *
tls_open(int version)
{
    tls_pair_t *t = calloc(1, sizeof(*t));
    kars__tls_server_conf_t conf = { .npairs = 1,
                                     .min = TLS1_2_VERSION,
                                     .max = TLS1_3_VERSION,
                                     .session_ms = 60000 };
    kars__tls_server_t *v;
    int fds[2];

    CU_ASSERT_FATAL(t != NULL);
    (void) signal(SIGPIPE, SIG_IGN); /* as workers have it */
    t->pool = kars__pool_create(0);
    t->loop = kars__loop_create(KARS__LOOP_FAKE, NULL);
    t->cert = t_cert("x", "DNS:a.example", 1);
    conf.pairs = &t->cert->pem;
    v = kars__tls_server_create(t->pool, NULL, NULL);
    CU_ASSERT_FATAL(v != NULL);
    CU_ASSERT_EQUAL_FATAL(kars__tls_server_load(v, &conf, NULL), KARS_OK);
    CU_ASSERT_EQUAL_FATAL(
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    kars__io_init(&t->s.io, t->loop, fds[0], tls_io);
    t->s.fd = fds[0];
    t->s.ready = tls_ready;
    CU_ASSERT_EQUAL_FATAL(
        kars__tls_accept(v, &t->s, KARS_STR("here"), KARS__TLS_ALPN_HTTP1),
        KARS_OK);
    t->fd = fds[1];
    t->ctx = SSL_CTX_new(TLS_client_method());
    (void) SSL_CTX_set_max_proto_version(t->ctx, version);
    (void) SSL_CTX_set_alpn_protos(t->ctx,
                                   (const unsigned char *) "\x08http/1.1", 9);
    t->client = SSL_new(t->ctx);
    (void) SSL_set_fd(t->client, t->fd);
    (void) SSL_set_tlsext_host_name(t->client, "a.example");
    SSL_set_msg_callback(t->client, tls_record_in);
    SSL_set_msg_callback_arg(t->client, t);
    return t;
}

static void
tls_close(tls_pair_t *t)
{
    kars__sock_close(&t->s);
    SSL_free(t->client);
    SSL_CTX_free(t->ctx);
    if (t->fd != -1) {
        (void) close(t->fd);
    }
    kars__bufs_done(&t->bufs);
    kars__loop_destroy(t->loop);
    kars__pool_destroy(t->pool);
    t_cert_free(t->cert);
    free(t);
}

/* Both sides in turn until the client has its handshake, and we have read what
 * came with it. */
static void
tls_shake(tls_pair_t *t)
{
    char c;

    for (int i = 0; i < 20; i++) {
        (void) SSL_connect(t->client);
        CU_ASSERT_EQUAL(kars__sock_recv(&t->s, &c, 1), -1);
        CU_ASSERT_EQUAL(errno, EAGAIN);
    }
    CU_ASSERT_TRUE_FATAL(SSL_is_init_finished(t->client));
}

static tls_pair_t *
tls_made(int version)
{
    tls_pair_t *t = tls_open(version);

    tls_shake(t);
    return t;
}

static void
test_tls_handshake_runs_inside_recv(void)
{
    tls_pair_t *t = tls_open(TLS1_3_VERSION);
    kars_peer_t peer = { .size = sizeof(peer) };
    char buf[8];

    kars__sock_peer(&t->s, &peer);
    CU_ASSERT_EQUAL(peer.tls_version.len, 0);
    CU_ASSERT_EQUAL(kars__sock_alpn(&t->s).len, 0);
    tls_shake(t);
    CU_ASSERT_TRUE(kars_str_eq(kars__sock_alpn(&t->s), KARS_STR("http/1.1")));
    kars__sock_peer(&t->s, &peer);
    CU_ASSERT_TRUE(kars_str_eq(peer.tls_version, KARS_STR("TLSv1.3")));
    CU_ASSERT_TRUE(kars_str_eq(peer.tls_server_name, KARS_STR("a.example")));
    CU_ASSERT_EQUAL(peer.tls_peer_subject.len, 0);
    CU_ASSERT_EQUAL(SSL_write(t->client, "hello", 5), 5);
    CU_ASSERT_EQUAL(kars__sock_recv(&t->s, buf, sizeof(buf)), 5);
    CU_ASSERT_EQUAL(memcmp(buf, "hello", 5), 0);
    CU_ASSERT_PTR_NULL(kars__sock_why(&t->s));
    tls_close(t);
}

static kars_buf_t *
tls_chain(tls_pair_t *t, const char *p, size_t n, size_t piece)
{
    kars_buf_t *first = NULL, **tail = &first;

    while (n != 0) {
        size_t one = piece < n ? piece : n;

        *tail = kars__buf_view(&t->bufs, NULL, p, one);
        CU_ASSERT_FATAL(*tail != NULL);
        tail = &(*tail)->next;
        p += one;
        n -= one;
    }
    return first;
}

static void
test_tls_small_buffers_are_one_record(void)
{
    tls_pair_t *t = tls_made(TLS1_3_VERSION);
    char text[1000], got[2000];

    memset(text, 'x', sizeof(text));
    (void) SSL_read(t->client, got, sizeof(got)); /* its tickets */
    t->nrecords = 0;

    kars_buf_t *chain = tls_chain(t, text, sizeof(text), 10);

    CU_ASSERT_EQUAL(kars__sock_sendv(&t->s, chain), 1000);
    CU_ASSERT_EQUAL(SSL_read(t->client, got, sizeof(got)), 1000);
    CU_ASSERT_EQUAL(t->nrecords, 1);
    tls_close(t);
}

/* Buffers of many lengths through a pipe that is full again and again: each
 * byte arrives once, in order. */
static void
test_tls_writes_that_block_are_repeated(void)
{
    static const size_t pieces[] = { 1, 100, 4095, 4096, 5000, 16384, 70000 };
    enum { ALL = 600000 };
    char *text = malloc(ALL), *got = malloc(ALL);

    CU_ASSERT_FATAL(text != NULL && got != NULL);
    for (size_t i = 0; i < ALL; i++) {
        text[i] = (char) (i * 7 + i / 251);
    }
    for (size_t p = 0; p < KARS_NELTS(pieces); p++) {
        tls_pair_t *t = tls_made(TLS1_2_VERSION);
        size_t nsent = 0, ngot = 0, blocked = 0;
        kars_buf_t *out = tls_chain(t, text, ALL, pieces[p]);
        int size = 4096;

        (void) setsockopt(t->s.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        for (int i = 0; i < 1000000 && ngot < ALL; i++) {
            ssize_t n = out != NULL ? kars__sock_sendv(&t->s, out) : 0;
            int r;

            if (n < 0) {
                CU_ASSERT_EQUAL_FATAL(errno, EAGAIN);
                blocked++;
            } else if (n > 0) {
                nsent += (size_t) n;
                out = kars__chain_consume(out, (size_t) n);
            }
            r = SSL_read(t->client, got + ngot, 3000);
            ngot += r > 0 ? (size_t) r : 0;
            if (ngot + 3000 > ALL) {
                r = SSL_read(t->client, got + ngot, (int) (ALL - ngot));
                ngot += r > 0 ? (size_t) r : 0;
            }
        }
        CU_ASSERT_EQUAL(nsent, ALL);
        CU_ASSERT_EQUAL(ngot, ALL);
        CU_ASSERT_EQUAL(memcmp(text, got, ALL), 0);
        CU_ASSERT_TRUE(blocked > 5);
        tls_close(t);
    }
    free(text);
    free(got);
}

static void
test_tls_end_is_one_with_close_notify_only(void)
{
    char c;

    for (int said = 0; said < 2; said++) {
        tls_pair_t *t = tls_made(said ? TLS1_2_VERSION : TLS1_3_VERSION);

        CU_ASSERT_EQUAL(SSL_write(t->client, "x", 1), 1);
        if (said) {
            (void) SSL_shutdown(t->client);
        }
        (void) shutdown(t->fd, SHUT_WR);
        CU_ASSERT_EQUAL(kars__sock_recv(&t->s, &c, 1), 1);
        CU_ASSERT_EQUAL(kars__sock_recv(&t->s, &c, 1), said ? 0 : -1);
        if (!said) {
            CU_ASSERT_EQUAL(errno, ECONNRESET);
            CU_ASSERT_STRING_EQUAL(kars__sock_why(&t->s),
                                   "closed without close_notify");
        }
        tls_close(t);
    }
}

static void
test_tls_says_its_own_end(void)
{
    char c;

    for (int cut = 0; cut < 2; cut++) {
        tls_pair_t *t = tls_made(TLS1_2_VERSION);

        t->s.cut = (uint8_t) cut;
        if (cut) {
            kars__sock_close(&t->s);
        } else {
            t->s.ops->shut(&t->s);
        }
        CU_ASSERT_EQUAL(SSL_read(t->client, &c, 1), 0);
        CU_ASSERT_EQUAL(SSL_get_error(t->client, 0),
                        cut ? SSL_ERROR_SSL : SSL_ERROR_ZERO_RETURN);
        ERR_clear_error();
        tls_close(t);
    }
}

/* What OpenSSL holds makes no event of the descriptor: we are told all the
 * same, but only while we want to read. */
static void
test_tls_held_bytes_are_told(void)
{
    tls_pair_t *t = tls_made(TLS1_3_VERSION);
    char buf[64];

    CU_ASSERT_EQUAL(SSL_write(t->client, "0123456789", 10), 10);
    kars__sock_want(&t->s, KARS__READ);
    CU_ASSERT_EQUAL(kars__sock_recv(&t->s, buf, 4), 4);
    t->nready = 0;
    kars__loop_advance(t->loop, 5);
    CU_ASSERT_EQUAL(t->nready, 1);
    kars__sock_want(&t->s, 0);
    CU_ASSERT_EQUAL(kars__sock_recv(&t->s, buf, 4), 4);
    kars__loop_advance(t->loop, 5);
    CU_ASSERT_EQUAL(t->nready, 1);
    kars__sock_want(&t->s, KARS__READ);
    kars__loop_advance(t->loop, 5);
    CU_ASSERT_EQUAL(t->nready, 2);
    CU_ASSERT_EQUAL(kars__sock_recv(&t->s, buf, sizeof(buf)), 2);
    kars__loop_advance(t->loop, 5);
    CU_ASSERT_EQUAL(t->nready, 2); /* nothing is left */
    tls_close(t);
}

static void
test_tls_idle_is_silent(void)
{
    tls_pair_t *t = tls_made(TLS1_3_VERSION);
    char c;

    CU_ASSERT_TRUE(kars__sock_idle_ok(&t->s));
    CU_ASSERT_EQUAL(SSL_key_update(t->client, SSL_KEY_UPDATE_REQUESTED), 1);
    CU_ASSERT_EQUAL(SSL_do_handshake(t->client), 1);
    CU_ASSERT_TRUE(kars__sock_idle_ok(&t->s)); /* its own business */
    (void) SSL_read(t->client, &c, 1);
    CU_ASSERT_EQUAL(SSL_write(t->client, "x", 1), 1);
    CU_ASSERT_FALSE(kars__sock_idle_ok(&t->s));
    tls_close(t);

    t = tls_made(TLS1_3_VERSION);
    (void) SSL_shutdown(t->client);
    CU_ASSERT_FALSE(kars__sock_idle_ok(&t->s));
    tls_close(t);
}

static void
test_tls_plain_http_is_answered_in_clear(void)
{
    tls_pair_t *t = tls_open(TLS1_3_VERSION);
    char buf[64];
    ssize_t n;

    kars__log_setup(&(kars__log_conf_t){
        .target = { .kind = KARS__LOG_FILE, .fd = 2 }, .level = KARS_LOG_ERR });
    CU_ASSERT_EQUAL(send(t->fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
    CU_ASSERT_EQUAL(kars__sock_recv(&t->s, buf, sizeof(buf)), -1);
    CU_ASSERT_EQUAL(errno, EPROTO);
    CU_ASSERT_EQUAL(kars__sock_sendv(&t->s, tls_chain(t, "sorry", 5, 2)), 5);
    n = recv(t->fd, buf, sizeof(buf), 0);
    CU_ASSERT_TRUE(n >= 5 && memcmp(buf + n - 5, "sorry", 5) == 0);
    tls_close(t);

    t = tls_open(TLS1_3_VERSION);
    CU_ASSERT_EQUAL(send(t->fd, "\0\0\0\0\0\0\0\0\0\0\0\0", 12, 0), 12);
    CU_ASSERT_EQUAL(kars__sock_recv(&t->s, buf, sizeof(buf)), -1);
    CU_ASSERT_EQUAL(kars__sock_sendv(&t->s, tls_chain(t, "sorry", 5, 2)), 5);
    n = recv(t->fd, buf, sizeof(buf), 0);
    CU_ASSERT_TRUE(n < 5 || memcmp(buf + n - 5, "sorry", 5) != 0);
    kars__log_setup(
        &(kars__log_conf_t){ .target = { .kind = KARS__LOG_FILE, .fd = 2 },
                             .level = KARS_LOG_NOTICE });
    tls_close(t);
}

void
suite_tls(void)
{
    T_SUITE(tls);
    T_TEST(tls, test_tls_handshake_runs_inside_recv);
    T_TEST(tls, test_tls_small_buffers_are_one_record);
    T_TEST(tls, test_tls_writes_that_block_are_repeated);
    T_TEST(tls, test_tls_end_is_one_with_close_notify_only);
    T_TEST(tls, test_tls_says_its_own_end);
    T_TEST(tls, test_tls_held_bytes_are_told);
    T_TEST(tls, test_tls_idle_is_silent);
    T_TEST(tls, test_tls_plain_http_is_answered_in_clear);
}
