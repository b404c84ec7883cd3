#!/bin/sh
# fuzz.sh FOLDER SECONDS - runs each FOLDER/fuzz_X for SECONDS. What it finds
# new stays in FOLDER/corpus/X, a crash in FOLDER/crash; worthy ones go into
# t/fuzz/corpus/X by hand.
set -eu
dir=$1
seconds=$2
rc=0
mkdir -p "$dir/crash"

for src in t/fuzz/fuzz_*.c; do
    [ -f "$src" ] || continue
    name=$(basename "$src" .c)
    what=${name#fuzz_}
    mkdir -p "$dir/corpus/$what"
    echo "  $name: $seconds s"
    if ! "$dir/$name" -max_total_time="$seconds" -timeout=10 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="$dir/crash/$what-" \
        "$dir/corpus/$what" "t/fuzz/corpus/$what"; then
        echo "$name: failed, the input is in $dir/crash" >&2
        rc=1
    fi
done
exit $rc
