/*
 * master.c - supervision. A load is one reading of the configuration and the
 * workers that serve it. Its first worker is also the checker: it says how many
 * there shall be, and only when it is READY the others of that load start; only
 * when all are READY they are told to serve, and the workers of the load before
 * drain. A configuration that does not load changes nothing: its sockets did
 * not listen yet, its workers had no connection.
 *
 * The master blocks in poll(2) on a signalfd and on the workers' channels; it
 * parses no configuration and loads no module (proc/plan.h).
 */
#include "proc/master.h"
#include "base/pool.h"
#include "base/str.h"
#include "proc/master_state.h"
#include "proc/notify.h"
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

#define MASTER_STOP_MS    5000 /* TERM to KILL */
#define MASTER_RESPAWN_MS 1000 /* at most one a second */

uint64_t
kars__master_now(void)
{
    struct timespec ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}

static void
master_close(int *fd)
{
    if (*fd != -1) {
        (void) close(*fd);
        *fd = -1;
    }
}

/* Workers. */

static void
master_child(kars__master_t *m, int channel)
{
    sigset_t none;

    (void) sigemptyset(&none);
    (void) close(m->signals);
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        if (m->keep.workers[i].state != KARS__WORKER_FREE) {
            (void) close(m->keep.workers[i].channel);
        }
    }
    kars__listeners_close(&m->keep.listeners, 0); /* ours, not the master's */
    kars__known_keep(&m->known, 0);
    if (m->keep.zone_fd != -1) {
        (void) close(m->keep.zone_fd);
        kars__zone_unmap(m->zone);
    }
    master_close(&m->keep.image_fd);
    master_close(&m->new_image_fd);

    int code = kars__worker_run(m->conf_path, channel);

    kars__free(m);
    exit(code);
}

static int
master_spawn(kars__master_t *m, uint32_t load, uint32_t slot)
{
    int pair[2];
    kars__master_worker_t *w = NULL;

    for (size_t i = 0; i < KARS__MASTER_WORKERS && w == NULL; i++) {
        if (m->keep.workers[i].state == KARS__WORKER_FREE) {
            w = &m->keep.workers[i];
        }
    }
    if (w == NULL) {
        kars__log(KARS_LOG_ERR, "master: %u workers drain already, no more",
                  KARS__MASTER_WORKERS);
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
    (void) fcntl(pair[0], F_SETFL, O_NONBLOCK); /* no worker holds us up */
    memset(w, 0, sizeof(*w));
    w->pid = pid;
    w->channel = pair[0];
    w->state = KARS__WORKER_STARTING;
    w->load = load;
    w->slot = slot;
    return KARS_OK;
}

static int
master_count(const kars__master_t *m, uint32_t state)
{
    int n = 0;

    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        n += m->keep.workers[i].state == state;
    }
    return n;
}

/* Begins a load: its first worker says what the others need to know. */
static int
master_begin(kars__master_t *m)
{
    m->starting = ++m->keep.loads;
    m->new_slots = 1;
    m->new_pid_path[0] = '\0';
    master_close(&m->new_image_fd);
    if (master_spawn(m, m->starting, 0) != KARS_OK) {
        m->starting = 0;
        return KARS_ERROR;
    }
    return KARS_OK;
}

static void
master_reload(kars__master_t *m)
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

/* Loads. */

static void
master_write_pid(kars__master_t *m, const char *path)
{
    char text[24];
    int n = snprintf(text, sizeof(text), "%d\n", (int) getpid());
    int fd;

    if (path[0] == '\0') {
        return;
    }
    if (m->keep.pid_path[0] != '\0' && strcmp(m->keep.pid_path, path) != 0) {
        (void) unlink(m->keep.pid_path);
    }
    memcpy(m->keep.pid_path, path, sizeof(m->keep.pid_path));
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
master_count_ready(const kars__master_t *m, uint32_t load)
{
    int n = 0;

    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        n += m->keep.workers[i].state == KARS__WORKER_READY &&
             m->keep.workers[i].load == load;
    }
    return n;
}

/* For a worker without connections. One that is starting waits for answers,
 * with its signals blocked. */
static void
master_cut(kars__master_worker_t *w)
{
    (void) kill(w->pid, w->state == KARS__WORKER_STARTING ? SIGKILL : SIGTERM);
    w->state = KARS__WORKER_DRAINING;
}

