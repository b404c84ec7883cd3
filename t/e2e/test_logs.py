"""Logs: where they go, what stands in a line, that no line is lost, torn or
doubled, and that no line can be forged or carry a credential."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
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
MODULES = (*kit.ALL_MODULES, "access-log")
RFC5424 = re.compile(
    rb"^<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\S+) (\S+) (\d+) "
    rb"- - (.*)\Z", re.S)


def conf(site: kit.Site, logs: str, *, workers: int = 1, main: str = "",
         routes: str = "") -> str:
    return (site.main(MODULES, extra=f"workers {workers};\n{main}\n{logs}")
            + site.upstream() + site.server(
                site.chat_route()
                + "route GET /open/{x} { access open; respond 200 ok; }\n"
                + routes))


def lines(file: Path) -> list[str]:
    text = file.read_text() if file.exists() else ""
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def settled(file: Path, n: int) -> list[str]:
    """LOG runs after the answer: waits for n lines, and finds no more."""
    kit.wait_for(f"{n} lines", lambda: len(lines(file)) >= n)
    found = lines(file)
    assert len(found) == n, found[-5:]
    return found


def test_the_combined_format(start: Start, site: kit.Site) -> None:
    log = site.dir / "access.log"
    r = start(conf(site, f"access_log {log} if=http_x_mark;"))
    r.ask("GET", "/open/a?secret=1", headers={
        "user-agent": "curl/8", "referer": "x", "x-mark": "1"})
    (line,) = settled(log, 1)
    assert re.fullmatch(
        r'127\.0\.0\.1 - demo \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] '
        r'"GET /open/a" 200 2 "x" "curl/8"', line), line


def test_every_variable_of_a_call(
        start: Start, site: kit.Site, backend: Backend) -> None:
    log = site.dir / "access.log"
    names = ("method path route status bytes_in bytes_out bytes_sent "
             "request_time upstream_time upstream upstream_host upstream_port "
             "upstream_status attempts class principal sandbox decision "
             "trace_id model action tokens_in tokens_out tokens_total "
             "remote_addr remote_port listener pid time_ms time_iso8601 "
             "deny_code deny_rule http_user_agent sent_http_content_type "
             "fact_stream fact_nothing").split()
    form = " ".join(f"{n}=${n}" for n in names)
    r = start(conf(site, f"log_format all json {form};\n"
                         f"access_log {log} all if=model;"))
    backend.fault = None
    a = r.chat(headers={"user-agent": "tester/1",
                        "x-kars-trace-id": "trace-of-ours"})
    assert a.status == 200
    (line,) = settled(log, 1)
    d = json.loads(line)
    host, port = backend.address.rsplit(":", 1)
    assert list(d) == names
    assert {k: d[k] for k in (
        "method", "path", "route", "status", "class", "sandbox", "decision",
        "trace_id", "model", "tokens_in", "tokens_out", "tokens_total",
        "remote_addr", "upstream", "upstream_host", "upstream_port",
        "upstream_status", "attempts", "deny_code", "deny_rule",
        "http_user_agent", "listener", "fact_nothing")} == {
        "method": "POST", "path": kit.CHAT, "route": kit.CHAT, "status": 200,
        "class": "agent", "sandbox": "demo", "decision": "allow",
        "trace_id": "trace-of-ours", "model": "stand-in", "tokens_in": 3,
        "tokens_out": 8, "tokens_total": 11, "remote_addr": "127.0.0.1",
        "upstream": "model", "upstream_host": host, "upstream_port": int(port),
        "upstream_status": 200, "attempts": 1, "deny_code": None,
        "deny_rule": None, "http_user_agent": "tester/1",
        "listener": f"127.0.0.1:{site.port}", "fact_nothing": None}
    assert d["bytes_in"] == len(kit.chat_bytes())
    assert d["bytes_out"] == len(a.body) < d["bytes_sent"]
    assert 0 <= d["upstream_time"] <= d["request_time"] < 20
    assert d["pid"] in r.workers()
    assert abs(d["time_ms"] / 1000 - time.time()) < 60
    assert d["action"].startswith("inference:")


def test_refusals_and_requests_without_a_route_are_logged(
        start: Start, site: kit.Site) -> None:
    log = site.dir / "access.log"
    r = start(conf(site, 'log_format d "$status $deny_code $deny_rule $route";'
                         f"access_log {log} d if=deny_code;"))
    assert r.ask("GET", "/nowhere").status == 404
    assert r.chat(max_tokens=100000).status == 429
    with r.wire() as w:
        w.send(b"NONSENSE\r\n\r\n")
        assert w.answer().status == 400
    found = settled(log, 3)
    assert found[0].startswith("404 no_such_route ")
    assert re.fullmatch(r"429 per_request_tokens_exceeded budget_limit "
                        rf"{site.conf}:\d+ {kit.CHAT}", found[1])
    assert found[2].startswith("400 bad_request ")


def test_nothing_in_a_request_can_forge_a_line(
        start: Start, site: kit.Site) -> None:
    text, obj = site.dir / "text.log", site.dir / "json.log"
    r = start(conf(
        site, 'log_format t "p=\\"$path\\" ua=\\"$http_user_agent\\"";\n'
              "log_format j json path=$path ua=$http_user_agent "
              '"both=<$path> \\"$http_user_agent\\"";\n'
              f"access_log {text} t if=http_x_mark;\n"
                f"access_log {obj} j if=http_x_mark;"))
    evil = [b'\x1b[2J', b'a" x="b', b"back\\slash", b"\xff\xfe\xc0\xaf",
            "grüße".encode(), b"\xed\xa0\x80", b"%0a%0dGET", b"\xc2\x9b1m"]
    for e in evil:
        path = e if b"%" in e else b"".join(b"%%%02x" % c for c in e)
        with r.wire() as w:
            w.send(b"GET /open/" + path + b" HTTP/1.1\r\nhost: x\r\nx-mark: 1"
                   b"\r\nuser-agent: " + e.replace(b"\x1b", b"\t")
                   + b"\r\n\r\n")
            w.answer()
    r.ask("GET", "/open/end", headers={"x-mark": "1"})
    for f in (text, obj):
        kit.wait_for("the end", lambda: lines(f) and "/open/end" in lines(f)[-1])
    assert len(lines(text)) > 5
    for raw in text.read_bytes().split(b"\n")[:-1]:
        assert re.fullmatch(rb'p="[ -~]*" ua="[ -~]*"', raw), raw
        assert not re.search(rb'(?<!p=)(?<!ua=)(?<!^)"(?! ua=|$)', raw), raw
    for raw in obj.read_bytes().split(b"\n")[:-1]:
        d = json.loads(raw.decode("utf-8"))
        assert set(d) == {"path", "ua", "both"}
    assert len(lines(obj)) == len(lines(text))
    assert any("gr\\xC3\\xBC" in x for x in lines(text))
    assert any("grüße" in json.loads(x)["path"] for x in lines(obj))


@pytest.mark.parametrize("name", [
    "http_authorization", "http_cookie", "http_x_api_key", "http_api_key",
    "http_proxy_authorization", "sent_http_set_cookie", "http_x_auth_token",
    "http_x_goog_api_key", "http_x_amz_security_token"])
def test_a_credential_is_no_variable(site: kit.Site, name: str) -> None:
    for use in (f'access_log off "${name}";', f"access_log off if={name};",
                f"log_format x json a=${name};"):
        site.conf.write_text(conf(site, use))
        p = kit.run_tool("-t", "-c", str(site.conf), check=False)
        assert p.returncode == 1
        assert f"${name} may carry a credential" in p.stderr
        assert re.search(rf"{site.conf}:\d+:\d+", p.stderr)


@pytest.mark.parametrize("text, says", [
    ("access_log off nosuch;", "no log_format"),
    ('access_log off "$nosuch";', "there is no variable $nosuch"),
    ('access_log off "${path";', "expected $name"),
    ('access_log off "$";', "expected $name"),
    ("log_format a;", "expected `log_format"),
    ("log_format a b; log_format a c;", "two formats"),
    ("log_format a json b;", "name=value"),
    ("access_log syslog:server=example.org:514;", "server=IP:PORT"),
    ("access_log syslog:facility=none;", "unknown facility"),
    ("access_log syslog:speed=9;", "expected syslog:"),
    ('access_log off "%s";' % ("$path" * 60), "too long"),
    ("access_log;", "expected `access_log"),
])
def test_a_wrong_format_is_an_error_with_its_place(
        site: kit.Site, text: str, says: str) -> None:
    site.conf.write_text(conf(site, text))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode == 1
    assert says in p.stderr and re.search(rf"{site.conf}:\d+:\d+", p.stderr)


def test_levels_replace_and_off_is_none(start: Start, site: kit.Site) -> None:
    a, b = site.dir / "a.log", site.dir / "b.log"
    r = start(conf(site, f'access_log {a} "$path" if=http_x_mark;', routes=(
        f'route GET /b {{ access open; access_log {b} "$path" if=http_x_mark; '
        'respond 200 b; }\n'
        "route GET /c { access open; access_log off; respond 200 c; }\n")))
    for path in ("/open/a", "/b", "/c"):
        r.ask("GET", path, headers={"x-mark": "1"})
    settled(b, 1)
    assert settled(a, 1) == ["/open/a"] and lines(b) == ["/b"]


def test_a_long_line_is_cut_with_a_mark(start: Start, site: kit.Site) -> None:
    text, obj = site.dir / "text.log", site.dir / "json.log"
    many = " ".join(f"h{i}=$http_x_{i}" for i in range(8))
    r = start(conf(site, f"log_format j json {many};\n"
                         f'access_log {text} "$http_x_0" if=http_x_0;\n'
                         f"access_log {obj} j if=http_x_0;"))
    r.ask("GET", "/open/a", headers={f"x-{i}": "\x7f" * 0 + "v" * 3000
                                     for i in range(8)})
    (line,) = settled(text, 1)
    assert line.endswith("v[cut]") and len(line) <= 1024
    (line,) = settled(obj, 1)
    assert len(line) < 4096
    assert all(v.endswith("v[cut]") for v in json.loads(line).values())


class Load:
    """Clients that ask until they are told to stop; each line is their own."""

    def __init__(self, r: kit.Router, threads: int = 4) -> None:
        self.stop, self.sent, self.failures = threading.Event(), [], []
        self.threads = [threading.Thread(target=self.run, args=(r, i))
                        for i in range(threads)]
        for t in self.threads:
            t.start()

    def run(self, r: kit.Router, slot: int) -> None:
        n = 0
        try:
            with r.wire() as w:
                while not self.stop.is_set():
                    path = f"/open/{slot}-{n}"
                    n += 1
                    w.send(wire.request("GET", path, b"", {"x-mark": "1"}))
                    assert w.answer().status == 200
                    self.sent.append(path)
        except Exception as e:
            self.failures.append(repr(e))

    def end(self) -> list[str]:
        self.stop.set()
        for t in self.threads:
            t.join(20)
        assert self.failures == []
        return self.sent


@pytest.mark.parametrize("workers", [1, 4])
def test_fifty_rotations_lose_and_double_nothing(
        start: Start, site: kit.Site, workers: int) -> None:
    log = site.dir / "access.log"
    r = start(conf(site, f'access_log {log} "$path" if=http_x_mark;',
                   workers=workers))
    kit.wait_for("all serve", lambda: f"serving workers={workers}" in r.log())
    load = Load(r)
    for i in range(50):
        before = len(load.sent)
        kit.wait_for("some requests", lambda: len(load.sent) > before + 5
                     or load.failures)
        log.rename(site.dir / f"access.{i:02}")
        r.send_signal(signal.SIGUSR1)
        kit.wait_for("the new file", log.exists)
    sent = load.end()
    r.stop()
    files = [site.dir / f"access.{i:02}" for i in range(50)] + [log]
    found = [x for f in files for x in lines(f)]
    assert len(found) == len(sent) > 300
    assert sorted(found) == sorted(sent)
    assert sum(1 for f in files if lines(f)) > 25


def test_a_rotation_during_a_reload_and_in_a_draining_worker(
        start: Start, site: kit.Site, backend: Backend) -> None:
    log, own = site.dir / "access.log", site.dir / "router.log"
    text = conf(site, f'access_log {log} "$path" if=http_x_mark;').replace(
        "log stderr level=info;", f"log {own} level=info;")
    r = start(text)
    backend.hold_after = 2
    w = r.wire().send(wire.request("POST", kit.CHAT, kit.chat_bytes(
        stream=True), {"x-mark": "1"}))
    assert w.head().status == 200
    w.chunk()
    r.hup(text)
    kit.wait_for("the old one drains", lambda: "draining" in own.read_text())
    for f in (log, own):
        f.rename(f.with_suffix(".1"))
    r.send_signal(signal.SIGUSR1)
    kit.wait_for("new files", lambda: log.exists() and own.exists())
    backend.hold_after = None
    backend.release()
    assert b"".join(w.chunks()).rstrip().endswith(b"data: [DONE]")
    w.sock.close()
    assert settled(log, 1) == [kit.CHAT]
    r.ask("GET", "/nowhere")
    kit.wait_for("its own log too", lambda: "no_such_route" in own.read_text())


def test_a_rotation_after_another_binary_took_over(
        start: Start, site: kit.Site, backend: Backend) -> None:
    """It knows the files of the workers that it inherited, too."""
    log = site.dir / "access.log"
    r = start(conf(site, f'access_log {log} "$path" if=http_x_mark;'))
    backend.hold_after = 2
    w = r.wire().send(wire.request("POST", kit.CHAT, kit.chat_bytes(
        stream=True), {"x-mark": "1"}))
    assert w.head().status == 200
    w.chunk()
    r.upgrade()
    log.rename(site.dir / "access.1")
    r.send_signal(signal.SIGUSR1)
    kit.wait_for("the new file", log.exists)
    assert r.ask("GET", "/open/new", headers={"x-mark": "1"}).status == 200
    settled(log, 1)
    backend.hold_after = None
    backend.release()
    assert b"".join(w.chunks()).rstrip().endswith(b"data: [DONE]")
    w.sock.close()
    assert settled(log, 2) == ["/open/new", kit.CHAT]
    assert lines(site.dir / "access.1") == []


def test_workers_write_whole_lines(start: Start, site: kit.Site) -> None:
    log = site.dir / "access.log"
    r = start(conf(site, f'access_log {log} "$path $http_x_long" '
                         "if=http_x_mark;", workers=4))
    kit.wait_for("four", lambda: "serving workers=4" in r.log())
    long = "v" * 900

    def ask(n: int) -> None:
        with r.wire() as w:
            for i in range(50):
                w.send(wire.request("GET", f"/open/{n}-{i}", b"",
                                    {"x-mark": "1", "x-long": long}))
                w.answer()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    found = settled(log, 400)
    assert sorted(found) == sorted(f"/open/{n}-{i} {long}" for n in range(8)
                                   for i in range(50))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs",
                    str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_fails_no_request_and_is_counted(
        start: Start, site: kit.Site, small_disk: Path) -> None:
    log = small_disk / "access.log"
    r = start(conf(site, f'access_log {log} "$path" if=http_x_mark;'))
    (small_disk / "filler").write_bytes(b"x" * 4096 * 15)
    n = 0
    while r.metric("kars_log_lines_lost_total",
                       log=str(log)[-64:]) < 20:
        assert r.ask("GET", f"/open/{n:0100}", headers={"x-mark": "1"}
                     ).status == 200
        n += 1
        assert n < 500
    assert "log: lines lost" in r.log()
    (small_disk / "filler").unlink()
    assert r.ask("GET", "/open/last", headers={"x-mark": "1"}).status == 200
    kit.wait_for("written again", lambda: "/open/last" in lines(log))
    whole = [x for x in lines(log) if re.fullmatch(
        r"/open/(\d{100}|last)", x)]
    assert len(lines(log)) - len(whole) <= 1      # the piece that fitted
    lost = r.metric("kars_log_lines_lost_total",
                       log=str(log)[-64:])
    assert lost + len(whole) == n + 1


def receiver(kind: int, address: object) -> socket.socket:
    s = socket.socket(kind, socket.SOCK_DGRAM)
    s.bind(address)
    s.settimeout(10)
    return s


@pytest.mark.parametrize("kind", ["unix", "udp"])
def test_syslog_is_rfc_5424(start: Start, site: kit.Site, kind: str) -> None:
    if kind == "unix":
        path = str(site.dir / "devlog")
        s, server = receiver(socket.AF_UNIX, path), f"unix:{path}"
    else:
        s = receiver(socket.AF_INET, ("127.0.0.1", 0))
        server = "127.0.0.1:%d" % s.getsockname()[1]
    r = start(conf(
        site, f"access_log syslog:server={server},facility=local3,tag=edge "
              '"$method $path" if=http_x_mark;'))
    r.ask("GET", "/open/one", headers={"x-mark": "1"})
    m = RFC5424.match(s.recv(65536))
    assert m
    assert int(m[1]) == 19 * 8 + 6
    assert m[3].decode() == socket.gethostname()
    assert (m[4], m[6]) == (b"edge", b"GET /open/one")
    assert int(m[5]) in r.workers()
    s.close()


def test_the_routers_log_to_syslog_survives_the_daemons_restart(
        start: Start, site: kit.Site) -> None:
    path = str(site.dir / "devlog")
    s = receiver(socket.AF_UNIX, path)
    text = conf(site, "").replace(
        "log stderr level=info;", f"log syslog:server=unix:{path} level=info;")
    r = start(text)

    def heard(what: bytes) -> re.Match[bytes]:
        while True:
            m = RFC5424.match(s.recv(65536))
            assert m
            if what in m[6]:
                return m

    r.ask("GET", "/first")
    m = heard(b"no_such_route")
    assert int(m[1]) == 3 * 8 + 5 and m[4] == b"kars"     # daemon, notice
    s.close()
    os.unlink(path)
    assert r.ask("GET", "/lost").status == 404
    s = receiver(socket.AF_UNIX, path)
    r.ask("GET", "/second")
    assert heard(b"no_such_route")
    s.close()


def test_the_log_goes_to_stdout(start: Start, site: kit.Site) -> None:
    r = start(conf(site, 'access_log stdout "out $path" if=http_x_mark;'
                   ).replace("log stderr level=info;", "log stdout level=info "
                             "format=json;"))
    r.ask("GET", "/open/x", headers={"x-mark": "1"})
    kit.wait_for("the line", lambda: "out /open/x\n" in r.log())
    r.ask("GET", "/nowhere")
    kit.wait_for("json", lambda: any(
        "no_such_route" in json.loads(x)["msg"] for x in r.log().splitlines()
        if x.startswith("{")))


def test_a_log_in_a_folder_of_root_is_opened_by_the_master(
        start: Start, site: kit.Site) -> None:
    folder = site.dir / "var"
    folder.mkdir(mode=0o700)
    log = folder / "access.log"
    text = conf(site, f'user nobody;\naccess_log {log} "$path" '
                      "if=http_x_mark;")
    for d in (site.audit_dir, site.ledger):
        os.chmod(d, 0o777)
    for d in [site.dir, *site.dir.parents]:
        os.chmod(d, os.stat(d).st_mode | 0o055)
    r = start(text)
    worker = r.workers()[0]
    assert "Uid:\t65534" in Path(f"/proc/{worker}/status").read_text()
    r.ask("GET", "/open/1", headers={"x-mark": "1"})
    settled(log, 1)
    log.rename(folder / "access.1")
    r.send_signal(signal.SIGUSR1)
    kit.wait_for("again", log.exists)
    r.ask("GET", "/open/2", headers={"x-mark": "1"})
    assert settled(log, 1) == ["/open/2"]


TAP = """
#include "kars_module.h"
typedef struct { kars_log_t *log; } tap_conf_t;
static const kars_directive_t tap_directives[] = {
    { .name = "NAME", .at = KARS_AT_MAIN | KARS_AT_ROUTE, .type = KARS_T_LOG,
      .offset = offsetof(tap_conf_t, log), .dflt = "off", .doc = "taps" },
    { 0 },
};
static int
tap_end(kars_req_t *r, const void *conf, void *ctx)
{
    const tap_conf_t *tc = conf;

    if (kars_log_line(tc->log, KARS_STR("a line\\nand more")) != KARS_ERROR) {
        kars_log(r, KARS_LOG_ERR, "tap: a line end was taken");
    }
    return kars_log_line(tc->log, kars_req_path(r));
}
static const kars_hook_t tap_hooks[] = {
    { .phase = KARS_PHASE_LOG, .run = tap_end }, { 0 } };
