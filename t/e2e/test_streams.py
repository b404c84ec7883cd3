"""Streams: listeners that belong to a module, tunnels, CONNECT, datagrams.
The module is t/e2e/modules/wires.c, built here from the header alone."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kit
import wire

pytestmark = pytest.mark.core
Start = Callable[..., kit.Router]
MIB = 1 << 20


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all modules and this one."""
    folder = tmp_path_factory.mktemp("modules")
    for m in kit.MODULES.glob("*.so"):
        (folder / m.name).symlink_to(m)
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Werror",
         "-shared", "-fPIC", "-I", str(kit.TOP / "core"), "-o",
         str(folder / "wires.so"), str(kit.TOP / "t/e2e/modules/wires.c")],
        check=True)
    return folder


class Peer:
    """A server on a thread: each connection is given to `serve`."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2000)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(s)
            threading.Thread(target=self._one, args=(s,), daemon=True).start()

    def _one(self, s: socket.socket) -> None:
        try:
            self.serve(s)
        except OSError:
            pass

    def stop(self) -> None:
        self.listener.close()
        for s in self.open:
            s.close()


def echo(s: socket.socket) -> None:
    while data := s.recv(65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)


@pytest.fixture
def peer() -> Iterator[Peer]:
    p = Peer(echo)
    yield p
    p.stop()


class Ports:
    """Distinct ones, free for connections and for datagrams."""

    def __init__(self) -> None:
        held = []
        for name in ("echo", "tunnel", "join", "sniff", "udp"):
            held += [socket.socket(),
                     socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
            held[-2].bind(("127.0.0.1", 0))
            port = held[-2].getsockname()[1]
            held[-1].bind(("127.0.0.1", port))
            setattr(self, name, port)
        for s in held:
            s.close()


def conf(site: kit.Site, wires: Path, ports: Ports, peer_port: int,
         main: str = "", routes: str = "", workers: int = 1,
         timeout: str = "connect=2s idle=20s total=60s") -> str:
    text = site.usual(main=main, routes=routes)
    text = text.replace(f"module_path {kit.MODULES};", f"module_path {wires};")
    text = text.replace("load_module status;",
                        "load_module status;\nload_module wires;")
    text = text.replace("sandbox demo;", f"workers {workers};\nsandbox demo;")
    return text + f"""
