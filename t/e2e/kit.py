"""Starts routers for tests: writes a configuration, runs the real binary,
waits until it answers, stops it, and holds it to a clean exit."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

import openai

import wire
from backend import Backend

TOP = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("KARS_ROUTER", TOP / "objs/asan/kars-router"))
MODULES = Path(os.environ.get("KARS_MODULES", BINARY.parent / "modules"))
AGENT_UID = 54321   # nobody's: the UID that plays the agent
ALL_MODULES = ("audit", "signing", "identity", "foundry-auth", "inference",
               "budget", "status")
CHAT = "/v1/chat/completions"
SANITIZER = re.compile(r"runtime error:|AddressSanitizer|LeakSanitizer|"
                       r"UndefinedBehaviorSanitizer")

ENV = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "LC_ALL": "C.UTF-8",
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:"
                    "allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what: str, probe: Callable[[], Any], seconds: float = 10) -> Any:
    """Polls a thing that tells no one when it happens (a file, a process)."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Gone, or a zombie with no thread left: whoever inherits it may never
    ask for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX" and len(threads) == 1


def chat_body(text: str = "one two three", **over: Any) -> dict[str, Any]:
    body = {"model": "stand-in",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8, **over}
    return {k: v for k, v in body.items() if v is not None}


def chat_bytes(text: str = "one two three", **over: Any) -> bytes:
    return json.dumps(chat_body(text, **over)).encode()


class Site:
    """The files of one router: its folder, its ports, its configuration."""

    def __init__(self, folder: Path, backend: Backend | None = None) -> None:
        self.dir = folder
        self.backend = backend
        self.port = free_port()
        self.conf = folder / "router.conf"
        self.audit_dir = folder / "audit"
        self.ledger = folder / "ledger"
        self.admin = str(folder / "admin.sock")
        self.key = folder / "signing.key"
        self.pub = folder / "signing.key.pub"
        self.secret = folder / "model.key"
        self.audit_dir.mkdir()
        self.ledger.mkdir()
        if backend is not None:
            self.secret.write_text(backend.key or "none")
            self.secret.chmod(0o600)
        run_tool("signing", "keygen", str(self.key))

    def main(self, modules: tuple[str, ...] = ALL_MODULES,
             sync: str = "request", extra: str = "") -> str:
        """Everything before the servers."""
        lines = [f"module_path {MODULES};"]
        lines += [f"load_module {m};" for m in modules]
        lines += ["sandbox demo;", f"pid {self.dir}/router.pid;",
                  "log stderr level=info;", "caller_uid agent %d;" % AGENT_UID]
        if "signing" in modules:
            lines.append(f"signing_key file:{self.key};")
        if "audit" in modules:
            lines += [f"audit_dir {self.audit_dir};", f"audit_sync {sync};"]
        if "budget" in modules:
            lines.append(f"budget_ledger {self.ledger};")
        return "\n".join(lines) + "\n" + extra + "\n"

    def upstream(self, timeout: str = "connect=2s first_byte=10s idle=10s"
                 ) -> str:
        assert self.backend is not None
        return ("upstream model {\n"
                f"    server  {self.backend.address};\n"
                f"    timeout {timeout};\n}}\n")

    def credential(self) -> str:
        assert self.backend is not None
        return (f"credential api_key file:{self.secret} "
                f"host={self.backend.address};")

    def chat_route(self, budget: str = "request=4096 day=1000k month=10000k",
                   models: str = "", extra: str = "") -> str:
        allow = f"models {models};" if models else ""
        limit = f"budget_limit {budget};" if budget else ""
        return (f"route POST {CHAT} {{ inference chat; "
                f"provider openai base=/v1; {allow} {self.credential()} "
                f"{limit} {extra} pass model; }}\n")

    def server(self, routes: str, listen: str = "class=agent",
               extra: str = "body_limit 8m;") -> str:
        return (f"server {{\n    listen 127.0.0.1:{self.port} {listen};\n"
                f"    listen unix:{self.admin} class=operator;\n"
                f"    {extra}\n{routes}\n"
                "    route GET /healthz { access open; status healthz; }\n"
                "    route GET /readyz { access open; status readyz; }\n"
                "    route GET /metrics { access open; status metrics; }\n"
                "    route GET /internal/policy-status "
                "{ status policy_status; }\n"
                "}\n")

    def models_route(self) -> str:
        return ("route GET /v1/models { inference models; provider openai "
                f"base=/v1; {self.credential()} pass model; }}\n")

    def usual(self, *, budget: str = "request=4096 day=1000k month=10000k",
              models: str = "", sync: str = "request", main: str = "",
              server: str = "body_limit 8m;", routes: str = "",
              listen: str = "class=agent",
              timeout: str = "connect=2s first_byte=10s idle=10s") -> str:
        """The configuration that most tests want, with what they vary."""
        return (self.main(sync=sync, extra=main) + self.upstream(timeout)
                + self.server(self.chat_route(budget, models)
                              + self.models_route() + routes,
                              listen=listen, extra=server))


def run_tool(*args: str, check: bool = True,
             env: dict[str, str] | None = None
             ) -> subprocess.CompletedProcess[str]:
    """Runs the binary to its end; a sanitizer's word fails the test."""
    p = subprocess.run([str(BINARY), *args], text=True, capture_output=True,
                       timeout=30, env={**ENV, **(env or {})})
    assert not SANITIZER.search(p.stderr), p.stderr
    if check:
        assert p.returncode == 0, f"{args}: {p.returncode}\n{p.stdout}{p.stderr}"
    return p


