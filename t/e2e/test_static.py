"""Modules that are part of the program: `./configure --with-static-modules`
and `--add-module`. The core's objects are those of the build under test; the
modules are compiled again, as built in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit

pytestmark = pytest.mark.core

GUARD = "t/thirdparty/header-guard"


def run(*args: str, ok: bool = True) -> str:
    p = subprocess.run(args, cwd=kit.TOP, text=True, capture_output=True,
                       timeout=55, env=kit.ENV)
    assert (p.returncode == 0) == ok, f"{args}\n{p.stdout}{p.stderr}"
    return p.stdout + p.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router with every module of ours and one of others in it."""
    objs = tmp_path_factory.mktemp("static")
    run("./configure", f"--objs={objs}", "--with-static-modules=all",
        f"--add-module={GUARD}")
    there = objs / "asan" if kit.BINARY.parent.name == "asan" else objs
    for part in ("core", "llhttp"):     # newer than what configure wrote
        if (kit.BINARY.parent / part).is_dir():
            shutil.copytree(kit.BINARY.parent / part, there / part,
                            copy_function=shutil.copyfile)
    run("make", "-j2", "-f", str(there / "Makefile"), "router")
    return there / "kars-router"


@pytest.fixture
def served(site: kit.Site, built: Path) -> Iterator[kit.Router]:
    empty = site.dir / "no-modules"
    empty.mkdir()
    text = site.usual().replace(f"module_path {kit.MODULES};",
                                f"module_path {empty};")
    text = text.replace("load_module status;",
                        "load_module status;\nload_module header-guard;")
    r = kit.Router(site, text.replace("server {", "server {\n"
                                      "    guard_words hush;", 1),
                   binary=built)
    yield r
    r.stop()


def ours() -> list[str]:
    return sorted(p.parent.name for p in (kit.TOP / "modules").glob("*/*.c"))


def test_the_version_names_what_is_built_in(built: Path) -> None:
    line = [s for s in run(str(built), "-V").split("\n")
            if s.startswith("built in ")]
    assert line == ["built in " + " ".join(
        sorted(set(ours()) | {"header-guard"}))]
    assert not list(built.parent.glob("modules/*.so"))


def test_the_reference_has_their_tables(built: Path) -> None:
    printed = run(str(built), "--directives")
    guard = printed[printed.index("\n## Module header-guard\n"):]
    guard = guard[:guard.index("\n## ", 1)]
    assert "| `guard_words WORD…` |" in guard
    manual = (kit.TOP / "docs/directives.md").read_text()
    assert printed.replace(guard, "") == \
        manual[manual.index("\n## Core: the process"):]


def test_they_serve_without_a_file(served: kit.Router) -> None:
    chat = served.ask("POST", kit.CHAT, kit.chat_bytes())
    assert chat.status == 200
    no = served.ask("POST", kit.CHAT, kit.chat_bytes(),
                    headers={"x-note": "a hush b"})
    assert (no.status, no.code) == (403, "header_refused")
    maps = {line.split()[-1] for line in Path(
        f"/proc/{served.workers()[0]}/maps").read_text().split("\n") if line}
    assert not [m for m in maps if m.endswith(".so") and "kars" in m]


def test_their_order_and_their_services_are_checked(
        site: kit.Site, built: Path) -> None:
    text = site.usual()
    assert "load_module audit;\n" in text
    late = text.replace("load_module audit;\n", "").replace(
        "load_module status;", "load_module status;\nload_module audit;")
    for conf, said in ((late, "must stand"),
                       (text.replace("load_module signing;\n", ""),
                        "signing"),
                       (text.replace("load_module status;",
                                     "load_module status;\n"
                                     "load_module status;"),
                        'module "status" is loaded twice')):
        shared = kit.run_tool("-t", "-c", write(site, conf), check=False)
        p = subprocess.run([built, "-t", "-c", site.conf], text=True,
                           capture_output=True, timeout=20, env=kit.ENV)
        assert p.returncode == 1 and said in p.stderr, p.stderr
        assert p.stderr == shared.stderr


def write(site: kit.Site, text: str) -> str:
    site.conf.write_text(text)
    return str(site.conf)


def test_the_built_in_one_wins_and_a_path_does_not(
        site: kit.Site, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "status.so").write_text("this is no module")
    text = site.usual().replace(f"module_path {kit.MODULES};",
                                f"module_path {folder};")
    write(site, text)
    run(str(built), "-t", "-c", str(site.conf))
    write(site, text.replace("load_module status;",
                             f"load_module {folder}/status.so;"))
    assert "not an ELF file" in run(str(built), "-t", "-c", str(site.conf),
                                    ok=False)


@pytest.mark.parametrize("option,said", [
    ("--with-static-modules=audit,nothing", 'no module "nothing"'),
    ("--add-module=docs", "no C source is there"),
    ("--add-module=modules/audit", 'there is a module "audit" already'),
])
def test_configure_refuses(tmp_path: Path, option: str, said: str) -> None:
    assert said in run("./configure", f"--objs={tmp_path}/o", option, ok=False)
