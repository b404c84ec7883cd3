#!/bin/sh
# paths.sh - no file names a folder of somebody's machine, or the host of a
# package registry: whoever builds elsewhere has others.
set -eu
. t/lint/files.sh

# Brackets, so that this file does not find itself.
before='(^|[^A-Za-z0-9_.})%*-])'
folders="$before/([w]ork|[r]oot|[h]ome/[a-z]+|[U]sers/[a-z]+)(/|[^A-Za-z0-9_]|\$)"
hosts='[p]ypi[.]org|[p]ythonhosted[.]org|[r]egistry[.]npmjs[.]org'
hosts="$hosts|[r]egistry[.]yarnpkg[.]com|[p]roxy[.]golang[.]org"
hosts="$hosts|[s]um[.]golang[.]org|[c]rates[.]io|[d]eb[.]debian[.]org"
hosts="$hosts|[h]uggingface[.]co"

found=$(files '*' | grep -vx LICENSE | tr '\n' '\0' \
    | xargs -0 grep -InE "$folders|$hosts" /dev/null || true)
if [ -n "$found" ]; then
    echo "$found" | sed -E 's/^([^:]*:[0-9]+):(.{0,120}).*/\1: names a machine: \2/'
    exit 1
fi
