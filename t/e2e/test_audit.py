"""The audit log: one record per decision, nothing in it can change unseen,
and where it cannot be written nothing happens."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PublicKey)

import kit
import wire
from backend import Backend
from conftest import Start

FIRST_KEYS = ["sandbox", "seq", "ts", "agent_id", "action", "decision",
              "prev_hash", "hash"]


def agt_hash(r: dict[str, Any]) -> str:
    """The AGT profile's hash, by its own definition (docs/audit-format.md)."""
    text = "|".join(str(r[k]) for k in (
        "seq", "ts", "agent_id", "action", "decision", "prev_hash"))
    return hashlib.sha256(text.encode()).hexdigest()


def mixed(r: kit.Router) -> list[wire.Answer]:
    """Allowed and denied calls of several kinds."""
    return [
        r.chat(), r.chat(max_tokens=99999), r.chat(model=7),
        r.ask("GET", "/nowhere"), r.ask("POST", "/v1/nothing"),
        r.chat(stream=True), r.ask("GET", "/v1/models"),
        r.chat(headers={"content-encoding": "gzip"}),
    ]


@pytest.mark.core
@pytest.mark.parametrize("sync", ["request", "interval 100ms"])
def test_exactly_one_record_per_decision(
        start: Start, site: kit.Site, backend: Backend, sync: str) -> None:
    r = start(site.usual(sync=sync))
    answers = mixed(r)
    for a in answers:
        record = r.record(a.trace)
        assert record["status"] == a.status
        assert (record["decision"] == "allow") == (a.status == 200)
        if a.status != 200:
            assert record["code"] and record["reason"] and record["module"]
    r.stop()
    assert len({x["trace"] for x in r.decisions()}) == len(r.decisions())
    assert "ok" in r.verify().stdout


@pytest.mark.core
def test_a_record_says_what_happened(
        router: kit.Router, backend: Backend) -> None:
    a = router.chat()
    r = router.record(a.trace)
    assert list(r)[:8] == FIRST_KEYS
    assert {"sandbox": "demo", "class": "agent", "method": "POST",
            "path": kit.CHAT, "status": 200, "model": "stand-in",
            "tokens_in": 3, "tokens_out": 8, "tokens_total": 11,
            "tokens_charged": 11, "decision": "allow"}.items() <= r.items()
    assert r["bytes_in"] >= len(kit.chat_bytes())
    assert r["bytes_out"] >= len(a.body)
    assert 0 <= r.get("duration_ms", 0) < 60_000
    assert len(r["ts"]) == 20 and r["ts"].endswith("Z")
    assert "stand-in" in r["action"]


@pytest.mark.core
def test_both_chains_hold(router: kit.Router) -> None:
    mixed(router)
    lines = router.lines()
    for before, r in zip([None, *lines], lines):
        assert r["hash"] == agt_hash(r)
        assert r["prev_hash"] == (before["hash"] if before else "")
        if before:
            assert r["prev_digest"] == before["digest"]
            assert r["seq"] == before["seq"] + 1
    assert len({r["digest"] for r in lines}) == len(lines)


@pytest.mark.core
def test_a_second_verifier_agrees(written: kit.Router) -> None:
    """docs/audit-format.md, implemented again: digests over the bytes as they
    stand, signatures by a library that the router does not use."""
    site = written.site
    public = bytes.fromhex(site.pub.read_text().strip())
    key = Ed25519PublicKey.from_public_bytes(public)
    (log,) = site.audit_dir.glob("*.jsonl")
    previous, signed = bytes(32), 0
    for line in log.read_bytes().split(b"\n")[:-1]:
        r = json.loads(line)
        covered, comma, _ = line.rpartition(b',"digest":"')
        assert comma and r["prev_digest"] == previous.hex()
        if r["action"] == "audit:checkpoint":
            assert r["key"] == public.hex()
            key.verify(bytes.fromhex(r["sig"]), (
                f"kars-audit-checkpoint-1\n{r['seq']}\n{previous.hex()}"
            ).encode())
            signed += 1
        previous = hashlib.sha256(b"kars-audit-1\n" + previous
                                  + covered).digest()
        assert r["digest"] == previous.hex()
    assert signed > 0
    head = json.loads((site.audit_dir / "head.json").read_text())
    assert (head["seq"], head["digest"]) == (r["seq"], previous.hex())
    key.verify(bytes.fromhex(head["sig"]), (
        f"kars-audit-head-1\n{head['seq']}\n{head['digest']}").encode())


