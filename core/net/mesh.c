/* mesh.c - messages between workers. */
#include "net/mesh.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/str.h"

#include <errno.h>
#include <sodium.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MESH_VERSION 1u
#define MESH_MAGIC   0x6b6d6573u
#define MESH_BACKLOG 128
#define MESH_READS   16 /* messages, or connections, for one readiness */
#define MESH_NAME    32u
#define MESH_COOKIE  32u
#define MESH_SAY_MS  60000u

/* In the zone. */
typedef struct {
    uint64_t worker; /* 0: free */
    char name[MESH_NAME];
} mesh_row_t;

typedef struct {
    uint32_t made;
    unsigned char cookie[MESH_COOKIE];
    mesh_row_t rows[KARS__ZONE_WORKERS];
} mesh_zone_t;

/* The first message of a link. */
typedef struct {
    uint32_t magic;
    uint32_t version;
    uint64_t worker;
    unsigned char cookie[MESH_COOKIE];
} mesh_hello_t;

typedef struct mesh_frame_s mesh_frame_t;
struct mesh_frame_s {
    mesh_frame_t *next;
    size_t len;
    char bytes[];
};

struct kars__link_s {
    kars__link_t *next;
    kars__mesh_t *mesh;
    uint64_t worker; /* at the other end; 0: it did not say yet */
    uint32_t inbound;
    uint32_t broken; /* ends soon */
    int fd;
    kars__io_t io;
    kars__work_t end;
    mesh_frame_t *first;
    mesh_frame_t **last;
    size_t queued;
};

struct kars__mesh_s {
    kars__loop_t *loop;
    kars_zone_t *zone;
    kars_area_t *area;
    uint64_t worker;
    const kars__mesh_handler_t *handler;
    void *data;
    int fd; /* where others connect; -1: nowhere */
    kars__io_t io;
    kars__link_t *links;
    size_t ninbound;
    uint64_t said_ms; /* when a stranger was last logged; 0: never */
    char buf[KARS__MESH_MESSAGE + 1]; /* one byte more tells what is cut */
};

/* The zone. */

static mesh_zone_t *
mesh_lock(kars__mesh_t *m)
{
    mesh_zone_t *z = kars__area_data(m->area);

    (void) kars__area_lock(
        m->area); /* of a dead holder: its row, or no cookie */
    if (!z->made) {
        randombytes_buf(z->cookie, sizeof(z->cookie));
        __atomic_store_n(&z->made, 1, __ATOMIC_RELEASE);
    }
    return z;
}

static void
mesh_unlock(kars__mesh_t *m)
{
    kars__area_unlock(m->area);
}

static int
mesh_announce(kars__mesh_t *m, const char name[MESH_NAME])
{
    mesh_zone_t *z = mesh_lock(m);
    mesh_row_t *to = NULL;

    for (size_t i = 0; i < KARS__ZONE_WORKERS && to == NULL; i++) {
        if (!kars__zone_worker_alive(m->zone, z->rows[i].worker)) {
            to = &z->rows[i];
        }
    }
    if (to != NULL) {
        to->worker = 0;
        memcpy(to->name, name, MESH_NAME);
        to->worker = m->worker;
    }
    mesh_unlock(m);
    return to != NULL ? KARS_OK : KARS_ERROR;
}

static int
mesh_find(kars__mesh_t *m, uint64_t worker, char name[MESH_NAME],
          unsigned char cookie[MESH_COOKIE])
{
    mesh_zone_t *z = mesh_lock(m);
    int rc = KARS_ERROR;

    memcpy(cookie, z->cookie, MESH_COOKIE);
    for (size_t i = 0; i < KARS__ZONE_WORKERS; i++) {
        if (worker != 0 && z->rows[i].worker == worker) {
            memcpy(name, z->rows[i].name, MESH_NAME);
            rc = KARS_OK;
        }
    }
    mesh_unlock(m);
    return rc;
}

static socklen_t
mesh_addr(const char name[MESH_NAME], struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->sun_family = AF_UNIX;
    memcpy(ret->sun_path + 1, name, MESH_NAME); /* a NUL first: abstract */
    return (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + MESH_NAME);
}

/* Links. */

static void
link_close(kars__link_t *l)
{
    kars__mesh_t *m = l->mesh;
    kars__link_t **at = &m->links;
    mesh_frame_t *next;

    while (*at != l) {
        at = &(*at)->next;
    }
    *at = l->next;
    m->ninbound -= l->inbound;
    kars__io_want(&l->io, 0);
    kars__work_cancel(m->loop, &l->end);
    (void) close(l->fd);
    for (mesh_frame_t *f = l->first; f != NULL; f = next) {
        next = f->next;
        kars__free(f);
    }
    kars__free(l);
}

static void
link_ends(kars__work_t *work)
{
    kars__link_t *l =
        (kars__link_t *) ((char *) work - offsetof(kars__link_t, end));
    kars__mesh_t *m = l->mesh;

    if (l->worker != 0) {
        m->handler->gone(l, m->data);
    }
    link_close(l);
}

