"""A module from outside the tree on the request's way: connections, paths,
bodies on their way upstream, events on their way back."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

import kit
import wire
from backend import Backend
from conftest import Start

pytestmark = pytest.mark.core

SOURCE = r"""
#include "kars_module.h"

typedef struct {
    kars_str_t door;   /* the address that is not let in */
    kars_str_t to;     /* another path */
    kars_str_t word;   /* of the body, in place of "three" */
    int32_t words;     /* of the stream: "tok " becomes "TOK " */
    kars_str_t member; /* is watched */
} way_conf_t;

typedef struct {
    kars_str_t seen;
} way_ctx_t;

static int
way_connect(kars_conn_t *c, const void *conf, void *conn_ctx)
{
    const way_conf_t *wc = conf;
    kars_peer_t peer = { .size = sizeof(peer) };
    unsigned n = 0;

    for (size_t i = 0; i < wc->door.len; i++) {
        n = n * 10 + (unsigned) (wc->door.data[i] - '0');
    }
    if (kars_conn_peer(c, &peer) == KARS_OK && peer.addr[3] == n) {
        kars_denial_t no = { .size = sizeof(no), .status = 403,
                             .code = KARS_STR("door_closed"),
                             .reason = KARS_STR("not from there"),
                             .rule = &wc->door };
        return kars_conn_deny(c, &no);
    }
    return KARS_OK;
}

static int
way_rewrite(kars_req_t *r, const void *conf, void *ctx)
{
    const way_conf_t *wc = conf;

    return wc->to.len != 0 ? kars_rewrite_path(r, wc->to) : KARS_OK;
}

static int
way_see(kars_req_t *r, kars_str_t text, uint32_t index, uint32_t flags,
        const void *conf, void *ctx)
{
    return kars_str_eq(text, KARS_STR("nobody")) ? KARS_ERROR : KARS_OK;
}

static int
way_body(kars_filter_t *f, kars_buf_t *in, uint32_t flags, const void *conf,
         void *ctx)
{
    const way_conf_t *wc = conf;
    kars_req_t *r = kars_filter_req(f);

    if (wc->word.len == 0) {
        return kars_filter_next(f, in, flags);
    }
    if (in != NULL && kars_filter_hold(f, in) != KARS_OK) {
        return KARS_ERROR;
    }
    if ((flags & KARS_LAST) == 0) {
        return KARS_OK;
    }

    size_t n = 0, o = 0;
    for (const kars_buf_t *b = kars_filter_held(f); b; b = kars_buf_next(b)) {
        n += kars_buf_str(b).len;
    }
    char *all = kars_palloc(kars_req_pool(r), n + wc->word.len);
    if (all == NULL) {
        return KARS_ERROR;
    }
    for (const kars_buf_t *b = kars_filter_held(f); b; b = kars_buf_next(b)) {
        memcpy(all + o, kars_buf_str(b).data, kars_buf_str(b).len);
        o += kars_buf_str(b).len;
    }
    for (size_t i = 0; i + 5 <= n; i++) {
        if (memcmp(all + i, "three", 5) == 0) {
            memmove(all + i + wc->word.len, all + i + 5, n - i - 5);
            memcpy(all + i, wc->word.data, wc->word.len);
            n = n - 5 + wc->word.len;
            break;
        }
    }
    return kars_filter_next(f, kars_buf_copy(r, (kars_str_t){ all, n }), flags);
}

static int
way_event(kars_filter_t *f, kars_event_t *ev, const void *conf, void *ctx)
{
    const way_conf_t *wc = conf;
    kars_str_t data = kars_event_data(ev);

    if (!wc->words) {
        return KARS_OK;
    }
    for (size_t i = 0; i + 4 <= data.len; i++) {
        if (memcmp(data.data + i, "tok ", 4) == 0) {
            char *copy = kars_palloc(kars_req_pool(kars_filter_req(f)), data.len);
            if (copy == NULL) {
                return KARS_ERROR;
            }
            memcpy(copy, data.data, data.len);
            memcpy(copy + i, "TOK", 3);
            return kars_event_replace(ev, (kars_str_t){ NULL, 0 },
                                      (kars_str_t){ copy, data.len });
        }
    }
    return KARS_OK;
}

static int
way_check(const kars_place_t *place, void *conf, kars_err_t *err)
{
    way_conf_t *wc = conf;
    kars_json_watch_t row = { KARS_REQUEST, wc->member.data, way_see };

    if (wc->word.len > 5) {
        return kars_check_err(place, &wc->word, err, "five letters at most");
    }
    return place->at != KARS_AT_ROUTE || wc->member.len == 0 ||
                   kars_json_watch(place, &row) == KARS_OK
               ? KARS_OK
               : kars_err(err, 0, "member");
}

#define F(f) offsetof(way_conf_t, f)
#define ALL (KARS_AT_SERVER | KARS_AT_ROUTE)
static const kars_directive_t way_directives[] = {
    { .name = "way_door", .at = KARS_AT_SERVER, .type = KARS_T_STR,
      .offset = F(door), .doc = "x" },
    { .name = "way_to", .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = F(to), .doc = "x" },
    { .name = "way_word", .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = F(word), .doc = "x" },
    { .name = "way_words", .at = ALL, .type = KARS_T_FLAG,
      .offset = F(words), .doc = "x" },
    { .name = "way_member", .at = KARS_AT_ROUTE, .type = KARS_T_STR,
      .offset = F(member), .doc = "x" },
    { 0 },
};
static const kars_hook_t way_hooks[] = {
    { .phase = KARS_PHASE_CONNECT, .connect = way_connect },
    { .phase = KARS_PHASE_REWRITE, .run = way_rewrite },
    { 0 },
};
static const kars_filter_def_t way_filters[] = {
    { .dir = KARS_REQUEST, .body = way_body },
    { .dir = KARS_RESPONSE, .event = way_event },
    { 0 },
};

