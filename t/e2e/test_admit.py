"""ADMIT: a decision is made on the whole request, and on what every parser
would read in it. Nothing goes upstream before."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from typing import Any

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

MIB = 1024 * 1024


def late_model(model: str) -> bytes:
    """4 MiB of messages, and `model` as the very last member."""
    text = "word " * (4 * MIB // 5)
    messages = json.dumps([{"role": "user", "content": text}])
    return (f'{{"max_tokens":8,"messages":{messages},"model":"{model}"}}'
            ).encode()


@pytest.fixture
def gated(start: Start, site: kit.Site) -> kit.Router:
    return start(site.usual(models="stand-in",
                            budget="request=4096 day=100m month=1000m"))


@pytest.mark.core
def test_a_late_disallowed_model_reaches_nobody(
        gated: kit.Router, backend: Backend) -> None:
    a = gated.ask("POST", kit.CHAT, late_model("forbidden"))
    assert (a.status, a.code) == (403, "policy_denied")
    assert a.json["error"]["type"] == "policy_violation"
    assert backend.connections == []
    assert gated.record(a.trace)["model"] == "forbidden"


@pytest.mark.core
def test_a_late_allowed_model_arrives_byte_for_byte(
        gated: kit.Router, backend: Backend) -> None:
    body = late_model("stand-in")
    a = gated.ask("POST", kit.CHAT, body)
    assert a.status == 200, a.body
    assert backend.last().body == body


@pytest.mark.core
def test_not_one_byte_goes_upstream_before_the_body_is_complete(
        gated: kit.Router, backend: Backend) -> None:
    body = late_model("stand-in")
    with gated.wire() as w:
        w.send(wire.request("POST", kit.CHAT, body)[:-1])
        with gated.wire() as other:     # the router has read all it was sent
            assert other.send(wire.request("GET", "/healthz")
                              ).answer().status == 200
        kit.wait_for("the router's receive queue is empty", lambda: _drained(
            gated.site.port, w.sock.getsockname()[1]))
        assert backend.connections == []
        completed = time.monotonic()
        assert w.send(body[-1:]).answer().status == 200
    assert backend.connections[0].reads[0][0] > completed
    assert backend.last().body == body


def _drained(port: int, peer: int) -> bool:
    """Has the router read everything that `peer` sent to it?"""
    for line in open("/proc/net/tcp"):
        f = line.split()
        if f[1].endswith(f":{port:04X}") and f[2].endswith(f":{peer:04X}"):
            return f[4].split(":")[1] == "00000000"
    return False


@pytest.mark.core
def test_a_body_held_for_its_gates_may_come_in_chunks(
        gated: kit.Router, backend: Backend) -> None:
    body = kit.chat_bytes()
    with gated.wire() as w:
        w.send(wire.request("POST", kit.CHAT, b"", {
            "content-length": "X"}).replace(
                b"content-length: X", b"transfer-encoding: chunked"))
        for i in range(0, len(body), 7):
            part = body[i:i + 7]
            w.send(b"%x;ext=1\r\n%s\r\n" % (len(part), part))
        assert w.send(b"0\r\n\r\n").answer().status == 200
    assert backend.last().body == body


# What a decision depends on. The oracle: Python's own parser, told to refuse
# duplicate members, non-UTF-8 and a BOM. Where it refuses, so must we; where it
# reads a value, we decide on that value or refuse; never anything else.

def strict_loads(raw: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        d = dict(pairs)
        if len(d) != len(pairs):
            raise ValueError("duplicate member")
        return d

    def no_constant(name: str) -> Any:
        raise ValueError(name)

    if raw.startswith(b"\xef\xbb\xbf"):
        raise ValueError("BOM")
    text = raw.decode("utf-8")
    value = json.loads(text, object_pairs_hook=once,
                       parse_constant=no_constant)
    text.encode("utf-8")
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates
    return value


MESSAGES = '"messages":[{"role":"user","content":"one"}]'

# name of the member, a value that is allowed, one that is not (or None), and
# values of a wrong type.
WATCHED = {
    "model": ('"stand-in"', '"forbidden"', ["7", "null", "[]", "{}", "true"]),
    "max_tokens": ("8", "99999", ['"8"', "8.5", "-1", "[]", "{}", "true",
                                  "1e400", "99999999999999999999"]),
    "max_completion_tokens": ("8", "99999", ['"8"', "8.5", "-1", "[]", "true",
                                             "99999999999999999999"]),
    "n": ("1", "5000", ['"1"', "1.5", "-1", "0", "[]", "true",
                        "99999999999999999999"]),
    "stream": ("false", None, ['"true"', "1", "[]", "{}"]),
    "stream_options": ('{"include_usage":true}', None, ["7", '"x"', "[]"]),
    "stream_options.include_usage": ("true", None, ['"true"', "1", "[]"]),
}


def nest(member: str, value: str) -> str:
    """`member` as JSON text; "a.b" stands for {"a": {"b": …}}."""
    if "." not in member:
        return f'"{member}":{value}'
    outer, inner = member.split(".")
    return f'"{outer}":{{"{inner}":{value}}}'


def body_of(*members: str) -> bytes:
    """A chat body with these members; model and cap where none of them is."""
    have = " ".join(members)
    rest = [MESSAGES]
    if '"model"' not in have and "odel" not in have:
        rest.append('"model":"stand-in"')
    if "tokens" not in have:
        rest.append('"max_tokens":8')
    return ("{" + ",".join([*members, *rest]) + "}").encode("utf-8",
                                                           "surrogatepass")


def escaped(member: str) -> str:
    """The member's name with its first letter (of the inner one) escaped."""
    *outer, name = member.split(".")
    name = f"\\u{ord(name[0]):04x}" + name[1:]
    return ".".join([*outer, name])