wires_echo    127.0.0.1:{ports.echo};
wires_tunnel  127.0.0.1:{ports.tunnel};
wires_join    127.0.0.1:{ports.join};
wires_sniff   127.0.0.1:{ports.sniff};
wires_udp     127.0.0.1:{ports.udp};
wires_http    127.0.0.1:{site.port};
wires_to      peer;
upstream peer {{
    server  127.0.0.1:{peer_port};
    timeout {timeout};
}}
server {{
    listen 127.0.0.1:{ports.echo}   class=agent module=wires;
    listen 127.0.0.1:{ports.tunnel} class=agent module=wires;
    listen 127.0.0.1:{ports.join}   class=agent module=wires;
    listen 127.0.0.1:{ports.sniff}  class=agent module=wires;
    listen 127.0.0.1:{ports.udp}    udp class=agent module=wires;
    route CONNECT /good.example:443 {{ access agent; }}
    route CONNECT /secret.example:443 {{ access operator; }}
}}
"""


CONNECT = """    route CONNECT /{authority} { access agent; pass peer; }
"""


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def router(start: Start, site: kit.Site, wires: Path, ports: Ports,
           peer: Peer) -> kit.Router:
    return start(conf(site, wires, ports, peer.port, routes=CONNECT))


def dial(port: int, timeout: float = 20) -> socket.socket:
    s = socket.create_connection(("127.0.0.1", port), timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def tunnel(ports: Ports, to: str = "good.example:443") -> socket.socket:
    s = dial(ports.tunnel)
    s.sendall(to.encode() + b"\n")
    return s


def exactly(s: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        piece = s.recv(min(n - len(data), 1 << 16))
        assert piece, f"closed, {n - len(data)} bytes missing"
        data += piece
    return data


def rest(s: socket.socket) -> bytes:
    data = b""
    while piece := s.recv(65536):
        data += piece
    return data


def closes(s: socket.socket) -> bool:
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True


def fds(pid: int, kind: str) -> int:
    n = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            n += os.readlink(fd).startswith(kind)
        except FileNotFoundError:
            pass
    return n


def rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


# Listeners of a module

def test_echo(router: kit.Router, ports: Ports) -> None:
    with dial(ports.echo) as s:
        for n in (1, 2, 5000, 200000):
            sent = random.randbytes(n)
            threading.Thread(target=s.sendall, args=(sent,)).start()
            assert exactly(s, n) == sent
        s.sendall(b"last")
        s.shutdown(socket.SHUT_WR)
        assert rest(s) == b"last"


def test_the_module_closes(router: kit.Router, ports: Ports) -> None:
    with dial(ports.echo) as s:
        s.sendall(b"bye\n")
        assert closes(s)
    kit.wait_for("told", lambda: "wires: echo closed error=0" in router.log())


def test_the_client_resets(router: kit.Router, ports: Ports) -> None:
    s = dial(ports.echo)
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()
    kit.wait_for("told", lambda: "wires: echo closed error=104"
                 in router.log())


def test_idle_time(start: Start, site: kit.Site, wires: Path, ports: Ports,
                   peer: Peer) -> None:
    r = start(conf(site, wires, ports, peer.port) + "wires_idle 300ms;\n")
    with dial(ports.echo) as s:
        for _ in range(4):
            time.sleep(0.15)
            s.sendall(b"x")
            assert s.recv(1) == b"x"
        began = time.monotonic()
        assert closes(s)
        assert 0.2 < time.monotonic() - began < 5
    kit.wait_for("told", lambda: "wires: echo closed error=110" in r.log())


def test_an_echo_that_nobody_reads_is_bounded(
        router: kit.Router, ports: Ports) -> None:
    """The client sends 64 MiB and reads nothing: the router stops reading."""
    pid = router.workers()[0]
    before = rss(pid)
    with dial(ports.echo) as s:
        s.setblocking(False)
        sent, idle = 0, 0
        data = b"x" * 65536
        while sent < 64 * MIB and idle < 50:
            try:
                sent += s.send(data)
                idle = 0
            except BlockingIOError:
                idle += 1
                time.sleep(0.01)
        assert sent < 48 * MIB, "it read everything"
        assert rss(pid) - before < 16 * MIB


def test_a_module_joins_two_streams(router: kit.Router, ports: Ports) -> None:
    sent = random.randbytes(8 * MIB)
    with dial(ports.join) as s:
        threading.Thread(target=s.sendall, args=(sent,)).start()
        assert exactly(s, len(sent)) == sent
    kit.wait_for("both are told", lambda: "near closed" in router.log()
                 and "far closed" in router.log())


def test_a_stream_that_finds_nobody(
        start: Start, site: kit.Site, wires: Path, ports: Ports) -> None:
    r = start(conf(site, wires, ports, kit.free_port()))
    with dial(ports.join) as s:
        assert closes(s)
    assert "wires: far closed error=111" in r.log()


def test_datagrams(router: kit.Router, ports: Ports) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        for data in (b"", b"x", b"y" * 1400):
            s.sendto(data, ("127.0.0.1", ports.udp))
            got, who = s.recvfrom(4096)
            assert got == b"#" + data
            assert who == ("127.0.0.1", ports.udp)


def test_datagrams_with_four_workers_and_a_reload(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        peer: Peer) -> None:
    text = conf(site, wires, ports, peer.port, workers=4)
    r = start(text)

    def knock() -> None:
        for _ in range(40):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(10)
                s.sendto(b"a", ("127.0.0.1", ports.udp))
                assert s.recv(10) == b"#a"

    kit.wait_for("four", lambda: len(r.workers()) == 4)
    knock()
    r.hup(text)
    kit.wait_for("four again", lambda: len(r.workers()) == 4)
    knock()


def test_http_after_all(router: kit.Router, ports: Ports) -> None:
    """The bytes that the module saw are the request's first ones."""
    with wire.Wire(("127.0.0.1", ports.sniff)) as w:
        w.send(b"?")
        assert w.exactly(4) == b"- 0\n"
        w.send(wire.request("GET", "/healthz"))
        assert w.answer().status == 200
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes()))
        a = w.answer()
        assert a.status == 200
        assert router.record(a.trace)["class"] == "agent"


@pytest.fixture
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
    try:
        with socket.socket() as s:      # ip link set lo up
            fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x49))
        yield
    finally:
        assert libc.setns(here, 0x40000000) == 0
        os.close(here)


