/*
 * loop.c - the loop in memory: where the core would ask the system for sockets,
 * files of modules and time, it asks this file.
 *
 * The unit program takes one file of the core from here instead of from its
 * library, wholly: net/sock.c, whose functions the linker finds here first.
 */
#include "loop.h"

#include <errno.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static t_loop_t *loop_now; /* one at a time */

static int
open_access(kars_req_t *r, const void *conf, void *ctx)
{
    return kars__api.grant(r, KARS_STR("agent"), KARS_STR("someone"));
}

static const kars_hook_t open_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = open_access },
    { 0 },
};

const kars_module_t t_open = {
    T_MODULE_HEAD,
    .name = "open",
    .flags = KARS_ALWAYS,
    .hooks = open_hooks,
};

/* Memory in the place of sockets. */

void
t_append(t_bytes_t *b, const char *p, size_t n)
{
    if (b->len + n + 1 > b->cap) {
        size_t cap = (b->len + n + 1) * 2;
        char *data = realloc(b->data, cap);

        CU_ASSERT_FATAL(data != NULL);
        b->data = data;
        b->cap = cap;
    }
    if (n != 0) {
        memcpy(b->data + b->len, p, n);
    }
    b->len += n;
    b->data[b->len] = '\0';
}

static void
bytes_clear(t_bytes_t *b)
{
    free(b->data);
    memset(b, 0, sizeof(*b));
}

static ssize_t
mem_recv(kars__sock_t *s, void *p, size_t n)
{
    t_end_t *e = s->mem;
    size_t have = e->in.len - e->in_at;

    if (have == 0) {
        errno = e->error != 0 ? e->error : EAGAIN;
        return e->error == 0 && e->eof ? 0 : -1;
    }
    n = n < have ? n : have;
    if (e->recv_max != 0 && n > e->recv_max) {
        n = e->recv_max;
    }
    memcpy(p, e->in.data + e->in_at, n);
    e->in_at += n;
    return (ssize_t) n;
}

static ssize_t
mem_sendv(kars__sock_t *s, const kars_buf_t *chain)
{
    t_end_t *e = s->mem;
    size_t sent = 0, want = 0;

    if (e->error != 0) {
        errno = e->error;
        return -1;
    }
    CU_ASSERT_FALSE(e->shut); /* nothing follows a shutdown */
    for (; chain != NULL; chain = chain->next) {
        size_t n = chain->len;

        want += n;
        if (e->room != SIZE_MAX) {
            n = n < e->room ? n : e->room;
            e->room -= n;
        }
        t_append(&e->out, chain->data, n);
        sent += n;
    }
    if (sent == 0 && want != 0) {
        errno = EAGAIN;
        return -1;
    }
    return (ssize_t) sent;
}

static void
mem_want(kars__sock_t *s, uint32_t events)
{
    /* mem_events() looks at s->wanted */
}

static void
mem_close(kars__sock_t *s)
{
    t_end_t *e = s->mem;

    if (e != NULL && e->sock != NULL) {
        CU_ASSERT_PTR_EQUAL(e->sock, s);
        e->sock = NULL;
        e->conn = NULL;
        (void) close(e->fd);
        s->fd = -1;
    }
}

static void
mem_shut(kars__sock_t *s)
{
    ((t_end_t *) s->mem)->shut = 1;
}

static int
mem_connected(kars__sock_t *s)
{
    return ((t_end_t *) s->mem)->connect_error;
}

static int
mem_idle_ok(kars__sock_t *s)
{
    const t_end_t *e = s->mem;

    return e->in.len == e->in_at && !e->eof && e->error == 0;
}

static const kars__sock_ops_t mem_ops = {
    .recv = mem_recv,
    .sendv = mem_sendv,
    .want = mem_want,
    .close = mem_close,
    .shut = mem_shut,
    .connected = mem_connected,
    .idle_ok = mem_idle_ok,
};

/* What a poll would say, of what is wanted. */
static uint32_t
mem_events(const t_end_t *e)
{
    uint32_t events = 0;

    if (e->sock == NULL || e->hangs) {
        return 0;
    }
    if (e->in.len > e->in_at || e->eof || e->error != 0) {
        events |= KARS__READ;
    }
    if (e->room != 0 || e->error != 0) {
        events |= KARS__WRITE;
    }
    return events & e->sock->wanted;
}

