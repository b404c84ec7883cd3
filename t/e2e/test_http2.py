"""HTTP/2 as real clients speak it: what HTTP/1 callers get, many times at once,
and reloads that lose nothing of it."""

from __future__ import annotations

import re
import subprocess
import threading
from typing import Any

import pytest
from hyperframe.frame import (HeadersFrame, PingFrame, SettingsFrame,
                              WindowUpdateFrame)

import kit
import wire
from backend import Backend
from conftest import Start
from frames import Client

pytestmark = pytest.mark.core

BIG = 1 << 30
SMALL_WINDOW = {SettingsFrame.INITIAL_WINDOW_SIZE: 4096}


def run(*args: str, seconds: float = 60) -> str:
    p = subprocess.run(args, text=True, capture_output=True, timeout=seconds)
    assert p.returncode == 0, f"{args}: {p.returncode}\n{p.stdout}{p.stderr}"
    return p.stdout


def url(r: kit.Router, path: str) -> str:
    return f"http://127.0.0.1:{r.site.port}{path}"


def client(r: kit.Router, **options: Any) -> Client:
    return Client(r.address, **options)


def chat(h: Client, **over: Any) -> int:
    """A request for a chat; its answer is still to come."""
    body = kit.chat_bytes(**over)
    i = h.begin("POST", kit.CHAT, [("content-type", "application/json")])
    h.data(i, body, end=True)
    return i


# Real clients

def test_curl(router: kit.Router) -> None:
    curl = ("curl", "-s", "-m", "20", "--http2-prior-knowledge")
    assert run(*curl, url(router, "/healthz")).strip() == "ok"
    out = run(*curl, "-w", " %{http_version} %{http_code}", "-H",
              "content-type: application/json", "-d", kit.chat_bytes().decode(), url(router, kit.CHAT))
    assert '"total_tokens": 11' in out and out.endswith(" 2 200")
    assert run(*curl, "-o", "/dev/null", "-w", "%{http_code}",
               url(router, "/nothing")) == "404"
    assert run(*curl, "-I", "-w", "%{size_download}",
               url(router, "/healthz")).endswith("\n0")


def test_nghttp(router: kit.Router) -> None:
    out = run("nghttp", "-nv", "-m", "30", url(router, "/healthz"))
    assert len(re.findall(r":status: 200", out)) == 30
    assert "GOAWAY" in out and "error_code=NO_ERROR" in out


def test_h2load(start: Start, site: kit.Site) -> None:
    r = start(site.usual(budget="", sync="interval"))
    data = site.dir / "body"
    data.write_bytes(kit.chat_bytes())
    for args in (["-m", "100", url(r, "/healthz")],
                 ["-m", "10", "-d", str(data), url(r, kit.CHAT)]):
        out = run("h2load", "-n", "2000", "-c", "4", *args)
        assert "2000 succeeded, 0 failed, 0 errored" in out, out
    kit.wait_for("the records", lambda: len(r.decisions()) == 2000)
    assert "ok" in r.verify().stdout


# As over HTTP/1

def test_a_governed_call_is_governed(router: kit.Router) -> None:
    with client(router) as h:
        s = h.finish(chat(h))
        assert s.status == 200 and s.json["usage"]["total_tokens"] == 11
        assert s.head["content-length"] == str(len(s.body))
        over = h.finish(chat(h, max_tokens=100_000))
        assert over.status == 429
        assert over.json["error"]["code"] == "per_request_tokens_exceeded"
        bad = h.request("POST", kit.CHAT, b"{",
                        [("content-type", "application/json")])
        assert (bad.status, bad.json["error"]["code"]) == (400, "invalid_json")
        none = h.request("GET", "/v1/nothing")
        assert (none.status, none.json["error"]["code"]) == (404,
                                                             "no_such_route")
    record = router.record(s.trace)
    assert (record["decision"], record["tokens_total"]) == ("allow", 11)
    for refused in (over, bad, none):
        assert router.record(refused.trace)["decision"] == "deny"
    assert len(router.decisions()) == 4
    assert "ok" in router.verify().stdout
    router.settles(11)


def test_the_backend_cannot_tell(router: kit.Router, backend: Backend) -> None:
    """The same call by either protocol: the same bytes go upstream."""
    trace = {"x-kars-trace-id": "t"}
    assert router.chat(headers=trace).status == 200
    with client(router) as h:
        i = h.begin("POST", kit.CHAT, [
            ("content-type", "application/json"),
            ("content-length", str(len(kit.chat_bytes()))), *trace.items()])
        h.upload(i, kit.chat_bytes())
        assert h.finish(i).status == 200
    one, two = backend.requests
    assert sorted(one.headers) == sorted(two.headers)
    assert (one.path, one.body) == (two.path, two.body)


