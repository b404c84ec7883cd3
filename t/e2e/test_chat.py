"""Buffered chat through the router: the official client, and what the
backend was and was not sent."""

from __future__ import annotations

import json

import openai
import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core

SECRET = "agent-secret-value"


def test_official_client_gets_answer_usage_and_budget(
        router: kit.Router, backend: Backend) -> None:
    raw = router.client().chat.completions.with_raw_response.create(
        **kit.chat_body("what is one"))
    reply = raw.parse()
    assert reply.choices[0].message.content == "tok " * 8
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 8)
    for span, limit in (("day", 1_000_000), ("month", 10_000_000)):
        get = {w: int(raw.headers[f"x-kars-budget-{span}-{w}"])
               for w in ("limit", "used", "remaining")}
        assert get["limit"] == limit
        assert get["used"] + get["remaining"] == limit
        router.settles(11, span)
    assert backend.last().path == kit.CHAT


def test_models_are_listed(router: kit.Router, backend: Backend) -> None:
    assert [m.id for m in router.client().models.list()] == ["stand-in"]
    assert backend.last().get("authorization") == f"Bearer {backend.key}"


@pytest.mark.parametrize("name", [
    "Authorization", "api-key", "x-api-key", "Cookie", "Proxy-Authorization",
    "X-Api-Key", "AUTHORIZATION", "x-goog-api-key",
])
def test_no_credential_of_the_agent_arrives(
        router: kit.Router, backend: Backend, name: str) -> None:
    a = router.chat(headers={name: f"Bearer {SECRET}"})
    assert a.status == 200, a.body
    assert SECRET.encode() not in backend.connections[-1].raw
    assert backend.last().get("authorization") == f"Bearer {backend.key}"


def test_no_credential_in_log_audit_or_answer(
        router: kit.Router, backend: Backend) -> None:
    ours = backend.key or ""
    answers = [router.chat(headers={"authorization": f"Bearer {SECRET}"}),
               router.chat(model=7, headers={"x-api-key": SECRET}),
               router.ask("GET", "/nowhere", headers={"api-key": SECRET})]
    backend.key = "another"     # the backend now refuses what we send it
    answers.append(router.chat())
    assert answers[-1].status in (401, 502)
    seen = router.log() + json.dumps(router.lines()) + "".join(
        f"{a.headers}{a.body!r}" for a in answers)
    assert ours not in seen
    assert SECRET not in seen


def test_hop_by_hop_headers_stop_here(
        router: kit.Router, backend: Backend) -> None:
    a = router.chat(headers={
        "Connection": "keep-alive, x-private", "X-Private": "1",
        "Keep-Alive": "timeout=5", "TE": "trailers", "X-Public": "2",
        "Accept-Encoding": "gzip, br"})
    assert a.status == 200
    assert backend.last().get("x-private") is None
    assert backend.last().get("x-public") == "2"
    assert backend.last().get("accept-encoding") == "identity"


def test_only_what_is_ours_to_pass_comes_back(router: kit.Router) -> None:
    a = router.chat()
    assert a.get("content-type", "").startswith("application/json")
    assert a.get("set-cookie") is None
    assert a.get("x-upstream") is None


@pytest.mark.parametrize("given, kept", [
    ("abc_DEF-123", True), ("x" * 128, True), ("x" * 129, False),
    ("with space", False), ("semi;colon", False), ("", False),
])
def test_trace_id_is_echoed_or_replaced(
        router: kit.Router, backend: Backend, given: str, kept: bool) -> None:
    a = router.chat(headers={"x-kars-trace-id": given})
    if kept:
        assert a.trace == given
    else:
        assert len(a.trace) == 16 and set(a.trace) <= set("0123456789abcdef")
    assert backend.last().get("x-kars-trace-id") == a.trace
    assert router.record(a.trace)["status"] == 200


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_backends_error_is_passed_with_its_status(
        router: kit.Router, backend: Backend, status: int) -> None:
    backend.fault = f"status_{status}"
    a = router.chat()
    assert a.status == status
    assert a.json["error"]["code"] == f"status_{status}"
    assert router.record(a.trace)["status"] == status


