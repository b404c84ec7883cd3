"""Who may call what: docs/compat.md 7 as a table, every class against every
route, on a configuration with one `respond` route per row."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import kit
import wire

AGENT, OPERATOR, CONTROLLER, PEER, OPEN = (
    "agent", "operator", "controller", "peer", "open")
EVERYONE = {AGENT, OPERATOR, CONTROLLER, PEER, OPEN}

# The route as configured, a path that it matches, who may call it.
ROWS: list[tuple[str, str, str, set[str]]] = [
    ("POST", "/v1/chat/completions", "", {AGENT}),
    ("POST", "/v1/completions", "", {AGENT}),
    ("POST", "/v1/responses", "", {AGENT}),
    ("POST", "/v1/embeddings", "", {AGENT}),
    ("POST", "/v1/images/generations", "", {AGENT}),
    ("POST", "/v1/messages", "", {AGENT}),
    ("POST", "/anthropic/v1/messages", "", {AGENT}),
    ("POST", "/openai/deployments/{deployment}/images/generations",
     "/openai/deployments/d1/images/generations", {AGENT}),
    ("GET", "/v1/models", "", {AGENT, OPERATOR}),
    ("GET", "/v1/deployments", "", {AGENT, OPERATOR}),
    ("GET", "/agents", "", {AGENT, OPERATOR}),
    ("POST", "/agents", "", {AGENT}),
    ("POST", "/mcp", "", {AGENT}),
    ("POST", "/platform/mcp", "", {AGENT}),
    ("POST", "/egress/fetch", "", {AGENT}),
    ("GET", "/egress/allowlist", "", {AGENT, OPERATOR}),
    ("GET", "/blocklist/status", "", {AGENT, OPERATOR}),
    ("POST", "/blocklist/check", "", {AGENT}),
    ("POST", "/agt/evaluate", "", {AGENT}),
    ("GET", "/agt/trust", "", {AGENT, OPERATOR}),
    ("POST", "/agt/trust", "", {AGENT, OPERATOR}),
    ("GET", "/agt/trust/{agent_id}", "/agt/trust/a1", {AGENT, OPERATOR}),
    ("POST", "/agt/signing-counter", "", {AGENT}),
    ("GET", "/agt/status", "", {AGENT, OPERATOR}),
    ("GET", "/agt/reputation", "", {AGENT, OPERATOR}),
    ("GET", "/agt/mesh/inbox", "", {AGENT, OPERATOR}),
    ("GET", "/agt/relay", "", {AGENT, OPERATOR}),
    ("GET", "/agt/registry/{rest...}", "/agt/registry/a/b",
     {AGENT, OPERATOR}),
    ("POST", "/sandbox/spawn", "", {AGENT}),
    ("GET", "/sandbox/list", "", {AGENT, OPERATOR}),
    ("GET", "/.well-known/agent.json", "", {AGENT, OPERATOR, PEER}),
    ("POST", "/a2a", "", {PEER}),
    ("GET", "/admin/model", "", {OPERATOR}),
    ("PUT", "/admin/model", "", {OPERATOR}),
    ("POST", "/egress/learn", "", {OPERATOR}),
    ("GET", "/egress/learned", "", {OPERATOR}),
    ("POST", "/egress/learned/clear", "", {OPERATOR}),
    ("GET", "/egress/learned/blocked", "", {OPERATOR}),
    ("GET", "/internal/policy-status", "", {OPERATOR, CONTROLLER}),
    ("GET", "/internal/egress/blocked", "", {OPERATOR, CONTROLLER}),
    ("POST", "/internal/access", "", {CONTROLLER}),
    ("DELETE", "/agt/trust/{agent_id}", "/agt/trust/a1", {OPERATOR}),
    ("GET", "/agt/rate-limit", "", {OPERATOR}),
    ("PUT", "/agt/rate-limit", "", {OPERATOR}),
    ("GET", "/agt/audit", "", {OPERATOR}),
    ("GET", "/agt/audit/verify", "", {OPERATOR}),
    ("POST", "/agt/handoff/init", "", {OPERATOR, CONTROLLER}),
    ("GET", "/agt/handoff/status", "", {OPERATOR, CONTROLLER}),
    ("GET", "/healthz", "", EVERYONE),
    ("GET", "/readyz", "", EVERYONE),
    ("GET", "/metrics", "", EVERYONE),
]
CALLS = [(m, path or route) for m, route, path, _ in ROWS]

# Asks every row on one address as whoever runs it; prints the statuses.
ASKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import wire
job = json.load(sys.stdin)
address = job["address"]
address = address if isinstance(address, str) else tuple(address)
out = []
for method, path in job["calls"]:
    a = wire.ask(address, method, path, b"", job["headers"])
    out.append([a.status, a.get("x-kars-trace-id"), a.body.decode()])
print(json.dumps(out))
"""