def test_an_event_leaves_before_the_next_one_is_made(
        router: kit.Router, backend: Backend) -> None:
    backend.hold_after = 1
    with client(router) as h:
        s = h.streams[chat(h, stream=True)]
        h.until(lambda: b'"tok "' in s.body)
        assert not s.ended and len(kit.events(s.body)) == 1
        backend.release()
        h.until(lambda: s.over)
    assert s.ended and s.body.rstrip().endswith(b"data: [DONE]")
    assert router.record(s.trace)["tokens_total"] == 11


@pytest.mark.parametrize("fault", ["reset_mid_stream", "truncated"])
def test_a_stream_that_breaks_does_not_end_well(
        router: kit.Router, backend: Backend, fault: str) -> None:
    backend.fault = fault
    with client(router) as h:
        s = h.finish(chat(h, stream=True))
        assert s.status == 200 and (s.reset or b'"error"' in s.body)
        backend.fault = None
        assert h.finish(chat(h)).status == 200   # the others go on
    assert router.record(s.trace)["tokens_charged"] >= 3


def test_100_continue_is_said_when_the_body_is_wanted(
        router: kit.Router) -> None:
    with client(router) as h:
        i = h.begin("POST", kit.CHAT, [("content-type", "application/json"),
                                       ("expect", "100-continue")])
        h.until(lambda: h.streams[i].status == 100)
        h.data(i, kit.chat_bytes(), end=True)
        assert h.finish(i).status == 200
        for path, extra, status in (
                ("/v1/nothing", [], 404),
                (kit.CHAT, [("content-length", "99999999")], 413)):
            i = h.begin("POST", path, [("expect", "100-continue"), *extra])
            assert [x[":status"] for x in h.finish(i).heads] == [str(status)]


def test_trailers_do_not_reach_the_backend(router: kit.Router,
                                           backend: Backend) -> None:
    with client(router) as h:
        i = h.begin("POST", kit.CHAT, [("content-type", "application/json")])
        h.data(i, kit.chat_bytes())
        h.send(HeadersFrame(i, h.block([("x-trailer", "y")]),
                            flags=["END_HEADERS", "END_STREAM"]))
        assert h.finish(i).status == 200
    assert b"x-trailer" not in backend.connections[-1].raw


def test_off(start: Start, site: kit.Site) -> None:
    r = start(site.usual(server="body_limit 8m; http2 off;"))
    with client(r) as h:
        h.sock.sendall(b"")
        data = h.sock.recv(4096)
        assert data.startswith(b"HTTP/1.1 505 ")


# Many at once

def test_one_unread_stream_stalls_no_other(
        router: kit.Router, backend: Backend) -> None:
    backend.length, backend.text = 3000, "t" * 8000  # 24 MB
    with client(router, reads=False, window=BIG,
                settings=SMALL_WINDOW) as h:
        unread = chat(h, stream=True, max_tokens=3000)
        h.until(lambda: len(h.streams[unread].body) == 4096)
        others = [h.begin("GET", "/v1/models", end=True) for _ in range(99)]
        for i in others:
            assert h.finish(i).status == 200
        assert len(h.streams[unread].body) == 4096
        assert backend.completion_tokens < 2500     # held back, not stored
        h.send(WindowUpdateFrame(unread, window_increment=BIG))
        s = h.finish(unread)
        assert s.ended and s.body.rstrip().endswith(b"data: [DONE]")
        assert len([e for e in kit.events(s.body) if e["choices"]
                    and e["choices"][0]["delta"].get("content")]) == 3000


def test_a_body_that_nobody_wants_yet_stalls_no_other(
        router: kit.Router, backend: Backend) -> None:
    """Uploads that stand still fill their own windows, not the connection's."""
    backend.fault = "slow_first_byte"
    with client(router) as h:
        h.until(lambda: h.settings)
        window = h.settings[SettingsFrame.INITIAL_WINDOW_SIZE]
        held = []
        for _ in range(20):     # 20 windows: more than the connection has
            i = h.begin("POST", kit.CHAT,
                        [("content-type", "application/json")])
            h.upload(i, b" " * (window - 1000), end=False)
            held.append(i)
        backend.fault = None
        assert h.finish(chat(h)).status == 200
        for i in held:
            h.data(i, kit.chat_bytes(), end=True)
        for i in held:
            assert h.finish(i).status == 200
    assert len(router.decisions()) == 21


