"""Modules of the ABIs that were frozen (t/abi), built with their headers and
loaded by today's router; and the check that today's header only adds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kit

pytestmark = pytest.mark.core

FROZEN = sorted(p.parent for p in (kit.TOP / "t/abi").glob("[0-9]*/*.h"))
HEADER = kit.TOP / "core/kars_module.h"
FLAGS = ("-D_GNU_SOURCE", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
         "-Wno-unused-parameter", "-Wno-missing-field-initializers")
C = ("cc", "-std=gnu11", "-Wno-override-init", *FLAGS)
CXX = ("g++", "-std=gnu++17", *FLAGS)


def verdicts() -> list[tuple[Path, str, str, str]]:
    rows = []
    for folder in FROZEN:
        for line in (folder / "verdicts.txt").read_text().split("\n"):
            if line and not line.startswith("#"):
                name, wrong, said = (c.strip() for c in line.split("|", 2))
                rows.append((folder, name, wrong, said))
    return rows


def build(folder: Path, source: Path, to: Path, *more: str) -> Path:
    """With the frozen header and no other."""
    language = CXX if source.suffix == ".cc" else C
    subprocess.run([*language, *more, "-I", str(folder), "-o", str(to),
                    str(source)], check=True, timeout=50)
    rule = subprocess.run([language[0], "-M", "-I", str(folder), str(source)],
                          check=True, text=True, capture_output=True,
                          timeout=50).stdout.split()
    assert [w for w in rule if w.endswith("kars_module.h")] == [
        str(folder / "kars_module.h")]
    return to


def conf(site: kit.Site, module: Path) -> str:
    return site.main(modules=("signing", "identity", "status"),
                     extra=f"load_module {module};") + site.server("""
route POST /v1/old {
    access open; old_word stand-in; old_list one two; old_rate 100/60s;
}
""")


def test_there_is_a_frozen_abi() -> None:
    assert [f.name for f in FROZEN][0] == "1.0"


@pytest.mark.parametrize("folder,name,wrong,said", [
    pytest.param(*row, id=f"{row[0].name}-{row[1]}") for row in verdicts()])
def test_verdicts(site: kit.Site, tmp_path: Path, folder: Path, name: str,
                  wrong: str, said: str) -> None:
    trace = tmp_path / "trace"
    module = build(folder, folder / "module.c", tmp_path / "old.so",
                   f"-DWRONG={wrong}", f'-DTRACE="{trace}"')
    site.conf.write_text(conf(site, module))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    if name == "loads":
        assert (p.returncode, p.stderr) == (0, "")
        assert trace.exists()
        return
    assert p.returncode == 1
    assert not trace.exists(), "its constructor ran"
    assert f'module "{module}": ' in p.stderr
    assert re.search(said, p.stderr.strip()), p.stderr


@pytest.mark.parametrize("folder", FROZEN, ids=lambda f: f.name)
def test_it_works(site: kit.Site, tmp_path: Path, folder: Path) -> None:
    module = build(folder, folder / "module.c", tmp_path / "old.so")
    r = kit.Router(site, conf(site, module))
    try:
        body = b'{"model": "stand-in"}'
        a = r.ask("POST", "/v1/old", body, headers={"x-old": "header"})
        assert (a.status, a.get("x-old-made")) == (201, "yes")
        assert a.body.decode() == \
            f"stand-in 2 two 100/60000 1 waited {len(body)} header agent:1 1"
        a = r.ask("POST", "/v1/old", b'{"model": "other"}')
        assert (a.status, a.code) == (403, "old_no")
        assert r.metric("kars_old_total", word="stand-in") == 2
    finally:
        r.stop()
    said = kit.run_tool("-c", str(site.conf), "old-command")
    assert said.stdout == "of ABI 1.0\n"


@pytest.mark.parametrize("folder", FROZEN, ids=lambda f: f.name)
def test_modules_of_others_load(site: kit.Site, tmp_path: Path,
                                folder: Path) -> None:
    sources = sorted((folder / "modules").glob("*.c*"))
    assert len(sources) >= 3
    loads = ""
    for source in sources:
        module = build(folder, source, tmp_path / f"{source.stem}.so")
        loads += f"load_module {module};\n"
    site.conf.write_text(site.main(extra=loads + "zone state 4m;")
                         + site.server(""))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert (p.returncode, p.stderr) == (0, "")


def layout(header: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", kit.TOP / "t/abi/layout.py",
         kit.TOP / "t/abi/1.0/kars_module.h", header],
        text=True, capture_output=True, timeout=50)


def test_todays_header_only_adds() -> None:
    p = layout(HEADER)
    assert (p.returncode, p.stdout, p.stderr) == (0, "", "")


def test_an_addition_is_one(tmp_path: Path) -> None:
    text = (kit.TOP / "t/abi/1.0/kars_module.h").read_text()
    grown = text.replace("#ifndef KARS_CORE\nextern const", """
