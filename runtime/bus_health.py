"""What is wrong with the bus, as `/readyz` and `muniment status` say it: reasons to be degraded, none to be down."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby

from infra.bus_status import BusStatus, LaneStatus

LAG_SECONDS = 5.0
KNOCK_SECONDS = 0.3
"""How long a broker may take to accept a connection; all are asked at once."""
REMEMBERED_SECONDS = 2.0
"""How long is believed what a knock has found."""
PORT = 9092


class Brokers:
    """Whether Kafka is there: whether any of its addresses accepts a connection. Asked only by who wants to know."""

    def __init__(self, addresses: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses = [address.strip() for address in addresses.split(",") if address.strip()]
        self._clock = clock
        self._known: tuple[float, bool] | None = None

    async def answer(self) -> bool:
        """True for a bus that isn't there by intention, too."""
        if self._known and self._clock() - self._known[0] < REMEMBERED_SECONDS:
            return self._known[1]
        found = await asyncio.gather(*map(_accepts, self.addresses))
        self._known = (self._clock(), any(found) or not found)
        return self._known[1]


async def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(PORT))
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def bus_reasons(status: BusStatus, *, kafka_answers: bool = True) -> list[str]:
    """In one line each: no Kafka, no relay or one that is behind, no worker, partitions that are behind."""
    reasons = [] if kafka_answers else ["kafka: doesn't answer"]
    relay = status.relay
    if relay is None:
        return [*reasons, "relay: none has run yet"]
    if relay.leader is None:
        reasons.append("relay: none is active")
    if relay.lag_seconds > LAG_SECONDS:
        reasons.append(f"relay: {relay.lag_events} events, {relay.lag_seconds:.0f} s behind")
    if status.lanes and not status.workers:
        reasons.append("stream: no worker lives")
    return reasons + _lagging(status.lanes)


def _lagging(lanes: Sequence[LaneStatus]) -> list[str]:
    return [_late(name, list(late)) for name, late in groupby(_late_ones(lanes), key=lambda lane: lane.projection)]


def _late_ones(lanes: Iterable[LaneStatus]) -> Iterable[LaneStatus]:
    return (lane for lane in lanes if lane.active and lane.lag_seconds > LAG_SECONDS)


def _late(projection: str, lanes: Sequence[LaneStatus]) -> str:
    worst = min(lanes, key=lambda lane: lane.position)
    others = f" and {len(lanes) - 1} more" if len(lanes) > 1 else ""
    return (
        f"{projection}: partition {worst.topic}/{worst.partition}{others} {worst.lag_events} events,"
        f" {worst.lag_seconds:.0f} s behind"
    )