static t_end_t *
end_make(t_end_t **list)
{
    t_end_t *e = calloc(1, sizeof(*e));

    CU_ASSERT_FATAL(e != NULL);
    e->room = SIZE_MAX;
    e->fd = eventfd(0, EFD_CLOEXEC); /* a descriptor that may be closed */
    CU_ASSERT_FATAL(e->fd != -1);
    t_append(&e->in, "", 0);
    t_append(&e->out, "", 0);
    while (*list != NULL) {
        list = &(*list)->next;
    }
    *list = e;
    return e;
}

static void
ends_free(t_end_t *e)
{
    while (e != NULL) {
        t_end_t *next = e->next;

        CU_ASSERT_PTR_NULL(e->sock); /* the router closed all it had */
        bytes_clear(&e->in);
        bytes_clear(&e->out);
        free(e);
        e = next;
    }
}

/* net/sock.h, for upstreams. */

int
kars__sock_connect(const kars__addr_t *to)
{
    t_loop_t *t = loop_now;
    int end = 0;

    CU_ASSERT_FATAL(t != NULL);
    if (t->nconnects > 0) {
        end = *t->connects++;
        t->nconnects--;
    }
    if (end <= -1000) {
        errno = -(end + 1000);
        return -1;
    }

    t_end_t *e = end_make(&t->ups);

    e->addr = *to;
    e->hangs = end == T_CONNECT_HANGS;
    e->connect_error = end > 0 ? end : 0;
    return e->fd;
}

void
kars__sock_open(kars__sock_t *s, kars__loop_t *loop, int fd,
                void (*ready)(kars__sock_t *s, uint32_t events))
{
    t_end_t *e = loop_now->ups;

    while (e->fd != fd || e->sock != NULL || e->next != NULL) {
        e = e->next; /* the newest of that number */
        CU_ASSERT_FATAL(e != NULL);
    }
    memset(s, 0, sizeof(*s));
    s->ops = &mem_ops;
    s->ready = ready;
    s->mem = e;
    s->fd = fd;
    e->sock = s;
}

/* The loop. */

static int
loop_conf(const char *conf, const kars_module_t *const *mods)
{
    int fd = memfd_create("router.conf", MFD_CLOEXEC);
    int whole = strstr(conf, "server {") != NULL;

    CU_ASSERT_FATAL(fd != -1);
    for (size_t i = 0; mods != NULL && mods[i] != NULL; i++) {
        dprintf(fd, "load_module %s; ", mods[i]->name);
    }
    dprintf(fd, whole ? "%s" : "server { listen 127.0.0.1:8080; %s }", conf);
    return fd;
}

