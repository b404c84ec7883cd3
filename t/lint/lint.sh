#!/bin/sh
# lint.sh [CHECK ...] - runs the checks of t/lint (all, or those named), every
# one of them even if one fails. A finding is a line "file:line: what".
set -u
cd "$(dirname "$0")/../.." || exit 1
OBJS=${OBJS:-objs}
export OBJS

checks=${*:-format layers banned headers abi tests paths size shell}
rc=0
for check in $checks; do
    start=$(date +%s)
    if sh "t/lint/$check.sh"; then
        echo "  $check: clean, $(($(date +%s) - start)) s"
    else
        echo "  $check: findings above, $(($(date +%s) - start)) s" >&2
        rc=1
    fi
done
exit $rc
