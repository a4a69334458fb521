"""The reactions, put together for those who drive them: the follower without Kafka, the stream workers with it."""

import logging

import psycopg

from domain.errors import DomainError
from projections.feeds import FeedBusy
from runtime import modules
from runtime.core import Core
from stream_apps.aside import Aside
from stream_apps.driver import Reacting
from stream_apps.lanes import hand_over
from stream_apps.reacting import ReactingSetup, ReactionFeeds, former_spread
from stream_apps.spreads import spread_of

logger = logging.getLogger("muniment.reactions")


def for_follower(core: Core) -> list[Reacting]:
    """What the follower takes along; a reaction that a stream worker has it leaves alone. Raises SettingsError."""
    return [
        Reacting(core.log, core.dispatcher, reaction, core.settings.reaction_hop_limit)
        for reaction in modules.reactions(core.settings)
    ]


def for_stream(core: Core) -> list[Aside]:
    """What a stream worker's feeder takes along (`FeederSetup.companions`). Raises SettingsError."""
    settings = core.settings
    return [
        Aside(
            ReactionFeeds(
                ReactingSetup(
                    core.log,
                    settings.postgres_url,
                    core.dispatcher,
                    (reaction,),
                    spread_of,
                    settings.reaction_hop_limit,
                )
            )
        )
        for reaction in modules.reactions(settings)
    ]


def take_back(core: Core) -> None:
    """Gives every reaction to the follower, where there is no Kafka any more. Does nothing where it is so already.

    One that can't be given, because a stream worker is still there, is left until the next time: views don't wait for
    it. Raises psycopg.Error.
    """
    with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
        for reaction in modules.reactions(core.settings):
            try:
                former = former_spread(connection, reaction, spread_of)
                hand_over(
                    connection, core.log, core.dispatcher, reaction, None, former=former,
                    hop_limit=core.settings.reaction_hop_limit,
                )  # fmt: skip
            except (FeedBusy, LookupError, DomainError) as error:
                logger.warning("reaction %s can't be given to the follower: %s", reaction.name, error)
