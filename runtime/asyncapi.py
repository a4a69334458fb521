"""Prints the AsyncAPI document of the bus: python -m runtime.asyncapi > docs/asyncapi.json"""

import json
import sys
from importlib.metadata import version

from infra.asyncapi import document
from infra.transcoding import event_types
from runtime import modules


def text() -> str:
    """The document as it stands in `docs/`."""
    packages = {aggregate.__module__.partition(".")[0] for module in modules.MODULES for aggregate in module.aggregates}
    types = {topic: kind for package in packages for topic, kind in event_types(package).items()}
    return json.dumps(document(types, version("muniment")), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
