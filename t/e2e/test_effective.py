"""`kars-router -T`: the whole configuration as it is in effect, which loads
again and means the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import kit
from conftest import Start
from test_samples import SAMPLES, place

pytestmark = pytest.mark.core
MODULES = (*kit.ALL_MODULES, "access-log", "limit", "example")


def effective(conf: Path, check: bool = True) -> str:
    return kit.run_tool("-T", "-c", str(conf), check=check).stdout


def bare(text: str) -> list[str]:
    """Directives without comments. The values of this suite have no `#`."""
    return [x for x in (re.sub(r"\s*(^|\s)#.*", "", y).strip()
                        for y in text.splitlines()) if x]


def rich(site: kit.Site) -> str:
    """Everything that a text may do to be hard to print."""
    inc = site.dir / "inc"
    inc.mkdir(exist_ok=True)
    (inc / "limits.conf").write_text(
        "limit_requests class rate=500/1s;\ndrain_timeout 7s;\n")
    (inc / "route.conf").write_text(
        'route GET /inc/{id}/{rest...} { access open agent;\n'
        '  respond 200 "a \\"quoted\\" word; with {all} \\\\ \\n of it"; }\n')
    return (site.main(MODULES).replace("log stderr level=info;",
                                       "log logs/router.log level=info;")
            + 'include inc/limits.conf;\n'
              'log_format j json path=$path "both=$method $path";\n'
              'access_log logs/access.log j if=!deny_code;\n'
              'access_log off "$status ${path}";\n'
            + site.upstream() + site.server(
                site.chat_route(models="a b c", extra="memory 300k;")
                + "route GET /v1/models { inference models; provider openai;\n"
                  "credential api_key file:model.key\n"
                  f"  host={site.backend.address};\n"
                  "pass model; }\ninclude inc/route.conf;\n"
                  "route GET /short { access agent operator; example_header "
                  'x-a "";\n access_log off; respond 204; }\n',
                extra="body_limit 1m; timeout idle=3s;"))


def loads(path: Path, text: str) -> str:
    path.write_text(text)
    p = kit.run_tool("-t", "-c", str(path), check=False)
    assert p.returncode == 0, p.stderr + text
    return effective(path)


def test_what_is_printed_loads_and_means_the_same(
        site: kit.Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    site.conf.write_text(rich(site))
    (site.dir / "logs").mkdir()
    first = effective(site.conf)
    assert effective(site.conf) == first                  # stable
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "other.conf"
    second = loads(elsewhere, first)
    assert bare(second) == bare(first)
    third = loads(elsewhere.with_name("third.conf"), second)
    assert bare(third) == bare(first)

    def runs(text: str) -> list[str]:
        return [x for x in text.splitlines() if re.search(
            r"# ((ACCESS|REWRITE|ADMIT|CONTENT|UPSTREAM|LOG|body|"
            r"response filters|re\w+ members):|module )", x)]
    assert runs(first) == runs(second) and len(runs(first)) > 30


def test_each_value_has_its_provenance(site: kit.Site) -> None:
    site.conf.write_text(rich(site))
    text = effective(site.conf)
    lines = rich(site).splitlines()

    def at(what: str) -> str:
        (n,) = [i for i, x in enumerate(lines, 1) if what in x]
        return f"{site.conf}:{n}"

    assert not any(x.startswith("include") for x in bare(text))
    for want in (
            f"log {site.dir}/logs/router.log level=info format=text;  # "
            + at("log logs/router.log") + ", default: format=",
            f"drain_timeout 7s delay=0s;  # {site.dir}/inc/limits.conf:2, "
            "default: delay=",
            f"access_log {site.dir}/logs/access.log j if=!deny_code;  # "
            + at("logs/access.log"),
            "# body_memory 64m wait=10s;  # default",
            f"    body_limit 1m;  # {at('body_limit 1m')}",
            f"        # body_limit 1m;  # {at('body_limit 1m')}",
            f"        # limit_requests class rate=500/1s;  # "
            f"{site.dir}/inc/limits.conf:1",
            f"    timeout idle=3s header=10s body=30s send=30s half_closed=5s;"
            f"  # {at('timeout idle=3s')}, default: header= body= send= "
            "half_closed=",
            f"    listen 127.0.0.1:{site.port} class=agent;  # ",
            "    # retry 1 on=connect;  # default",
            'route GET "/inc/{id}/{rest...}" {'):
        assert want in text, (want, text)


def test_a_secret_is_shown_as_its_reference(
        site: kit.Site, backend: object) -> None:
    value = "a-very-secret-model-key-0123456789"
    site.secret.write_text(value)
    text = site.usual().replace(
        site.models_route(), "route GET /v1/models { inference models; "
        "provider openai base=/v1; credential api_key env:MODEL_KEY "
        f"host={site.backend.address}; pass model; }}\n")
    site.conf.write_text(text)
    p = kit.run_tool("-T", "-c", str(site.conf), env={"MODEL_KEY": "env-" + value})
    assert value not in p.stdout + p.stderr
    assert f"credential api_key file:{site.secret} host=" in p.stdout
    assert "credential api_key env:MODEL_KEY host=" in p.stdout


def block(text: str, begin: str) -> list[str]:
    lines = text.splitlines()
    at = next(i for i, x in enumerate(lines) if x.strip().startswith(begin))
    end = next(i for i in range(at, len(lines)) if lines[i] == "    }")
    return [x.strip() for x in lines[at:end]]


def test_what_a_route_runs_in_its_order(site: kit.Site) -> None:
    site.conf.write_text(rich(site))
    text = effective(site.conf)
    chat = block(text, f"route POST {kit.CHAT}")
    (access,) = [x for x in chat if x.startswith("# ACCESS:")]
    assert access == "# ACCESS: identity limit"
    (admit,) = [x for x in chat if x.startswith("# ADMIT:")]
    assert [w for w in admit.split() if w in MODULES] == [
        "audit", "inference", "budget"]
    (log,) = [x for x in chat if x.startswith("# LOG:")]
    assert [w for w in log.split() if w in MODULES] == [
        "limit", "access-log", "budget", "inference", "audit"]
    (filters,) = [x for x in chat if x.startswith("# response filters:")]
    assert filters.split()[-1] == "audit"
    (members,) = [x for x in chat if x.startswith("# request members:")]
    assert "model (inference)" in members
    (body,) = [x for x in chat if x.startswith("# body:")]
    assert body.startswith("# body: held until decided:")
    short = block(text, "route GET /short")
    assert "# body: streams, nobody needs it whole" in short


def test_a_list_that_inherits_is_written_out(site: kit.Site) -> None:
    """A module of the test has a list that may stand at several levels."""
    source = site.dir / "lister.c"
    source.write_text("""
