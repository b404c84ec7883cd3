"""Streamed chat: pieces arrive as they are made, and a stream that ends badly
ends badly for the caller too."""

from __future__ import annotations

import openai
import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core


def stream(r: kit.Router, **over: object) -> wire.Wire:
    return r.wire().send(wire.request(
        "POST", kit.CHAT, kit.chat_bytes(stream=True, **over)))


def test_official_client_streams(router: kit.Router) -> None:
    pieces, usage = [], None
    for event in router.client().chat.completions.create(
            **kit.chat_body(stream=True),
            stream_options={"include_usage": True}):
        usage = event.usage or usage
        pieces += [c.delta.content for c in event.choices if c.delta.content]
    assert pieces == ["tok "] * 8
    assert usage is not None and usage.total_tokens == 11


def test_an_event_leaves_before_the_next_one_is_made(
        router: kit.Router, backend: Backend) -> None:
    backend.hold_after = 1
    with stream(router) as w:
        assert w.head().status == 200
        first = w.chunk()       # the backend still waits for release()
        assert b'"tok "' in first
        backend.release()
        rest = b"".join(w.chunks())
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert len([e for e in kit.events(first + rest) if e["choices"]
                and e["choices"][0]["delta"].get("content")]) == 8


def test_usage_is_asked_for_even_where_the_caller_does_not(
        router: kit.Router, backend: Backend) -> None:
    for options in (None, {"include_usage": False}):
        with stream(router, stream_options=options) as w:
            a = w.answer()
        assert backend.last().json["stream_options"]["include_usage"] is True
        assert router.record(a.trace)["tokens_total"] == 11


@pytest.mark.parametrize("fault", ["reset_mid_stream", "truncated"])
def test_a_stream_that_breaks_does_not_end_well(
        router: kit.Router, backend: Backend, fault: str) -> None:
    backend.fault = fault
    with stream(router) as w:
        a = w.head()
        assert a.status == 200
        body = b""
        try:
            body = b"".join(w.chunks())
        except (wire.Closed, ConnectionResetError):
            pass
        else:   # a whole body must then say what happened, in band
            assert b'"error"' in body
    assert router.record(a.trace)["tokens_charged"] >= backend.generated


def test_official_client_sees_the_break(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "truncated"
    with pytest.raises(openai.APIError):
        for _ in router.client().chat.completions.create(
                **kit.chat_body(stream=True)):
            pass


def test_a_slow_reader_holds_the_backend_back(
        start: Start, site: kit.Site, backend: Backend) -> None:
    """Back-pressure: what nobody reads is not read from the upstream."""
    backend.text = "x" * 64 * 1024
    backend.length = 2000       # 128 MiB in all
    r = start(site.usual(budget="request=100k day=10000k month=100000k"))
    with stream(r, max_tokens=2000) as w:
        w.head()
        before = -1
        while before != backend.completion_tokens:  # until it stands still
            before = backend.completion_tokens
            kit.time.sleep(0.5)
        assert backend.completion_tokens < 1000
        rss = max(int(line.split()[1]) for pid in r.workers()
                  for line in open(f"/proc/{pid}/status")
                  if line.startswith("VmRSS"))
        assert rss < 400 * 1024
    backend.wait(lambda: backend.hangups == 1 or
                 all(c.closed for c in backend.connections))


def test_a_gzip_stream_is_refused(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "gzip"
    with stream(router) as w:
        a = w.answer()
    assert a.status == 502
    assert b"tok " not in a.body


def test_an_error_instead_of_a_stream_keeps_its_status(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "status_429"
    with stream(router) as w:
        a = w.answer()
    assert a.status == 429 and a.json["error"]["code"] == "status_429"


def test_a_stream_works_on_a_connection_that_stays(
        router: kit.Router) -> None:
    with stream(router) as w:
        assert len(kit.events(w.answer().body)) >= 9
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes()))
        assert w.answer().json["usage"]["total_tokens"] == 11
