"""What several commands about the views share."""

from runtime.cli.output import print_json, say


def done(message: str, position: int, as_json: bool) -> None:
    """Says that a decision is recorded; as JSON, at which position."""
    if as_json:
        print_json({"position": position})
    else:
        say(message)