@pytest.mark.parametrize("fault", [
    "reset_before_head", "close_before_head", "garbage_head", "header_flood",
    "length_and_chunked", "gzip",
])
def test_a_broken_answer_is_502_and_recorded(
        router: kit.Router, backend: Backend, fault: str) -> None:
    backend.fault = fault
    a = router.chat()
    assert a.status == 502, (a.status, a.body)
    assert a.json["error"]["type"]
    assert router.record(a.trace)["status"] == 502
    backend.fault = None
    assert router.chat().status == 200


def test_a_redirect_is_never_followed(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "redirect"
    a = router.chat()
    assert a.status in (307, 502)
    assert len(backend.requests) == 1


def test_an_answer_cut_short_is_not_taken_for_whole(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "short_body"
    with pytest.raises(openai.APIError):
        router.client().chat.completions.create(
            **kit.chat_body(), extra_headers={"x-kars-trace-id": "short"})
    record = router.record("short")
    assert record["tokens_charged"] >= backend.generated


def test_bytes_after_an_answer_never_reach_the_next_caller(
        router: kit.Router, backend: Backend) -> None:
    backend.fault, backend.faults_left = "long_body", 1
    first = router.chat("leak leak leak")
    assert first.status in (200, 502)
    second = router.chat("other")
    assert second.status == 200
    assert second.json["usage"]["prompt_tokens"] == 1


def test_a_slow_backend_is_504_in_time(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(site.usual(timeout="connect=1s first_byte=300ms idle=1s"))
    backend.fault = "slow_first_byte"
    a = r.chat()
    assert a.status in (502, 504), a.body
    assert r.record(a.trace)["status"] == a.status


def test_no_backend_at_all_is_502(
        start: Start, site: kit.Site, backend: Backend) -> None:
    port = kit.free_port()
    r = start(site.usual().replace(backend.address, f"127.0.0.1:{port}"))
    a = r.chat()
    assert a.status == 502 and a.json["error"]["type"] == "proxy_error"


def test_connections_to_the_backend_are_reused(
        router: kit.Router, backend: Backend) -> None:
    assert [router.chat().status for _ in range(5)] == [200] * 5
    assert len(backend.connections) == 1


def test_a_backend_that_closes_kept_connections_costs_no_request(
        router: kit.Router, backend: Backend) -> None:
    """Once the FIN has arrived: a request that crosses it on its way is lost
    on purpose, since nobody can know whether a POST was acted on."""
    backend.fault = "close_after"
    for _ in range(30):
        assert router.chat().status == 200
        kit.wait_for("the FIN has arrived", lambda: not established(
            backend.port))
    assert len(backend.requests) == 30


def established(port: int) -> list[str]:
    """Connections of ours to or from a port that no side has closed."""
    lines = open("/proc/net/tcp").read().splitlines()[1:]
    return [x for x in lines if f":{port:04X} " in x and x.split()[3] == "01"]


def test_a_default_model_stands_in_for_a_missing_one(
        start: Start, site: kit.Site, backend: Backend) -> None:
    conf = site.usual(models="stand-in other").replace(
        "inference chat;", "inference chat; default_model other;")
    r = start(conf)
    a = r.chat(model=None)
    assert a.status == 200, a.body
    assert backend.last().json["model"] == "other"
    assert r.record(a.trace)["model"] == "other"
    assert r.chat(model="stand-in").status == 200
    assert backend.last().json["model"] == "stand-in"


@pytest.mark.parametrize("kind, status", [
    ("application/json", 200), ("application/json; charset=utf-8", 200),
    ("Application/JSON", 200), (None, 200), ("text/plain", 415),
    ("application/x-www-form-urlencoded", 415),
])
def test_the_body_must_say_that_it_is_json(
        router: kit.Router, backend: Backend, kind: str | None, status: int
        ) -> None:
    """Absent is JSON (docs/compat.md 8), anything else is not."""
    raw = wire.request("POST", kit.CHAT, kit.chat_bytes(),
                       {"content-type": kind or "-"})
    if kind is None:
        raw = raw.replace(b"content-type: -\r\n", b"")
    with router.wire() as w:
        assert w.send(raw).answer().status == status
    assert len(backend.requests) == (status == 200)
