#!/bin/sh
# layers.sh - who may include whom.
#
# The folders of core/ are layers; a file includes its own layer and those
# below. core/main.c includes any. A module includes of core kars_module.h only.
set -eu
. t/lint/files.sh

# shellcheck disable=SC2046
awk '
function finding(what) {
    print FILENAME ":" FNR ": " what
    bad = 1
}
BEGIN {
    n = split("base event conf net http proc", layers, " ")
    for (i = 1; i <= n; i++) rank[layers[i]] = i
    rank["main.c"] = n + 1
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, quoted, "\"")
    header = quoted[2]
    split(FILENAME, at, "/")
    top = header
    sub(/\/.*/, "", top)

    if (header ~ /\.\./) {
        finding("include \"" header "\" by its path from core/, without ..")
    } else if (at[1] == "core" && header ~ /\// && !(top in rank)) {
        finding("core includes \"" header "\", which is not of core")
    } else if (at[1] == "core" && (top in rank) && rank[top] > rank[at[2]]) {
        finding(at[2] "/ includes \"" header "\" of the higher layer " top "/")
    } else if (at[1] == "modules" && (top in rank)) {
        finding("a module includes of core only \"kars_module.h\"")
    } else if (at[1] == "modules" && header ~ /^(kars_config|llhttp)\.h$/) {
        finding("a module does not include \"" header "\"")
    }
}
END { exit bad }
' /dev/null $(files 'core/*.[ch]' 'modules/*.[ch]')
