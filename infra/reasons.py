"""What an error says, in one line: for logs and for operators."""


def first_line(error: BaseException) -> str:
    """The first line of its message; its type's name where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
