"""Writes objs/run/router.conf from its template, and run.json, which tells
agent.py where everything is. Picks the ports; knows no secret, only the name
of the file that holds one."""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


def pick_port(wanted: int) -> int:
    """The wanted port if nobody has it, else any free one."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", wanted))
        except OSError:
            s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def first_model(endpoint: str, key_file: str) -> str:
    """What the endpoint itself offers first, where MODEL was not given."""
    request = urllib.request.Request(endpoint + "/models")
    if key_file:
        key = Path(key_file).read_text().strip()
        request.add_header("Authorization", "Bearer " + key)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)["data"][0]["id"]
    except (OSError, ValueError, KeyError, IndexError) as e:
        sys.exit(f"cannot ask {endpoint}/models for a model ({e}); "
                 "say MODEL=name")


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--modules", required=True, type=Path)
    a.add_argument("--state", required=True, type=Path)
    a.add_argument("--endpoint", required=True)
    a.add_argument("--model", default="")
    a.add_argument("--key-file", default="")
    a.add_argument("--port", type=int, default=8443)
    args = a.parse_args()

    url = urlsplit(args.endpoint.rstrip("/"))
    if url.scheme != "http" or not url.hostname:
        sys.exit("MODEL_ENDPOINT must look like http://host:port/v1, not "
                 f"\"{args.endpoint}\"")
    if args.key_file and not Path(args.key_file).is_file():
        sys.exit(f"MODEL_KEY_FILE: there is no file {args.key_file}")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    address = f"{host}:{url.port or 80}"
    model = args.model or first_model(args.endpoint.rstrip("/"),
                                      args.key_file)
    if not NAME.fullmatch(model):
        sys.exit(f"MODEL: \"{model}\" is not a model name")

    port = pick_port(args.port)
    tight = pick_port(0)
    credential = (f"credential    api_key file:{args.key_file} host={address};"
                  if args.key_file else "# this model asks for no key")
    values = {
        "MODULES": str(args.modules), "STATE": str(args.state), "PORT": str(port),
        "TIGHT_PORT": str(tight), "MODEL_ADDR": address,
        "MODEL_BASE": url.path or "/", "MODEL": model,
        "CREDENTIAL": credential,
    }
    text = (Path(__file__).parent / "router.conf.in").read_text()
    conf = re.sub(r"@([A-Z_]+)@", lambda m: values[m.group(1)], text)
    (args.state / "router.conf").write_text(conf)
    (args.state / "run.json").write_text(json.dumps({
        "router": f"http://127.0.0.1:{port}/v1",
        "metrics": f"http://127.0.0.1:{port}/metrics",
        "tight": f"http://127.0.0.1:{tight}/v1",
        "endpoint": args.endpoint.rstrip("/"),
        "model": model,
        "keyed": bool(args.key_file),
    }))
    print(port)


if __name__ == "__main__":
    main()
