/* crash.c - signals that a worker's own code causes; see crash.h. */
#include "proc/crash.h"
#include "proc/harden.h"

#include <errno.h>
#include <link.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define CRASH_STACK  (64 * 1024)
#define CRASH_RANGES 128
#define CRASH_TEXT   512
#define CRASH_NULL   65536u       /* addresses below: a NULL and an offset */
#define CRASH_NEAR   (256 * 1024) /* of the stack pointer: the stack ran over */
#define CRASH_CALLS  1024

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif

/* Code of one object. */
typedef struct {
    const char *name;
    uintptr_t base;
    uintptr_t from;
    uintptr_t to;
    uint32_t is_module;
} crash_range_t;

typedef struct {
    char text[CRASH_TEXT];
    size_t n;
} crash_line_t;

static struct {
    int signum;
    const char *name;
    struct sigaction was;
} crash_signals[] = {
    { .signum = SIGSEGV, .name = "SIGSEGV" },
    { .signum = SIGBUS, .name = "SIGBUS" },
    { .signum = SIGILL, .name = "SIGILL" },
    { .signum = SIGFPE, .name = "SIGFPE" },
    { .signum = SIGABRT, .name = "SIGABRT" },
};

static char crash_stack[CRASH_STACK];
static crash_range_t crash_ranges[CRASH_RANGES];
static size_t crash_nranges;
static uint8_t crash_said[CRASH_CALLS]; /* refused calls, by number */

/* Only what kars__log_signal() takes: a module chose its own name. */
static void
crash_put(crash_line_t *l, const char *s)
{
    for (; *s != '\0' && l->n < CRASH_TEXT - 1; s++) {
        int plain = *s > ' ' && *s < 0x7f && *s != '"' && *s != '\\';

        l->text[l->n++] = (char) (plain || *s == ' ' ? *s : '?');
    }
    l->text[l->n] = '\0';
}

static void
crash_put_number(crash_line_t *l, uintptr_t v, unsigned base)
{
    char digits[24];
    size_t i = sizeof(digits) - 1;

    digits[i] = '\0';
    do {
        digits[--i] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v != 0);
    crash_put(l, digits + i);
}

static const crash_range_t *
crash_find(uintptr_t pc)
{
    for (size_t i = 0; i < crash_nranges; i++) {
        if (pc >= crash_ranges[i].from && pc < crash_ranges[i].to) {
            return &crash_ranges[i];
        }
    }
    return NULL;
}

/* The loop's thread knows whose code it called; on another the address says. */
static void
crash_put_module(crash_line_t *l, const crash_range_t *at)
{
    const kars__mod_t *m =
        syscall(SYS_gettid) == getpid() ? kars__mod_now : NULL;

    crash_put(l, " module=");
    crash_put(l, m != NULL                     ? m->def.name
                 : at != NULL && at->is_module ? at->name
                                               : "-");
}

static void
crash_put_at(crash_line_t *l, const crash_range_t *at, uintptr_t pc)
{
    crash_put(l, " at=");
    if (at == NULL) {
        crash_put(l, "-");
        return;
    }
    crash_put(l, at->name);
    crash_put(l, "+0x");
    crash_put_number(l, pc - at->base, 16);
}

/* Where it ran; *ret_sp is where its stack was. 0: not known here. */
static uintptr_t
crash_pc(const ucontext_t *uc, uintptr_t *ret_sp)
{
#if defined(__x86_64__)
    *ret_sp = (uintptr_t) uc->uc_mcontext.gregs[REG_RSP];
    return (uintptr_t) uc->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    *ret_sp = (uintptr_t) uc->uc_mcontext.sp;
    return (uintptr_t) uc->uc_mcontext.pc;
#else
    *ret_sp = 0;
    return 0;
#endif
}

/* The class of the address alone: its value may be data of a request. */
static const char *
crash_address(const siginfo_t *info, uintptr_t sp)
{
    uintptr_t a = (uintptr_t) info->si_addr;

    if (a < CRASH_NULL) {
        return "null";
    }
    if (a + CRASH_NEAR > sp && a < sp + CRASH_NEAR) {
        return "stack";
    }
    if (crash_find(a) != NULL) {
        return "code";
    }
    return info->si_code == SEGV_ACCERR ? "forbidden" : "unmapped";
}

static void
crash_handler(int signum, siginfo_t *info, void *context)
{
    crash_line_t l = { .n = 0 };
    uintptr_t sp, pc = crash_pc(context, &sp);
    const crash_range_t *at = crash_find(pc);
    size_t i = 0;

    while (i + 1 < KARS_NELTS(crash_signals) &&
           crash_signals[i].signum != signum) {
        i++;
    }
    crash_put(&l, "worker: crashed signal=");
    crash_put(&l, crash_signals[i].name);
    if ((signum == SIGSEGV || signum == SIGBUS) && info->si_code > 0) {
        crash_put(&l, " address=");
        crash_put(&l, crash_address(info, sp));
    }
    crash_put_module(&l, at);
    crash_put_at(&l, at, pc);
    kars__log_signal(KARS_LOG_ERR, l.text);

    /* What caused it happens again on return, or is sent again. */
    (void) sigaction(signum, &crash_signals[i].was, NULL);
    if (info->si_code <= 0) {
        (void) raise(signum);
    }
}

