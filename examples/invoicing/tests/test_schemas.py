"""The gate: no recorded event changes without a new version and a way to it.

After a new event or version: python -m examples.invoicing.tests.test_schemas
"""

import json
import sys
from pathlib import Path

from examples.invoicing import MODULE
from runtime.registry import events, topic_of
from tests.schemas import objections, record, unrecorded

RECORDED = Path(__file__).with_name("schemas.json")
KINDS = {topic_of(kind): kind for kind in events(MODULE)}


def known():
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}


def test_no_recorded_event_has_changed():
    assert objections(known(), KINDS) == []


def test_every_event_is_recorded():
    assert unrecorded(known(), KINDS) == []


def test_the_version_without_a_currency_is_still_recorded():
    assert set(known()["invoicing.InvoiceDrafted"]) == {"1", "2"}


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(record(known(), KINDS), indent=1, sort_keys=True) + "\n")
    sys.stderr.write(f"{RECORDED}\n")
