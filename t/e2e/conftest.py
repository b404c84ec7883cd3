"""Fixtures: a backend, a site, and routers that must end well."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent),
                str(Path(__file__).parents[1] / "backend")]

import kit  # noqa: E402
from backend import Backend  # noqa: E402


@pytest.fixture
def backend() -> Iterator[Backend]:
    b = Backend().start()
    yield b
    b.release()
    b.stop()
    assert b.violations == []


@pytest.fixture
def site(tmp_path: Path, backend: Backend) -> kit.Site:
    return kit.Site(tmp_path, backend)


Start = Callable[..., kit.Router]


@pytest.fixture
def start(site: kit.Site) -> Iterator[Start]:
    """start(conf) runs a router; each one is stopped and judged at the end."""
    running: list[kit.Router] = []

    def run(conf: str | None = None, **options: object) -> kit.Router:
        r = kit.Router(site, conf or site.usual(), **options)
        running.append(r)
        return r

    yield run
    failures = []
    for r in running:
        try:
            r.stop()
        except AssertionError as e:
            failures.append(str(e))
            r.kill()
    assert not failures, "\n".join(failures)


@pytest.fixture
def router(start: Start) -> kit.Router:
    return start()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """A failed test shows what its routers logged."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        folder = item.funcargs.get("tmp_path") if hasattr(
            item, "funcargs") else None
        for log in sorted(folder.glob("log.*")) if folder else []:
            text = log.read_text(errors="replace")
            report.sections.append((log.name, text[-6000:]))
