"""Enqueueing many: a job a line, up to a thousand in one save."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import BinaryIO

import click

from api.jobs.views import NewJob
from api.values import JsonBody
from commands.jobs import EnqueueBatch, Enqueued, enqueue_batch, prepare_enqueue
from domain.errors import DomainError, Invalid, OutcomeUnknown
from domain.jobs.policy import BATCH_LIMIT
from infra.settings import Settings
from runtime import modules
from runtime.cli.operator import dispatch
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, say
from runtime.cli.wired import Wired

Line = tuple[int, bytes]
BOM = b"\xef\xbb\xbf"


@click.command("enqueue-batch")
@click.argument("file", metavar="[FILE]", type=click.File("rb"), default="-")
@acting
@as_json
@click.pass_obj
def enqueue_batch_(wired: Wired, file: BinaryIO, actor: str, as_json: bool) -> None:
    """Enqueue a job a line, each a JSON object as POST /api/v1/jobs takes it; 1,000 in one save, or fewer at the end.

    What is wrong with a line is named with its number: the batches before it are enqueued, nothing else is.

    \b
    Example:
      jq -c '{type: "mail.send", args: {to: .email}}' customers.json | muniment jobs enqueue-batch
    """
    through, new, known = 0, 0, 0
    with wired.core() as core:
        for batch in _batches(_lines(file, core.settings.body_limit_bytes)):
            try:
                command = _prepared(batch, core.settings, core.log.now())
                outcome = dispatch(core, enqueue_batch, command, actor)
            except DomainError as error:
                raise click.ClickException(f"{error}; {_standing(batch, through, error)}") from error
            through = batch[-1][0]
            new += sum(each.is_new for each in outcome.result)
            known += sum(not each.is_new for each in outcome.result)
            if as_json:
                _print(outcome.result)
    if not as_json:
        say(f"{new:,} enqueued" + (f", {known:,} had their unique key already" if known else ""))


def _print(enqueued: list[Enqueued]) -> None:
    """A line each, in the order of the lines that were read."""
    for each in enqueued:
        print_json({"id": each.id, "duplicate": not each.is_new})


def _standing(batch: list[Line], through: int, error: DomainError) -> str:
    """What has become of the lines, for whoever goes on."""
    before = f"lines 1 to {through} are enqueued" if through else "nothing is enqueued"
    if isinstance(error, OutcomeUnknown):
        return f"{before}, and perhaps lines {batch[0][0]} to {batch[-1][0]}"
    return f"{before}, the rest isn't" if through else before


def _lines(file: BinaryIO, limit_bytes: int) -> Iterator[Line]:
    """The lines that aren't blank, with their numbers; nothing behind one that is longer than may be."""
    number, line = 0, b""
    while len(line) <= limit_bytes and (line := file.readline(limit_bytes + 1)):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield number, line


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while batch := list(islice(lines, BATCH_LIMIT)):
        yield batch


def _prepared(batch: list[Line], settings: Settings, now: datetime) -> EnqueueBatch:
    """Raises Invalid naming the line and the field."""
    body, types = JsonBody(NewJob, settings.json_depth_limit), modules.job_types()
    jobs = []
    for number, line in batch:
        try:
            if len(line) > settings.body_limit_bytes:
                raise Invalid(f"it is longer than MUNIMENT_BODY_LIMIT_BYTES ({settings.body_limit_bytes:,})")
            jobs.append(prepare_enqueue(types, body.read(line).request(), now))
        except DomainError as error:
            raise Invalid(f"line {number}: {str(error).replace('The body', 'it', 1)}") from error
    return EnqueueBatch(jobs)
