"""What only a long run shows: a million requests from clients that never try
twice, while the router is reloaded and replaced, and streams that stay open all
the while; and a thousand reloads that leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kit
import wire
from backend import Backend

Start = Callable[..., kit.Router]
pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
TOOLS = Path(os.environ.get("OBJS", "objs")).resolve() / "torture"
REQUESTS, GOVERNED = 1_000_000, 100_000  # each tenth passes the gates
HUPS, UPGRADES = 50, 3


@pytest.fixture
def fast() -> Iterator[int]:
    """The port of a backend that keeps up."""
    with subprocess.Popen([TOOLS / "backend"], stdout=subprocess.PIPE,
                          text=True) as p:
        assert p.stdout is not None
        yield int(p.stdout.readline())
        p.terminate()


def configuration(site: kit.Site, fast: int, streams: int) -> str:
    """The site's port goes to the fast backend, with gates and without them;
    the port `streams` goes to the one that can be held up."""
    quick = site.chat_route(budget="").replace(
        "pass model;", "pass fast;").replace(
        f"host={site.backend.address}", f"host=127.0.0.1:{fast}")
    held = site.chat_route(budget="request=4096 day=1000k month=10000k")
    return ("workers 2;\ndrain_timeout 30m;\n"
            + site.main(sync="interval 200ms")
            + site.upstream("connect=2s first_byte=60s idle=30m")
            + f"upstream fast {{ server 127.0.0.1:{fast}; }}\n"
            + site.server(quick + "route POST /open { access open; "
                          "pass fast; }")
            + f"server {{ listen 127.0.0.1:{streams} class=agent;\n"
              f"timeout send=30m idle=30m;\n{held}\n}}\n")


def begin_stream(port: int) -> tuple[wire.Wire, bytes]:
    """A stream that has begun, and what came of it so far."""
    w = wire.Wire(("127.0.0.1", port))
    w.send(wire.request("POST", kit.CHAT,
                        kit.chat_bytes(stream=True, max_tokens=8)))
    assert w.head().status == 200
    return w, w.chunk()


def test_a_million_requests_over_reloads_and_upgrades(
        start: Start, site: kit.Site, backend: Backend, fast: int,
        tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "kars-router"
    binary.parent.mkdir()
    shutil.copy2(kit.BINARY, binary)
    port = kit.free_port()
    r = start(configuration(site, fast, port), binary=binary)
    backend.hold_after = 2
    streams = [begin_stream(port)]
    with subprocess.Popen(
            [TOOLS / "load", str(site.port), str(REQUESTS), "32", "/open",
             kit.CHAT], stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        told = {"answered": 0}
        for step in range(HUPS + UPGRADES):  # evenly over the load
            due = REQUESTS * (step + 1) // (HUPS + UPGRADES + 2)
            while told["answered"] < due:
                told = json.loads(load.stdout.readline())
            assert load.poll() is None, told
            if step % (HUPS // UPGRADES) == HUPS // UPGRADES - 1:
                r.upgrade()
            else:
                r.hup()
            streams.append(begin_stream(port))
        for line in load.stdout:
            told = json.loads(line)
    print(told)
    assert told["lost"] == 0, told
    assert told["answered"] == REQUESTS

    backend.hold_after = None
    backend.release()
    events = [(first + b"".join(w.chunks())).split(b"\n\n")
              for w, first in streams]
    assert len(events) == HUPS + UPGRADES + 1
    assert {e[-2] for e in events} == {b"data: [DONE]"}
    assert len({len(e) for e in events}) == 1, "some stream lost an event"
    for w, _ in streams:
        w.sock.close()
    kit.wait_for("the old workers have gone", lambda: len(r.workers()) == 2, 60)
    r.stop(signal.SIGQUIT)
    decided = [d for d in r.decisions()
               if d["action"].startswith("inference:")]
    assert len(decided) == GOVERNED + len(streams)
    assert {d["status"] for d in decided} == {200}
    assert len([d for d in decided if d["tokens_total"] == 11]
               ) == len(streams)
    assert "ok" in r.verify().stdout


def test_a_thousand_reloads_leave_nothing_behind(
        start: Start, site: kit.Site, fast: int) -> None:
    r = start(configuration(site, fast, kit.free_port()))

    def held() -> tuple[int, int, int]:
        """The master's descriptors, its memory in KiB, shared memory's."""
        kit.wait_for("settled", lambda: len(r.workers()) == 2, 30)
        folder = Path(f"/proc/{r.process.pid}")
        rollup = (folder / "smaps_rollup").read_text()
        kib = {line.split()[0]: int(line.split()[1])
               for line in rollup.splitlines()[1:]}
        return (len(os.listdir(folder / "fd")), kib["Pss_Anon:"],
                kib["Pss_Shmem:"])

    def reload(n: int) -> None:
        for _ in range(n):
            served = r.log().count("master: serving")
            r.send_signal(signal.SIGHUP)
            kit.wait_for("it serves", lambda: r.log().count(
                "master: serving") > served, 30)

    reload(20)
    before = held()
    reload(1000)
    after = held()
    print(before, after)
    assert after[0] == before[0]
    assert after[1] <= before[1] + 64
    assert after[2] <= before[2] + 64
    assert wire.ask(("127.0.0.1", site.port), "GET", "/healthz").status == 200
