#!/usr/bin/env python3
"""layout.py FROZEN.h CURRENT.h - does the current header only add to a frozen
one?

A module that was built with the frozen header must find every member where it
was, of the same type, and every constant as it was. Structs that say their size
(a first member `size`), tables whose stride the descriptor says, and the
descriptor itself may grow behind their frozen end; others not at all. The
compiler is asked for offsets and sizes. A finding is a line that names file,
line and member; the exit code is 1 if there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Their strides, or their size, stand in the descriptor.
GROWING = {"kars_module_t", "kars_directive_t", "kars_hook_t",
           "kars_filter_def_t", "kars_json_watch_t", "kars_service_t",
           "kars_need_t", "kars_os_need_t", "kars_command_t"}
RETAKE = "while it is a candidate, `sh t/abi/freeze.sh` takes it again"


class Member:
    def __init__(self, text: str, line: int) -> None:
        self.text = " ".join(text.split())
        self.line = line
        self.offset = self.size = -1

    @property
    def name(self) -> str:
        fn = re.search(r"\(\*\s*(\w+)\)\s*\(", self.text)
        return fn.group(1) if fn else re.findall(
            r"\w+", self.text.split("[")[0])[-1]


class Struct:
    def __init__(self, type_: str, line: int) -> None:
        self.type = type_
        self.line = line
        self.members: dict[str, Member] = {}
        self.size = -1

    @property
    def name(self) -> str:
        return self.type.split()[-1]

    def grows(self) -> bool:
        return self.name in GROWING or next(iter(self.members)) == "size"


class Header:
    """What the file declares; numbers come from a program that includes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.structs: dict[str, Struct] = {}
        self.constants: dict[str, int] = {}     # name to line
        self.values: dict[str, int] = {}
        self.typedefs: dict[str, int] = {}      # normalized text to line
        self._parse(path.read_text())
        self._measure()

    def _parse(self, text: str) -> None:
        text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]),
                      text, flags=re.S)
        for m in re.finditer(r"^#\s*define\s+(KARS_\w+)\s+(-?\d\w*)\s*$", text,
                             re.M):
            self.constants[m[1]] = self._line(text, m.start())
        text = re.sub(r"^#(?:.*\\\n)*.*$", lambda m: re.sub(
            r"[^\n]", " ", m[0]), text, flags=re.M)
        for m in re.finditer(r"\benum\s*\{([^}]*)\}", text):
            at = m.start(1)
            for item in m[1].split(","):
                name = re.match(r"\s*(\w+)", item)
                if name:
                    self.constants[name[1]] = self._line(
                        text, at + name.start(1))
                at += len(item) + 1
        for m in re.finditer(
                r"(typedef\s+)?struct\s*(\w*)\s*\{([^}]*)\}\s*(\w*)\s*;", text):
            s = Struct(m[4] or f"struct {m[2]}", self._line(text, m.start()))
            at = m.start(3)
            for item in m[3].split(";"):
                if item.strip():
                    lead = len(item) - len(item.lstrip())
                    member = Member(item, self._line(text, at + lead))
                    s.members[member.name] = member
                at += len(item) + 1
            self.structs[s.name] = s
        flat = re.sub(r"\{[^{}]*\}", lambda m: re.sub(r"[^\n]", " ", m[0]),
                      text)
        for m in re.finditer(r"\btypedef\b[^;{]*;", flat):
            words = " ".join(m[0].split())
            if not re.fullmatch(r"typedef struct \w+;", words):
                self.typedefs[words] = self._line(flat, m.start())

    @staticmethod
    def _line(text: str, at: int) -> int:
        return text.count("\n", 0, at) + 1

    def _measure(self) -> None:
        out = ['#include <stdio.h>', f'#include "{self.path.resolve()}"',
               'int main(void) {']
        for name in self.constants:
            out.append(f'printf("{name} %lld 0\\n", (long long) ({name}));')
        for s in self.structs.values():
            out.append(f'printf("{s.name} %zu 0\\n", sizeof({s.type}));')
            for m in s.members:
                out.append(
                    f'printf("{s.name}.{m} %zu %zu\\n", offsetof({s.type}, {m})'
                    f', sizeof((({s.type} *) 0)->{m}));')
        out.append("return 0; }\n")
        with tempfile.TemporaryDirectory() as folder:
            source, program = f"{folder}/layout.c", f"{folder}/layout"
            Path(source).write_text("\n".join(out))
            subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-w",
                            "-DKARS_CORE", "-o", program, source], check=True,
                           timeout=60)
            said = subprocess.run([program], check=True, text=True, timeout=20,
                                  stdout=subprocess.PIPE).stdout
        for line in said.splitlines():
            name, a, b = line.split()
            struct, _, member = name.partition(".")
            if name in self.constants:
                self.values[name] = int(a)
            elif member:
                m = self.structs[struct].members[member]
                m.offset, m.size = int(a), int(b)
            else:
                self.structs[struct].size = int(a)


