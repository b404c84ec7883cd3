"""The configurations that people copy: the samples in conf/ and the one in the
README load as they are, but for the places of their files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kit

TOP = Path(__file__).parents[2]
SAMPLES = sorted(TOP.glob("conf/*.conf"))


def place(text: str, folder: Path) -> str:
    """The same text with its paths below a folder of ours."""
    kit.run_tool("signing", "keygen", str(folder / "signing.key"))
    (folder / "model-key").write_text("a-key-made-for-this-test\n")
    text = re.sub(r"/run/kars|/var/lib/kars|/run/secrets", str(folder), text)
    text = re.sub(r"(?m)^user .*$", "", text)
    return re.sub(r"(?m)^module_path .*$",
                  f"module_path {kit.BINARY.parent}/modules;", text)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: p.name)
def test_a_sample_loads(sample: Path, tmp_path: Path) -> None:
    conf = tmp_path / sample.name
    conf.write_text(place(sample.read_text(), tmp_path))
    assert "is good" in kit.run_tool("-t", "-c", str(conf)).stdout


def test_there_are_samples() -> None:
    assert [p.name for p in SAMPLES] == ["router.conf"]


def test_the_smallest_one_in_the_readme_loads(tmp_path: Path) -> None:
    readme = (TOP / "README.md").read_text()
    blocks = re.findall(r"```nginx\n(.*?)```", readme, re.S)
    assert len(blocks) == 1
    text = f"module_path {kit.BINARY.parent}/modules;\n" + blocks[0]
    assert len(text.splitlines()) < 30
    conf = tmp_path / "router.conf"
    conf.write_text(text)
    p = kit.run_tool("-t", "-c", str(conf), env={"MODEL_KEY": "made-here"})
    assert "is good" in p.stdout


def test_the_manual_is_what_the_router_prints() -> None:
    """docs/directives.md from its first table on; after a change of a table:
    put the output of `kars-router --directives` there."""
    manual = (TOP / "docs/directives.md").read_text()
    printed = kit.run_tool("--directives").stdout
    assert manual[manual.index("\n## Core: the process"):] == printed
