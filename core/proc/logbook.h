/*
 * logbook.h - the files that the master opened as logs, so that it can open
 * them again when it is told that they were moved away (USR1).
 */
#ifndef KARS_PROC_LOGBOOK_H
#define KARS_PROC_LOGBOOK_H

#include <stdint.h>

enum { KARS__LOGBOOK_MAX = 64 };

typedef struct {
    struct {
        char path[512]; /* "": free */
        uint32_t load;  /* the newest that has it */
    } files[KARS__LOGBOOK_MAX];
} kars__logbook_t;

/* Notes a file that a worker of this load has. ERROR: there are too many. */
int kars__logbook_add(kars__logbook_t *b, const char *path, uint32_t load);

/* Opens each file again and sends it to a worker that serves or drains; one
 * that does not have it drops it. Failures are logged. */
void kars__logbook_send(const kars__logbook_t *b, int channel);

/* Forgets the files that only loads before this one had. */
void kars__logbook_prune(kars__logbook_t *b, uint32_t oldest);

#endif
