"""The master: loads that fail, another binary that takes over (USR2), sockets
that were passed to it, and what it tells the service manager."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kit
import wire
from backend import Backend
from test_process import finish, listening, streaming
from test_workers import many

Start = Callable[..., kit.Router]
pytestmark = pytest.mark.core


class Load:
    """Clients that never try twice: new connections and kept ones."""

    def __init__(self, r: kit.Router) -> None:
        self.r, self.failures, self.done = r, [], 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.knock, args=(kept,))
                        for kept in (False, False, True, True)]

    def knock(self, kept: bool) -> None:
        w = None
        while not self.over.is_set():
            try:
                w = w or self.r.wire()
                a = w.send(wire.request("POST", kit.CHAT,
                                        kit.chat_bytes())).answer()
                assert a.status == 200, a
                self.done += 1
                if not kept or a.get("connection") == "close":
                    w.sock.close()
                    w = None
            except Exception as e:
                self.failures.append(repr(e))
                w = None
        if w is not None:
            w.sock.close()


@contextmanager
def load(r: kit.Router) -> Iterator[Load]:
    """While it lasts requests come; none of them may be lost."""
    one = Load(r)
    for t in one.threads:
        t.start()
    try:
        yield one
    finally:
        one.over.set()
        for t in one.threads:
            t.join()
    assert one.failures == []
    assert one.done > 20


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A binary of one's own, that tests may replace."""
    binary = tmp_path / "bin" / "kars-router"
    binary.parent.mkdir()
    shutil.copy2(kit.BINARY, binary)
    return binary


def replace(binary: Path, text: str) -> None:
    new = binary.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o755)
    new.rename(binary)


def refuse(r: kit.Router, said: str) -> None:
    """USR2 leads to nothing but a line in the log."""
    before, pids = r.log().count("no upgrade"), r.workers()
    r.send_signal(signal.SIGUSR2)
    kit.wait_for("refused", lambda: r.log().count("no upgrade") > before, 15)
    assert said in r.log().rpartition("no upgrade")[2].partition("\n")[0]
    assert r.workers() == pids and r.chat().status == 200


# Loads that fail.

def test_a_load_that_fails_late_loses_no_request(
        start: Start, site: kit.Site) -> None:
    """A worker of it dies when the others are there already, and their sockets
    too: what connects meanwhile must not wait in them."""
    r = start(many(site, 1))
    refused = "does not load; the running one stays"
    site.conf.write_text(site.conf.read_text().replace("workers 1;",
                                                       "workers 4;"))
    with load(r):
        for _ in range(60):
            said = r.log().count(refused) + r.log().count("master: serving")
            old = set(r.workers())
            r.send_signal(signal.SIGHUP)
            kit.wait_for("some of it", lambda: len(set(r.workers()) - old) > 2)
            os.kill(max(set(r.workers()) - old), signal.SIGKILL)
            kit.wait_for("decided", lambda: r.log().count(
                refused) + r.log().count("master: serving") > said)
            if r.log().count(refused) == 5:
                break
    assert r.log().count(refused) == 5


def test_a_worker_that_is_replaced_runs_what_was_loaded(
        start: Start, site: kit.Site) -> None:
    """Not what somebody is writing into the file at that moment."""
    r = start(many(site, 2))
    kit.wait_for("two", lambda: "serving workers=2" in r.log())
    site.conf.write_text("workers 2;\nserver {")
    for pid in r.workers():
        os.kill(pid, signal.SIGKILL)
        kit.wait_for("replaced", lambda: pid not in r.workers()
                     and len(r.workers()) == 2)
    kit.wait_for("it answers", lambda: r.chat().status == 200)
    assert "server" not in r.log().partition("serving workers=2")[2].replace(
        "starting another", "")


# Another binary.

def test_the_same_process_goes_on_with_the_other_binary(
        start: Start, site: kit.Site, copied: Path) -> None:
    r = start(many(site, 2), binary=copied)
    before = r.workers()
    copied.rename(copied.with_suffix(".old"))
    shutil.copy2(kit.BINARY, copied)
    r.upgrade()
    assert r.process.poll() is None
    assert os.readlink(f"/proc/{r.process.pid}/exe") == str(copied)
    kit.wait_for("the old ones have gone", lambda: len(r.workers()) == 2
                 and not set(before) & set(r.workers()))
    assert r.chat().status == 200
    assert r.stop() is None
    assert "ok" in r.verify().stdout


def test_upgrades_and_reloads_lose_no_request_and_no_stream(
        start: Start, site: kit.Site, backend: Backend, copied: Path) -> None:
    r = start(many(site, 2), binary=copied)
    w = streaming(r, backend)
    backend.hold_after = None
    with load(r):
        for step in itertools.islice(itertools.cycle("hu"), 6):
            r.upgrade() if step == "u" else r.hup()
    finish(w, backend)
    kit.wait_for("the old ones have gone", lambda: len(r.workers()) == 2, 15)


def test_state_survives_an_upgrade(
        start: Start, site: kit.Site, copied: Path) -> None:
    r = start(site.usual(), binary=copied)
    assert r.chat().status == 200

    def counted() -> int:
        return int(re.search(r'kars_http_requests_total\{status="2xx"\} (\d+)',
                             r.ask("GET", "/metrics").body.decode())[1])

    before = counted()
    r.upgrade()
    assert before < counted() < before + 10


