"""Does a running application do what its OpenAPI document says? schemathesis asks it everything that it can think of.

check_conformity("http://127.0.0.1:8080", token)
"""

from collections.abc import Callable, Collection
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
ENDLESS = "text/event-stream"


def check_conformity(
    base_url: str,
    token: str,
    *,
    examples: int = 25,
    skip: Collection[str] = (),
    every: Callable[[Any], None] = lambda _: None,
) -> int:
    """Asks each operation but `skip` (operation ids) and endless streams, with good values and with bad ones.

    Raises where an answer is a 5xx, a status, type, header or body outside the document, or where bad values are
    taken. `every(response)` sees each answer. Returns the number of operations asked. The examples are the same in
    each run.
    """
    config = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}})
    document = schemathesis.openapi.from_url(f"{base_url}/openapi.json", config=config)
    asked = 0
    for result in document.get_all_operations():
        operation = result.ok()
        definition = operation.definition.raw
        if definition["operationId"] in skip or _endless(definition):
            continue
        for mode in GenerationMode:
            _ask(operation, mode, {"Authorization": f"Bearer {token}"}, examples, every)
        asked += 1
    return asked


def _ask(
    operation: Any, mode: GenerationMode, headers: dict[str, str], examples: int, every: Callable[[Any], None]
) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def each(case: Case) -> None:
        response = case.call(headers=headers)
        every(response)
        case.validate_response(response, checks=CHECKS)

    try:
        each()
    except Unsatisfiable:  # there is nothing that could be wrong with this one's values
        if mode is GenerationMode.POSITIVE:
            raise


def _endless(definition: dict[str, Any]) -> bool:
    return any(ENDLESS in response.get("content", {}) for response in definition["responses"].values())
