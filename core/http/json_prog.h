/*
 * json_prog.h - watched JSON paths as a trie; for the scan only.
 *
 * Nodes live in one array, in the pool that they were compiled in. Node 0 is
 * no node at all: no names, no elements, no watches. So whoever is not on a
 * watched path needs no special case.
 */
#ifndef KARS_HTTP_JSON_PROG_H
#define KARS_HTTP_JSON_PROG_H

#include "http/json_scan.h"

#define KARS__JSON_ROOT     1
#define KARS__JSON_NO_RANGE 0xff

typedef struct {
    kars_str_t name; /* of the member; empty for root and elements */
    kars_str_t fold; /* the name without its case */
    uint32_t child;  /* the first of its members; they stand together */
    uint32_t nchildren;
    uint32_t elem;  /* its elements; 0: nobody asks */
    uint32_t watch; /* the first of its places in the program's watches */
    uint32_t nwatches;
    uint64_t lengths; /* of keys that may be a member or its twin: bits */
    uint64_t firsts;  /* and the low 6 bits of their first bytes */
    uint8_t range;    /* where the scan keeps its range */
} kars__json_node_t;

struct kars__json_prog_s {
    kars__json_node_t *nodes;
    uint32_t *watches; /* indices of paths, those of a node together */
    uint32_t nnodes;
    uint32_t nranges;
};

/*
 * The member of a node that a decoded key names, 0 if none. If the key is
 * only a parser that ignores case away from one, that is *ret_twin, else 0.
 */
uint32_t kars__json_child(const kars__json_prog_t *prog, uint32_t node,
                          kars_str_t key, uint32_t *ret_twin);

/* The node that a path leads to from the root; 0: unknown or malformed. */
uint32_t kars__json_node(const kars__json_prog_t *prog, kars_str_t path);

#endif
