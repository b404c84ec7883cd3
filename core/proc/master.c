/*
 * master.c - supervision. A load is one reading of the configuration and the
 * workers that serve it. Its first worker is also the checker: it says how many
 * there shall be, and only when it is READY the others of that load start; only
 * when all are READY the workers of the load before drain. A configuration that
 * does not load changes nothing.
 *
 * The master blocks in poll(2) on a signalfd and on the workers' channels; it
 * parses no configuration and loads no module (proc/plan.h).
 */
#include "proc/master.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/shm.h"
#include "base/str.h"
#include "proc/listeners.h"
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

#define MASTER_WORKERS    (2 * KARS__ZONE_WORKERS) /* those that drain too */
#define MASTER_STOP_MS    5000                     /* TERM to KILL */
#define MASTER_RESPAWN_MS 1000                     /* at most one a second */

enum { WORKER_FREE = 0, WORKER_STARTING, WORKER_READY, WORKER_DRAINING };

typedef struct {
    pid_t pid;
    int channel;
    uint64_t id; /* in the zone */
    uint32_t state;
    uint32_t load;
    uint32_t slot; /* 0 to nslots - 1 of its load */
} master_worker_t;

typedef struct {
    const char *conf_path;
    int signals;
    uint32_t loads;     /* begun so far */
    uint32_t load;      /* the one that serves; 0: none yet */
    uint32_t starting;  /* the one that is being started; 0: none */
    uint32_t nslots;    /* of the load that serves */
    uint32_t new_slots; /* of the one that is being started */
    uint32_t stopping;  /* SIGQUIT or SIGTERM, once asked for */
    uint64_t kill_at_ms;
    uint64_t respawn_at_ms; /* 0: no */
    uint32_t reload;        /* HUP came while one was starting */
    int zone_fd;
    uint64_t zone_size;
    kars_zone_t *zone;
    int exit_code;
    char pid_path[512];
    char new_pid_path[512];
    master_worker_t workers[MASTER_WORKERS];
    kars__listeners_t listeners;
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
    kars__listeners_close(&m->listeners, 0); /* ours, not the master's */
    if (m->zone_fd != -1) {
        (void) close(m->zone_fd);
        kars__zone_unmap(m->zone);
    }

    int code = kars__worker_run(m->conf_path, channel);

    kars__free(m);
    exit(code);
}

