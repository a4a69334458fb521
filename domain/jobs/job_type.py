"""Types of jobs: what a job of this name takes, and how it is run unless its enqueuer says otherwise."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, get_args, get_type_hints

import msgspec

from domain.aggregate import PERSONAL, SECRET
from domain.errors import FieldError, Invalid, invalid_field
from domain.jobs.errors import UnknownJobType, WrongJobType
from domain.jobs.policy import (
    ARGS_LIMIT_BYTES,
    ATTEMPTS_LIMIT,
    CONCURRENCY_LIMIT,
    DEFAULT_RETRY,
    NAME_LIMIT_CHARS,
    PRIORITY_LIMIT,
    TIMEOUT_LIMIT_SECONDS,
    RetryPolicy,
)

NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")
"""Names of job types and of queues."""

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
_ENCODE = msgspec.json.Encoder().encode
_WHERE = re.compile(r" - at `(key in )?\$\.?(?P<path>[^`]*)`$")


class NoArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a job that takes none."""


class Arguments(msgspec.Struct, frozen=True):
    """Arguments as they are recorded: the plain ones, and those declared personal or secret."""

    plain: dict[str, Any]
    personal: dict[str, Any] = {}
    secret: dict[str, Any] = {}


@dataclass(frozen=True)
class JobType:
    """A type of job.

    `args` is a frozen msgspec Struct or dataclass; fields marked `Personal` or `Secret` (domain/aggregate.py) are kept
    apart. `upcasts` bring arguments of version n (its keys) to version n + 1. `timeout_seconds` is that of one attempt.
    `key` gives the concurrency key of arguments, of which `key_limit` run at once. `unique` gives the unique key where
    the enqueuer gives none, taken for `unique_seconds` or, if None, while the job is unfinished. `handler` does it; a
    type without one can be enqueued here and run elsewhere. `is_reserved`: nobody enqueues it over HTTP; code does, its
    schedule, and operators at the machine. Raises WrongJobType for what can't work.
    """

    name: str
    args: type[Any] = NoArgs
    version: int = 1
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 8
    timeout_seconds: float = 60.0
    retry: RetryPolicy = DEFAULT_RETRY
    unique: Callable[[Any], str] | None = None
    unique_seconds: int | None = None
    key: Callable[[Any], str] | None = None
    key_limit: int = 1
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)
    handler: Callable[..., Any] | None = None
    is_async: bool = False
    is_reserved: bool = False

    def __post_init__(self) -> None:
        for name in (self.name, self.queue):
            if not NAME.fullmatch(name) or len(name) > NAME_LIMIT_CHARS:
                raise WrongJobType(f"job {self.name!r}: names are lower-case words joined by . - or _, not {name!r}")
        if not (msgspec.inspect.is_struct_type(self.args) or hasattr(self.args, "__dataclass_fields__")):
            raise WrongJobType(f"job {self.name}: its arguments are a msgspec Struct or a dataclass, not {self.args!r}")
        if set(self.upcasts) != set(range(1, self.version)):
            raise WrongJobType(f"job {self.name}: version {self.version} needs upcasts from 1 to {self.version - 1}")
        bounds = {
            "priority": -PRIORITY_LIMIT <= self.priority <= PRIORITY_LIMIT,
            "max_attempts": 1 <= self.max_attempts <= ATTEMPTS_LIMIT,
            "timeout_seconds": 0 < self.timeout_seconds <= TIMEOUT_LIMIT_SECONDS,
            "key_limit": 1 <= self.key_limit <= CONCURRENCY_LIMIT,
        }
        for name, holds in bounds.items():
            if not holds:
                raise WrongJobType(f"job {self.name}: {name} can't be {getattr(self, name)}")

    @cached_property
    def marks(self) -> dict[str, str]:
        """The arguments that are `personal` or `secret`."""
        return {
            name: mark
            for name, hint in get_type_hints(self.args, include_extras=True).items()
            for mark in getattr(hint, "__metadata__", ())
            if mark in {PERSONAL, SECRET} and get_args(hint)
        }

    def read(self, given: Mapping[str, Any], version: int | None = None) -> Any:
        """Typed arguments of plain ones, as of a version (by default the newest). Raises Invalid naming the field."""
        plain = dict(given)
        for step in range(self.version if version is None else version, self.version):
            plain = self.upcasts[step](plain)
        self._refuse_unknown(plain)
        try:
            return msgspec.convert(plain, self.args, strict=True)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None

    def write(self, args: Any) -> Arguments:
        """Typed arguments as they are recorded. Raises Invalid for too many, WrongJobType for another type's."""
        if not isinstance(args, self.args):
            raise WrongJobType(f"job {self.name} takes {self.args.__name__}, not {type(args).__name__}")
        plain = msgspec.to_builtins(args, str_keys=True)
        encoded = _ENCODE(plain)
        if b"\\u0000" in encoded:
            refuse_nul(plain, "args")
        if b"null" in encoded and (name := unwritable_number(plain)) is not None:
            raise invalid_field(f"args.{name}", "not a finite number, which JSON can't hold")
        if len(encoded) > ARGS_LIMIT_BYTES:
            raise Invalid("args: too large", errors=[FieldError("args", f"at most {ARGS_LIMIT_BYTES} bytes as JSON")])
        if not self.marks:
            return Arguments(plain)
        return Arguments(
            {name: value for name, value in plain.items() if name not in self.marks},
            {name: value for name, value in plain.items() if self.marks.get(name) == PERSONAL},
            {name: value for name, value in plain.items() if self.marks.get(name) == SECRET},
        )

    def _refuse_unknown(self, plain: Mapping[str, Any]) -> None:
        unknown = sorted(set(plain) - self._names)
        if unknown:
            raise Invalid(
                f"args.{unknown[0]}: no such argument",
                errors=[FieldError(f"args.{name}", "no such argument") for name in unknown],
            )

    @cached_property
    def _names(self) -> frozenset[str]:
        if msgspec.inspect.is_struct_type(self.args):
            return frozenset(f.encode_name for f in msgspec.structs.fields(self.args))
        return frozenset(self.args.__dataclass_fields__)


