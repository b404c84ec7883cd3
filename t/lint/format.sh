#!/bin/sh
# format.sh - every C file is as clang-format would write it.
set -eu
. t/lint/files.sh

rc=0
for file in $(files '*.c' '*.h'); do
    # One line per file: what is wrong is what the command named would change.
    where=$(clang-format-14 --dry-run "$file" 2>&1 \
        | sed -n "s/^\([^ ]*:[0-9]*\):[0-9]*: .*/\1/p" | head -n 1)
    if [ -n "$where" ]; then
        echo "$where: not formatted; run: clang-format-14 -i $file"
        rc=1
    fi
done
exit $rc
