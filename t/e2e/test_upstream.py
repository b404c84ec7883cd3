"""Ways to a server: names and their addresses, and what becomes of them when
they change, lead nowhere, or are too many."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kit
import wire
from conftest import Start
from dns import AAAA, Dns

Serve = Callable[..., "Server"]


class Server(http.server.ThreadingHTTPServer):
    """Answers every GET with where it was reached."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = (socket.AF_INET6 if ":" in host
                               else socket.AF_INET)
        self.connections: set[tuple[str, int]] = set()
        self.now = 0        # requests that are being served
        self.most = 0
        self.order: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        super().__init__((host, port), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        s = self.server
        with s.lock:
            s.connections.add(self.client_address[:2])
            s.order.append(self.path)
            s.now += 1
            s.most = max(s.most, s.now)
        s.gate.wait(20)
        with s.lock:
            s.now -= 1
        body = s.server_address[0].encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(host, port) runs a server until the test ends."""
    running: list[Server] = []

    def run(host: str, port: int) -> Server:
        s = Server(host, port)
        threading.Thread(target=s.serve_forever, args=(0.02,),
                         daemon=True).start()
        running.append(s)
        return s

    yield run
    for s in running:
        s.gate.set()
        s.shutdown()
        s.server_close()


@pytest.fixture
def dns() -> Iterator[Dns]:
    d = Dns().start()
    yield d
    d.stop()


@pytest.fixture
def silent() -> Iterator[Callable[[str, int], None]]:
    """silent(host, port): connections there neither stand nor fail. Its queue
    is full, and Linux drops what would be one more."""
    with contextlib.ExitStack() as stack:
        def run(host: str, port: int) -> None:
            s = stack.enter_context(socket.socket())
            s.bind((host, port))
            s.listen(0)
            for _ in range(3):
                c = stack.enter_context(socket.socket())
                c.setblocking(False)
                c.connect_ex((host, port))
        yield run


def conf(site: kit.Site, upstream: str, main: str = "") -> str:
    return (site.main(("identity", "status"), extra=main)
            + f"upstream up {{ {upstream} }}\n"
            + site.server("route GET /up/{rest...} { access open; pass up; }"))


def where(router: kit.Router) -> str:
    a = router.ask("GET", "/up/x")
    assert a.status == 200, a
    return a.body.decode()


@pytest.mark.core
def test_a_changed_address_moves_traffic(site: kit.Site, start: Start,
                                         serve: Serve, dns: Dns) -> None:
    port = kit.free_port()
    serve("127.0.0.2", port)
    serve("127.0.0.3", port)
    dns.table["model.test"] = ["127.0.0.2"]
    router = start(conf(site, f"server model.test:{port}; keepalive 0;"),
                   through=dns.through(site.dir))
    assert where(router) == "127.0.0.2"
    dns.table["model.test"] = ["127.0.0.3"]
    kit.wait_for("the TTL is over", lambda: where(router) == "127.0.0.3")
    dns.table["model.test"] = ["127.0.0.2"]
    kit.wait_for("and again", lambda: where(router) == "127.0.0.2")
    assert "master: serving" in router.log()
    assert router.log().count("master: serving") == 1   # no reload


def test_a_name_is_asked_for_when_its_ttl_is_over(
        site: kit.Site, start: Start, serve: Serve, dns: Dns) -> None:
    port = kit.free_port()
    serve("127.0.0.2", port)
    dns.table["model.test"] = ["127.0.0.2"]
    dns.ttl = 3600
    router = start(conf(site, f"server model.test:{port}; keepalive 0;"),
                   through=dns.through(site.dir))
    for _ in range(20):
        assert where(router) == "127.0.0.2"
    assert len(dns.asked) == 2      # A and AAAA, once
    assert {name for name, _ in dns.asked} == {"model.test"}


def test_search_and_ndots_are_honoured(site: kit.Site, start: Start,
                                       serve: Serve, dns: Dns) -> None:
    port = kit.free_port()
    serve("127.0.0.2", port)
    dns.table["model.prod.svc.test"] = ["127.0.0.2"]
    router = start(conf(site, f"server model.prod:{port};"),
                   through=dns.through(site.dir, "search my.test svc.test\n"
                                       "options ndots:2\n"))
    assert where(router) == "127.0.0.2"
    names = list(dict.fromkeys(name for name, _ in dns.asked))
    assert names == ["model.prod.my.test", "model.prod.svc.test"]


def test_a_name_that_does_not_exist_is_said(site: kit.Site, start: Start,
                                            dns: Dns) -> None:
    router = start(conf(site, "server nobody.test:80;"),
                   through=dns.through(site.dir))
    assert router.ask("GET", "/up/x").status == 502
    assert 'error="No such file or directory"' in router.log()


@pytest.mark.core
def test_both_families_are_tried(site: kit.Site, start: Start, serve: Serve,
                                 dns: Dns) -> None:
    port = kit.free_port()
    dns.table["model.test"] = ["::1", "127.0.0.2"]
    router = start(conf(site, f"server model.test:{port}; keepalive 0;"),
                   through=dns.through(site.dir))
    assert router.ask("GET", "/up/x").status == 502     # nobody is there
    six = serve("::1", port)
    assert where(router) == "::1"
    assert ("model.test", AAAA) in dns.asked
    six.shutdown()
    six.socket.close()
    serve("127.0.0.2", port)
    assert where(router) == "127.0.0.2"


@pytest.mark.core
def test_an_address_that_leads_nowhere_costs_little(
        site: kit.Site, start: Start, serve: Serve, dns: Dns,
        silent: Callable[[str, int], None]) -> None:
    port = kit.free_port()
    dead = ["127.0.0.5", "127.0.0.6"]
    for host in dead:
        silent(host, port)
    serve("::1", port)
    dns.table["model.test"] = [*dead, "::1"]
    router = start(conf(site, f"server model.test:{port}; keepalive 0;"
                              " timeout connect=20s;"),
                   through=dns.through(site.dir))
    begun = time.monotonic()
    assert where(router) == "::1"
    assert time.monotonic() - begun < 5     # a stagger, no time-out


def test_the_first_that_stands_is_taken_and_remembered(
        site: kit.Site, start: Start, serve: Serve, dns: Dns,
        silent: Callable[[str, int], None]) -> None:
    port = kit.free_port()
    silent("127.0.0.5", port)
    serve("127.0.0.6", port)
    dns.table["model.test"] = ["127.0.0.5", "127.0.0.6"]
    dns.ttl = 300
    router = start(conf(site, f"server model.test:{port}; keepalive 0;"),
                   through=dns.through(site.dir))
    assert where(router) == "127.0.0.6"
    begun = time.monotonic()
    for _ in range(10):
        assert where(router) == "127.0.0.6"
    assert time.monotonic() - begun < 2     # ten staggers would be 2.5 s


def ask_later(router: kit.Router, path: str) -> wire.Wire:
    return router.wire().send(wire.request("GET", path))


@pytest.mark.core
def test_what_is_beyond_the_cap_waits_in_order(site: kit.Site, start: Start,
                                               serve: Serve) -> None:
    port = kit.free_port()
    server = serve("127.0.0.2", port)
    server.gate.clear()
    router = start(conf(site, f"server 127.0.0.2:{port}; max_connections 2;"
                        " queue 10 timeout=20s;"))
    held = [ask_later(router, f"/up/{i}") for i in range(2)]
    kit.wait_for("two are served", lambda: server.now == 2)
    waiting = []
    for i in range(2, 7):
        waiting.append(ask_later(router, f"/up/{i}"))
        time.sleep(0.02)        # so that the order of coming is known
    assert server.now == 2
    server.gate.set()
    for w in held + waiting:
        assert w.answer().status == 200
        w.sock.close()
    assert server.most == 2
    assert len(server.connections) <= 2
    # Two are served side by side: each is at most one place early or late.
    came = [int(p.rpartition("/")[2]) for p in server.order]
    assert sorted(came) == list(range(7))
    assert all(abs(n - at) <= 1 for at, n in enumerate(came)), came


@pytest.mark.core
def test_a_full_queue_and_a_long_wait_are_503(site: kit.Site, start: Start,
                                              serve: Serve) -> None:
    port = kit.free_port()
    server = serve("127.0.0.2", port)
    server.gate.clear()
    router = start(conf(site, f"server 127.0.0.2:{port}; max_connections 1;"
                        " queue 1 timeout=700ms;"))
    held = ask_later(router, "/up/held")
    kit.wait_for("one is served", lambda: server.now == 1)
    begun = time.monotonic()
    waits = ask_later(router, "/up/waits")
    time.sleep(0.1)
    assert router.ask("GET", "/up/refused").status == 503
    assert time.monotonic() - begun < 0.7       # at once
    assert waits.answer().status == 503
    assert time.monotonic() - begun >= 0.7
    line = next(i for i, x in enumerate(
        site.conf.read_text().splitlines(), 1) if "queue 1" in x)
    rules = [x for x in router.log().splitlines() if "router: refused" in x]
    assert len(rules) == 2
    assert all(f'rule="queue {site.conf}:{line}"' in x and "code=overloaded "
               in x for x in rules)
    server.gate.set()
    assert held.answer().status == 200
    assert where(router) == "127.0.0.2"
    assert server.order == ["/up/held", "/up/x"]
    held.sock.close()
    waits.sock.close()


def test_who_leaves_the_queue_is_not_served(site: kit.Site, start: Start,
                                            serve: Serve) -> None:
    port = kit.free_port()
    server = serve("127.0.0.2", port)
    server.gate.clear()
    router = start(conf(site, f"server 127.0.0.2:{port}; max_connections 1;"))
    held = ask_later(router, "/up/held")
    kit.wait_for("one is served", lambda: server.now == 1)
    leaves = ask_later(router, "/up/leaves")
    time.sleep(0.1)
    leaves.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                           struct.pack("ii", 1, 0))     # a reset
    leaves.sock.close()
    stays = ask_later(router, "/up/stays")
    time.sleep(0.2)
    server.gate.set()
    assert held.answer().status == 200
    assert stays.answer().status == 200
    assert server.order == ["/up/held", "/up/stays"]
    held.sock.close()
    stays.sock.close()


def health(router: kit.Router) -> dict[str, Any]:
    a = router.operator("GET", "/internal/policy-status")
    (up,) = json.loads(a.body)["deployment_health"]
    return up


@pytest.mark.core
def test_workers_share_what_they_know_of_a_server(
        site: kit.Site, start: Start, serve: Serve) -> None:
    port = kit.free_port()
    text = conf(site, f"server 127.0.0.2:{port}; retry 0; keepalive 0;",
                "workers 4;")
    router = start(text)
    for _ in range(7):      # by whatever workers
        assert router.ask("GET", "/up/x").status == 502
    seen = [health(router) for _ in range(30)]
    assert {h["failure_streak"] for h in seen} == {7}
    assert {h["healthy"] for h in seen} == {False}
    assert len({h["first_failure_at_ms"] for h in seen}) == 1
    router.hup()            # and the workers after them
    assert {health(router)["failure_streak"] for _ in range(10)} == {7}
    serve("127.0.0.2", port)
    assert where(router) == "127.0.0.2"     # all are sick: it is tried
    seen = [health(router) for _ in range(30)]
    assert {h["failure_streak"] for h in seen} == {0}
    assert {h["healthy"] for h in seen} == {True}


def test_a_sick_server_is_spared_by_all_workers(
        site: kit.Site, start: Start, serve: Serve) -> None:
    port = kit.free_port()
    serve("127.0.0.2", port)
    router = start(conf(site, f"server 127.0.0.3:{port}; server 127.0.0.2:"
                        f"{port}; retry 1; keepalive 0;", "workers 4;"))
    for _ in range(60):
        assert where(router) == "127.0.0.2"
    # Three in a row, and what the others had begun meanwhile: nothing here.
    assert router.log().count("router: upstream failed") == 3
