#!/bin/sh
# run.sh - `make bench`: CPU per request, side by side in one run, and the
# router's memory and start. Prints a table; objs/bench/report.json has it all.
#
# Called after the build, from the top of the tree. Binds loopback only; all
# that it writes is under objs/bench/; it ends what it started, and only that.
#
#   BENCH_SECONDS=5   of load per measurement (4 candidates x 2 loads x repeats)
#   BENCH_REPEATS=3   interleaved
#   BENCH_ONLY=NAMES  cpu, memory, start: those parts alone
#   OBJS=DIR          where the build put things (objs)
set -eu

TOP=$(pwd -P)
OBJS=${OBJS:-objs}
case $OBJS in /*) ;; *) OBJS=$TOP/$OBJS ;; esac
OUT=$OBJS/bench
HERE=t/bench

for tool in nginx wrk h2load python3; do
    if ! PATH=$PATH:/usr/sbin command -v $tool > /dev/null 2>&1; then
        echo "make bench: $tool is missing: sh auto/deps bench" >&2
        exit 1
    fi
done
[ -x "$OBJS/kars-router" ] || {
    echo "make bench: there is no $OBJS/kars-router: build first (make)" >&2
    exit 1
}

mkdir -p "$OUT"
for program in backend relay; do
    ${CC:-cc} -D_GNU_SOURCE -std=gnu11 -O2 -Wall -Wextra -Werror \
        -o "$OUT/$program" $HERE/$program.c
done

# Everything it starts is a child of this one, which ends them on any exit.
PATH=$PATH:/usr/sbin exec python3 -B $HERE/bench.py --here "$TOP/$HERE" \
    --objs "$OBJS" --out "$OUT" \
    --seconds "${BENCH_SECONDS:-5}" --repeats "${BENCH_REPEATS:-3}" \
    --only "${BENCH_ONLY:-cpu memory start}"
