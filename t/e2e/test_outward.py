"""A module from outside the tree that reaches out: growing answers, calls
beside and without requests, second choices, upstreams from URLs, commands
that wait; against an upstream of plain sockets."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kit
import wire

pytestmark = pytest.mark.core

SOURCE = Path(__file__).parent / "outward.c"
KEY = "outward-secret-1"
HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"connection: close\r\n\r\n")


def plain(status: int, body: bytes) -> bytes:
    return (b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n"
            % (status, len(body))) + body


class Far:
    """The upstream; what it does stands in the path."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.sent = 0       # bytes of /big
        self.left = 0       # streams that the router closed
        self.go_on = threading.Event()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def stop(self) -> None:
        self.over.set()
        self.go_on.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for t in list(self.threads):
            t.join(10)
            assert not t.is_alive()

    def count(self, path: str) -> int:
        return sum(f" {path} ".encode() in h.split(b"\r\n")[0]
                   for h in self.heads)

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            conn.settimeout(0.2)
            t = threading.Thread(target=self._serve, args=(conn,), daemon=True)
            self.threads.append(t)
            t.start()

    def _serve(self, conn: socket.socket) -> None:
        with conn:
            buf = b""
            try:
                while not self.over.is_set():
                    try:
                        data = conn.recv(65536)
                    except TimeoutError:
                        continue
                    if not data:
                        return
                    buf = self._requests(conn, buf + data)
            except OSError:
                return

    def _requests(self, conn: socket.socket, buf: bytes) -> bytes:
        while b"\r\n\r\n" in buf:
            head, rest = buf.split(b"\r\n\r\n", 1)
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            if len(rest) < length:
                break
            with self.lock:
                self.heads.append(head)
                self.bodies.append(rest[:length])
            self._answer(conn, head.split(b" ")[1].decode(), rest[:length])
            buf = rest[length:]
        return buf

    def _answer(self, conn: socket.socket, path: str, body: bytes) -> None:
        conn.settimeout(10)
        what = path.rsplit("/", 1)[1]
        if what == "few":
            conn.sendall(HEAD)
            for i in range(3):
                conn.sendall(b"data: event %d\n\n" % i)
                time.sleep(0.01)
            raise OSError
        elif what == "open":
            conn.sendall(HEAD + b"data: first\n\n")
            self._until_left(conn)
        elif what == "wait":
            conn.sendall(HEAD + b"data: first\n\n")
            self.go_on.wait(20)
            conn.sendall(b"data: last\n\n")
            raise OSError
        elif what == "big":
            self._big(conn)
        elif what == "reset":
            conn.sendall(HEAD + b"data: first\n\n")
            time.sleep(0.05)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                            struct.pack("ii", 1, 0))
            raise OSError
        elif what == "busy":
            conn.sendall(plain(503, b"busy"))
        elif what == "judge":
            conn.sendall(plain(400 if b"bad" in body else 200, b""))
        elif what == "hang":
            self._until_left(conn)
        else:
            conn.sendall(plain(200, b"far: " + body))
        conn.settimeout(0.2)

    def _until_left(self, conn: socket.socket) -> None:
        conn.settimeout(0.1)
        while not self.over.is_set():
            try:
                if not conn.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.left += 1
        raise OSError

    def _big(self, conn: socket.socket) -> None:
        event = b"data: " + b"x" * 1000 + b"\n\n"
        conn.settimeout(0.1)
        conn.sendall(HEAD)
        total = 32 << 20
        at = 0
        while at < total and not self.over.is_set():
            try:
                at_event = at % len(event)
                n = conn.send((event * 64)[at_event:])
            except TimeoutError:
                continue
            except OSError:
                self.left += 1
                raise
            at += n
            self.sent += n
        raise OSError


@pytest.fixture
def far() -> Iterator[Far]:
    f = Far()
    yield f
    f.stop()


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("outward") / "outward.so"
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra",
         "-Werror", "-Wno-unused-parameter", "-shared", "-fPIC", "-I",
         str(kit.TOP / "core"), "-o", str(target), str(SOURCE)], check=True)
    return target


Conf = Callable[..., str]


@pytest.fixture
def conf(site: kit.Site, far: Far, module: Path) -> Conf:
    key = site.dir / "outward.key"
    key.write_text(KEY)
    key.chmod(0o600)

    def make(extra: str = "", drain: str = "10s") -> str:
        routes = (
            "route GET /v1/fan/{what} { outward_fan far; }\n"
            "route POST /v1/choice { outward_first busy; "
            "outward_second far; }\n"
            "route POST /v1/dead { outward_first dead; outward_second far; }\n"
            "route * /v1/fetch { outward_fetch on; }\n"
            "route POST /v1/judged { outward_judge far; pass far; }\n" + extra)
        main = (f"load_module {module};\n"
                f"outward_key file:{key};\n"
                f"drain_timeout {drain};\n"
                f"upstream far {{ server {far.address}; }}\n"
                f"upstream busy {{ server {site.backend.address}; }}\n"
                f"upstream dead {{ server 127.0.0.1:1; retry 0; }}\n")
        return site.usual(main=main, routes=routes)
    return make