#if KARS__CRASH_REFUSES
static void
crash_set_result(ucontext_t *uc, int error)
{
#if defined(__x86_64__)
    uc->uc_mcontext.gregs[REG_RAX] = -error;
#else
    uc->uc_mcontext.regs[0] = (unsigned long long) -(long long) error;
#endif
}

static void
crash_refused(int signum, siginfo_t *info, void *context)
{
    crash_line_t l = { .n = 0 };
    unsigned nr = (unsigned) info->si_syscall;
    uintptr_t sp, pc = crash_pc(context, &sp);
    int was = errno;

    if (info->si_code != SYS_SECCOMP) {
        (void) signal(signum, SIG_DFL); /* somebody sent it */
        (void) raise(signum);
        return;
    }
    crash_set_result(context, EPERM);
    if (nr >= CRASH_CALLS ||
        __atomic_exchange_n(&crash_said[nr], 1, __ATOMIC_RELAXED) != 0) {
        return;
    }

    const char *name = kars__harden_call_name((int) nr);

    crash_put(&l, "worker: refused syscall=");
    if (name != NULL) {
        crash_put(&l, name);
    } else {
        crash_put_number(&l, nr, 10);
    }
    crash_put_module(&l, crash_find(pc));
    kars__log_signal(KARS_LOG_ERR, l.text);
    errno = was;
}
#endif

/* A stack of its own for the loop's thread, unless a sanitizer made one. */
static int
crash_own_stack(void)
{
    stack_t st = { .ss_sp = crash_stack, .ss_size = sizeof(crash_stack) };
    stack_t was;

    if (sigaltstack(NULL, &was) == 0 && !(was.ss_flags & SS_DISABLE)) {
        return 0;
    }
    return sigaltstack(&st, NULL);
}

int
kars__crash_start(kars_err_t *err)
{
    struct sigaction sa = { .sa_sigaction = crash_handler,
                            .sa_flags = SA_SIGINFO | SA_ONSTACK };
    int rc = crash_own_stack();

    (void) sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < KARS_NELTS(crash_signals) && rc == 0; i++) {
        rc = sigaction(crash_signals[i].signum, &sa, &crash_signals[i].was);
    }
#if KARS__CRASH_REFUSES
    sa.sa_sigaction = crash_refused;
    if (rc == 0) {
        rc = sigaction(SIGSYS, &sa, NULL);
    }
#endif
    return rc == 0 ? KARS_OK : kars__err(err, errno, "signal handlers");
}

typedef struct {
    kars__mod_t *const *mods;
    size_t n;
} crash_scan_t;

static const char *
crash_object_name(const crash_scan_t *scan, const struct dl_phdr_info *info,
                  uint32_t *ret_is_module)
{
    const char *slash = strrchr(info->dlpi_name, '/');

    *ret_is_module = 0;
    if (info->dlpi_name[0] == '\0') {
        return "kars-router"; /* with the modules that are part of it */
    }
    for (size_t m = 0; m < scan->n; m++) {
        uintptr_t self = (uintptr_t) scan->mods[m]->self;

        for (size_t i = 0; i < info->dlpi_phnum; i++) {
            uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;

            if (info->dlpi_phdr[i].p_type == PT_LOAD && self >= from &&
                self < from + info->dlpi_phdr[i].p_memsz) {
                *ret_is_module = 1;
                return scan->mods[m]->def.name;
            }
        }
    }
    return slash != NULL ? slash + 1 : info->dlpi_name;
}

static int
crash_scan(struct dl_phdr_info *info, size_t size, void *data)
{
    uint32_t is_module;
    const char *name = crash_object_name(data, info, &is_module);

    for (size_t i = 0; i < info->dlpi_phnum && crash_nranges < CRASH_RANGES;
         i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + ph->p_vaddr;

        if (ph->p_type == PT_LOAD && (ph->p_flags & PF_X)) {
            crash_ranges[crash_nranges++] =
                (crash_range_t){ name, info->dlpi_addr, from,
                                 from + ph->p_memsz, is_module };
        }
    }
    return 0;
}

void
kars__crash_modules(kars__mod_t *const *mods, size_t n)
{
    crash_scan_t scan = { mods, n };

    crash_nranges = 0;
    (void) dl_iterate_phdr(crash_scan, &scan);
}
