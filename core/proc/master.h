/*
 * master.h - the process that stays: it opens what workers ask for, starts
 * them, replaces them, and holds no request and no module.
 */
#ifndef KARS_PROC_MASTER_H
#define KARS_PROC_MASTER_H

/* Runs until told to end. Returns an exit code: 0 after a stop that was asked
 * for, 1 when the first configuration did not load. */
int kars__master_run(const char *conf_path);

#endif
