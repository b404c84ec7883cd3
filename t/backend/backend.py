"""A stand-in OpenAI-compatible server that trusts nobody.

It parses HTTP/1.1 by itself and strictly, so that what the router sends is
judged by a second reading of the RFC and not by a library's forgiveness. It
records every byte with its time of arrival, notes each thing that a correct
router would not have sent (`violations`), counts the tokens that it generated
(`prompt_tokens`, `completion_tokens`: exact, also for a stream that was cut
off), and misbehaves on request (`fault`).

It runs on a thread of the test's process: a test sets attributes and reads
them back. Counting rule, easily redone by hand: a prompt token is a word of
the messages' text, a completion token is one "tok " of one choice.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
REQUEST_LINE = re.compile(rb"([A-Z]+) (/[\x21-\x7e]*) HTTP/1\.1")
FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

# Hop-by-hop, or a credential that is the agent's own business: none of these
# may ever arrive here. `transfer-encoding` frames our own hop.
FORBIDDEN = {
    "keep-alive", "te", "trailer", "upgrade", "expect", "api-key",
    "x-api-key", "cookie", "content-encoding",
}

FAULTS = {
    "slow_first_byte",   # no byte of a head until release()
    "reset_before_head", # RST instead of an answer
    "close_before_head", # FIN instead of an answer
    "reset_mid_stream",  # RST after two chunks
    "truncated",         # FIN after two chunks, inside the chunked coding
    "garbage_head",      # not HTTP
    "header_flood",      # a head that has no end
    "short_body",        # fewer bytes than content-length says, then FIN
    "long_body",         # more bytes than content-length says
    "length_and_chunked",
    "gzip",              # a content-encoding that nobody asked for
    "redirect",
    "status_400", "status_401", "status_429", "status_500",
    "close_after",       # says keep-alive, closes right after the answer
    "no_usage",          # an answer without its usage
    "not_json",
    "until_close",       # a body that only the connection's end delimits
    "cut_until_close",   # the same, and over TLS no close_notify after it
}


class BadRequest(Exception):
    """What the router sent is not strict HTTP/1.1."""


class HangUp(Exception):
    """The answer ends here, without the courtesy of an end."""


@dataclass
class Request:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    raw_head: bytes
    first_byte_at: float
    complete_at: float
    connection: int

    def get(self, name: str) -> str | None:
        values = [v for n, v in self.headers if n == name]
        return ", ".join(values) if values else None

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Connection:
    """One TCP connection, with each read and its time."""

    reads: list[tuple[float, bytes]] = field(default_factory=list)
    closed: bool = False
    tls: ssl.SSLObject | None = None

    @property
    def raw(self) -> bytes:
        return b"".join(data for _, data in self.reads)


class Backend:
    def __init__(self, key: str = "backend-key-1",
                 tls: ssl.SSLContext | None = None,
                 host: str = "127.0.0.1") -> None:
        self.key: str | None = key
        self.tls = tls
        self.host = host             # as the router is told to call us
        self.fault: str | None = None
        self.faults_left: int | None = None  # None: every request
        self.length = 8              # tokens that a choice would like to have
        self.hold_after: int | None = None  # chunks; then wait for release()
        self.chunk_pause = 0.0
        self.text = "tok "           # what one completion token reads like
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.violations: list[str] = []
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.hangups = 0             # clients that left during our answer
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()

    # The handle that a test holds

    def start(self) -> Backend:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def stop(self) -> None:
        def finish() -> None:
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
        self._loop.call_soon_threadsafe(finish)
        self._thread.join(10)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def generated(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def bytes_received(self) -> int:
        return sum(len(c.raw) for c in self.connections)

    def release(self) -> None:
        """Lets everything go on that waits."""
        self._loop.call_soon_threadsafe(self._gate.set)

    def wait(self, predicate: Any, seconds: float = 10.0) -> None:
        """Until predicate() holds; looked at whenever something happened."""
        with self._arrived:
            assert self._arrived.wait_for(predicate, seconds), \
                "the backend did not see what the test waits for"

    def last(self) -> Request:
        return self.requests[-1]

    # The server

    def _note(self) -> None:
        with self._arrived:
            self._arrived.notify_all()

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = asyncio.Event()
        self._server = await asyncio.start_server(
            self._client, "127.0.0.1", 0, backlog=512, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            await self._server.serve_forever()
        except asyncio.CancelledError:
            pass

    async def _client(self, reader: asyncio.StreamReader,
                      writer: asyncio.StreamWriter) -> None:
        me = Connection(tls=writer.get_extra_info("ssl_object"))
        index = len(self.connections)
        self.connections.append(me)
        self._note()
        feed = _Feed(reader, me, self._note)
        try:
            while await self._exchange(feed, writer, index):
                pass
        except BadRequest as e:
            self.violations.append(f"{e}: {me.raw[-300:]!r}")
            writer.write(b"HTTP/1.1 400 Bad Request\r\n"
                         b"content-length: 0\r\nconnection: close\r\n\r\n")
        except HangUp:
            pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            me.closed = True
            writer.close()
            self._note()

    async def _exchange(self, feed: _Feed, writer: asyncio.StreamWriter,
                        index: int) -> bool:
        head = await feed.head()
        if head is None:
            return False
        started = feed.head_started
        method, path, headers = parse_head(head)
        body = await feed.body(headers)
        r = Request(method, path, headers, body, head, started,
                    time.monotonic(), index)
        self._judge(r)
        self.requests.append(r)
        self._note()
        fault = self.fault
        if self.faults_left is not None:
            if self.faults_left == 0:
                fault = None
            else:
                self.faults_left -= 1
        return await self._answer(r, writer, fault)

    def _judge(self, r: Request) -> None:
        """What no correct router would have sent."""
        names = [n for n, _ in r.headers]
        for name in names:
            if name in FORBIDDEN or name.startswith("proxy-"):
                self.violations.append(f"{name} arrived at the backend")
        for name in ("host", "content-length", "authorization",
                     "transfer-encoding", "accept-encoding"):
            if names.count(name) > 1:
                self.violations.append(f"{name} arrived twice")
        if r.get("host") != self.address:
            self.violations.append(f"host is {r.get('host')}")
        if (r.get("accept-encoding") or "identity") != "identity":
            self.violations.append(
                f"accept-encoding is {r.get('accept-encoding')}")
        if (r.get("connection") or "keep-alive").lower() not in (
                "keep-alive", "close"):
            self.violations.append(f"connection is {r.get('connection')}")

    # Answers

    async def _answer(self, r: Request, w: asyncio.StreamWriter,
                      fault: str | None) -> bool:
        if fault == "slow_first_byte":
            await self._gate.wait()
        if fault == "reset_before_head":
            reset(w)
        if fault == "close_before_head":
            raise HangUp
        if fault == "garbage_head":
            w.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            await w.drain()
            raise HangUp
        if fault == "header_flood":
            w.write(b"HTTP/1.1 200 OK\r\n")
            for i in range(100_000):
                w.write(b"x-%d: %s\r\n" % (i, b"y" * 100))
                await w.drain()
            raise HangUp
        if self.key is not None and r.get("authorization") != \
                f"Bearer {self.key}":
            return await self._send(r, w, 401, {"error": {
                "message": "no such key", "type": "authentication_error",
                "code": 401}})
        if fault == "redirect":
            w.write(b"HTTP/1.1 307 Temporary Redirect\r\n"
                    b"location: http://127.0.0.1:1/elsewhere\r\n"
                    b"content-length: 0\r\n\r\n")
            await w.drain()
            return True
        if fault and fault.startswith("status_"):
            return await self._send(r, w, int(fault[7:]), {"error": {
                "message": "as asked", "type": "stand_in", "code": fault}})
        if fault in ("until_close", "cut_until_close"):
            return await self._until_close(w, fault)
        if r.method == "GET" and r.path.endswith("/models"):
            return await self._send(r, w, 200, {"object": "list", "data": [
                {"id": "stand-in", "object": "model", "owned_by": "t"}]})
        if r.method == "POST" and r.path.endswith("/chat/completions"):
            return await self._chat(r, w, fault)
        return await self._send(r, w, 404, {"error": {
            "message": f"no {r.path} here", "type": "not_found",
            "code": "not_found"}})

    async def _until_close(self, w: asyncio.StreamWriter,
                           fault: str) -> bool:
        w.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        w.write(b"as far as it goes")
        await w.drain()
        await asyncio.sleep(0.05)
        if fault == "cut_until_close":
            w.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        raise HangUp

    async def _chat(self, r: Request, w: asyncio.StreamWriter,
                    fault: str | None) -> bool:
        body = r.json
        n = body.get("n") or 1
        cap = body.get("max_completion_tokens")
        cap = body.get("max_tokens") if cap is None else cap
        length = self.length if cap is None else min(self.length, cap)
        prompt = sum(len(words(m)) for m in body["messages"])
        self.prompt_tokens += prompt
        if body.get("stream"):
            return await self._stream(r, w, fault, body, n, length, prompt)
        self.completion_tokens += n * length
        reply = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1,
            "model": body.get("model"),
            "choices": [{"index": i, "finish_reason": "stop", "message": {
                "role": "assistant", "content": self.text * length}}
                for i in range(n)],
            "usage": usage(prompt, n * length),
        }
        if fault == "no_usage":
            del reply["usage"]
        return await self._send(r, w, 200, reply, fault)

    async def _send(self, r: Request, w: asyncio.StreamWriter, status: int,
                    reply: Any, fault: str | None = None) -> bool:
        data = json.dumps(reply).encode()
        extra = b""
        if fault == "not_json":
            data = b"<html>a page</html>"
        if fault == "gzip":
            data, extra = gzip.compress(data), b"content-encoding: gzip\r\n"
        said = len(data)
        if fault == "short_body":
            said += 10
        if fault == "long_body":
            said -= 10
        if fault == "length_and_chunked":
            extra = b"transfer-encoding: chunked\r\n"
        w.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nset-cookie: upstream=1\r\n"
                b"x-upstream: yes\r\n%s\r\n" % (status, said, extra))
        w.write(data)
        await w.drain()
        if fault in ("short_body", "close_after", "length_and_chunked"):
            raise HangUp
        return True

    async def _stream(self, r: Request, w: asyncio.StreamWriter,
                      fault: str | None, body: dict[str, Any], n: int,
                      length: int, prompt: int) -> bool:
        extra = b"content-encoding: gzip\r\n" if fault == "gzip" else b""
        w.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n%s\r\n" % extra)
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk",
                "created": 1, "model": body.get("model")}
        made = sent = 0
        gone = w.get_extra_info("socket")
        for step in range(length):
            for i in range(n):
                if w.is_closing() or peer_left(gone):
                    self.hangups += 1
                    raise HangUp
                made += 1
                self.completion_tokens += 1
                await event(w, {**base, "choices": [{
                    "index": i, "finish_reason": None,
                    "delta": {"content": self.text}}]})
                sent += 1
                self._note()
                if fault == "reset_mid_stream" and sent == 2:
                    await asyncio.sleep(0.05)  # let the chunks be read
                    reset(w)
                if fault == "truncated" and sent == 2:
                    raise HangUp
                if self.hold_after is not None and sent == self.hold_after:
                    await self._hold(gone)
                if self.chunk_pause:
                    await asyncio.sleep(self.chunk_pause)
        for i in range(n):
            await event(w, {**base, "choices": [
                {"index": i, "finish_reason": "stop", "delta": {}}]})
        if (body.get("stream_options") or {}).get("include_usage") \
                and fault != "no_usage":
            await event(w, {**base, "choices": [],
                            "usage": usage(prompt, made)})
        await chunk(w, b"data: [DONE]\n\n")
        w.write(b"0\r\n\r\n")
        await w.drain()
        if fault == "close_after":
            raise HangUp
        return True

    async def _hold(self, sock: Any) -> None:
        """Until release(), or until the client has left."""
        while not self._gate.is_set():
            if peer_left(sock):
                self.hangups += 1
                self._note()
                raise HangUp
            await asyncio.sleep(0.01)


class _Feed:
    """Reads one connection, keeps what it read and when."""

    def __init__(self, reader: asyncio.StreamReader, me: Connection,
                 note: Any) -> None:
        self._reader, self._me, self._note = reader, me, note
        self._buf = b""
        self.head_started = 0.0

    async def _more(self) -> bool:
        data = await self._reader.read(65536)
        if data:
            self._me.reads.append((time.monotonic(), data))
            self._buf += data
            self._note()
        return bool(data)

    async def head(self) -> bytes | None:
        while not self._buf:
            if not await self._more():
                return None
        self.head_started = self._me.reads[-1][0]
        return await self._until(b"\r\n\r\n", 64 * 1024)

    async def _until(self, mark: bytes, limit: int) -> bytes:
        while mark not in self._buf:
            if len(self._buf) > limit:
                raise BadRequest("no end of a line or head in sight")
            if not await self._more():
                raise ConnectionError
        found, self._buf = self._buf.split(mark, 1)
        return found

    async def _exactly(self, n: int) -> bytes:
        parts, have = [self._buf], len(self._buf)
        while have < n:
            self._buf = b""
            if not await self._more():
                raise ConnectionError
            parts.append(self._buf)
            have += len(self._buf)
        data = b"".join(parts)
        self._buf = data[n:]
        return data[:n]

    async def body(self, headers: list[tuple[str, str]]) -> bytes:
        lengths = [v for n, v in headers if n == "content-length"]
        codings = [v for n, v in headers if n == "transfer-encoding"]
        if lengths and codings:
            raise BadRequest("both content-length and transfer-encoding")
        if len(lengths) > 1 or len(codings) > 1:
            raise BadRequest("framing said twice")
        if codings:
            if codings[0] != "chunked":
                raise BadRequest(f"transfer-encoding {codings[0]}")
            return await self._chunked()
        if not lengths:
            return b""
        if not re.fullmatch(r"[0-9]{1,15}", lengths[0]):
            raise BadRequest(f"content-length {lengths[0]!r}")
        return await self._exactly(int(lengths[0]))

    async def _chunked(self) -> bytes:
        parts = []
        while True:
            size = await self._until(b"\r\n", 64)
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                raise BadRequest(f"chunk size {size!r}")
            n = int(size, 16)
            data = await self._exactly(n + 2)
            if data[-2:] != b"\r\n":
                raise BadRequest("chunk without its end")
            if n == 0:
                return b"".join(parts)
            parts.append(data[:-2])


def parse_head(head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    lines = head.split(b"\r\n")
    m = REQUEST_LINE.fullmatch(lines[0])
    if m is None:
        raise BadRequest(f"request line {lines[0]!r}")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name) \
                or not FIELD_VALUE.fullmatch(value):
            raise BadRequest(f"field line {line!r}")
        headers.append((name.decode().lower(),
                        value.strip(b" \t").decode("latin-1")))
    if sum(n == "host" for n, _ in headers) != 1:
        raise BadRequest("not exactly one host")
    return m.group(1).decode(), m.group(2).decode(), headers


def words(message: dict[str, Any]) -> list[str]:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content.split()
    return [w for part in content for w in part.get("text", "").split()]


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion}


async def chunk(w: asyncio.StreamWriter, data: bytes) -> None:
    w.write(b"%x\r\n%s\r\n" % (len(data), data))
    await w.drain()


async def event(w: asyncio.StreamWriter, value: Any) -> None:
    await chunk(w, b"data: %s\n\n" % json.dumps(value).encode())


def peer_left(sock: Any) -> bool:
    """True once the peer's FIN or RST has arrived and nothing else did."""
    fd = sock.fileno()
    if fd == -1:
        return True
    dup = socket.socket(fileno=socket.dup(fd))
    try:
        return dup.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        dup.close()


def reset(w: asyncio.StreamWriter) -> None:
    """Closes with RST."""
    sock = w.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                    struct.pack("ii", 1, 0))
    w.transport.abort()
    raise HangUp
