"""Ports on the loopback for what listens there."""

import random
import socket
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 10_000
ATTEMPTS = 200
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LINUX_FIRST = 32_768


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives to no client's own end.

    A client that calls again and again, while nobody listens, would else be given that very port one day: it is then
    connected with itself (RFC 9293, 3.5: a simultaneous open), and whoever should listen there can't any more.
    """
    above = _first_given_out()
    for _ in range(ATTEMPTS if above > LOWEST else 0):
        with suppress(OSError):
            return _probed(random.randrange(LOWEST, above))  # noqa: S311 - not a secret
    return _probed(0)  # where clients may have any port, or all others are taken


def _probed(port: int) -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, port))
        return int(probe.getsockname()[1])


def _first_given_out() -> int:
    """The lowest port that clients get (ip(7), ip_local_port_range); what Linux does by default where it isn't told."""
    with suppress(OSError, ValueError, IndexError):
        return int(_RANGE.read_text().split()[0])
    return _LINUX_FIRST
