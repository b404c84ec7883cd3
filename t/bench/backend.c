/*
 * backend.c - what stands behind every candidate: an HTTP/1.1 keep-alive server
 * that answers each POST with the same chat completion, in one write, and
 * counts. `GET /count` tells how many. Prints its port; ends on SIGTERM.
 *
 * It owns one request buffer per connection. It is not a validator: its peers
 * are ours; what it cannot read ends the connection.
 */
#include <strings.h>

#include "net.h"

enum { BACKEND_BUF = 16384, BACKEND_BODY_MAX = 1 << 20 };

typedef struct {
    size_t n;    /* bytes in buf */
    size_t skip; /* bytes of a body that are still to come */
    char buf[BACKEND_BUF];
} backend_conn_t;

static backend_conn_t *backend_conns[NET_MAX_FD];
static unsigned long backend_count;
static char backend_reply[4096];
static size_t backend_reply_len;

static const char backend_body[] =
    "{\"id\":\"chatcmpl-BENCHa1b2c3d4e5f6g7h8i9j0k1l2\",\"object\":\"chat."
    "completion\",\"created\":1764000000,\"model\":\"gpt-4.1-mini-2025-04-14\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"A reverse proxy accepts a request, decides where it belongs and hands "
    "it on; a router with a policy also decides whether it may go at all. The "
    "first costs a few system calls, the second a scan of the body, a ledger "
    "entry and a line in a log that nobody can change unseen. Measured on one "
    "processor, both are small beside the model's own time.\",\"refusal\":null,"
    "\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\","
    "\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":"
    "\"safe\"},\"violence\":{\"filtered\":false,\"severity\":\"safe\"}}}],"
    "\"usage\":{\"prompt_tokens\":512,\"completion_tokens\":88,"
    "\"total_tokens\":600,\"prompt_tokens_details\":{\"cached_tokens\":0},"
    "\"completion_tokens_details\":{\"reasoning_tokens\":0}},"
    "\"system_fingerprint\":\"fp_bench\",\"service_tier\":\"default\"}\n";

static void
backend_close(int fd)
{
    (void) close(fd);
    free(backend_conns[fd]);
    backend_conns[fd] = NULL;
}

static void
backend_accept(int listener, int ep)
{
    int fd;

    while ((fd = net_accept(listener)) != -1) {
        struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

        backend_conns[fd] = malloc(sizeof(backend_conn_t));
        if (backend_conns[fd] == NULL ||
            epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == -1) {
            backend_close(fd);
            continue;
        }
        backend_conns[fd]->n = 0;
        backend_conns[fd]->skip = 0;
    }
}

/* The content-length of a head, 0 without one. */
static size_t
backend_length(const char *head, const char *end)
{
    const char *p = head;

    while ((p = memchr(p, '\n', (size_t) (end - p))) != NULL) {
        p++;
        if (end - p > 15 && strncasecmp(p, "content-length:", 15) == 0) {
            return strtoul(p + 15, NULL, 10);
        }
    }

    return 0;
}

static int
backend_answer(int fd, int counts)
{
    char count[160];
    const char *out = backend_reply;
    size_t len = backend_reply_len;

    if (!counts) {
        char text[24];
        int n = snprintf(text, sizeof(text), "%lu", backend_count);

        len = (size_t) snprintf(count, sizeof(count),
                                "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
                                "%s",
                                n, text);
        out = count;
    } else {
        backend_count++;
    }

    return write(fd, out, len) == (ssize_t) len ? 0 : -1;
}

/* Answers what is complete in the buffer. Returns -1 to close. */
static int
backend_take(int fd, backend_conn_t *c)
{
    while (c->n > 0) {
        const char *end = memmem(c->buf, c->n, "\r\n\r\n", 4);

        if (end == NULL) {
            return c->n == sizeof(c->buf) ? -1 : 0;
        }
        end += 4;

        size_t head = (size_t) (end - c->buf);
        size_t body = backend_length(c->buf, end);

        if (body > BACKEND_BODY_MAX) {
            return -1;
        }
        if (head + body > c->n) {
            if (head + body > sizeof(c->buf)) {
                return -1; /* the bench sends nothing that large */
            }
            return 0;
        }
        if (backend_answer(fd, c->buf[0] == 'P') == -1) {
            return -1;
        }
        c->n -= head + body;
        memmove(c->buf, c->buf + head + body, c->n);
    }

    return 0;
}

static void
backend_read(int fd)
{
    backend_conn_t *c = backend_conns[fd];
    ssize_t n = read(fd, c->buf + c->n, sizeof(c->buf) - c->n);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        backend_close(fd);
        return;
    }

    c->n += (size_t) n;
    if (backend_take(fd, c) == -1) {
        backend_close(fd);
    }
}

int
main(void)
{
    struct epoll_event evs[NET_EVENTS];
    int ep;

    net_init();
    backend_reply_len = (size_t) snprintf(
        backend_reply, sizeof(backend_reply),
        "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nContent-Type: "
        "application/json\r\nx-request-id: 7b0c1d2e-3f40-4152-8637-"
        "48596a7b8c9d\r\nx-ms-region: Sweden Central\r\n"
        "x-ratelimit-remaining-requests: 4999\r\n"
        "x-ratelimit-remaining-tokens: 4999400\r\n"
        "Date: Mon, 24 Nov 2025 16:00:00 GMT\r\n\r\n%s",
        sizeof(backend_body) - 1, backend_body);

    int listener = net_listen(&ep);

    while (!net_ended) {
        int n = epoll_wait(ep, evs, NET_EVENTS, 1000);

        for (int i = 0; i < n; i++) {
            if (evs[i].data.fd == listener) {
                backend_accept(listener, ep);
            } else {
                backend_read(evs[i].data.fd);
            }
        }
    }

    return 0;
}
