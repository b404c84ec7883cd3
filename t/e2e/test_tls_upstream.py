"""TLS towards upstreams: who is believed, who is not, and what becomes of the
bytes in between."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kit
import pki
import pytest
import wire
from backend import Backend

NEW = ssl.TLSVersion.TLSv1_3
OLD = ssl.TLSVersion.TLSv1_2

Upstream = Callable[..., kit.Site]


@pytest.fixture
def ca(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    """upstream(context) runs a server that speaks TLS, and gives a site whose
    configuration goes there."""
    running: list[Backend] = []

    def run(context: ssl.SSLContext, host: str = "localhost") -> kit.Site:
        b = Backend(tls=context, host=host).start()
        running.append(b)
        return kit.Site(tmp_path, b)

    yield run
    for b in running:
        b.release()
        b.stop()
        assert b.violations == []


def site_at(folder: Path, port: int) -> kit.Site:
    """A site whose upstream is no backend of ours."""
    b = Backend(host="localhost")
    b.port = port
    return kit.Site(folder, b)


@pytest.fixture
def openssl(tmp_path: Path) -> Iterator[Callable[..., kit.Site]]:
    """openssl(pair, options...) runs `openssl s_server`: unlike asyncio it
    sends its alerts before it hangs up."""
    running: list[subprocess.Popen[bytes]] = []

    def run(pair: pki.Pair, *options: str) -> kit.Site:
        port = kit.free_port()
        running.append(subprocess.Popen(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert",
             str(pair.cert), "-key", str(pair.key), "-quiet", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL))

        def listens() -> bool:
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0
        kit.wait_for("openssl s_server", listens)
        return site_at(tmp_path, port)

    yield run
    for p in running:
        p.kill()
        p.wait(10)


@pytest.fixture
def start() -> Iterator[Callable[..., kit.Router]]:
    running: list[kit.Router] = []

    def run(site: kit.Site, conf: str) -> kit.Router:
        running.append(kit.Router(site, conf))
        return running[-1]

    yield run
    for r in running:
        r.stop()


def conf_of(site: kit.Site, tls: str, main: str = "", routes: str = "") -> str:
    assert site.backend is not None
    return (site.main(extra=main)
            + "upstream model {\n"
              f"    server  {site.backend.address};\n"
              "    timeout connect=2s first_byte=10s idle=10s;\n"
              f"    {tls}\n}}\n"
            + site.server(site.chat_route()
                          + site.models_route()
                          + "route GET /raw { access open; "
                            f"{site.credential()} pass model; }}\n" + routes))


def refused(answer: wire.Answer, why: str) -> None:
    """A 502 that names what was wrong."""
    assert answer.status == 502, answer
    error = answer.json["error"]
    assert error["code"] == "bad_gateway"
    assert error["message"] == f"Failed to reach inference backend: {why}"


@pytest.mark.core
@pytest.mark.parametrize("version", [OLD, NEW])
def test_good_certificate(version, ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost"),
                                       version=version))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))

    a = r.chat()
    assert a.status == 200 and a.json["choices"][0]["message"]["content"]
    tls = site.backend.connections[0].tls
    assert tls.version() == {OLD: "TLSv1.2", NEW: "TLSv1.3"}[version]
    assert tls.selected_alpn_protocol() == "http/1.1"
    for _ in range(3):  # on the kept connection
        assert r.chat().status == 200
    assert len(site.backend.connections) == 1


def test_sni_is_sent_for_names_only(ca, upstream, start):
    seen = []
    context = pki.server_context(ca.issue("localhost", "127.0.0.1"))
    context.sni_callback = lambda s, name, c: seen.append(name)
    site = upstream(context)
    conf = conf_of(site, f"tls on; tls_ca {ca.pem};")
    r = start(site, conf)
    assert r.chat().status == 200
    assert seen == ["localhost"]
    r.stop()

    site.backend.host = "127.0.0.1"
    conf = conf_of(site, f"tls on; tls_ca {ca.pem};")
    assert start(site, conf).chat().status == 200
    assert seen == ["localhost", None]


def test_ip_address_in_the_certificate(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("127.0.0.1")), "127.0.0.1")
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    assert r.chat().status == 200


BAD = {
    "expired": (dict(names=["localhost"], begins=-3, ends=-1),
                "its certificate has expired"),
    "not yet valid": (dict(names=["localhost"], begins=1, ends=2),
                      "its certificate is not valid yet"),
    "wrong name": (dict(names=["other.test"]),
                   "its certificate is for another name"),
    "part of a label": (dict(names=["local*"]),
                        "its certificate is for another name"),
    "common name only": (dict(names=[], cn="localhost"),
                         "its certificate is for another name"),
    "a client's": (dict(names=["localhost"], client=True),
                   "its certificate is for another purpose"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_certificate_is_502(what, ca, upstream, start):
    how, why = BAD[what]
    names = how.pop("names")
    try:
        site = upstream(pki.server_context(ca.issue(*names, **how)))
    finally:
        how["names"] = names
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))

    refused(r.chat(), why)
    assert f'error="{why}"' in r.log()
    assert site.backend.requests == []


def test_unknown_authority_is_502(ca, upstream, start, tmp_path):
    other = pki.Authority(tmp_path, "other")
    site = upstream(pki.server_context(other.issue("localhost")))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    refused(r.chat(), "its certificate is of an authority that we do not know")
    assert site.backend.requests == []


def test_system_authorities_do_not_know_ours(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost")))
    r = start(site, conf_of(site, "tls on;"))
    refused(r.chat(), "its certificate is of an authority that we do not know")


def test_wrong_ip_address_is_502(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost", "127.0.0.2")),
                    "127.0.0.1")
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    refused(r.chat(), "its certificate is for another address")


def test_server_name_is_what_counts(ca, upstream, start):
    seen = []
    context = pki.server_context(ca.issue("model.test"))
    context.sni_callback = lambda s, name, c: seen.append(name)
    site = upstream(context)
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem}; "
                                  "tls_server_name model.test;"))
    assert r.chat().status == 200
    assert seen == ["model.test"]


def test_tls_1_1_is_refused(ca, openssl, start):
    site = openssl(ca.issue("localhost"), "-tls1_1", "-cipher",
                   "ALL:@SECLEVEL=0")
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    refused(r.chat(), "tlsv1 alert protocol version")


def test_client_certificate_is_shown(ca, upstream, start, tmp_path):
    clients = pki.Authority(tmp_path, "clients")
    mine = clients.issue("router.test", client=True)
    site = upstream(pki.server_context(ca.issue("localhost"), clients))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem}; "
                                  f"tls_certificate {mine.words};"))
    assert r.chat().status == 200
    assert site.backend.connections[0].tls.getpeercert()["subjectAltName"] \
        == (("DNS", "router.test"),)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_without_the_client_certificate_it_is_502(version, ca, openssl, start):
    site = openssl(ca.issue("localhost"), version, "-Verify", "1", "-CAfile",
                   str(ca.pem), "-verify_return_error")
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    refused(r.chat(), "tlsv13 alert certificate required"
            if version == "-tls1_3" else "sslv3 alert handshake failure")


def test_plain_server_is_never_spoken_to_in_clear(ca, start, tmp_path):
    got = []

    def serve() -> None:
        for _ in range(2):  # an attempt and its repetition
            s, _ = listener.accept()
            with s:
                got.append(s.recv(65536))
                s.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        site = site_at(tmp_path, listener.getsockname()[1])
        r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
        refused(r.chat(), "wrong version number")
        thread.join(10)
    assert len(got) == 2
    assert all(g.startswith(b"\x16\x03") and b"HTTP" not in g for g in got)


def test_server_that_never_answers_the_handshake_is_504(ca, start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = site_at(tmp_path, listener.getsockname()[1])
        r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem}; retry 0;"))
        begun = time.monotonic()
        a = r.chat()
        assert a.status == 504 and a.code == "upstream_timeout"
        assert 1.5 < time.monotonic() - begun < 8  # connect=2s


@pytest.mark.parametrize("version", [OLD, NEW])
def test_sessions_are_gone_on_with(version, ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost"),
                                       version=version))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem}; keepalive 0;"))
    for _ in range(4):
        assert r.chat().status == 200
    reused = [c.tls.session_reused for c in site.backend.connections]
    assert reused == [False, True, True, True]


def test_new_authorities_take_over_without_a_reload(ca, upstream, start,
                                                    tmp_path):
    other = pki.Authority(tmp_path, "other")
    pem = tmp_path / "trusted.pem"
    pem.write_bytes(other.pem.read_bytes())
    site = upstream(pki.server_context(ca.issue("localhost")))
    r = start(site, conf_of(site, f"tls on; tls_ca {pem};"))
    assert r.chat().status == 502

    fresh = tmp_path / "trusted.new"
    fresh.write_bytes(ca.pem.read_bytes())
    fresh.rename(pem)
    kit.wait_for("the new authorities", lambda: r.chat().status == 200)

    # Back again: neither the kept connection nor the session is used on.
    fresh.write_bytes(other.pem.read_bytes())
    fresh.rename(pem)
    kit.wait_for("the old authorities", lambda: r.chat().status == 502)


def test_end_without_close_notify_is_no_end(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost")))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))

    site.backend.fault = "until_close"
    a = r.ask("GET", "/raw")
    assert a.status == 200 and a.body == b"as far as it goes"

    site.backend.fault = "cut_until_close"
    with r.wire() as w:
        w.send(wire.request("GET", "/raw"))
        with pytest.raises(wire.Closed):
            w.answer()
    assert "closed without close_notify" in r.log()


def test_events_pass_at_once(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost")))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    site.backend.hold_after = 2
    with r.wire() as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(stream=True)))
        assert w.head().status == 200
        begun = time.monotonic()
        w.until(b"tok ")
        w.until(b"tok ")
        assert time.monotonic() - begun < 2
        site.backend.release()
        w.until(b"[DONE]")


def test_large_bodies_pass(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost")))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    site.backend.text = "x" * 700_000
    a = r.chat(text="word " * 1000 + "y" * 3_000_000, max_tokens=8)
    assert a.status == 200
    assert len(a.json["choices"][0]["message"]["content"]) == 8 * 700_000


def test_slow_reader_holds_the_server_back(ca, upstream, start):
    site = upstream(pki.server_context(ca.issue("localhost")))
    r = start(site, conf_of(site, f"tls on; tls_ca {ca.pem};"))
    site.backend.text = "z" * 100_000
    site.backend.length = 300
    with r.wire() as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(
            stream=True, max_tokens=300)))
        assert w.head().status == 200
        time.sleep(1)
        made = site.backend.completion_tokens
        assert made < 200, "everything was taken from the server at once"
        time.sleep(0.5)
        assert site.backend.completion_tokens <= made + 1
        assert b"".join(w.chunks()).count(b"zzz\"") == 300


@pytest.mark.parametrize("tls, said", [
    ("tls_ca {ca};", "not `tls on;`"),
    ("tls on; tls_ca {ca}.none;", "No such file"),
    ("tls on; tls_ca {key};", "no certificate in it"),
    ("tls on; tls_ca {ca}; tls_certificate {cert};", "FILE KEYFILE"),
    ("tls on; tls_ca {ca}; tls_certificate {cert} {other};", "key"),
    ("tls yes;", "on or off"),
])
def test_what_does_not_fit_is_an_error(tls, said, ca, upstream):
    a, b = ca.issue("localhost"), ca.issue("localhost")
    site = upstream(pki.server_context(a))
    site.conf.write_text(conf_of(site, tls.format(
        ca=ca.pem, key=a.key, cert=a.cert, other=b.key)))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode != 0
    assert said in p.stderr
    assert re.search(r"router\.conf:\d+:\d+: ", p.stderr), p.stderr
