/*
 * elf_head.h - the head of a module, read from its file before any of its
 * code can run (constructors run inside dlopen).
 */
#ifndef KARS_PROC_ELF_HEAD_H
#define KARS_PROC_ELF_HEAD_H

#include "base/err.h"

/* The fields of kars_module_t that never move. */
typedef struct {
    uint32_t magic;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t size;
    uint32_t api_size;
    uint32_t directive_size;
    uint32_t hook_size;
    uint32_t filter_size;
    uint32_t json_size;
    uint32_t service_size;
    uint32_t need_size;
    uint32_t os_need_size;
    uint32_t command_size;
} kars__elf_head_t;

/*
 * Reads the head of the exported symbol `kars_module` from an open file, by
 * bounds-checked reads of its dynamic segment. Refuses what is not a 64-bit
 * ELF shared object of this machine's architecture.
 */
int kars__elf_head_read(int fd, kars__elf_head_t *ret, kars_err_t *err);

/* The same over bytes in memory (the fuzzer's door). */
int kars__elf_head_parse(const unsigned char *p, size_t n,
                         kars__elf_head_t *ret, kars_err_t *err);

/*
 * Would this release load it? Magic, major, minor not newer than ours, every
 * size one that we shipped. The error names both sides.
 */
int kars__elf_head_check(const kars__elf_head_t *head, kars_err_t *err);

#endif