/* A load that does not come to stand is taken back as a whole. */
static void
master_abandon(kars__master_t *m)
{
    uint32_t load = m->starting;

    m->starting = 0;
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        kars__master_worker_t *w = &m->keep.workers[i];

        if (w->state != KARS__WORKER_FREE && w->load == load) {
            master_cut(w);
        }
    }
    master_close(&m->new_image_fd);
    kars__listeners_drop(&m->keep.listeners, load);
    kars__known_drop(&m->known, load);
    if (m->keep.load == 0) {
        m->exit_code = 1;
        m->stopping = SIGTERM;
        return;
    }
    kars__log(KARS_LOG_ERR, "master: the new configuration does not load; the "
                            "running one stays");
    kars__notify("READY=1\nSTATUS=the last reload was refused, see the log");
    if (m->reload) {
        master_reload(m);
    }
}

static void
master_tell(const kars__master_worker_t *w, uint32_t what)
{
    kars__ask_t m = { .kind = what };

    (void) kars__ask_send(w->channel, &m,
                          -1); /* a worker that died is reaped */
}

/* The whole load serves: those before it drain, what nobody wants is closed. */
static void
master_serves(kars__master_t *m)
{
    kars_err_t err = KARS_ERR_INIT;

    if (kars__listeners_on(&m->keep.listeners, m->starting, &err) != KARS_OK) {
        kars__log(KARS_LOG_ERR, "master: %s", err.text);
        master_abandon(m);
        return;
    }
    m->keep.load = m->starting;
    m->starting = 0;
    m->keep.nslots = m->new_slots;
    master_close(&m->keep.image_fd);
    m->keep.image_fd = m->new_image_fd;
    m->new_image_fd = -1;
    master_write_pid(m, m->new_pid_path);
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        kars__master_worker_t *w = &m->keep.workers[i];

        if (w->state == KARS__WORKER_READY && w->load == m->keep.load) {
            master_tell(w, KARS__TELL_SERVE);
        }
    }
    kars__listeners_keep(&m->keep.listeners, m->keep.load);
    kars__known_keep(&m->known, m->keep.load);
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        kars__master_worker_t *o = &m->keep.workers[i];

        if (o->load != m->keep.load && o->state == KARS__WORKER_READY) {
            o->state = KARS__WORKER_DRAINING;
            (void) kill(o->pid, SIGQUIT);
        }
    }
    kars__log(KARS_LOG_NOTICE, "master: serving workers=%u", m->keep.nslots);
    kars__notify("READY=1\nSTATUS=serving");
    if (m->reload) {
        master_reload(m);
    }
}

static void
master_ready(kars__master_t *m, kars__master_worker_t *w)
{
    w->state = KARS__WORKER_READY;
    w->listens = 1;
    if (w->relog) {
        w->relog = 0;
        kars__logbook_send(&m->keep.logbook, w->channel);
    }
    if (m->stopping != 0) {
        return;
    }
    if (w->load != m->starting) {
        master_tell(w, KARS__TELL_SERVE); /* in the place of one that died */
        return;
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
master_channel(kars__master_t *m, kars__master_worker_t *w)
{
    kars__ask_t ask;
    int fd;
    int rc = kars__ask_recv(w->channel, &ask, &fd);

    if (rc == KARS_OK && w->state == KARS__WORKER_STARTING) {
        if (ask.kind == KARS__ASK_READY) {
            master_ready(m, w);
        } else if (w->sealed) {
            kars__master_answer_sealed(m, w, &ask);
        } else {
            kars__master_answer(m, w, &ask, fd);
        }
    } else if (rc == KARS_OK) {
        kars__master_answer_sealed(m, w, &ask);
    }
    w->deaf = rc == KARS_DONE || rc == KARS_ERROR;
    if (fd != -1) {
        (void) close(fd);
    }
}

/* Ends. */

static void
master_gone(kars__master_t *m, kars__master_worker_t *w, int status)
{
    uint32_t state = w->state;

    if (m->zone != NULL && w->id != 0) {
        kars__zone_worker_gone(m->zone, w->id);
    }
    (void) close(w->channel);
    w->state = KARS__WORKER_FREE;
    w->channel = -1;

    int cut = state == KARS__WORKER_DRAINING && WIFSIGNALED(status) &&
              WTERMSIG(status) == SIGKILL; /* by us */

    if (WIFSIGNALED(status) && m->stopping == 0 && !cut) {
        kars__log(KARS_LOG_ERR, "master: worker=%d died signal=%d",
                  (int) w->pid, WTERMSIG(status));
    }
    if (m->stopping != 0) {
        return;
    }
    if (m->starting != 0 && w->load == m->starting) {
        master_abandon(m);
    } else if (w->load == m->keep.load && state != KARS__WORKER_DRAINING) {
        kars__log(KARS_LOG_ERR, "master: worker=%d ended, starting another",
                  (int) w->pid);
        m->respawn_at_ms =
            kars__master_now() +
            (state == KARS__WORKER_STARTING ? MASTER_RESPAWN_MS : 0);
    }
}

static void
master_reap(kars__master_t *m)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (kars__upgrade_child(m, pid, status)) {
            continue;
        }
        for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
            kars__master_worker_t *w = &m->keep.workers[i];

            if (w->state != KARS__WORKER_FREE && w->pid == pid) {
                if (w->state == KARS__WORKER_STARTING) {
                    master_channel(m, w); /* READY may still be in there */
                }
                master_gone(m, w, status);
            }
        }
    }
}

