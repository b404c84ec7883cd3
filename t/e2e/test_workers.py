"""Several workers are one router: one budget, one chain of records, and no
request is lost when their number changes or one of them dies."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable

import pytest

import kit
import wire
from backend import Backend

Start = Callable[..., kit.Router]
pytestmark = pytest.mark.core


def many(site: kit.Site, n: int | str, **usual: str) -> str:
    return site.usual(**usual).replace("sandbox demo;",
                                       f"workers {n};\nsandbox demo;")


def chats(r: kit.Router, n: int, at_once: int = 32, **over: object
          ) -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(
            lambda i: r.chat(f"word {i}", **over).status, range(n)))


def test_four_workers_serve(start: Start, site: kit.Site) -> None:
    r = start(many(site, 4))
    kit.wait_for("four", lambda: len(r.workers()) == 4)
    assert set(chats(r, 64)) == {200}


def test_auto_is_one_for_each_processor(start: Start, site: kit.Site) -> None:
    r = start(many(site, "auto"))
    kit.wait_for("all", lambda: len(r.workers()) == os.cpu_count())


@pytest.mark.parametrize("n", ["0", "65", "many", "-1"])
def test_a_number_that_cannot_be_is_refused(site: kit.Site, n: str) -> None:
    site.conf.write_text(many(site, n))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode == 1 and "workers" in p.stderr


def test_they_share_one_budget(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(many(site, 4, budget="request=64 day=500 month=10k"))
    backend.length = 64
    answers = chats(r, 64, 64, max_tokens=64)
    assert set(answers) == {200, 429}
    assert 1 <= answers.count(200) <= 7
    assert backend.generated <= 500 + 66


@pytest.mark.parametrize("sync", ["request", "interval 100ms"])
def test_they_write_one_chain(
        start: Start, site: kit.Site, sync: str) -> None:
    conf = many(site, 4).replace("audit_sync request", f"audit_sync {sync}")
    r = start(conf)
    assert set(chats(r, 200)) == {200}
    r.stop(signal.SIGTERM)
    assert len([d for d in r.decisions() if d["status"] == 200
                and d["action"].startswith("inference:")]) == 200
    assert "ok" in r.verify().stdout


@pytest.mark.parametrize("time", range(3))
def test_the_head_is_signed_whoever_writes_it(
        start: Start, site: kit.Site, time: int) -> None:
    """Mostly one that has written no record itself."""
    r = start(many(site, 4))
    kit.wait_for("four", lambda: "serving workers=4" in r.log())
    assert r.chat().status == 200
    r.stop(signal.SIGTERM)
    assert "signed up to" in r.verify().stdout


def test_one_that_dies_is_replaced_and_its_reservations_are_charged(
        start: Start, site: kit.Site, backend: Backend) -> None:
    r = start(many(site, 3))
    kit.wait_for("three", lambda: "serving workers=3" in r.log())
    backend.fault = "slow_first_byte"
    w = r.wire().send(wire.request("POST", kit.CHAT, kit.chat_bytes()))
    backend.wait(lambda: len(backend.requests) == 1)
    before = set(r.workers())
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    kit.wait_for("three again, all new", lambda: len(r.workers()) == 3
                 and not before & set(r.workers()))
    backend.fault = None
    backend.release()
    assert w.closed()
    kit.wait_for("it answers", lambda: r.chat().status == 200)
    kit.wait_for("charged in full", lambda: r.used() > 11)


def test_another_number_of_workers_loses_no_request(
        start: Start, site: kit.Site) -> None:
    r = start(many(site, 1))
    stop, failures, done = threading.Event(), [], []

    def knock() -> None:
        while not stop.is_set():
            try:
                assert r.chat().status == 200
                done.append(1)
            except Exception as e:
                failures.append(repr(e))

    threads = [threading.Thread(target=knock) for _ in range(4)]
    for t in threads:
        t.start()
    for n in (4, 2, 3, 1):
        loads = r.log().count(f"serving workers={n}")
        r.hup(many(site, n))
        kit.wait_for(f"{n} workers", lambda: r.log().count(
            f"serving workers={n}") > loads and len(r.workers()) == n)
    stop.set()
    for t in threads:
        t.join()
    assert failures == []
    assert len(done) > 20


def test_an_address_that_is_taken_is_an_error(
        start: Start, site: kit.Site) -> None:
    r = start(many(site, 2))
    p = kit.run_tool("-c", str(r.site.conf), check=False)
    assert p.returncode == 1
    assert "Address already in use" in p.stderr
    assert r.chat().status == 200
