"""The default model of `make run`: a GGUF file behind an OpenAI-compatible
llama.cpp server, on loopback, on a free port, behind a key.

The key is made here, at every start, and written to a file of mode 0600 that
only router.conf names. It is never printed and never an argument. Owns three
files in --state: model.key (the key), model.addr (host:port, written last, so
its presence means "ready"), and model.counts.

model.counts is what the token figures of the demonstration are compared with:
llama.cpp's own counters (prompt tokens evaluated, tokens predicted since the
start). They are asked for in-process; they never pass through the router, and
they are not the `usage` object of any reply. The prompt cache is off, so that
every prompt token is evaluated, and therefore counted, once per call.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import threading
from pathlib import Path

import xllamacpp

COUNTERS = {
    "prompt": "llamacpp:prompt_tokens_total",
    "completion": "llamacpp:tokens_predicted_total",
}


def write_private(path: Path, text: str) -> None:
    """Replaces path as a whole; nobody but the owner ever may read it."""
    tmp = path.with_name(path.name + ".tmp")
    tmp.unlink(missing_ok=True)
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as f:
        f.write(text)
    tmp.rename(path)


def start(gguf: str, name: str, key: str, threads: int) -> xllamacpp.Server:
    p = xllamacpp.CommonParams()
    p.model.path = gguf
    p.model_alias = {name}
    p.hostnames = ["127.0.0.1"]
    p.port = 0
    p.api_keys = [key]
    p.cpuparams.n_threads = threads
    p.cpuparams_batch.n_threads = threads
    p.n_threads_http = 4
    p.n_ctx = 2048
    p.n_parallel = 1
    p.cache_prompt = False
    p.cache_ram_mib = 0
    p.endpoint_metrics = True
    p.ui = False
    p.sampling.temp = 0.0
    p.sampling.seed = 1
    return xllamacpp.Server(p)


def counts(server: xllamacpp.Server) -> dict[str, int]:
    text = server.handle_metrics()
    text = text if isinstance(text, str) else str(text)
    found = {}
    for word, metric in COUNTERS.items():
        m = re.search(rf"^{re.escape(metric)} ([0-9.e+]+)$", text, re.M)
        if m is None:
            raise SystemExit(f"model server: no counter {metric}")
        found[word] = round(float(m.group(1)))
    return found


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--gguf", required=True)
    a.add_argument("--name", required=True, help="model name to answer to")
    a.add_argument("--state", required=True, type=Path)
    a.add_argument("--threads", type=int, default=2)
    args = a.parse_args()

    stop = threading.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: stop.set())

    key = secrets.token_hex(32)
    write_private(args.state / "model.key", key)
    server = start(args.gguf, args.name, key, args.threads)
    last = counts(server)
    write_private(args.state / "model.counts", json.dumps(last))
    address = server.listening_address.removeprefix("http://")
    write_private(args.state / "model.addr", address)

    while not stop.wait(0.1):
        now = counts(server)
        if now != last:
            write_private(args.state / "model.counts", json.dumps(now))
            last = now

    for name in ("model.addr", "model.key", "model.counts"):
        (args.state / name).unlink(missing_ok=True)
    os._exit(0)  # llama.cpp's own threads need no farewell


if __name__ == "__main__":
    main()