KARS_MODULE(way) = {
    KARS_MODULE_HEAD,
    .name = "way",
    .version = "1.0.0",
    .conf_size = sizeof(way_conf_t),
    .ctx_size = sizeof(way_ctx_t),
    .directives = way_directives,
    .hooks = way_hooks,
    .filters = way_filters,
    .check = way_check,
};
"""


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("way")
    (folder / "way.c").write_text(SOURCE)
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra",
         "-Wno-unused-parameter", "-Werror", "-I", str(kit.TOP / "core"),
         "-o", str(folder / "way.so"), str(folder / "way.c")],
        check=True, timeout=60)
    return folder / "way.so"


def conf(site: kit.Site, way: Path, route: str = "", more: str = "",
         server: str = "") -> str:
    return (site.main(extra=f"load_module {way};") + site.upstream()
            + site.server(site.chat_route(extra=route) + more,
                          extra=f"body_limit 8m; {server}"))


def test_a_connection_that_is_refused_is_recorded(
        start: Start, site: kit.Site, way: Path) -> None:
    r = start(conf(site, way, server="way_door 2;"))
    assert r.chat().status == 200
    before = len(r.decisions())
    with socket.create_connection(r.address, timeout=10,
                                  source_address=("127.0.0.2", 0)) as s:
        try:
            got = s.recv(100)
        except ConnectionResetError:
            got = b""
        assert got == b""       # not a word
    kit.wait_for("its record", lambda: len(r.decisions()) == before + 1)
    assert r.decisions()[-1]["decision"] == "deny"
    line = next(i for i, t in enumerate(
        site.conf.read_text().split("\n"), 1) if "way_door" in t)
    assert "code=door_closed by=way" in r.log()
    assert f"router.conf:{line}" in r.log()
    assert r.chat().status == 200
    r.verify()


def test_another_path_is_another_route(
        start: Start, site: kit.Site, way: Path, backend: Backend) -> None:
    r = start(conf(site, way, more=f"""
        route POST /v1/short {{ way_to {kit.CHAT}; respond 200 "no"; }}
        route POST /v1/closed {{ way_to /metrics2; respond 200 "no"; }}
        route POST /v1/ring {{ way_to /v1/ring; respond 200 "no"; }}
    """))
    a = r.ask("POST", "/v1/short", kit.chat_bytes())
    assert (a.status, a.json["usage"]["total_tokens"]) == (200, 11)
    assert backend.last().json["model"] == kit.chat_body()["model"]
    assert r.record(a.trace)["tokens_total"] == 11  # its budget counted
    assert r.ask("POST", "/v1/closed", b"{}").status == 404
    assert r.ask("POST", "/v1/ring", b"{}").status == 500
    assert "path does not come to rest" in r.log()


def test_a_filter_of_the_body(
        start: Start, site: kit.Site, way: Path, backend: Backend) -> None:
    r = start(conf(site, way, route="way_word 33;", more=f"""
        route POST /free {{ access agent; way_word 33; {site.credential()} pass model; }}
    """))
    a = r.chat("one two three")
    assert a.status == 200
    last = backend.last()
    assert last.json["messages"][-1]["content"] == "one two 33"
    # Without gates it streams: the length is not known before.
    body = json.dumps(kit.chat_body("three " * 20000)).encode()
    with r.wire() as w:
        w.send(wire.request("POST", "/free", body))
        w.answer()
    assert backend.last().body == body.replace(b"three", b"33", 1)


def test_a_filter_of_events(
        start: Start, site: kit.Site, way: Path, backend: Backend) -> None:
    r = start(conf(site, way, route="way_words on;"))
    pieces = [c.delta.content for e in r.client().chat.completions.create(
        **kit.chat_body(stream=True)) for c in e.choices if c.delta.content]
    assert pieces == ["TOK "] * 8
    backend.hold_after = 1  # and each in its turn
    with r.wire() as w:
        w.send(wire.request("POST", kit.CHAT, kit.chat_bytes(stream=True)))
        assert w.head().status == 200
        assert b'"TOK "' in w.chunk()
        backend.release()
        assert b"".join(w.chunks()).rstrip().endswith(b"data: [DONE]")
    assert "TOK" not in r.chat().body.decode()      # no stream, no event


def test_a_member_and_an_error_from_the_configuration(
        start: Start, site: kit.Site, way: Path) -> None:
    r = start(conf(site, way, route="way_member user;"))
    assert r.ask("POST", kit.CHAT, kit.chat_bytes(user="me")).status == 200
    assert r.ask("POST", kit.CHAT, kit.chat_bytes(user="nobody")).status == 400
    site.conf.write_text(conf(site, way, route="way_word toolong;"))
    p = kit.run_tool("-t", "-c", str(site.conf), check=False)
    line = next(i for i, t in enumerate(
        site.conf.read_text().split("\n"), 1) if "way_word" in t)
    assert p.returncode != 0
    assert (f"router.conf:{line}: module way: way_word: five letters at most"
            in p.stderr)
