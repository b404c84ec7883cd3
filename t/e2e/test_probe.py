"""`kars-router probe`: one request to the running router, without curl."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kit

pytestmark = pytest.mark.core

TOKEN = "s3cret-admin-token"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """A listener that notes what it is told, and answers with these bytes."""

    def __init__(self, address: tuple[str, int], answer: bytes,
                 until: bytes) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(address)
        self.sock.listen()
        self.port = self.sock.getsockname()[1]
        self.got = b""
        self._answer = answer
        self._until = until
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            c, _ = self.sock.accept()
        except OSError:
            return
        with c:
            c.settimeout(10)
            while self._until not in self.got:
                data = c.recv(65536)
                if not data:
                    return
                self.got += data
            c.sendall(self._answer)
            if not self._answer:
                self._ended.wait(10)

    def stop(self) -> None:
        self._ended.set()
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self._thread.join()


Listen = Callable[..., Peer]


@pytest.fixture
def listen() -> Iterator[Listen]:
    peers: list[Peer] = []

    def run(answer: bytes, port: int = 0, until: bytes = b"\r\n\r\n"
            ) -> Peer:
        peers.append(Peer(("127.0.0.1", port), answer, until))
        return peers[-1]

    yield run
    for p in peers:
        p.stop()


def conf_of(folder: Path, *listens: str) -> str:
    """A configuration that names listeners, and a module that is not there:
    a probe reads it and loads nothing."""
    path = folder / "probe.conf"
    path.write_text("load_module nowhere;\nserver {\n" + "".join(
        f"    listen {one};\n" for one in listens) + "}\n")
    return str(path)


def probe(*args: str, conf: str | None = None, token: str = ""):
    where = () if conf is None else ("-c", conf)
    return kit.run_tool(*where, "probe", *args, check=False,
                        env={"ADMIN_TOKEN": token} if token else None)


def said(p, *, code: int = 1) -> str:
    """The one line of an exit that is not 0."""
    assert p.returncode == code, (p.returncode, p.stdout, p.stderr)
    assert p.stderr.startswith("kars-router: probe: "), p.stderr
    assert p.stderr.count("\n") == 1, p.stderr
    return p.stderr


def test_the_operators_socket_is_asked(router: kit.Router) -> None:
    conf = str(router.site.conf)
    p = probe(conf=conf)
    assert (p.returncode, p.stdout, p.stderr) == (0, "ok", "")
    # Operators only: the agent's port would have refused it.
    p = probe("/internal/policy-status", conf=conf)
    assert p.returncode == 0, p.stderr
    assert json.loads(p.stdout)["schema_version"] == 1
    assert router.ask("GET", "/internal/policy-status").status == 403


@pytest.mark.parametrize("method", [("POST",), ()])
def test_a_post_carries_its_body(tmp_path: Path, listen: Listen,
                                 method: tuple[str, ...]) -> None:
    peer = listen(OK, until=b'{"a": 1}')
    p = probe(*method, "/told", '{"a": 1}',
              conf=conf_of(tmp_path, f"127.0.0.1:{peer.port}"))
    assert (p.returncode, p.stdout) == (0, "ok"), p.stderr
    head, body = peer.got.split(b"\r\n\r\n", 1)
    assert head.startswith(b"POST /told HTTP/1.1\r\n")
    assert b"content-length: 8" in head.split(b"\r\n")
    assert b"content-type: application/json" in head.split(b"\r\n")
    assert body == b'{"a": 1}'


def test_a_status_beyond_2xx_is_a_failure(router: kit.Router) -> None:
    p = probe("GET", "/no/such", conf=str(router.site.conf))
    assert said(p) == ("kars-router: probe: GET /no/such at "
                       f"unix:{router.site.admin}: status 404\n")
    assert json.loads(p.stdout)["error"]


def test_tcp_where_no_operator_listens(tmp_path: Path, listen: Listen) -> None:
    peer = listen(OK)
    p = probe("/x?y=1", token=TOKEN, conf=conf_of(
        tmp_path, "unix:/nowhere.sock class=agent", f"0.0.0.0:{peer.port}"))
    assert (p.returncode, p.stdout, p.stderr) == (0, "ok", "")
    lines = peer.got.split(b"\r\n")
    assert lines[0] == b"GET /x?y=1 HTTP/1.1"
    assert f"host: 127.0.0.1:{peer.port}".encode() in lines
    assert b"authorization: Bearer " + TOKEN.encode() in lines


def test_the_token_is_never_printed(tmp_path: Path, listen: Listen) -> None:
    peer = listen(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")
    conf = conf_of(tmp_path, f"127.0.0.1:{peer.port}")
    p = probe(conf=conf, token=TOKEN)
    assert said(p).endswith(": status 401\n")
    assert TOKEN not in p.stdout + p.stderr
    assert TOKEN.encode() in peer.got


def test_a_token_cannot_forge_a_header(tmp_path: Path) -> None:
    conf = conf_of(tmp_path, f"127.0.0.1:{kit.free_port()}")
    p = probe(conf=conf, token="a\r\nx-forged: 1")
    assert "control characters" in said(p)
    assert "forged" not in p.stdout + p.stderr


def test_no_token_is_said_when_it_matters(tmp_path: Path, listen: Listen
                                          ) -> None:
    peer = listen(b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n")
    p = probe(conf=conf_of(tmp_path, f"127.0.0.1:{peer.port}"))
    assert "there is no admin token to send" in said(p)
    assert b"authorization" not in peer.got


def test_a_silent_router_is_given_three_seconds(tmp_path: Path, listen: Listen
                                                ) -> None:
    peer = listen(b"")
    begun = time.monotonic()
    p = probe(conf=conf_of(tmp_path, f"127.0.0.1:{peer.port}"))
    assert "no answer within 3000 ms" in said(p)
    assert 2.9 < time.monotonic() - begun < 8


def test_half_an_answer_is_none(tmp_path: Path, listen: Listen) -> None:
    peer = listen(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
    p = probe(conf=conf_of(tmp_path, f"127.0.0.1:{peer.port}"))
    assert "Connection reset" in said(p)


def test_nobody_there(tmp_path: Path) -> None:
    port = kit.free_port()
    p = probe(conf=conf_of(tmp_path, f"127.0.0.1:{port}"))
    assert said(p) == (f"kars-router: probe: GET /healthz at 127.0.0.1:{port}: "
                       "no answer: Connection refused\n")
    p = probe(conf=conf_of(tmp_path, f"unix:{tmp_path}/no class=operator"))
    assert "no answer: No such file or directory" in said(p)


def test_what_is_no_http(tmp_path: Path, listen: Listen) -> None:
    peer = listen(b"220 mail.example ESMTP\r\n\r\n")
    p = probe(conf=conf_of(tmp_path, f"127.0.0.1:{peer.port}"))
    assert "does not speak HTTP/1.1" in said(p)


def test_without_a_configuration(listen: Listen) -> None:
    """The default address. Other runs of this suite may want it too."""
    assert not Path("/etc/kars/router.conf").exists(), "kars is installed here"

    def bound() -> Peer | None:
        try:
            return listen(OK, 8443)
        except OSError:
            return None
    peer = kit.wait_for("127.0.0.1:8443 is free", bound, 60)
    p = probe()
    assert (p.returncode, p.stdout) == (0, "ok"), p.stderr
    assert peer.got.startswith(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:8443")


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no.conf" in said(probe(conf=str(tmp_path / "no.conf")))
    bad = tmp_path / "bad.conf"
    bad.write_text("server { listen 127.0.0.1:1\n")
    assert f"{bad}:" in said(probe(conf=str(bad)))


@pytest.mark.parametrize("args", [
    ("PUT", "/x"), ("healthz",), ("/a b",), ("/x\r\ny: 1",),
    ("GET", "/x", "{}", "{}"), ("",)])
def test_arguments_that_make_no_sense(args: tuple[str, ...]) -> None:
    assert "expected probe [GET|POST]" in said(probe(*args), code=2)