typedef struct { size_t size; int more; } kars_more_t;
#ifndef KARS_CORE\nextern const""", 1)
    grown = grown.replace("    kars_hook_pt recheck;\n",
                          "    kars_hook_pt recheck;\n    void *more;\n", 1)
    header = tmp_path / "kars_module.h"
    header.write_text(grown)
    p = layout(header)
    assert p.returncode == 1
    assert "kars_module_t.more is not of ABI 1.0: raise KARS_ABI_MINOR" \
        in p.stdout
    header.write_text(re.sub(r"(#define KARS_ABI_MINOR +)\d+", r"\g<1>7",
                             grown))
    p = layout(header)
    assert (p.returncode, p.stdout, p.stderr) == (0, "", "")


@pytest.mark.parametrize("was,now,named", [
    ("    uint32_t uid; ", "    uint64_t uid; ", "kars_peer_t.uid"),
    ("    uint32_t family;", "    uint32_t early;\n    uint32_t family;",
     "kars_peer_t.family"),
    ("    uint64_t per_ms;\n", "    uint64_t per_ms;\n    uint64_t burst;\n",
     "kars_rate_t.burst"),
    ("    void *(*pown)(kars_pool_t *pool, size_t size,",
     "    void *(*pown)(kars_pool_t *pool, uint32_t size,",
     "struct kars_api_s.pown"),
    ("    void *(*pown)(", "    void *(*owned)(", "kars_api_s.pown is gone"),
    ("KARS_PHASE_ADMIT = 400", "KARS_PHASE_ADMIT = 450", "KARS_PHASE_ADMIT"),
    ("    KARS_LOG_WARN,\n", "", "KARS_LOG_WARN is gone"),
    ("#define KARS_AGAIN    2", "#define KARS_AGAIN    4", "KARS_AGAIN"),
    ("typedef uint64_t kars_token_t;", "typedef uint32_t kars_token_t;",
     "typedef uint64_t kars_token_t;"),
    ("    uint32_t flags;        /* KARS_RETRY_UNSAFE */\n", "",
     "kars_pass_t.flags"),
])
def test_what_is_no_addition_is_named(tmp_path: Path, was: str, now: str,
                                      named: str) -> None:
    text = (kit.TOP / "t/abi/1.0/kars_module.h").read_text()
    assert was in text
    header = tmp_path / "kars_module.h"
    header.write_text(text.replace(was, now, 1))
    p = layout(header)
    assert p.returncode == 1, p.stderr
    line = [s for s in p.stdout.split("\n") if named.split()[-1] in s
            or named in s]
    assert line and re.match(rf"{re.escape(str(header))}:\d+: ", line[0]), \
        p.stdout


def test_a_member_in_the_padding_is_named(tmp_path: Path) -> None:
    """It would seem to be there in what an older module filled."""
    frozen = tmp_path / "frozen.h"
    text = (kit.TOP / "t/abi/1.0/kars_module.h").read_text()
    padded = "typedef struct { size_t size; uint32_t a; } kars_pad_t;\n"
    mark = "typedef struct kars_api_s kars_api_t;\n"
    frozen.write_text(text.replace(mark, padded + mark, 1))
    header = tmp_path / "kars_module.h"
    header.write_text(text.replace(mark, padded.replace(
        "uint32_t a;", "uint32_t a; uint32_t b;") + mark, 1))
    p = subprocess.run([sys.executable, "-B", kit.TOP / "t/abi/layout.py",
                        frozen, header], text=True, capture_output=True,
                       timeout=50)
    assert p.returncode == 1
    assert "kars_pad_t.b is new at offset 12" in p.stdout
