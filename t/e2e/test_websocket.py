"""WebSockets (RFC 6455) of modules, both sides: a real client and a real
server (websockets), and frames written by hand. The module is
t/e2e/modules/sockets.c, built here from the header alone."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websockets
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

import kit
import wire

pytestmark = pytest.mark.core
Start = Callable[..., kit.Router]
KEY = "dGhlIHNhbXBsZSBub25jZQ=="    # RFC 6455 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    for m in kit.MODULES.glob("*.so"):
        (folder / m.name).symlink_to(m)
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Werror",
         "-shared", "-fPIC", "-I", str(kit.TOP / "core"), "-o",
         str(folder / "sockets.so"), str(kit.TOP / "t/e2e/modules/sockets.c")],
        check=True)
    return folder


def conf(site: kit.Site, modules: Path, far: int = 9, main: str = "") -> str:
    def route(path: str, what: str) -> str:
        return f"route GET {path} {{ access agent; {what} }}\n"
    routes = (
        route("/echo", "sockets echo;")
        + route("/small", "sockets echo; sockets_max_frame 1000; "
                "sockets_max_message 2000;")
        + route("/chat", "sockets echo; sockets_protocol chat;")
        + route("/ping", "sockets echo; sockets_ping 200ms; "
                "sockets_pong 300ms;")
        + route("/talk", "sockets talk;")
        + route("/flood", "sockets flood; sockets_max_unsent 100000;")
        + route("/relay", "sockets relay; sockets_to far;"))
    text = site.usual(routes=routes, main=main + f"""
