#!/bin/sh
# size.sh - a source over 800 lines is usually two. Only the public header is one
# file by promise.
set -eu
. t/lint/files.sh

# shellcheck disable=SC2046
awk '
FNR == 801 && FILENAME !~ /\/kars_module\.h$/ {
    print FILENAME ":801: more than 800 lines: usually two files"
    bad = 1
}
END { exit bad }
' /dev/null $(files '*.c' '*.h' '*.py' '*.sh' 'auto/*' Makefile configure)