def test_where_a_redirected_connection_was_bound_for(
        own_network: None, start: Start, site: kit.Site, wires: Path,
        ports: Ports) -> None:
    start(conf(site, wires, ports, 1))
    subprocess.run(["nft", "-f", "-"], check=True, text=True, input=f"""
        table ip redirected {{
            chain out {{
                type nat hook output priority -100;
                tcp dport 4443 redirect to :{ports.sniff}
            }}
        }}""")
    for host in ("127.0.0.1", "127.1.2.3"):
        with socket.create_connection((host, 4443), 10) as s:
            s.sendall(b"?")
            assert s.recv(100) == f"{host} 4443\n".encode()
    with dial(ports.sniff) as s:    # tracked, and not redirected
        s.sendall(b"?")
        assert s.recv(100) == b"- 0\n"


# Configurations

@pytest.mark.parametrize("change,said", [
    (("udp class=agent module=wires", "udp class=agent"), "module=NAME"),
    (("wires_echo ", "#"), "no loaded module of that name takes it"),
    (("load_module wires;", ""), "unknown directive"),
    (("listen 127.0.0.1:{echo}   class=agent module=wires;", ""),
     "no server has `listen 127.0.0.1:{echo} module=wires;`"),
    (("class=agent module=wires;\n    route", "klass=agent;\n    route"),
     "expected class=CLASS, tls, module=NAME or udp"),
])
def test_a_listener_that_does_not_fit_is_an_error(
        site: kit.Site, wires: Path, ports: Ports,
        change: tuple[str, str], said: str) -> None:
    text = conf(site, wires, ports, 1)
    old, new = (c.replace("{echo}", str(ports.echo)) for c in change)
    assert old in text
    site.conf.write_text(text.replace(old, new, 1))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode == 1
    assert said.replace("{echo}", str(ports.echo)) in p.stderr


def test_a_taken_udp_address_is_an_error(
        router: kit.Router, site: kit.Site, wires: Path, ports: Ports) -> None:
    folder = site.dir / "other"
    folder.mkdir()
    other, more = kit.Site(folder, site.backend), Ports()
    more.udp = ports.udp
    other.conf.write_text(conf(other, wires, more, 1))
    p = kit.run_tool("-c", str(other.conf), check=False)
    assert p.returncode == 1
    assert f"udp:127.0.0.1:{ports.udp}: Address already in use" in p.stderr


# Tunnels

def test_a_tunnel(router: kit.Router, ports: Ports) -> None:
    with tunnel(ports) as s:
        s.sendall(b"hello")
        assert exactly(s, 5) == b"hello"
        s.shutdown(socket.SHUT_WR)
        assert rest(s) == b""


def test_what_was_not_taken_goes_first(
        router: kit.Router, ports: Ports) -> None:
    with dial(ports.tunnel) as s:
        s.sendall(b"good.example:443\nfirst words ")
        s.sendall(b"and more")
        assert exactly(s, 20) == b"first words and more"


def test_a_tunnel_that_no_route_allows(
        router: kit.Router, ports: Ports) -> None:
    for to, why in (("bad.example:443", "no route"),
                    ("secret.example:443", "")):
        with tunnel(ports, to) as s:
            said = rest(s).decode()
        assert said.startswith("no: ") and why in said
        found = [d for d in router.decisions() if d["path"] == f"/{to}"]
        assert len(found) == 1
        assert found[0]["decision"] == "deny"
        assert found[0]["method"] == "CONNECT"


def pump(s: socket.socket, n: int, seed: int) -> str:
    rng, sha = random.Random(seed), hashlib.sha256()
    while n > 0:
        data = rng.randbytes(min(n, 1 << 16))
        sha.update(data)
        s.sendall(data)
        n -= len(data)
    s.shutdown(socket.SHUT_WR)
    return sha.hexdigest()


def digest(s: socket.socket) -> tuple[int, str]:
    n, sha = 0, hashlib.sha256()
    while data := s.recv(1 << 18):
        n += len(data)
        sha.update(data)
    return n, sha.hexdigest()


