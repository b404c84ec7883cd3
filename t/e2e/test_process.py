"""The process: signals, reloads, and what a running configuration survives."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core


def streaming(r: kit.Router, backend: Backend) -> wire.Wire:
    """A stream that has begun, and goes on at backend.release()."""
    backend.hold_after = 2
    w = r.wire().send(wire.request("POST", kit.CHAT,
                                   kit.chat_bytes(stream=True)))
    assert w.head().status == 200
    w.chunk()
    return w


def finish(w: wire.Wire, backend: Backend) -> None:
    backend.hold_after = None
    backend.release()
    assert b"".join(w.chunks()).rstrip().endswith(b"data: [DONE]")
    w.sock.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT,
                                 signal.SIGQUIT])
def test_a_signal_ends_it_well(router: kit.Router, sig: signal.Signals
                               ) -> None:
    router.chat()
    workers = router.workers()
    assert workers
    router.stop(sig)
    for pid in workers:
        assert not Path(f"/proc/{pid}").exists()
    assert not (router.site.dir / "router.pid").exists()
    with pytest.raises(OSError):
        router.wire()
    assert "ok" in router.verify().stdout


def test_quit_lets_a_stream_end(router: kit.Router, backend: Backend) -> None:
    w = streaming(router, backend)
    router.send_signal(signal.SIGQUIT)
    kit.wait_for("nobody listens any more", lambda: not listening(router))
    assert router.process.poll() is None
    finish(w, backend)
    assert router.wait_exit() == 0
    assert router.decisions()[-1]["tokens_total"] == 11


def listening(r: kit.Router) -> bool:
    try:
        r.wire().sock.close()
        return True
    except ConnectionResetError:    # it closed in the midst of our coming
        return True
    except ConnectionRefusedError:
        return False


def test_term_does_not_wait_for_a_stream(
        router: kit.Router, backend: Backend) -> None:
    w = streaming(router, backend)
    began = time.monotonic()
    router.stop(signal.SIGTERM)
    assert time.monotonic() - began < 8
    w.sock.close()
    assert router.decisions()[-1]["tokens_charged"] >= 3 + 2
    assert "ok" in router.verify().stdout


def test_the_pid_file_names_the_master(router: kit.Router) -> None:
    file = router.site.dir / "router.pid"
    kit.wait_for("the pid file",
                 lambda: file.exists() and file.read_text().endswith("\n"))
    assert int(file.read_text()) == router.process.pid


def test_a_reload_changes_what_is_decided(
        router: kit.Router, site: kit.Site) -> None:
    assert router.chat().status == 200
    router.hup(site.usual(models="other-model"))
    a = router.chat()
    assert (a.status, a.code) == (403, "policy_denied")
    router.hup(site.usual())
    assert router.chat().status == 200


def test_a_bad_reload_changes_nothing(
        router: kit.Router, site: kit.Site) -> None:
    workers = router.workers()
    for broken in ("sandbx demo;\n", site.usual() + "}",
                   site.usual(models="x").replace("pass model", "pass modle"),
                   site.usual().replace("load_module status", "load_module x")
                   ):
        seen = len(router.log())
        site.conf.write_text(broken)
        router.send_signal(signal.SIGHUP)
        kit.wait_for("the refusal is logged", lambda: str(site.conf) + ":"
                     in router.log()[seen:])
        assert router.chat().status == 200
    kit.wait_for("the checkers have gone",
                 lambda: router.workers() == workers)
    router.hup(site.usual(models="other-model"))
    assert router.chat().status == 403


def test_a_stream_survives_reloads(
        router: kit.Router, backend: Backend, site: kit.Site) -> None:
    w = streaming(router, backend)
    for _ in range(2):
        router.hup(site.usual(models="other-model"))
    assert router.chat().status == 403
    finish(w, backend)
    kit.wait_for("the old workers have gone",
                 lambda: len(router.workers()) == 1, 15)


def test_reloads_lose_no_request(
        router: kit.Router, site: kit.Site, backend: Backend) -> None:
    """New connections and kept ones, all the time, during five reloads."""
    stop, failures, done = threading.Event(), [], [0, 0]

    def knock(kept: bool, slot: int) -> None:
        w = router.wire()
        while not stop.is_set():
            try:
                if not kept:
                    w.sock.close()
                    w = router.wire()
                a = w.send(wire.request("POST", kit.CHAT, kit.chat_bytes())
                           ).answer()
                assert a.status == 200, a
                done[slot] += 1
                if a.get("connection") == "close":
                    w.sock.close()
                    w = router.wire()
            except Exception as e:
                failures.append(repr(e))
                w = router.wire()
        w.sock.close()

    threads = [threading.Thread(target=knock, args=(k, k)) for k in (0, 1)]
    for t in threads:
        t.start()
    for _ in range(5):
        router.hup(site.usual())
    stop.set()
    for t in threads:
        t.join()
    assert failures == []
    assert min(done) > 5
    assert backend.completion_tokens == 8 * sum(done)


def test_a_reload_does_not_leak(router: kit.Router, site: kit.Site) -> None:
    def fds() -> int:
        return len(os.listdir(f"/proc/{router.process.pid}/fd"))

    router.hup(site.usual())
    kit.wait_for("settled", lambda: len(router.workers()) == 1)
    before = fds()
    for _ in range(4):
        router.hup(site.usual())
        kit.wait_for("settled", lambda: len(router.workers()) == 1)
    assert fds() == before


def test_a_worker_that_dies_is_replaced(
        router: kit.Router, backend: Backend) -> None:
    (worker,) = router.workers()
    os.kill(worker, signal.SIGKILL)
    kit.wait_for("another worker", lambda: [
        w for w in router.workers() if w != worker])
    assert router.chat().status == 200
    router.stop()
    assert "ok" in router.verify().stdout


def test_workers_die_with_their_master(router: kit.Router) -> None:
    workers = router.workers()
    os.kill(router.process.pid, signal.SIGKILL)
    router.process.wait(10)
    router.stopped = True
    kit.wait_for("workers have gone", lambda: not any(
        Path(f"/proc/{w}/cmdline").exists()
        and Path(f"/proc/{w}/cmdline").read_bytes() for w in workers))


def test_the_master_loads_no_module(router: kit.Router) -> None:
    maps = Path(f"/proc/{router.process.pid}/maps").read_text()
    assert str(kit.MODULES) not in maps
    worker = Path(f"/proc/{router.workers()[0]}/maps").read_text()
    assert str(kit.MODULES) in worker or "memfd:" in worker


def test_the_status_routes(router: kit.Router) -> None:
    for path in ("/healthz", "/readyz"):
        a = router.ask("GET", path)
        assert a.status == 200 and a.body.startswith(b"ok")
        assert a.get("content-type", "").startswith("text/plain")
    router.chat()
    a = router.ask("GET", "/metrics")
    assert a.get("content-type", "").startswith("text/plain")
    lines = a.body.decode().splitlines()
    (total,) = [x for x in lines
                if x.startswith("kars_inference_requests_total{")]
    assert 'sandbox="demo"' in total and 'model="stand-in"' in total
    assert 'status="ok"' in total and total.endswith(" 1")
    assert any(x.startswith("kars_inference_latency_seconds_bucket{")
               for x in lines)


def test_policy_status_for_the_operator_only(router: kit.Router) -> None:
    a = router.operator("GET", "/internal/policy-status")
    assert a.status == 200
    assert a.json["schema_version"] == 1
    assert a.json["count"] == len(a.json["entries"])
    assert router.ask("GET", "/internal/policy-status").status == 403


def test_two_routers_on_one_port_is_an_error(
        router: kit.Router, tmp_path_factory: pytest.TempPathFactory,
        backend: Backend) -> None:
    other = kit.Site(tmp_path_factory.mktemp("other"), backend)
    other.port = router.site.port
    other.conf.write_text(other.usual())
    p = kit.run_tool("-c", str(other.conf), check=False)
    assert p.returncode not in (0, 99)
    assert str(other.port) in p.stderr
    assert router.chat().status == 200


def test_memory_stays_where_it_is(start: Start, site: kit.Site) -> None:
    """1,500 governed calls do not make a worker grow (production build:
    real memory; ASan build: LeakSanitizer speaks at the end)."""
    r = start()
    (worker,) = r.workers()

    def rss() -> int:
        return next(int(x.split()[1]) for x in
                    Path(f"/proc/{worker}/status").read_text().splitlines()
                    if x.startswith("VmRSS"))

    def calls(n: int) -> None:
        with r.wire() as w:
            for _ in range(n):
                w.send(wire.request("POST", kit.CHAT, kit.chat_bytes()))
                assert w.answer().status == 200

    calls(300)
    before = rss()
    calls(1200)
    if "asan" not in str(kit.BINARY):
        assert rss() - before < 2048
    else:
        assert rss() - before < 256 * 1024     # the quarantine fills


def test_out_of_descriptors_it_refuses_and_recovers(
        start: Start, site: kit.Site) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))

    r = start(site.usual(), preexec=few)
    served = r.wire()
    assert served.send(wire.request("GET", "/healthz")).answer().status == 200
    crowd = [socket.create_connection(r.address, 5) for _ in range(500)]
    closed = 0
    for s in crowd[300:]:  # more than there can be
        s.settimeout(5)
        try:
            closed += s.recv(1) == b""
        except ConnectionResetError:
            closed += 1
    assert closed == 200
    assert "refused=" in r.log()
    assert served.send(wire.request("GET", "/healthz")).answer().status == 200
    for s in crowd:
        s.close()
    kit.wait_for("it takes connections again", lambda: healthy(r))
    assert r.chat().status == 200


def healthy(r: kit.Router) -> bool:
    try:
        return r.ask("GET", "/healthz").status == 200
    except (OSError, wire.Closed):
        return False
