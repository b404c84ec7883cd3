"""Who is measured: how each is configured, started and asked to end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import procs
from load import Void, head
from procs import Proc


@dataclass
class Setup:
    """What all candidates share."""

    here: Path     # t/bench
    objs: Path
    out: Path      # objs/bench
    backend: int   # its port
    body: bytes

    @property
    def router(self) -> str:
        return str(self.objs / "kars-router")


@dataclass
class Candidate:
    name: str
    setup: Setup
    extra: str = ""                  # more lines of configuration
    port: int = 0
    state: Path = field(default_factory=Path)
    proc: Proc | None = None

    def _fill(self, template: str, to: str) -> str:
        text = (self.setup.here / template).read_text()
        for key, value in {
            "MODULES": self.setup.objs / "modules", "STATE": self.state,
            "BACKEND": self.setup.backend, "PORT": self.port,
            "EXTRA": self.extra,
        }.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.state / to
        path.write_text(text)
        return str(path)

    def prepare(self) -> list[str]:
        """A fresh state folder; the command to run."""
        self.state = self.setup.out / "state" / self.name
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        self.port = procs.free_port()
        if self.name == "relay":
            return [str(self.setup.out / "relay"), str(self.setup.backend)]
        if self.name == "nginx":
            return ["nginx", "-p", str(self.state), "-e",
                    str(self.state / "nginx.log"), "-c",
                    self._fill("peers/nginx.conf.in", "nginx.conf")]
        if self.name == "governed":
            key = self.state / "backend.key"
            key.touch(0o600)
            key.write_text("bench-backend-key\n")
            subprocess.run([self.setup.router, "signing", "keygen",
                            str(self.state / "signing.key")], check=True,
                           stdout=subprocess.DEVNULL)
        return [self.setup.router, "-c",
                self._fill(f"{self.name}.conf.in", "router.conf")]

    def start(self, argv: list[str] | None = None) -> None:
        argv = argv or self.prepare()
        log = self.state / "stderr"
        if self.name == "relay":
            self.proc = Proc(argv, procs.UNDER_TEST_CPU, log, subprocess.PIPE)
            self.port = int(self.proc.p.stdout.readline())
        else:
            self.proc = Proc(argv, procs.UNDER_TEST_CPU, log)
        self.first_answer()

    def first_answer(self) -> None:
        """Asks until it is answered, 10 s at most."""
        request = head(self.port, len(self.setup.body)), self.setup.body
        end = time.monotonic() + 10
        while True:
            try:
                reply = procs.get(self.port, *request)
                break
            except OSError:
                if time.monotonic() > end or not self.proc.alive():
                    raise Void(f"{self.name} does not start: "
                               + self.said()) from None
        if not reply.startswith(b"HTTP/1.1 200 "):
            raise Void(f"{self.name}: its first answer: {reply[:300]!r} "
                       + self.said())

    def said(self) -> str:
        return " | ".join(p.read_text(errors="replace")[-600:]
                          for p in self.state.glob("*")
                          if p.name in ("stderr", "router.log", "nginx.log"))

    def stop(self) -> None:
        """Gracefully; a candidate that then fails has failed."""
        rc = self.proc.stop(signal.SIGTERM if self.name == "relay"
                            else signal.SIGQUIT)
        if rc != 0:
            raise Void(f"{self.name} ended with {rc}: {self.said()}")
