#!/bin/sh
# tests.sh - t/unit/test_X.c tests a source named X: core/*/X.[ch],
# core/kars_X.h, modules/*/X.c, t/unit/X.c, or a file of a module with the
# module's name before it (test_audit_record: modules/audit/record.c). One
# concern of it may stand apart: test_body_set is about the sets of body.c.
set -eu
. t/lint/files.sh

sources=$(files '*.c' '*.h' | sed -n '
    s|^core/kars_\(.*\)\.h$|\1|p
    s|^core/.*/\(.*\)\.[ch]$|\1|p
    s|^t/unit/\(.*\)\.c$|\1|p
    s|^controller/.*/\(.*\)\.[ch]$|\1|p
    s|^cli/\(.*/\)*\(.*\)\.[ch]$|\2|p
    s|^modules/\([^/]*\)/\(.*\)\.[ch]$|\2\
\1_\2\
\1|p' | tr - _ | sort -u)

rc=0
for test in $(files 't/unit/test_*.c'); do
    name=$(basename "$test" .c)
    if ! echo "$sources" | grep -qx "${name#test_}" &&
        ! echo "$sources" | grep -qx "$(echo "${name#test_}" | sed 's/_[^_]*$//')"; then
        echo "$test:1: no source is named ${name#test_}"
        rc=1
    fi
    if ! grep -q "^suite_${name#test_}(void)" "$test"; then
        echo "$test:1: does not define suite_${name#test_}(void)"
        rc=1
    fi
done
exit $rc
