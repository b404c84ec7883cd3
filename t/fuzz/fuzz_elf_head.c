/* fuzz_elf_head.c - module files that are not what they should be. */
#include "proc/elf_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kars__elf_head_t head;
    kars_err_t err = KARS_ERR_INIT;

    if (kars__elf_head_parse(data, size, &head, &err) == KARS_OK) {
        (void) kars__elf_head_check(&head, &err);
    } else if (err.text[0] == '\0') {
        __builtin_trap(); /* a refusal says why */
    }
    return 0;
}
