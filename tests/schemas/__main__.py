"""Records new event types and new versions: python -m tests.schemas"""

import json
import sys

from tests.schemas import RECORDED, catalogue, record, recorded, unrecorded

known, kinds = recorded(), catalogue()
try:
    schemas = record(known, kinds)
except ValueError as error:
    sys.exit(str(error))
RECORDED.write_text(json.dumps(schemas, indent=1, sort_keys=True) + "\n")
sys.stderr.write(f"recorded: {', '.join(unrecorded(known, kinds)) or 'nothing new'}\n")
