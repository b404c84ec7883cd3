"""What a governed run must show to count: as many decision records, reservations
and settlements as requests, and a chain that verifies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from load import Void

TOKENS = 600    # that the backend says each completion cost
SLOTS = 4096    # a reservation's id is its number times this, and its slot


def read_ledger(folder: Path) -> dict:
    """The state that the journal's newest segment leads to."""
    newest = max(folder.glob("*.journal"),
                 key=lambda p: int(p.name.split(".")[-2]))
    made = used = base = 0
    still_open: set[int] = set()
    for line in newest.read_text().splitlines():
        kind, *words = line.split()
        numbers = [int(w) for w in words[:-1]]  # the last one is a checksum
        if kind == "B":
            used, base = numbers[2], numbers[3]
            made, still_open = base, set()
        elif kind == "R":
            made = max(made, numbers[0] // SLOTS)
            still_open.add(numbers[0])
        elif kind == "S" and numbers[0] in still_open:
            # Others were settled before the base, which has them already.
            still_open.discard(numbers[0])
            used += numbers[1]
    return {"made": made, "open": len(still_open), "used": used}


def read_audit(folder: Path) -> dict:
    """Sums over the decision records of model calls."""
    n = to_upstream = charged = 0
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as f:
            for line in f:
                if b'"action":"inference:' not in line:
                    continue
                record = json.loads(line)
                n += 1
                to_upstream += record.get("attempts", 0)
                charged += record.get("tokens_charged", 0)
                if record["decision"] != "allow":
                    raise Void(f"audit: a refusal: {line[:400]!r}")
    return {"records": n, "to_upstream": to_upstream, "charged": charged}


def governed(router: str, state: Path, served: int, completed: int) -> dict:
    """After the router's end: do its books agree with the backend's count?"""
    audit = read_audit(state / "audit")
    ledger = read_ledger(state / "ledger")
    books = {**{f"audit_{k}": v for k, v in audit.items()},
             **{f"ledger_{k}": v for k, v in ledger.items()},
             "backend": served, "completed": completed}
    settles = ledger["made"] - ledger["open"]
    if not (audit["to_upstream"] == served and settles == audit["records"]
            and ledger["open"] == 0 and ledger["used"] == audit["charged"]):
        raise Void(f"the books do not agree: {books}")
    if audit["records"] != served and completed == served:
        raise Void(f"records without a request: {books}")
    if not 0 <= audit["records"] - completed <= 4 * 64:
        raise Void(f"more records than requests: {books}")
    done = subprocess.run(
        [router, "audit", "verify", *map(str, sorted(
            (state / "audit").glob("*.jsonl"))), "--key",
         str(state / "signing.key.pub")], capture_output=True, text=True)
    if done.returncode != 0:
        raise Void("audit verify: " + (done.stdout + done.stderr)[-400:])
    return books
