"""`muniment events story`: all that followed from one request, as a tree with times."""

from collections.abc import Sequence

import click
import msgspec

from api.events.stories import EventOfStory, StepView, StoryView, story_of
from infra.stories import STORY_EVENTS
from runtime.cli.options import as_json
from runtime.cli.output import cut, fields_in_line, say, text, utc
from runtime.cli.pictures import Pen
from runtime.cli.wired import Wired


@click.command("story")
@click.argument("correlation")
@click.option(
    "--limit", type=click.IntRange(1, STORY_EVENTS), default=STORY_EVENTS, show_default=True,
    help="How many events at most.",
)  # fmt: skip
@as_json
@click.pass_obj
def story_command(wired: Wired, correlation: str, limit: int, as_json: bool) -> None:
    """Tell what one request led to: its command, its events, reactions, jobs and their attempts, as a tree with times.

    CORRELATION is the request's id, `X-Request-Id` of its answer; every event names it.

    \b
    Example:
      muniment events story 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d
    """
    with wired.log() as log:
        story = story_of(log, correlation, limit)
    if as_json:
        click.echo(msgspec.json.encode(story).decode())
        return
    _tell(story)
    if story.truncated:
        say(f"cut: there are more than {limit} events; muniment events tail --after, or --limit, shows further ones")


def _tell(story: StoryView) -> None:
    pen = Pen.of_terminal()
    followed = f", {story.reactions} reactions" if story.reactions else ""
    followed += f", {story.attempts} attempts" if story.attempts else ""
    head = (
        f"{text(story.correlation_id)}  {utc(story.began_at)}  {story.events} events{followed}, {_ms(story.elapsed_ms)}"
    )
    click.echo(click.style(cut(head), bold=True))
    _steps(story.steps, "", pen)


def _steps(steps: Sequence[StepView], indent: str, pen: Pen) -> None:
    for number, step in enumerate(steps, start=1):
        last = number == len(steps)
        mark = "" if step.kind == "request" else f"{pen.arrow} "
        lost = "" if step.cause_told else f"  (its cause {text(step.causation_id)} isn't told here)"
        attempt = "" if step.attempt is None else f" attempt {step.attempt}"
        line = f"{mark}{text(step.actor) or 'unknown'}{attempt}  +{_ms(step.after_ms)}{lost}"
        click.echo(cut(f"{indent}{pen.last if last else pen.branch}{line}"))
        _events(step.events, indent + ("   " if last else pen.down), pen)


def _events(events: Sequence[EventOfStory], indent: str, pen: Pen) -> None:
    for number, event in enumerate(events, start=1):
        last = number == len(events)
        said = fields_in_line(event.body)
        line = f"{event.position}  {event.type}  +{_ms(event.elapsed_ms)}  {said}".rstrip()
        click.echo(cut(f"{indent}{pen.last if last else pen.branch}{line}"))
        _steps(event.led_to, indent + ("   " if last else pen.down), pen)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:,.1f} s" if milliseconds >= 10_000 else f"{milliseconds:,.1f} ms"
