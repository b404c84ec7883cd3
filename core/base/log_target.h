/*
 * log_target.h - where lines of a log go: stderr, stdout, a file that somebody
 * opened for appending, or syslog.
 *
 * A line is at most KARS__LOG_LINE bytes with its end: no more than a pipe
 * takes in one piece (PIPE_BUF), so that lines of several processes never mix.
 */
#ifndef KARS_BASE_LOG_TARGET_H
#define KARS_BASE_LOG_TARGET_H

#include "base/err.h"

#include <sys/socket.h>

#define KARS__LOG_LINE 4096u
#define KARS__LOG_CUT  "[cut]" /* the end of a line that was too long */

enum {
    KARS__LOG_OFF = 0,
    KARS__LOG_STDERR,
    KARS__LOG_STDOUT,
    KARS__LOG_FILE,
    KARS__LOG_SYSLOG
};

typedef struct {
    uint32_t kind;     /* KARS__LOG_* */
    int fd;            /* -1: not open; 1 and 2 are borrowed */
    uint32_t facility; /* RFC 5424 6.2.1, 0 to 23 */
    uint32_t tail;     /* a piece of a line is at the file's end */
    char tag[33];      /* APP-NAME */
    char host[65];     /* HOSTNAME */
    struct sockaddr_storage addr;
    socklen_t addr_len;
} kars__log_target_t;

/*
 * What a word of the configuration means: "off", "stderr", "stdout",
 * "syslog:server=ADDRESS[,facility=NAME][,tag=WORD]" or "syslog:" (ADDRESS is
 * unix:/dev/log, another unix:PATH, or IP:PORT for UDP), else a path, of which
 * only the kind is kept. Opens nothing. ERROR: *err says what was expected.
 */
int kars__log_target_parse(kars_str_t word, kars__log_target_t *ret,
                           kars_err_t *err);

/* Is it a path, which somebody has to open? */
int kars__log_is_path(kars_str_t word);

/* Takes fd 1 or 2, or makes the socket. A file's fd is set by the caller. */
int kars__log_target_open(kars__log_target_t *t, kars_err_t *err);

/*
 * Writes lines, each ended by a newline, at the KARS_LOG_* level that syslog
 * is told. Files get them in one write(2), others line by line. Returns how
 * many lines were not taken; errno says why.
 */
size_t kars__log_target_write(kars__log_target_t *t, uint32_t level,
                              const char *lines, size_t n);

/* Closes what is its own. */
void kars__log_target_close(kars__log_target_t *t);

#endif
