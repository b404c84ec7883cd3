/* command.h - `kars-router audit verify`: files in, a verdict out. */
#ifndef AUDIT_COMMAND_H
#define AUDIT_COMMAND_H

#include <stdio.h>

/* argv[0] is "audit". 0: good, 1: bad, 2: usage, or a file cannot be read. */
int audit_command_run(int argc, char **argv, FILE *out, FILE *err);

#endif
