"""A raw-socket HTTP/1.1 client: sends exactly the bytes it is given, reads
answers strictly, and knows nothing of any HTTP library."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e]*")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e]*)")


class Closed(Exception):
    """The peer closed before the answer was complete."""


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str, default: str | None = None) -> str | None:
        values = [v for n, v in self.headers if n == name]
        return ", ".join(values) if values else default

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of a refusal in the coded OpenAI shape."""
        return self.json["error"]["code"]

    @property
    def trace(self) -> str:
        value = self.get("x-kars-trace-id")
        assert value, "an answer without x-kars-trace-id"
        return value


class Wire:
    """One connection. `address` is (host, port), or the path of a socket."""

    def __init__(self, address: tuple[str, int] | str,
                 timeout: float = 20, tls: ssl.SSLContext | None = None,
                 name: str | None = None,
                 session: ssl.SSLSession | None = None) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket()
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(timeout)
        self.sock.connect(address)
        if tls is not None:  # an end without close_notify is an error
            self.sock = tls.wrap_socket(
                self.sock, server_hostname=name, session=session,
                suppress_ragged_eofs=False)
        self._buf = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Wire:
        self.sock.sendall(data)
        return self

    def slowly(self, data: bytes, size: int = 1) -> Wire:
        """A packet of `size` bytes at a time."""
        for i in range(0, len(data), size):
            self.sock.sendall(data[i:i + size])
            time.sleep(0.0002)
        return self

    def more(self) -> bool:
        data = self.sock.recv(65536)
        self._buf += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        while mark not in self._buf:
            if not self.more():
                raise Closed(f"closed after {self._buf[-200:]!r}")
        found, self._buf = self._buf.split(mark, 1)
        return found

    def exactly(self, n: int) -> bytes:
        while len(self._buf) < n:
            if not self.more():
                raise Closed(f"closed, {n - len(self._buf)} bytes missing")
        data, self._buf = self._buf[:n], self._buf[n:]
        return data

    def head(self) -> Answer:
        lines = self.until(b"\r\n\r\n").split(b"\r\n")
        m = STATUS_LINE.fullmatch(lines[0])
        assert m, f"status line {lines[0]!r}"
        headers = []
        for line in lines[1:]:
            f = FIELD.fullmatch(line)
            assert f, f"field line {line!r}"
            headers.append((f.group(1).decode().lower(),
                            f.group(2).decode().rstrip(" \t")))
        return Answer(int(m.group(1)), headers)

    def chunks(self) -> list[bytes]:
        """The rest of a chunked body, chunk by chunk."""
        parts = []
        while (data := self.chunk()):
            parts.append(data)
        return parts

    def chunk(self) -> bytes:
        size = self.until(b"\r\n")
        assert re.fullmatch(rb"[0-9A-Fa-f]+", size), f"chunk size {size!r}"
        data = self.exactly(int(size, 16))
        assert self.exactly(2) == b"\r\n"
        return data

    def answer(self, method: str = "GET") -> Answer:
        """The next final answer with its whole body."""
        a = self.head()
        while a.status < 200:
            a = self.head()
        lengths = [v for n, v in a.headers if n == "content-length"]
        codings = [v for n, v in a.headers if n == "transfer-encoding"]
        assert not (lengths and codings), f"framed twice: {a.headers}"
        assert len(lengths) < 2, f"two content-length: {a.headers}"
        if method == "HEAD" or a.status in (204, 304):
            return a
        if codings:
            assert codings == ["chunked"]
            a.body = b"".join(self.chunks())
        elif lengths:
            a.body = self.exactly(int(lengths[0]))
        else:
            while self.more():
                pass
            a.body, self._buf = self._buf, b""
        return a

    def closed(self) -> bool:
        """Waits for the peer's end; False if more bytes came instead."""
        if self._buf:
            return False
        try:
            return not self.more()
        except ConnectionResetError:
            return True


def request(method: str, path: str, body: bytes = b"",
            headers: dict[str, str] | None = None, host: str = "router"
            ) -> bytes:
    """A well-formed request; `headers` may replace what it would say."""
    fields = {"host": host}
    if body or method in ("POST", "PUT"):
        fields["content-length"] = str(len(body))
        fields["content-type"] = "application/json"
    fields.update({k.lower(): v for k, v in (headers or {}).items()})
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{k}: {v}" for k, v in fields.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ask(address: tuple[str, int] | str, method: str, path: str,
        body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    with Wire(address) as w:
        return w.send(request(method, path, body, headers)).answer(method)
