"""The reactions, put together for those who drive them: the follower without Kafka, the stream workers with it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import psycopg

from domain.context import Context
from domain.errors import DomainError
from infra.configuration.live import Derived, Live
from infra.event_store import Recorded
from infra.settings import Settings, SettingsError
from projections.feeds import FeedBusy
from runtime import modules
from runtime.core import Core
from stream_apps.aside import Aside
from stream_apps.driver import Reacting
from stream_apps.lanes import hand_over
from stream_apps.reacting import ReactingSetup, ReactionFeeds, former_spread
from stream_apps.reactions import HOP_LIMIT, Intention, Reaction
from stream_apps.spreads import spread_of

logger = logging.getLogger("muniment.reactions")


@dataclass(frozen=True)
class HotReaction(Reaction):
    """A reaction that decides as the settings say at the time, and goes on for as many hops as they allow."""

    made: Callable[[], Reaction] = field(kw_only=True)
    live: Live = field(kw_only=True)

    def decide(self, cause: Recorded) -> tuple[Intention, ...]:
        """What the event leads to under the configuration of now."""
        made = self.made()
        return made.decide(cause) if type(cause.event) in made.on else ()

    def context(self, cause: Recorded, hop_limit: int = HOP_LIMIT) -> Context:
        """As of every reaction. Raises TooManyHops past the limit of now."""
        return super().context(cause, self.live.settings.reaction_hop_limit)


def hot_reactions(live: Live) -> list[HotReaction]:
    """All reactions. Raises SettingsError where the settings of now make none of them."""
    of_now = _Made(live)
    return [
        HotReaction(
            each.name, each.on, each.from_start, each.by_state, made=partial(of_now.named, each.name), live=live
        )
        for each in modules.reactions(live.settings)
    ]


class _Made:
    """The reactions by name, as the settings of now make them; where a module refuses these, as those before did."""

    def __init__(self, live: Live) -> None:
        self._last = self._by_name(live.settings)
        self._derived = Derived(live, self._made)

    def named(self, name: str) -> Reaction:
        return self._derived()[name]

    def _made(self, settings: Settings) -> dict[str, Reaction]:
        try:
            self._last = self._by_name(settings)
        except SettingsError as error:
            logger.error("reactions stay as they were: %s", error)  # noqa: TRY400 - one line says all
        except Exception:  # a module's own error would be one of every reaction, whose events would be parked
            logger.exception("reactions stay as they were: a module can't make its own of these settings")
        return self._last

    @staticmethod
    def _by_name(settings: Settings) -> dict[str, Reaction]:
        return {each.name: each for each in modules.reactions(settings)}


def for_follower(core: Core) -> list[Reacting]:
    """What the follower takes along; a reaction that a stream worker has it leaves alone. Raises SettingsError."""
    return [Reacting(core.log, core.dispatcher, reaction) for reaction in hot_reactions(core.live)]


def for_stream(core: Core) -> list[Aside]:
    """What a stream worker's feeder takes along (`FeederSetup.companions`). Raises SettingsError."""
    conninfo = core.settings.postgres_url
    return [
        Aside(ReactionFeeds(ReactingSetup(core.log, conninfo, core.dispatcher, (reaction,), spread_of)))
        for reaction in hot_reactions(core.live)
    ]


def take_back(core: Core) -> None:
    """Gives every reaction to the follower, where there is no Kafka any more. Does nothing where it is so already.

    One that can't be given, because a stream worker is still there, is left until the next time: views don't wait for
    it. Raises psycopg.Error.
    """
    with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
        for reaction in hot_reactions(core.live):
            try:
                former = former_spread(connection, reaction, spread_of)
                hand_over(connection, core.log, core.dispatcher, reaction, None, former=former)
            except (FeedBusy, LookupError, DomainError) as error:
                logger.warning("reaction %s can't be given to the follower: %s", reaction.name, error)
