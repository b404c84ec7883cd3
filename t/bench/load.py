"""The load: the chat body, wrk saturated, h2load at a fixed rate. Both are
bounded, and what they count is checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

CONNECTIONS = 64
RATE = 10_000
BODY_BYTES = 2355  # 2.3 KiB
PATH = "/v1/chat/completions"

_WORDS = ("the router reads each request once and decides before anything "
          "leaves it; what it decided is written down, signed and counted, so "
          "that nobody has to trust it blindly. ").split(" ")


class Void(Exception):
    """The run proves nothing, and this is why."""


def body() -> bytes:
    """A conversation of an agent, always the same bytes."""
    def text(n: int, at: int) -> str:
        words = [_WORDS[(at + i) % len(_WORDS)] for i in range(n)]
        return " ".join(words)

    chat = {
        "model": "gpt-4.1-mini",
        "messages": [
            {"role": "system", "content":
             "You are a research assistant.\nCite \"sources\" by number. "
             + text(80, 0)},
            {"role": "user", "content": "Summarise: " + text(110, 7)},
            {"role": "assistant", "content": text(70, 3)},
            {"role": "user", "content": ""},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
        "user": "agent-7",
        "stream": False,
    }
    missing = BODY_BYTES - len(json.dumps(chat))
    filler = text(missing, 11)[:missing]
    chat["messages"][3]["content"] = filler
    out = json.dumps(chat).encode()
    assert len(out) == BODY_BYTES, len(out)
    return out


def head(port: int, length: int) -> bytes:
    return (f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/json\r\n"
            "Authorization: Bearer not-the-backends-key\r\n"
            f"Content-Length: {length}\r\n\r\n").encode()


def _run(argv: list[str], seconds: float, env: dict[str, str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True,
                              timeout=seconds * 4 + 20, env=env)
    except subprocess.TimeoutExpired:
        raise Void(f"{argv[0]} did not end") from None
    if done.returncode != 0:
        raise Void(f"{argv[0]} failed: {(done.stdout + done.stderr)[-400:]}")
    return done.stdout


def wrk(here: Path, body_file: Path, port: int, seconds: float) -> dict:
    """As fast as it goes. Replies under way when the time is up are given up:
    at most one a connection was asked for and not counted."""
    out = _run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s",
                "-s", str(here / "chat.lua"), f"http://127.0.0.1:{port}{PATH}"],
               seconds, {**os.environ, "BENCH_BODY": str(body_file)})
    r = json.loads(out.strip().splitlines()[-1])
    for kind in ("connect", "read", "write", "timeout", "status"):
        if r[kind]:
            raise Void(f"wrk: {r[kind]} {kind} errors")
    return {"completed": r["requests"], "seconds": r["duration_us"] / 1e6,
            "p50_us": r["p50_us"], "p99_us": r["p99_us"],
            "given_up": CONNECTIONS}


def h2load(here: Path, body_file: Path, port: int, seconds: float) -> dict:
    """RATE a second in all, so many that it takes as long as asked. Every
    reply is waited for."""
    n = max(1, round(seconds * RATE / CONNECTIONS)) * CONNECTIONS
    out = _run(["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-n{n}",
                f"--rps={RATE / CONNECTIONS}", f"--data={body_file}",
                "-H", "content-type: application/json",
                "-H", "authorization: Bearer not-the-backends-key",
                f"http://127.0.0.1:{port}{PATH}"], seconds, dict(os.environ))
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, "
                      r"(\d+) 5xx", out)
    took = re.search(r"finished in ([\d.]+)(ms|s|m)", out)
    fate = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, "
                     r"(\d+) timeout", out)
    if not codes or not took or not fate:
        raise Void("h2load: its report is not readable: " + out[-400:])
    if int(codes[1]) != n or int(fate[1]) != n or int(fate[2]) or int(fate[4]):
        raise Void(f"h2load: {codes[0]}; {fate[0]}")
    unit = {"ms": 1e-3, "s": 1.0, "m": 60.0}[took[2]]
    return {"completed": n, "seconds": float(took[1]) * unit, "given_up": 0}