def cases() -> list[Any]:
    found = []

    def add(member: str, kind: str, raw: bytes) -> None:
        found.append(pytest.param(raw, id=f"{member}-{kind}"))

    for member, (good, bad, wrong) in WATCHED.items():
        inner = nest(member, good)
        add(member, "good", body_of(inner))
        add(member, "escaped", body_of(nest(escaped(member), good)))
        add(member, "spaced", body_of(inner.replace(":", " \t\r\n: ")))
        add(member, "nested-elsewhere",
            body_of(f'"metadata":{{{inner}}}', inner))
        for other in filter(None, (good, bad)):
            add(member, f"twice-{other}", body_of(inner, nest(member, other)))
            add(member, f"twice-escaped-{other}",
                body_of(inner, nest(escaped(member), other)))
            add(member, f"twice-late-{other}", body_of(
                inner, '"user":"x"', nest(escaped(member), other)))
        if bad:
            add(member, "bad", body_of(nest(member, bad)))
            add(member, "bad-escaped", body_of(nest(escaped(member), bad)))
        for i, value in enumerate(wrong):
            add(member, f"wrong-{i}-{value}", body_of(nest(member, value)))
        raw = body_of(inner)
        add(member, "bom", b"\xef\xbb\xbf" + raw)
        add(member, "invalid-utf8", raw.replace(b'"one"', b'"o\xffe"'))
        add(member, "overlong-utf8", raw.replace(b'"one"', b'"o\xc0\xafe"'))
        add(member, "surrogate-utf8",
            raw.replace(b'"one"', b'"\xed\xa0\x80"'))
        add(member, "cut", raw[:-1])
        add(member, "trailing", raw + b"x")
        add(member, "two-values", raw + raw)
        add(member, "comma", raw[:-1] + b",}")
        add(member, "nul", raw[:-1] + b"\0}")
        add(member, "deep", b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b","
            + raw[1:])
    add("model", "surrogate-escape",
        body_of('"model":"stand-in\\ud800"'))
    add("model", "nul-escape", body_of('"model":"stand-in\\u0000"'))
    add("model", "value-escaped", body_of('"model":"\\u0073tand-in"'))
    add("model", "bad-value-escaped", body_of('"model":"\\u0066orbidden"'))
    add("model", "case", body_of('"Model":"forbidden"', '"model":"stand-in"'))
    add("model", "no-model", ("{" + MESSAGES + ',"max_tokens":8}').encode())
    add("body", "array", b"[" + body_of() + b"]")
    add("body", "string", b'"x"')
    add("body", "number", b"7")
    add("body", "empty", b"")
    add("body", "blank", b"   ")
    add("body", "utf16", body_of().decode().encode("utf-16-le"))
    return found