/* Not from here: its callers still hold it. */
static void
link_break(kars__link_t *l)
{
    if (!l->broken) {
        l->broken = 1;
        kars__io_want(&l->io, 0);
        kars__work_queue(l->mesh->loop, &l->end, KARS__POST);
    }
}

/* A stranger that knocks on and on is not worth a line each time. */
static void
mesh_say_stranger(kars__mesh_t *m, const char *who)
{
    uint64_t now = kars__loop_now(m->loop);

    if (m->said_ms == 0 || now - m->said_ms >= MESH_SAY_MS) {
        m->said_ms = now;
        kars__log(KARS_LOG_WARN, "mesh: hung up on %s", who);
    }
}

/* OK; AGAIN: no room now; ERROR: it is over. */
static int
link_write(kars__link_t *l, kars_str_t head, kars_str_t body)
{
    struct iovec iov[] = { { (void *) (uintptr_t) head.data, head.len },
                           { (void *) (uintptr_t) body.data, body.len } };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    ssize_t n;

    do {
        n = sendmsg(l->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n == -1 && errno == EINTR);
    if (n >= 0) {
        return KARS_OK;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS
               ? KARS_AGAIN
               : KARS_ERROR;
}

static int
link_queue(kars__link_t *l, kars_str_t head, kars_str_t body)
{
    size_t len = head.len + body.len;
    mesh_frame_t *f = len <= KARS__MESH_QUEUE - l->queued
                          ? kars__alloc(sizeof(*f) + len)
                          : NULL;

    if (f == NULL) {
        return KARS_ERROR;
    }
    f->len = len;
    memcpy(f->bytes, head.data, head.len);
    if (body.len != 0) {
        memcpy(f->bytes + head.len, body.data, body.len);
    }
    *l->last = f;
    l->last = &f->next;
    l->queued += len;
    kars__io_want(&l->io, KARS__READ | KARS__WRITE);
    return KARS_OK;
}

int
kars__link_send(kars__link_t *l, kars_str_t head, kars_str_t body)
{
    if (l->broken || head.len + body.len > KARS__MESH_MESSAGE) {
        return KARS_ERROR;
    }

    int rc = l->first == NULL ? link_write(l, head, body) : KARS_AGAIN;

    if (rc == KARS_ERROR) {
        link_break(l);
    }
    return rc == KARS_AGAIN ? link_queue(l, head, body) : rc;
}

static void
link_flush(kars__link_t *l)
{
    while (l->first != NULL) {
        mesh_frame_t *f = l->first;
        int rc = link_write(l, (kars_str_t){ f->bytes, f->len },
                            (kars_str_t){ NULL, 0 });

        if (rc == KARS_ERROR) {
            link_break(l);
        }
        if (rc != KARS_OK) {
            return;
        }
        l->first = f->next;
        if (l->first == NULL) {
            l->last = &l->first;
        }
        l->queued -= f->len;
        kars__free(f);
    }
    kars__io_want(&l->io, KARS__READ);
}

/* The first message of one who connected: is it one of us? */
static int
link_hello(kars__link_t *l, kars_str_t bytes)
{
    char name[MESH_NAME];
    unsigned char cookie[MESH_COOKIE];
    mesh_hello_t hello;

    if (bytes.len != sizeof(hello)) {
        return KARS_ERROR;
    }
    memcpy(&hello, bytes.data, sizeof(hello));
    (void) mesh_find(l->mesh, 0, name, cookie);
    if (hello.magic != MESH_MAGIC || hello.version != MESH_VERSION ||
        hello.worker == 0 ||
        sodium_memcmp(hello.cookie, cookie, sizeof(cookie)) != 0) {
        return KARS_ERROR;
    }
    l->worker = hello.worker;
    return KARS_OK;
}

static void
link_message(kars__link_t *l, kars_str_t bytes)
{
    kars__mesh_t *m = l->mesh;

    if (l->worker != 0) {
        m->handler->message(l, bytes, m->data);
    } else if (link_hello(l, bytes) != KARS_OK) {
        mesh_say_stranger(m, "one that is no worker");
        link_break(l);
    }
}

static void
link_read(kars__link_t *l)
{
    kars__mesh_t *m = l->mesh;

    for (int i = 0; i < MESH_READS && !l->broken; i++) {
        ssize_t n = recv(l->fd, m->buf, sizeof(m->buf), MSG_DONTWAIT);

        if (n == -1 && errno == EINTR) {
            continue;
        }
        if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        }
        if (n <= 0 || (size_t) n > KARS__MESH_MESSAGE) {
            link_break(l);
            return;
        }
        link_message(l, (kars_str_t){ m->buf, (size_t) n });
    }
}

static void
link_ready(kars__io_t *io, uint32_t events)
{
    kars__link_t *l =
        (kars__link_t *) ((char *) io - offsetof(kars__link_t, io));

    if (events & KARS__WRITE) {
        link_flush(l);
    }
    if (events & KARS__READ) {
        link_read(l);
    }
}

/* Does the other end run as our user? */
static int
mesh_is_ours(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
           cred.uid == geteuid();
}

/* Takes fd. */
static kars__link_t *
link_make(kars__mesh_t *m, int fd, uint64_t worker)
{
    kars__link_t *l = mesh_is_ours(fd) ? kars__alloc(sizeof(*l)) : NULL;
    int size = 2 * (int) KARS__MESH_MESSAGE;

    if (l == NULL) {
        (void) close(fd);
        return NULL;
    }
    (void) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    l->mesh = m;
    l->worker = worker;
    l->inbound = worker == 0;
    l->fd = fd;
    l->last = &l->first;
    l->end.fn = link_ends;
    l->next = m->links;
    m->links = l;
    m->ninbound += l->inbound;
    kars__io_init(&l->io, m->loop, fd, link_ready);
    kars__io_want(&l->io, KARS__READ);
    return l;
}

static kars__link_t *
mesh_connect(kars__mesh_t *m, uint64_t worker)
{
    mesh_hello_t hello = { .magic = MESH_MAGIC,
                           .version = MESH_VERSION,
                           .worker = m->worker };
    char name[MESH_NAME];
    struct sockaddr_un addr;

    if (mesh_find(m, worker, name, hello.cookie) != KARS_OK) {
        return NULL;
    }

    socklen_t len = mesh_addr(name, &addr);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd == -1 || connect(fd, (struct sockaddr *) &addr, len) == -1) {
        if (fd != -1) {
            (void) close(fd);
        }
        return NULL;
    }

    kars__link_t *l = link_make(m, fd, worker);

    if (l != NULL) {
        (void) kars__link_send(
            l, (kars_str_t){ (const char *) &hello, sizeof(hello) },
            (kars_str_t){ NULL, 0 });
    }
    return l;
}

