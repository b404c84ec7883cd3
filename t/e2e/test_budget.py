"""Budgets: reserved before, settled after, never less than what was made.

The backend counts what it really generated; every test compares with that.
"""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import pytest

import kit
import wire
from backend import Backend
from conftest import Start


def left(a: wire.Answer, span: str = "day") -> tuple[int, int, int]:
    limit, used, remaining = (
        int(a.get(f"x-kars-budget-{span}-{w}") or -1)
        for w in ("limit", "used", "remaining"))
    return limit, used, remaining


def refused(a: wire.Answer, code: str = "budget_exceeded") -> bool:
    if a.status != 429:
        return False
    assert a.json["error"]["type"] == "token_budget_exceeded"
    assert a.code == code
    return True


def streamed(r: kit.Router, **over: Any) -> wire.Wire:
    return r.wire().send(wire.request(
        "POST", kit.CHAT, kit.chat_bytes(stream=True, **over)))


def test_headers_count_the_call_itself_as_reserved(
        router: kit.Router, backend: Backend) -> None:
    """A head leaves before its body is known: it shows what is safe to say."""
    for i in range(3):
        a = router.chat()
        for span, limit in (("day", 1_000_000), ("month", 10_000_000)):
            said, used, remaining = left(a, span)
            assert said == limit and used + remaining == limit
            assert 11 * (i + 1) <= used <= 11 * i + 8 + len(kit.chat_bytes())
        router.settles(11 * (i + 1))


@pytest.mark.core
def test_a_call_is_charged_what_it_used(
        router: kit.Router, backend: Backend) -> None:
    for i in range(1, 4):
        assert router.chat().status == 200
        router.settles(11 * i)
        router.settles(11 * i, "month")
    assert backend.generated == 33


@pytest.mark.core
@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("asked, status", [(4096, 200), (4097, 429)])
def test_the_request_cap_at_its_edge(
        router: kit.Router, backend: Backend, member: str, asked: int,
        status: int) -> None:
    a = router.chat(**{"max_tokens": None, member: asked})
    assert a.status == status, a.body
    if status == 429:
        assert refused(a, "per_request_tokens_exceeded")
        assert backend.connections == []
        assert router.record(a.trace)["decision"] == "deny"


def test_both_caps_named_the_larger_decides_or_400(
        router: kit.Router, backend: Backend) -> None:
    for pair in ({"max_tokens": 8, "max_completion_tokens": 5000},
                 {"max_tokens": 5000, "max_completion_tokens": 8}):
        a = router.chat(**pair)
        if a.status == 200:     # then what went out was capped
            sent = backend.last().json
            assert min(sent.get("max_tokens", 4096),
                       sent.get("max_completion_tokens", 4096)) <= 4096
        else:
            assert a.status in (400, 429)


@pytest.mark.core
@pytest.mark.parametrize("span", ["day", "month"])
def test_a_spent_budget_is_429_with_retry_after(
        start: Start, site: kit.Site, backend: Backend, span: str) -> None:
    limits = {"day": "day=100 month=10k", "month": "day=10k month=100"}[span]
    r = start(site.usual(budget=f"request=64 {limits}"))
    answers = [r.chat(max_tokens=40) for _ in range(20)]
    allowed = [a for a in answers if a.status == 200]
    denied = [a for a in answers if refused(a)]
    assert len(allowed) + len(denied) == 20
    assert allowed and denied
    assert backend.generated <= 100
    most = 86_400 if span == "day" else 31 * 86_400
    for a in denied:
        retry = a.get("retry-after") or ""
        assert retry.isdigit() and 0 < int(retry) <= most
        assert a.get("x-kars-decision") == "blocked"
        assert r.record(a.trace)["code"] == "budget_exceeded"
    assert len(backend.requests) == len(allowed)


