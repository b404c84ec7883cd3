"""Limits for each caller: how often, how many at once, and that one and four
workers hold the same."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import socket
import struct
from collections import Counter

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core
MODULES = (*kit.ALL_MODULES, "limit")


def conf(site: kit.Site, limits: str = "", *, workers: int = 1,
         routes: str = "", chat: str = "") -> str:
    return (site.main(MODULES, extra=f"workers {workers};\n{limits}")
            + site.upstream() + site.server(
                site.chat_route(extra=chat)
                + "route GET /a { access open; limit_requests remote_addr "
                  "rate=20/1h; # a\nrespond 200 a; }\n"
                  "route GET /b { access open; respond 200 b; }\n" + routes))


def line(text: str, mark: str) -> int:
    (n,) = [i for i, x in enumerate(text.splitlines(), 1) if mark in x]
    return n


def burst(r: kit.Router, path: str, n: int) -> Counter[int]:
    """Each on a connection of its own, so that all workers get some."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return Counter(pool.map(lambda _: r.ask("GET", path).status, range(n)))


@pytest.mark.parametrize("workers", [1, 4])
def test_a_rate_holds_for_all_workers_together(
        start: Start, site: kit.Site, workers: int) -> None:
    r = start(conf(site, workers=workers))
    kit.wait_for("all", lambda: f"serving workers={workers}" in r.log())
    assert burst(r, "/a", 80) == {200: 20, 429: 60}
    assert burst(r, "/b", 20) == {200: 20}
    assert r.metric("kars_limit_refused_total", code="rate_limited") == 60


def test_a_refusal_says_how_long_and_by_what(
        start: Start, site: kit.Site) -> None:
    text = conf(site, routes=(
        "route GET /v1/models { access open; limit_requests class\n"
        "   rate=1/2m burst=0; respond 200 c; }\n"))
    r = start(text)
    assert r.ask("GET", "/v1/models").status == 200
    a = r.ask("GET", "/v1/models")
    assert (a.status, a.code) == (429, "rate_limited")
    assert a.json["error"]["type"] == "rate_limit_error"
    assert 110 <= int(a.get("retry-after")) <= 120
    assert a.get("x-kars-decision") == "blocked"
    n = line(text, "limit_requests class")
    assert f'by=limit rule="limit_requests {site.conf}:{n}"' in r.log()
    assert r.record(a.trace)["rule"] == f"limit_requests {site.conf}:{n}"


def test_the_rate_goes_on(start: Start, site: kit.Site) -> None:
    r = start(conf(site, routes=(
        "route GET /fast { access open; limit_requests remote_addr "
        "rate=20/1s burst=0; respond 200 c; }\n")))
    assert r.ask("GET", "/fast").status == 200
    kit.wait_for("one more", lambda: r.ask("GET", "/fast").status == 200, 5)


def test_outer_limits_are_shared_and_inner_ones_replace_them(
        start: Start, site: kit.Site) -> None:
    r = start(conf(site, "limit_requests class rate=5/1h;", routes=(
        "route GET /c { access open; respond 200 c; }\n"
        "route GET /free { access open; limit_requests off; respond 200 x; }\n"
        )).replace("route GET /healthz { access open;",
                   "route GET /healthz { access open; limit_requests off;"))
    assert burst(r, "/b", 4)[200] == 4
    assert burst(r, "/c", 4) == {200: 1, 429: 3}     # the same count
    assert burst(r, "/a", 10) == {200: 10}           # its own
    assert burst(r, "/free", 30) == {200: 30}


