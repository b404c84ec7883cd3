"""Every refusal names what decided: a directive with its file and line, a
directive's default, or that it is built in. In the answer's record, in the
router's log and for the access log alike."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

TOP = Path(__file__).parents[2]
MODULES = (*kit.ALL_MODULES, "example")

pytestmark = pytest.mark.core


def conf(site: kit.Site, silent: int) -> str:
    """Each line that decides something is named in a comment behind it."""
    return (
        site.main(MODULES, extra="body_memory 64k wait=100ms; # body_memory\n")
        + "upstream nowhere { # nowhere\n server 127.0.0.1:1;\n }\n"
        + f"upstream two {{\n server {site.backend.address};\n"
          " server 127.0.0.3:9;\n}\n"
        + "upstream silent { # silent\n"
          f" server 127.0.0.1:{silent};\n"
          " timeout connect=2s first_byte=200ms idle=1s;\n }\n"
        + f"upstream full {{\n server 127.0.0.1:{silent};\n"
          " max_connections 1;\n queue 0; # queue\n}\n"
        + site.upstream()
        + f"""server {{ # server
    listen 127.0.0.1:{site.port} class=agent;
    listen unix:{site.admin} class=operator;
    header_limit 4k; # header_limit
    timeout header=10s body=300ms; # timeout
    route POST {kit.CHAT} {{
        inference chat; # inference
        models stand-in other; # models
        provider openai base=/v1;
        {site.credential()}
        body_limit 100k; # body_limit
        budget_limit request=4096 day=10k month=100k; # budget_limit
        pass model;
    }}
    route POST /v1/spent {{
        inference chat;
        {site.credential()}
        budget_limit day=1; # spent
        pass model;
    }}
    route POST /v1/unbound {{
        inference chat;
        credential api_key file:{site.secret} host=127.0.0.3:9; # credential
        pass two;
    }}
    route POST /v1/small {{
        body_limit 1k; # small
        inference chat; pass model; }}
    route POST /plain {{ access agent; pass model; }}
    route POST /v1/nowhere {{ inference chat; pass nowhere; }}
    route POST /v1/full {{ inference chat; pass full; }}
    route POST /v1/silent {{ inference chat; pass silent; }}
    route GET /nothing {{ access agent; }} # nothing
    route GET /operator {{
        access operator; # access
        respond 200 x; }}
    route GET /admin/model {{ respond 200 x; }}
    route GET /example {{ access open; example_require x-name; # example
        respond 200 x; }}
    route GET /healthz {{ access open; status healthz; }}
    route GET /metrics {{ access open; status metrics; }}
}}
""")


def chat(path: str = kit.CHAT, body: bytes | None = None, **headers: str
         ) -> bytes:
    return wire.request("POST", path, kit.chat_bytes() if body is None
                        else body, {k.replace("_", "-"): v
                                    for k, v in headers.items()})


def get(path: str) -> bytes:
    return wire.request("GET", path)


JSON = "content-type: application/json\r\n"
# What is sent; status; code; the mark of the line that decided, after the
# directive's name, or the whole rule.
TABLE: list[tuple[bytes, int, str, str]] = [
    (get("/v1/none"), 404, "no_such_route", "server # server"),
    (get("/nothing"), 404, "no_such_route", "route # nothing"),
    (b"NONSENSE\r\n\r\n", 400, "bad_request", "bad_request (built in)"),
    (b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n", 400, "invalid_path",
     "invalid_path (built in)"),
    (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 5000 + b"\r\n\r\n", 431,
     "headers_too_large", "header_limit # header_limit"),
    (f"POST {kit.CHAT} HTTP/1.1\r\nhost: x\r\n{JSON}"
     "transfer-encoding: chunked\r\n\r\nzz\r\n".encode(), 400, "bad_request",
     "bad_request (built in)"),
    (f"POST {kit.CHAT} HTTP/1.1\r\nhost: x\r\n{JSON}"
     "content-length: 200000\r\n\r\n".encode(), 413, "body_too_large",
     "body_limit # body_limit"),
    (f"POST /v1/small HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked"
     "\r\n\r\n500\r\n".encode() + b" " * 0x500, 413, "body_too_large",
     "body_limit # small"),
    (f"POST {kit.CHAT} HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 90000\r\n"
     "\r\n".encode() + b'{"a":"' + b" " * 80000, 503, "overloaded",
     "body_memory # body_memory"),
    (f"POST {kit.CHAT} HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 50\r\n\r\n"
     .encode(), 408, "request_timeout", "timeout body= # timeout"),
    (chat(content_encoding="gzip"), 415, "unsupported_encoding",
     f"route {kit.CHAT}"),
    (chat(body=b"{nonsense"), 400, "invalid_json", f"route {kit.CHAT}"),
    (chat(body=kit.chat_bytes(model=7)), 400, "invalid_request",
     "inference # inference"),
    (chat(content_type="text/plain"), 415, "unsupported_media_type",
     "inference # inference"),
    (chat(body=kit.chat_bytes(model="gpt-x")), 403, "policy_denied",
     "models # models"),
    (chat(body=kit.chat_bytes(max_tokens=5000)), 429,
     "per_request_tokens_exceeded", "budget_limit # budget_limit"),
    (chat(body=kit.chat_bytes(max_tokens="x")), 400, "invalid_request",
     "budget_limit # budget_limit"),
    (chat("/v1/spent"), 429, "budget_exceeded", "budget_limit # spent"),
    (chat("/v1/unbound"), 502, "credential_host_mismatch",
     "credential # credential"),
    (chat("/v1/nowhere"), 502, "bad_gateway", "upstream nowhere # nowhere"),
    (chat("/v1/silent"), 504, "upstream_timeout", "upstream silent # silent"),
    (chat("/v1/full"), 503, "overloaded", "queue # queue"),
    (get("/operator"), 403, "access_denied", "access # access"),
    (get("/admin/model"), 403, "access_denied", "access (default)"),
    (get("/example"), 400, "header_missing", "example_require # example"),
]


def expected(text: str, file: Path, rule: str) -> str:
    """The rule with the line that carries its mark."""
    name, mark, what = rule.partition(" # ")
    if rule.startswith("route /"):
        name, what = "route", f"POST {rule[6:]} {{"
    elif not mark:
        return rule
    else:
        what = f"# {what}"
    (line,) = [i for i, x in enumerate(text.splitlines(), 1)
               if x.endswith(what)]
    return f"{name} {file}:{line}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory
          ) -> Iterator[tuple[kit.Router, str]]:
    backend = Backend().start()
    site = kit.Site(tmp_path_factory.mktemp("rules"), backend)
    silent = socket.create_server(("127.0.0.1", 0))
    text = conf(site, silent.getsockname()[1])
    router = kit.Router(site, text)
    holder = router.wire().send(chat("/v1/full"))
    silent.settimeout(10)
    held, _ = silent.accept()   # the one that `full` may have
    yield router, text
    holder.sock.close()
    held.close()
    silent.close()
    router.stop()
    backend.release()
    backend.stop()


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[2]}")
def test_a_refusal_names_its_rule(
        place: tuple[kit.Router, str],
        row: tuple[bytes, int, str, str]) -> None:
    router, text = place
    raw, status, code, rule = row
    want = expected(text, router.site.conf, rule)
    seen = len(router.log())
    with router.wire() as w:
        w.send(raw)
        a = w.answer()
    assert a.status == status
    line = next(x for x in router.log()[seen:].splitlines()
                if "router: refused" in x)
    assert f'code={code} ' in line
    assert f'rule="{want}"' in line
    record = router.record(a.trace)
    assert record["rule"] == want


def test_the_table_has_every_code_that_a_client_can_cause() -> None:
    """Codes in the sources, less those that need a fault which has a test of
    its own, or memory to run out (the unit tests do that)."""
    sources = [*TOP.glob("core/http/*.c"), *TOP.glob("modules/*/*.c")]
    text = "\n".join(f.read_text() for f in sources)
    codes = set(re.findall(r'\.code = (?:[^;,]*\? )?KARS_STR\("(\w+)"\)', text))
    codes |= set(re.findall(r'(?:inference_refuse|fauth_refuse)\(\s*r,[^"]*'
                            r'KARS_STR\("(\w+)"\)', text))
    for who, call in re.findall(r"(req|body|pass)_refuse(?:_by)?\(([^;{]*);",
                                text):
        words = re.findall(r'"([a-z_]+)"', call)[who != "pass":][:2]
        codes |= set(words if "?" in call else words[:1])
    told = {code for _, _, code, _ in TABLE}
    elsewhere = {
        "internal_error",            # a module fails: phase.c, rule.c
        "audit_unavailable", "budget_unavailable",     # below
        "no_identity",                                 # below
        "invalid_token",                               # below
        "credential_unavailable",    # a key file without a key
        "rate_limited", "connections_limited",         # test_limit.py
        "log_cut", "open",           # records of audit's, no refusals
        "connection_refused",        # test_module_request.py
        "bad_websocket",             # test_websocket.py
    }
    assert codes - told - elsewhere == set()
    assert len(codes) > 20


def one(router: kit.Router, raw: bytes, address: object = None) -> tuple[
        wire.Answer, str]:
    seen = len(router.log())
    with wire.Wire(address or router.address) as w:
        w.send(raw)
        a = w.answer()
    found = kit.wait_for("the line", lambda: re.search(
        r'router: refused .* rule="([^"]*)"', router.log()[seen:]))
    return a, found[1]


def test_nobody_to_say_who_calls(start: Start, site: kit.Site) -> None:
    site.port = kit.free_port()
    text = (f"module_path {kit.MODULES};\nlog stderr level=info;\n"
            "load_module status;\nserver {\n"
            f" listen 127.0.0.1:{site.port};\n route GET /healthz {{\n"
            "  status healthz;\n }\n}\n")
    r = start(text)
    a, rule = one(r, get("/healthz"))
    assert a.status == 403
    assert rule == f"route {site.conf}:6"


def test_a_token_that_is_nobodys(start: Start, site: kit.Site) -> None:
    token = site.dir / "admin.token"
    token.write_text("a-token-of-sufficient-length-123456\n")
    r = start(site.usual(listen="", main=f"caller_token operator file:{token};"
                         ).replace("caller_uid agent", "caller_uid agent 54320"))
    a, rule = one(r, wire.request("GET", "/v1/models", b"",
                                  {"authorization": "Bearer wrong"}))
    assert a.status in (401, 403)
    assert rule == "access (default)"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    made: list[Path] = []

    def make(name: str) -> Path:
        disk = tmp_path / name
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs",
                        str(disk)], check=True)
        made.append(disk)
        return disk

    yield make
    for d in made:
        subprocess.run(["umount", "-l", str(d)], check=True)


def test_an_audit_log_that_cannot_be_written(
        start: Start, site: kit.Site, full: Callable[[str], Path]) -> None:
    disk = full("full")
    text = site.usual().replace(f"audit_dir {site.audit_dir}",
                                f"audit_dir {disk}")
    r = start(text)
    (disk / "filler").write_bytes(b"")
    with (disk / "filler").open("wb", buffering=0) as f:
        try:
            while True:
                f.write(b"x" * 1024)
        except OSError:
            pass

    def refused() -> bool:
        return r.chat().status == 503
    kit.wait_for("the disk is full", refused)
    a, rule = one(r, chat())
    assert (a.status, a.code) == (503, "audit_unavailable")
    line = next(i for i, x in enumerate(text.splitlines(), 1)
                if x.startswith("audit_dir"))
    assert rule == f"audit_dir {site.conf}:{line}"
    assert json.loads(a.body)["error"]["type"] == "server_error"
