/*
 * crash.h - the last line of a worker that crashes, and the line of a system
 * call that was refused to it: which module was it?
 */
#ifndef KARS_PROC_CRASH_H
#define KARS_PROC_CRASH_H

#include "http/runtime.h"

/*
 * From here on SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT write one line
 *
 *   worker: crashed signal=SIGSEGV address=null module=probe at=probe+0x1139
 *
 * and then do what they did before: end the process by that signal (a sanitizer
 * reports first). A call that the filter refuses fails with EPERM, and the
 * first of its kind writes a line. Neither shows memory. Called once, before
 * modules are opened.
 */
int kars__crash_start(kars_err_t *err);

/* Learns where code lies, so that an address becomes a name: once modules are
 * open. The modules live as long as the process. */
void kars__crash_modules(kars__mod_t *const *mods, size_t n);

/* May a filter trap what it refuses? On processors where the trapped call can
 * be given a result: x86-64 and ARM64. */
#if defined(__x86_64__) || defined(__aarch64__)
#define KARS__CRASH_REFUSES 1
#else
#define KARS__CRASH_REFUSES 0
#endif

#endif
