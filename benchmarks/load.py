"""A load generator for HTTP/1.1 on keep-alive connections, in a process of its own.

    python -m benchmarks.load http://127.0.0.1:8080/api/v1/access/check --method POST --bodies checks.jsonl \
        --header 'Authorization: Bearer …' --connections 32 --seconds 5 [--rate 200] [--json]

Without a rate each connection sends as soon as it was answered (closed loop: throughput). With one, requests are due at
fixed times and their latency counts from then on, whether or not a connection was free (open loop: no coordinated
omission). Bodies are sent in turn, one per line of the file.
"""

import argparse
import json
import re
import select
import socket
import subprocess
import sys
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
RECEIVED_BYTES = 262_144


class Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("buffer", "due", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.due = 0.0

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.socket.setblocking(True)
        self.socket.sendall(request)
        self.socket.setblocking(False)

    def receive(self) -> bytes | None:
        """The status, when the answer is complete."""
        data = self.socket.recv(RECEIVED_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            length = LENGTH.search(data, 0, end + 2)
            if len(data) >= end + 4 + (int(length[1]) if length else 0):
                self.buffer = b""
                return data[9:12]
        self.buffer = data
        return None


class Load:
    """Sends requests over so many connections and measures the answers."""

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes], connections: int) -> None:
        self.requests = cycle(requests)
        self.connections = {c.socket.fileno(): c for c in (Connection(address) for _ in range(connections))}
        self.epoll = select.epoll()
        self.seconds = array("d")
        self.statuses: Counter[str] = Counter()

    def closed(self, seconds: float) -> float:
        """As fast as answers come. Returns the time that it took."""
        started = perf_counter()
        until = started + seconds
        for number, connection in self.connections.items():
            self.epoll.register(number, select.EPOLLIN)
            connection.send(next(self.requests), perf_counter())
        waiting = len(self.connections)
        while waiting:
            for number, _ in self.epoll.poll():
                connection = self.connections[number]
                if self._answered(connection):
                    now = perf_counter()
                    if now < until:
                        connection.send(next(self.requests), now)
                    else:  # the server may end it before the others are done
                        self.epoll.unregister(number)
                        waiting -= 1
        return perf_counter() - started

    def paced(self, seconds: float, rate: float) -> float:
        """At fixed times. Returns the time that it took."""
        started = perf_counter()
        for number in self.connections:
            self.epoll.register(number, select.EPOLLIN)
        free, sent, answered, total = deque(self.connections.values()), 0, 0, int(seconds * rate)
        while answered < total:
            now = perf_counter()
            while free and sent < total and started + sent / rate <= now:
                free.popleft().send(next(self.requests), started + sent / rate)
                sent += 1
            wait = max(started + sent / rate - perf_counter(), 0) if free and sent < total else 1.0
            for number, _ in self.epoll.poll(wait):
                if self._answered(self.connections[number]):
                    answered += 1
                    free.append(self.connections[number])
        return perf_counter() - started

    def _answered(self, connection: Connection) -> bool:
        status = connection.receive()
        if status is None:
            return False
        self.seconds.append(perf_counter() - connection.due)
        self.statuses[status.decode()] += 1
        return True

    def figures(self, took: float) -> dict[str, object]:
        """Requests per second, and latencies in milliseconds."""
        ordered = sorted(self.seconds)
        last = len(ordered) - 1
        latency = {f"p{p}": ordered[min(int(len(ordered) * p / 100), last)] * 1e3 for p in (50, 90, 99, 99.9)}
        return {
            "rps": len(ordered) / took,
            **{name: round(value, 3) for name, value in latency.items()},
            "max": round(ordered[-1] * 1e3, 3),
            "statuses": dict(self.statuses),
        }


def request_bytes(url: str, method: str, headers: Sequence[str], body: bytes) -> bytes:
    """One request as it goes over the wire."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", *headers]
    if body or method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def measure(url: str, **options: object) -> dict[str, object]:
    """Runs the generator in a process of its own; the options are those of the command line."""
    command = [sys.executable, "-m", "benchmarks.load", url, "--json"]
    for name, value in options.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            command += [f"--{name}", str(each)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    figures: dict[str, object] = json.loads(done.stdout)
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--body", default="")
    parser.add_argument("--bodies", type=Path)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parts = urlsplit(given.url)
    bodies = given.bodies.read_bytes().splitlines() if given.bodies else [given.body.encode()]
    requests = [request_bytes(given.url, given.method, given.header, body) for body in bodies]
    load = Load((parts.hostname or "127.0.0.1", parts.port or 80), requests, given.connections)
    if given.warmup and not given.rate:
        load.closed(given.warmup)
        load.seconds, load.statuses = array("d"), Counter()
    figures = load.figures(load.paced(given.seconds, given.rate) if given.rate else load.closed(given.seconds))
    print(json.dumps(figures) if given.json else "\n".join(f"{k:>9} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
