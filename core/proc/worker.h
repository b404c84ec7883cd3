/*
 * worker.h - the process that serves: forked by the master, one loop.
 */
#ifndef KARS_PROC_WORKER_H
#define KARS_PROC_WORKER_H

/* Exit codes of a worker; the master tells them apart. */
enum {
    KARS__EXIT_OK = 0,
    KARS__EXIT_CONF = 1,   /* the configuration did not load; already said */
    KARS__EXIT_CHANNEL = 2 /* the master is gone */
};

/* Loads, says READY, serves until told to end. Returns an exit code. */
int kars__worker_run(const char *conf_path, int channel);

#endif
