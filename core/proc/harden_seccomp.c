/*
 * harden_seccomp.c - the system calls of a worker that serves.
 *
 * An allow-list. What is not on it fails with EPERM and is said once
 * (proc/crash.h); what a C library only tries, to do without, fails with
 * ENOSYS in silence; calls of another architecture end the process. Calls
 * without conditions cost nearly nothing: the kernel answers them from a
 * bitmap, not by running the filter.
 */
#include "proc/crash.h"
#include "proc/harden.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <netinet/in.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECCOMP_NAMESPACES                                         \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | \
     CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_VFORK)
#define SECCOMP_NETFILTER 64 /* first option of IP and IPv6 that is its own */
#define SECCOMP_SOL_TLS   282
#define SECCOMP_SET_VMA   0x53564d41 /* PR_SET_VMA: names of mappings */

/* clang-format off */

/* Whatever their arguments: they work on what is open, on own memory, on own
 * threads and signals, or are held by Landlock (openat). */
static const int seccomp_calls[] = {
    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),
    SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_create1), SCMP_SYS(eventfd2),
    SCMP_SYS(poll), SCMP_SYS(ppoll),
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev),
    SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev),
    SCMP_SYS(close), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
    SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(pipe2), SCMP_SYS(splice),
    SCMP_SYS(tee), SCMP_SYS(openat), SCMP_SYS(getdents64),
    SCMP_SYS(inotify_init1), SCMP_SYS(inotify_add_watch),
    SCMP_SYS(inotify_rm_watch),
    SCMP_SYS(accept4), SCMP_SYS(connect), SCMP_SYS(shutdown),
    SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(recvmmsg),
    SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt),
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
    SCMP_SYS(mlock), SCMP_SYS(mlock2), SCMP_SYS(munlock), SCMP_SYS(msync),
    SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
    SCMP_SYS(membarrier), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getppid),
    SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
    SCMP_SYS(getrusage), SCMP_SYS(sysinfo), SCMP_SYS(uname),
    SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres),
    SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

/* Where some path is written: Landlock says which. */
static const int seccomp_writes[] = {
    SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range),
    SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(flock),
    SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2),
    SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(mkdir), SCMP_SYS(mkdirat),
};

/* Newer forms that libraries try first. */
static const int seccomp_absent[] = {
    SCMP_SYS(clone3), SCMP_SYS(statx), SCMP_SYS(faccessat2),
    SCMP_SYS(openat2), SCMP_SYS(close_range),
};

/* One argument may have one of some values. */
typedef struct {
    int call;
    uint32_t arg;
    uint64_t value;
} seccomp_value_t;

static const seccomp_value_t seccomp_values[] = {
    { SCMP_SYS(fcntl), 1, F_DUPFD },       { SCMP_SYS(fcntl), 1, F_GETFD },
    { SCMP_SYS(fcntl), 1, F_SETFD },       { SCMP_SYS(fcntl), 1, F_GETFL },
    { SCMP_SYS(fcntl), 1, F_SETFL },       { SCMP_SYS(fcntl), 1, F_GETLK },
    { SCMP_SYS(fcntl), 1, F_SETLK },       { SCMP_SYS(fcntl), 1, F_SETLKW },
    { SCMP_SYS(fcntl), 1, F_OFD_GETLK },   { SCMP_SYS(fcntl), 1, F_OFD_SETLK },
    { SCMP_SYS(fcntl), 1, F_OFD_SETLKW },
    { SCMP_SYS(fcntl), 1, F_DUPFD_CLOEXEC },
    { SCMP_SYS(fcntl), 1, F_SETPIPE_SZ },  { SCMP_SYS(fcntl), 1, F_GETPIPE_SZ },
    { SCMP_SYS(fcntl), 1, F_ADD_SEALS },   { SCMP_SYS(fcntl), 1, F_GET_SEALS },
    { SCMP_SYS(ioctl), 1, FIONBIO },       { SCMP_SYS(ioctl), 1, FIONREAD },
    { SCMP_SYS(ioctl), 1, TCGETS },        /* isatty(3) */
    { SCMP_SYS(prctl), 0, PR_SET_NAME },   { SCMP_SYS(prctl), 0, PR_GET_NAME },
    { SCMP_SYS(prctl), 0, PR_GET_DUMPABLE },
    { SCMP_SYS(prctl), 0, SECCOMP_SET_VMA },
    { SCMP_SYS(prlimit64), 2, 0 },         /* asks only */
    { SCMP_SYS(setsockopt), 1, IPPROTO_TCP },
    { SCMP_SYS(setsockopt), 1, IPPROTO_UDP },
    { SCMP_SYS(setsockopt), 1, SECCOMP_SOL_TLS },
};