upstream far {{
    server  127.0.0.1:{far};
    timeout connect=2s;
}}
""")
    text = text.replace(f"module_path {kit.MODULES};",
                        f"module_path {modules};")
    return text.replace("load_module status;",
                        "load_module status;\nload_module sockets;")


@pytest.fixture
def router(start: Start, site: kit.Site, modules: Path) -> kit.Router:
    return start(conf(site, modules))


def open_ws(r: kit.Router, path: str, **options: object) -> ClientConnection:
    options = {"compression": None, "open_timeout": 10, "close_timeout": 10,
               "ping_interval": None, "max_size": None, "proxy": None,
               **options}
    return connect(f"ws://127.0.0.1:{r.site.port}{path}", **options)


def handshake(r: kit.Router, path: str = "/echo", **over: str | None
              ) -> wire.Wire:
    headers: dict[str, str | None] = {
        "upgrade": "websocket", "connection": "Upgrade",
        "sec-websocket-version": "13", "sec-websocket-key": KEY}
    headers.update({k.replace("_", "-"): v for k, v in over.items()})
    w = r.wire()
    w.send(wire.request("GET", path, headers={
        k: v for k, v in headers.items() if v is not None}))
    return w


def raw(r: kit.Router, path: str = "/echo") -> wire.Wire:
    w = handshake(r, path)
    assert w.head().status == 101
    return w


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True,
          rsv: int = 0, mask: bytes | None = b"\x37\xfa\x21\x3d",
          length: bytes | None = None) -> bytes:
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    n = len(payload)
    bit = 0x80 if mask is not None else 0
    if length is None:
        length = (bytes([bit | n]) if n < 126 else
                  bytes([bit | 126]) + n.to_bytes(2, "big") if n < 65536 else
                  bytes([bit | 127]) + n.to_bytes(8, "big"))
    if mask is None:
        return first + length + payload
    return first + length + mask + bytes(
        b ^ mask[i % 4] for i, b in enumerate(payload))


def get_frame(w: wire.Wire) -> tuple[int, bytes]:
    first, second = w.exactly(2)
    assert first & 0x70 == 0 and second & 0x80 == 0, "a masked frame"
    n = second & 0x7f
    if n == 126:
        n = int.from_bytes(w.exactly(2), "big")
        assert n >= 126
    elif n == 127:
        n = int.from_bytes(w.exactly(8), "big")
        assert n >= 65536
    assert first & 0x80, "not whole"
    return first & 0x0f, w.exactly(n)


def close_code(w: wire.Wire) -> int:
    while True:
        opcode, payload = get_frame(w)
        if opcode == 8:
            return int.from_bytes(payload[:2], "big") if payload else 1005


# Handshakes

def test_the_handshake(router: kit.Router) -> None:
    with handshake(router) as w:
        a = w.head()
        assert a.status == 101
        assert a.get("sec-websocket-accept") == ACCEPT
        assert a.get("upgrade") == "websocket"
        assert a.get("connection") == "upgrade"
        assert a.get("sec-websocket-extensions") is None
        assert a.get("content-length") is None
        assert a.get("transfer-encoding") is None


@pytest.mark.parametrize("over,status", [
    ({"sec_websocket_version": "12"}, 426),
    ({"sec_websocket_version": None}, 426),
    ({"sec_websocket_key": None}, 400),
    ({"sec_websocket_key": "short"}, 400),
    ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ="}, 400),
    ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ!!"}, 400),
    ({"upgrade": None}, 400),
    ({"upgrade": "h2c"}, 400),
    ({"connection": "keep-alive"}, 400),
])
def test_a_handshake_that_is_none(
        router: kit.Router, over: dict[str, str | None], status: int) -> None:
    with handshake(router, **over) as w:
        a = w.answer()
        assert a.status == status
        if status == 426:
            assert a.get("sec-websocket-version") == "13"
        assert router.record(a.trace)["status"] == status


def test_the_protocol_is_one_that_was_offered(router: kit.Router) -> None:
    with open_ws(router, "/chat", subprotocols=["chat", "other"]) as ws:
        assert ws.subprotocol == "chat"
        ws.send("x")
        assert ws.recv(10) == "x"
    with handshake(router, "/chat", sec_websocket_protocol="other") as w:
        assert w.answer().status == 500


def test_compression_is_not_agreed_on(router: kit.Router) -> None:
    with open_ws(router, "/echo", compression="deflate") as ws:
        assert ws.protocol.extensions == []
        ws.send("x" * 10000)
        assert ws.recv(10) == "x" * 10000


def test_frames_right_behind_the_handshake(router: kit.Router) -> None:
    head = (f"GET /echo HTTP/1.1\r\nhost: r\r\nupgrade: websocket\r\n"
            f"connection: upgrade\r\nsec-websocket-version: 13\r\n"
            f"sec-websocket-key: {KEY}\r\n\r\n").encode()
    with router.wire() as w:
        w.send(head + frame(1, b"early") + frame(1, b"birds"))
        assert w.head().status == 101
        assert get_frame(w) == (1, b"early")
        assert get_frame(w) == (1, b"birds")


# Frames

@pytest.mark.parametrize("n", [0, 1, 125, 126, 127, 65535, 65536, 1 << 20])
def test_lengths(router: kit.Router, n: int) -> None:
    with open_ws(router, "/echo") as ws:
        for sent in (os.urandom(n), "ä" * (n // 2)):
            ws.send(sent)
            assert ws.recv(20) == sent


def test_many_messages(router: kit.Router) -> None:
    with open_ws(router, "/echo") as ws:
        def send() -> None:
            for i in range(3000):
                ws.send(f"message {i}")
        t = threading.Thread(target=send)
        t.start()
        for i in range(3000):
            assert ws.recv(20) == f"message {i}"
        t.join()


def test_frames_that_come_a_byte_at_a_time(router: kit.Router) -> None:
    with raw(router) as w:
        w.slowly(frame(1, "grüße".encode()) + frame(2, b"x" * 200))
        assert get_frame(w) == (1, "grüße".encode())
        assert get_frame(w) == (2, b"x" * 200)


def test_a_message_in_frames_with_pings_between(router: kit.Router) -> None:
    cut = "a€b".encode()
    with raw(router) as w:
        w.send(frame(1, cut[:2], fin=False) + frame(9, b"are you there")
               + frame(0, cut[2:3], fin=False) + frame(0, b"", fin=False)
               + frame(10, b"nobody asked") + frame(0, cut[3:]))
        assert get_frame(w) == (10, b"are you there")
        assert get_frame(w) == (1, cut)


BAD = {
    "unmasked": (frame(1, b"x", mask=None), 1002),
    "rsv1": (frame(1, b"x", rsv=4), 1002),
    "rsv2": (frame(1, b"x", rsv=2), 1002),
    "rsv3": (frame(2, b"x", rsv=1), 1002),
    "opcode-3": (frame(3, b"x"), 1002),
    "opcode-7": (frame(7, b"x"), 1002),
    "opcode-11": (frame(11), 1002),
    "opcode-15": (frame(15), 1002),
    "long-ping": (frame(9, b"x" * 126), 1002),
    "cut-ping": (frame(9, b"x", fin=False), 1002),
    "cut-close": (frame(8, b"", fin=False), 1002),
    "nothing-to-continue": (frame(0, b"x"), 1002),
    "two-at-once": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "binary-in-text": (frame(1, b"x", fin=False) + frame(2, b"y"), 1002),
    "length-not-minimal": (frame(2, b"x" * 125,
                                 length=b"\xfe\x00\x7d"), 1002),
    "length-64-not-minimal": (frame(
        2, b"x" * 126, length=b"\xff" + (126).to_bytes(8, "big")), 1002),
    "length-negative": (frame(2, b"", length=b"\xff" + b"\xff" * 8), 1002),
    "huge": (frame(2, b"", length=b"\xff" + (1 << 40).to_bytes(8, "big")),
             1009),
    "bad-utf8": (frame(1, b"\xff"), 1007),
    "overlong": (frame(1, b"\xc0\xaf"), 1007),
    "surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "too-high": (frame(1, b"\xf4\x90\x80\x80"), 1007),
    "cut-utf8": (frame(1, b"a\xe2\x82"), 1007),
    "bad-utf8-over-frames": (frame(1, b"\xe2", fin=False)
                             + frame(0, b"\x28\xa1"), 1007),
    "close-of-one": (frame(8, b"\x03"), 1002),
    "close-999": (frame(8, (999).to_bytes(2, "big")), 1002),
    "close-1004": (frame(8, (1004).to_bytes(2, "big")), 1002),
    "close-1005": (frame(8, (1005).to_bytes(2, "big")), 1002),
    "close-1016": (frame(8, (1016).to_bytes(2, "big")), 1002),
    "close-5000": (frame(8, (5000).to_bytes(2, "big")), 1002),
    "close-bad-utf8": (frame(8, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_the_rules_is_closed(
        router: kit.Router, name: str) -> None:
    data, code = BAD[name]
    with raw(router) as w:
        w.send(data)
        assert close_code(w) == code
        assert w.closed()


def test_limits_of_frames_and_messages(router: kit.Router) -> None:
    with raw(router, "/small") as w:
        w.send(frame(2, b"x" * 1000))
        assert get_frame(w) == (2, b"x" * 1000)
        w.send(frame(2, b"a" * 1000, fin=False) + frame(0, b"b" * 1000))
        assert get_frame(w) == (2, b"a" * 1000 + b"b" * 1000)
        w.send(frame(2, b"x" * 1001))
        assert close_code(w) == 1009
        assert w.closed()
    with raw(router, "/small") as w:
        w.send(frame(2, b"a" * 1000, fin=False)
               + frame(0, b"b" * 1000, fin=False) + frame(0, b"c"))
        assert close_code(w) == 1009
    kit.wait_for("told", lambda: router.log().count(
        "sockets: near closed error=90") == 2)


# Closing

@pytest.mark.parametrize("code", [None, 1000, 1001, 1011, 3000, 4999])
def test_the_client_closes(router: kit.Router, code: int | None) -> None:
    with raw(router) as w:
        w.send(frame(8, b"" if code is None else code.to_bytes(2, "big")
                     + "tschüß".encode()))
        assert close_code(w) == (code or 1005)
        assert w.closed()
    kit.wait_for("told", lambda: "near closed error=0" in router.log())


def test_the_module_closes(router: kit.Router) -> None:
    with open_ws(router, "/talk") as ws:
        assert ws.recv(10) == "hello"
        assert ws.recv(10) == "goodbye"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd.code == 4000
        assert closed.value.rcvd.reason == "enough said"
    kit.wait_for("told", lambda: "near closed error=0" in router.log())


def test_the_client_just_goes(router: kit.Router) -> None:
    with raw(router) as w:
        w.send(frame(1, b"x"))
        assert get_frame(w) == (1, b"x")
    kit.wait_for("told", lambda: "near closed error=104" in router.log())


def test_silence_is_pinged_and_then_closed(router: kit.Router) -> None:
    with raw(router, "/ping") as w:
        began = time.monotonic()
        for _ in range(3):      # it answers
            opcode, payload = get_frame(w)
            assert opcode == 9
            w.send(frame(10, payload))
        assert time.monotonic() - began > 0.5
        assert get_frame(w)[0] == 9     # and now it does not
        assert w.closed()
    kit.wait_for("told", lambda: "near closed error=110" in router.log())


def test_room_is_bounded(router: kit.Router) -> None:
    """A module that writes on all the same gets ERROR at max_unsent."""
    with raw(router, "/flood") as w:
        n = int(kit.wait_for("it wrote", lambda: router.log().partition(
            "sockets: wrote n=")[2].split("\n")[0]))
        assert 90 <= n <= 100
        for _ in range(n):
            assert get_frame(w) == (2, b"\0" * 1000)


def test_an_echo_that_nobody_reads_is_bounded(router: kit.Router) -> None:
    with raw(router) as w:
        w.sock.setblocking(False)
        sent, idle, left = 0, 0, b""
        while sent < 64 << 20 and idle < 50:
            left = left or frame(2, b"x" * 60000)
            try:
                n = w.sock.send(left)
                sent, idle, left = sent + n, 0, left[n:]
            except BlockingIOError:
                idle += 1
                time.sleep(0.01)
        assert sent < 48 << 20
        w.sock.setblocking(True)
        for _ in range(20):     # and then it goes on
            assert get_frame(w) == (2, b"x" * 60000)


def test_who_broke_the_rules_is_not_heard_for_long(
        router: kit.Router) -> None:
    with raw(router) as w:
        began = time.monotonic()
        try:
            w.send(frame(3, b"x"))
            while time.monotonic() - began < 4:
                w.send(b"y" * 65536)
        except OSError:
            pass
        assert time.monotonic() - began < 4


# Out

@pytest.fixture
def far() -> Iterator[tuple[Server, list[ServerConnection]]]:
    """The real server: an echo that says where it was asked."""
    seen: list[ServerConnection] = []

    def one(ws: ServerConnection) -> None:
        seen.append(ws)
        for message in ws:
            ws.send(message)

    with serve(one, "127.0.0.1", 0, subprotocols=["chat"], max_size=None,
               compression=None) as server:
        t = threading.Thread(target=server.serve_forever, daemon=True)
        t.start()
        yield server, seen
        server.shutdown()


def test_a_relay_to_a_real_server(
        start: Start, site: kit.Site, modules: Path,
        far: tuple[Server, list[ServerConnection]]) -> None:
    server, seen = far
    r = start(conf(site, modules, server.socket.getsockname()[1]))
    with open_ws(r, "/relay") as ws:
        kit.wait_for("it is open", lambda: "sockets: far open" in r.log())
        kit.wait_for("the far side knows", lambda: seen)
        request = seen[0].request
        assert request.path == "/far?a=b"
        assert seen[0].subprotocol == "chat"
        assert len(base64.b64decode(request.headers["sec-websocket-key"])) \
            == 16
        for n in (0, 1, 126, 70000, 1 << 19):
            sent = os.urandom(n)
            ws.send(sent)
            assert ws.recv(20) == sent
        ws.send("grüße")
        assert ws.recv(10) == "grüße"
    kit.wait_for("both are told", lambda: "near closed error=0" in r.log()
                 and "far closed error=0" in r.log())
    assert seen[0].close_code == 1000


def test_the_far_side_closes(
        start: Start, site: kit.Site, modules: Path,
        far: tuple[Server, list[ServerConnection]]) -> None:
    server, seen = far
    r = start(conf(site, modules, server.socket.getsockname()[1]))
    with open_ws(r, "/relay") as ws:
        kit.wait_for("it is open", lambda: "sockets: far open" in r.log())
        kit.wait_for("the far side knows", lambda: seen)
        seen[0].close(4001, "over there")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd.code == 1000


HEAD = b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
NO_SERVER = {
    "200": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "403": b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n",
    "no-accept": HEAD + b"\r\n",
    "bad-accept": HEAD + b"sec-websocket-accept: " + ACCEPT.encode()
    + b"\r\n\r\n",
    "not-http": b"\0\1\2\3\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", NO_SERVER)
def test_a_server_that_is_none(
        start: Start, site: kit.Site, modules: Path, name: str) -> None:
    import socket
    listener = socket.create_server(("127.0.0.1", 0))

    def one() -> None:
        s, _ = listener.accept()
        with s:
            s.recv(65536)
            s.sendall(NO_SERVER[name])

    threading.Thread(target=one, daemon=True).start()
    r = start(conf(site, modules, listener.getsockname()[1]))
    with raw(r, "/relay") as w:
        assert close_code(w) == 1001
    assert "sockets: far closed error=" in r.log()
    assert "sockets: far open" not in r.log()
    listener.close()


def test_no_server_at_all(
        start: Start, site: kit.Site, modules: Path) -> None:
    r = start(conf(site, modules, kit.free_port()))
    with raw(r, "/relay") as w:
        assert close_code(w) == 1001
    assert "sockets: far closed error=111" in r.log()


# The process

def test_a_reload_keeps_it_until_the_drain_is_over(
        start: Start, site: kit.Site, modules: Path) -> None:
    text = conf(site, modules, main="drain_timeout 2s;")
    r = start(text)
    old = set(r.workers())
    with open_ws(r, "/echo") as ws:
        ws.send("before")
        assert ws.recv(10) == "before"
        r.hup(text)
        for _ in range(10):
            ws.send("still")
            assert ws.recv(10) == "still"
            time.sleep(0.05)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd.code == 1001
    kit.wait_for("the old one is gone", lambda: not old & set(r.workers()))


def test_it_is_recorded_when_it_opens_and_when_it_closes(
        router: kit.Router) -> None:
    with handshake(router) as w:
        a = w.head()
        assert a.status == 101
        opened = router.record(a.trace)     # before the first frame
        assert opened["decision"] == "allow" and opened["code"] == "open"
        w.send(frame(1, b"x" * 10))
        assert get_frame(w) == (1, b"x" * 10)
        w.send(frame(8, b""))
        assert close_code(w) == 1005
    closed, = kit.wait_for("a close record", lambda: [
        x for x in router.lines() if x["action"] == "audit:close"
        and x["trace"] == a.trace])
    assert closed["code"] == "ended"
    assert closed["bytes_in"] == 16 + 6     # frames as they were
    assert closed["bytes_out"] == 12 + 2
    router.record(a.trace)
