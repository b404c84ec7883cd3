/*
 * conf_image.h - a parsed configuration as bytes in a sealed memfd: all workers
 * of a load, and those that later take the place of one that died, run what its
 * first worker read, whatever was written to the files meanwhile.
 *
 * The format is private to one build: both sides are the same program.
 */
#ifndef KARS_CONF_CONF_IMAGE_H
#define KARS_CONF_CONF_IMAGE_H

#include "conf/conf.h"

/* A memfd with the tree, which nobody can change any more: the caller closes
 * it. -1 and *err on failure. */
int kars__conf_image_make(const kars__conf_node_t *root, kars_err_t *err);

/* The tree of an image, in pool memory. */
int kars__conf_image_read(kars_pool_t *pool, int fd,
                          kars__conf_node_t **ret_root, kars_err_t *err);

#endif
