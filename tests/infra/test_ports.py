"""Ports for what listens: none that a client could be given for its own end."""

import socket
from pathlib import Path

import pytest

from infra.embedded import ports
from infra.embedded.ports import LOOPBACK, LOWEST, free_port


@pytest.fixture
def clients_get(tmp_path, monkeypatch):
    """Lets the system say from which port on clients get theirs."""

    def say(text):
        told = tmp_path / "ip_local_port_range"
        told.write_text(text)
        monkeypatch.setattr(ports, "_RANGE", told)

    return say


def test_is_below_those_that_clients_get():
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(LOWEST <= free_port() < first for _ in range(20))


def test_one_that_is_taken_isnt_given(clients_get, monkeypatch):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "LOWEST", port)
        clients_get(f"{port + 2}\t65535\n")
        assert {free_port() for _ in range(10)} <= {port + 1} | set(range(32_768, 65_536)) - {port}


def test_where_clients_may_have_any_it_is_any(clients_get):
    clients_get("1024\t65535\n")
    assert free_port() >= 1024


@pytest.mark.parametrize("text", ["", "none"])
def test_a_system_that_doesnt_say_is_taken_for_one_as_usual(clients_get, text):
    clients_get(text)
    assert LOWEST <= free_port() < 32_768
