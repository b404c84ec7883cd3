/*
 * load.c - a client that never tries twice: load PORT REQUESTS CONNECTIONS PATH
 * TENTH sends so many POSTs to loopback, each tenth to another path, checks
 * each answer, and prints lines of JSON: how far it is (a hundred times), and
 * what came of it. A request that got no whole answer with status 200 and the
 * body that it must have is lost, whatever the reason.
 *
 * Connections behave in three ways, by their number: one request each; kept as
 * long as the server keeps them; kept for a random number of requests. A server
 * that says `connection: close` is obeyed, one that closes without a word and
 * without an answer has lost what was sent.
 */
#include "net.h"

enum {
    LOAD_BUF = 16384,
    LOAD_WAIT_MS = 30000,
    LOAD_LOST_MAX = 1000 /* then it gives up */
};

typedef struct {
    int fd;
    int kind;
    unsigned long left; /* requests that this connection will still carry */
    size_t n;           /* bytes in buf */
    size_t sent;        /* bytes of the request */
    int which;          /* of the two */
    char buf[LOAD_BUF];
} load_conn_t;

static struct {
    struct sockaddr_in to;
    int ep;
    unsigned long want;
    unsigned long begun;
    unsigned long done;
    unsigned long lost;
    unsigned long conns;
    char first[160];       /* what was lost first */
    char request[2][4096]; /* to PATH, to TENTH */
    size_t request_len[2];
    unsigned seed;
} load;

static void
load_lost(const char *why)
{
    if (load.lost++ == 0) {
        (void) snprintf(load.first, sizeof(load.first), "%s (%s)", why,
                        errno != 0 ? strerror(errno) : "-");
    }
}

static void
load_close(load_conn_t *c)
{
    if (c->fd != -1) {
        (void) close(c->fd);
        c->fd = -1;
    }
}

static int
load_watch(load_conn_t *c, int op, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = c };

    return epoll_ctl(load.ep, op, c->fd, &ev);
}

