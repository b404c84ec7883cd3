"""HTTP/2 as frames: what is refused, what ends a connection, and that nothing
of it reaches an upstream. Each bad thing leaves one record."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hyperframe.frame import (ContinuationFrame, DataFrame, HeadersFrame,
                              PingFrame, PriorityFrame, RstStreamFrame,
                              SettingsFrame, WindowUpdateFrame)

import kit
from backend import Backend
from frames import Client, Fields, Stream, raw

pytestmark = pytest.mark.core

CALM = 11       # ENHANCE_YOUR_CALM
TYPE = ("content-type", "application/json")
CHAT = kit.chat_bytes()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One router for all of the file: what one test sends must not be able
    to hurt the next."""
    backend = Backend().start()
    site = kit.Site(tmp_path_factory.mktemp("h2raw"), backend)
    router = kit.Router(site, site.usual(server="body_limit 8m; "
                                         "header_limit 16k;"))
    yield router
    assert "ok" in router.verify().stdout
    router.stop()
    backend.stop()
    assert backend.violations == []


def records(r: kit.Router, before: int, n: int = 1) -> list[dict[str, Any]]:
    kit.wait_for("a record", lambda: len(r.decisions()) >= before + n)
    found = r.decisions()[before:]
    assert len(found) == n, found
    return found


def head(*extra: tuple[str | bytes, str | bytes], method: str = "GET",
         path: str = "/healthz", authority: str | None = "r",
         scheme: str | None = "http") -> Fields:
    return [(n, v) for n, v in ((":method", method), (":scheme", scheme),
                                (":authority", authority), (":path", path))
            if v is not None] + list(extra)


POST = {"method": "POST", "path": kit.CHAT}