def ask_as(uid: int, path: str, n: int) -> list[int]:
    """A child of another user, which has our code loaded already."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            for _ in range(n):
                os.write(into, b"%d " % wire.ask(path, "GET", "/uid").status)
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as f:
        found = [int(x) for x in f.read().split()]
    os.waitpid(pid, 0)
    return found


def test_user_ids_are_told_apart(start: Start, site: kit.Site) -> None:
    text = conf(site, routes=(
        "route GET /uid { access open; limit_requests remote_uid rate=2/1h; "
        "respond 200 x; }\n")).replace(
        f"listen unix:{site.admin} class=operator;",
        f"listen unix:{site.admin};")
    r = start(text)
    for d in [site.dir, *site.dir.parents]:
        os.chmod(d, os.stat(d).st_mode | 0o055)
    for uid in (54001, 54002):
        assert ask_as(uid, site.admin, 4) == [200, 200, 429, 429]
    assert r.chat().status == 200


@pytest.mark.parametrize("workers", [1, 4])
def test_open_requests_are_limited_and_come_free(
        start: Start, site: kit.Site, backend: Backend, workers: int) -> None:
    r = start(conf(site, workers=workers,
                   chat="limit_connections principal 6; # open\n"))
    kit.wait_for("all", lambda: f"serving workers={workers}" in r.log())
    backend.fault = "slow_first_byte"
    body = wire.request("POST", kit.CHAT, kit.chat_bytes())
    held = [r.wire().send(body) for _ in range(6)]
    backend.wait(lambda: len(backend.requests) == 6)
    for _ in range(8):
        a = r.chat()
        assert (a.status, a.code) == (429, "connections_limited")
        assert a.get("retry-after") == "1"
    n = line(site.conf.read_text(), "# open")
    assert f'rule="limit_connections {site.conf}:{n}"' in r.log()
    backend.fault = None
    backend.release()
    assert [w.answer().status for w in held] == [200] * 6
    kit.wait_for("all came free", lambda: r.chat().status == 200)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: r.chat().status, range(24))) == {200}
    for w in held:
        w.sock.close()


def test_a_worker_that_dies_holds_no_connection(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(conf(site, workers=2, chat="limit_connections principal 3;\n"))
    kit.wait_for("two", lambda: "serving workers=2" in r.log())
    backend.fault = "slow_first_byte"
    body = wire.request("POST", kit.CHAT, kit.chat_bytes())
    held = [r.wire().send(body) for _ in range(3)]
    backend.wait(lambda: len(backend.requests) == 3)
    assert r.chat().status == 429
    for pid in r.workers():
        os.kill(pid, signal.SIGKILL)
    backend.fault = None
    backend.release()
    assert all(w.closed() for w in held)
    kit.wait_for("free again", lambda: r.chat().status == 200)


def test_counts_survive_a_reload(start: Start, site: kit.Site) -> None:
    r = start(conf(site))
    assert burst(r, "/a", 20) == {200: 20}
    r.hup()
    assert r.ask("GET", "/a").status == 429


def test_a_client_that_leaves_gives_back(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(conf(site, chat="limit_connections principal 1;\n"))
    backend.fault = "slow_first_byte"
    w = r.wire().send(wire.request("POST", kit.CHAT, kit.chat_bytes()))
    backend.wait(lambda: len(backend.requests) == 1)
    assert r.chat().status == 429
    w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                      struct.pack("ii", 1, 0))      # a reset, not a FIN
    w.sock.close()
    backend.fault = None
    kit.wait_for("given back", lambda: r.chat().status == 200)
    backend.release()


@pytest.mark.parametrize("text, says", [
    ("limit_requests;", "expected `limit_requests KEY"),
    ("limit_requests colour rate=1/1s;", "expected principal, class"),
    ("limit_requests class burst=2;", "needs rate="),
    ("limit_requests class rate=0/1s;", "rate"),
    ("limit_requests class rate=1/1s burst=2m;", "burst= to 1m"),
    ("limit_requests class rate=1/1s speed=2;", "expected rate="),
    ("limit_connections class;", "expected `limit_connections KEY"),
    ("limit_connections class 0;", "at least one"),
    ("limit_slots 100m;", "limit_slots: at most 16m"),
    ("limit_requests class rate=1/1s;" * 9, "no more than 8"),
])
def test_a_wrong_limit_is_an_error(
        site: kit.Site, text: str, says: str) -> None:
    site.conf.write_text(conf(site, text))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode == 1 and says in p.stderr
    assert "limit_slots" in text or re.search(rf"{site.conf}:\d+:\d+",
                                              p.stderr)
