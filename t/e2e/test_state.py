"""State that outlives a request, by a module from outside the tree: watched
policy files and their snapshots, a shared map, keys that a worker owns."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core

SOURCE = kit.TOP / "t/thirdparty/policy-desk/policy_desk.c"
ROUTES = """
    route GET /desk/show { access open; desk show; }
    route GET /desk/watched { access open; desk watched; }
    route PUT /desk/note/{key} { access open; desk note; }
    route GET /desk/note/{key} { access open; desk note; }
    route PUT /desk/own/{key} { access open; desk own; }
    route GET /desk/own/{key} { access open; desk own; }
    route DELETE /desk/own/{key} { access open; desk own; }
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our modules and the foreign one."""
    folder = tmp_path_factory.mktemp("modules")
    for m in kit.MODULES.glob("*.so"):
        (folder / m.name).symlink_to(m)
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-Wall",
         "-Wextra", "-Werror", "-Wno-unused-parameter",
         "-I", str(kit.TOP / "core"), "-o", str(folder / "policy-desk.so"),
         str(SOURCE)], check=True)
    return folder


class Desk:
    """A watched folder, as kubelet keeps it: every policy is a folder of its
    own, `..data` leads to the one that counts, names lead through that."""

    FILES = ("a", "b", "c", "d")

    def __init__(self, folder: Path, modules: Path) -> None:
        self.dir = folder / "desk"
        self.dir.mkdir()
        self.modules = modules
        self.n = 0
        self.swap("g0")
        for name in self.FILES:
            (self.dir / name).symlink_to(f"..data/{name}")

    def swap(self, line: str, **other: str) -> None:
        """Publishes files that begin with this line, or with their own."""
        self.n += 1
        new = self.dir / f"..{self.n}"
        new.mkdir()
        for name in self.FILES:
            (new / name).write_text(f"{other.get(name, line)}\n")
        (self.dir / "..data_tmp").symlink_to(new.name)
        (self.dir / "..data_tmp").rename(self.dir / "..data")
        old = self.dir / f"..{self.n - 1}"
        if old.exists():
            shutil.rmtree(old)

    def conf(self, site: kit.Site, workers: int = 1, **usual: str) -> str:
        text = site.usual(routes=usual.pop("routes", "") + ROUTES,
                          main=f"desk_policy {self.dir};", **usual)
        text = text.replace(f"module_path {kit.MODULES};",
                            f"module_path {self.modules};")
        return text.replace("sandbox demo;", "load_module policy-desk;\n"
                            f"workers {workers};\nsandbox demo;")


@pytest.fixture
def desk(tmp_path: Path, modules: Path) -> Desk:
    return Desk(tmp_path, modules)


def show(r: kit.Router) -> tuple[int, str]:
    """The worker that answered, and the policy that it decided by."""
    a = r.ask("GET", "/desk/show")
    assert a.status == 200, a
    pid, first, again = a.body.decode().split()
    assert first == again, "two policies in one request"
    return int(pid), first


def watched(r: kit.Router) -> tuple[str, str]:
    kind, digest, error = r.ask("GET", "/desk/watched").body.decode(
        ).rstrip("\n").split(" ", 2)
    assert kind == "DeskPolicy"
    return digest, error


class Load:
    """Clients that ask without pause and never try again."""

    def __init__(self, r: kit.Router, clients: int = 4) -> None:
        self.stop = threading.Event()
        self.failures: list[str] = []
        self.seen: dict[int, list[int]] = {}    # by worker: the policies
        self.threads = [threading.Thread(target=self._run, args=(r,))
                        for _ in range(clients)]

    def _run(self, r: kit.Router) -> None:
        try:
            while not self.stop.is_set():
                with r.wire() as w:
                    for _ in range(10):
                        a = w.send(wire.request("GET", "/desk/show")).answer()
                        pid, first, again = a.body.decode().split()
                        assert (a.status, first) == (200, again), a
                        self.seen.setdefault(int(pid), []).append(
                            int(first[1:]))
        except Exception as e:
            self.failures.append(repr(e))

    def __enter__(self) -> Load:
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for t in self.threads:
            t.join()


@pytest.mark.parametrize("workers", [1, 4])
def test_policies_are_swapped_under_load(
        start: Start, site: kit.Site, desk: Desk, workers: int) -> None:
    """Each request is decided by one policy, none is lost, none goes back."""
    r = start(desk.conf(site, workers))
    kit.wait_for("all", lambda: len(r.workers()) == workers)
    with Load(r, 4) as load:
        for n in range(1, 16):
            desk.swap(f"g{n}")
            time.sleep(0.12)
        kit.wait_for("all by the last one", lambda: len(load.seen) == workers
                     and all(v[-1] == 15 for v in load.seen.values()))
    assert load.failures == []
    assert sum(map(len, load.seen.values())) > 200
    for policies in load.seen.values():
        # Two clients of one worker may note theirs in another order.
        assert all(b >= a - 1 for a, b in zip(policies, policies[1:]))
        assert len(set(policies)) > 3
    assert "watch: refused" not in r.log()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_bad_policy_changes_nothing_and_is_told(
        start: Start, site: kit.Site, desk: Desk, workers: int) -> None:
    r = start(desk.conf(site, workers))
    digest, error = watched(r)
    assert len(digest) == 64 and error == ""
    with Load(r, 4) as load:
        desk.swap("g1", c="bad")
        kit.wait_for("told", lambda: r.log().count(
            "watch: refused") == workers)
        assert watched(r) == (digest, "c:1: no policy")
        desk.swap("g2", b="g3")
        kit.wait_for("told", lambda: "another policy than a" in watched(r)[1])
    assert load.failures == []
    assert {p for v in load.seen.values() for p in v} == {0}
    desk.swap("g4")
    kit.wait_for("good again", lambda: watched(r)[1] == ""
                 and watched(r)[0] != digest)
    kit.wait_for("everywhere", lambda: {show(r)[1] for _ in range(20)}
                 == {"g4"})


def test_policy_status_tells_the_controller(
        start: Start, site: kit.Site, desk: Desk) -> None:
    r = start(desk.conf(site, 2))
    for n, line in enumerate(("g1", "g2")):
        desk.swap(line)
        # Of each file its name and its bytes, each after its length.
        parts = [p for name in desk.FILES for p in (name, f"{line}\n")]
        digest = hashlib.sha256(b"".join(
            len(p).to_bytes(8, "big") + p.encode() for p in parts)).hexdigest()
        kit.wait_for("both", lambda: r.log().count(
            "watch: published") == 2 * (n + 1))
        status = r.operator("GET", "/internal/policy-status").json
        assert status["count"] == 1
        (entry,) = status["entries"]
        assert re.fullmatch(r"20\d\d-[0-9-]{5}T[0-9:]{8}\.\d{3}Z",
                            entry.pop("loaded_at"))
        assert entry == {"kind": "DeskPolicy", "digest": f"sha256:{digest}",
                         "source_path": str(desk.dir), "last_error": None}


def test_the_slowest_worker_is_told_of(
        start: Start, site: kit.Site, desk: Desk) -> None:
    """The digest is that of the worker that is behind."""
    r = start(desk.conf(site, 2))
    kit.wait_for("both", lambda: len({show(r)[0] for _ in range(8)}) == 2)
    before = watched(r)[0]
    stopped = r.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        desk.swap("g1")
        kit.wait_for("one has it", lambda: "watch: published" in r.log())
        answers = set()
        for _ in range(12):     # some wait in the stopped one's queue
            with r.wire(timeout=0.5) as w:
                try:
                    a = w.send(wire.request("GET", "/desk/watched")).answer()
                    answers.add(a.body.decode().split()[1])
                except TimeoutError:
                    pass
        assert answers == {before}
    finally:
        os.kill(stopped, signal.SIGCONT)
    kit.wait_for("both have it", lambda: watched(r)[0] != before)


def test_a_folder_that_comes_later(
        start: Start, site: kit.Site, desk: Desk) -> None:
    away = desk.dir.with_name("away")
    desk.dir.rename(away)
    r = start(desk.conf(site))
    a = r.ask("GET", "/desk/show")
    assert (a.status, "policy" in a.body.decode()) == (503, True)
    assert "No such file" in watched(r)[1]
    away.rename(desk.dir)
    kit.wait_for("seen", lambda: r.ask("GET", "/desk/show").status == 200)
    desk.swap("g1")     # and watched from then on
    kit.wait_for("published", lambda: show(r)[1] == "g1", 5)


def test_a_bad_policy_at_start_is_an_error(
        start: Start, site: kit.Site, desk: Desk) -> None:
    desk.swap("g1", a="bad")
    site.conf.write_text(desk.conf(site))
    for args in (["-t"], []):
        p = kit.run_tool(*args, "-c", str(site.conf), check=False)
        assert p.returncode == 1
        assert f'DeskPolicy "{desk.dir}": a:1: no policy' in p.stderr
    desk.swap("g2")
    r = start(desk.conf(site))
    desk.swap("g3", a="bad")
    kit.wait_for("told", lambda: "watch: refused" in r.log())
    r.send_signal(signal.SIGHUP)    # a reload would lose the good one
    kit.wait_for("refused", lambda: "the running one stays" in r.log())
    assert show(r)[1] == "g2"


def test_a_worker_that_is_replaced_while_the_policy_is_bad(
        start: Start, site: kit.Site, desk: Desk) -> None:
    """It serves, without a policy: nothing is allowed by it."""
    r = start(desk.conf(site))
    desk.swap("g1", a="bad")
    kit.wait_for("told", lambda: "watch: refused" in r.log())
    os.kill(r.workers()[0], signal.SIGKILL)
    kit.wait_for("refuses", lambda: asked(r) == 503)
    assert watched(r) == ("", "a:1: no policy")
    desk.swap("g2")
    kit.wait_for("decides again", lambda: asked(r) == 200)


def asked(r: kit.Router) -> int:
    try:
        return r.ask("GET", "/desk/show").status
    except (OSError, wire.Closed):
        return 0


@pytest.fixture
def open_folder(modules: Path) -> Iterator[Path]:
    """One that every user may look into."""
    folder = Path("/tmp") / f"kars-state-{os.getpid()}"
    folder.mkdir(mode=0o755)
    (folder / "modules").mkdir()
    for m in ("identity", "status", "policy-desk"):
        shutil.copy(modules / f"{m}.so", folder / "modules" / f"{m}.so")
    yield folder
    shutil.rmtree(folder)


def test_a_policy_that_only_root_may_read(open_folder: Path) -> None:
    policy = open_folder / "policy"
    policy.mkdir()
    (policy / "a").write_text("g0\n")
    (policy / "a").chmod(0o600)
    conf = open_folder / "router.conf"
    conf.write_text(f"""