def test_nothing_is_left_open_by_upgrades(
        start: Start, site: kit.Site, copied: Path) -> None:
    r = start(site.usual(), binary=copied)

    def fds() -> int:
        kit.wait_for("settled", lambda: len(r.workers()) == 1)
        return len(os.listdir(f"/proc/{r.process.pid}/fd"))

    r.upgrade()
    before = fds()
    for _ in range(3):
        r.upgrade()
    assert fds() == before


@pytest.mark.parametrize("text, said", [
    ("#!/bin/sh\nexit 0\n", None),
    ("#!/bin/sh\nexit 1\n", "cannot take over"),
    ("not a program", "cannot take over"),
    ("#!/bin/sh\nkill -9 $$\n", "died"),
])
def test_a_binary_that_cannot_take_over_does_not(
        start: Start, site: kit.Site, copied: Path, text: str,
        said: str | None) -> None:
    if said is None:
        text, said = "#!/bin/sh\nunset KARS_TAKEOVER\nexec '%s' " \
            "--takeover-check\n" % kit.BINARY, "cannot take over"
    r = start(site.usual(), binary=copied)
    replace(copied, text)
    refuse(r, said)
    shutil.copy2(kit.BINARY, copied.with_suffix(".new"))
    copied.with_suffix(".new").rename(copied)
    r.upgrade()
    assert r.chat().status == 200


def test_a_binary_that_is_gone_is_an_error(
        start: Start, site: kit.Site, copied: Path) -> None:
    r = start(site.usual(), binary=copied)
    copied.unlink()
    refuse(r, "cannot take over")


def test_the_old_workers_serve_where_the_new_binary_cannot_load(
        start: Start, site: kit.Site, copied: Path) -> None:
    r = start(site.usual(), binary=copied)
    good, pids = site.conf.read_text(), r.workers()
    site.conf.write_text("nonsense;")
    r.send_signal(signal.SIGUSR2)
    kit.wait_for("refused", lambda: "the running one stays" in r.log())
    assert r.workers() == pids and r.chat().status == 200
    site.conf.write_text(good)
    r.hup()
    assert r.chat().status == 200


# Sockets that were passed.

def test_a_passed_socket_is_listened_on_and_left_there(
        start: Start, site: kit.Site, copied: Path) -> None:
    s = socket.create_server(("127.0.0.1", 0), backlog=64)
    other = socket.create_server(("127.0.0.1", 0))

    def pass_them() -> None:
        # somewhere else first: one may stand where the other goes
        high = [os.dup2(x.fileno(), 100 + i) for i, x in
                enumerate((other, s))]
        for i, fd in enumerate(high):
            os.dup2(fd, 3 + i)

    conf = many(site, 2).replace(
        f"listen 127.0.0.1:{site.port} class=agent;",
        f"listen 127.0.0.1:{site.port} class=agent;\n"
        "listen fd:api class=agent;")
    r = start(conf, binary=copied, preexec=pass_them, pass_fds=(3, 4),
              through=("/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"'),
              env={"LISTEN_FDS": "2", "LISTEN_FDNAMES": "other:api"})
    other.close()
    for change in (lambda: None, r.hup, r.upgrade):
        change()
        for _ in range(8):
            a = wire.ask(s.getsockname(), "GET", "/healthz")
            assert a.status == 200
    r.stop()
    socket.create_connection(s.getsockname()).close()  # it is still ours
    s.close()


def test_a_name_that_was_not_passed_is_an_error(site: kit.Site) -> None:
    site.conf.write_text(site.usual().replace(
        f"listen 127.0.0.1:{site.port}", "listen fd:api"))
    p = kit.run_tool("-c", str(site.conf), check=False)
    assert p.returncode == 1
    assert "fd:api" in p.stderr and "LISTEN_FDNAMES" in p.stderr


# The service manager, and balancers.

def told(s: socket.socket) -> list[str]:
    s.settimeout(5)
    return s.recv(4096).decode().split("\n")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(
        start: Start, site: kit.Site, abstract: bool) -> None:
    name = f"@kars-{os.getpid()}-{site.port}" if abstract else str(
        site.dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(name.replace("@", "\0", 1) if abstract else name)
        r = start(site.usual(), env={"NOTIFY_SOCKET": name})
        assert told(s)[0] == "READY=1"
        r.hup()
        reloading = told(s)
        assert reloading[0] == "RELOADING=1"
        stamp = int(reloading[1].removeprefix("MONOTONIC_USEC="))
        assert 0 <= time.monotonic_ns() // 1000 - stamp < 30_000_000
        assert told(s)[0] == "READY=1"
        good = site.conf.read_text()
        site.conf.write_text("nonsense;")
        r.send_signal(signal.SIGHUP)
        assert told(s)[0] == "RELOADING=1"
        again = told(s)
        assert again[0] == "READY=1" and "refused" in again[1]
        site.conf.write_text(good)
        r.stop()
        assert told(s) == ["STOPPING=1"]


def test_readyz_fails_before_the_listeners_close(
        start: Start, site: kit.Site) -> None:
    r = start(many(site, 2) + "drain_timeout 20s delay=1500ms;\n")
    assert r.ask("GET", "/readyz").status == 200
    r.send_signal(signal.SIGQUIT)
    kit.wait_for("not ready", lambda: r.ask("GET", "/readyz").status == 503)
    assert b"stopping" in r.ask("GET", "/readyz").body
    assert r.chat().status == 200
    kit.wait_for("closed", lambda: not listening(r))
    assert r.wait_exit() == 0