static kars_cycle_t *
loop_load(const char *conf, const kars_module_t *const *mods, kars_err_t *err)
{
    int fd = loop_conf(conf, mods);
    char path[40];

    (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    kars__module_builtins = mods;
    kars__cycle_loop_flags = KARS__LOOP_FAKE;

    kars_cycle_t *c = kars__cycle_load(path, KARS__CYCLE_SERVE, -1, err);

    (void) close(fd);
    kars__module_builtins = NULL;
    kars__cycle_loop_flags = 0;
    /* Listeners of no address: nobody ever comes by them. */
    for (kars_listener_t *l = c != NULL ? c->listeners : NULL; l != NULL;
         l = l->next) {
        l->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    return c;
}

const char *
t_load_error(const char *conf, const kars_module_t *const *mods)
{
    static kars_err_t err;
    kars_cycle_t *c;

    err = (kars_err_t) KARS_ERR_INIT;
    c = loop_load(conf, mods, &err);
    if (c != NULL) {
        err.text[0] = '\0';
        kars__cycle_destroy(c);
    }
    return err.text;
}

t_loop_t *
t_loop_create(const char *conf, const kars_module_t *const *mods)
{
    t_loop_t *t = calloc(1, sizeof(*t));
    kars_err_t err = KARS_ERR_INIT;

    CU_ASSERT_FATAL(t != NULL);
    t->log_fd = memfd_create("log", MFD_CLOEXEC);
    loop_now = t;
    t->cycle = loop_load(conf, mods, &err);
    kars__log_setup(&(kars__log_conf_t){
        { .kind = KARS__LOG_STDERR, .fd = t->log_fd }, KARS_LOG_DEBUG, 0 });
    if (t->cycle == NULL || kars__cycle_start(t->cycle, &err) != KARS_OK) {
        fprintf(stderr, "t_loop: %s\n", err.text);
        CU_FAIL_FATAL("the configuration does not load");
    }
    return t;
}

void
t_loop_destroy(t_loop_t *t)
{
    kars__cycle_destroy(t->cycle);
    kars__log_setup(&(kars__log_conf_t){
        { .kind = KARS__LOG_STDERR, .fd = 2 }, KARS_LOG_NOTICE, 0 });
    ends_free(t->clients);
    ends_free(t->ups);
    (void) close(t->log_fd);
    bytes_clear(&t->log);
    bytes_clear(&t->body);
    bytes_clear(&t->value);
    free(t);
    loop_now = NULL;
}

static int
loop_poll(t_end_t *e)
{
    int any = 0;

    for (; e != NULL; e = e->next) {
        uint32_t events = mem_events(e);

        if (events != 0) {
            e->sock->ready(e->sock, events);
            any = 1;
        }
    }
    return any;
}

static int
loop_is_ready(const t_end_t *e)
{
    while (e != NULL && mem_events(e) == 0) {
        e = e->next;
    }
    return e != NULL;
}

void
t_run(t_loop_t *t)
{
    int any, turns = 0;

    do {
        any = loop_poll(t->clients);
        any |= loop_poll(t->ups);
        kars__loop_turn(t->cycle->loop, 0);
        CU_ASSERT_FATAL(++turns < 100000); /* it spins */
    } while (any || loop_is_ready(t->clients) || loop_is_ready(t->ups));
}

void
t_advance_ms(t_loop_t *t, uint64_t ms)
{
    uint64_t step = ms / 50 + 1;

    t_run(t);
    while (ms > 0) {
        uint64_t n = step < ms ? step : ms;

        kars__loop_advance(t->cycle->loop, n);
        t_run(t);
        ms -= n;
    }
}

void
t_run_until(t_loop_t *t, const int *what)
{
    time_t end = time(NULL) + 20;

    while (!__atomic_load_n(what, __ATOMIC_ACQUIRE)) {
        t_run(t);
        (void) sched_yield();
        CU_ASSERT_FATAL(time(NULL) < end);
    }
    t_run(t);
}

const char *
t_log(t_loop_t *t)
{
    char buf[4096];
    ssize_t n;

    while ((n = pread(t->log_fd, buf, sizeof(buf), (off_t) t->log.len)) > 0) {
        t_append(&t->log, buf, (size_t) n);
    }
    return t->log.data != NULL ? t->log.data : "";
}

/* Clients. */

t_end_t *
t_client(t_loop_t *t)
{
    return t_client_at(t, t->cycle->listeners);
}

t_end_t *
t_client_at(t_loop_t *t, kars_listener_t *l)
{
    t_end_t *e = end_make(&t->clients);
    kars_conn_t *c = kars__conn_open(l, t->cycle->loop);

    CU_ASSERT_FATAL(c != NULL);
    e->conn = c;
    e->sock = kars__conn_sock(c);
    e->sock->ops = &mem_ops;
    e->sock->mem = e;
    kars__conn_begin(c);
    t->client = e;
    return e;
}

void
t_send(t_loop_t *t, t_end_t *e, const char *bytes, size_t n)
{
    t_append(&e->in, bytes, n);
    t_run(t);
}

void
t_request(t_loop_t *t, const char *raw)
{
    if (t->client == NULL || t->client->sock == NULL || t->client->eof ||
        t->client->error != 0) {
        (void) t_client(t);
    }
    t_send(t, t->client, raw, strlen(raw));
}

void
t_client_gone(t_loop_t *t)
{
    t->client->error = ECONNRESET;
    t_run(t);
}

void
t_client_half(t_loop_t *t)
{
    t->client->eof = 1;
    t_run(t);
}

int
t_is_open(const t_end_t *e)
{
    return e->sock != NULL;
}

int
t_is_empty(const t_loop_t *t)
{
    return t->cycle->nconns == 0 && t->cycle->body_held == 0;
}

/* Upstreams. */

int
t_upstreams(const t_loop_t *t)
{
    int n = 0;

    for (const t_end_t *e = t->ups; e != NULL; e = e->next) {
        n++;
    }
    return n;
}

t_end_t *
t_upstream(t_loop_t *t, int i)
{
    t_end_t *e = t->ups;

    while (e != NULL && i-- > 0) {
        e = e->next;
    }
    CU_ASSERT_FATAL(e != NULL);
    return e;
}

const char *
t_upstream_got(t_loop_t *t, int i)
{
    return t_upstream(t, i)->out.data;
}

const char *
t_upstream_body(t_loop_t *t, int i)
{
    const char *at = t_upstream_got(t, i), *next;

    while ((next = strstr(at, "\r\n\r\n")) != NULL) {
        at = next + 4;
    }
    return at;
}

void
t_upstream_reply(t_loop_t *t, const char *raw)
{
    t_end_t *e = t_upstream(t, t_upstreams(t) - 1);

    t_append(&e->in, raw, strlen(raw));
    t_run(t);
}

void
t_upstream_gone(t_loop_t *t, int i)
{
    t_upstream(t, i)->eof = 1;
    t_run(t);
}

void
t_connects(t_loop_t *t, const int *ends, size_t n)
{
    t->connects = ends;
    t->nconnects = n;
}

/* Answers. */

typedef struct {
    int status;
    int whole;
    kars_str_t head;
    const char *body;
    const char *end; /* of what there is */
    int chunked;
} answer_t;

static kars_str_t
answer_header(const answer_t *a, const char *name)
{
    const char *p = a->head.data, *end = p + a->head.len;
    size_t n = strlen(name);

    for (; p != NULL && p < end; p = memchr(p, '\n', (size_t) (end - p))) {
        p += *p == '\n';
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 2;
            return (kars_str_t){ p, strcspn(p, "\r") };
        }
    }
    return (kars_str_t){ NULL, 0 };
}

static void
answer_chunks(answer_t *a, t_bytes_t *body)
{
    const char *p = a->body;

    while (p < a->end) {
        char *data;
        size_t n = strtoul(p, &data, 16);

        data = memmem(data, (size_t) (a->end - data), "\r\n", 2);
        if (data == NULL || data + 2 + n + 2 > a->end) {
            return; /* not all of it yet */
        }
        t_append(body, data + 2, n);
        p = data + 2 + n + 2;
        if (n == 0) {
            a->whole = 1;
            a->end = p;
            return;
        }
    }
}

static int
answer_read(t_loop_t *t, const char *at, const char *end, answer_t *a)
{
    const char *stop = memmem(at, (size_t) (end - at), "\r\n\r\n", 4);
    kars_str_t length;

    memset(a, 0, sizeof(*a));
    if (stop == NULL || strncmp(at, "HTTP/1.1 ", 9) != 0) {
        return 0;
    }
    a->status = (int) strtol(at + 9, NULL, 10);
    a->head = (kars_str_t){ at, (size_t) (stop + 2 - at) };
    a->body = stop + 4;
    a->end = end;
    length = answer_header(a, "content-length");
    bytes_clear(&t->body);
    t_append(&t->body, "", 0);
    if (answer_header(a, "transfer-encoding").data != NULL) {
        answer_chunks(a, &t->body);
    } else if (a->status < 200 || a->status == 204 || a->status == 304 ||
               strncmp(t->client->in.data, "HEAD ", 5) == 0) {
        a->end = a->body;
        a->whole = 1;
    } else {
        size_t n = length.data != NULL ? strtoul(length.data, NULL, 10)
                                       : (size_t) (end - a->body);

        a->whole = (size_t) (end - a->body) >= n && length.data != NULL;
        a->whole |= length.data == NULL && t->client->shut;
        a->end = a->whole ? a->body + n : end;
        t_append(&t->body, a->body, (size_t) (a->end - a->body));
    }
    return 1;
}

/* The i-th final answer, or the last when i is -1; how many there are. */
static int
answer_find(t_loop_t *t, int i, answer_t *ret)
{
    const char *at, *end;
    answer_t a;
    int n = 0;

    memset(ret, 0, sizeof(*ret));
    if (t->client == NULL) {
        return 0;
    }
    at = t->client->out.data;
    end = at + t->client->out.len;
    while (answer_read(t, at, end, &a)) {
        if (a.status >= 200) {
            *ret = a;
            if (i == n) {
                return n + 1;
            }
            n += a.whole;
        }
        if (!a.whole) {
            break;
        }
        at = a.end;
    }
    return n;
}

int
t_answers(t_loop_t *t)
{
    answer_t a;

    return answer_find(t, -1, &a);
}

int
t_status(t_loop_t *t)
{
    answer_t a;

    (void) answer_find(t, -1, &a);
    return a.status;
}

int
t_status_at(t_loop_t *t, int i)
{
    answer_t a;

    return answer_find(t, i, &a) > i ? a.status : 0;
}

const char *
t_body(t_loop_t *t)
{
    answer_t a;

    (void) answer_find(t, -1, &a);
    return t->body.data != NULL ? t->body.data : "";
}

const char *
t_header(t_loop_t *t, const char *name)
{
    answer_t a;

    (void) answer_find(t, -1, &a);

    kars_str_t v = answer_header(&a, name);

    if (v.data == NULL) {
        return NULL;
    }
    bytes_clear(&t->value);
    t_append(&t->value, v.data, v.len);
    return t->value.data;
}

const char *
t_raw(t_loop_t *t)
{
    return t->client->out.data;
}