def test_the_number_of_streams_is_enforced(start: Start, site: kit.Site,
                                           backend: Backend) -> None:
    r = start(site.usual(server="body_limit 8m; http2_streams 10;"))
    backend.fault = "slow_first_byte"
    with client(r) as h:
        h.until(lambda: h.settings)
        assert h.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 10
        waiting = [chat(h) for _ in range(10)]
        backend.wait(lambda: len(backend.requests) == 10)
        more = chat(h)
        h.until(lambda: h.streams[more].over or h.goaways)
        assert h.streams[more].reset == 7 or h.error == 1
        assert len(backend.requests) == 10
        backend.release()
        if not h.goaways:
            assert {h.finish(i).status for i in waiting} == {200}


# Those who leave

def test_a_cancelled_request_is_cancelled_upstream(
        router: kit.Router, backend: Backend) -> None:
    backend.hold_after = 1
    with client(router) as h:
        s = h.streams[(i := chat(h, stream=True))]
        h.until(lambda: s.body)
        h.cancel(i)
        backend.wait(lambda: backend.hangups == 1)
        assert h.request("GET", "/healthz").status == 200
    assert router.record(s.trace)["decision"] == "allow"


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_body_that_is_cut_off_goes_nowhere(
        router: kit.Router, backend: Backend, how: str) -> None:
    with client(router) as h:
        i = h.begin("POST", kit.CHAT, [("content-type", "application/json"),
                                       ("x-kars-trace-id", f"cut-{how}")])
        h.data(i, kit.chat_bytes()[:-5])
        if how == "reset":
            h.cancel(i)
            assert h.request("GET", "/healthz").status == 200
    record = router.record(f"cut-{how}")
    assert (record["status"], record["code"]) == (499, "client_gone"), record
    assert backend.requests == []


# Reloads

def test_a_reload_says_goodbye_first_and_loses_nothing(
        router: kit.Router, backend: Backend) -> None:
    backend.hold_after = 1
    with client(router) as h, client(router) as idle:
        h.answers_pings = False
        streams = [h.streams[chat(h, stream=True)] for _ in range(5)]
        h.until(lambda: all(s.body for s in streams))
        idle.until(lambda: idle.settings)
        router.hup()
        h.until(lambda: h.goaways)
        assert h.goaways[0].last_stream_id == 0x7fffffff
        late = h.request("GET", "/healthz")    # it had not heard of it
        assert late.status == 200
        assert len(h.goaways) == 1
        h.send(PingFrame(0, b"drained?", flags=["ACK"]))
        h.until(lambda: len(h.goaways) == 2)
        assert h.goaways[1].last_stream_id == h.next_id - 2
        assert h.goaways[1].error_code == 0
        backend.hold_after = None
        backend.release()
        h.wait_closed()
        assert all(s.ended and s.body.rstrip().endswith(b"data: [DONE]")
                   for s in streams)
        idle.wait_closed()
        assert idle.error == 0
    for s in streams:
        assert router.record(s.trace)["tokens_total"] == 11


def test_reloads_under_load_lose_no_request(
        start: Start, site: kit.Site) -> None:
    """Clients that never try again, and heed a GOAWAY."""
    r = start(site.usual(budget="", sync="interval"))
    stop, done, failed = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                with client(r) as h:
                    while not stop.is_set() and not h.goaways:
                        s = h.finish(chat(h))
                        assert s.status == 200 and s.ended, s
                        done.append(s.trace)
            except Exception as e:      # noqa: BLE001
                failed.append(repr(e))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    for _ in range(5):
        r.hup()
    stop.set()
    for t in threads:
        t.join(30)
    assert failed == [] and len(done) > 20
    def traces() -> list[str]:
        return [x["trace"] for x in r.decisions() if x["trace"] in done]

    kit.wait_for("a record of each", lambda: len(traces()) == len(done))
    assert sorted(traces()) == sorted(done)


# Memory

def test_memory_stays_where_it_is(start: Start, site: kit.Site) -> None:
    asan = "asan" in str(kit.BINARY)
    r = start(site.usual())
    (worker,) = r.workers()

    def rss() -> int:
        with open(f"/proc/{worker}/status") as f:
            return next(int(x.split()[1]) for x in f
                        if x.startswith("VmRSS"))

    def load(n: int) -> None:
        out = run("h2load", "-n", str(n), "-c", "10", "-m", "50",
                  url(r, "/healthz"), seconds=120)
        assert f"{n} succeeded, 0 failed, 0 errored" in out, out

    load(10_000)
    before = rss()
    load(10_000 if asan else 100_000)
    assert rss() - before < (256 * 1024 if asan else 2048)
    assert wire.ask(r.address, "GET", "/healthz").status == 200
