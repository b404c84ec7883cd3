/*
 * privileges.h - what a worker gives up before the first module is opened.
 */
#ifndef KARS_PROC_PRIVILEGES_H
#define KARS_PROC_PRIVILEGES_H

#include "base/err.h"

/*
 * Becomes the account, if one is named (else empty) and the process is root's;
 * then no capability is left, whoever it runs as, no new ones can be had, no
 * core is written. Unless it is to be debugged, nobody of the same account may
 * look into the process.
 */
int kars__privileges_drop(kars_str_t user, int debug, kars_err_t *err);

#endif
