#!/bin/sh
# banned.sh - functions that we do not call, and memory that is taken and freed
# outside the two files that own it. Looks at calls in code, not in comments or
# strings. Tests may allocate as they like.
set -eu
. t/lint/files.sh

# shellcheck disable=SC2046
awk '
# The line without comments and literals; in_comment lasts over lines.
function code(line,    out, at) {
    out = ""
    while (line != "") {
        if (in_comment) {
            at = index(line, "*/")
            if (at == 0) return out
            line = substr(line, at + 2)
            in_comment = 0
        }
        if (!match(line, /\/\*|\/\/|["\047]/)) return out line
        out = out substr(line, 1, RSTART - 1) " "
        at = substr(line, RSTART, RLENGTH)
        line = substr(line, RSTART + RLENGTH)
        if (at == "//") return out
        if (at == "/*") in_comment = 1
        else if (at == "\"") sub(/^([^"\\]|\\.)*"/, "", line)
        else sub(/^([^\047\\]|\\.)*\047/, "", line)
    }
    return out
}
function calls(text, name) {
    return text ~ "(^|[^A-Za-z0-9_.>])" name "[ \t]*[(]"
}
BEGIN {
    n = split("strcpy strcat sprintf vsprintf strtok atoi gets alloca system", \
              banned, " ")
    n_heap = split("malloc calloc realloc free strdup strndup asprintf", heap, " ")
}
FNR == 1 { in_comment = 0 }
{
    text = code($0)
    if (text !~ /[(]/) next
    for (i = 1; i <= n; i++) {
        if (calls(text, banned[i])) {
            print FILENAME ":" FNR ": " banned[i] "() is banned"
            bad = 1
        }
    }
    if (FILENAME ~ /^t\// || FILENAME ~ /^core\/base\/(pool|secret)\.c$/) next
    for (i = 1; i <= n_heap; i++) {
        if (calls(text, heap[i])) {
            print FILENAME ":" FNR ": " heap[i] "() outside pool.c and secret.c"
            bad = 1
        }
    }
}
END { exit bad }
' /dev/null $(files '*.c' '*.h')
