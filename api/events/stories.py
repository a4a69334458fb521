"""The story of one correlation: command, events, reactions, jobs with their attempts, as a tree with times."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from api.events.listing import Correlation
from api.events.views import EventView, view_of
from api.routing import Answer, Asked, Body, Endpoint, Route, View
from domain.errors import NotFound, invalid_field
from infra.event_store import Log
from infra.stories import STORY_EVENTS, Step, kinds_in, steps_of
from infra.wanted import Wanted

__all__ = ["STORY", "EventOfStory", "StepView", "StoryView", "story_of"]


class NoSuchStory(NotFound):
    """Nothing was recorded under this correlation."""

    code = "correlation-not-found"


class StoryLimit(Body):
    """`limit` bounds the events that are told."""

    limit: Annotated[int, Meta(ge=1, le=STORY_EVENTS)] = STORY_EVENTS


class EventOfStory(EventView):
    """An event of a story, with the time since the story began and the steps that it led to."""

    elapsed_ms: float
    led_to: list["StepView"]


class StepView(View):
    """One save: `request` for the first cause, `reaction` for what another event led to, with what was recorded.

    `attempt` for what a worker did because a job was enqueued; then `attempt` is its number, and what the handler
    decided is in the same save.

    `after_ms` is the time since its cause was recorded (since the story began for a request). `cause_told` is false
    where the cause isn't part of what is told: it was cut off, or belongs to another correlation.
    """

    kind: str
    attempt: int | None
    actor: str
    causation_id: str | None
    cause_told: bool
    recorded_at: datetime
    after_ms: float
    events: list[EventOfStory]


class StoryView(View):
    """All that followed from one request. `truncated` is true where there are more events than are told."""

    correlation_id: str
    began_at: datetime
    ended_at: datetime
    elapsed_ms: float
    events: int
    reactions: int
    attempts: int
    truncated: bool
    steps: list[StepView]


def story_of(log: Log, correlation: str, limit: int = STORY_EVENTS) -> StoryView:
    """The story as the log tells it. Raises NoSuchStory, Unavailable."""
    found = log.search(Wanted(correlation=correlation), 0, limit + 1)
    if not found:
        raise NoSuchStory(f"Nothing was recorded under the correlation {correlation}.")
    told = found[:limit]
    roots = steps_of(told)
    kinds = kinds_in(roots)
    began, ended = told[0].recorded_at, told[-1].recorded_at
    return StoryView(
        correlation_id=correlation,
        began_at=began,
        ended_at=ended,
        elapsed_ms=_ms(began, ended),
        events=len(told),
        reactions=kinds["reaction"],
        attempts=kinds["attempt"],
        truncated=len(found) > limit,
        steps=[_view(step, began, began) for step in roots],
    )


def _view(step: Step, began: datetime, cause_at: datetime) -> StepView:
    """Deep stories are bounded by the hops that reactions may take, so this recursion is."""
    led_to: dict[str, list[Step]] = {}
    for further in step.steps:
        led_to.setdefault(further.cause or "", []).append(further)
    events = [
        EventOfStory(
            **{name: getattr(view, name) for name in EventView.__struct_fields__},
            elapsed_ms=_ms(began, recorded.recorded_at),
            led_to=[_view(further, began, recorded.recorded_at) for further in led_to.get(recorded.id, ())],
        )
        for recorded, view in ((recorded, view_of(recorded)) for recorded in step.events)
    ]
    return StepView(
        kind=step.kind,
        attempt=step.attempt,
        actor=step.actor,
        causation_id=step.cause,
        cause_told=step.cause_is_told,
        recorded_at=step.recorded_at,
        after_ms=_ms(cause_at, step.recorded_at),
        events=events,
    )


def _ms(since: datetime, until: datetime) -> float:
    return round((until - since).total_seconds() * 1e3, 3)


async def show_story(asked: Asked) -> Answer:
    """All that followed from one request, by its correlation id (the answer's `X-Request-Id`), as a tree with times.

    It is read from the log, so reading it is audited as well.
    """
    correlation: Correlation = asked.path["correlation"]
    if len(correlation) > 255:
        raise invalid_field("correlation", "at most 255 characters")
    await asked.ports.crowds.read(asked.context, f"{asked.method} /api/v1/events/stories/{{correlation}}")
    return Answer(await asked.in_thread(story_of, asked.ports.log, correlation, asked.params.limit))


STORY: Route = Endpoint(
    "GET", "/api/v1/events/stories/{correlation}", show_story, permission="event:read", params=StoryLimit,
    result=StoryView, projections=(), raises=(NoSuchStory,),
)  # fmt: skip
