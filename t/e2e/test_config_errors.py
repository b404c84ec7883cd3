"""A wrong configuration: file:line:column, what is wrong, the nearest known
name; and nothing starts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import kit

pytestmark = pytest.mark.core


def refuse(site: kit.Site, conf: str) -> tuple[str, str]:
    """What `-t` says, and what a start says, which must be a refusal too."""
    site.conf.write_text(conf)
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode not in (0, 99), "accepted"
    assert p.stdout == "" or "ok" not in p.stdout
    started = kit.run_tool("-c", str(site.conf), check=False)
    assert started.returncode not in (0, 99), "it started all the same"
    return p.stderr, started.stderr


def place(conf: str, text: str) -> str:
    """line:column of a text in a configuration."""
    before = conf[:conf.index(text)]
    line = before.count("\n") + 1
    return f"{line}:{len(before) - before.rfind(chr(10))}"


@pytest.mark.parametrize("wrong, nearest", [
    ("budgett_limit request=1;", "budget_limit"),
    ("credentail api_key env:X;", "credential"),
    ("modles a;", "models"),
    ("pas model;", "pass"),
])
def test_an_unknown_directive_names_its_place_and_the_nearest(
        site: kit.Site, wrong: str, nearest: str) -> None:
    conf = site.usual(routes=f"route POST /v1/x {{\n   {wrong}\n}}")
    for said in refuse(site, conf):
        assert f"{site.conf}:{place(conf, wrong)}" in said, said
        assert wrong.split()[0] in said
        assert nearest in said


WRONG: dict[str, tuple[str, str]] = {
    # a text of the usual configuration, and what to put in its place
    "misplaced": ("sandbox demo;", "sandbox demo;\npass model;"),
    "duplicate": ("sandbox demo;", "sandbox demo;\nsandbox other;"),
    "missing-value": ("sandbox demo;", "sandbox;"),
    "extra-value": ("sandbox demo;", "sandbox demo other;"),
    "bad-size": ("body_limit 8m;", "body_limit 8q;"),
    "negative": ("body_limit 8m;", "body_limit -8;"),
    "huge": ("body_limit 8m;", "body_limit 99999999999999999999;"),
    "bad-count": ("request=4096", "request=many"),
    "bad-key": ("request=4096", "requests=4096"),
    "unknown-upstream": ("pass model;", "pass modle;"),
    "bad-port": ("class=agent;", "class=agent;\n listen 127.0.0.1:99999;"),
    "bad-class": ("class=agent;", "class=agnet;"),
    "bad-method": ("route POST", "route PO(ST"),
    "bad-path": ("route POST /v1/chat", "route POST v1/chat"),
    "bad-segment": ("/v1/chat/completions", "/v1/{chat/completions"),
    "no-semicolon": ("sandbox demo;", "sandbox demo"),
    "no-brace": ("    route GET /readyz", "    route GET /readyz {\n"),
    "stray-brace": ("sandbox demo;", "sandbox demo; }"),
    "open-quote": ("sandbox demo;", 'sandbox "demo;'),
    "unknown-module": ("load_module status;", "load_module statsu;"),
    "module-twice": ("load_module status;",
                     "load_module status;\nload_module status;"),
    "literal-secret": ("api_key file:", "api_key sk-literal-"),
    "bad-sync": ("audit_sync request;", "audit_sync sometimes;"),
    "bad-timeout": ("connect=2s", "connect=2parsecs"),
    "no-route-twice": ("route GET /v1/models {", "route POST "
                       "/v1/chat/completions { respond 200; }\n"
                       "    route GET /v1/models {"),
    "inference-kind": ("inference chat;", "inference chatt;"),
    "bad-provider": ("provider openai", "provider opnai"),
    "no-such-include": ("sandbox demo;", "include none/such.conf;"),
    "credential-host-port": (" host=127.0.0.1", " host=127.0.0.2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_names_its_place(site: kit.Site, name: str) -> None:
    old, new = WRONG[name]
    conf = site.usual()
    assert old in conf
    conf = conf.replace(old, new, 1)
    for said in refuse(site, conf):
        assert re.search(rf"{re.escape(str(site.conf))}:\d+:\d+", said), said
        assert "Assertion" not in said


def test_the_order_of_modules_is_checked(site: kit.Site) -> None:
    """budget reads what inference decodes: it must be loaded after it."""
    conf = site.usual()
    swapped = conf.replace("load_module inference;\nload_module budget;",
                           "load_module budget;\nload_module inference;")
    assert swapped != conf
    refuse(site, swapped)


def test_a_missing_file_is_named(site: kit.Site) -> None:
    p = kit.run_tool("-t", "-c", str(site.dir / "none.conf"), check=False)
    assert p.returncode != 0 and "none.conf" in p.stderr


def test_an_unreadable_secret_is_named_and_not_shown(site: kit.Site) -> None:
    conf = site.usual()
    site.secret.unlink()
    for said in refuse(site, conf):
        assert "model.key" in said


def test_an_include_is_read_and_its_errors_are_its_own(
        site: kit.Site) -> None:
    part = site.dir / "part.conf"
    part.write_text("# a comment\n  sandbx demo;\n")
    said, _ = refuse(site, site.usual().replace(
        "sandbox demo;", f"include {part};"))
    assert f"{part}:2:3" in said
    part.write_text("sandbox demo;\n")
    site.conf.write_text(site.usual().replace(
        "sandbox demo;", f"include {part};"))
    kit.run_tool("-t", "-c", str(site.conf))


def test_a_good_configuration_passes_and_starts_nothing(
        site: kit.Site) -> None:
    site.conf.write_text(site.usual())
    kit.run_tool("-t", "-c", str(site.conf))
    assert list(site.audit_dir.iterdir()) == []
    assert not Path(site.admin).exists()
    assert not (site.dir / "router.pid").exists()


def test_version_is_said(site: kit.Site) -> None:
    p = kit.run_tool("-V")
    assert re.search(r"\d+\.\d+", p.stdout + p.stderr)


@pytest.mark.parametrize("args", [["-x"], ["-c"], ["nonsense"],
                                  ["audit", "verify"]])
def test_wrong_arguments_are_an_error(args: list[str]) -> None:
    p = kit.run_tool(*args, check=False)
    assert p.returncode not in (0, 99)
    assert p.stderr.strip()


@pytest.mark.parametrize("data", [
    b"", b"\0", b"\xff\xfe", b"{" * 10_000, b"a " * 100_000, b"a" * 1_000_000,
    b";" * 10_000, b"include router.conf;", b'"\\', b"#", b"${",
], ids=lambda d: repr(d[:12]))
def test_nonsense_is_refused_and_harms_nothing(
        site: kit.Site, data: bytes) -> None:
    site.conf.write_bytes(data)
    p = subprocess.run([str(kit.BINARY), "-t", "-c", str(site.conf)],
                       capture_output=True, timeout=30, env=kit.ENV,
                       cwd=site.dir)
    said = p.stderr.decode(errors="replace")
    assert p.returncode in (0, 1, 2), said[-2000:]
    assert p.returncode != 0 or data in (b"", b"#"), said
    assert not kit.SANITIZER.search(said)
