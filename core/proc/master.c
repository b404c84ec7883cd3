/*
 * master.c - supervision. One worker serves; HUP starts its successor, and
 * only when that is READY the old one drains. A configuration that does not
 * load changes nothing.
 *
 * The master blocks in poll(2) on a signalfd and on the workers' channels; it
 * parses no configuration and loads no module (proc/plan.h).
 */
#include "proc/master.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/shm.h"
#include "base/str.h"
#include "proc/plan.h"
#include "proc/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MASTER_WORKERS    16
#define MASTER_LISTENERS  64
#define MASTER_STOP_MS    5000 /* TERM to KILL */
#define MASTER_RESPAWN_MS 1000 /* at most one a second */

enum { WORKER_FREE = 0, WORKER_STARTING, WORKER_READY, WORKER_DRAINING };

typedef struct {
    pid_t pid;
    int channel;
    uint64_t id; /* in the zone */
    uint32_t state;
    uint32_t generation; /* of the load it belongs to */
    char pid_path[512];
} master_worker_t;

typedef struct {
    char address[256]; /* empty: free */
    int fd;
    uint32_t generation; /* the last load that wanted it */
} master_listener_t;

typedef struct {
    const char *conf_path;
    int signals;
    uint32_t generation;
    uint32_t stopping; /* SIGQUIT or SIGTERM, once asked for */
    uint32_t first;    /* nothing has served yet */
    uint64_t kill_at_ms;
    uint64_t respawn_at_ms; /* 0: no */
    uint32_t reload;        /* HUP came while one was starting */
    int zone_fd;
    uint64_t zone_size;
    kars_zone_t *zone;
    int exit_code;
    char pid_path[512];
    master_worker_t workers[MASTER_WORKERS];
    master_listener_t listeners[MASTER_LISTENERS];
} master_t;

static uint64_t
master_now(void)
{
    struct timespec ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}

/* Workers. */

static void
master_child(master_t *m, int channel)
{
    sigset_t none;

    (void) sigemptyset(&none);
    (void) close(m->signals);
    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        if (m->workers[i].state != WORKER_FREE) {
            (void) close(m->workers[i].channel);
        }
    }
    for (size_t i = 0; i < MASTER_LISTENERS; i++) {
        if (m->listeners[i].address[0] != '\0') {
            (void) close(m->listeners[i].fd);
        }
    }
    if (m->zone_fd != -1) {
        (void) close(m->zone_fd);
        kars__zone_unmap(m->zone);
    }

    int code = kars__worker_run(m->conf_path, channel);

    kars__free(m);
    exit(code);
}

static int
master_spawn(master_t *m)
{
    int pair[2];
    master_worker_t *w = NULL;

    for (size_t i = 0; i < MASTER_WORKERS && w == NULL; i++) {
        if (m->workers[i].state == WORKER_FREE) {
            w = &m->workers[i];
        }
    }
    if (w == NULL) {
        kars__log(KARS_LOG_ERR, "master: %d workers drain already, no more",
                  MASTER_WORKERS);
        return KARS_ERROR;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == -1) {
        kars__log(KARS_LOG_ERR, "master: socketpair: %s", strerror(errno));
        return KARS_ERROR;
    }

    pid_t pid = fork();

    if (pid == -1) {
        kars__log(KARS_LOG_ERR, "master: fork: %s", strerror(errno));
        (void) close(pair[0]);
        (void) close(pair[1]);
        return KARS_ERROR;
    }
    if (pid == 0) {
        (void) close(pair[0]);
        master_child(m, pair[1]);
    }
    (void) close(pair[1]);
    memset(w, 0, sizeof(*w));
    w->pid = pid;
    w->channel = pair[0];
    w->state = WORKER_STARTING;
    w->generation = ++m->generation;
    return KARS_OK;
}

static int
master_count(const master_t *m, uint32_t state)
{
    int n = 0;

    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        n += m->workers[i].state == state;
    }
    return n;
}

static void
master_reload(master_t *m)
{
    if (m->stopping != 0) {
        return;
    }
    if (master_count(m, WORKER_STARTING) > 0) {
        m->reload = 1; /* after the one that is starting */
        return;
    }
    m->reload = 0;
    (void) master_spawn(m);
}

/* What a worker asks for. */

