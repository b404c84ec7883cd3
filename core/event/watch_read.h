/*
 * watch_read.h - a file, or the files of a folder, read whole and as of one
 * moment.
 *
 * Kubernetes replaces the files of a mounted folder at once, by renaming a
 * symbolic link `..data`: they are read through what it points to. Elsewhere
 * what was read counts only if nothing changed meanwhile.
 */
#ifndef KARS_EVENT_WATCH_READ_H
#define KARS_EVENT_WATCH_READ_H

#include "base/err.h"

#define KARS__WATCH_BYTES  (16u * 1024u * 1024u) /* of all files together */
#define KARS__WATCH_FILES  4096u                 /* of a folder */
#define KARS__WATCH_DIGEST 32u                   /* SHA-256 */

typedef struct {
    kars_file_t *files; /* by name */
    size_t n;
    uint32_t is_folder;
    /* Of every file: its name and its bytes, each after its length as 8 bytes,
     * most significant first. */
    unsigned char digest[KARS__WATCH_DIGEST];
    /* Of their identities, sizes and times: equal, nothing was replaced. */
    unsigned char stamp[KARS__WATCH_DIGEST];
} kars__read_t;

/*
 * Reads the path, on any thread. 0: *ret is filled, and given back with
 * kars__read_free(). -1: what the stamp tells (may be NULL) is still so; *ret
 * is empty. Else an errno, in words in *err: EAGAIN, it changes all the time;
 * EFBIG, over one of the limits above; EINVAL, neither a file nor a folder.
 *
 * A folder's subfolders are left out, and names that begin with "." or end in
 * "~".
 */
int kars__read_path(const char *path, const unsigned char *stamp,
                    kars__read_t *ret, kars_err_t *err);
void kars__read_free(kars__read_t *r);

#endif
