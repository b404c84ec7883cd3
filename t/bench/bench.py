"""bench.py - the plan of `make bench`, its table and its report.

Each measurement starts its candidate afresh on one CPU, warms it, takes the CPU
clocks of all its processes around a bounded load from the other CPU, and checks
that what was counted here, at the backend and in the books is the same. The
candidates take turns within a repeat, so that what else the machine does meets
them all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import checks
import load
import procs
from candidates import Candidate, Setup
from load import Void

NAMES = ("governed", "passthrough", "nginx", "relay")
LOADS = {"saturated": load.wrk, "fixed": load.h2load}
IDLE_CONNECTIONS = 2000
IDLE_SECONDS = 10
STARTS = 20


def backend_count(setup: Setup) -> int:
    reply = procs.get(setup.backend, b"GET /count HTTP/1.1\r\n\r\n")
    return int(reply.rpartition(b"\r\n")[2])


def measure(setup: Setup, name: str, regime: str, seconds: float) -> dict:
    """One cell of the table."""
    c = Candidate(name, setup)
    body_file = setup.out / "body.json"
    served0 = backend_count(setup)
    c.start()
    warm = load.wrk(setup.here, body_file, c.port, 1)
    time.sleep(0.05)

    pids = c.proc.pids()
    served1 = backend_count(setup)
    busy = procs.cpu_busy_ticks(procs.UNDER_TEST_CPU)
    cpu = procs.cpu_ns(pids)
    result = LOADS[regime](setup.here, body_file, c.port, seconds)
    cpu = procs.cpu_ns(pids) - cpu
    busy = procs.cpu_busy_ticks(procs.UNDER_TEST_CPU) - busy
    if sorted(c.proc.pids()) != sorted(pids):
        raise Void(f"{name}: its processes changed: {c.said()}")

    time.sleep(0.1)  # what wrk gave up is still answered
    served = backend_count(setup) - served1
    if not 0 <= served - result["completed"] <= result["given_up"]:
        raise Void(f"{name}: {result['completed']} replies counted, the "
                   f"backend gave {served}")
    c.stop()
    cell = {"candidate": name, "load": regime, "cpu_ns": cpu,
            "backend": served, **result,
            "cpu_us_per_request": cpu / 1e3 / result["completed"],
            "requests_per_s": result["completed"] / result["seconds"],
            "others_on_cpu": max(0.0, busy / os.sysconf("SC_CLK_TCK")
                                 - cpu / 1e9) / result["seconds"]}
    if name == "governed":
        cell["books"] = checks.governed(
            setup.router, c.state, served=backend_count(setup) - served0,
            completed=1 + warm["completed"] + result["completed"])
    shutil.rmtree(c.state)
    return cell


def cpu_part(setup: Setup, seconds: float, repeats: int) -> list[dict]:
    cells = []
    for repeat in range(repeats):
        for regime in LOADS:
            # Nobody is always first.
            order = NAMES[repeat % len(NAMES):] + NAMES[:repeat % len(NAMES)]
            for name in order:
                cell = measure(setup, name, regime, seconds)
                cells.append({"repeat": repeat, **cell})
                print(f"  {repeat + 1}/{repeats} {regime:<10} {name:<12} "
                      f"{cell['cpu_us_per_request']:6.2f} us  "
                      f"{cell['requests_per_s']:8.0f}/s", flush=True)
    return cells


def memory_part(setup: Setup) -> dict:
    """The governed router with every module that there is: at rest, and what
    an idle connection costs that has served a request."""
    rest = sorted(p.stem for p in (setup.objs / "modules").glob("*.so"))
    named = re.findall(r"load_module +([\w-]+);",
                       (setup.here / "governed.conf.in").read_text())
    c = Candidate("governed", setup, extra="".join(
        f"load_module {m};\n" for m in rest if m not in named))
    c.start()
    time.sleep(IDLE_SECONDS)
    pids = c.proc.pids()
    pss = {pid: procs.rollup_kib(pid, "Pss") for pid in pids}
    worker = max(pids, key=lambda p: procs.rollup_kib(p, "Private_Dirty"))
    if len(pids) > 1:
        worker = next(p for p in pids if p != c.proc.p.pid)

    request = load.head(c.port, len(setup.body)) + setup.body
    conns: list[socket.socket] = []

    def one() -> None:
        s = socket.create_connection(("127.0.0.1", c.port), 5)
        conns.append(s)
        if not procs.exchange(s, request).startswith(b"HTTP/1.1 200 "):
            raise Void("idle connections: a request was refused")

    private = ("Private_Clean", "Private_Dirty")
    for _ in range(200):
        one()
    before = procs.rollup_kib(worker, *private)
    for _ in range(IDLE_CONNECTIONS):
        one()
    after = procs.rollup_kib(worker, *private)
    for s in conns:
        s.close()
    c.stop()
    shutil.rmtree(c.state)
    return {"modules": rest, "idle_pss_kib": sum(pss.values()),
            "idle_pss_kib_each": sorted(pss.values()),
            "idle_conn_bytes": (after - before) * 1024 / IDLE_CONNECTIONS,
            "idle_connections": IDLE_CONNECTIONS}


def start_part(setup: Setup) -> dict:
    """From exec to the first answer that came through the upstream."""
    out = {}
    for name in ("governed", "passthrough", "nginx"):
        times = []
        for _ in range(STARTS):
            c = Candidate(name, setup)
            argv = c.prepare()
            begin = time.monotonic_ns()
            c.start(argv)
            times.append((time.monotonic_ns() - begin) / 1e6)
            c.stop()
            shutil.rmtree(c.state)
        out[name] = {"median": median(times), "min": min(times),
                     "max": max(times)}
    return out


def conditions(setup: Setup, args: argparse.Namespace) -> dict:
    def first_line(*argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    reply = procs.get(setup.backend, load.head(setup.backend,
                                               len(setup.body)), setup.body)
    model = re.search(r"model name\s*: (.*)",
                      Path("/proc/cpuinfo").read_text())
    return {
        "kernel": platform.release(), "machine": platform.machine(),
        "cpu": model[1] if model else "unknown", "cpus": os.cpu_count(),
        "cpu_under_test": procs.UNDER_TEST_CPU, "cpu_of_load": procs.LOAD_CPU,
        "load_average": os.getloadavg(),
        "router": first_line(setup.router, "-V"),
        "nginx": first_line("nginx", "-v"), "wrk": first_line("wrk", "-v"),
        "h2load": first_line("h2load", "--version"),
        "request_body_bytes": len(setup.body),
        "reply_body_bytes": len(reply) - reply.index(b"\r\n\r\n") - 4,
        "connections": load.CONNECTIONS, "fixed_rate_per_s": load.RATE,
        "seconds": args.seconds, "repeats": args.repeats,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def spread(values: list[float]) -> dict:
    return {"median": median(values), "min": min(values), "max": max(values)}


def summary(cells: list[dict]) -> dict:
    """Per load: each candidate's cost, and its ratio to nginx repeat by
    repeat."""
    out: dict = {}
    for regime in LOADS:
        by = {(c["candidate"], c["repeat"]): c for c in cells
              if c["load"] == regime}
        repeats = sorted({r for _, r in by})
        table = out[regime] = {}
        for name in NAMES:
            mine = [by[name, r] for r in repeats]
            table[name] = {
                "cpu_us": spread([c["cpu_us_per_request"] for c in mine]),
                "vs_nginx": spread([c["cpu_us_per_request"] /
                                    by["nginx", r]["cpu_us_per_request"]
                                    for r, c in zip(repeats, mine)]),
                "requests_per_s": spread([c["requests_per_s"] for c in mine]),
                "requests": sum(c["completed"] for c in mine),
                "others_on_cpu": max(c["others_on_cpu"] for c in mine),
            }
    return out


def print_cpu(table: dict) -> None:
    def cell(s: dict, digits: int) -> str:
        return "  ".join(f"{s[k]:6.{digits}f}" for k in
                         ("median", "min", "max"))

    print(f"\n{'':25}CPU us per request      over nginx plain proxying\n"
          f"{'load':<11}{'candidate':<13}median     min     max"
          f"   median     min     max    req/s  others")
    for regime, rows in table.items():
        for name, row in rows.items():
            print(f"{regime:<11}{name:<12}{cell(row['cpu_us'], 2)}   "
                  f"{cell(row['vs_nginx'], 2)}"
                  f" {row['requests_per_s']['median']:8.0f}"
                  f"  {row['others_on_cpu']:5.0%}")
    print("(others: the largest share of that CPU that went to anybody else "
          "while it was measured)")
    slow = [name for name, row in table["fixed"].items()
            if row["requests_per_s"]["min"] < 0.97 * load.RATE]
    if slow:
        print(f"(not at {load.RATE}/s in every repeat: {', '.join(slow)}; the "
              "machine had not enough time to give)")


def run(args: argparse.Namespace) -> dict:
    out = Path(args.out)
    body = load.body()
    (out / "body.json").write_bytes(body)
    backend = procs.Proc([str(out / "backend")], procs.LOAD_CPU,
                         out / "backend.err", subprocess.PIPE)
    setup = Setup(Path(args.here), Path(args.objs), out,
                  int(backend.p.stdout.readline()), body)
    report: dict = {"conditions": conditions(setup, args)}
    c = report["conditions"]
    print(f"  {c['router']}; {c['nginx']}; Linux {c['kernel']}, {c['cpus']} x "
          f"{c['cpu']}\n  {c['connections']} connections, request "
          f"{c['request_body_bytes']} bytes, reply {c['reply_body_bytes']}; "
          f"{c['seconds']:g} s a measurement")
    if procs.LOAD_CPU == procs.UNDER_TEST_CPU:
        print("  only one CPU: load and candidate share it")

    if "cpu" in args.only:
        report["cells"] = cpu_part(setup, args.seconds, args.repeats)
        report["cpu"] = summary(report["cells"])
        print_cpu(report["cpu"])
        fixed = report["cpu"]["fixed"]
        report["governed_vs_nginx_cpu"] = fixed["governed"]["vs_nginx"]
        report["passthrough_vs_nginx_cpu"] = fixed["passthrough"]["vs_nginx"]
        print()
        for key in ("governed_vs_nginx_cpu", "passthrough_vs_nginx_cpu"):
            name = key.partition("_")[0]
            print(f"{key:<26}{report[key]['median']:5.2f} at "
                  f"{load.RATE}/s, "
                  f"{report['cpu']['saturated'][name]['vs_nginx']['median']:.2f}"
                  " saturated")
    if "memory" in args.only:
        report["memory"] = memory_part(setup)
        for key in ("idle_pss_kib", "idle_conn_bytes"):
            report[key] = report["memory"][key]
            print(f"{key:<26}{report[key]:5.0f}")
    if "start" in args.only:
        report["start"] = start_part(setup)
        report["start_ms"] = report["start"]["governed"]["median"]
        print(f"{'start_ms':<26}{report['start_ms']:5.1f}   (passthrough "
              f"{report['start']['passthrough']['median']:.1f}, nginx "
              f"{report['start']['nginx']['median']:.1f})")
    return report


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("here", "objs", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", type=str.split,
                        default=["cpu", "memory", "start"])
    args = parser.parse_args()
    out = Path(args.out)
    path = out / "report.json"
    path.unlink(missing_ok=True)

    # The way out is the same for a signal: what was started is ended.
    def leave(sig: int, _frame: object) -> None:
        sys.exit(128 + sig)
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, leave)

    procs.raise_limits()
    try:
        report = run(args)
    except Void as why:
        print(f"make bench: VOID: {why}", file=sys.stderr)
        path.write_text(json.dumps({"void": str(why)}, indent=1) + "\n")
        return 1
    finally:
        procs.stop_all()
        shutil.rmtree(out / "state", ignore_errors=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