def has_nul(plain: Any) -> bool:
    """Whether a NUL character stands anywhere in a JSON document's plain values: PostgreSQL stores none."""
    match plain:
        case str():
            return "\0" in plain
        case dict():
            return any(has_nul(key) or has_nul(value) for key, value in plain.items())
        case list() | tuple():
            return any(map(has_nul, plain))
    return False


def refuse_nul(plain: Mapping[str, Any], at: str) -> None:
    """Raises Invalid naming the field."""
    for name, value in plain.items():
        if has_nul({name: value}):
            raise invalid_field(f"{at}.{name}", "a NUL character can't be stored")


def unwritable_number(plain: Any, at: str = "") -> str | None:
    """Where in a JSON document's plain values there is a `nan` or an infinity, which would be recorded as null."""
    match plain:
        case float():
            return None if isfinite(plain) else at
        case dict():
            inner: Iterable[tuple[Any, Any]] = plain.items()
        case list() | tuple():
            inner = enumerate(plain)
        case _:
            return None
    found = (unwritable_number(value, f"{at}.{name}" if at else str(name)) for name, value in inner)
    return next((where for where in found if where is not None), None)


def _invalid(message: str) -> Invalid:
    """msgspec's message, with the field that it names."""
    found = _WHERE.search(message)
    path = f"args.{found['path']}" if found and found["path"] else "args"
    if missing := re.search(r"missing required field `(\w+)`", message):
        path = f"{path}.{missing[1]}"
    text = _WHERE.sub("", message)
    return Invalid(f"{path}: {text}", errors=[FieldError(path, text)])


class JobTypes:
    """All types of jobs, by name. Raises WrongJobType where two have the same."""

    def __init__(self, types: Iterable[JobType]) -> None:
        self._types: dict[str, JobType] = {}
        for job_type in types:
            if job_type.name in self._types:
                raise WrongJobType(f"two job types are named {job_type.name}")
            self._types[job_type.name] = job_type

    @cached_property
    def for_anybody(self) -> "JobTypes":
        """The types as they are seen over HTTP: those that are reserved aren't there."""
        return JobTypes(each for each in self if not each.is_reserved)

    @cached_property
    def queues(self) -> frozenset[str]:
        """The queues that the types name."""
        return frozenset(each.queue for each in self)

    def __iter__(self) -> Iterator[JobType]:
        return iter(self._types.values())

    def find(self, name: str) -> JobType | None:
        """The type of this name, if there is one."""
        return self._types.get(name)

    def get(self, name: str) -> JobType:
        """The type of this name. Raises UnknownJobType naming the field."""
        found = self._types.get(name)
        if found is None:
            raise UnknownJobType(f"There is no job type {name!r}.", errors=[FieldError("type", "no such job type")])
        return found