/* Sends what is left of the request; 0 when more must wait for room. */
static int
load_send(load_conn_t *c)
{
    while (c->sent < load.request_len[c->which]) {
        ssize_t n = send(c->fd, load.request[c->which] + c->sent,
                         load.request_len[c->which] - c->sent, MSG_NOSIGNAL);

        if (n == -1 && errno == EAGAIN) {
            return load_watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        }
        if (n == -1) {
            return -1;
        }
        c->sent += (size_t) n;
    }
    return load_watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static int
load_open(load_conn_t *c)
{
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->n = 0;
    if (c->fd == -1 ||
        connect(c->fd, (struct sockaddr *) &load.to, sizeof(load.to)) == -1) {
        return -1;
    }
    net_nodelay(c->fd);
    load.conns++;
    c->left = c->kind == 0   ? 1
              : c->kind == 1 ? ~0ul
                             : 1 + (unsigned long) rand_r(&load.seed) % 50;
    return load_watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

/* Begins a request, on a new connection where this one has none left. */
static int
load_begin(load_conn_t *c)
{
    c->which = load.begun % 10 == 9;
    load.begun++;
    c->sent = 0;
    errno = 0;
    if (c->left == 0) {
        load_close(c);
    }
    if (c->fd == -1 && load_open(c) == -1) {
        load_lost("connect");
        return -1;
    }
    c->left--;
    if (load_send(c) == -1) {
        load_lost("send");
        return -1;
    }
    return 0;
}

static void
load_next(load_conn_t *c)
{
    while (load.begun < load.want && load.lost < LOAD_LOST_MAX) {
        if (load_begin(c) == 0) {
            return;
        }
        load_close(c);
    }
    load_close(c);
}

/* 1: a whole answer, *ret_close whether it is the last; 0: more must come; -1:
 * no answer that we would take. */
static int
load_answer(load_conn_t *c, int *ret_close)
{
    c->buf[c->n] = '\0';

    const char *end = strstr(c->buf, "\r\n\r\n");
    const char *length =
        end != NULL ? strcasestr(c->buf, "\ncontent-length:") : NULL;
    size_t head = end != NULL ? (size_t) (end + 4 - c->buf) : 0;

    if (end == NULL) {
        return c->n == sizeof(c->buf) - 1 ? -1 : 0;
    }
    if (strncmp(c->buf, "HTTP/1.1 200 ", 13) != 0 || length == NULL ||
        length > end) {
        return -1;
    }

    size_t body = strtoul(length + 16, NULL, 10);

    if (head + body >= sizeof(c->buf) || c->n > head + body) {
        return -1;
    }
    if (c->n < head + body) {
        return 0;
    }

    const char *last = strcasestr(c->buf, "\nconnection: close");

    *ret_close = last != NULL && last < end;
    return memmem(c->buf + head, body, "\"total_tokens\":600", 18) != NULL ? 1
                                                                           : -1;
}

static void
load_ready(load_conn_t *c, uint32_t events)
{
    errno = 0;
    if ((events & EPOLLOUT) && load_send(c) == -1) {
        load_lost("send");
        load_close(c);
        load_next(c);
        return;
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        return;
    }

    ssize_t n =
        recv(c->fd, c->buf + c->n, sizeof(c->buf) - 1 - c->n, MSG_DONTWAIT);

    if (n == -1 && errno == EAGAIN) {
        return;
    }
    if (n <= 0) {
        load_lost(c->n == 0 ? "closed before the answer"
                            : "closed within the answer");
        load_close(c);
        load_next(c);
        return;
    }
    c->n += (size_t) n;

    int closes = 0;
    int rc = load_answer(c, &closes);

    if (rc == 0) {
        return;
    }
    if (rc == -1) {
        load_lost("another answer");
        (void) fprintf(stderr, "%.400s\n", c->buf);
    } else {
        load.done++;
        if (load.done % (load.want / 100 + 1) == 0) {
            printf("{\"answered\":%lu}\n", load.done);
            (void) fflush(stdout);
        }
    }
    if (rc == -1 || closes) {
        load_close(c);
    }
    c->n = 0;
    load_next(c);
}

static void
load_run(load_conn_t *conns, int nconns)
{
    struct epoll_event evs[NET_EVENTS];

    for (int i = 0; i < nconns; i++) {
        conns[i].fd = -1;
        conns[i].kind = i % 3;
        load_next(&conns[i]);
    }
    while (load.done + load.lost < load.want && load.lost < LOAD_LOST_MAX &&
           !net_ended) {
        int n = epoll_wait(load.ep, evs, NET_EVENTS, LOAD_WAIT_MS);

        if (n == 0) {
            errno = 0;
            load_lost("no answer for 30 s");
            return;
        }
        for (int i = 0; i < n; i++) {
            load_ready(evs[i].data.ptr, evs[i].events);
        }
    }
}

int
main(int argc, char **argv)
{
    static const char body[] =
        "{\"model\":\"gpt-4.1-mini\",\"max_tokens\":16,\"messages\":[{\"role\":"
        "\"user\",\"content\":\"none of these may be lost\"}]}";

    if (argc != 6) {
        (void) fprintf(stderr,
                       "usage: load PORT REQUESTS CONNECTIONS PATH TENTH\n");
        return 2;
    }

    int nconns = (int) strtoul(argv[3], NULL, 10);
    load_conn_t *conns = calloc((size_t) nconns, sizeof(*conns));

    net_init();
    load.to = net_loopback((uint16_t) strtoul(argv[1], NULL, 10));
    load.want = strtoul(argv[2], NULL, 10);
    load.seed = 1;
    load.ep = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        load.request_len[i] = (size_t) snprintf(
            load.request[i], sizeof(load.request[i]),
            "POST %s HTTP/1.1\r\nHost: kars\r\n"
            "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            argv[4 + i], sizeof(body) - 1, body);
    }
    if (conns == NULL || load.ep == -1) {
        net_die("load");
    }
    load_run(conns, nconns);
    printf("{\"requests\":%lu,\"answered\":%lu,\"lost\":%lu,\"connections\":"
           "%lu,\"first_lost\":\"%s\"}\n",
           load.begun, load.done, load.lost, load.conns, load.first);
    return load.lost == 0 && load.done == load.want ? 0 : 1;
}