/* No module gets these, and lines about refusals know their names. */
static const struct { const char *name; int call; } seccomp_never[] = {
#define NEVER(name) { #name, SCMP_SYS(name) }
    NEVER(execve), NEVER(execveat), NEVER(fork), NEVER(vfork), NEVER(clone),
    NEVER(clone3), NEVER(ptrace), NEVER(process_vm_readv),
    NEVER(process_vm_writev), NEVER(process_madvise), NEVER(pidfd_open),
    NEVER(pidfd_getfd), NEVER(pidfd_send_signal), NEVER(kcmp), NEVER(kill),
    NEVER(tkill), NEVER(tgkill), NEVER(rt_sigqueueinfo),
    NEVER(rt_tgsigqueueinfo), NEVER(bpf), NEVER(perf_event_open),
    NEVER(userfaultfd), NEVER(io_uring_setup), NEVER(io_uring_enter),
    NEVER(io_uring_register), NEVER(keyctl), NEVER(add_key),
    NEVER(request_key), NEVER(mount), NEVER(umount2), NEVER(move_mount),
    NEVER(open_tree), NEVER(fsopen), NEVER(fsconfig), NEVER(fsmount),
    NEVER(fspick), NEVER(pivot_root), NEVER(chroot), NEVER(setns),
    NEVER(unshare), NEVER(init_module), NEVER(finit_module),
    NEVER(delete_module), NEVER(kexec_load), NEVER(kexec_file_load),
    NEVER(reboot), NEVER(swapon), NEVER(swapoff), NEVER(acct),
    NEVER(settimeofday), NEVER(clock_settime), NEVER(adjtimex),
    NEVER(clock_adjtime), NEVER(sethostname), NEVER(setdomainname),
    NEVER(iopl), NEVER(ioperm), NEVER(syslog), NEVER(personality),
    NEVER(capset), NEVER(setuid), NEVER(setgid), NEVER(setreuid),
    NEVER(setregid), NEVER(setresuid), NEVER(setresgid), NEVER(setgroups),
    NEVER(setfsuid), NEVER(setfsgid), NEVER(prctl), NEVER(seccomp),
    NEVER(open_by_handle_at), NEVER(name_to_handle_at), NEVER(modify_ldt),
    NEVER(quotactl), NEVER(fanotify_init), NEVER(lookup_dcookie),
    NEVER(mknod), NEVER(mknodat), NEVER(vmsplice),
#undef NEVER
};
/* Of others that may be refused, for lines about them. */
static const struct { const char *name; int call; } seccomp_known[] = {
#define KNOWN(name) { #name, SCMP_SYS(name) }
    KNOWN(mmap), KNOWN(mprotect), KNOWN(pkey_mprotect), KNOWN(socket),
    KNOWN(socketpair), KNOWN(bind), KNOWN(listen), KNOWN(accept),
    KNOWN(setsockopt), KNOWN(ioctl), KNOWN(fcntl), KNOWN(memfd_create),
    KNOWN(memfd_secret), KNOWN(open), KNOWN(creat), KNOWN(stat), KNOWN(lstat),
    KNOWN(access), KNOWN(faccessat), KNOWN(readlink), KNOWN(readlinkat),
    KNOWN(chdir), KNOWN(fchdir), KNOWN(chmod), KNOWN(fchmod), KNOWN(fchmodat),
    KNOWN(chown), KNOWN(fchown), KNOWN(fchownat), KNOWN(link), KNOWN(linkat),
    KNOWN(symlink), KNOWN(symlinkat), KNOWN(truncate), KNOWN(umask),
    KNOWN(mkdir), KNOWN(mkdirat), KNOWN(rmdir), KNOWN(unlink), KNOWN(unlinkat),
    KNOWN(rename), KNOWN(renameat), KNOWN(renameat2), KNOWN(fsync),
    KNOWN(fdatasync), KNOWN(ftruncate), KNOWN(fallocate), KNOWN(flock),
    KNOWN(sendfile), KNOWN(copy_file_range), KNOWN(statfs), KNOWN(fstatfs),
    KNOWN(timerfd_create), KNOWN(timerfd_settime), KNOWN(signalfd4),
    KNOWN(wait4), KNOWN(waitid), KNOWN(prlimit64), KNOWN(setrlimit),
    KNOWN(setpriority), KNOWN(sched_setaffinity), KNOWN(sched_setscheduler),
    KNOWN(shmget), KNOWN(shmat), KNOWN(select), KNOWN(pselect6),
#undef KNOWN
};
/* clang-format on */