def both_ways(near: socket.socket, far: Callable[[], socket.socket],
              n: int) -> None:
    """n bytes each way at once, half-closed by each side when it is done."""
    found: dict[str, object] = {}

    def run(name: str, fn: Callable[..., object], *args: object) -> None:
        found[name] = fn(*args)

    other = far()
    threads = [
        threading.Thread(target=run, args=("up", pump, near, n, 1)),
        threading.Thread(target=run, args=("down", pump, other, n, 2)),
        threading.Thread(target=run, args=("got up", digest, other)),
        threading.Thread(target=run, args=("got down", digest, near))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(50)
    assert found["got up"] == (n, found["up"])
    assert found["got down"] == (n, found["down"])


@pytest.fixture
def quiet() -> Iterator[Peer]:
    """A peer whose connections the test itself uses."""
    stop = threading.Event()
    p = Peer(lambda s: (stop.wait(60), None)[1])
    yield p
    stop.set()
    p.stop()


def newest(p: Peer, n: int = 1) -> socket.socket:
    kit.wait_for("the tunnel reaches the peer", lambda: len(p.open) >= n)
    s = p.open[n - 1]
    s.settimeout(40)
    return s


def test_a_hundred_mebibytes_both_ways(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        quiet: Peer) -> None:
    r = start(conf(site, wires, ports, quiet.port, routes=CONNECT))
    pid = r.workers()[0]
    before = rss(pid)
    with tunnel(ports) as s:
        both_ways(s, lambda: newest(quiet), 100 * MIB)
    assert rss(pid) - before < 16 * MIB


def connect(r: kit.Router, to: str = "any.example:443") -> wire.Wire:
    w = r.wire()
    w.send(f"CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n".encode())
    return w


def test_connect(router: kit.Router) -> None:
    with connect(router) as w:
        a = w.head()
        assert a.status == 200
        assert a.get("content-length") is None
        assert a.get("transfer-encoding") is None
        w.send(b"hello")
        assert w.exactly(5) == b"hello"
        w.sock.shutdown(socket.SHUT_WR)
        assert w.closed()


def test_connect_with_bytes_ahead(router: kit.Router) -> None:
    with router.wire() as w:
        w.send(b"CONNECT a.example:1 HTTP/1.1\r\nhost: a.example:1\r\n\r\n"
               b"ahead of its turn")
        assert w.head().status == 200
        assert w.exactly(17) == b"ahead of its turn"


def test_connect_by_curl(router: kit.Router, peer: Peer) -> None:
    """The real client, to an HTTP server behind the tunnel."""
    def serve(s: socket.socket) -> None:
        while b"\r\n\r\n" not in s.recv(65536):
            pass
        s.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n"
                  b"connection: close\r\n\r\nhello")
        s.close()

    peer.serve = serve
    p = subprocess.run(
        ["curl", "-sS", "--max-time", "20", "--proxytunnel", "--proxy",
         f"http://127.0.0.1:{router.site.port}", "http://some.example/"],
        capture_output=True, text=True, timeout=30)
    assert p.returncode == 0, p.stderr
    assert p.stdout == "hello"


def test_connect_that_finds_nobody(
        start: Start, site: kit.Site, wires: Path, ports: Ports) -> None:
    r = start(conf(site, wires, ports, kit.free_port(), routes=CONNECT))
    with connect(r) as w:
        a = w.answer()
        assert a.status == 502
        assert a.get("connection") == "close"
        assert w.closed()
        record = r.record(a.trace)
        assert record["status"] == 502 and record["upstream"] == "peer"


def test_connect_needs_a_route_that_names_it(
        start: Start, site: kit.Site) -> None:
    r = start(site.usual(
        routes="route * /{rest...} { access agent; pass model; }\n"))
    with connect(r) as w:
        assert w.answer().status == 404
        assert w.closed()


def test_half_close_is_carried_both_ways(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        quiet: Peer) -> None:
    start(conf(site, wires, ports, quiet.port))
    with tunnel(ports) as s:
        far = newest(quiet)
        s.sendall(b"question")
        s.shutdown(socket.SHUT_WR)
        assert rest(far) == b"question"
        far.sendall(b"answer")      # long after the other end said all
        far.shutdown(socket.SHUT_WR)
        assert rest(s) == b"answer"
    with tunnel(ports) as s:
        far = newest(quiet, 2)
        far.sendall(b"greeting")
        far.shutdown(socket.SHUT_WR)
        assert rest(s) == b"greeting"
        s.sendall(b"thanks")
        s.shutdown(socket.SHUT_WR)
        assert rest(far) == b"thanks"


@pytest.mark.parametrize("side", ["near", "far"])
def test_one_side_is_killed(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        quiet: Peer, side: str) -> None:
    r = start(conf(site, wires, ports, quiet.port))
    near = tunnel(ports)
    far = newest(quiet)
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    dies, stays = (near, far) if side == "near" else (far, near)
    dies.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                    b"\1\0\0\0\0\0\0\0")
    dies.close()
    assert closes(stays)
    stays.close()
    kit.wait_for("told", lambda: "wires: tunnel closed error=104" in r.log())