def expected(raw: bytes) -> set[int]:
    """The statuses that are right for a body."""
    try:
        body = strict_loads(raw)
    except RecursionError:
        return {400}
    except ValueError:
        return {400}
    if not isinstance(body, dict):
        return {400}
    if b"\\u0000" in raw:     # a NUL ends strings early in half the world
        return {400}
    if any(k not in WATCHED and k.lower() in WATCHED for k in body):
        # parsers that fold case would read another member there
        return {400}
    for name, kinds in (("model", str), ("max_tokens", int), ("n", int),
                        ("max_completion_tokens", int), ("stream", bool),
                        ("stream_options", dict)):
        value = body.get(name)
        if name in body and (not isinstance(value, kinds)
                             or (kinds is int and isinstance(value, bool))):
            # a null is the same as no member at all, where one may lack
            return {400} if value is not None or name == "model" \
                else {400, 200}
    options = body.get("stream_options") or {}
    if not isinstance(options.get("include_usage", True), bool):
        return {400}
    asked = [body[k] for k in ("max_tokens", "max_completion_tokens")
             if k in body]
    n = body.get("n", 1)
    if any(v < 0 for v in asked) or n < 1:
        return {400}
    if any(v >= 2 ** 63 for v in [*asked, n]):
        return {400, 429}
    if body.get("model") != "stand-in":
        # a route with an allow-list; no model at all is not on it
        return {403} if "model" in body else {400, 403}
    if any(v > 4096 for v in asked):
        return {429}
    if n * min(asked, default=4096) > 4096:
        return {200, 429, 400}
    if "stream_options" in body and not body.get("stream"):
        return {200, 400}
    return {200}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One router for the whole table: 150 starts would prove nothing more."""
    backend = Backend().start()
    site = kit.Site(tmp_path_factory.mktemp("admit"), backend)
    router = kit.Router(site, site.usual(
        models="stand-in", budget="request=4096 day=100m month=1000m"))
    yield router, backend
    router.stop()
    backend.stop()
    assert backend.violations == []


@pytest.mark.parametrize("raw", cases())
def test_watched_members_are_read_as_any_parser_would(
        shared: tuple[kit.Router, Backend], raw: bytes) -> None:
    router, backend = shared
    seen = len(backend.requests)
    a = router.ask("POST", kit.CHAT, raw, {"content-length": str(len(raw))})
    assert a.status in expected(raw), (a.status, a.body, raw[:300])
    if a.status == 200:
        assert len(backend.requests) == seen + 1
        sent = strict_loads(backend.last().body)
        for name, value in strict_loads(raw).items():
            if name not in ("stream_options", "max_tokens"):
                assert sent[name] == value
    else:
        assert len(backend.requests) == seen
        kind = {400: "invalid_request_error", 403: "policy_violation",
                429: "token_budget_exceeded"}[a.status]
        assert a.json["error"]["type"] == kind
        assert a.get("x-kars-decision") == "blocked"
        assert a.get("x-kars-decision-by")
        assert a.get("x-kars-decision-reason")
        assert router.record(a.trace)["status"] == a.status
    if a.status == 400:
        assert a.code == "invalid_json" or a.code


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd",
                                    "gzip, gzip", "x-unknown"])
def test_an_encoded_request_is_415(
        router: kit.Router, backend: Backend, coding: str) -> None:
    raw = kit.chat_bytes()
    data = {"gzip": gzip.compress, "deflate": zlib.compress}.get(
        coding, bytes)(raw)
    a = router.ask("POST", kit.CHAT, data, {"content-encoding": coding})
    assert (a.status, a.code) == (415, "unsupported_encoding")
    assert backend.connections == []
    assert router.record(a.trace)["status"] == 415


def test_content_encoding_identity_is_no_encoding(
        router: kit.Router) -> None:
    a = router.chat(headers={"content-encoding": "identity"})
    assert a.status in (200, 415)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_encoded_answer_is_never_passed(
        router: kit.Router, backend: Backend, streamed: bool) -> None:
    backend.fault = "gzip"
    a = router.chat(stream=streamed or None)
    assert a.status == 502
    assert a.get("content-encoding") is None


@pytest.mark.parametrize("size, status", [(-1, 200), (0, 200), (1, 413)])
def test_body_limit_at_its_edge(
        start: Start, site: kit.Site, backend: Backend, size: int, status: int
        ) -> None:
    r = start(site.usual(server="body_limit 8k;"))
    raw = kit.chat_bytes()
    raw = raw[:-1] + b" " * (8192 + size - len(raw)) + b"}"
    assert len(raw) == 8192 + size
    for framed in ("length", "chunked"):
        with r.wire() as w:
            if framed == "length":
                w.send(wire.request("POST", kit.CHAT, raw))
            else:
                w.send(wire.request("POST", kit.CHAT).replace(
                    b"content-length: 0", b"transfer-encoding: chunked"))
                w.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(raw), raw))
            a = w.answer()
        assert a.status == status, (framed, a.body)
        if status == 413:
            assert a.code == "body_too_large"
            assert r.record(a.trace)["status"] == 413
    assert len(backend.requests) == (2 if status == 200 else 0)


def test_a_huge_content_length_is_refused_before_its_body(
        router: kit.Router) -> None:
    with router.wire() as w:
        w.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n"
               b"content-length: 99999999999\r\n\r\n")
        a = w.answer()
    assert (a.status, a.code) == (413, "body_too_large")


@pytest.mark.core
def test_no_such_route(router: kit.Router) -> None:
    a = router.ask("POST", "/v1/embeddings", b"{}")
    assert (a.status, a.code) == (404, "no_such_route")
    b = router.ask("GET", "/nowhere")
    assert b.status == 404 and set(b.json) == {"error"}
    assert isinstance(b.json["error"], str)
    for answer in (a, b):
        assert answer.get("x-kars-decision") == "blocked"
        assert router.record(answer.trace)["status"] == 404


@pytest.mark.parametrize("path", [
    "/v1/chat/completions/", "/v1//chat/completions", "/V1/chat/completions",
    "/v1/chat/../chat/completions", "/v1/chat%2fcompletions",
    "/v1/chat/completions;x", "/v1/./chat/completions",
])
def test_routes_match_exactly(
        router: kit.Router, backend: Backend, path: str) -> None:
    a = router.ask("POST", path, kit.chat_bytes())
    assert a.status in (400, 404)
    assert backend.connections == []


def test_another_method_is_not_this_route(router: kit.Router) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        a = router.ask(method, kit.CHAT)
        assert a.status in (404, 405), method