static void
master_signal_all(kars__master_t *m, int signum)
{
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        if (m->keep.workers[i].state != KARS__WORKER_FREE) {
            (void) kill(m->keep.workers[i].pid, signum);
        }
    }
}

/* No load comes after theirs. */
static void
master_tell_end(kars__master_t *m)
{
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        kars__master_worker_t *w = &m->keep.workers[i];

        if (w->state == KARS__WORKER_STARTING) {
            master_cut(w);
        } else if (w->state != KARS__WORKER_FREE) {
            master_tell(w, KARS__TELL_END);
        }
    }
}

static void
master_stop(kars__master_t *m, int signum)
{
    kars__log(KARS_LOG_NOTICE, "master: %s",
              signum == SIGQUIT ? "draining" : "stopping");
    m->stopping = (uint32_t) signum;
    m->respawn_at_ms = 0;
    kars__notify("STOPPING=1");
    kars__listeners_close(&m->keep.listeners, 1);
    if (signum == SIGQUIT) {
        master_tell_end(m);
    } else {
        master_signal_all(m, signum);
        m->kill_at_ms = kars__master_now() + MASTER_STOP_MS;
    }
}

/* Log files were moved away: everybody gets new ones, who drains too. A worker
 * that loads waits for answers and gets them when it is READY. */
static void
master_reopen(kars__master_t *m)
{
    uint32_t oldest = UINT32_MAX;

    kars__log(KARS_LOG_NOTICE, "master: opening the logs again");
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        const kars__master_worker_t *w = &m->keep.workers[i];

        if (w->state != KARS__WORKER_FREE && w->load < oldest) {
            oldest = w->load;
        }
    }
    kars__logbook_prune(&m->keep.logbook, oldest);
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        kars__master_worker_t *w = &m->keep.workers[i];

        if (w->state != KARS__WORKER_FREE && w->listens) {
            kars__logbook_send(&m->keep.logbook, w->channel);
        } else if (w->state != KARS__WORKER_FREE) {
            w->relog = 1;
        }
    }
}

