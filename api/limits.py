"""The explicit limits of the HTTP frame. `infra/settings.py` gives them names in the environment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_NAMED_ERRORS = 50
"""Invalid items of a list that are looked for, once it is known that there is one."""

MAX_TOLD_ERRORS = 1_000
"""Invalid fields that one problem names at most: as many as a document of configuration has keys."""

MAX_PATH_VALUE_CHARS = 255
"""The longest value of a path parameter."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a request may be, and how much is worked on at once.

    `body_bytes`: of a request's body, which has to arrive within `body_seconds`; `header_bytes`, `headers`: of all its
    headers together; `url_bytes`: path and query; `json_depth`: nested arrays and objects; `threads`, `queue`: commands
    and queries that run and that wait; `page_size`, `page_limit`: items of a page, unless asked and at most;
    `at_least_seconds`: how long a query waits for a position; `trusted_proxies`: networks whose `proxy_header` is
    believed (`x-forwarded-for` or `forwarded`); `allowed_origins`: for CORS, none by default; `behind_tls`: send HSTS;
    `slow_seconds`: requests that took longer are logged; `access_log`: log every request.
    """

    body_bytes: int = 1_048_576
    body_seconds: float = 30.0
    header_bytes: int = 16_384
    headers: int = 64
    url_bytes: int = 8_192
    json_depth: int = 32
    threads: int = 16
    queue: int = 512
    page_size: int = 50
    page_limit: int = 200
    at_least_seconds: float = 5.0
    trusted_proxies: tuple[str, ...] = ()
    proxy_header: str = "x-forwarded-for"
    allowed_origins: tuple[str, ...] = ()
    behind_tls: bool = False
    slow_seconds: float = 1.0
    access_log: bool = False


class Fitted(Generic[T]):
    """What is made of the limits, made anew when they are others."""

    __slots__ = ("_fitted", "_make")

    def __init__(self, make: Callable[[HttpLimits], T]) -> None:
        self._make = make
        self._fitted: tuple[HttpLimits, T] | None = None

    def __call__(self, limits: HttpLimits) -> T:
        fitted = self._fitted
        if fitted is None or fitted[0] is not limits:
            fitted = self._fitted = (limits, self._make(limits))
        return fitted[1]
