/*
 * journal.h - the ledger as lines of text, and back.
 *
 *   B <day> <used_day> <used_month> <seq> <nopen> <crc>   a base: the state
 *   R <id> <day> <tokens> <crc>                           a reservation
 *   S <id> <charged> <crc>                                its settlement
 *
 * The CRC-32 covers the line up to the blank before it. A base is followed by
 * its nopen open reservations, and counts only when all of them are there.
 * A second R of an open id replaces its tokens; an S counts once; a line that
 * is torn, empty or damaged counts as absent. Ids grow, so that what was
 * settled before is recognised when it is read a second time.
 *
 * Pure: bytes in, ledger out.
 */
#ifndef BUDGET_JOURNAL_H
#define BUDGET_JOURNAL_H

#include "ledger.h"

#define JOURNAL_LINE 128 /* no line is longer, its newline included */

#define JOURNAL_DIGITS 20 /* of any 64-bit number */

/* Writes value in decimal, without a NUL; returns how many bytes. */
size_t journal_digits(char *p, uint64_t value);

/* Each writes one line of at most JOURNAL_LINE bytes; returns its length. */
size_t journal_reserve(char *buf, uint64_t id, uint32_t day, uint64_t tokens);
size_t journal_settle(char *buf, uint64_t id, uint64_t charged);
size_t journal_base(char *buf, const ledger_t *l, uint64_t nopen);

/* Applies a whole segment. Whatever the bytes are, it ends. */
void journal_replay(ledger_t *l, const char *bytes, size_t len);

#endif