#include "kars_module.h"
typedef struct { kars_list_t words; } conf_t;
static const kars_directive_t rows[] = {
    { .name = "words", .at = KARS_AT_MAIN | KARS_AT_SERVER | KARS_AT_ROUTE,
      .type = KARS_T_LIST, .offset = offsetof(conf_t, words), .doc = "words" },
    { 0 },
};
KARS_MODULE(lister) = { KARS_MODULE_HEAD, .name = "lister", .version = "1",
    .conf_size = sizeof(conf_t), .directives = rows };
""")
    subprocess.run(
        ["cc", "-std=gnu11", "-fPIC", "-shared", "-fsanitize=address,undefined"
         if "asan" in str(kit.BINARY) else "-O1",
         f"-I{Path(__file__).parents[2]}/core", "-o",
         str(site.dir / "lister.so"), str(source)], check=True)
    site.conf.write_text(
        f"module_path {kit.MODULES};\nload_module identity;\n"
        f"load_module {site.dir}/lister.so;\nwords a b;\n"
        f"server {{ listen 127.0.0.1:{site.port};\n words inherit c;\n"
        "route GET /x { access open; words inherit d; respond 200 x; }\n"
        "route GET /y { access open; words e; respond 200 x; }\n"
        "route GET /z { access open; respond 200 x; } }\n")
    text = effective(site.conf)
    assert [x for x in bare(text) if x.startswith("words")] == [
        "words a b;", "words a b c;", "words a b c d;", "words e;"]
    assert bare(loads(site.dir / "again.conf", text)) == bare(text)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: p.name)
def test_the_samples_survive_the_round_trip(
        sample: Path, tmp_path: Path) -> None:
    conf = tmp_path / sample.name
    conf.write_text(place(sample.read_text(), tmp_path))
    first = effective(conf)
    assert bare(loads(tmp_path / "again.conf", first)) == bare(first)


def test_a_router_runs_what_was_printed(
        start: Start, site: kit.Site) -> None:
    site.conf.write_text(site.usual(models="stand-in"))
    r = start(effective(site.conf))
    assert r.chat().status == 200
    assert r.chat(model="other").code == "policy_denied"


def test_what_does_not_load_is_not_printed(site: kit.Site) -> None:
    site.conf.write_text(site.usual() + "nonsense;\n")
    p = kit.run_tool("-T", "-c", str(site.conf), check=False)
    assert p.returncode == 1 and p.stdout == ""
    assert "unknown directive" in p.stderr