static int
master_spawn(master_t *m, uint32_t load, uint32_t slot)
{
    int pair[2];
    master_worker_t *w = NULL;

    for (size_t i = 0; i < MASTER_WORKERS && w == NULL; i++) {
        if (m->workers[i].state == WORKER_FREE) {
            w = &m->workers[i];
        }
    }
    if (w == NULL) {
        kars__log(KARS_LOG_ERR, "master: %u workers drain already, no more",
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
    w->load = load;
    w->slot = slot;
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

/* Begins a load: its first worker says what the others need to know. */
static int
master_begin(master_t *m)
{
    m->starting = ++m->loads;
    m->new_slots = 1;
    m->new_pid_path[0] = '\0';
    if (master_spawn(m, m->starting, 0) != KARS_OK) {
        m->starting = 0;
        return KARS_ERROR;
    }
    return KARS_OK;
}

static void
master_reload(master_t *m)
{
    if (m->stopping != 0) {
        return;
    }
    if (m->starting != 0) {
        m->reload = 1; /* after the one that is starting */
        return;
    }
    m->reload = 0;
    (void) master_begin(m);
}

/* What a worker asks for. */

static uint32_t
master_slots(const master_t *m, const master_worker_t *w)
{
    return w->load == m->starting ? m->new_slots : m->nslots;
}

static int
master_listener(master_t *m, master_worker_t *w, kars__ask_t *ask)
{
    kars_err_t err = KARS_ERR_INIT;
    int more = 0;
    int fd = kars__listeners_get(
        &m->listeners, ask->text, w->slot, master_slots(m, w),
        (uint32_t) (ask->number >> 16), (uint32_t) (ask->number & 0xffff),
        w->load, &more, &err);

    if (fd == -1) {
        ask->error = EADDRNOTAVAIL;
        memcpy(ask->text, err.text, sizeof(err.text));
    }
    ask->number = (uint64_t) more;
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

static int
master_count_ready(const master_t *m, uint32_t load)
{
    int n = 0;

    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        n += m->workers[i].state == WORKER_READY && m->workers[i].load == load;
    }
    return n;
}

/* The whole load serves: those before it drain, what nobody wants is closed. */
static void
master_serves(master_t *m)
{
    m->load = m->starting;
    m->starting = 0;
    m->nslots = m->new_slots;
    master_write_pid(m, m->new_pid_path);
    kars__listeners_keep(&m->listeners, m->load);
    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        master_worker_t *o = &m->workers[i];

        if (o->load != m->load && o->state == WORKER_READY) {
            o->state = WORKER_DRAINING;
            (void) kill(o->pid, SIGQUIT);
        }
    }
    kars__log(KARS_LOG_NOTICE, "master: serving workers=%u", m->nslots);
    if (m->reload) {
        master_reload(m);
    }
}

/* A load that does not come to stand is taken back as a whole. */
static void
master_abandon(master_t *m)
{
    uint32_t load = m->starting;

    m->starting = 0;
    for (size_t i = 0; i < MASTER_WORKERS; i++) {
        master_worker_t *w = &m->workers[i];

        if (w->state != WORKER_FREE && w->load == load) {
            w->state = WORKER_DRAINING;
            (void) kill(w->pid, SIGTERM);
        }
    }
    kars__listeners_drop(&m->listeners, load);
    if (m->load == 0) {
        m->exit_code = 1;
        m->stopping = SIGTERM;
        return;
    }
    kars__log(KARS_LOG_ERR, "master: the new configuration does not load; the "
                            "running one stays");
    if (m->reload) {
        master_reload(m);
    }
}

static void
master_ready(master_t *m, master_worker_t *w)
{
    w->state = WORKER_READY;
    if (w->load != m->starting) {
        return; /* it took the place of one that died */
    }
    for (uint32_t slot = 1; w->slot == 0 && slot < m->new_slots; slot++) {
        if (master_spawn(m, w->load, slot) != KARS_OK) {
            master_abandon(m);
            return;
        }
    }
    if (master_count_ready(m, w->load) == (int) m->new_slots) {
        master_serves(m);
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
        if (w->load == m->starting) {
            memcpy(m->new_pid_path, ask->text, sizeof(m->new_pid_path));
        }
        break;
    case KARS__ASK_WORKERS:
        if (w->load == m->starting && w->slot == 0) {
            m->new_slots = (uint32_t) ask->number;
        }
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
    if (m->starting != 0 && w->load == m->starting) {
        master_abandon(m);
    } else if (w->load == m->load && state != WORKER_DRAINING) {
        kars__log(KARS_LOG_ERR, "master: worker=%d ended, starting another",
                  (int) w->pid);
        m->respawn_at_ms =
            master_now() + (state == WORKER_STARTING ? MASTER_RESPAWN_MS : 0);
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
    kars__listeners_close(&m->listeners, 1);
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

/* Workers for the slots whose worker died. */
static void
master_refill(master_t *m)
{
    for (uint32_t slot = 0; slot < m->nslots; slot++) {
        size_t i = 0;

        while (i < MASTER_WORKERS &&
               (m->workers[i].state == WORKER_FREE ||
                m->workers[i].state == WORKER_DRAINING ||
                m->workers[i].load != m->load || m->workers[i].slot != slot)) {
            i++;
        }
        if (i == MASTER_WORKERS && master_spawn(m, m->load, slot) != KARS_OK) {
            m->respawn_at_ms = master_now() + MASTER_RESPAWN_MS;
        }
    }
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
        master_refill(m);
    }
}

static void
master_loop(master_t *m)
{
    while (m->stopping == 0 ||
           master_count(m, WORKER_FREE) < (int) MASTER_WORKERS) {
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
    kars__listeners_close(&m->listeners, 1);
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
    m->zone_fd = -1;
    m->signals = master_signals();
    if (m->signals == -1 || master_begin(m) != KARS_OK) {
        kars__free(m);
        return 1;
    }
    master_loop(m);
    master_end(m);

    int code = m->exit_code;

    kars__free(m);
    return code;
}