def ask_all(address: Any, uid: int | None, headers: dict[str, str],
            calls: list[tuple[str, str]] = CALLS) -> list[list[Any]]:
    """Every call, made by a process of the given UID."""
    who = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    code = Path(wire.__file__).read_text()
    p = subprocess.run(
        ["/usr/bin/python3", "-I", "-c",
         f"import sys, types\nm = types.ModuleType('wire')\n"
         f"sys.modules['wire'] = m\nexec({code!r}, m.__dict__)\n" + ASKER,
         "/"],
        input=json.dumps({"address": address, "calls": calls,
                          "headers": headers}),
        text=True, capture_output=True, timeout=40, cwd="/", **who)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


OPERATOR_TOKEN = "operator-token-0123456789abcdef0123"
CONTROLLER_TOKEN = "controller-token-0123456789abcdef01"


@pytest.fixture(scope="module")
def table() -> Any:
    """One router with every row, on a listener of each kind. In a folder that
    other users may enter: pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="kars-identity-"))
    folder.chmod(0o755)
    site = kit.Site(folder)
    tokens = {"operator": OPERATOR_TOKEN, "controller": CONTROLLER_TOKEN}
    lines = ""
    for name, token in tokens.items():
        file = folder / f"{name}.token"
        file.write_text(token + "\n")
        file.chmod(0o600)
        lines += f"caller_token {name} file:{file};\n"
    ports = {c: kit.free_port() for c in
             (AGENT, OPERATOR, CONTROLLER, PEER, OPEN)}
    sock = folder / "any.sock"
    routes = "\n".join(
        f'    route {m} {route} {{ respond 200 "ok"; }}'
        for m, route, _, _ in ROWS)
    listens = "\n".join(f"    listen 127.0.0.1:{p} class={c};"
                        for c, p in ports.items())
    conf = (site.main(("audit", "signing", "identity", "status"), extra=lines)
            + f"server {{\n    listen 127.0.0.1:{site.port};\n{listens}\n"
            f"    listen unix:{site.admin} class=operator;\n"
            f"    listen unix:{sock};\n{routes}\n}}\n")
    router = kit.Router(site, conf)
    for s in (sock, Path(site.admin)):
        s.chmod(0o777)      # so that what decides is the credential
    yield router, ports, str(sock)
    router.stop()
    shutil.rmtree(folder)


def verdicts(answers: list[list[Any]], refusal: int = 403
             ) -> dict[str, str]:
    return {f"{m} {p}": {200: "let in", refusal: "refused"}.get(
        a[0], str(a[0])) for (m, p), a in zip(CALLS, answers)}


def wanted(caller: str) -> dict[str, str]:
    return {f"{m} {p}": "let in" if caller in who else "refused"
            for (m, p), (_, _, _, who) in zip(CALLS, ROWS)}


@pytest.mark.core
@pytest.mark.parametrize("caller", sorted(EVERYONE))
def test_a_listeners_class_is_final(table: Any, caller: str) -> None:
    _, ports, _ = table
    address = ["127.0.0.1", ports[caller]]
    assert verdicts(ask_all(address, None, {})) == wanted(caller)


@pytest.mark.core
def test_a_token_does_not_change_a_listeners_class(table: Any) -> None:
    _, ports, _ = table
    for token in (OPERATOR_TOKEN, CONTROLLER_TOKEN):
        answers = ask_all(["127.0.0.1", ports[AGENT]], None,
                          {"authorization": f"Bearer {token}"})
        assert verdicts(answers) == wanted(AGENT)


@pytest.mark.core
@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("token", ["", OPERATOR_TOKEN, CONTROLLER_TOKEN])
def test_the_agents_uid_is_agent_whatever_it_shows(
        table: Any, over: str, token: str) -> None:
    router, _, sock = table
    address = list(router.address) if over == "tcp" else sock
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answers = ask_all(address, kit.AGENT_UID, headers)
    assert verdicts(answers) == wanted(AGENT)


@pytest.mark.core
def test_the_agents_uid_on_operator_routes_is_403_and_audited(
        table: Any) -> None:
    router, _, _ = table
    answers = ask_all(list(router.address), kit.AGENT_UID, {})
    operator_only = [(call, a) for call, a, row in zip(CALLS, answers, ROWS)
                     if AGENT not in row[3]]
    assert len(operator_only) >= 15
    for (method, path), (status, trace, body) in operator_only:
        assert status == 403, (method, path)
        assert isinstance(json.loads(body)["error"], str)
        record = router.record(trace)
        assert (record["decision"], record["class"], record["status"]) == (
            "deny", "agent", 403)
        assert (record["method"], record["path"]) == (method, path)


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("token, caller", [
    (OPERATOR_TOKEN, OPERATOR), (CONTROLLER_TOKEN, CONTROLLER),
    ("", OPEN),
])
def test_another_uid_is_what_its_token_says(
        table: Any, over: str, token: str, caller: str) -> None:
    router, _, sock = table
    address = list(router.address) if over == "tcp" else sock
    headers = {"authorization": f"Bearer {token}"} if token else {}
    assert verdicts(ask_all(address, 54322, headers)) == wanted(caller)


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("shown", [
    "Bearer wrong", f"Bearer {OPERATOR_TOKEN}x", f"Bearer {OPERATOR_TOKEN[:-1]}",
    f"Bearer {OPERATOR_TOKEN.upper()}", f"Bearer {OPERATOR_TOKEN} x",
    f"Basic {OPERATOR_TOKEN}", "Bearer", OPERATOR_TOKEN,
])
def test_a_wrong_token_opens_nothing(
        table: Any, over: str, shown: str) -> None:
    """It is 401 where a right one might have helped (docs/compat.md 2)."""
    router, _, sock = table
    address = list(router.address) if over == "tcp" else sock
    answers = ask_all(address, 54322, {"authorization": shown})
    for (method, path), answer, row in zip(CALLS, answers, ROWS):
        assert answer[0] in ((200,) if OPEN in row[3] else (401, 403)), \
            (method, path, answer)


@pytest.mark.core
def test_the_admin_socket_is_the_operators(table: Any) -> None:
    router, _, _ = table
    assert verdicts(ask_all(router.site.admin, None, {})) == wanted(OPERATOR)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2", "127.8.8.8"])
def test_any_address_of_this_host_is_looked_up(
        table: Any, source: str) -> None:
    """The UID decides for each local source address, not only 127.0.0.1."""
    router, _, _ = table
    code = ("import socket,sys\n"
            f"s=socket.socket()\ns.bind(('{source}',0))\n"
            f"s.connect(('127.0.0.1',{router.address[1]}))\n"
            "s.sendall(b'GET /admin/model HTTP/1.1\\r\\nhost: r\\r\\n"
            f"authorization: Bearer {OPERATOR_TOKEN}\\r\\n"
            "connection: close\\r\\n\\r\\n')\n"
            "print(s.recv(4096).split()[1].decode())\n")
    p = subprocess.run(["/usr/bin/python3", "-I", "-c", code], text=True,
                       capture_output=True, timeout=20, cwd="/",
                       user=kit.AGENT_UID, group=kit.AGENT_UID,
                       extra_groups=[])
    assert p.stdout.strip() == "403", p.stdout + p.stderr


def test_identity_is_of_the_connection_that_asks(table: Any) -> None:
    """An operator's request first does not lend its rights to the agent."""
    router, _, _ = table
    for _ in range(5):
        ours = wire.ask(router.address, "GET", "/admin/model", headers={
            "authorization": f"Bearer {OPERATOR_TOKEN}"})
        assert ours.status == 200
        theirs = ask_all(list(router.address), kit.AGENT_UID, {},
                         [("GET", "/admin/model")])
        assert theirs[0][0] == 403


def test_two_authorizations_are_no_token(table: Any) -> None:
    router, _, _ = table
    with router.wire() as w:
        w.send(b"GET /admin/model HTTP/1.1\r\nhost: r\r\n"
               b"authorization: Bearer wrong\r\n"
               b"authorization: Bearer " + OPERATOR_TOKEN.encode()
               + b"\r\n\r\n")
        assert w.answer().status in (400, 401, 403)


def test_no_route_without_a_class(site: kit.Site) -> None:
    """A path that the table does not know needs `access`; -t says so."""
    conf = site.usual(routes='route GET /mystery { respond 200 "x"; }')
    site.conf.write_text(conf)
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    assert p.returncode != 0
    assert "/mystery" in p.stderr and str(site.conf) in p.stderr
    site.conf.write_text(conf.replace('/mystery { ',
                                      '/mystery { access agent; '))
    kit.run_tool("-t", "-c", str(site.conf))
