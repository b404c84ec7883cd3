"""A module's head is read from the file before any of its code runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import kit

pytestmark = pytest.mark.core

SOURCE = r"""
#include <fcntl.h>
#include "kars_module.h"

/* Runs inside dlopen(): if the file below exists, the module was loaded. */
__attribute__((constructor)) static void
intrude(void)
{
    int fd = open(TRACE, O_CREAT | O_WRONLY, 0600);
    (void) fd;
}

KARS_MODULE(intruder) = {
    KARS_MODULE_HEAD,
    .name = "intruder",
    .version = "1.0.0",
    WRONG
};
"""

HEADS = {
    "magic": ".magic = 0x12345678,",
    "major": ".abi_major = KARS_ABI_MAJOR + 1,",
    "minor": ".abi_minor = KARS_ABI_MINOR + 1,",
    "size": ".size = 3,",
    "size-huge": ".size = 0x7fffffff,",
    "api-size": ".api_size = 0x7fffffff,",
    "directive-size": ".directive_size = 1,",
    "hook-size": ".hook_size = 0x10000,",
}


def build(folder: Path, wrong: str, source: str = SOURCE) -> tuple[Path, Path]:
    """An intruder.so in a folder of its own; the file that it would leave."""
    modules, trace = folder / "modules", folder / "trace"
    modules.mkdir()
    for m in kit.MODULES.glob("*.so"):
        (modules / m.name).symlink_to(m)
    c = folder / "intruder.c"
    c.write_text(source)
    target = modules / "intruder.so"
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC",
         "-I", str(kit.TOP / "core"), f'-DTRACE="{trace}"', f"-DWRONG={wrong}",
         "-Wno-override-init", "-o", str(target), str(c)], check=True)
    return target, trace


def load(site: kit.Site, module: Path) -> tuple[int, str]:
    conf = site.usual().replace("load_module status;",
                                "load_module status;\nload_module intruder;")
    conf = conf.replace(f"module_path {kit.MODULES};",
                        f"module_path {module.parent};")
    site.conf.write_text(conf)
    codes, said = [], ""
    for args in (["-t"], []):
        p = kit.run_tool(*args, "-c", str(site.conf), check=False) \
            if args or codes[-1] != 0 else None
        if p is not None:
            codes.append(p.returncode)
            said += p.stderr
    return max(codes), said


@pytest.mark.parametrize("name", HEADS)
def test_a_wrong_head_is_refused_before_its_code_runs(
        site: kit.Site, tmp_path: Path, name: str) -> None:
    module, trace = build(tmp_path, HEADS[name])
    code, said = load(site, module)
    assert code not in (0, 99), said
    assert "intruder" in said
    assert not trace.exists(), "its constructor ran"


def test_the_refusal_names_both_versions(
        site: kit.Site, tmp_path: Path) -> None:
    module, _ = build(tmp_path, HEADS["major"])
    _, said = load(site, module)
    assert "1." in said and "2." in said


def test_a_right_head_is_loaded(site: kit.Site, tmp_path: Path) -> None:
    """The control: the same module with nothing wrong does leave its file."""
    module, trace = build(tmp_path, "")
    site.conf.write_text(site.usual().replace(
        "load_module status;", "load_module status;\nload_module intruder;"
    ).replace(f"module_path {kit.MODULES};", f"module_path {module.parent};"))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode == 0, p.stderr
    assert trace.exists()


@pytest.mark.parametrize("cut", [0, 3, 64, 1000, -1])
def test_a_cut_file_is_refused(
        site: kit.Site, tmp_path: Path, cut: int) -> None:
    module, trace = build(tmp_path, "")
    data = module.read_bytes()
    module.write_bytes(data[:cut] if cut >= 0 else data[:len(data) // 2])
    code, said = load(site, module)
    assert code not in (0, 99) and "intruder" in said
    assert not trace.exists()


def test_a_file_of_another_kind_is_refused(
        site: kit.Site, tmp_path: Path) -> None:
    module, trace = build(tmp_path, "")
    for data in (b"#!/bin/sh\ntouch x\n", b"\x7fELF" + b"\xff" * 4096,
                 Path("/bin/true").read_bytes()):
        module.write_bytes(data)
        code, said = load(site, module)
        assert code not in (0, 99) and "intruder" in said
        assert not trace.exists()


def test_no_kars_module_in_it(site: kit.Site, tmp_path: Path) -> None:
    module, trace = build(tmp_path, "", SOURCE.split("KARS_MODULE(")[0])
    code, said = load(site, module)
    assert code not in (0, 99) and "intruder" in said
    assert not trace.exists()


def test_a_module_path_cannot_be_left(site: kit.Site) -> None:
    conf = site.usual().replace("load_module status;",
                                "load_module ../../../etc/status;")
    site.conf.write_text(conf)
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode not in (0, 99)