static void
master_signal(kars__master_t *m)
{
    struct signalfd_siginfo info;

    while (read(m->signals, &info, sizeof(info)) == (ssize_t) sizeof(info)) {
        switch (info.ssi_signo) {
        case SIGCHLD:
            master_reap(m);
            break;
        case SIGHUP:
            kars__log(KARS_LOG_NOTICE, "master: loading the configuration");
            kars__notify_reloading();
            master_reload(m);
            break;
        case SIGUSR1:
            master_reopen(m);
            break;
        case SIGUSR2:
            kars__upgrade_want(m);
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
master_timeout(kars__master_t *m)
{
    uint64_t due[] = { m->kill_at_ms, m->respawn_at_ms,
                       kars__upgrade_due_ms(m) };
    uint64_t at = UINT64_MAX, now = kars__master_now();

    for (size_t i = 0; i < KARS_NELTS(due); i++) {
        at = due[i] != 0 && due[i] < at ? due[i] : at;
    }
    if (at == UINT64_MAX) {
        return -1;
    }
    return at > now ? (int) (at - now) : 0;
}

/* Workers for the slots whose worker died. */
static void
master_refill(kars__master_t *m)
{
    for (uint32_t slot = 0; slot < m->keep.nslots; slot++) {
        size_t i = 0;

        while (i < KARS__MASTER_WORKERS &&
               (m->keep.workers[i].state == KARS__WORKER_FREE ||
                m->keep.workers[i].state == KARS__WORKER_DRAINING ||
                m->keep.workers[i].load != m->keep.load ||
                m->keep.workers[i].slot != slot)) {
            i++;
        }
        if (i == KARS__MASTER_WORKERS &&
            master_spawn(m, m->keep.load, slot) != KARS_OK) {
            m->respawn_at_ms = kars__master_now() + MASTER_RESPAWN_MS;
        }
    }
}

static void
master_due(kars__master_t *m)
{
    uint64_t now = kars__master_now();

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
master_loop(kars__master_t *m)
{
    while (m->stopping == 0 ||
           master_count(m, KARS__WORKER_FREE) < (int) KARS__MASTER_WORKERS) {
        struct pollfd fds[KARS__MASTER_WORKERS + 1];
        kars__master_worker_t *of[KARS__MASTER_WORKERS + 1];
        nfds_t n = 0;

        fds[n++] = (struct pollfd){ .fd = m->signals, .events = POLLIN };
        for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
            /* After READY a worker asks for secrets only; its end is a
             * SIGCHLD. */
            if (m->keep.workers[i].state != KARS__WORKER_FREE &&
                !m->keep.workers[i].deaf) {
                of[n] = &m->keep.workers[i];
                fds[n++] = (struct pollfd){ .fd = m->keep.workers[i].channel,
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
        kars__upgrade_step(m);
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
    (void) sigaddset(&set, SIGUSR1);
    (void) sigaddset(&set, SIGUSR2);
    (void) sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void
master_end(kars__master_t *m)
{
    kars__listeners_close(&m->keep.listeners, 1);
    kars__known_keep(&m->known, 0);
    if (m->keep.pid_path[0] != '\0') {
        (void) unlink(m->keep.pid_path);
    }
    if (m->keep.zone_fd != -1) {
        kars__zone_unmap(m->zone);
        (void) close(m->keep.zone_fd);
    }
    (void) close(m->signals);
}

/* OK where another binary handed over its workers, DONE where none did. */
static int
master_take_over(kars__master_t *m, kars_err_t *err)
{
    int rc = kars__takeover_read(&m->keep, err);

    if (rc != KARS_OK) {
        return rc;
    }
    if (m->keep.zone_fd != -1) {
        kars_err_t why = KARS_ERR_INIT;

        m->zone = kars__zone_map(m->keep.zone_fd, &why);
        if (m->zone == NULL) {
            kars__log(KARS_LOG_WARN, "master: shared state starts anew: %s",
                      why.text);
            master_close(&m->keep.zone_fd);
        }
    }
    kars__log(KARS_LOG_NOTICE, "master: took over workers=%u", m->keep.nslots);
    master_reap(m); /* the signal of one that died meanwhile may be gone */
    return KARS_OK;
}

static int
master_begin_all(kars__master_t *m, char **argv, kars_err_t *err)
{
    int rc;

    if (kars__takeover_binary(argv[0], m->binary, sizeof(m->binary)) !=
        KARS_OK) {
        return kars__err(err, errno, "where is %s", argv[0]);
    }
    m->signals = master_signals();
    if (m->signals == -1) {
        return kars__err(err, errno, "signals");
    }
    rc = master_take_over(m, err);
    if (rc == KARS_ERROR ||
        (rc == KARS_DONE &&
         kars__listeners_inherit(&m->keep.listeners, err) != KARS_OK)) {
        return KARS_ERROR;
    }
    return master_begin(m);
}

int
kars__master_run(const char *conf_path, char **argv)
{
    kars__master_t *m = kars__alloc(sizeof(*m));
    kars_err_t err = KARS_ERR_INIT;

    if (m == NULL) {
        return 1;
    }
    m->conf_path = conf_path;
    m->argv = argv;
    m->keep.zone_fd = -1;
    m->keep.image_fd = -1;
    m->new_image_fd = -1;
    if (master_begin_all(m, argv, &err) != KARS_OK) {
        if (err.text[0] != '\0') {
            (void) fprintf(stderr, "kars-router: %s\n", err.text);
        }
        kars__free(m);
        return 1;
    }
    master_loop(m);
    master_end(m);

    int code = m->exit_code;

    kars__free(m);
    return code;
}

int
kars__master_takeover_check(void)
{
    kars_err_t err = KARS_ERR_INIT;
    kars__keep_t *keep = kars__alloc(sizeof(*keep));
    int rc = keep != NULL ? kars__takeover_read(keep, &err) : KARS_ERROR;

    kars__free(keep);
    if (rc != KARS_OK) {
        (void) fprintf(stderr, "kars-router: %s\n",
                       rc == KARS_DONE ? "nothing is handed over" : err.text);
    }
    return rc == KARS_OK ? 0 : 1;
}
