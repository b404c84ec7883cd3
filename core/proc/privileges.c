/* privileges.c - see privileges.h. */
#include "proc/privileges.h"
#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A sanitizer's leak check looks at the process from outside. */
#ifdef __SANITIZE_ADDRESS__
#define PRIVILEGES_DUMPABLE 1
#else
#define PRIVILEGES_DUMPABLE 0
#endif

static int
privileges_become(kars_str_t user, kars_err_t *err)
{
    const struct passwd *pw = getpwnam(user.data);

    if (pw == NULL) {
        return kars__err(err, 0, "user: there is no account \"%s\"", user.data);
    }
    if (initgroups(pw->pw_name, pw->pw_gid) == -1 || setgid(pw->pw_gid) == -1 ||
        setuid(pw->pw_uid) == -1) {
        return kars__err(err, errno, "become user \"%s\"", user.data);
    }
    return KARS_OK;
}

/* The set that bounds what could come back: only who may change it can, and
 * with no new privileges nothing comes back anyway. */
static void
privileges_bound(void)
{
    for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0;
         cap++) {
        (void) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    }
    (void) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static int
privileges_no_capabilities(void)
{
    struct __user_cap_header_struct head = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

    return (int) syscall(SYS_capset, &head, none);
}

int
kars__privileges_drop(kars_str_t user, int debug, kars_err_t *err)
{
    struct rlimit none = { 0, 0 };

    privileges_bound();
    if (user.len != 0 && geteuid() == 0 &&
        privileges_become(user, err) != KARS_OK) {
        return KARS_ERROR;
    }
    if (geteuid() == 0) {
        kars__log(KARS_LOG_NOTICE, "worker: runs as root, without its "
                                   "capabilities: name an account with `user`");
    }
    if (privileges_no_capabilities() == -1 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1 ||
        setrlimit(RLIMIT_CORE, &none) == -1) {
        return kars__err(err, errno, "give up privileges");
    }
    if (!debug && prctl(PR_SET_DUMPABLE, PRIVILEGES_DUMPABLE, 0, 0, 0) == -1) {
        return kars__err(err, errno, "forbid core dumps");
    }
    return KARS_OK;
}