KARS_MODULE(tap) = { KARS_MODULE_HEAD, .name = "tap", .version = "1",
    .conf_size = sizeof(tap_conf_t), .directives = tap_directives,
    .hooks = tap_hooks };
"""


def tap(site: kit.Site, name: str) -> Path:
    """A module from outside of the tree, with a log of its own."""
    source, built = site.dir / "tap.c", site.dir / "tap.so"
    source.write_text(TAP.replace("NAME", name))
    subprocess.run(["cc", "-std=gnu11", "-O1", "-fPIC", "-shared",
                    f"-I{Path(__file__).parents[2]}/core", "-o", str(built),
                    str(source)], check=True)
    return built


def test_a_module_from_outside_has_a_log(start: Start, site: kit.Site) -> None:
    log = site.dir / "tap.log"
    r = start(conf(site, f"load_module {tap(site, 'tap_log')};", routes=(
        "route GET /tap { access open; tap_log tap.log; respond 200 x; }\n")))
    for i in range(2):
        assert r.ask("GET", "/tap").status == 200
        assert settled(log, 1) == ["/tap"]
        log.rename(site.dir / f"tap.{i}")
        r.send_signal(signal.SIGUSR1)
        kit.wait_for("again", log.exists)
    assert "was taken" not in r.log()


def test_a_log_has_a_name_that_the_master_finds(site: kit.Site) -> None:
    site.conf.write_text(conf(site, f"load_module {tap(site, 'tap_into')};"))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode == 1 and 'directive "tap_into"' in p.stderr
    assert "a LOG is the first word of a directive" in p.stderr