@pytest.mark.core
def test_the_chain_goes_on_after_restart_and_reload(
        start: Start, site: kit.Site) -> None:
    r = start()
    r.chat()
    r.hup()
    r.chat()
    r.stop()
    r = start()
    r.chat()
    r.stop()
    lines = r.lines()
    assert [x["seq"] for x in lines] == list(range(len(lines)))
    assert "ok" in r.verify().stdout


@pytest.mark.core
def test_fields_cannot_shift_between_each_other(
        start: Start, site: kit.Site) -> None:
    """A separator in a field would let two different records hash alike."""
    r = start()
    a = r.chat(model="a|b|allow")
    record = r.record(a.trace)
    for name in ("agent_id", "action", "decision"):
        assert "|" not in record[name]
    assert record["model"] == "a|b|allow"


@pytest.mark.parametrize("name", [
    'q"uote', "new\nline", "tab\t", "\u2028sep", "é", "\\", "\x7f", "x" * 300,
    "</script>", "nul\0byte"])
def test_a_record_is_one_line_whatever_is_in_it(
        router: kit.Router, name: str) -> None:
    a = router.chat(model=name)
    record = router.record(a.trace)
    assert a.status in (200, 400, 403)
    if a.status == 200:
        assert record["model"] == name or len(name) > 128
    assert "ok" in router.verify().stdout


# What a change of the file looks like to `audit verify`.

def flip(lines: list[bytes]) -> list[bytes]:
    i = len(lines) // 2
    return [*lines[:i], lines[i].replace(b'"status":', b'"status":1', 1),
            *lines[i + 1:]]


def edit_agt(lines: list[bytes]) -> list[bytes]:
    i = len(lines) // 2
    r = json.loads(lines[i])
    other = b"deny" if r["decision"] == "allow" else b"allow"
    return [*lines[:i], lines[i].replace(
        b'"decision":"' + r["decision"].encode(),
        b'"decision":"' + other, 1), *lines[i + 1:]]


