#!/bin/sh
# corpus.sh FOLDER - replays t/fuzz/corpus/X through FOLDER/fuzz_X, for every
# t/fuzz/fuzz_X.c. A target without a corpus is a failure.
set -eu
rc=0

for src in t/fuzz/fuzz_*.c; do
    [ -f "$src" ] || continue
    name=$(basename "$src" .c)
    corpus=t/fuzz/corpus/${name#fuzz_}

    if [ ! -d "$corpus" ]; then
        echo "$src: no corpus in $corpus" >&2
        rc=1
        continue
    fi
    printf '  %s: ' "$name"
    if ! "$1/$name" "$corpus"; then
        echo "$name: failed; with REPLAY_VERBOSE=1 the last name is the input" >&2
        rc=1
    fi
done
exit $rc
