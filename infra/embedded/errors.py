"""Why the platform can't start."""


class StartError(Exception):
    """Something that the operator must change before the platform can start. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