static int
master_listener(master_t *m, master_worker_t *w, kars__ask_t *ask)
{
    master_listener_t *free_slot = NULL;
    kars_err_t err = KARS_ERR_INIT;

    for (size_t i = 0; i < MASTER_LISTENERS; i++) {
        master_listener_t *l = &m->listeners[i];

        if (strcmp(l->address, ask->text) == 0) {
            l->generation = w->generation;
            return l->fd;
        }
        if (l->address[0] == '\0' && free_slot == NULL) {
            free_slot = l;
        }
    }
    if (free_slot == NULL || strlen(ask->text) >= sizeof(free_slot->address)) {
        ask->error = ENOSPC;
        (void) snprintf(ask->text, sizeof(ask->text), "more than %d listeners",
                        MASTER_LISTENERS);
        return -1;
    }

    int fd = kars__open_listener(kars__strz(ask->text), (uint32_t) ask->number,
                                 &err);

    if (fd == -1) {
        ask->error = EADDRNOTAVAIL;
        memcpy(ask->text, err.text, sizeof(err.text));
        return -1;
    }
    memcpy(free_slot->address, ask->text, strlen(ask->text) + 1);
    free_slot->fd = fd;
    free_slot->generation = w->generation;
    return fd;
}

static int
master_zone(master_t *m, master_worker_t *w, kars__ask_t *ask)
{
    kars_err_t err = KARS_ERR_INIT;

    if (m->zone_fd != -1 && m->zone_size != ask->number) {
        kars__log(KARS_LOG_WARN,
                  "master: the zone keeps its %llu bytes until a restart",
                  (unsigned long long) m->zone_size);
    }
    if (m->zone_fd == -1) {
        m->zone_fd = kars__zone_make((size_t) ask->number, &err);
        m->zone = m->zone_fd != -1 ? kars__zone_map(m->zone_fd, &err) : NULL;
        m->zone_size = ask->number;
    }
    if (m->zone == NULL) {
        ask->error = ENOMEM;
        memcpy(ask->text, err.text, sizeof(err.text));
        return -1;
    }
    w->id = kars__zone_worker_new(m->zone);
    ask->number = w->id;
    return m->zone_fd;
}

static int
master_open(kars__ask_t *ask)
{
    char path[sizeof(ask->text)];
    int fd = ask->kind == KARS__ASK_LOG
                 ? kars__open_log(ask->text)
                 : open(ask->text, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd == -1) {
        ask->error = errno;
        memcpy(path, ask->text, sizeof(path));
        (void) snprintf(ask->text, sizeof(ask->text), "open \"%.300s\": %s",
                        path, strerror(ask->error));
    }
    return fd;
}

static void
master_write_pid(master_t *m, const char *path)
{
    char text[24];
    int n = snprintf(text, sizeof(text), "%d\n", (int) getpid());
    int fd;

    if (path[0] == '\0') {
        return;
    }
    if (m->pid_path[0] != '\0' && strcmp(m->pid_path, path) != 0) {
        (void) unlink(m->pid_path);
    }
    memcpy(m->pid_path, path, sizeof(m->pid_path));
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd == -1 || write(fd, text, (size_t) n) != n) {
        kars__log(KARS_LOG_ERR, "master: write pid \"%s\": %s", path,
                  strerror(errno));
    }
    if (fd != -1) {
        (void) close(fd);
    }
}

static void
master_close_listener(master_listener_t *l)
{
    kars__addr_t addr;

    (void) close(l->fd);
    if (kars__addr_unix(kars__strz(l->address), &addr) == KARS_OK) {
        (void) unlink(addr.u.un.sun_path);
    }
    l->address[0] = '\0';
}

/* The successor serves: the others drain, what nobody wants is closed. */
static void
master_ready(master_t *m, master_worker_t *w)
{
    w->state = WORKER_READY;
    m->first = 0;
    master_write_pid(m, w->pid_path);
    for (size_t i = 0; i < MASTER_LISTENERS; i++) {
        master_listener_t *l = &m->listeners[i];

        if (l->address[0] != '\0' && l->generation != w->generation) {
            master_close_listener(l);
        }
    }
    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        master_worker_t *o = &m->workers[i];

        if (o != w && o->state == WORKER_READY) {
            o->state = WORKER_DRAINING;
            (void) kill(o->pid, SIGQUIT);
        }
    }
    kars__log(KARS_LOG_NOTICE, "master: serving worker=%d", (int) w->pid);
    if (m->reload) {
        master_reload(m);
    }
}

