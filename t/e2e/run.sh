#!/bin/sh
# run.sh - the end-to-end suite: the real router, real sockets, the official
# client. Called from the top of the tree; arguments go to pytest.
#
# Runs everything on the ASan build, then the tests marked `core` on the
# production build. KARS_ROUTER=FILE runs everything on that binary alone.
# LONG=1: only the tests that take minutes, on the production build.

set -eu

OBJS=${OBJS:-objs}
VENV=$OBJS/venv-test
PY=$VENV/bin/python
HERE=t/e2e

[ "$(id -u)" -eq 0 ] || {
    echo "t/e2e: the suite plays several UIDs: run it as root" >&2
    exit 1
}
[ -x "$PY" ] || python3 -m venv "$VENV" || {
    rm -rf "$VENV"
    echo "t/e2e: python3 cannot make a venv: install python3-venv" >&2
    exit 1
}
sum=$(sha256sum <$HERE/requirements.txt)
if [ "$(cat "$VENV/stamp" 2>/dev/null || :)" != "$sum" ]; then
    "$PY" -m pip install --quiet --disable-pip-version-check --no-deps \
        -r $HERE/requirements.txt || {
        echo "t/e2e: cannot install $HERE/requirements.txt" >&2
        exit 1
    }
    printf '%s\n' "$sum" >"$VENV/stamp"
fi

PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

# suite NAME BINARY ARGS...: one run, its tools named first.
suite() {
    suite_name=$1
    KARS_ROUTER=$2
    export KARS_ROUTER
    shift 2
    [ -x "$KARS_ROUTER" ] || {
        echo "t/e2e: there is no $KARS_ROUTER: build it first" >&2
        exit 1
    }
    case $KARS_ROUTER in /*) ;; *) KARS_ROUTER=$PWD/$KARS_ROUTER ;; esac
    echo "e2e ($suite_name): $("$KARS_ROUTER" -V 2>&1 | head -n 1)," \
        "$("$PY" -V)," "$("$PY" -m pip list --format=freeze \
            --disable-pip-version-check |
            grep -E '^(openai|pytest|cryptography)==' | tr '\n' ' ')"
    begun=$(date +%s)
    "$PY" -m pytest -q --durations=5 -p no:cacheprovider -c $HERE/pytest.ini \
        --rootdir $HERE $HERE "$@"
    echo "e2e ($suite_name): passed in $(($(date +%s) - begun)) s"
}

if [ -n "${LONG:-}" ]; then
    mkdir -p "$OBJS/torture"
    ${CC:-cc} -D_GNU_SOURCE -std=gnu11 -O2 -Wall -Wextra -Werror -It/bench \
        -o "$OBJS/torture/load" t/torture/load.c
    ${CC:-cc} -D_GNU_SOURCE -std=gnu11 -O2 -Wall -Wextra -Werror \
        -o "$OBJS/torture/backend" t/bench/backend.c
    suite long "${KARS_ROUTER:-$OBJS/kars-router}" -m long "$@"
elif [ -n "${KARS_ROUTER:-}" ]; then
    suite given "$KARS_ROUTER" "$@"
else
    suite asan "$OBJS/asan/kars-router" "$@"
    suite production "$OBJS/kars-router" -m core "$@"
fi
