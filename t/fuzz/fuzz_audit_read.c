/*
 * fuzz_audit_read.c - whatever a log, a head or a tail holds, reading it ends
 * and stays within its bytes. The first byte chooses how the rest is read.
 */
#include "audit/tail.h"
#include "audit/verify.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
fuzz_verify(kars_str_t bytes, size_t split, const uint8_t *key)
{
    audit_verify_t v = { .key = key };
    audit_fault_t fault;

    if (!audit_verify_file(&v, (kars_str_t){ bytes.data, split }, &fault) ||
        !audit_verify_file(
            &v, (kars_str_t){ bytes.data + split, bytes.len - split },
            &fault) ||
        !audit_verify_end(&v, &fault)) {
        if (fault.text[0] == '\0') {
            abort(); /* a fault has a reason */
        }
    }
}

/* A line that is read is a line that its writer could have written. */
static void
fuzz_line(kars_str_t bytes)
{
    audit_line_t line;
    const char *why = NULL;

    if (!audit_line(bytes, &line, &why)) {
        if (why == NULL) {
            abort();
        }
        return;
    }

    (void) audit_line_intact(&line, &why);
    if (line.hash.len != AUDIT_HEX ||
        (line.full && line.covered.len + AUDIT_HEX + 13 != bytes.len)) {
        abort();
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t key[32] = { 1 };

    if (size == 0) {
        return 0;
    }

    kars_str_t bytes = { (const char *) data + 1, size - 1 };
    audit_head_t head;

    switch (data[0] % 4) {
    case 0:
        fuzz_verify(bytes, 0, NULL);
        break;
    case 1:
        fuzz_verify(bytes, bytes.len / 2, key);
        break;
    case 2:
        fuzz_line(bytes);
        break;
    default:
        (void) audit_head_parse(bytes, &head);
        break;
    }

    return 0;
}