def closes(router: kit.Router, trace: str) -> list[dict]:
    return [r for r in router.lines() if r["action"] == "audit:close"
            and r["trace"] == trace]


def pair(router: kit.Router, trace: str) -> tuple[dict, dict]:
    """The decision record of a stream, and the one that it closed."""
    found = kit.wait_for("a close record", lambda: closes(router, trace))
    assert len(found) == 1
    opened = router.record(trace)
    assert opened["decision"] == "allow" and opened["code"] == "open"
    assert opened["seq"] < found[0]["seq"]
    return opened, found[0]


def test_two_streams_become_one_answer(start, conf: Conf, far: Far) -> None:
    router = start(conf())
    a = router.ask("GET", "/v1/fan/few")
    assert a.status == 200 and a.get("content-type") == "text/event-stream"
    events = a.body.decode().split("\n\n")
    assert sorted(events) == [""] + sorted(
        f"data: event {i}" for i in (0, 1, 2) for _ in (0, 1))
    assert far.count("/v1/fan/few") == 2
    assert all(b"\r\nx-key: Bearer " + KEY.encode() in h for h in far.heads)
    _, closed = pair(router, a.trace)
    assert closed["decision"] == "success" and closed["code"] == "ended"
    assert closed["bytes_out"] == len(a.body)
    router.stop()
    assert KEY not in router.log()
    assert "audit verify: ok" in router.verify().stdout


def test_its_record_is_there_before_its_first_byte(
        start, conf: Conf) -> None:
    router = start(conf())
    with router.wire() as w:
        w.send(wire.request("GET", "/v1/fan/wait"))
        a = w.head()
        found = [r for r in router.decisions() if r["trace"] == a.trace]
        assert len(found) == 1 and found[0]["code"] == "open"
        assert not closes(router, a.trace)


def test_a_client_that_vanishes_ends_its_upstreams(
        start, conf: Conf, far: Far) -> None:
    router = start(conf())
    with router.wire() as w:
        w.send(wire.request("GET", "/v1/fan/open"))
        a = w.head()
        assert w.chunk()
        assert far.left == 0
    kit.wait_for("both upstreams are left", lambda: far.left == 2)
    _, closed = pair(router, a.trace)
    assert closed["decision"] == "failure"
    assert closed["code"] == "client_gone"
    assert router.log().count("outward: gone") == 1


def test_a_slow_reader_slows_its_upstreams(
        start, conf: Conf, far: Far) -> None:
    router = start(conf())
    with router.wire() as w:
        w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        w.send(wire.request("GET", "/v1/fan/big"))
        w.head()

        def stands() -> bool:
            was = far.sent
            time.sleep(0.5)
            return was == far.sent > 0
        kit.wait_for("the upstreams stand still", stands, 20)
        assert far.sent < 40 << 20  # of 64 MiB
        # One at the start: nothing leaves before the record is there.
        rooms = router.log().count("outward: room")
        assert rooms <= 1
        got, stood = 0, far.sent
        while got < 50 << 20:
            got += len(w.chunk())
        assert far.sent > stood
        assert router.log().count("outward: room") > rooms
    kit.wait_for("they are left", lambda: router.log().count(
        "outward: gone") == 1)


def test_an_upstream_that_breaks_off_is_no_good_end(
        start, conf: Conf) -> None:
    router = start(conf())
    a = router.ask("GET", "/v1/fan/reset")
    assert a.body.startswith(b"data: first\n\n")
    assert b'"code":"bad_gateway"' in a.body
    _, closed = pair(router, a.trace)
    assert closed["decision"] == "failure"
    assert closed["code"] == "bad_gateway"


def test_a_stream_outlives_a_reload(start, conf: Conf, far: Far) -> None:
    router = start(conf())
    with router.wire() as w:
        w.send(wire.request("GET", "/v1/fan/wait"))
        a = w.head()
        assert b"first" in w.chunk()
        router.hup()
        far.go_on.set()
        rest = b"".join(w.chunks())
        assert rest.count(b"data: last\n\n") == 2
    _, closed = pair(router, a.trace)
    assert closed["code"] == "ended"


def test_drain_timeout_ends_a_stream_with_its_record(
        start, conf: Conf, far: Far) -> None:
    router = start(conf(drain="3s"))
    with router.wire() as w:
        w.send(wire.request("GET", "/v1/fan/open"))
        a = w.head()
        assert w.chunk()
        router.send_signal(signal.SIGQUIT)
        time.sleep(0.3)
        assert far.left == 0    # it may go on for a while
        router.wait_exit()
    assert far.left == 2
    _, closed = pair(router, a.trace)
    assert closed["decision"] == "failure"
    assert "audit verify: ok" in router.verify().stdout