const char *
kars__harden_call_name(int nr)
{
    for (size_t i = 0; i < KARS_NELTS(seccomp_never); i++) {
        if (seccomp_never[i].call == nr) {
            return seccomp_never[i].name;
        }
    }
    for (size_t i = 0; i < KARS_NELTS(seccomp_known); i++) {
        if (seccomp_known[i].call == nr) {
            return seccomp_known[i].name;
        }
    }
    return NULL;
}

int
kars__harden_call(const char *name)
{
    for (size_t i = 0; i < KARS_NELTS(seccomp_never); i++) {
        if (strcmp(seccomp_never[i].name, name) == 0) {
            return KARS__CALL_NEVER;
        }
    }

    int nr = seccomp_syscall_resolve_name(name);

    return nr == __NR_SCMP_ERROR ? KARS__CALL_UNKNOWN : nr;
}

/* The result of adding rules: the first error stays. */
typedef struct {
    scmp_filter_ctx ctx;
    int rc;
} seccomp_build_t;

static void
seccomp_add(seccomp_build_t *b, uint32_t action, int call, unsigned nargs,
            const struct scmp_arg_cmp *args)
{
    int rc = seccomp_rule_add_array(b->ctx, action, call, nargs, args);

    if (rc != 0 && rc != -EEXIST && b->rc == 0) {
        b->rc = rc;
    }
}

static void
seccomp_allow(seccomp_build_t *b, const int *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        seccomp_add(b, SCMP_ACT_ALLOW, calls[i], 0, NULL);
    }
}

static void
seccomp_allow_if(seccomp_build_t *b, int call, unsigned nargs,
                 const struct scmp_arg_cmp *args)
{
    seccomp_add(b, SCMP_ACT_ALLOW, call, nargs, args);
}

static int
seccomp_declared(const kars__harden_plan_t *plan, int call)
{
    for (const kars__harden_item_t *i = plan->calls; i != NULL; i = i->next) {
        if ((int) i->number == call) {
            return 1;
        }
    }
    return 0;
}

/* Memory is not made executable: what is to run is there already. */
static void
seccomp_memory(seccomp_build_t *b)
{
    static const int calls[] = { SCMP_SYS(mmap), SCMP_SYS(mprotect) };
    const struct scmp_arg_cmp no_exec =
        SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);

    for (size_t i = 0; i < KARS_NELTS(calls); i++) {
        seccomp_allow_if(b, calls[i], 1, &no_exec);
    }
}

/* Threads, no processes; a fork fails in silence, for it is refused while
 * signals are blocked. Signals go to oneself. */
