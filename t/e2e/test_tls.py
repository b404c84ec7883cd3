"""TLS towards clients: handshakes good and bad, names, sessions, client
certificates, files that change, and the same requests as in clear."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kit
import pki
import pytest
import wire
from backend import Backend

NEW = ssl.TLSVersion.TLSv1_3
OLD = ssl.TLSVersion.TLSv1_2
BOTH = pytest.mark.parametrize("version", [OLD, NEW], ids=["1.2", "1.3"])


class TlsSite:
    """A site with a second listener, which speaks TLS."""

    def __init__(self, site: kit.Site, ca: pki.Authority) -> None:
        self.site = site
        self.ca = ca
        self.port = kit.free_port()
        self.pair = ca.issue("localhost", "router.test")

    def conf(self, tls: str = "", main: str = "", routes: str = "",
             pair: str | None = None, listen: str = "class=agent tls") -> str:
        words = self.pair.words if pair is None else pair
        lines = [f"listen 127.0.0.1:{self.port} {listen};", "body_limit 8m;",
                 f"tls_certificate {words};" if words else "", tls]
        return self.site.usual(main=main, server="\n    ".join(lines),
                               routes=routes)

    def context(self, version: ssl.TLSVersion | None = None,
                client: pki.Pair | None = None,
                alpn: list[str] | None = None) -> ssl.SSLContext:
        c = ssl.create_default_context(cafile=str(self.ca.pem))
        if version is not None:
            c.minimum_version = c.maximum_version = version
        if client is not None:
            c.load_cert_chain(client.cert, client.key)
        if alpn is not None:
            c.set_alpn_protocols(alpn)
        return c

    def wire(self, context: ssl.SSLContext | None = None,
             name: str = "localhost",
             session: ssl.SSLSession | None = None) -> wire.Wire:
        return wire.Wire(("127.0.0.1", self.port), 20,
                         context or self.context(), name, session)

    def ask(self, path: str = "/healthz",
            context: ssl.SSLContext | None = None,
            name: str = "localhost") -> wire.Answer:
        with self.wire(context, name) as w:
            return w.send(wire.request("GET", path)).answer()

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def served(self) -> bytes:
        """The certificate that a new client is shown."""
        with self.wire() as w:
            return w.sock.getpeercert(True)

    def curl(self, *args: str, path: str = "/healthz"
             ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["curl", "-sS", "--http1.1", "--max-time", "20", "--cacert",
             str(self.ca.pem), *args, f"https://localhost:{self.port}{path}"],
            text=True, capture_output=True, timeout=30)

    def s_client(self, *args: str, stdin: bytes = b"") -> str:
        """What `openssl s_client` prints, given these lines one by one."""
        p = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}",
             "-servername", "localhost", "-CAfile", str(self.ca.pem), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        assert p.stdin is not None
        try:
            for line in stdin.splitlines(keepends=True):
                p.stdin.write(line)
                p.stdin.flush()
                time.sleep(0.2)
            return p.communicate(timeout=20)[0].decode(errors="replace")
        except BrokenPipeError:
            return p.communicate(timeout=20)[0].decode(errors="replace")
        finally:
            p.kill()


@pytest.fixture
def tls(site: kit.Site, tmp_path: Path) -> TlsSite:
    return TlsSite(site, pki.Authority(tmp_path))


def failed(context: ssl.SSLContext, tls: TlsSite) -> ssl.SSLError | OSError:
    """The error that a client gets, in the handshake or, as TLS 1.3 has it,
    with the first answer."""
    with pytest.raises((ssl.SSLError, ConnectionError)) as e:
        tls.ask(context=context)
    return e.value


# Good handshakes

@pytest.mark.core
@BOTH
def test_good_handshake(version, tls, start):
    r = start(tls.conf())
    with tls.wire(tls.context(version)) as w:
        assert w.sock.version() == {OLD: "TLSv1.2", NEW: "TLSv1.3"}[version]
        for _ in range(3):
            w.send(wire.request("POST", kit.CHAT, kit.chat_bytes()))
            a = w.answer()
            assert a.status == 200 and a.json["usage"]
        w.send(wire.request("GET", "/healthz",
                            headers={"connection": "close"}))
        assert w.answer().status == 200
        assert w.closed()  # with close_notify: else recv would have raised
    assert r.record(a.trace)["status"] == 200


@pytest.mark.core
@pytest.mark.parametrize("flag", ["--tls-max=1.2", "--tlsv1.3"])
def test_curl_agrees(flag, tls, start):
    start(tls.conf())
    args = flag.split("=")
    p = tls.curl(*args, "-v", "-d", kit.chat_bytes().decode(), "-H",
                 "content-type: application/json", path=kit.CHAT)
    assert p.returncode == 0, p.stderr
    assert '"finish_reason"' in p.stdout
    assert "SSL certificate verify ok" in p.stderr


def test_tls_1_0_and_1_1_are_refused(tls, start):
    r = start(tls.conf())
    for old in ("-tls1", "-tls1_1"):
        said = tls.s_client(old, "-cipher", "ALL:@SECLEVEL=0")
        assert "alert protocol version" in said, said
    kit.wait_for("both are told", lambda: r.log().count(
        'reason="unsupported protocol"') == 2)


def test_one_version_only(tls, start):
    start(tls.conf("tls_protocols TLSv1.3;"))
    assert tls.ask(context=tls.context(NEW)).status == 200
    assert "version" in str(failed(tls.context(OLD), tls))


def test_renegotiation_is_refused_and_key_updates_are_answered(tls, start):
    start(tls.conf())
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    said = tls.s_client("-tls1_2", stdin=b"R\n" + get)
    assert "no renegotiation" in said and "200 OK" not in said
    said = tls.s_client("-tls1_3", stdin=b"K\n" + get)
    assert "KEYUPDATE" in said and "200 OK" in said


# Names and protocols

def test_certificate_by_the_name_that_is_asked_for(tls, start):
    second = tls.ca.issue("other.test", "*.wild.test")
    start(tls.conf(f"tls_certificate {second.words};"))

    def shown(name: str) -> bytes:
        c = tls.context()
        c.check_hostname = False
        with tls.wire(c, name) as w:
            w.send(wire.request("GET", "/healthz"))
            assert w.answer().status == 200
            return w.sock.getpeercert(True)

    first, other = (ssl.PEM_cert_to_DER_cert(p.cert.read_text())
                    for p in (tls.pair, second))
    assert shown("localhost") == first
    assert shown("other.test") == other
    assert shown("OTHER.test") == other
    assert shown("a.wild.test") == other
    assert shown("a.b.wild.test") == first
    assert shown("nobody.test") == first
    assert shown("127.0.0.1") == first  # no SNI


def test_alpn(tls, start):
    start(tls.conf())
    for offer, chosen in ((["http/1.1"], "http/1.1"),
                          (["x", "http/1.1"], "http/1.1"), (None, None)):
        with tls.wire(tls.context(alpn=offer)) as w:
            assert w.sock.selected_alpn_protocol() == chosen
            w.send(wire.request("GET", "/healthz"))
            assert w.answer().status == 200
    assert "no application protocol" in str(failed(tls.context(alpn=["x"]),
                                                   tls))


def test_http2_is_chosen_by_alpn(tls, start):
    r = start(tls.conf())
    p = tls.curl("--http2", "-w", " %{http_version} %{http_code}")
    assert p.stdout.endswith(" 2 200"), p
    p = tls.curl("--http2", "-d", kit.chat_bytes().decode(), "-H",
                 "content-type: application/json", path=kit.CHAT)
    assert b"chat.completion" in p.stdout.encode()
    r.stop()
    assert "ok" in r.verify().stdout


def test_who_agrees_on_http2_must_speak_it(tls, start):
    """One refusal and one record, as for any head that is none."""
    r = start(tls.conf())
    with tls.wire(tls.context(alpn=["h2"])) as w:
        assert w.sock.selected_alpn_protocol() == "h2"
        a = w.send(wire.request("GET", "/healthz")).answer()
        assert a.status == 400 and b"h2 was agreed on" in a.body
        assert w.closed()
    with tls.wire(tls.context(alpn=["http/1.1"])) as w:
        w.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert w.answer().status == 505
    r.stop()
    assert [d["status"] for d in r.decisions()] == [400, 505]


# Sessions

def serving(port: int) -> str:
    """Which process has the other end of our connection from this port."""
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        f = line.split()
        if int(f[2].split(":")[1], 16) == port and f[3] == "01":
            inode = f[9]
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(fd) == f"socket:[{inode}]":
                return fd.parts[2]
        except OSError:
            pass
    raise AssertionError(f"nobody has {inode}")


@BOTH
def test_sessions_go_on_across_workers_and_reloads(version, tls, start):
    r = start(tls.conf(main="workers 3;"))
    context = tls.context(version)
    session, reused, seen = None, [], set()
    for i in range(24):
        with tls.wire(context, session=session) as w:
            w.send(wire.request("GET", "/healthz"))
            assert w.answer().status == 200
            seen.add(serving(w.sock.getsockname()[1]))
            reused.append(w.sock.session_reused)
            session = w.sock.session
        if i == 11:
            r.hup()
    assert reused == [False] + [True] * 23
    assert len(seen) > 2, "one worker got them all"


def test_session_ends_with_its_timeout(tls, start):
    """What is asked of OpenSSL: the ticket says how long it is good for."""
    start(tls.conf("tls_session_timeout 90s;"))
    said = tls.s_client("-tls1_2", stdin=b"Q\n")
    hint = re.search(r"ticket lifetime hint: (\d+)", said)
    assert hint and int(hint.group(1)) == 90


# Client certificates

@pytest.fixture
def clients(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path, "clients")


PEER = "route GET /peer { access peer; respond 200 \"peer\"; }\n"


def mtls(tls: TlsSite, clients: pki.Authority, how: str = "require",
         main: str = "") -> str:
    return tls.conf(f"tls_client_ca {clients.pem}; tls_verify_client {how};",
                    main=main, routes=PEER, listen="tls")


@BOTH
def test_client_certificate_is_class_peer(version, tls, clients, start):
    r = start(mtls(tls, clients))
    mine = clients.issue("gw.example", "spiffe://example/gw", client=True)
    a = tls.ask("/peer", tls.context(version, mine))
    assert a.status == 200 and a.body == b"peer"
    record = r.record(a.trace)
    assert (record["class"], record["agent_id"]) == (
        "peer", "cert:gw.example")
    assert tls.ask("/internal/policy-status",
                   tls.context(version, mine)).status == 403


@BOTH
def test_missing_client_certificate(version, tls, clients, start):
    r = start(mtls(tls, clients))
    said = str(failed(tls.context(version), tls))
    assert "alert" in said
    kit.wait_for("it is told", lambda: "peer did not return a certificate"
                 in r.log())


@BOTH
@pytest.mark.parametrize("what", ["expired", "unknown", "server"])
def test_bad_client_certificate(version, what, tls, clients, start):
    r = start(mtls(tls, clients))
    if what == "expired":
        mine = clients.issue("gw.example", client=True, begins=-3, ends=-1)
        why = "its certificate has expired"
    elif what == "unknown":
        mine = tls.ca.issue("gw.example", client=True)
        why = "its certificate is of an authority that we do not know"
    else:
        mine = clients.issue("gw.example")
        why = "its certificate is for another purpose"
    assert "alert" in str(failed(tls.context(version, mine), tls))
    kit.wait_for("it is told", lambda: f'reason="{why}"' in r.log())

    records = kit.wait_for("a record of it", r.decisions)
    assert [(d["status"], d["path"], d["reason"]) for d in records] == [
        (400, "-", f"TLS: {why}")]


def test_optional_client_certificate(tls, clients, start):
    start(mtls(tls, clients, "optional"))
    mine = clients.issue("gw.example", client=True)
    assert tls.ask("/healthz").status == 200
    assert tls.ask("/peer").status == 403
    assert tls.ask("/peer", tls.context(client=mine)).status == 200
    unknown = tls.ca.issue("gw.example", client=True)
    failed(tls.context(client=unknown), tls)


def test_named_client_certificates_only(tls, clients, start):
    start(mtls(tls, clients, main="caller_certificate peer gw.example "
               "spiffe://example/gw; caller_certificate operator op.example;"))

    def status(*names: str, path: str = "/peer") -> int:
        mine = clients.issue(*names, client=True, cn="gw.example")
        return tls.ask(path, tls.context(client=mine)).status

    assert status("gw.example") == 200
    assert status("spiffe://example/gw") == 200
    assert status("x.example", "gw.example") == 200
    assert status("x.example") == 403
    assert status() == 403  # the common name says nothing
    assert status("op.example") == 403
    assert status("op.example", path="/internal/policy-status") == 200


@BOTH
def test_session_of_a_client_ends_with_its_authority(version, tls, clients,
                                                     start, tmp_path):
    start(mtls(tls, clients))
    context = tls.context(version, clients.issue("gw.example", client=True))

    def talk(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession, bool]:
        with tls.wire(context, session=session) as w:
            w.send(wire.request("GET", "/peer"))
            assert w.answer().status == 200
            return w.sock.session, w.sock.session_reused

    session, reused = talk(None)
    session, reused = talk(session)
    assert reused
    other = pki.Authority(tmp_path, "other")
    fresh = clients.pem.with_suffix(".new")
    fresh.write_bytes(other.pem.read_bytes())
    fresh.rename(clients.pem)

    def is_refused() -> bool:
        try:
            talk(session)
        except (ssl.SSLError, ConnectionError):
            return True
        return False
    kit.wait_for("the old authority counts no more", is_refused)


# Files that change

def test_new_certificate_without_a_reload(tls, start):
    """An old connection goes on, new handshakes see the new one, and nothing
    is lost on the way."""
    start(tls.conf())
    old = ssl.PEM_cert_to_DER_cert(tls.pair.cert.read_text())
    with tls.wire() as w:
        w.send(wire.request("GET", "/healthz"))
        assert w.answer().status == 200
        assert tls.served() == old

        tls.pair.replace(tls.ca.issue("localhost"))
        new = ssl.PEM_cert_to_DER_cert(tls.pair.cert.read_text())

        def is_new() -> bool:
            assert tls.ask().status == 200
            w.send(wire.request("GET", "/healthz"))
            assert w.answer().status == 200
            return tls.served() == new
        kit.wait_for("the new certificate", is_new)


def test_replacing_certificates_loses_no_request(tls, start):
    start(tls.conf(main="workers 2;"))
    done = threading.Event()
    seen: set[bytes] = set()

    def ask() -> int:
        n = 0
        while not done.is_set():
            with tls.wire() as w:
                w.send(wire.request("GET", "/healthz"))
                assert w.answer().status == 200
                seen.add(w.sock.getpeercert(True))
            n += 1
        return n

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for _ in range(6):
                tls.pair.replace(tls.ca.issue("localhost"))
                time.sleep(0.4)
        finally:
            done.set()
        assert sum(a.result(20) for a in asking) > 20
    assert len(seen) > 3


def test_bad_certificate_is_kept_out(tls, start):
    r = start(tls.conf())
    old = tls.served()
    fresh = tls.pair.cert.with_suffix(".new")
    for bad in (b"no certificate\n",
                tls.ca.issue("localhost").cert.read_bytes()):
        n = r.log().count("changed files do not load")
        fresh.write_bytes(bad)
        fresh.rename(tls.pair.cert)
        kit.wait_for("it is told", lambda: r.log().count(
            "changed files do not load") > n)
        assert tls.served() == old
    time.sleep(0.5)
    assert r.log().count("changed files do not load") == 2
    expired = tls.ca.issue("localhost", begins=-3, ends=-1)
    tls.pair.replace(expired)
    kit.wait_for("it is told", lambda: "the certificate has expired"
                 in r.log())
    assert tls.served() == old


def test_mounted_volume_that_swaps_its_link(tls, start, tmp_path):
    """What a kubelet does: the files are links through `..data`."""
    volume = tmp_path / "volume"
    volume.mkdir()

    def put(name: str, pair: pki.Pair) -> None:
        (volume / name).mkdir()
        shutil.copy(pair.cert, volume / name / "tls.crt")
        shutil.copy(pair.key, volume / name / "tls.key")
        (volume / "..tmp").symlink_to(name)
        (volume / "..tmp").rename(volume / "..data")

    put("..1", tls.pair)
    for name in ("tls.crt", "tls.key"):
        (volume / name).symlink_to(f"..data/{name}")
    start(tls.conf(pair=f"{volume}/tls.crt {volume}/tls.key"))
    new = tls.ca.issue("localhost")
    assert tls.served() != new.x509.public_bytes(
        pki.serialization.Encoding.DER)
    put("..2", new)
    kit.wait_for("the new certificate", lambda: tls.served() ==
                 new.x509.public_bytes(pki.serialization.Encoding.DER), 5)


def test_key_that_only_root_may_read(tls, start, tmp_path):
    """The worker has no right to the folder: nothing tells it of the change,
    and the master opens the files."""
    for path in (tls.site.audit_dir, tls.site.ledger):
        path.chmod(0o777)
    secret = tmp_path / "secret"
    secret.mkdir()
    for part in (tls.pair.cert, tls.pair.key):
        shutil.move(part, secret / part.name)
    tls.pair.cert = secret / tls.pair.cert.name
    tls.pair.key = secret / tls.pair.key.name
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    r = start(tls.conf(main="user nobody;"))
    secret.chmod(0o700)
    worker = Path(f"/proc/{r.workers()[0]}/status").read_text()
    assert re.search(r"Uid:\t65534", worker)
    new = tls.ca.issue("localhost")
    tls.pair.replace(new)
    kit.wait_for("the new certificate", lambda: tls.served() ==
                 new.x509.public_bytes(pki.serialization.Encoding.DER), 15)


def test_new_certificate_after_an_upgrade(tls, start, tmp_path):
    """The binary that took over knows what its workers may ask for."""
    binary = tmp_path / "kars-router"
    shutil.copy(kit.BINARY, binary)
    r = start(tls.conf(), binary=binary)
    r.upgrade()
    new = tls.ca.issue("localhost")
    tls.pair.replace(new)
    kit.wait_for("the new certificate", lambda: tls.served() ==
                 new.x509.public_bytes(pki.serialization.Encoding.DER), 15)


# Bad handshakes

def test_handshake_that_hangs(tls, start):
    r = start(tls.conf("timeout header=500ms;"))
    with tls.raw() as s:
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        begun = time.monotonic()
        assert s.recv(1) == b""
        assert 0.3 < time.monotonic() - begun < 5
    with tls.raw() as s:  # and one that says nothing at all
        assert s.recv(1) == b""
    kit.wait_for("it is told", lambda:
                 'reason="it did not end in time"' in r.log())
    assert r.log().count("handshake failed") == 1
    assert tls.ask().status == 200


@pytest.mark.parametrize("garbage", [
    b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x16\x03\x01\xff\xff" + b"\x00" * 2000, b"\x00" * 100],
    ids=["record", "ssh", "long", "zeros"])
def test_handshake_of_garbage(garbage, tls, start):
    r = start(tls.conf())
    with tls.raw() as s:
        s.sendall(garbage)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while (more := s.recv(4096)):
            got += more
        assert got == b"" or got[0] == 0x15, got  # an alert
    kit.wait_for("it is told", lambda: "handshake failed" in r.log())
    assert re.search(r"tls: handshake failed listener=127\.0\.0\.1:\d+ "
                     r"peer=127\.0\.0\.1:\d+ reason=\"[^\"]+\"", r.log())

    records = kit.wait_for("a record of it", r.decisions)
    assert len(records) == 1 and records[0]["status"] == 400
    assert tls.ask().status == 200


def test_many_bad_handshakes_are_few_lines(tls, start):
    r = start(tls.conf())
    for _ in range(200):
        with tls.raw() as s:
            s.sendall(b"nonsense that is long enough\r\n")
            s.recv(100)
    assert 5 < r.log().count("tls: handshake failed") < 150


def test_plain_http_is_told_so(tls, start):
    r = start(tls.conf())
    with wire.Wire(("127.0.0.1", tls.port)) as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes("x " * 50_000)))
        a = w.answer()
        assert a.status == 400
        assert b"a plain HTTP request came to a TLS port" in a.body
        assert w.closed()
    assert r.record(a.trace)["status"] == 400
    assert not r.site.backend.requests


def test_connection_without_a_word_is_no_failure(tls, start):
    r = start(tls.conf())
    tls.raw().close()
    assert tls.ask().status == 200
    assert "handshake failed" not in r.log()


# Bodies

@pytest.fixture
def secure_backend(tmp_path: Path) -> Backend:
    """A model server behind TLS, in the place of the plain one."""
    folder = tmp_path / "up"
    folder.mkdir()
    ca = pki.Authority(folder, "up")
    b = Backend(tls=pki.server_context(ca.issue("localhost")),
                host="localhost").start()
    b.ca = ca
    yield b
    b.release()
    b.stop()
    assert b.violations == []


@pytest.fixture
def both(tls: TlsSite, secure_backend: Backend, start: Callable) -> TlsSite:
    """TLS on both sides."""
    tls.site.backend = secure_backend
    conf = tls.conf(routes="route GET /raw { access agent; "
                    f"{tls.site.credential()} pass model; }}\n")
    mark = "upstream model {\n"
    assert mark in conf
    start(conf.replace(mark, f"{mark}    tls on; tls_ca "
                             f"{secure_backend.ca.pem};\n"))
    return tls


@BOTH
def test_events_pass_at_once(version, both):
    both.site.backend.hold_after = 2
    with both.wire(both.context(version)) as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(stream=True)))
        assert w.head().status == 200
        begun = time.monotonic()
        w.until(b"tok ")
        w.until(b"tok ")
        assert time.monotonic() - begun < 2
        both.site.backend.release()
        w.until(b"[DONE]")


def test_large_bodies_pass(both):
    both.site.backend.text = "x" * 700_000
    body = kit.chat_bytes("word " * 1000 + "y" * 3_000_000)
    with both.wire() as w:
        a = w.send(wire.request("POST", kit.CHAT, body)).answer()
    assert a.status == 200
    assert a.json["choices"][0]["message"]["content"] == "x" * 5_600_000


def test_pieces_of_any_size_pass(both):
    """Records that are cut anywhere, and heads that come byte by byte."""
    body = kit.chat_bytes("word " * 400)
    raw = wire.request("POST", kit.CHAT, body)
    for size in (1, 7, 500):
        with both.wire() as w:
            assert w.slowly(raw, size).answer().status == 200


def test_slow_reader_holds_the_server_back(both):
    backend = both.site.backend
    backend.text = "z" * 100_000
    backend.length = 300
    with both.wire() as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(
            stream=True, max_tokens=300)))
        assert w.head().status == 200
        time.sleep(1)
        made = backend.completion_tokens
        assert made < 250, "everything was taken from the server at once"
        time.sleep(0.5)
        assert backend.completion_tokens <= made + 1
        assert b"".join(w.chunks()).count(b"zzz\"") == 300


def test_answer_that_breaks_off_has_no_close_notify(both):
    """HTTP/1.0 has nothing else to tell a cut body by."""
    def body(fault: str) -> bytes:
        both.site.backend.fault = fault
        with both.wire() as w:
            w.send(b"GET /raw HTTP/1.0\r\nhost: router\r\n\r\n")
            a = w.answer()
            assert a.status == 200 and not a.get("content-length")
            return a.body

    assert body("until_close") == b"as far as it goes"
    with pytest.raises(ssl.SSLEOFError):
        body("cut_until_close")


# Configuration

@pytest.mark.parametrize("pair, extra, listen, said", [
    ("", "", "tls", "go together"),
    (None, "", "", "go together"),
    (None, "", "tls tls", "expected class=CLASS, tls, module=NAME or udp"),
    (None, "tls_verify_client require;", "tls", "go together"),
    (None, "tls_client_ca {ca};", "tls", "go together"),
    (None, "tls_client_ca {key}; tls_verify_client require;", "tls",
     "no certificate in it"),
    (None, "tls_protocols TLSv1.1;", "tls", "expected TLSv1.2 or TLSv1.3"),
    (None, "tls_session_timeout 2d;", "tls", "expected 1m to 1d"),
    ("{cert}", "", "tls", "tls_certificate FILE KEYFILE"),
    ("{cert} {cert}.none", "", "tls", "No such file"),
    ("{cert} {other}", "", "tls", "key"),
    ("{key} {key}", "", "tls", "the certificate"),
])
def test_what_does_not_fit_is_an_error(pair, extra, listen, said, tls):
    files = {"ca": tls.ca.pem, "cert": tls.pair.cert, "key": tls.pair.key,
             "other": tls.ca.issue("localhost").key}
    tls.site.conf.write_text(tls.conf(
        extra.format(**files), listen=listen,
        pair=None if pair is None else pair.format(**files)))
    p = kit.run_tool("-t", "-c", str(tls.site.conf), check=False)
    assert p.returncode != 0
    assert said in p.stderr
    assert re.search(r"router\.conf:\d+:\d+: ", p.stderr), p.stderr


def test_good_configuration_is_checked(tls, tmp_path):
    clients = pki.Authority(tmp_path, "clients")
    tls.site.conf.write_text(mtls(tls, clients))
    kit.run_tool("-t", "-c", str(tls.site.conf))