# What is no request: a stream error, or 400 in words.
REFUSED: dict[str, Fields] = {
    "no-method": head()[1:],
    "no-scheme": head(scheme=None),
    "no-path": head(path=None),
    "no-authority": head(authority=None),
    "empty-path": head(path=""),
    "empty-authority": head(authority=""),
    "empty-method": head(method=""),
    "method-twice": [(":method", "GET"), *head()],
    "path-twice": [(":path", "/"), *head()],
    "authority-twice": [(":authority", "r"), *head()],
    "pseudo-after-field": [*head()[:3], ("x-a", "b"), head()[3]],
    "pseudo-unknown": [(":proto", "x"), *head()],
    "pseudo-of-answers": [(":status", "200"), *head()],
    "websocket": [(":protocol", "websocket"), *head(method="CONNECT")],
    "connect": [(":method", "CONNECT"), (":authority", "example.com:443")],
    "path-without-slash": head(path="healthz"),
    "path-absolute": head(path="http://r/healthz"),
    "path-other-host": head(path="http://other/healthz"),
    "path-space": head(path="/health z"),
    "path-crlf": head(path="/ HTTP/1.1\r\nx: y"),
    "path-tab": head(path="/\t"),
    "path-high": head(path="/\xe9"),
    "path-fragment": head(path="/healthz#a"),
    "path-dots": head(path="/a/../healthz"),
    "path-slash-escaped": head(path="/a%2fb"),
    "path-nul-escaped": head(path="/a%00"),
    "scheme-other": head(scheme="ftp"),
    "scheme-ftp-path": head(scheme="ftp", path="x"),
    "method-space": head(method="GE T"),
    "method-crlf": head(method="GET / HTTP/1.1\r\nx: y\r\n"),
    "method-long": head(method="A" * 40),
    "authority-user": head(authority="a@r"),
    "authority-crlf": head(authority="r\r\nx: y"),
    "authority-space": head(authority="r r"),
    "host-differs": head(("host", "other")),
    "host-twice": head(("host", "r"), ("host", "r")),
    "host-only-twice": head(("host", "r"), ("host", "r"), authority=None),
    "host-bad": head(("host", "a b"), authority=None),
    "upper-name": head((b"X-A", "b")),
    "empty-name": head((b"", "b")),
    "name-colon": head((b"x:a", "b")),
    "name-space": head((b"x a", "b")),
    "name-crlf": head((b"x-a: b\r\nx", "b")),
    "name-nul": head((b"x\0a", "b")),
    "name-high": head((b"x\xe9", "b")),
    "value-cr": head(("x-a", "b\rc")),
    "value-lf": head(("x-a", "b\nc")),
    "value-crlf": head(("x-a", "b\r\ny: z")),
    "value-nul": head(("x-a", "b\0c")),
    "value-space-before": head(("x-a", " b")),
    "value-space-after": head(("x-a", "b ")),
    "connection": head(("connection", "close")),
    "keep-alive": head(("keep-alive", "5")),
    "proxy-connection": head(("proxy-connection", "close")),
    "upgrade": head(("upgrade", "h2c")),
    "te-other": head(("te", "gzip")),
    "transfer-encoding": head(("transfer-encoding", "chunked"), **POST),
    "te-identity": head(("transfer-encoding", "identity"), **POST),
    "expect-other": head(("expect", "miracles")),
    "cl-twice": head(("content-length", "1"), ("content-length", "1"),
                     **POST),
    "cl-differ": head(("content-length", "1"), ("content-length", "2"),
                      **POST),
    "cl-plus": head(("content-length", "+1"), **POST),
    "cl-list": head(("content-length", "1, 1"), **POST),
    "cl-words": head(("content-length", "many"), **POST),
    "cl-overflow": head(("content-length", "18446744073709551617"), **POST),
    "cl-without-body": head(("content-length", "5"), **POST),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(shared: kit.Router, name: str) -> None:
    backend, before = shared.site.backend, len(shared.decisions())
    asked = backend.bytes_received
    with Client(shared.address) as h:
        s = h.finish(h.open(REFUSED[name]))
        if s.heads:
            assert s.status in (400, 417, 431, 501), s
        else:
            assert s.reset == 1, s      # PROTOCOL_ERROR
        assert not h.goaways
        assert h.request("GET", "/healthz").status == 200   # the others go on
    (record,) = records(shared, before)
    assert record["decision"] == "deny" and 400 <= record["status"] < 600
    assert backend.bytes_received == asked


ACCEPTED: dict[str, Fields] = {
    "plain": head(),
    "host-same": head(("host", "r")),
    "host-same-in-capitals": head(("host", "R")),
    "host-only": head(("host", "r"), authority=None),
    "https": head(scheme="https"),
    "te-trailers": head(("te", "trailers")),
    "empty-value": head(("x-a", "")),
    "high-bytes": head(("x-a", b"\xe9")),
    "tab-inside": head(("x-a", "b\tc")),
    "query": head(path="/healthz?a=b"),
    "cookies": head(("cookie", "a=b"), ("x-a", "b"), ("cookie", "c=d")),
    "100-fields": head(*[(f"x-{i}", "y") for i in range(99)]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(shared: kit.Router, name: str) -> None:
    with Client(shared.address) as h:
        assert h.finish(h.open(ACCEPTED[name])).status == 200


def test_head_has_a_length_and_no_body(shared: kit.Router) -> None:
    with Client(shared.address) as h:
        s = h.finish(h.open(head(method="HEAD")))
        assert s.ended and s.body == b"" and s.status in (200, 404)


# Framing: no upstream ever sees a body that is not what its head says.

@pytest.mark.parametrize("said", [0, 1, len(CHAT) - 1, len(CHAT) + 1,
                                  len(CHAT) + 100])
def test_a_length_that_is_wrong(shared: kit.Router, said: int) -> None:
    backend, before = shared.site.backend, len(shared.decisions())
    asked = backend.bytes_received
    inner = (b"POST /admin HTTP/1.1\r\nhost: r\r\ncontent-length: 0\r\n\r\n")
    for body in (CHAT, (inner * 9)[:len(CHAT)]):
        with Client(shared.address) as h:
            i = h.open(head(("content-length", str(said)), TYPE, **POST),
                       end=False)
            h.data(i, body, end=True)
            s = h.finish(i)
            assert s.reset == 1 or s.status == 400, s
            assert h.request("GET", "/healthz").status == 200
    assert {r["decision"] for r in records(shared, before, 2)} == {"deny"}
    assert backend.bytes_received == asked


def test_a_body_cut_by_data_of_another_stream(shared: kit.Router) -> None:
    with Client(shared.address) as h:
        ids = [h.open(head(TYPE, **POST), end=False) for _ in range(3)]
        for at in range(0, len(CHAT), 7):
            for i in ids:
                h.data(i, CHAT[at:at + 7])
        for i in ids:
            h.data(i, end=True)
        for i in ids:
            assert h.finish(i).status == 200
    backend = shared.site.backend
    assert [r.body for r in backend.requests[-3:]] == [CHAT] * 3


def test_padding_is_no_body(shared: kit.Router) -> None:
    with Client(shared.address) as h:
        i = h.open(head(TYPE, ("content-length", str(len(CHAT))), **POST),
                   end=False)
        h.send(DataFrame(i, CHAT, pad_length=200,
                         flags=["PADDED", "END_STREAM"]))
        assert h.finish(i).status == 200
    assert shared.site.backend.last().body == CHAT


# Heads that are too large

def send_block(h: Client, block: bytes, piece: int = 16384) -> int:
    """A header block in as many frames as it takes."""
    i = h.new_id()
    h.streams[i] = Stream()
    parts = [block[at:at + piece] for at in range(0, len(block), piece)]
    frames = [HeadersFrame(i, parts[0], flags=["END_STREAM"])]
    frames += [ContinuationFrame(i, part) for part in parts[1:]]
    frames[-1].flags.add("END_HEADERS")
    h.send(*frames)
    return i


@pytest.mark.parametrize("fields", [
    [(f"x-{i}", "y") for i in range(150)],
    [("x-a", "y" * 20_000)],
    [("x" * 20_000, "y")],
], ids=["many", "long-value", "long-name"])
def test_an_oversize_head_is_431(shared: kit.Router, fields: Fields) -> None:
    before = len(shared.decisions())
    with Client(shared.address) as h:
        i = send_block(h, h.block(head(*fields)))
        s = h.finish(i)
        assert s.status == 431
        assert s.json["error"] is not None
        assert h.request("GET", "/healthz").status == 200
    (record,) = records(shared, before)
    assert record["status"] == 431


def test_an_hpack_bomb_is_cut_off(shared: kit.Router) -> None:
    """4 KB in the table, then one byte for each copy of it."""
    before = len(shared.decisions())
    with Client(shared.address) as h:
        block = h.block(head(("x", "y" * 3000)))
        i = send_block(h, block + b"\xbe" * 12_000)   # 36 MB
        h.until(lambda: h.goaways or h.closed)
        assert h.error == CALM
        h.wait_closed()
        assert not h.streams[i].heads
    (record,) = records(shared, before)
    assert "header_limit" in record["reason"]
    assert shared.ask("GET", "/healthz").status == 200


# Floods

def flood_resets(h: Client) -> None:
    i = h.begin("GET", "/healthz", end=True)
    h.cancel(i)


def flood_bad_streams(h: Client) -> None:
    """The router is made to reset them itself: no difference."""
    i = h.begin("POST", kit.CHAT, [TYPE])
    h.send(WindowUpdateFrame(i, window_increment=0x7fffffff))


def flood_continuations(h: Client) -> None:
    if h.next_id == 1:
        h.send(HeadersFrame(h.new_id(), h.block(head())))
    h.send(ContinuationFrame(1, b""))


def flood_empty(h: Client) -> None:
    if h.next_id == 1:
        h.begin("POST", kit.CHAT, [TYPE])
    h.send(DataFrame(1, b""))


def flood_padding(h: Client) -> None:
    if h.next_id == 1:
        h.begin("POST", kit.CHAT, [TYPE])
    h.send(DataFrame(1, b"", pad_length=10, flags=["PADDED"]))


def flood_late_data(h: Client) -> None:
    if h.next_id == 1:
        h.finish(h.begin("GET", "/healthz", end=True))
    h.send(DataFrame(1, b"x"))


def flood_late_heads(h: Client) -> None:
    if h.next_id == 1:
        h.finish(h.begin("GET", "/healthz", end=True))
    h.send(HeadersFrame(1, h.block(head()), flags=["END_HEADERS"]))


FLOODS: dict[str, tuple[Callable[[Client], None], str]] = {
    "resets": (flood_resets, "resets"),
    "bad-streams": (flood_bad_streams, "resets"),
    "pings": (lambda h: h.send(PingFrame(0, b"12345678")), "pings"),
    "settings": (lambda h: h.send(SettingsFrame(0)), "settings"),
    "continuations": (flood_continuations, "CONTINUATION"),
    "empty-data": (flood_empty, "empty"),
    "padded-data": (flood_padding, "empty"),
    "updates": (lambda h: h.send(WindowUpdateFrame(0, window_increment=1)),
                "updates"),
    "priorities": (lambda h: h.send(PriorityFrame(1, depends_on=3)), "other"),
    "unknown-frames": (lambda h: h.send(raw(0xfb, 0, 0, b"x")), "other"),
    "late-data": (flood_late_data, "other"),
    "late-heads": (flood_late_heads, "other"),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_ends_its_connection(shared: kit.Router, name: str,
                                     reads: bool) -> None:
    flood, limit = FLOODS[name]
    before, logged = len(shared.decisions()), len(shared.log())
    with Client(shared.address) as h:
        h.until(lambda: h.settings)
        try:
            for n in range(20_000):
                flood(h)
                if reads and n % 50 == 49:
                    h.request("GET", "/healthz")
                    if h.goaways:
                        break
        except (OSError, AssertionError):
            pass        # it has had enough
        h.wait_closed()
        assert h.error == CALM or (name, h.error) == ("bad-streams", 1)
    if h.error == 1:
        return      # sent at once they are too many at a time
    log = [line for line in shared.log()[logged:].splitlines()
           if "too many of these" in line]
    assert len(log) == 1 and limit in log[0], log
    kit.wait_for("its record", lambda: [
        r for r in shared.decisions()[before:] if limit in r.get("reason", "")
        and r["decision"] == "deny"])
    assert shared.ask("GET", "/healthz").status == 200


def test_what_is_no_flood_is_served(shared: kit.Router) -> None:
    """Just under each limit, all at once, and the connection still stands."""
    with Client(shared.address) as h:
        for _ in range(150):
            flood_resets(h)
            h.send(PingFrame(0, b"12345678"), RstStreamFrame(h.next_id - 2))
        h.send(*[WindowUpdateFrame(0, window_increment=1)] * 1000)
        h.send(*[PriorityFrame(1, depends_on=3)] * 500)
        i = h.begin("POST", kit.CHAT, [TYPE])
        h.send(*[DataFrame(i, b"")] * 100)
        h.data(i, CHAT, end=True)
        assert h.finish(i).status == 200
        assert len(h.pongs) == 150 and not h.goaways


# Connection errors

BROKEN: dict[str, bytes] = {
    "data-on-0": raw(0, 0, 0, b"x"),
    "headers-on-0": raw(1, 4, 0, b"\x82"),
    "even-stream": raw(1, 5, 2, b"\x82\x84\x86"),
    "frame-too-large": raw(0, 0, 1, b"x" * 20_000),
    "settings-size": raw(4, 0, 0, b"12345"),
    "settings-window": raw(4, 0, 0, struct.pack(">HI", 4, 1 << 31)),
    "ping-size": raw(6, 0, 0, b"1234"),
    "push-promise": raw(5, 4, 1, struct.pack(">I", 2) + b"\x82"),
    "window-overflow": raw(8, 0, 0, struct.pack(">I", 0x7fffffff)),
    "window-zero": raw(8, 0, 0, struct.pack(">I", 0)),
    "continuation-alone": raw(9, 4, 1, b"\x82"),
    "hpack-index": raw(1, 5, 1, b"\xff\xff\xff\xff\x0f"),
    "hpack-index-0": raw(1, 5, 1, b"\x80"),
    "hpack-cut": raw(1, 5, 1, b"\x40\x0a\x78"),
    "hpack-huffman": raw(1, 5, 1, b"\x00\x85\xff\xff\xff\xff\xff\x01x"),
    "hpack-table": raw(1, 5, 1, b"\x3f\xff\xff\x03\x82"),
    "padding-over": raw(1, 0xd, 1, b"\xff\x82"),
    "data-on-idle": raw(0, 0, 1, b"x"),
    "reset-idle": raw(3, 0, 1, struct.pack(">I", 8)),
    "other-between": raw(1, 1, 1, b"\x82") + raw(6, 0, 0, b"12345678"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_connection_ends_with_one_record(
        shared: kit.Router, name: str) -> None:
    before = len(shared.decisions())
    with Client(shared.address) as h:
        h.until(lambda: h.settings)
        h.send(BROKEN[name])
        h.wait_closed()
        assert h.error not in (None, 0)
    (record,) = records(shared, before)
    assert record["decision"] == "deny" and "HTTP/2" in record["reason"]


def test_cut_anywhere(shared: kit.Router) -> None:
    """The whole talk, ended after each of its bytes, by FIN."""
    probe = Client(shared.address)
    i = probe.new_id()
    talk = (HeadersFrame(i, probe.block(probe.fields("POST", kit.CHAT, [TYPE])),
                         flags=["END_HEADERS"]).serialize()
            + DataFrame(i, CHAT, flags=["END_STREAM"]).serialize())
    probe.sock.close()
    for cut in range(0, len(talk), 3):
        with Client(shared.address) as h:
            h.send(talk[:cut])
    with Client(shared.address) as h:
        for at in range(len(talk)):     # and a byte at a time
            h.send(talk[at:at + 1])
        h.next_id = 3
        h.streams[1] = Stream()
        assert h.finish(1).status == 200
    assert shared.ask("GET", "/healthz").status == 200