static void
seccomp_process(seccomp_build_t *b)
{
    static const int signals[] = { SCMP_SYS(kill), SCMP_SYS(tgkill) };
    const struct scmp_arg_cmp thread = SCMP_A0(
        SCMP_CMP_MASKED_EQ, CLONE_THREAD | SECCOMP_NAMESPACES, CLONE_THREAD);
    const struct scmp_arg_cmp process =
        SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_UNTRACED, 0);
    const struct scmp_arg_cmp self = SCMP_A0(SCMP_CMP_EQ, (uint64_t) getpid());

    seccomp_allow_if(b, SCMP_SYS(clone), 1, &thread);
    seccomp_add(b, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1, &process);
    for (size_t i = 0; i < KARS_NELTS(signals); i++) {
        seccomp_allow_if(b, signals[i], 1, &self);
    }
}

static void
seccomp_socket(seccomp_build_t *b, uint64_t family, uint64_t type)
{
    const struct scmp_arg_cmp args[] = {
        SCMP_A0(SCMP_CMP_EQ, family),
        SCMP_A1(SCMP_CMP_MASKED_EQ,
                ~(uint64_t) (SOCK_NONBLOCK | SOCK_CLOEXEC) & 0xffffffffu, type),
    };

    seccomp_allow_if(b, SCMP_SYS(socket), 2, args);
}

static void
seccomp_sockets(seccomp_build_t *b, const kars__harden_plan_t *plan)
{
    const struct scmp_arg_cmp netlink[] = {
        SCMP_A0(SCMP_CMP_EQ, AF_NETLINK),
        SCMP_A2(SCMP_CMP_EQ, NETLINK_SOCK_DIAG),
    };
    const struct scmp_arg_cmp options[][2] = {
        { SCMP_A1(SCMP_CMP_EQ, SOL_SOCKET),
          SCMP_A2(SCMP_CMP_LT, SO_ATTACH_FILTER) },
        { SCMP_A1(SCMP_CMP_EQ, IPPROTO_IP),
          SCMP_A2(SCMP_CMP_LT, SECCOMP_NETFILTER) },
        { SCMP_A1(SCMP_CMP_EQ, IPPROTO_IPV6),
          SCMP_A2(SCMP_CMP_LT, SECCOMP_NETFILTER) },
    };

    seccomp_socket(b, AF_INET, SOCK_STREAM);
    seccomp_socket(b, AF_INET6, SOCK_STREAM);
    if (plan->udp) {
        seccomp_socket(b, AF_INET, SOCK_DGRAM);
        seccomp_socket(b, AF_INET6, SOCK_DGRAM);
    }
    if (plan->unix_sockets) {
        seccomp_socket(b, AF_UNIX, SOCK_STREAM);
    }
    if (plan->mesh) {
        seccomp_socket(b, AF_UNIX, SOCK_SEQPACKET);
    }
    if (plan->netlink) {
        seccomp_allow_if(b, SCMP_SYS(socket), 2, netlink);
    }
    for (size_t i = 0; i < KARS_NELTS(options); i++) {
        seccomp_allow_if(b, SCMP_SYS(setsockopt), 2, options[i]);
    }
}

#ifdef __SANITIZE_ADDRESS__
/* LeakSanitizer stops the process from a child that shares its memory, and
 * reads its registers; reports want a few more. */
