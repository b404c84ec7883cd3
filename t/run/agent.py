"""Plays the job of `make run`: an agent with no credential, the router
between it and the model.

Every claim printed here was asserted first; the first that does not hold ends
the run with exit 1. The records come from the audit file by trace id; the
token figures are the client's own and are compared with model.counts, the
model server's counters, which model_server.py reads in its own process: the
router can neither see nor change them.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import clients
from clients import Reply

Counts = dict[str, int]


class Failed(Exception):
    """A step did not hold; the text says which and what was seen instead."""


def check(holds: bool, claim: str) -> None:
    if not holds:
        raise Failed(claim)


def wait_for(what: str, probe: Callable[[], Any], seconds: float = 5.0) -> Any:
    """What probe() returns once it is true; a failure when it never is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.02)
    raise Failed(f"{what}: not seen within {seconds:.0f} s")


def show(label: str, text: str) -> None:
    print(f"      {label:<9} {text}", flush=True)


def shorten(text: str, width: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


class Demo:
    def __init__(self, state: Path) -> None:
        self.state = state
        about = json.loads((state / "run.json").read_text())
        self.model: str = about["model"]
        self.endpoint: str = about["endpoint"]
        self.keyed: bool = about["keyed"]
        self.agent = clients.agent(about["router"])
        self.tight = clients.agent(about["tight"])
        self.metrics: str = about["metrics"]
        self.spent = 0

    # What the others say about a call

    def record(self, trace: str) -> dict[str, Any]:
        """The one decision record of a call, by its trace id."""
        def find() -> list[dict[str, Any]]:
            lines = [line for f in sorted((self.state / "audit").glob("*.jsonl"))
                     for line in f.read_text().splitlines()]
            return [r for r in map(json.loads, lines)
                    if r.get("trace") == trace]

        found = wait_for(f"audit record of trace {trace}", find)
        check(len(found) == 1,
              f"one audit record for {trace}, not {len(found)}")
        return found[0]

    def counts(self) -> Counts | None:
        file = self.state / "model.counts"
        return json.loads(file.read_text()) if file.exists() else None

    def compare(self, before: Counts | None, usage: Counts) -> str:
        """The server's own counters moved by exactly what the client saw."""
        if before is None:
            return "(another server: its own count is not asked for)"
        want = {"prompt": before["prompt"] + usage["prompt_tokens"],
                "completion": before["completion"]
                + usage["completion_tokens"]}
        try:
            wait_for("the same counts", lambda: self.counts() == want)
        except Failed:
            raise Failed(f"the model server counted {self.counts()}, the "
                         f"client's figures lead to {want}") from None
        return "= the model server's own count"

    # What a person sees

    def show_record(self, r: dict[str, Any]) -> None:
        tokens = (f" tokens={r['tokens_in']}+{r['tokens_out']}"
                  if r.get("tokens_total") else "")
        model = f" model={r['model']}" if r.get("model") else ""
        show("audit", f"seq={r['seq']} {r['decision']} {r['action']}{model}"
             f"{tokens} digest={r['digest'][:12]}…")

    def show_left(self, headers: Mapping[str, str]) -> None:
        left = []
        for span in ("day", "month"):
            limit, used, remaining = (
                int(headers[f"x-kars-budget-{span}-{word}"])
                for word in ("limit", "used", "remaining"))
            check(remaining == limit - used,
                  f"{span} budget adds up: {limit} - {used} = {remaining}")
            left.append(f"{span} {remaining} of {limit}")
        show("left", "   ".join(left) + "   (this call still as reserved)")

    def show_call(self, r: Reply, before: Counts | None) -> None:
        usage = r.usage
        check(usage is not None, "the answer says its usage")
        show("tokens", f"prompt {usage['prompt_tokens']} + completion "
             f"{usage['completion_tokens']} = {usage['total_tokens']}   "
             + self.compare(before, usage))
        self.show_left(r.headers)
        trace = r.headers["x-kars-trace-id"]
        record = self.record(trace)
        check(record["decision"] == "allow", f"{trace} was allowed")
        check(record["tokens_total"] == usage["total_tokens"],
              f"the audit record has {usage['total_tokens']} tokens, "
              f"not {record['tokens_total']}")
        self.show_record(record)
        self.spent += usage["total_tokens"]

    # The steps

    def body(self, question: str, **over: Any) -> dict[str, Any]:
        return {"model": self.model, "max_tokens": 64,
                "messages": [{"role": "user", "content": question}], **over}

    def ask(self, question: str, **over: Any) -> None:
        streamed = bool(over.get("stream"))
        show("question", question + ("   (streamed)" if streamed else ""))
        before = self.counts()
        r = self.agent.chat(self.body(question, **over))
        check(r.status == 200, f"answered 200, not {r.status} {r.error}")
        pieces = ""
        if streamed:
            check(r.pieces > 1, f"came in pieces, not in {r.pieces}")
            pieces = f"   ({r.pieces} pieces)"
        show("answer", shorten(r.text) + pieces)
        self.show_call(r, before)
        print()

    def settled(self) -> None:
        """What was charged is what was used, no more and no less."""
        used = re.compile(r'kars_budget_tokens\{.*window="day".*what="used".*\}'
                          rf" {self.spent}")

        def same() -> bool:
            with urllib.request.urlopen(self.metrics, timeout=10) as r:
                return used.search(r.read().decode()) is not None

        wait_for(f"day's use of {self.spent} in the metrics", same)
        show("settled", f"{self.spent} tokens of the day, the sum of both")

    def around_the_router(self) -> None:
        """Without the router, so without the key, the model does not answer."""
        if not self.keyed:
            show("direct", "this model asks for no key: nothing to show")
            return
        r = clients.agent(self.endpoint).chat(self.body("hello", max_tokens=1))
        check(r.status == 401,
              f"the model itself tells the agent 401, not {r.status}")
        show("direct", "401 from the model itself: the agent has no key")

    def refused(self, name: str, status: int, kind: str, code: str,
                call: Callable[[], Reply]) -> Reply:
        """One refusal: its status, type and code, its record, its cost."""
        before = self.counts()
        r = call()
        seen = (r.status, r.error.get("type"), r.error.get("code"))
        check(seen == (status, kind, code),
              f"{name}: {status} {kind} {code}, not {seen}")
        check(r.headers.get("x-kars-decision") == "blocked",
              f"{name}: x-kars-decision says blocked")
        check(bool(r.headers.get("x-kars-decision-reason")),
              f"{name}: x-kars-decision-reason says why")
        record = self.record(r.headers["x-kars-trace-id"])
        check(record["decision"] == "deny",
              f"{name}: the record says deny, not {record['decision']}")
        check(self.counts() == before, f"{name}: the model was not asked")
        retry = r.headers.get("retry-after")
        print(f"      {name:<18} {status} {code}, audit seq={record['seq']}"
              + (f", Retry-After {retry}" if retry else ""))
        print(f"      {'':<18} {shorten(str(r.error.get('message')), 78)}",
              flush=True)
        return r

    def refusals(self) -> None:
        print("\n      and refused, each with its reason:")
        self.refused("no such route", 404, "invalid_request_error",
                     "no_such_route", lambda: self.agent.embed(
                         {"model": self.model, "input": "hello"}))
        self.refused("per-request cap", 429, "token_budget_exceeded",
                     "per_request_tokens_exceeded", lambda: self.agent.chat(
                         self.body("hello", max_tokens=5000)))
        self.refused("model not allowed", 403, "policy_violation",
                     "policy_denied", lambda: self.agent.chat(
                         self.body("hello", model="some-other-model")))
        self.refused("oversize body", 413, "invalid_request_error",
                     "body_too_large", lambda: self.agent.chat(
                         self.body("x" * 100_000)))
        # 256 are allowed per request, and no more are allowed per day: the
        # prompt itself, and whatever was used before, leave fewer.
        r = self.refused("daily budget", 429, "token_budget_exceeded",
                         "budget_exceeded", lambda: self.tight.chat(
                             self.body("hello", max_tokens=256)))
        wait = r.headers.get("retry-after") or ""
        check(wait.isdigit() and 0 < int(wait) <= 86400,
              f"Retry-After is the rest of the day, not \"{wait}\"")


def main() -> int:
    demo = Demo(Path(sys.argv[1]))
    try:
        demo.ask("What is the capital of France? One sentence.")
        demo.ask("Name three colours of the rainbow.", stream=True,
                 stream_options={"include_usage": True})
        demo.settled()
        demo.around_the_router()
        demo.refusals()
    except Failed as e:
        print(f"      FAILED: {e}", flush=True)
        return 1
    except clients.ERRORS as e:
        print(f"      FAILED: {type(e).__name__}: {e}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