def member_findings(old: Struct, new: Struct, abi: str) -> list[tuple[int, str]]:
    found = []
    for name, was in old.members.items():
        full, now = f"{old.name}.{name}", new.members.get(name)
        if now is None:
            found.append((new.line, f"{full} is gone: modules of ABI {abi} "
                          f"use it at offset {was.offset}"))
        elif (now.offset, now.size) != (was.offset, was.size):
            found.append((now.line, f"{full} has offset {now.offset} and size "
                          f"{now.size}, in ABI {abi} it has {was.offset} and "
                          f"{was.size}"))
        elif now.text != was.text:
            found.append((now.line, f"{full} is \"{now.text}\", in ABI {abi} "
                          f"it is \"{was.text}\""))
    for name, now in new.members.items():
        if name in old.members:
            continue
        full = f"{old.name}.{name}"
        if not old.grows():
            found.append((now.line, f"{full} is new, but {old.name} says no "
                          "size: it cannot grow"))
        elif now.offset < old.size:
            found.append((now.line, f"{full} is new at offset {now.offset}: "
                          f"new members begin behind the {old.size} bytes of "
                          f"ABI {abi}"))
    return found


def findings(old: Header, new: Header) -> list[tuple[int, str]]:
    major, minor = (old.values[f"KARS_ABI_{n}"] for n in ("MAJOR", "MINOR"))
    abi = f"{major}.{minor}"
    found = []
    for name, was in old.structs.items():
        now = new.structs.get(name)
        if now is None:
            found.append((1, f"{name} is gone, ABI {abi} has it"))
        else:
            found += member_findings(was, now, abi)
    for name, value in old.values.items():
        if name not in new.values:
            found.append((1, f"{name} is gone, ABI {abi} has it"))
        elif name == "KARS_ABI_MINOR":
            if new.values[name] < value:
                found.append((new.constants[name], f"{name} is less than the "
                              f"{value} of ABI {abi}"))
        elif new.values[name] != value:
            found.append((new.constants[name], f"{name} is {new.values[name]}, "
                          f"in ABI {abi} it is {value}"))
    for text in old.typedefs:
        if text not in new.typedefs:
            found.append((1, f"ABI {abi} has \"{text}\", which is gone or "
                          "declared otherwise"))
    if not found and new.values["KARS_ABI_MINOR"] == minor:
        found += [(m.line, f"{s.name}.{n} is not of ABI {abi}: raise "
                   "KARS_ABI_MINOR")
                  for s in new.structs.values() if s.name in old.structs
                  for n, m in s.members.items()
                  if n not in old.structs[s.name].members]
    return found


def main() -> int:
    old, new = (Header(Path(p)) for p in sys.argv[1:3])
    found = findings(old, new)
    for line, text in found:
        print(f"{new.path}:{line}: {text}; {RETAKE}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