def rehash(lines: list[bytes]) -> list[bytes]:
    """An edit by someone who also recomputes the public AGT chain."""
    out, previous = [], None
    for i, line in enumerate(lines):
        r = json.loads(line)
        if i == len(lines) // 2:
            r["agent_id"] = "someone-else"
        if previous is not None:
            r["prev_hash"] = previous
        r["hash"] = previous = agt_hash(r)
        out.append(json.dumps(r, separators=(",", ":")).encode())
    return out


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edit": flip,
    "edit-agt-field": edit_agt,
    "edit-and-rehash": rehash,
    "edit-first": lambda x: [x[0].replace(b'"status":', b'"status":1', 1)
                             if b'"status":' in x[0] else
                             x[0].replace(b"demo", b"omed", 1), *x[1:]],
    "drop": lambda x: x[:3] + x[4:],
    "insert": lambda x: x[:3] + [x[1]] + x[3:],
    "repeat": lambda x: x[:4] + [x[3]] + x[4:],
    "reorder": lambda x: x[:3] + [x[4], x[3]] + x[5:],
    "cut-one": lambda x: x[:-1],
    "cut-many": lambda x: x[:3],
    "cut-all": lambda x: [],
    "torn": lambda x: [*x[:-1], x[-1][:-20]],
    "append": lambda x: [*x, x[-1]],
    "space": lambda x: [*x[:3], x[3].replace(b",", b", ", 1), *x[4:]],
    "blank-line": lambda x: [*x[:3], b"", *x[3:]],
    "duplicate-member": lambda x: [
        *x[:3], x[3][:-1] + b',"decision":"allow"}', *x[4:]],
    "junk": lambda x: [*x[:3], b"junk", *x[3:]],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished log with allowed and denied calls, and its router."""
    backend = Backend().start()
    site = kit.Site(tmp_path_factory.mktemp("written"), backend)
    r = kit.Router(site, site.usual())
    mixed(r)
    mixed(r)
    r.stop()
    backend.stop()
    yield r


@pytest.mark.core
def test_an_untouched_log_verifies(written: kit.Router) -> None:
    p = written.verify()
    assert "ok" in p.stdout
    assert "not checked" not in p.stdout + p.stderr


@pytest.mark.core
@pytest.mark.parametrize("change", CHANGES)
def test_verify_finds(written: kit.Router, tmp_path: Path,
                      change: str) -> None:
    folder = tmp_path / "audit"
    shutil.copytree(written.site.audit_dir, folder)
    (log,) = folder.glob("*.jsonl")
    lines = log.read_bytes().splitlines()
    changed = CHANGES[change](lines)
    assert changed != lines
    data = b"".join(x + b"\n" for x in changed)
    log.write_bytes(data[:-1] if change == "torn" else data)
    p = kit.run_tool("audit", "verify", str(log), "--key",
                     str(written.site.pub), check=False)
    assert p.returncode not in (0, 99), (change, p.stdout)
    assert (p.stdout + p.stderr).strip(), "it says nothing"


@pytest.mark.core
def test_a_log_that_lacks_its_beginning_is_said_to(
        written: kit.Router, tmp_path: Path) -> None:
    """A later day's file is a good log too, but only on the reader's word."""
    folder = tmp_path / "audit"
    shutil.copytree(written.site.audit_dir, folder)
    (log,) = folder.glob("*.jsonl")
    log.write_bytes(log.read_bytes().split(b"\n", 1)[1])
    args = ("audit", "verify", str(log), "--key", str(written.site.pub))
    assert kit.run_tool(*args, check=False).returncode not in (0, 99)
    said = kit.run_tool(*args, "--start", "trust").stdout
    assert "start not checked" in said


def test_verify_names_the_first_bad_record(
        written: kit.Router, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    shutil.copytree(written.site.audit_dir, folder)
    (log,) = folder.glob("*.jsonl")
    lines = log.read_bytes().splitlines()
    seq = json.loads(lines[5])["seq"]
    lines[5] = lines[5].replace(b'"path":"', b'"path":"/x', 1)
    log.write_bytes(b"".join(x + b"\n" for x in lines))
    p = kit.run_tool("audit", "verify", str(log), "--key",
                     str(written.site.pub), check=False)
    said = p.stdout + p.stderr
    assert p.returncode != 0
    assert f"seq {seq}" in said or f"seq={seq}" in said or f":{6}" in said, \
        said


def test_without_key_and_head_verify_says_what_it_did_not_check(
        written: kit.Router, tmp_path: Path) -> None:
    (log,) = written.site.audit_dir.glob("*.jsonl")
    p = kit.run_tool("audit", "verify", str(log))
    assert "signatures not checked" in p.stdout + p.stderr
    alone = tmp_path / log.name
    shutil.copy(log, alone)     # without the signed head beside it
    p = kit.run_tool("audit", "verify", str(alone), check=False)
    assert "end not checked" in p.stdout + p.stderr


def test_another_key_does_not_verify(
        written: kit.Router, tmp_path: Path) -> None:
    (log,) = written.site.audit_dir.glob("*.jsonl")
    kit.run_tool("signing", "keygen", str(tmp_path / "other"))
    p = kit.run_tool("audit", "verify", str(log), "--key",
                     str(tmp_path / "other.pub"), check=False)
    assert p.returncode not in (0, 99)


def test_a_log_rewritten_by_another_router_fails_with_the_key(
        written: kit.Router, site: kit.Site, start: Start) -> None:
    """Whole, consistent, signed - but with another key."""
    r = start()
    mixed(r)
    r.stop()
    (log,) = site.audit_dir.glob("*.jsonl")
    assert r.verify().returncode == 0
    p = kit.run_tool("audit", "verify", str(log), "--key",
                     str(written.site.pub), check=False)
    assert p.returncode not in (0, 99)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    p = kit.run_tool("audit", "verify", str(tmp_path / "none.jsonl"),
                     check=False)
    assert p.returncode not in (0, 99)
    assert "none.jsonl" in p.stderr + p.stdout


@pytest.mark.core
def test_in_request_mode_the_record_is_there_before_the_last_byte(
        router: kit.Router, backend: Backend) -> None:
    """Read at once, without waiting, 50 times."""
    for i in range(50):
        a = router.chat(headers={"x-kars-trace-id": f"now-{i}"})
        assert a.status == 200
        assert any(r["trace"] == f"now-{i}" for r in router.decisions())


@pytest.mark.core
def test_what_was_answered_is_there_after_kill(
        start: Start, site: kit.Site) -> None:
    r = start()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        traces = [a.trace for a in pool.map(lambda _: r.chat(), range(40))]
    r.kill()
    r = start()
    have = {x["trace"] for x in r.decisions()}
    assert set(traces) <= have
    r.chat()
    r.stop()
    assert "ok" in r.verify().stdout


def test_a_torn_tail_is_closed_with_a_record(
        start: Start, site: kit.Site) -> None:
    r = start()
    r.chat()
    r.kill()
    (log,) = site.audit_dir.glob("*.jsonl")
    with log.open("ab") as f:
        f.write(b'{"sandbox":"demo","seq":99,"ts":"20')
    r = start()
    a = r.chat()
    assert a.status == 200
    r.stop()
    said = r.verify(check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.core
def test_a_client_that_leaves_leaves_a_record(
        router: kit.Router, backend: Backend) -> None:
    backend.hold_after = 2
    with router.wire() as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(stream=True),
                            {"x-kars-trace-id": "gone"}))
        assert w.head().status == 200
        w.chunk()
    record = router.record("gone")
    assert record["decision"] == "allow"
    backend.release()


def test_parse_errors_are_recorded(router: kit.Router) -> None:
    with router.wire() as w:
        a = w.send(b"GET / HTTP/1.1\r\nbad header: x\r\n\r\n").answer()
    assert a.status == 400
    assert router.record(a.trace)["status"] == 400


def test_open_routes_write_no_record(router: kit.Router) -> None:
    before = len(router.decisions())
    for path in ("/healthz", "/readyz", "/metrics"):
        assert router.ask("GET", path).status == 200
    assert len(router.decisions()) == before


# A disk that is full: a small file system where we may mount one, and a limit
# on the size of files, which any user may set.

class SmallDisk:
    """The audit folder on a file system of its own, of 512 KiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"
        mount(folder)

    def fill(self, _: kit.Router) -> None:
        """Takes every byte that is left."""
        with self.ballast.open("ab", buffering=0) as f:
            for size in (65536, 4096, 512, 1):
                try:
                    while f.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue

    def free(self, _: kit.Router) -> None:
        self.ballast.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class SmallFiles:
    """No file of the router's may grow beyond the audit log of now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, r: kit.Router) -> None:
        size = max(f.stat().st_size for f in self.folder.glob("*.jsonl"))
        self._limit(r, size)

    def free(self, r: kit.Router) -> None:
        self._limit(r, resource.RLIM_INFINITY)

    def _limit(self, r: kit.Router, size: int) -> None:
        for pid in [r.process.pid, *r.workers()]:
            resource.prlimit(pid, resource.RLIMIT_FSIZE,
                             (size, resource.RLIM_INFINITY))

    def close(self) -> None:
        pass


def mount(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=755",
                    "tmpfs", str(folder)], check=True, capture_output=True)


def disks() -> list[type]:
    with tempfile.TemporaryDirectory() as d:
        try:
            mount(Path(d))
        except subprocess.CalledProcessError:
            return [SmallFiles]
        subprocess.run(["umount", d], check=True)
    return [SmallDisk, SmallFiles]


@pytest.fixture(params=disks(), ids=lambda c: c.__name__)
def disk(request: pytest.FixtureRequest, site: kit.Site) -> Any:
    d = request.param(site.audit_dir)
    yield d
    d.close()


@pytest.mark.core
@pytest.mark.parametrize("sync", ["request", "interval 50ms"])
def test_a_full_disk_is_503_and_recovers_with_nothing_lost(
        disk: Any, start: Start, site: kit.Site, backend: Backend, sync: str
        ) -> None:
    r = start(site.usual(sync=sync))
    good = [r.chat().trace]
    disk.fill(r)
    for _ in range(3000):   # it may have reserved room beforehand
        a = r.chat()
        if a.status != 200:
            break
        good.append(a.trace)
    refused = [a, *(r.chat() for _ in range(5))]
    for a in refused:
        assert (a.status, a.code) == (503, "audit_unavailable"), a.body
        assert a.json["error"]["type"] == "server_error"
    asked = len(backend.requests)
    assert r.chat().status == 503
    assert len(backend.requests) == asked, "the backend was asked all the same"
    assert r.ask("GET", "/healthz").status == 200
    assert r.ask("GET", "/readyz").status == 503

    disk.free(r)
    back = kit.wait_for("it recovers by itself", lambda: [
        a for a in [r.chat()] if a.status == 200], 15)
    good.append(back[0].trace)
    for trace in good:
        assert r.record(trace)["status"] == 200
    assert r.ask("GET", "/readyz").status == 200
    r.stop()
    assert "ok" in r.verify().stdout
    numbers = [x["seq"] for x in r.lines()]
    assert numbers == list(range(len(numbers)))