user nobody;
module_path {open_folder}/modules;
load_module identity;
load_module policy-desk;
desk_policy {policy};
server {{
    listen 127.0.0.1:{kit.free_port()} class=agent;
    route GET /desk/show {{ access open; desk show; }}
}}
""")
    p = kit.run_tool("-c", str(conf), check=False)
    assert p.returncode == 1
    assert f'open "{policy}/a": Permission denied' in p.stderr
    assert "the account of the workers must be able to read it" in p.stderr


# Rechecks

def stream(r: kit.Router) -> wire.Wire:
    w = r.wire().send(wire.request("POST", kit.CHAT,
                                   kit.chat_bytes(stream=True)))
    assert w.head().status == 200
    assert b'"tok "' in w.chunk()
    return w


@pytest.mark.parametrize("workers", [1, 4])
def test_open_streams_are_rechecked_and_ended(
        start: Start, site: kit.Site, desk: Desk, backend: Backend,
        workers: int) -> None:
    backend.hold_after = 1
    r = start(desk.conf(site, workers))
    streams = [stream(r) for _ in range(2 * workers)]
    desk.swap("g1")     # allowed: they go on
    kit.wait_for("published", lambda: r.log().count(
        "watch: published") == workers)
    desk.swap("g2-closed")
    for w in streams:
        rest = b"".join(w.chunks())
        w.sock.close()
        assert rest.count(b"policy_denied") == 1
        assert b'"message":"the desk is closed"' in rest
        assert rest.endswith(b"data: [DONE]\n\n")
    backend.release()
    backend.wait(lambda: backend.hangups == len(streams))
    kit.wait_for("records", lambda: len(ended(r)) == len(streams))
    for record in ended(r):
        assert record["decision"] == "deny"
    r.stop()
    assert "ok" in r.verify().stdout


def ended(r: kit.Router) -> list[dict[str, object]]:
    return [d for d in r.decisions() if d["action"].startswith("inference:")]


def test_streams_of_a_draining_worker_are_rechecked(
        start: Start, site: kit.Site, desk: Desk, backend: Backend) -> None:
    backend.hold_after = 1
    r = start(desk.conf(site))
    w = stream(r)
    old = r.workers()[0]
    r.hup()
    assert old in r.workers()   # it waits for the stream
    desk.swap("g1-closed")
    assert b"the desk is closed" in b"".join(w.chunks())
    backend.release()
    w.sock.close()
    kit.wait_for("gone", lambda: old not in r.workers())
    assert r.ask("GET", "/healthz").status == 200


def test_a_stream_that_may_go_on_is_whole(
        start: Start, site: kit.Site, desk: Desk, backend: Backend) -> None:
    backend.hold_after = 1
    r = start(desk.conf(site))
    w = stream(r)
    desk.swap("g1")
    kit.wait_for("published", lambda: "watch: published" in r.log())
    backend.release()
    rest = b"".join(w.chunks())
    assert rest.endswith(b"data: [DONE]\n\n") and b"error" not in rest
    assert rest.count(b'"tok "') == 7


# The map

def test_notes_are_of_all_workers_and_outlive_reloads(
        start: Start, site: kit.Site, desk: Desk) -> None:
    r = start(desk.conf(site, 4))
    kit.wait_for("all", lambda: len(r.workers()) == 4)
    for i in range(32):
        assert r.ask("PUT", f"/desk/note/k{i}", b"v%d" % i).status == 200
    assert r.ask("PUT", "/desk/note/k32", b"v").status == 507   # bounded
    for i in range(32):
        assert r.ask("GET", f"/desk/note/k{i}").body == b"v%d" % i
    r.hup()
    for pid in r.workers():
        os.kill(pid, signal.SIGKILL)
    kit.wait_for("new ones", lambda: asked(r) == 200)
    assert r.ask("GET", "/desk/note/k7").body == b"v7"
    assert r.ask("GET", "/desk/note/none").status == 404


# Owned keys

def claim(r: kit.Router, key: str) -> wire.Answer:
    return r.ask("PUT", f"/desk/own/{key}", b"x")


def test_one_worker_owns_and_all_reach_it(
        start: Start, site: kit.Site, desk: Desk) -> None:
    r = start(desk.conf(site, 4))
    kit.wait_for("all", lambda: len({show(r)[0] for _ in range(16)}) == 4)
    a = claim(r, "s")
    assert a.status == 200
    owner = int(a.body)
    for _ in range(24):     # whoever is asked
        a = r.ask("GET", "/desk/own/s")
        assert (a.status, a.body.decode()) == (
            200, f"{owner} owns s, asked: who?")
        a = claim(r, "s")
        assert a.status == (200 if a.body == b"%d" % owner else 409)
    assert r.ask("GET", "/desk/own/other").status == 404
    os.kill(owner, signal.SIGKILL)
    kit.wait_for("free", lambda: r.ask("GET", "/desk/own/s").status == 404
                 if len(r.workers()) == 4 and owner not in r.workers()
                 else False)
    a = claim(r, "s")
    assert a.status == 200 and int(a.body) != owner
    assert r.ask("GET", "/desk/own/s").body.startswith(a.body)


def test_a_draining_worker_keeps_what_it_owns(
        start: Start, site: kit.Site, desk: Desk, backend: Backend) -> None:
    backend.hold_after = 1
    r = start(desk.conf(site))
    with stream(r) as w:    # so that it stays
        old = int(claim(r, "s").body)
        r.hup()
        assert claim(r, "s").status == 409
        assert r.ask("GET", "/desk/own/s").body.startswith(b"%d owns" % old)
        backend.release()
        assert b"".join(w.chunks()).endswith(b"data: [DONE]\n\n")
    kit.wait_for("gone", lambda: old not in r.workers())
    assert r.ask("GET", "/desk/own/s").status == 404
    assert claim(r, "s").status == 200
    assert r.ask("DELETE", "/desk/own/s").status == 200
    assert r.ask("GET", "/desk/own/s").status == 404


def test_nobody_else_reaches_the_workers_sockets(
        start: Start, site: kit.Site, desk: Desk) -> None:
    """The agent's user is hung up on, and so is one who knows no secret."""
    r = start(desk.conf(site, 2))
    kit.wait_for("both", lambda: len(r.workers()) == 2)
    assert claim(r, "s").status == 200
    names = [m.group(0) for m in re.finditer(
        r"kars-[0-9a-f]{24}", Path("/proc/net/unix").read_text())]
    assert len(set(names)) >= 2
    code = ("import os, socket, sys\n"
            "os.setuid(int(sys.argv[1]))\n"
            "for name in sys.argv[2:]:\n"
            "    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "    s.settimeout(10)\n"
            "    try:\n"
            "        s.connect(b'\\0' + name.encode().ljust(32, b'\\0'))\n"
            "        s.send(b'let me in')\n"
            "        print(s.recv(10))\n"
            "    except (ConnectionError, FileNotFoundError):\n"
            "        print(b'')\n")
    for uid in (kit.AGENT_UID, os.geteuid()):
        p = subprocess.run(["python3", "-c", code, str(uid), *set(names)],
                           text=True, capture_output=True, timeout=30)
        assert p.returncode == 0, p.stderr
        assert set(p.stdout.split()) == {"b''"}
    assert "mesh: hung up on" in r.log()
    assert r.ask("GET", "/desk/own/s").status == 200
