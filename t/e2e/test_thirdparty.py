"""What a third party has: an installed router, its header, its pkg-config
file. A module from outside the tree is built with that and loaded by it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit

pytestmark = pytest.mark.core

PREFIX = "/opt/kars"    # not the one that configure was told
SOURCE = kit.TOP / "t/thirdparty/header-guard"
HEADER = kit.TOP / "core/kars_module.h"


# abort() of the kit is not the sanitizer's business.
SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1:handle_abort=0",
              "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}


def run(*args: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    p = subprocess.run(args, cwd=cwd, text=True, capture_output=True,
                       timeout=50, env={**os.environ, **(env or {})})
    assert p.returncode == 0, f"{args}\n{p.stdout}{p.stderr}"
    return p.stdout


class Installed:
    """The tree that `make install DESTDIR= prefix=` makes."""

    def __init__(self, dest: Path) -> None:
        self.dest = dest
        self.top = Path(f"{dest}{PREFIX}")
        self.router = self.top / "bin/kars-router"
        self.modules = self.top / "lib/kars/modules"
        # As for a root file system that is not the running one.
        self.env = {"PKG_CONFIG_LIBDIR": str(self.top / "lib/pkgconfig"),
                    "PKG_CONFIG_SYSROOT_DIR": str(dest)}
        run("make", "-f", str(kit.BINARY.parent / "Makefile"), "install",
            f"DESTDIR={dest}", f"prefix={PREFIX}", cwd=kit.TOP)

    def pkg_config(self, *args: str, of: str = "kars-module") -> str:
        return run("pkg-config", *args, of, cwd=self.dest,
                   env=self.env).strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def built(installed: Installed,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's folder, far from the tree, built as its README says."""
    folder = tmp_path_factory.mktemp("thirdparty") / "header-guard"
    shutil.copytree(SOURCE, folder)
    run("make", f"DESTDIR={installed.dest}", "MODULE_DIR=" + str(
        Path(PREFIX) / "lib/kars/modules"), "header-guard.so", "install",
        cwd=folder, env=installed.env)
    return folder


@pytest.fixture
def guarded(installed: Installed, built: Path, tmp_path: Path
            ) -> Iterator[kit.Router]:
    site = kit.Site(tmp_path)
    r = kit.Router(site, f"""
load_module  identity;
load_module  status;
load_module  header-guard;
load_module  example;           # its filter runs before the guard's
server {{
    listen   127.0.0.1:{site.port} class=agent;
    guard_words  Project-X hush;
    route GET /healthz {{ access open; status healthz; }}
    route GET /metrics {{ access open; status metrics; }}
    route GET /v1/plain {{
        access open; respond 200 "plain"; example_header x-made good; }}
    route GET /v1/leaks {{
        access open; respond 200 "leaks"; example_header x-made "a HUSH b"; }}
    route POST /v1/told {{ access open; respond 200 "told"; }}
}}
""", binary=installed.router)
    yield r
    r.stop()


def test_what_is_installed(installed: Installed) -> None:
    found = {str(p.relative_to(installed.top)) for p in
             installed.top.rglob("*") if p.is_file()}
    built_in = re.findall(r"^built in (.*)$", kit.run_tool("-V").stdout, re.M)
    ours = {f"lib/kars/modules/{p.name}" for p in kit.MODULES.glob("*.so")
            if p.stem not in built_in[0].split()}
    assert "lib/kars/modules/identity.so" in ours or "identity" in built_in[0]
    samples = {f"share/kars/conf/{p.relative_to(kit.TOP / 'conf')}"
               for p in (kit.TOP / "conf").rglob("*") if p.is_file()}
    assert found - {"lib/kars/modules/header-guard.so"} == ours | samples | {
        "bin/kars-router", "include/kars_module.h", "include/kars_test.h",
        "lib/libkars-test.a", "lib/pkgconfig/kars-module.pc",
        "lib/pkgconfig/kars-test.pc"}
    assert (installed.top / "include/kars_module.h").read_bytes() == \
        HEADER.read_bytes()
    assert installed.router.stat().st_mode & stat.S_IXOTH
    for path in installed.top.rglob("*"):   # nothing that others may write
        assert path.stat().st_mode & 0o022 == 0, path