@pytest.mark.parametrize("slow", ["near", "far"])
def test_a_side_that_does_not_read_stops_the_other(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        quiet: Peer, slow: str) -> None:
    r = start(conf(site, wires, ports, quiet.port))
    pid = r.workers()[0]
    with tunnel(ports) as near:
        far = newest(quiet)
        before = rss(pid)
        reads, sends = (near, far) if slow == "near" else (far, near)
        sends.setblocking(False)
        sent, idle = 0, 0
        while sent < 64 * MIB and idle < 50:
            try:
                sent += sends.send(b"x" * 65536)
                idle = 0
            except BlockingIOError:
                idle += 1
                time.sleep(0.01)
        assert sent < 48 * MIB
        assert rss(pid) - before < 8 * MIB
        sends.setblocking(True)
        sends.shutdown(socket.SHUT_WR)
        assert digest(reads)[0] == sent     # and then it goes on


def test_a_thousand_idle_tunnels_hold_no_pipe(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        peer: Peer) -> None:
    r = start(conf(site, wires, ports, peer.port))
    pid = r.workers()[0]
    open_ones = []
    for _ in range(10):
        some = [tunnel(ports) for _ in range(100)]
        for s in some:
            s.sendall(b"ping")
        for s in some:
            assert exactly(s, 4) == b"ping"
        open_ones += some
    assert fds(pid, "socket:") > 2000
    assert fds(pid, "pipe:") < 80   # a pool of 32, and the log's
    for s in open_ones[::50]:
        s.sendall(b"still there")
        assert exactly(s, 11) == b"still there"
    for s in open_ones:
        s.close()
    kit.wait_for("all closed", lambda: fds(pid, "socket:") < 100, 20)


def test_idle_and_total_times_of_a_tunnel(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        peer: Peer) -> None:
    r = start(conf(site, wires, ports, peer.port, routes=CONNECT,
                   timeout="connect=2s idle=400ms total=1500ms"))
    with connect(r) as w:       # silent
        assert w.head().status == 200
        began = time.monotonic()
        assert w.closed()
        assert 0.3 < time.monotonic() - began < 1.2
    with connect(r) as w:       # busy for as long as it may
        assert w.head().status == 200
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                w.send(b"x")
                w.exactly(1)
                time.sleep(0.05)
        except (wire.Closed, OSError):
            pass
        assert 1.2 < time.monotonic() - began < 5


def test_a_reload_leaves_tunnels_to_the_old_worker(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        peer: Peer) -> None:
    text = conf(site, wires, ports, peer.port, routes=CONNECT,
                main="drain_timeout 3s;")
    r = start(text)
    old = set(r.workers())
    with tunnel(ports) as s, connect(r) as w:
        assert w.head().status == 200
        r.hup(text)
        kit.wait_for("a new worker", lambda: set(r.workers()) - old)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            s.sendall(b"tick")
            assert exactly(s, 4) == b"tick"
            w.send(b"tock")
            assert w.exactly(4) == b"tock"
            time.sleep(0.05)
        with tunnel(ports) as new:
            new.sendall(b"new")
            assert exactly(new, 3) == b"new"
        assert closes(s) and w.closed()
    kit.wait_for("the old one is gone", lambda: not old & set(r.workers()))


def test_bytes_are_counted_and_recorded(
        start: Start, site: kit.Site, wires: Path, ports: Ports,
        quiet: Peer) -> None:
    """One decision record, before the first byte; one that it closed."""
    r = start(conf(site, wires, ports, quiet.port, routes=CONNECT))
    for i, begin in enumerate((lambda: tunnel(ports),
                               lambda: connect(r).sock)):
        near = begin()
        far = newest(quiet, i + 1)
        if i == 1:
            assert near.recv(65536).startswith(b"HTTP/1.1 200")
        opened = [d for d in r.decisions() if d["method"] == "CONNECT"]
        assert len(opened) == i + 1
        assert opened[i]["decision"] == "allow"
        assert opened[i]["code"] == "open"
        near.sendall(b"u" * 70000)
        assert exactly(far, 70000)
        far.sendall(b"d" * 123456)
        assert exactly(near, 123456)
        near.close()
        far.close()

        def closed() -> list[dict[str, object]]:
            return [x for x in r.lines() if x["action"] == "audit:close"
                    and x["trace"] == opened[i]["trace"]]

        record, = kit.wait_for("a close record", closed)
        assert record["bytes_in"] - 70000 in (0, 17), record
        assert record["bytes_out"] == 123456
        assert record["upstream"] == "peer"
        assert record["code"] == "ended"
    assert len([d for d in r.decisions() if d["method"] == "CONNECT"]) == 2
    r.stop(signal.SIGTERM)
    assert "ok" in r.verify().stdout
