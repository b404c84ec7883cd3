"""Processes of the bench: started on one CPU, measured with all their children
and threads, ended by pid."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

_running: list["Proc"] = []


def cpus() -> tuple[int, int]:
    """(for load and backend, for the candidate); the same one if there is one."""
    have = sorted(os.sched_getaffinity(0))
    return have[0], have[min(1, len(have) - 1)]


LOAD_CPU, UNDER_TEST_CPU = cpus()


def raise_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    os.sched_setaffinity(0, {LOAD_CPU})


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proc:
    """One program of ours, with the processes that it made."""

    def __init__(self, argv: list[str], cpu: int, log: Path,
                 stdout: int | None = None) -> None:
        # Inherited at exec: no helper program stands between us and the clock.
        with log.open("ab") as err:
            os.sched_setaffinity(0, {cpu})
            try:
                self.p = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stderr=err,
                    stdout=err if stdout is None else stdout)
            finally:
                os.sched_setaffinity(0, {LOAD_CPU})
        self.log = log
        _running.append(self)

    def alive(self) -> bool:
        return self.p.poll() is None

    def pids(self) -> list[int]:
        """Itself and all that descend from it."""
        parents: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path("/proc", entry, "stat").read_text()
                except OSError:
                    continue
                ppid = int(stat.rpartition(")")[2].split()[1])
                parents.setdefault(ppid, []).append(int(entry))
        found, todo = [], [self.p.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += parents.get(pid, [])
        return found

    def stop(self, sig: int = signal.SIGTERM, wait: float = 10) -> int:
        if self.alive():
            self.p.send_signal(sig)
            try:
                self.p.wait(wait)
            except subprocess.TimeoutExpired:
                for pid in self.pids():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.p.wait()
        if self in _running:
            _running.remove(self)
        return self.p.returncode


def stop_all() -> None:
    for proc in list(_running):
        proc.stop(wait=3)


def cpu_ns(pids: list[int]) -> int:
    """Nanoseconds on a CPU of these processes, all threads, ended ones too:
    each process's own CPU clock, which the scheduler keeps exactly."""
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


def cpu_busy_ticks(cpu: int) -> int:
    """What a CPU did besides waiting, in ticks since boot."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{cpu} "):
            user, nice, system, _idle, _iowait, irq, soft, steal = map(
                int, line.split()[1:9])
            return user + nice + system + irq + soft + steal
    return 0


def rollup_kib(pid: int, *names: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1])
               for name in names)


def get(port: int, head: bytes, body: bytes = b"", timeout: float = 5) -> bytes:
    """One request on a connection of its own; the reply's bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        return exchange(s, head, body)


def exchange(s: socket.socket, head: bytes, body: bytes = b"") -> bytes:
    s.sendall(head + body)
    data = b""
    while b"\r\n\r\n" not in data:
        part = s.recv(65536)
        if not part:
            raise ConnectionError("closed before the head's end")
        data += part
    head_len = data.index(b"\r\n\r\n") + 4
    match = re.search(rb"\ncontent-length: *(\d+)", data[:head_len], re.I)
    want = int(match[1]) if match else None
    while want is None or len(data) < head_len + want:
        part = s.recv(65536)
        if not part:
            break
        data += part
    return data
