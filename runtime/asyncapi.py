"""Prints the AsyncAPI document of the bus: python -m runtime.asyncapi > docs/asyncapi.json

With MUNIMENT_MODULES it describes their events, too.
"""

import json
import sys
from importlib.metadata import version

from infra.asyncapi import document
from infra.settings import Settings
from runtime import modules
from runtime.registry import Registry


def text(registry: Registry | None = None) -> str:
    """The document of these modules; of the platform's own, as it stands in `docs/`, unless others are given."""
    types = (registry or Registry(modules.MODULES)).event_types
    return json.dumps(document(types, version("muniment")), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    modules.load(Settings.from_env())
    sys.stdout.write(text(modules.registry()))
