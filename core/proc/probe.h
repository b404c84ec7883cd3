/*
 * probe.h - `kars-router probe`: one request to the running router, for images
 * that hold neither a shell nor curl.
 */
#ifndef KARS_PROC_PROBE_H
#define KARS_PROC_PROBE_H

#include "conf/conf.h"
#include "event/resolve.h"

#define KARS__PROBE_MS 3000 /* for the whole of it */

/*
 * argv is `probe [GET|POST] PATH [JSON-BODY]`; conf NULL: the default one, if
 * there is one. Prints the reply's body, and one line to standard error when
 * there is none or its status is not 2xx. Returns the exit code: 0 for a 2xx,
 * 1 for all else, 2 when argv makes no sense.
 */
int kars__probe_run(const char *conf, int argc, char **argv);

/*
 * Where a router of this configuration is asked: the first UNIX socket of class
 * operator, which wants no token; else the first TCP listener, a wildcard by
 * its loopback address; else 127.0.0.1:8443.
 */
int kars__probe_where(const kars__conf_node_t *root, kars__addr_t *ret,
                      kars_err_t *err);

#endif
