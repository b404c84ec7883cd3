/*
 * master_upgrade.c - USR2: the binary that now stands where ours was started
 * from takes over, if it says that it can. It begins with a load of its own, so
 * that a configuration or module that it does not like leaves the workers that
 * serve as they are.
 */
#include "base/str.h"
#include "proc/master_state.h"
#include "proc/notify.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define UPGRADE_CHECK_MS 10000 /* for the new binary to say that it can */

void
kars__upgrade_want(kars__master_t *m)
{
    if (m->stopping == 0 && m->upgrade == KARS__UPGRADE_NO) {
        kars__log(KARS_LOG_NOTICE, "master: upgrade to %s", m->binary);
        m->upgrade = KARS__UPGRADE_WANTED;
    }
}

static void
upgrade_off(kars__master_t *m, const char *why)
{
    kars__log(KARS_LOG_ERR, "master: no upgrade, this binary stays: %s", why);
    m->upgrade = KARS__UPGRADE_NO;
}

int
kars__upgrade_child(kars__master_t *m, pid_t pid, int status)
{
    if (m->checker == 0 || pid != m->checker) {
        return 0;
    }
    m->checker = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        m->upgrade = KARS__UPGRADE_READY;
    } else {
        upgrade_off(m, WIFSIGNALED(status)
                           ? "the new one died when asked for its version"
                           : "the new one cannot take over");
    }
    return 1;
}

/* Is no worker on its way? Those speak to this master only. */
static int
upgrade_quiet(const kars__master_t *m)
{
    if (m->starting != 0) {
        return 0;
    }
    for (size_t i = 0; i < KARS__MASTER_WORKERS; i++) {
        if (m->keep.workers[i].state == KARS__WORKER_STARTING) {
            return 0;
        }
    }
    return 1;
}

static void
upgrade_check(kars__master_t *m)
{
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__takeover_write(&m->keep, &err);
    pid_t pid = fd != -1 ? kars__takeover_check(m->binary, fd, &err) : -1;

    if (fd != -1) {
        (void) close(fd);
    }
    if (pid == -1) {
        upgrade_off(m, err.text);
        return;
    }
    m->checker = pid;
    m->check_until_ms = kars__master_now() + UPGRADE_CHECK_MS;
    m->upgrade = KARS__UPGRADE_CHECKING;
}

static void
upgrade_exec(kars__master_t *m)
{
    kars_err_t err = KARS_ERR_INIT;
    int fd = kars__takeover_write(&m->keep, &err);

    if (fd != -1) {
        kars__notify_reloading();
        kars__takeover_exec(m->binary, m->argv, &m->keep, fd, &err);
        kars__notify("READY=1");
        (void) close(fd);
    }
    upgrade_off(m, err.text);
}

void
kars__upgrade_step(kars__master_t *m)
{
    if (m->stopping != 0) {
        return;
    }
    if (m->upgrade == KARS__UPGRADE_CHECKING &&
        kars__master_now() >= m->check_until_ms) {
        (void) kill(m->checker, SIGKILL); /* reaped as one that failed */
        m->check_until_ms = UINT64_MAX;
    } else if (m->upgrade == KARS__UPGRADE_WANTED && upgrade_quiet(m)) {
        upgrade_check(m);
    } else if (m->upgrade == KARS__UPGRADE_READY && upgrade_quiet(m)) {
        upgrade_exec(m);
    }
}

uint64_t
kars__upgrade_due_ms(const kars__master_t *m)
{
    return m->upgrade == KARS__UPGRADE_CHECKING &&
                   m->check_until_ms != UINT64_MAX
               ? m->check_until_ms
               : 0;
}