static void
master_answer(master_t *m, master_worker_t *w, kars__ask_t *ask)
{
    int fd = -1;
    int ours = 0; /* the fd goes after it was passed */

    ask->error = 0;
    switch (ask->kind) {
    case KARS__ASK_LISTEN:
        fd = master_listener(m, w, ask);
        break;
    case KARS__ASK_ZONE:
        fd = master_zone(m, w, ask);
        break;
    case KARS__ASK_LOG:
    case KARS__ASK_SECRET:
        fd = master_open(ask);
        ours = 1;
        break;
    case KARS__ASK_PID:
        memcpy(w->pid_path, ask->text, sizeof(w->pid_path));
        break;
    case KARS__ASK_READY:
        master_ready(m, w);
        return;
    default:
        ask->error = EINVAL;
        break;
    }
    (void) kars__ask_send(w->channel, ask, fd);
    if (ours && fd != -1) {
        (void) close(fd);
    }
}

static void
master_channel(master_t *m, master_worker_t *w)
{
    kars__ask_t ask;
    int fd;
    int rc = kars__ask_recv(w->channel, &ask, &fd);

    if (fd != -1) {
        (void) close(fd);
    }
    if (rc == KARS_OK && w->state == WORKER_STARTING) {
        master_answer(m, w, &ask);
    }
}

/* Ends. */

static void
master_gone(master_t *m, master_worker_t *w, int status)
{
    uint32_t state = w->state;

    if (m->zone != NULL && w->id != 0) {
        kars__zone_worker_gone(m->zone, w->id);
    }
    (void) close(w->channel);
    w->state = WORKER_FREE;
    w->channel = -1;

    if (WIFSIGNALED(status) && m->stopping == 0) {
        kars__log(KARS_LOG_ERR, "master: worker=%d died signal=%d",
                  (int) w->pid, WTERMSIG(status));
    }
    if (m->stopping != 0) {
        return;
    }
    if (state == WORKER_STARTING) {
        if (m->first) {
            m->exit_code = 1;
            m->stopping = SIGTERM;
        } else if (master_count(m, WORKER_READY) > 0) {
            kars__log(KARS_LOG_ERR,
                      "master: the new configuration does not load; the "
                      "running one stays");
        } else {
            m->respawn_at_ms = master_now() + MASTER_RESPAWN_MS;
        }
        if (m->reload) {
            master_reload(m);
        }
    } else if (state == WORKER_READY) {
        kars__log(KARS_LOG_ERR, "master: worker=%d ended, starting another",
                  (int) w->pid);
        m->respawn_at_ms = master_now();
    }
}

static void
master_reap(master_t *m)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (size_t i = 0; i < MASTER_WORKERS; i++) {
            master_worker_t *w = &m->workers[i];

            if (w->state != WORKER_FREE && w->pid == pid) {
                if (w->state == WORKER_STARTING) {
                    master_channel(m, w); /* READY may still be in there */
                }
                master_gone(m, w, status);
            }
        }
    }
}

static void
master_signal_all(master_t *m, int signum)
{
    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        if (m->workers[i].state != WORKER_FREE) {
            (void) kill(m->workers[i].pid, signum);
        }
    }
}

/* No successor will take the idle connections: they are closed at once. */
static void
master_tell_last(master_t *m)
{
    kars__ask_t last = { 0 };

    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        if (m->workers[i].state != WORKER_FREE) {
            (void) kars__ask_send(m->workers[i].channel, &last, -1);
        }
    }
}

static void
master_stop(master_t *m, int signum)
{
    kars__log(KARS_LOG_NOTICE, "master: %s",
              signum == SIGQUIT ? "draining" : "stopping");
    m->stopping = (uint32_t) signum;
    m->respawn_at_ms = 0;
    for (size_t i = 0; i < MASTER_LISTENERS; i++) {
        if (m->listeners[i].address[0] != '\0') {
            master_close_listener(&m->listeners[i]);
        }
    }
    master_signal_all(m, signum);
    if (signum == SIGQUIT) {
        master_tell_last(m);
    } else {
        m->kill_at_ms = master_now() + MASTER_STOP_MS;
    }
}