class Router:
    """One running router over a site."""

    def __init__(self, site: Site, conf: str,
                 preexec: Callable[[], None] | None = None,
                 binary: Path = BINARY, through: tuple[str, ...] = (),
                 env: dict[str, str] | None = None,
                 pass_fds: tuple[int, ...] = ()) -> None:
        self.site = site
        self.address = ("127.0.0.1", site.port)
        site.conf.write_text(conf)
        self._log = site.dir / f"log.{time.monotonic_ns()}"
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [*through, str(binary), "-c", str(site.conf)], stdout=out,
                stderr=out, stdin=subprocess.DEVNULL, env={**ENV, **(env or {})},
                start_new_session=True, pass_fds=pass_fds, preexec_fn=preexec)
        self.stopped = False
        self.generation = 0
        try:
            wait_for("the router listens", self._answers, 20)
        except BaseException:
            self.kill()
            raise AssertionError(f"no start:\n{self.log()}") from None

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"exit {self.process.returncode} at start")
        try:
            return wire.ask(self.address, "GET", "/healthz").status > 0
        except (OSError, wire.Closed):
            return False

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def send_signal(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    def workers(self) -> list[int]:
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(w) for w in Path(path).read_text().split()]

    def hup(self, conf: str | None = None) -> None:
        """Reloads, and returns when the new configuration answers: each one
        gets a route of its own to be known by."""
        conf = conf or self.site.conf.read_text()
        self.generation += 1
        path = f"/generation/{self.generation}"
        mark = "    route GET /healthz"
        assert mark in conf
        new = self.site.conf.with_suffix(".new")
        new.write_text(conf.replace(
            mark, f"    route GET {path} {{ access open; respond 200 \"new\"; "
            f"}}\n{mark}", 1))
        new.rename(self.site.conf)
        self.send_signal(signal.SIGHUP)
        for _ in range(3):
            wait_for("the new configuration answers",
                     lambda: self.ask("GET", path).status == 200)

    def upgrade(self) -> None:
        """USR2, and returns when the binary that took over serves."""
        took = self.log().count("master: took over")
        self.send_signal(signal.SIGUSR2)
        wait_for("another binary took over", lambda: self.log().count(
            "master: took over") > took)
        wait_for("and serves", lambda: "master: serving" in
                 self.log().rpartition("master: took over")[2])

    def wait_exit(self, seconds: float = 15) -> int:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end:\n{self.log()}") from None
        self.stopped = True
        return code

    def kill(self) -> None:
        """SIGKILL to the master and all its workers at once. They are gone
        when it returns: a worker that still ends still holds its sockets."""
        try:
            workers = self.workers()
        except (FileNotFoundError, ProcessLookupError):  # it ended alone
            workers = []
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)
        for pid in workers:
            wait_for(f"worker {pid} ends", lambda: ended(pid))
        self.stopped = True

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        if not self.stopped:
            self.send_signal(sig)
            code = self.wait_exit()
            assert code == 0, f"exit {code}:\n{self.log()}"
        assert not SANITIZER.search(self.log()), self.log()

    # Talking to it

    def ask(self, method: str, path: str, body: bytes = b"",
            headers: dict[str, str] | None = None) -> wire.Answer:
        return wire.ask(self.address, method, path, body, headers)

    def chat(self, text: str = "one two three",
             headers: dict[str, str] | None = None, **over: Any
             ) -> wire.Answer:
        return self.ask("POST", CHAT, chat_bytes(text, **over), headers)

    def wire(self, timeout: float = 20) -> wire.Wire:
        return wire.Wire(self.address, timeout)

    def operator(self, method: str, path: str) -> wire.Answer:
        return wire.ask(self.site.admin, method, path)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.site.port}/v1",
                             api_key="none", max_retries=0, timeout=20)

    # What it wrote

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for f in sorted(
            self.site.audit_dir.glob("*.jsonl"))
            for line in f.read_bytes().split(b"\n") if line]

    def decisions(self) -> list[dict[str, Any]]:
        return [r for r in self.lines()
                if not r["action"].startswith("audit:")]

    def record(self, trace: str) -> dict[str, Any]:
        """The one decision record of a trace id; LOG may write it late."""
        def find() -> list[dict[str, Any]]:
            return [r for r in self.decisions() if r["trace"] == trace]
        found = wait_for(f"a record of {trace}", find)
        assert len(found) == 1, found
        return found[0]

    def verify(self, *extra: str, check: bool = True
               ) -> subprocess.CompletedProcess[str]:
        files = sorted(map(str, self.site.audit_dir.glob("*.jsonl")))
        return run_tool("audit", "verify", *files, "--key",
                        str(self.site.pub), *extra, check=check)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric that carry these labels."""
        total = 0.0
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.split("{")[0] == name and all(
                    f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total

    def used(self, window: str = "day") -> int:
        """Tokens charged; open reservations count in full."""
        return int(self.metric("kars_budget_tokens", window=window,
                               what="used"))

    def settles(self, used: int, window: str = "day") -> None:
        """Settling follows the answer's end: waits for exactly this."""
        deadline = time.monotonic() + 5
        while (now := self.used(window)) != used:
            assert time.monotonic() < deadline, f"used {now}, not {used}"
            time.sleep(0.01)


def events(body: bytes) -> list[Any]:
    """The JSON values of a whole event stream, without its [DONE]."""
    found = []
    for block in body.decode().split("\n\n"):
        data = "\n".join(line[5:].removeprefix(" ") for line in
                         block.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            found.append(json.loads(data))
    return found
