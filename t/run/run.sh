#!/bin/sh
# run.sh - `make run`: a governed conversation with a real model.
#
# Called after the build, from the top of the tree. Everything it installs or
# writes is under objs/; it may be called again at any time: what is installed
# stays, a router that it left running is replaced.
#
#   ONCE=1              stop everything at the end
#   MODEL_ENDPOINT=URL  use this OpenAI-compatible server (http://host:port/v1)
#   MODEL=NAME          and this model of it (else the first that it offers)
#   MODEL_KEY_FILE=F    and the key in this file
#   PORT=N              where the router listens (8443, or a free one)
#   OBJS=DIR            where the build put things (objs)

set -eu
umask 077

TOP=$(pwd -P)
OUT=${OBJS:-objs}       # as a person would write it
case $OUT in /*) OBJS=$OUT ;; *) OBJS=$TOP/$OUT ;; esac
STATE=$OBJS/run
VENV=$OBJS/venv-run
PY=$VENV/bin/python
ROUTER=${KARS_ROUTER:-$OUT/kars-router}
HERE=t/run
MODEL_NAME=smollm2-135m-instruct

say()  { printf '%s\n' "$*"; }
last_line() { printf '%s\n' "$1" | tail -n 1; }
step() { printf '%-24s %s\n' "$1" "$2"; }
die()  { printf 'make run: %s\n' "$*" >&2; exit 1; }

# Is process $1 one of ours, and alive? Its command line must name our state.
ours() {
    [ -r "/proc/$1/cmdline" ] &&
        tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF "$STATE"
}

# stop FILE SIGNAL: stops the process of a pid file and waits for its end.
stop() {
    [ -s "$1" ] || return 0
    stop_pid=$(cat "$1")
    stop_rc=0
    if ours "$stop_pid"; then
        kill -s "$2" "$stop_pid" 2>/dev/null || :
        stop_n=0
        while ours "$stop_pid"; do
            stop_n=$((stop_n + 1))
            if [ $stop_n -gt 150 ]; then
                kill -s KILL "$stop_pid" 2>/dev/null || :
                stop_rc=1
                break
            fi
            sleep 0.1
        done
        # A child of this shell must have ended well; 127: it was not ours.
        wait "$stop_pid" 2>/dev/null || [ $? -eq 127 ] || stop_rc=1
    fi
    rm -f "$1"
    return $stop_rc
}

stop_all() {
    stop_all_rc=0
    stop "$STATE/router.pid" QUIT || stop_all_rc=1
    stop "$STATE/model.pid" TERM || stop_all_rc=1
    return $stop_all_rc
}

# Whatever goes wrong from here on: say what the router said, leave nothing.
finished=no
started=no
at_exit() {
    rc=$?
    trap - EXIT INT TERM
    if [ $finished = no ] && [ $started = yes ]; then
        if [ -s "$STATE/router.log" ]; then
            say "--- the last lines of $OUT/run/router.log"
            tail -n 20 "$STATE/router.log"
        fi
        stop_all || :
        say "make run: failed; nothing is left running"
    fi
    exit $rc
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# install FILE: the packages of a requirements file, unless they are there.
install() {
    stamp=$VENV/$(basename "$1").stamp
    sum=$(sha256sum <"$1")
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && return 0
    "$PY" -m pip install --quiet --disable-pip-version-check \
        --no-cache-dir --retries 1 --timeout 15 --only-binary :all: \
        --no-deps -r "$1" >>"$OBJS/run-install.log" 2>&1 || return 1
    printf '%s\n' "$sum" >"$stamp"
}

offline() {
    die "cannot fetch $1 (why: $OUT/run-install.log). Without network:" \
        "make run MODEL_ENDPOINT=http://host:port/v1 [MODEL=name]" \
        "uses a model server that you have."
}

# wait_file FILE PIDFILE SECONDS: until the file is there or the process gone.
wait_file() {
    wait_n=$(($3 * 10))
    while [ ! -e "$1" ]; do
        ours "$(cat "$2")" || return 1
        wait_n=$((wait_n - 1))
        [ $wait_n -gt 0 ] || return 1
        sleep 0.1
    done
}

verify() {
    "$ROUTER" audit verify "$STATE"/audit/*.jsonl \
        --key "$STATE/signing.key.pub"
}

case $TOP in
*[!A-Za-z0-9_./+-]*)
    die "the path $TOP has characters that router.conf would need quoted" ;;
esac
[ -x "$ROUTER" ] || die "there is no $ROUTER: build first (make)"
mkdir -p "$OBJS"
: >"$OBJS/run-install.log"

say "kars: an agent without a key, a router, a model"
say
if [ -n "${MODEL_ENDPOINT:-}" ]; then
    say "  uses      ${MODEL:-the first model} of $MODEL_ENDPOINT"
    say "  installs  the OpenAI Python client           $OUT/venv-run"
else
    say "  installs  the OpenAI Python client, a llama.cpp server   $OUT/venv-run"
    say "            SmolLM2-135M-Instruct, a 98 MB file            $OUT/model"
fi
say "  starts    on loopback only; state in $OUT/run"
say

# 1. The client, the model's server, the model.
if [ ! -x "$PY" ]; then
    python3 -m venv "$VENV" >>"$OBJS/run-install.log" 2>&1 || {
        rm -rf "$VENV"
        die "python3 cannot make a virtual environment: install python3-venv"
    }
fi
install $HERE/requirements-agent.txt ||
    [ -n "${MODEL_ENDPOINT:-}" ] || offline "the OpenAI Python client"
if [ -z "${MODEL_ENDPOINT:-}" ]; then
    install $HERE/requirements-model.txt || offline "the model server"
    GGUF=$("$PY" -B $HERE/fetch_model.py "$OBJS/model" 2>>"$OBJS/run-install.log") ||
        offline "the model"
fi
versions=$("$PY" -m pip list --format=freeze --disable-pip-version-check |
    grep -E '^(openai|xllamacpp)=' | tr '\n' ' ' || :)
step "1  installed" "$versions$("$PY" -V)"

# 2. A clean state. The one before stays beside it, for whoever reads logs.
started=yes
stop_all || :
if [ -d "$STATE" ]; then
    rm -rf "$OBJS/run.previous"
    mv "$STATE" "$OBJS/run.previous"
fi
mkdir -p "$STATE/audit" "$STATE/ledger"

# 3. The model.
if [ -n "${MODEL_ENDPOINT:-}" ]; then
    ENDPOINT=$MODEL_ENDPOINT
    NAME=${MODEL:-}
    KEY_FILE=${MODEL_KEY_FILE:-}
    step "2  model" "$ENDPOINT"
else
    "$PY" -B $HERE/model_server.py --gguf "$GGUF" --name $MODEL_NAME \
        --state "$STATE" >"$STATE/model.log" 2>&1 </dev/null &
    echo $! >"$STATE/model.pid"
    wait_file "$STATE/model.addr" "$STATE/model.pid" 120 || {
        tail -n 5 "$STATE/model.log"
        die "the model server did not start ($OUT/run/model.log)"
    }
    ENDPOINT=http://$(cat "$STATE/model.addr")/v1
    NAME=$MODEL_NAME
    KEY_FILE=$STATE/model.key
    step "2  model" "$NAME at $ENDPOINT, behind a key"
fi

# 4. The router.
PORT=$("$PY" -B $HERE/setup.py --modules "$OBJS/modules" --state "$STATE" \
    --endpoint "$ENDPOINT" --model "$NAME" --key-file "$KEY_FILE" \
    --port "${PORT:-8443}") || exit 1
"$ROUTER" signing keygen "$STATE/signing.key" >"$STATE/keygen.out"
"$ROUTER" -t -c "$STATE/router.conf" >"$STATE/check.out" 2>&1 || {
    cat "$STATE/check.out"
    die "router.conf was refused"
}
"$ROUTER" -c "$STATE/router.conf" >>"$STATE/router.out" 2>&1 </dev/null &
echo $! >"$STATE/router.pid"
"$PY" - "$PORT" "$STATE/router.pid" <<'EOF' || die "the router did not start"
import os, sys, time, urllib.request
port, pid = sys.argv[1], int(open(sys.argv[2]).read())
for _ in range(150):
    try:
        os.kill(pid, 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz",
                                    timeout=2) as r:
            sys.exit(r.status != 200)
    except ProcessLookupError:
        sys.exit(1)
    except OSError:
        time.sleep(0.1)
sys.exit(1)
EOF
step "3  router" "http://127.0.0.1:$PORT/v1, pid $(cat "$STATE/router.pid")"

# 5. The job.
step "4  the agent" "$(cd $HERE && "$PY" -B -c \
    'import clients; print(clients.NAME)'), no key"
say
"$PY" -B $HERE/agent.py "$STATE" || die "the job did not hold"
say

# 6. What was written is what happened.
verified=$(verify 2>&1) || { say "$verified"; die "the audit log does not verify"; }
step "5  audit verify" "$(last_line "$verified")"

if [ -n "${ONCE:-}" ]; then
    stop_all || die "not everything stopped when asked to"
    verified=$(verify 2>&1) || {
        say "$verified"
        die "the audit log does not verify after the stop"
    }
    step "6  stopped" "and again: $(last_line "$verified")"
    say
    say "make run: every step held"
    finished=yes
    exit 0
fi

MODEL_SHOWN=$(sed -n 's/.*"model": "\([^"]*\)".*/\1/p' "$STATE/run.json")
say
say "The router is left running. Talk to it:"
say
say "  curl http://127.0.0.1:$PORT/v1/chat/completions -H 'Content-Type: application/json' \\"
say "      -d '{\"model\":\"$MODEL_SHOWN\",\"max_tokens\":64,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'"
say
say "  from openai import OpenAI                      # $OUT/venv-run/bin/python"
say "  agent = OpenAI(base_url=\"http://127.0.0.1:$PORT/v1\", api_key=\"none\")"
say "  print(agent.chat.completions.create(model=\"$MODEL_SHOWN\", max_tokens=64,"
say "        messages=[{\"role\": \"user\", \"content\": \"Hello\"}]).choices[0].message.content)"
say
say "  configuration  $OUT/run/router.conf       reload: kill -HUP \$(cat $OUT/run/router.pid)"
say "  log            $OUT/run/router.log"
say "  audit          $OUT/run/audit/            check: $ROUTER audit verify $OUT/run/audit/*.jsonl --key $OUT/run/signing.key.pub"
say "  metrics        curl http://127.0.0.1:$PORT/metrics"
if [ -f "$STATE/model.pid" ]; then
    say "  stop           kill \$(cat $OUT/run/router.pid) \$(cat $OUT/run/model.pid)"
else
    say "  stop           kill \$(cat $OUT/run/router.pid)"
fi
say "  again          make run (replaces this one, keeps its state in $OUT/run.previous)"
finished=yes
