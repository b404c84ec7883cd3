"""A client of HTTP/2 that sends exactly the frames it is given: hyperframe
writes them, hpack their headers, and nothing stands between."""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import hpack
from hyperframe.frame import (DataFrame, Frame, GoAwayFrame, HeadersFrame,
                              PingFrame, RstStreamFrame, SettingsFrame,
                              WindowUpdateFrame)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = list[tuple[str | bytes, str | bytes]]


@dataclass
class Stream:
    heads: list[dict[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None    # the error code

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def head(self) -> dict[str, str]:
        return self.heads[-1]

    @property
    def status(self) -> int:
        return int(self.head[":status"]) if self.heads else 0

    @property
    def trace(self) -> str:
        return self.head["x-kars-trace-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def raw(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """A frame that hyperframe would not write."""
    return (struct.pack(">I", len(body))[1:] + bytes([kind, flags])
            + struct.pack(">I", stream) + body)


class Client:
    def __init__(self, address: tuple[str, int], timeout: float = 20,
                 settings: dict[int, int] | None = None,
                 reads: bool = True, window: int = 0) -> None:
        """reads: windows are opened again as data comes; window: of the
        connection, besides the first 65,535 bytes."""
        self.sock = socket.create_connection(address, timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reads = reads
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] = {}
        self.goaways: list[GoAwayFrame] = []
        self.pongs: list[bytes] = []
        self.windows: dict[int, int] = {}   # what the router added to ours
        self.closed = False
        self.answers_pings = True
        self.next_id = 1
        self._buf = b""
        self._block: tuple[int, bytes, bool] | None = None
        self.sock.sendall(PREFACE)
        self.send(SettingsFrame(0, settings or {}))
        if window:
            self.send(WindowUpdateFrame(0, window_increment=window))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # Sending

    def send(self, *frames: Frame | bytes) -> None:
        self.sock.sendall(b"".join(
            f if isinstance(f, bytes) else f.serialize() for f in frames))

    def new_id(self) -> int:
        self.next_id += 2
        return self.next_id - 2

    def block(self, fields: Fields) -> bytes:
        return self.encoder.encode(fields)

    def fields(self, method: str, path: str, extra: Fields = ()) -> Fields:
        return [(":method", method), (":scheme", "http"),
                (":authority", "router"), (":path", path), *extra]

    def open(self, fields: Fields, end: bool = True) -> int:
        """A HEADERS frame of exactly these fields."""
        i = self.new_id()
        f = HeadersFrame(i, self.block(fields), flags=["END_HEADERS"])
        if end:
            f.flags.add("END_STREAM")
        self.streams[i] = Stream()
        self.send(f)
        return i

    def begin(self, method: str, path: str, extra: Fields = (),
              end: bool = False) -> int:
        return self.open(self.fields(method, path, extra), end)

    def data(self, stream: int, body: bytes = b"", end: bool = False) -> None:
        self.send(DataFrame(stream, body,
                            flags=["END_STREAM"] if end else []))

    def upload(self, stream: int, body: bytes, end: bool = True) -> None:
        """A whole body, as fast as the router's window lets."""
        room = self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 65535)
        both = {stream: room, 0: 65535}
        sent = 0
        while sent < len(body):
            n = min([len(body) - sent, 16384] + [
                w + self.windows.get(i, 0) - sent for i, w in both.items()])
            if n <= 0:
                assert self.pump(), "closed in the midst of an upload"
                continue
            self.data(stream, body[sent:sent + n])
            sent += n
        if end:
            self.data(stream, end=True)

    def cancel(self, stream: int, code: int = 8) -> None:
        self.send(RstStreamFrame(stream, error_code=code))

    # Receiving

    def pump(self) -> bool:
        """Takes what comes next; False when nothing comes any more."""
        if self.closed:
            return False
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        self.closed = not data
        self._buf += data
        while len(self._buf) >= 9:
            f, n = Frame.parse_frame_header(memoryview(self._buf[:9]))
            if len(self._buf) < 9 + n:
                break
            f.parse_body(memoryview(self._buf[9:9 + n]))
            self._buf = self._buf[9 + n:]
            self._frame(f)
        return bool(data)

    def _frame(self, f: Frame) -> None:
        s = self.streams.setdefault(f.stream_id, Stream())
        if self._block is not None:
            assert f.type == 9 and f.stream_id == self._block[0]
        if isinstance(f, DataFrame):
            s.body += f.data
            s.ended |= "END_STREAM" in f.flags
            if self.reads and f.flow_controlled_length:
                self._open_windows(f.stream_id, f.flow_controlled_length,
                                   s.ended)
        elif isinstance(f, HeadersFrame) or f.type == 9:
            before = self._block or (0, b"", "END_STREAM" in f.flags)
            self._block = (f.stream_id, before[1] + f.data, before[2])
            if "END_HEADERS" in f.flags:
                s.heads.append({k: v for k, v in
                                self.decoder.decode(self._block[1])})
                s.ended |= self._block[2]
                self._block = None
        elif isinstance(f, RstStreamFrame):
            s.reset = f.error_code
        elif isinstance(f, GoAwayFrame):
            self.goaways.append(f)
        elif isinstance(f, WindowUpdateFrame):
            self.windows[f.stream_id] = (self.windows.get(f.stream_id, 0)
                                         + f.window_increment)
        elif isinstance(f, SettingsFrame) and "ACK" not in f.flags:
            self.settings.update(f.settings)
            self._quietly(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(f, PingFrame):
            if "ACK" in f.flags:
                self.pongs.append(f.opaque_data)
            elif self.answers_pings:
                self._quietly(PingFrame(0, f.opaque_data, flags=["ACK"]))

    def _open_windows(self, stream: int, n: int, ended: bool) -> None:
        self._quietly(WindowUpdateFrame(0, window_increment=n))
        if not ended:
            self._quietly(WindowUpdateFrame(stream, window_increment=n))

    def _quietly(self, f: Frame) -> None:
        try:
            self.send(f)
        except OSError:     # it has closed: what it said is still read
            pass

    def until(self, what: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, "it did not come"
            if not self.pump():
                break
        assert what(), f"closed before: {self.goaways}"

    def finish(self, stream: int) -> Stream:
        self.until(lambda: self.streams[stream].over)
        return self.streams[stream]

    def request(self, method: str, path: str, body: bytes = b"",
                extra: Fields = ()) -> Stream:
        i = self.begin(method, path, extra, end=not body)
        if body:
            self.upload(i, body)
        return self.finish(i)

    def wait_closed(self) -> None:
        while self.pump():
            pass

    @property
    def error(self) -> int | None:
        """Of the last GOAWAY."""
        return self.goaways[-1].error_code if self.goaways else None