static void
seccomp_sanitizer(seccomp_build_t *b)
{
    static const int calls[] = {
        SCMP_SYS(wait4), SCMP_SYS(readlink), SCMP_SYS(open),
        SCMP_SYS(stat),  SCMP_SYS(getdents), SCMP_SYS(sched_setaffinity)
    };
    static const uint64_t traces[] = { PTRACE_ATTACH, PTRACE_DETACH,
                                       PTRACE_CONT, PTRACE_KILL,
                                       PTRACE_GETREGSET };
    const struct scmp_arg_cmp tracer = SCMP_A0(
        SCMP_CMP_EQ, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED);
    static const uint64_t controls[] = { PR_SET_PTRACER, PR_SET_PDEATHSIG };

    seccomp_allow(b, calls, KARS_NELTS(calls));
    seccomp_allow_if(b, SCMP_SYS(clone), 1, &tracer);
    for (size_t i = 0; i < KARS_NELTS(controls); i++) {
        const struct scmp_arg_cmp arg = SCMP_A0(SCMP_CMP_EQ, controls[i]);

        seccomp_allow_if(b, SCMP_SYS(prctl), 1, &arg);
    }
    for (size_t i = 0; i < KARS_NELTS(traces); i++) {
        const struct scmp_arg_cmp arg = SCMP_A0(SCMP_CMP_EQ, traces[i]);

        seccomp_allow_if(b, SCMP_SYS(ptrace), 1, &arg);
    }
}
#endif

/* A call that a module declared is allowed without conditions; libseccomp lets
 * that stand above the rules with conditions. */
static void
seccomp_build(seccomp_build_t *b, const kars__harden_plan_t *plan)
{
    seccomp_allow(b, seccomp_calls, KARS_NELTS(seccomp_calls));
    if (plan->writes) {
        seccomp_allow(b, seccomp_writes, KARS_NELTS(seccomp_writes));
    }
    for (const kars__harden_item_t *i = plan->calls; i != NULL; i = i->next) {
        seccomp_add(b, SCMP_ACT_ALLOW, (int) i->number, 0, NULL);
    }
    for (size_t i = 0; i < KARS_NELTS(seccomp_absent); i++) {
        if (!seccomp_declared(plan, seccomp_absent[i])) {
            seccomp_add(b, SCMP_ACT_ERRNO(ENOSYS), seccomp_absent[i], 0, NULL);
        }
    }
    for (size_t i = 0; i < KARS_NELTS(seccomp_values); i++) {
        const seccomp_value_t *v = &seccomp_values[i];
        const struct scmp_arg_cmp arg = SCMP_CMP(v->arg, SCMP_CMP_EQ, v->value);

        seccomp_allow_if(b, v->call, 1, &arg);
    }
    seccomp_memory(b);
    seccomp_process(b);
    seccomp_sockets(b, plan);
#ifdef __SANITIZE_ADDRESS__
    seccomp_sanitizer(b);
#endif
}

static void
seccomp_attributes(seccomp_build_t *b)
{
    static const struct {
        enum scmp_filter_attr attr;
        uint32_t value;
    } attrs[] = {
        { SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS },
        { SCMP_FLTATR_CTL_NNP, 1 },
        { SCMP_FLTATR_CTL_OPTIMIZE, 2 }, /* a tree, not a list */
        { SCMP_FLTATR_API_SYSRAWRC, 1 },
    };

    for (size_t i = 0; i < KARS_NELTS(attrs) && b->rc == 0; i++) {
        b->rc = seccomp_attr_set(b->ctx, attrs[i].attr, attrs[i].value);
    }
}

int
kars__harden_seccomp(const kars__harden_plan_t *plan, kars__harden_state_t *ret,
                     kars_err_t *err)
{
    seccomp_build_t b = { .rc = 0 };

    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == -1 && errno == EINVAL) {
        return KARS_OK; /* a kernel without */
    }
    b.ctx = seccomp_init(KARS__CRASH_REFUSES ? SCMP_ACT_TRAP
                                             : SCMP_ACT_ERRNO(EPERM));
    if (b.ctx == NULL) {
        return kars__err(err, ENOMEM, "the filter of system calls");
    }
    seccomp_attributes(&b);
    seccomp_build(&b, plan);
    if (b.rc == 0) {
        b.rc = seccomp_load(b.ctx);
    }
    seccomp_release(b.ctx);
    if (b.rc != 0) {
        return kars__err(err, -b.rc, "the filter of system calls");
    }
    ret->seccomp = 1;
    return KARS_OK;
}