def test_a_second_choice_has_one_record(start, site: kit.Site, conf: Conf,
                                        far: Far) -> None:
    router = start(conf().replace(f"server {site.backend.address}; }}\n",
                                  f"server {far.address}; }}\n", 1)
                   .replace("/v1/choice", "/v1/busy"))
    a = router.ask("POST", "/v1/busy", b'{"n": 1}')
    assert a.status == 503      # both choices are the same busy server
    r = router.record(a.trace)
    assert (r["attempts"], r["upstream"], r["status"]) == (2, "far", 503)
    assert far.bodies == [b'{"n": 1}'] * 2

    b = router.ask("POST", "/v1/dead", b'{"n": 2}')
    assert (b.status, b.body) == (200, b'far: {"n": 2}')
    r = router.record(b.trace)
    assert (r["attempts"], r["upstream"], r["status"]) == (2, "far", 200)
    assert far.bodies[2:] == [b'{"n": 2}']


def test_a_second_choice_costs_once(start, site: kit.Site, conf: Conf,
                                    module: Path) -> None:
    """A model call that the first upstream has no room for: one reservation,
    one record, the credential on both."""
    text = conf().replace(f"load_module {module};\n", "").replace(
        "load_module inference;",
        f"load_module {module};\nload_module inference;").replace(
        "pass model;",
        "outward_first model; outward_second busy; pass model;", 1)
    router = start(text)
    backend = site.backend
    backend.fault, backend.faults_left = "status_429", 1
    before = router.used()
    a = router.chat()
    assert a.status == 200, a.body
    assert [r.get("authorization") for r in backend.requests] == [
        f"Bearer {backend.key}"] * 2
    assert backend.requests[0].body == backend.requests[1].body
    total = a.json["usage"]["total_tokens"]
    router.settles(before + total)
    r = router.record(a.trace)
    assert (r["attempts"], r["upstream"]) == (2, "busy")
    assert r["tokens_total"] == total


def test_an_upstream_from_a_url_is_decided_about(
        start, conf: Conf, far: Far) -> None:
    router = start(conf())
    a = router.ask("POST", "/v1/fetch", b"x",
                   {"x-url": f"http://{far.address}/anything"})
    assert (a.status, a.body) == (200, b"far: x")
    assert router.record(a.trace)["upstream"] == f"http://{far.address}"
    for url, why in ((f"http://localhost:{far.address[10:]}", "only this host"),
                     (f"https://{far.address}", "https"),
                     ("gopher://127.0.0.1", "expected http://")):
        b = router.ask("POST", "/v1/fetch", b"x", {"x-url": url})
        assert b.status == 403 and why in b.json["error"]["message"]
    assert len(far.heads) == 1


def test_without_a_decider_no_url_is_reached(
        start, conf: Conf, far: Far, module: Path, tmp_path: Path) -> None:
    text = SOURCE.read_text().replace('"egress.decision/1"', '"other/1"')
    alone = tmp_path / "alone.c"
    alone.write_text(text)
    subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC",
                    "-I", str(kit.TOP / "core"), "-o",
                    str(tmp_path / "outward.so"), str(alone)], check=True)
    router = start(conf().replace(str(module), str(tmp_path / "outward.so")))
    a = router.ask("POST", "/v1/fetch", b"x",
                   {"x-url": f"http://{far.address}"})
    assert a.status == 403
    assert "egress.decision/1" in a.json["error"]["message"]
    assert far.heads == []


def test_a_judge_sees_the_answer_first(start, conf: Conf, far: Far) -> None:
    router = start(conf())
    a = router.ask("POST", "/v1/judged", b"good")
    assert (a.status, a.body) == (200, b"far: good")
    b = router.ask("POST", "/v1/judged", b"bad")
    assert b.status == 403 and b"far: bad" not in b.body
    assert far.bodies == [b"good", b"far: good", b"bad", b"far: bad"]
    assert router.record(b.trace)["code"] == "content_filter"


def test_calls_go_out_without_any_request(
        start, conf: Conf, far: Far) -> None:
    router = start(conf().replace("outward_key",
                                  "outward_beat far;\noutward_key", 1))
    kit.wait_for("three beats", lambda: far.count("/beat") >= 3)
    kit.wait_for("their replies", lambda: router.log().count(
        "outward: beat status=200") >= 3)
    router.hup()
    was = far.count("/beat")
    kit.wait_for("more beats", lambda: far.count("/beat") > was + 2)


def test_a_command_may_wait(site: kit.Site, conf: Conf, far: Far) -> None:
    site.conf.write_text(conf().replace("outward_key",
                                        "outward_beat far;\noutward_key", 1))

    def reach(*args: str) -> subprocess.CompletedProcess[str]:
        return kit.run_tool("-c", str(site.conf), "reach", *args, check=False)

    p = reach("/beat")
    assert (p.returncode, p.stdout) == (0, "status=200 error=0\n"), p.stderr
    p = reach("/x/busy")
    assert p.stdout == "status=503 error=0\n"
    began = time.monotonic()
    p = reach("/x/hang", "500")
    assert (p.returncode, p.stdout) == (1, "late\n")
    assert time.monotonic() - began > 0.4
