"""HTTP/1.1 as bytes: what is accepted, what is refused, and that nothing is
ever read in two ways."""

from __future__ import annotations

from typing import Any

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: r\r\n\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One router for all of the file: what one test sends must not be able
    to hurt the next."""
    backend = Backend().start()
    site = kit.Site(tmp_path_factory.mktemp("raw"), backend)
    router = kit.Router(site, site.usual(server="body_limit 8m; http2 off;"))
    yield router
    router.stop()
    backend.stop()
    assert backend.violations == []


def head(*fields: bytes, line: bytes = b"GET /healthz HTTP/1.1") -> bytes:
    if line.startswith(b"POST"):
        fields = (*fields, b"content-type: application/json")
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n"


CHAT = kit.chat_bytes()
POST = b"POST /v1/chat/completions HTTP/1.1"
LEN = b"content-length: %d" % len(CHAT)
HOST = b"host: r"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT)

REFUSED: dict[str, bytes] = {
    "cl-and-te": head(HOST, LEN, b"transfer-encoding: chunked",
                      line=POST) + CHUNKED,
    "te-and-cl": head(HOST, b"transfer-encoding: chunked", LEN,
                      line=POST) + CHUNKED,
    "two-cl-differ": head(HOST, LEN, b"content-length: 3", line=POST) + CHAT,
    "two-cl-same": head(HOST, LEN, LEN, line=POST) + CHAT,
    "cl-list": head(HOST, LEN + b", 3", line=POST) + CHAT,
    "cl-plus": head(HOST, b"content-length: +%d" % len(CHAT), line=POST)
    + CHAT,
    "cl-minus": head(HOST, b"content-length: -1", line=POST),
    "cl-hex": head(HOST, b"content-length: 0x10", line=POST) + b"x" * 16,
    "cl-empty": head(HOST, b"content-length:", line=POST),
    "cl-space": head(HOST, b"content-length: 1 2", line=POST) + CHAT,
    "cl-overflow": head(HOST, b"content-length: 18446744073709551617",
                        line=POST) + b"x",
    "te-twice": head(HOST, b"transfer-encoding: chunked",
                     b"transfer-encoding: chunked", line=POST) + CHUNKED,
    "te-unknown": head(HOST, b"transfer-encoding: gzip", line=POST),
    "te-list": head(HOST, b"transfer-encoding: gzip, chunked", line=POST)
    + CHUNKED,
    "te-chunked-twice": head(HOST, b"transfer-encoding: chunked, chunked",
                             line=POST) + CHUNKED,
    "te-vtab": head(HOST, b"transfer-encoding: \x0bchunked", line=POST)
    + CHUNKED,
    "te-on-1.0": head(HOST, b"transfer-encoding: chunked",
                      line=b"POST /v1/chat/completions HTTP/1.0") + CHUNKED,
    "bare-lf": b"GET /healthz HTTP/1.1\nhost: r\n\n",
    "bare-lf-in-field": b"GET /healthz HTTP/1.1\r\nhost: r\nx: y\r\n\r\n",
    "bare-lf-end": b"GET /healthz HTTP/1.1\r\nhost: r\r\n\n",
    "bare-cr": b"GET /healthz HTTP/1.1\r\nhost: r\rx: y\r\n\r\n",
    "obs-fold": head(HOST, b"x-a: b", b" folded"),
    "obs-fold-first": b"GET /healthz HTTP/1.1\r\n host: r\r\n\r\n",
    "space-before-colon": head(HOST, b"x-a : b"),
    "space-before-colon-cl": head(HOST, LEN.replace(b":", b" :"),
                                  line=POST) + CHAT,
    "empty-name": head(HOST, b": b"),
    "no-colon": head(HOST, b"nonsense"),
    "bad-name": head(HOST, b"x(a): b"),
    "utf8-name": head(HOST, "é: b".encode()),
    "nul-in-value": head(HOST, b"x-a: b\0c"),
    "nul-in-name": head(HOST, b"x\0a: b"),
    "control-in-value": head(HOST, b"x-a: b\x01c"),
    "del-in-value": head(HOST, b"x-a: b\x7fc"),
    "no-host": head(),
    "two-hosts": head(HOST, HOST),
    "two-hosts-differ": head(HOST, b"host: other"),
    "bad-host": head(b"host: a b"),
    "host-with-slash": head(b"host: a/b"),
    "http-0.9": b"GET /healthz\r\n\r\n",
    "http-1.2": head(HOST, line=b"GET /healthz HTTP/1.2"),
    "http-2.0": head(HOST, line=b"GET /healthz HTTP/2.0"),
    "h2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-http": head(HOST, line=b"GET /healthz http/1.1"),
    "two-spaces": head(HOST, line=b"GET  /healthz HTTP/1.1"),
    "tab-in-line": head(HOST, line=b"GET\t/healthz HTTP/1.1"),
    "space-at-end": head(HOST, line=b"GET /healthz HTTP/1.1 "),
    "space-in-path": head(HOST, line=b"GET /heal thz HTTP/1.1"),
    "nul-in-path": head(HOST, line=b"GET /heal\0thz HTTP/1.1"),
    "high-byte-in-path": head(HOST, line=b"GET /heal\xffthz HTTP/1.1"),
    "empty-path": head(HOST, line=b"GET  HTTP/1.1"),
    "relative-path": head(HOST, line=b"GET healthz HTTP/1.1"),
    "bad-method": head(HOST, line=b"GE(T /healthz HTTP/1.1"),
    "lower-method": head(HOST, line=b"get /healthz HTTP/1.1"),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64
    + b"\r\n\r\n",
    "chunk-bad-size": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"xyz\r\n\r\n",
    "chunk-plus-size": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk-0x-size": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk-huge-size": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"ffffffffffffffffff\r\n",
    "chunk-no-crlf": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"5\r\nhelloXX0\r\n\r\n",
    "chunk-bare-lf": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"5\nhello\n0\n\n",
    "chunk-empty-size": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"\r\n\r\n",
    "connect": head(b"host: r:80", line=b"CONNECT r:80 HTTP/1.1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(shared: kit.Router, name: str) -> None:
    """A refusal is 4xx or 5xx, and the connection ends with it: what follows
    on it has no certain beginning."""
    asked = len(shared.site.backend.requests)
    with shared.wire() as w:
        w.send(REFUSED[name])
        try:
            a = w.answer()
        except wire.Closed:
            pytest.fail("closed without an answer")
        assert a.status in (400, 404, 405, 413, 414, 431, 501, 505), a
        if a.status in (404, 405):  # a request that was read, and not routed
            assert name in ("connect", "lower-method")
        else:
            assert a.get("connection") == "close"
            assert w.closed()
        assert shared.record(a.trace)["decision"] == "deny"
    assert len(shared.site.backend.requests) == asked
    assert shared.ask("GET", "/healthz").status == 200


ACCEPTED: dict[str, bytes] = {
    "plain": HEALTH,
    "leading-crlf": b"\r\n" + HEALTH,
    "no-space-after-colon": head(b"host:r"),
    "tabs-around-value": head(b"host:\t r \t"),
    "empty-value": head(HOST, b"x-a:"),
    "high-bytes-in-value": head(HOST, b"x-a: \xe9"),
    "host-with-port": head(b"host: r:8443"),
    "host-v6": head(b"host: [::1]:8443"),
    "upper-names": head(b"HOST: r", b"X-A: b"),
    "query": head(HOST, line=b"GET /healthz?a=b HTTP/1.1"),
    "absolute-form": head(HOST, line=b"GET http://r/healthz HTTP/1.1"),
    "http-1.0": head(HOST, line=b"GET /healthz HTTP/1.0"),
    "chunked": head(HOST, b"transfer-encoding: chunked", line=POST) + CHUNKED,
    "chunked-upper": head(HOST, b"Transfer-Encoding: Chunked", line=POST)
    + CHUNKED,
    "chunked-extension": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"%X;a=b;c=\"d\"\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT),
    "chunked-trailer": head(HOST, b"transfer-encoding: chunked", line=POST)
    + b"%x\r\n%s\r\n0\r\nx-trailer: y\r\n\r\n" % (len(CHAT), CHAT),
    "length": head(HOST, LEN, line=POST) + CHAT,
    "length-zeros": head(HOST, b"content-length: 000%d" % len(CHAT),
                         line=POST) + CHAT,
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_accepted(shared: kit.Router, name: str, cut: int) -> None:
    """At once, a byte at a time, seven bytes at a time: the same answer."""
    with shared.wire() as w:
        if cut:
            w.slowly(ACCEPTED[name], cut)
        else:
            w.send(ACCEPTED[name])
        a = w.answer()
        assert a.status == 200, a
        if name == "http-1.0":
            assert w.closed()


def test_trailers_and_extensions_do_not_reach_the_backend(
        shared: kit.Router) -> None:
    with shared.wire() as w:
        assert w.send(ACCEPTED["chunked-trailer"]).answer().status == 200
    backend = shared.site.backend
    assert b"x-trailer" not in backend.connections[-1].raw
    assert backend.last().body == CHAT


@pytest.mark.parametrize("cut", [0, 1, 5, 64])
def test_pipelined_requests_are_answered_in_order(
        shared: kit.Router, cut: int) -> None:
    traces = [f"pipe-{cut}-{i}" for i in range(8)]
    data = b"".join(wire.request("POST", kit.CHAT, CHAT, {
        "x-kars-trace-id": t}) if i % 2 else wire.request(
            "GET", "/healthz", headers={"x-kars-trace-id": t})
        for i, t in enumerate(traces))
    with shared.wire() as w:
        w.slowly(data, cut) if cut else w.send(data)
        answers = [w.answer() for _ in traces]
    assert [a.trace for a in answers] == traces
    assert {a.status for a in answers} == {200}


def test_a_request_is_never_found_inside_a_body(shared: kit.Router) -> None:
    inner = b"GET /internal/policy-status HTTP/1.1\r\nhost: r\r\n\r\n"
    with shared.wire() as w:
        w.send(wire.request("POST", "/v1/nothing", inner))
        a = w.answer()
        assert a.status == 404
        if a.get("connection") == "close":
            assert w.closed()
        else:
            assert w.send(HEALTH).answer().body.strip() == b"ok"


def test_what_follows_a_refused_body_is_no_request(
        shared: kit.Router) -> None:
    """413 by content-length: the body must not be read as a request."""
    with shared.wire() as w:
        w.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n"
               b"content-length: 99999999\r\n\r\n" + HEALTH)
        assert w.answer().status == 413
        assert w.closed()


@pytest.mark.parametrize("fields", [
    [b"x-%d: y" % i for i in range(2000)],
    [b"x-a: " + b"y" * 300_000],
    [b"x" * 300_000 + b": y"],
], ids=["many", "long-value", "long-name"])
def test_an_oversize_head_is_431(
        shared: kit.Router, fields: list[bytes]) -> None:
    with shared.wire() as w:
        try:
            w.send(head(HOST, *fields))
        except (BrokenPipeError, ConnectionResetError):
            pass    # the answer came before we had said it all
        a = w.answer()
        assert a.status in (400, 431), a
        assert a.get("connection") == "close"
    assert shared.ask("GET", "/healthz").status == 200


def test_an_oversize_path_is_414(shared: kit.Router) -> None:
    with shared.wire() as w:
        try:
            w.send(head(HOST, line=b"GET /" + b"a" * 300_000 + b" HTTP/1.1"))
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert w.answer().status in (400, 414, 431)


def test_expect_100_continue(shared: kit.Router) -> None:
    with shared.wire() as w:
        w.send(wire.request("POST", kit.CHAT, CHAT, {
            "expect": "100-continue"})[:-len(CHAT)])
        assert w.head().status == 100
        assert w.send(CHAT).answer().status == 200


def test_no_100_where_the_answer_is_already_no(shared: kit.Router) -> None:
    """After ACCESS, not before: nobody is asked for a body in vain."""
    for path, length, status in (("/v1/nothing", "5", 404),
                                 (kit.CHAT, "99999999", 413)):
        with shared.wire() as w:
            w.send(wire.request("POST", path, b"", {
                "expect": "100-continue", "content-length": length}))
            assert w.head().status == status


def test_another_expectation_is_417(shared: kit.Router) -> None:
    with shared.wire() as w:
        w.send(head(HOST, b"expect: miracles"))
        assert w.answer().status in (400, 417)


def test_keep_alive_and_close(shared: kit.Router) -> None:
    with shared.wire() as w:
        for _ in range(3):
            assert w.send(HEALTH).answer().status == 200
        a = w.send(head(HOST, b"connection: close")).answer()
        assert a.get("connection") == "close"
        assert w.closed()


def test_head_has_no_body(shared: kit.Router) -> None:
    with shared.wire() as w:
        a = w.send(head(HOST, line=b"HEAD /healthz HTTP/1.1")).answer("HEAD")
        assert a.status in (200, 404, 405)
        assert w.send(HEALTH).answer().status == 200


def test_half_closed_clients_get_their_answer(shared: kit.Router) -> None:
    with shared.wire() as w:
        w.send(wire.request("POST", kit.CHAT, CHAT))
        w.sock.shutdown(1)
        assert w.answer().status == 200
        assert w.closed()


def test_many_idle_connections_cost_no_one_else(shared: kit.Router) -> None:
    idle = [shared.wire() for _ in range(200)]
    half = [shared.wire().send(b"GET /healthz HTTP/1.1\r\nho")
            for _ in range(200)]
    assert shared.ask("GET", "/healthz").status == 200
    for w in half:
        assert w.send(b"st: r\r\n\r\n").answer().status == 200
    for w in idle + half:
        w.sock.close()


def test_a_slow_head_is_cut_off(start: Start, site: kit.Site) -> None:
    r = start(site.usual(
        server="body_limit 8m; timeout header=300ms body=300ms;"))
    with r.wire() as w:
        w.send(b"GET /healthz HTTP/1.1\r\n")
        try:
            assert w.answer().status in (400, 408)
        except (wire.Closed, ConnectionResetError):
            pass
