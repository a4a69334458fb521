"""The bus, as `muniment status` shows it."""

from collections.abc import Sequence

import click

from infra.bus_status import BusStatus, LaneStatus, RelayStatus
from runtime.cli.output import print_fields, print_table

REASONS = {
    "unsealed": "without a seal",
    "forged": "with a false seal",
    "garbled": "that nobody can read",
    "layout": "of another layout",
    "past": "that the log knows nothing of",
}
"""Why a message is dropped, in words; other reasons are told as they are called."""


def print_bus(status: BusStatus) -> None:
    """The relay, who lives, what was counted since the beginning, and each partition of each view."""
    print_fields(
        {
            "bus": _relay(status.relay),
            "relays": _living(status.relays),
            "workers": _living(status.workers),
            "counted": _counted(status),
        }
    )
    click.echo()
    print_table(("VIEW", "BUILD", "PARTITION", "POSITION", "LAG", "SECONDS"), _lanes(status.lanes))


def _relay(relay: RelayStatus | None) -> str:
    if relay is None:
        return "no relay has run yet"
    lag = f"{relay.lag_events} events, {relay.lag_seconds:.1f} s behind" if relay.lag_events else "level with the log"
    leader = f"led by {relay.leader.rpartition(':')[0]}" if relay.leader else "led by nobody"
    return f"position {relay.position}, {lag}; layout {relay.layout}, {leader}"


def _living(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _counted(status: BusStatus) -> str:
    holes, healed = status.total("muniment_stream_holes_total"), status.total("muniment_stream_healed_events_total")
    dropped = {
        each.labels["reason"]: each.count for each in status.counts if each.metric == "muniment_stream_dropped_total"
    }
    reasons = ", ".join(f"{count} {REASONS.get(reason, reason)}" for reason, count in sorted(dropped.items()))
    return (
        f"{holes} holes healed, {healed} events read from the log, "
        f"{status.total('muniment_stream_duplicates_total')} duplicates ignored, "
        f"{sum(dropped.values())} messages dropped{f' ({reasons})' if reasons else ''}"
    )


def _lanes(lanes: Sequence[LaneStatus]) -> list[tuple[str, str, str, int, int, float]]:
    return [
        (lane.projection, f"{lane.version}.{lane.build}{'' if lane.active else ' (not read)'}",
         f"{lane.topic}/{lane.partition}", lane.position, lane.lag_events, lane.lag_seconds)
        for lane in lanes
    ]  # fmt: skip