def test_the_pkg_config_file(installed: Installed) -> None:
    assert installed.pkg_config("--cflags") == \
        f"-I{installed.top}/include"
    assert installed.pkg_config("--variable=moduledir").endswith(
        f"{PREFIX}/lib/kars/modules")
    numbers = re.findall(r"#define KARS_ABI_M[A-Z]+ +(\d+)",
                         HEADER.read_text())
    assert installed.pkg_config("--variable=abi") == ".".join(numbers)
    version = subprocess.run([installed.router, "-V"], text=True, check=True,
                             capture_output=True, env=kit.ENV).stdout
    assert version.startswith(
        f"kars-router {installed.pkg_config('--modversion')}\n")
    # Moved with its modules, it finds those and not where configure was told.
    assert f"modules {installed.top}/bin/../lib/kars/modules\n" in version


def test_only_the_installed_header_is_used(installed: Installed, built: Path
                                           ) -> None:
    rule = run("sh", "-c",
               "cc -M $(pkg-config --cflags kars-module) header_guard.c",
               cwd=built, env=installed.env)
    headers = [w for w in rule.split() if "kars" in Path(w).name]
    assert headers == [str(installed.top / "include/kars_module.h")]
    assert str(kit.TOP) not in rule


def test_its_unit_test_needs_only_what_is_installed(
        installed: Installed, built: Path) -> None:
    """In the same folder, with the installed kit alone."""
    run("make", "test", cwd=built, env={**installed.env, **SANITIZERS})
    rule = run("sh", "-c", "cc -M $(pkg-config --cflags kars-test) "
               "test_header_guard.c", cwd=built, env=installed.env)
    headers = [w for w in rule.split() if "kars" in Path(w).name]
    assert headers == [str(installed.top / "include/kars_test.h"),
                       str(installed.top / "include/kars_module.h")]
    # It is a test: of a module that lets pass, it says where and what.
    code = (built / "header_guard.c").read_text()
    lax = code.replace("strncasecmp", "strncmp")
    assert lax != code
    (built / "lax.c").write_text(lax)
    said = run("sh", "-c", "cc -std=gnu11 $(pkg-config --cflags kars-test) "
               "-o lax test_header_guard.c lax.c $(pkg-config --libs "
               "kars-test) && ! ./lax 2>&1", cwd=built,
               env={**installed.env, **SANITIZERS})
    assert re.search(r"^test_header_guard\.c:\d+: does not hold: ", said, re.M)


def test_the_manual_s_module_passes_the_manual_s_test(
        installed: Installed, tmp_path: Path) -> None:
    """docs/modules.md, sections 1 and 16, as a stranger would type them."""
    manual = (kit.TOP / "docs/modules.md").read_text()
    blocks = re.findall(r"```c\n(.*?)```", manual, re.S)
    (tmp_path / "hello.c").write_text(
        next(b for b in blocks if "KARS_MODULE(hello)" in b))
    (tmp_path / "test_hello.c").write_text(
        next(b for b in blocks if "#include <kars_test.h>" in b))
    line = next(s for s in manual.split("\n")
                if s.startswith("cc ") and "kars-test" in s)
    run("sh", "-c", f"{line} && ./test_hello", cwd=tmp_path,
        env={**installed.env, **SANITIZERS})


def test_the_kit_shows_no_other_name(installed: Installed) -> None:
    """A module may call its functions as it likes."""
    names = run("nm", "--defined-only", "-g", "libkars-test.a",
                cwd=installed.top / "lib").split("\n")
    names = [n.split()[2] for n in names if len(n.split()) == 3]
    assert "kars_test_create" in names
    assert all(n.startswith("kars_test_") for n in names)