kars__link_t *
kars__mesh_link(kars__mesh_t *m, uint64_t worker)
{
    for (kars__link_t *l = m->links; l != NULL; l = l->next) {
        if (l->worker == worker && !l->inbound && !l->broken) {
            return l;
        }
    }
    return mesh_connect(m, worker);
}

static void
mesh_accept(kars__io_t *io, uint32_t events)
{
    kars__mesh_t *m =
        (kars__mesh_t *) ((char *) io - offsetof(kars__mesh_t, io));

    for (int i = 0; i < MESH_READS; i++) {
        int fd = accept4(m->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd == -1) {
            return;
        }
        if (m->ninbound >= KARS__MESH_LINKS) {
            (void) close(fd);
        } else if (link_make(m, fd, 0) == NULL) {
            mesh_say_stranger(m, "another user");
        }
    }
}

int
kars__mesh_listen(kars__mesh_t *m, kars_err_t *err)
{
    unsigned char random[MESH_NAME / 2 - 4];
    char name[MESH_NAME] = "kars-";
    struct sockaddr_un addr;

    if (m->fd != -1) {
        return KARS_OK;
    }
    randombytes_buf(random, sizeof(random));
    kars__to_hex(random, sizeof(random), name + 5);

    socklen_t len = mesh_addr(name, &addr);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd == -1 || bind(fd, (struct sockaddr *) &addr, len) == -1 ||
        listen(fd, MESH_BACKLOG) == -1) {
        (void) kars__err(err, errno, "a socket for other workers");
        if (fd != -1) {
            (void) close(fd);
        }
        return KARS_ERROR;
    }
    if (mesh_announce(m, name) != KARS_OK) {
        (void) close(fd);
        return kars__err(err, 0, "a socket for other workers: no row is free");
    }
    m->fd = fd;
    kars__io_init(&m->io, m->loop, fd, mesh_accept);
    kars__io_want(&m->io, KARS__READ);
    return KARS_OK;
}

kars__mesh_t *
kars__mesh_create(kars__loop_t *loop, kars_zone_t *zone, uint64_t worker,
                  const kars__mesh_handler_t *handler, void *data,
                  kars_err_t *err)
{
    kars__mesh_t *m = kars__alloc(sizeof(*m));

    if (m == NULL || sodium_init() < 0) {
        (void) kars__err(err, ENOMEM, "links to other workers");
        kars__free(m);
        return NULL;
    }
    m->loop = loop;
    m->zone = zone;
    m->worker = worker;
    m->handler = handler;
    m->data = data;
    m->fd = -1;
    m->area = kars__zone_area(zone, KARS_STR("kars.mesh"), sizeof(mesh_zone_t),
                              MESH_VERSION, err);
    if (m->area == NULL) {
        kars__free(m);
        return NULL;
    }
    return m;
}

void
kars__mesh_destroy(kars__mesh_t *m)
{
    if (m == NULL) {
        return;
    }
    while (m->links != NULL) {
        link_close(m->links);
    }
    if (m->fd != -1) {
        kars__io_want(&m->io, 0);
        (void) close(m->fd);
    }
    kars__free(m);
}
