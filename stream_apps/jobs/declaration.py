"""Declaring jobs.

    class SendArgs(msgspec.Struct, frozen=True):
        to: Personal[str]
        template: str

    @job("mail.send", queue="mail", max_attempts=8, timeout_seconds=60)
    def send_mail(run: Run, args: SendArgs) -> None:
        ...

    enqueue(work, send_mail, SendArgs("ada@engine.example", "welcome"))

The name is then a `JobType` (domain/jobs/job_type.py), whose `handler` is the function. It is sync, and runs in a
thread, or async, and runs in the worker's event loop.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_type_hints

from domain.jobs import JobType, NoArgs, WrongJobType
from stream_apps.jobs.run import Run

Handler = Callable[..., Any]


def job(name: str | JobType, **options: Any) -> Callable[[Handler], JobType]:
    """Declares a type of job, whose arguments are those of the function's second parameter (none: no arguments).

    `options` are those of `JobType`. In place of a name, a type that was declared without a handler, so that rooms
    which know no handlers can enqueue it. Raises WrongJobType.
    """

    def declare(handler: Handler) -> JobType:
        is_async = inspect.iscoroutinefunction(handler)
        if isinstance(name, JobType):
            if name.args is not _args_of(handler, name.name):
                raise WrongJobType(f"job {name.name}: {handler.__qualname__} takes other arguments than were declared")
            return replace(name, handler=handler, is_async=is_async, **options)
        return JobType(name=name, args=_args_of(handler, name), handler=handler, is_async=is_async, **options)

    return declare


def _args_of(handler: Handler, name: str) -> type[Any]:
    parameters = list(inspect.signature(handler).parameters.values())
    hints = get_type_hints(handler)
    if not 1 <= len(parameters) <= 2 or hints.get(parameters[0].name) is not Run:
        raise WrongJobType(f"job {name}: its handler takes (run: Run) or (run: Run, args: <its arguments>)")
    if len(parameters) == 1:
        return NoArgs
    args = hints.get(parameters[1].name)
    if not isinstance(args, type):
        raise WrongJobType(f"job {name}: annotate {parameters[1].name} with the type of its arguments")
    return args
