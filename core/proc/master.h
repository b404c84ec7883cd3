/*
 * master.h - the process that stays: it opens what workers ask for, starts
 * them, replaces them, and holds no request and no module.
 */
#ifndef KARS_PROC_MASTER_H
#define KARS_PROC_MASTER_H

/* Runs until told to end. argv: what another binary is called with when USR2
 * asks for it. Returns an exit code: 0 after a stop that was asked for, 1 when
 * the first configuration did not load. */
int kars__master_run(const char *conf_path, char **argv);

/* For --takeover-check, which a running master calls: could this binary go on
 * with what it is handed? 0, or 1 and a line on standard error. */
int kars__master_takeover_check(void);

#endif
