"""A module's head is read from the file before any of its code runs."""

from __future__ import annotations

import re
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

# What the module says of itself, and the refusal: what it has, what we have.
HEADS = {
    "magic": (".magic = 0x12345678,",
              r"magic 12345678, a module of kars has 4b415253$"),
    "major": (".abi_major = KARS_ABI_MAJOR + 1,",
              r"built for ABI 2\.\d+, this router has 1\.\d+$"),
    "minor": (".abi_minor = KARS_ABI_MINOR + 1,",
              r"built for ABI 1\.(\d+), this router has 1\.(?!\1)\d+$"),
    "size": (".size = 3,", r": size 3, known:( \d+)+$"),
    "size-huge": (".size = 0x7fffffff,",
                  r"its kars_module has \d+ bytes and says 2147483647$"),
} | {field: (f".{field} = {n},", rf": {field} {n}, known:( \d+)+$")
     for field, n in (("api_size", 0x7fffffff), ("directive_size", 1),
                      ("hook_size", 0x10000), ("filter_size", 9),
                      ("json_size", 25), ("service_size", 15),
                      ("need_size", 0), ("os_need_size", 0xffffffff),
                      ("command_size", 31))}

# Heads that are right, of modules that do not go with the others.
COMPANY = {
    "service": (".needs = needs,",
                'static const kars_need_t needs[] = {'
                ' { "no.such/7", &slot, 8, 0 }, { 0 } };',
                "module intruder needs the service no.such/7: load a module "
                "that provides it"),
    "service-version": (".needs = needs,",
                        'static const kars_need_t needs[] = {'
                        ' { "signing/9", &slot, 8, 0 }, { 0 } };',
                        "module intruder needs the service signing/9, module "
                        "signing provides signing/1: load versions that fit"),
    "service-size": (".needs = needs,",
                     'static const kars_need_t needs[] = {'
                     ' { "signing/1", &slot, 4096, 0 }, { 0 } };',
                     r"module intruder needs 4096 bytes of the service "
                     r"signing/1, its provider has \d+"),
    "before": ('.before = "status",', "",
               "load_module intruder must stand before load_module status"),
    "twice": ('.after = 0, .name = "status",', "",
              'module "status" is loaded twice'),
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


def load(site: kit.Site, module: Path, before: bool = False
         ) -> tuple[int, str]:
    lines = ["load_module status;", "load_module intruder;"]
    conf = site.usual().replace(lines[0], "\n".join(
        lines[::-1] if before else lines))
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
    wrong, refusal = HEADS[name]
    module, trace = build(tmp_path, wrong)
    code, said = load(site, module)
    assert code not in (0, 99), said
    first = said.split("\n")[0]
    assert f'module "{module}": ' in first
    assert re.search(refusal, first), first
    assert not trace.exists(), "its constructor ran"


@pytest.mark.parametrize("name", COMPANY)
def test_a_module_that_does_not_go_with_the_others(
        site: kit.Site, tmp_path: Path, name: str) -> None:
    wrong, more, refusal = COMPANY[name]
    source = SOURCE.replace("KARS_MODULE(intruder)",
                            "static const void *slot __attribute__((unused));\n"
                            + more + "\nKARS_MODULE(intruder)")
    module, _ = build(tmp_path, wrong, source)
    code, said = load(site, module)
    assert code not in (0, 99) and re.search(refusal, said), said


def test_a_module_that_must_stand_later(site: kit.Site, tmp_path: Path) -> None:
    module, _ = build(tmp_path, '.after = "identity status",')
    code, said = load(site, module, before=True)
    assert code not in (0, 99)
    assert "load_module intruder must stand after load_module status" in said


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
    good = module.read_bytes()
    here = {62: "x86_64", 183: "aarch64"}[int.from_bytes(good[18:20], "little")]

    def machine(n: int) -> bytes:
        return good[:18] + n.to_bytes(2, "little") + good[20:]

    for data, refusal in (
            (b"#!/bin/sh\ntouch x\n", "not an ELF file"),
            (b"\x7fELF" + b"\xff" * 4096,
             "not a 64-bit little-endian ELF file"),
            (good[:4] + b"\x01" + good[5:],
             "not a 64-bit little-endian ELF file"),
            (machine(243), f"built for riscv, this router is {here}"),
            (machine(3), f"built for i386, this router is {here}"),
            (machine(9), f"built for another machine, this router is {here}"),
            (Path("/bin/true").read_bytes(), "exports no kars_module")):
        module.write_bytes(data)
        code, said = load(site, module)
        assert code not in (0, 99)
        assert f'module "{module}": {refusal}' in said
        assert not trace.exists()


def test_no_kars_module_in_it(site: kit.Site, tmp_path: Path) -> None:
    module, trace = build(tmp_path, "", SOURCE.split("KARS_MODULE(")[0])
    code, said = load(site, module)
    assert code not in (0, 99)
    assert f'module "{module}": exports no kars_module' in said
    assert not trace.exists()


def test_a_module_path_cannot_be_left(site: kit.Site) -> None:
    conf = site.usual().replace("load_module status;",
                                "load_module ../../../etc/status;")
    site.conf.write_text(conf)
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode not in (0, 99)
