from collections import Counter

from tests.api.conformity import check_conformity
from tests.api.sample import ROUTES


def test_the_application_does_what_its_document_says(served):
    statuses: Counter[int] = Counter()
    asked = check_conformity(served.url, "adas-token", every=lambda response: statuses.update([response.status_code]))
    assert asked == len(ROUTES) + 3 - 2
    assert {200, 201, 204, 422} <= set(statuses)
