"""A name server on loopback for tests: answers A and AAAA out of a table that
the test changes as it likes, and notes what it was asked. It runs on a thread;
names that are not in the table do not exist."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from pathlib import Path

A, AAAA = 1, 28
NXDOMAIN = 3


class Dns:
    def __init__(self, address: str = "127.0.0.153") -> None:
        self.address = address
        self.table: dict[str, list[str]] = {}   # name without its last dot
        self.ttl = 1
        self.asked: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))        # where resolvers look
        self._socket.settimeout(0.1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> Dns:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(5)
        self._socket.close()

    def through(self, folder: Path, text: str = "") -> tuple[str, ...]:
        """What to run a router through, so that it asks here: a mount
        namespace with a resolv.conf of its own."""
        conf = folder / "resolv.conf"
        conf.write_text(f"nameserver {self.address}\n{text}")
        return ("unshare", "--mount", "--propagation", "private", "sh", "-c",
                f'mount --bind {conf} /etc/resolv.conf && exec "$0" "$@"')

    def _serve(self) -> None:
        while not self._ends.is_set():
            try:
                query, peer = self._socket.recvfrom(512)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at] != 0:
            labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        kind = struct.unpack_from("!H", query, at + 1)[0]
        name = ".".join(labels)
        self.asked.append((name, kind))
        found = [ipaddress.ip_address(a) for a in self.table.get(name, ())]
        match = [a for a in found if kind == (A if a.version == 4 else AAAA)]
        code = 0 if name in self.table else NXDOMAIN
        head = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(match),
                                       0, 0)
        return head + query[12:at + 5] + b"".join(
            struct.pack("!HHHIH", 0xc00c, kind, 1, self.ttl, len(a.packed))
            + a.packed for a in match)