def test_the_kit_says_what_it_cannot_do(installed: Installed,
                                        tmp_path: Path) -> None:
    (tmp_path / "t.c").write_text("""
#include <kars_test.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    puts(kars_test_load_error("route GET / { nonsense 1; }",
                              (const kars_module_t *const[]){ NULL }));
    fflush(stdout);
    kars_test_t *t = kars_test("route GET / { respond 200; }",
                               &kars_test_open);
    kars_test_ask(t, "GET", "/", NULL, NULL);
    printf("%d %s\\n", kars_test_status(t), kars_test_fact(t, "principal"));
    kars_test_destroy(t);
    fflush(stdout);
    kars_test("nonsense;", &kars_test_open);
    return 0;
}
""")
    said = run("sh", "-c", "cc -std=gnu11 $(pkg-config --cflags kars-test) "
               "-o t t.c $(pkg-config --libs kars-test) && ! ./t 2>&1",
               cwd=tmp_path, env={**installed.env, **SANITIZERS})
    lines = said.split("\n")
    assert 'unknown directive "nonsense"' in lines[0]
    assert lines[1] == "200 someone"
    assert 'unknown directive "nonsense"' in said.split("someone")[1]
    assert "the configuration does not load" in said


def test_its_hook_refuses_a_header(guarded: kit.Router) -> None:
    for value in ("hush", "about project-x, then"):
        a = guarded.ask("GET", "/v1/plain", headers={"x-note": value})
        assert (a.status, a.code) == (403, "header_refused")
    a = guarded.ask("GET", "/v1/plain", headers={"x-note": "project y"})
    assert (a.status, a.body) == (200, b"plain")
    assert guarded.metric("kars_header_guard_total", where="request") == 2
    # The line of the directive that decided, in the router's words.
    line = next(i for i, t in enumerate(
        guarded.site.conf.read_text().split("\n"), 1) if "guard_words" in t)
    assert f"router.conf:{line}" in guarded.log()


def test_its_watch_reads_a_member(guarded: kit.Router) -> None:
    told = guarded.ask("POST", "/v1/told", b'{"user": "me", "x": "hush"}')
    assert (told.status, told.body) == (200, b"told")
    no = guarded.ask("POST", "/v1/told", b'{"user": "HU\\u0053H"}')
    assert (no.status, no.code) == (403, "member_refused")
    assert guarded.ask("POST", "/v1/told", b'{"user": "').status == 400
    long = b'{"user": "%s"}' % (b"x" * 257)
    assert guarded.ask("POST", "/v1/told", long).status == 400
    assert guarded.metric("kars_header_guard_total", where="member") == 1


def test_its_filter_cleans_a_reply(guarded: kit.Router) -> None:
    a = guarded.ask("GET", "/v1/plain")
    assert (a.status, a.get("x-made")) == (200, "good")
    a = guarded.ask("GET", "/v1/leaks")
    assert (a.status, a.body, a.get("x-made")) == (200, b"leaks", None)
    assert guarded.metric("kars_header_guard_total", where="reply") == 1


def test_a_module_in_cplusplus(installed: Installed, tmp_path: Path) -> None:
    """Built, unit tested and run, as its README says."""
    folder = tmp_path / "agent-list"
    shutil.copytree(kit.TOP / "t/thirdparty/agent-list", folder)
    run("make", "agent-list.so", "test", cwd=folder,
        env={**installed.env, **SANITIZERS})
    site = kit.Site(tmp_path)
    r = kit.Router(site, f"""
load_module  identity;
load_module  status;
load_module  {folder}/agent-list.so;
server {{
    listen   127.0.0.1:{site.port} class=agent;
    route GET /healthz {{ access open; status healthz; }}
    route GET /v1/some {{ access open; agent_list OpenAI; respond 200 "in"; }}
}}
""", binary=installed.router)
    try:
        for agent, status in (("openai/python 3", 200), ("OpenAI", 200),
                              ("curl/8", 403), ("", 403)):
            a = r.ask("GET", "/v1/some", headers={"user-agent": agent})
            assert a.status == status, agent
        assert a.code == "agent_not_listed"
        r.hup()     # its destructors run, and it is made again
        a = r.ask("GET", "/v1/some", headers={"user-agent": "openai"})
        assert a.status == 200
    finally:
        r.stop()


def test_a_probe_of_the_installed_router(guarded: kit.Router,
                                         installed: Installed) -> None:
    p = subprocess.run([installed.router, "-c", guarded.site.conf, "probe",
                        "/v1/plain"], text=True, capture_output=True,
                       timeout=20, env=kit.ENV)
    assert (p.returncode, p.stdout, p.stderr) == (0, "plain", "")