static void
master_signal(master_t *m)
{
    struct signalfd_siginfo info;

    while (read(m->signals, &info, sizeof(info)) == (ssize_t) sizeof(info)) {
        switch (info.ssi_signo) {
        case SIGCHLD:
            master_reap(m);
            break;
        case SIGHUP:
            kars__log(KARS_LOG_NOTICE, "master: loading the configuration");
            master_reload(m);
            break;
        case SIGQUIT:
            if (m->stopping == 0) {
                master_stop(m, SIGQUIT);
            }
            break;
        default:
            if (m->stopping != SIGTERM) {
                master_stop(m, SIGTERM);
            }
            break;
        }
    }
}

static int
master_timeout(master_t *m)
{
    uint64_t at = m->kill_at_ms != 0 ? m->kill_at_ms : m->respawn_at_ms;
    uint64_t now = master_now();

    if (at == 0) {
        return -1;
    }
    return at > now ? (int) (at - now) : 0;
}

static void
master_due(master_t *m)
{
    uint64_t now = master_now();

    if (m->kill_at_ms != 0 && now >= m->kill_at_ms) {
        kars__log(KARS_LOG_WARN, "master: workers do not stop, killing them");
        master_signal_all(m, SIGKILL);
        m->kill_at_ms = now + MASTER_STOP_MS;
    }
    if (m->respawn_at_ms != 0 && now >= m->respawn_at_ms) {
        m->respawn_at_ms = 0;
        if (master_count(m, WORKER_STARTING) == 0 &&
            master_spawn(m) != KARS_OK) {
            m->respawn_at_ms = now + MASTER_RESPAWN_MS;
        }
    }
}

static void
master_loop(master_t *m)
{
    while (m->stopping == 0 || master_count(m, WORKER_FREE) < MASTER_WORKERS) {
        struct pollfd fds[MASTER_WORKERS + 1];
        master_worker_t *of[MASTER_WORKERS + 1];
        nfds_t n = 0;

        fds[n++] = (struct pollfd){ .fd = m->signals, .events = POLLIN };
        for (size_t i = 0; i < MASTER_WORKERS; i++) {
            /* After READY a worker says no more; its end is a SIGCHLD. */
            if (m->workers[i].state == WORKER_STARTING) {
                of[n] = &m->workers[i];
                fds[n++] = (struct pollfd){ .fd = m->workers[i].channel,
                                            .events = POLLIN };
            }
        }
        if (poll(fds, n, master_timeout(m)) == -1 && errno != EINTR) {
            kars__log(KARS_LOG_ERR, "master: poll: %s", strerror(errno));
            return;
        }
        for (nfds_t i = 1; i < n; i++) {
            if (fds[i].revents & POLLIN) {
                master_channel(m, of[i]);
            }
        }
        if (fds[0].revents & POLLIN) {
            master_signal(m);
        }
        master_due(m);
    }
}

static int
master_signals(void)
{
    sigset_t set;

    (void) signal(SIGPIPE, SIG_IGN);
    (void) signal(SIGXFSZ, SIG_IGN); /* a full file is an error of write(2) */
    (void) sigemptyset(&set);
    (void) sigaddset(&set, SIGCHLD);
    (void) sigaddset(&set, SIGHUP);
    (void) sigaddset(&set, SIGQUIT);
    (void) sigaddset(&set, SIGTERM);
    (void) sigaddset(&set, SIGINT);
    (void) sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void
master_end(master_t *m)
{
    for (size_t i = 0; i < MASTER_LISTENERS; i++) {
        if (m->listeners[i].address[0] != '\0') {
            master_close_listener(&m->listeners[i]);
        }
    }
    if (m->pid_path[0] != '\0') {
        (void) unlink(m->pid_path);
    }
    if (m->zone_fd != -1) {
        kars__zone_unmap(m->zone);
        (void) close(m->zone_fd);
    }
    (void) close(m->signals);
}

int
kars__master_run(const char *conf_path)
{
    master_t *m = kars__alloc(sizeof(*m));

    if (m == NULL) {
        return 1;
    }
    m->conf_path = conf_path;
    m->first = 1;
    m->zone_fd = -1;
    m->signals = master_signals();
    if (m->signals == -1 || master_spawn(m) != KARS_OK) {
        kars__free(m);
        return 1;
    }
    master_loop(m);
    master_end(m);

    int code = m->exit_code;

    kars__free(m);
    return code;
}
