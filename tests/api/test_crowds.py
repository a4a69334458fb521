"""What counts as one crowd."""

import pytest

from api.crowds import _crowd
from domain.context import ANONYMOUS, Actor, Context


def refused(ip, actor=ANONYMOUS):
    return _crowd(Context(actor, "c1", ip=ip), "GET /api/v1/users", "unauthenticated", None)


@pytest.mark.parametrize(("one", "other"), [("2001:db8::1", "2001:db8::2"), ("192.0.2.1", "192.0.2.1")])
def test_strangers_of_one_network_are_one_crowd(one, other):
    assert refused(one) == refused(other)
    assert refused(one).context.ip == one


def test_strangers_of_two_networks_are_two():
    assert refused("2001:db8:0:1::1") != refused("2001:db8:0:2::1")
    assert refused("192.0.2.1") != refused("192.0.2.2")


def test_a_user_is_one_crowd_wherever_they_are():
    ada = Actor("user", "ada")
    assert refused("192.0.2.1", ada) == refused("192.0.2.2", ada)
