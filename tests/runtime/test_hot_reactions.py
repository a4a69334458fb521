"""Reactions follow the configuration while they are driven."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from commands.access import AssignRole
from domain.identity import User
from infra.configuration.live import Live, Snapshot
from infra.event_store import Metadata, Recorded
from infra.settings import Settings, SettingsError
from runtime import modules
from runtime.reactions import HotReaction, hot_reactions
from stream_apps.reactions import Intention, Reaction, TooManyHops

BASE = Settings()


def registered(hops: int = 0) -> Recorded:
    event: Any = object.__new__(User.Registered)
    return Recorded(1, uuid4(), 1, "identity.UserRegistered", datetime.now(UTC), Metadata(hops=hops), event)


def named(live: Live, name: str) -> HotReaction:
    return next(each for each in hot_reactions(live) if each.name == name)


def store(live: Live, version: int, **values: Any) -> None:
    live.offer(Snapshot(replace(BASE, **values), version))


def test_newcomers_get_the_default_role_of_now():
    live = Live.of(BASE)
    reaction = named(live, "default-role")
    assert reaction.decide(registered()) == ()
    store(live, 1, default_role="customer@/shop")
    (intention,) = reaction.decide(registered())
    command: AssignRole = intention.command
    assert (str(command.role), str(command.scope)) == ("customer", "/shop")
    store(live, 2)
    assert reaction.decide(registered()) == ()


def test_what_is_decided_under_a_configuration_stays_with_it():
    live = Live.of(BASE)
    reaction = named(live, "default-role")
    with live.bind():
        store(live, 1, default_role="customer")
        assert reaction.decide(registered()) == ()
    assert reaction.decide(registered())


def test_how_many_reactions_follow_each_other_is_as_the_configuration_says():
    live = Live.of(BASE)
    reaction = named(live, "default-role")
    assert reaction.context(registered(hops=3)).hops == 4
    store(live, 1, reaction_hop_limit=3)
    with pytest.raises(TooManyHops):
        reaction.context(registered(hops=3))


@pytest.fixture
def choosy(monkeypatch) -> Iterator[None]:
    """A module whose reaction can't be made of every setting."""

    def reactions(settings: Settings) -> tuple[Reaction, ...]:
        if settings.mail_from == "nobody":
            raise SettingsError("MUNIMENT_MAIL_FROM: somebody")
        if settings.mail_from == "a ghost":
            raise LookupError("whose author didn't think of it")
        intention = Intention(lambda *_: None, settings.mail_from)
        return (Reaction("choosy", {User.Registered: lambda _: intention}),)

    monkeypatch.setattr(modules, "registry", lambda: SimpleNamespace(reactions=reactions))
    return iter(())


def test_a_module_that_refuses_the_new_settings_reacts_as_before(choosy, caplog):
    live = Live.of(replace(BASE, mail_from="ada"))
    reaction = named(live, "choosy")
    senders = [("grace", "grace"), ("nobody", "grace"), ("mary", "mary"), ("a ghost", "mary"), ("ada", "ada")]
    for version, (sender, decided) in enumerate(senders, start=1):
        store(live, version, mail_from=sender)
        assert [each.command for each in reaction.decide(registered())] == [decided]
    assert "reactions stay as they were: MUNIMENT_MAIL_FROM: somebody" in caplog.text
    assert "whose author didn't think of it" in caplog.text