@pytest.mark.core
def test_a_refused_call_costs_nothing(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(site.usual(budget="request=64 day=100 month=10k"))
    r.chat()
    for _ in range(10):
        assert refused(r.chat(max_tokens=65), "per_request_tokens_exceeded")
        assert r.chat(model=7).status == 400
    r.chat()
    r.settles(22)


@pytest.mark.core
def test_an_error_of_the_backend_costs_nothing(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "status_500"
    for _ in range(3):
        assert router.chat().status == 500
    router.settles(0)


@pytest.mark.core
def test_without_max_tokens_the_cap_is_sent_upstream(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(site.usual(budget="request=50 day=10k month=100k"))
    backend.length = 1000
    a = r.chat(max_tokens=None)
    assert a.status == 200
    sent = backend.last().json
    caps = [sent[k] for k in ("max_tokens", "max_completion_tokens")
            if k in sent]
    assert caps and max(caps) <= 50
    assert backend.generated == 53
    r.settles(53)


@pytest.mark.core
def test_n_choices_are_all_charged(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(site.usual(budget="request=4096 day=10k month=100k"))
    a = r.chat(n=8)
    assert a.status == 200
    assert backend.generated == 3 + 8 * 8
    r.settles(67)


def test_n_choices_are_reserved_for(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(site.usual(budget="request=4096 day=100 month=100k"))
    assert refused(r.chat(n=8, max_tokens=20))
    assert backend.connections == []


@pytest.mark.core
@pytest.mark.parametrize("over", [
    {}, {"stream_options": {"include_usage": False}},
    {"stream_options": {"include_usage": True}}, {"n": 8},
    {"max_tokens": None}, {"n": 8, "max_tokens": None},
], ids=str)
def test_a_client_that_hangs_up_is_charged_at_least_what_was_made(
        start: Start, site: kit.Site, backend: Backend, over: dict[str, Any]
        ) -> None:
    r = start(site.usual(budget="request=512 day=100k month=1000k"))
    backend.length, backend.hold_after = 60, 10
    with streamed(r, **{"max_tokens": 60, **over}) as w:
        a = w.head()
        assert a.status == 200
        assert w.chunk()
        backend.wait(lambda: backend.completion_tokens >= 10)
    backend.wait(lambda: backend.hangups == 1)
    record = r.record(a.trace)
    assert record["tokens_charged"] >= backend.generated >= 13
    r.settles(record["tokens_charged"])


def test_a_client_that_hangs_up_on_a_buffered_answer_is_charged(
        router: kit.Router, backend: Backend) -> None:
    backend.fault = "slow_first_byte"
    with router.wire() as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(), {
            "x-kars-trace-id": "left-early"}))
        backend.wait(lambda: len(backend.requests) == 1)
    record = router.record("left-early")
    backend.fault = None
    backend.release()
    backend.wait(lambda: backend.completion_tokens >= 8
                 or backend.connections[0].closed)
    assert record["tokens_charged"] >= 11
    router.settles(record["tokens_charged"])


@pytest.mark.core
@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer_without_usage_is_charged_at_least_what_was_made(
        router: kit.Router, backend: Backend, streaming: bool) -> None:
    backend.fault = "no_usage"
    backend.length = 100
    a = router.chat(stream=streaming or None, max_tokens=100)
    assert a.status == 200
    record = router.record(a.trace)
    assert record["tokens_charged"] >= backend.generated
    router.settles(record["tokens_charged"])


@pytest.mark.parametrize("fault", ["reset_mid_stream", "truncated"])
def test_a_stream_that_breaks_is_charged(
        router: kit.Router, backend: Backend, fault: str) -> None:
    backend.fault = fault
    with streamed(router) as w:
        a = w.head()
        try:
            w.chunks()
        except (wire.Closed, ConnectionResetError):
            pass
    record = router.record(a.trace)
    assert record["tokens_charged"] >= backend.generated
    router.settles(record["tokens_charged"])


@pytest.mark.core
def test_parallel_calls_never_overshoot_by_more_than_one_reservation(
        start: Start, site: kit.Site, backend: Backend) -> None:
    """64 at once on a budget for few; the backend spends all that it may."""
    r = start(site.usual(budget="request=64 day=500 month=10k"))
    backend.length = 64
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(
            lambda i: r.chat(f"word {i}", max_tokens=64), range(64)))
    allowed = sum(a.status == 200 for a in answers)
    denied = sum(refused(a) for a in answers)
    assert allowed + denied == 64
    assert 1 <= allowed <= 7
    assert backend.generated <= 500 + 66
    assert len(r.decisions()) >= 64


@pytest.mark.core
def test_what_was_spent_survives_a_restart(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start()
    for _ in range(3):
        r.chat()
    r.stop()
    r = start()
    assert r.used() == 33
    r.chat()
    r.settles(44)


@pytest.mark.core
def test_what_was_spent_survives_a_reload(
        router: kit.Router, backend: Backend) -> None:
    router.chat()
    router.hup()
    router.chat()
    router.settles(22)


@pytest.mark.core
def test_a_kill_charges_what_was_open_in_full(
        start: Start, site: kit.Site, backend: Backend) -> None:
    """kill -9 in the middle of a stream: settled calls count once, the open
    one counts as all that it might have used."""
    r = start(site.usual(budget="request=512 day=100k month=1000k"))
    r.chat()
    r.settles(11)
    backend.hold_after, backend.length = 4, 400
    with streamed(r, max_tokens=400) as w:
        assert w.head().status == 200
        backend.wait(lambda: backend.completion_tokens >= 12)
        r.kill()
    backend.hold_after, backend.length = None, 8
    r = start(site.usual(budget="request=512 day=100k month=1000k"))
    used = r.used()
    assert 11 + 3 + 400 <= used <= 11 + 400 + 100
    r.stop()
    again = start(site.usual(budget="request=512 day=100k month=1000k"))
    assert again.used() == used


def test_a_kill_between_many_calls_forgets_and_doubles_nothing(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start()
    done = 0
    for _ in range(3):
        for _ in range(5):
            assert r.chat().status == 200
            done += 1
        r.settles(11 * done)
        r.kill()
        r = start()
        assert r.used() == 11 * done


def test_a_torn_ledger_starts_and_forgets_nothing(
        start: Start, site: kit.Site, backend: Backend) -> None:
    """A crash may tear the last line that was being written."""
    r = start()
    for _ in range(3):
        r.chat()
    r.settles(33)
    r.kill()
    files = [f for f in site.ledger.rglob("*") if f.is_file()]
    assert files
    for f in files:
        if f.stat().st_size > 4:
            with f.open("r+b") as out:
                out.truncate(f.stat().st_size - 3)
    r = start()
    assert r.used() >= 33


def test_metrics_show_limit_used_remaining(
        router: kit.Router, backend: Backend) -> None:
    router.chat()
    router.settles(11)
    for window, limit in (("day", 1_000_000), ("month", 10_000_000)):
        assert {what: router.metric("kars_budget_tokens", sandbox="demo",
                                    window=window, what=what)
                for what in ("limit", "used", "remaining")} == {
            "limit": limit, "used": 11, "remaining": limit - 11}
    for direction, count in (("input", 3), ("output", 8)):
        assert router.metric("kars_tokens_total", sandbox="demo",
                             direction=direction) == count


def test_a_header_does_not_choose_the_budget(
        router: kit.Router, backend: Backend) -> None:
    router.chat()
    for name in ("x-kars-sandbox", "x-azureclaw-sandbox"):
        a = router.chat(headers={name: "somebody-else"})
        assert a.status == 200
    router.settles(33)


def test_a_usage_in_the_request_means_nothing(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start()
    body = json.loads(kit.chat_bytes())
    body["usage"] = {"total_tokens": 0}
    a = r.ask("POST", kit.CHAT, json.dumps(body).encode())
    assert a.status == 200
    r.settles(11)
