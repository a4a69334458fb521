"""A value that shows itself only when asked to."""

import hmac
from typing import Any, NoReturn, Self

SHOWN = "(hidden)"


class Hidden:
    """Text that no log line, message, traceback or serialiser shows. `reveal()` is the one way to it.

    It isn't a str, so what joins, formats or encodes strings either gets `(hidden)` or fails: json, orjson and msgspec
    raise TypeError, and so does pickle. Equality takes the same time however much agrees.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The value itself. Keep it in no variable that lives long, and in no message."""
        return self._text

    def __repr__(self) -> str:
        return SHOWN

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        return SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hidden):
            return NotImplemented
        return hmac.compare_digest(_encoded(self), _encoded(other))

    def __hash__(self) -> int:
        return hash((Hidden, self._text))

    def __bool__(self) -> bool:
        return bool(self._text)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise TypeError("a hidden value can't be pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a hidden value can't be pickled")


def _encoded(hidden: Hidden) -> bytes:
    return hidden.reveal().encode("utf-8", "surrogatepass")
