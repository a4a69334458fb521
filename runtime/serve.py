"""The API as granian's worker runs it: composed when the worker starts, from the environment."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import prometheus_client
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from starlette.applications import Starlette

from api.app import Application
from api.crowds import Crowds
from api.limits import HttpLimits
from api.ports import Services
from infra.accounts import Accounts
from infra.authenticator import Authenticator
from infra.event_store import Log
from infra.keys import Keys
from infra.listener import Listener
from infra.passwords import Passwords
from infra.receipts import ReceiptedDispatcher
from infra.secrets import Secrets
from infra.sessions import Sessions, StoredSessions
from infra.settings import Settings, listed
from infra.throttle import Throttle
from infra.tokens import Tokens
from projections.projection import Projection
from projections.read import Read, Reader, reading
from runtime import modules
from runtime.core import Core, build_core, located
from runtime.readiness import Readiness

LOOKUP_THREADS = 8
"""Threads for what a request needs before it is let in: sessions, accounts, grants that aren't in memory."""
LOOKUP_QUEUE_SECONDS = 5.0


@dataclass(frozen=True)
class Ports:
    """What the modules' routes and prepares are given; each names what it needs by a Protocol of its own."""

    settings: Settings
    secrets: Secrets
    log: Log
    pool: ConnectionPool[Connection[Any]]
    keys: Keys
    tokens: Tokens
    passwords: Passwords
    accounts: Accounts
    throttle: Throttle
    crowds: Crowds
    views: Reader
    projections: dict[str, Projection]
    decisions: Decisions

    @property
    def claims(self) -> Secrets:
        """Ids under the claim key."""
        return self.secrets

    @property
    def refresh_lifetime(self) -> timedelta:
        """How long a refresh token lives since its rotation."""
        return timedelta(seconds=self.settings.refresh_token_seconds)

    @property
    def refresh_grace(self) -> timedelta:
        """How long the immediate predecessor gets the same successor."""
        return timedelta(seconds=self.settings.refresh_grace_seconds)


def http_limits(settings: Settings) -> HttpLimits:
    """The frame's limits, as the settings say."""
    return HttpLimits(
        body_bytes=settings.body_limit_bytes,
        threads=settings.threads,
        queue=settings.queue_limit,
        page_size=settings.page_size,
        page_limit=settings.page_limit,
        at_least_seconds=settings.at_least_timeout_seconds,
        trusted_proxies=tuple(listed(settings.trusted_proxies)),
        allowed_origins=tuple(listed(settings.allowed_origins)),
        behind_tls=settings.https_only,
    )
