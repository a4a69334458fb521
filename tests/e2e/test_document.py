"""The platform does what its OpenAPI document says, whoever asks."""

from collections import Counter

import pytest

from tests.api.conformity import check_conformity
from tests.e2e.platform import Platform

ENDING = {"logout", "revoke_key", "add_key", "end_session"}
"""Would end the caller's session or make every token invalid."""


@pytest.mark.parametrize("caller", ["the administrator", "somebody without rights"])
@pytest.mark.timeout(300)
def test_no_answer_is_outside_the_document(platform: Platform, newcomer, caller):
    who = platform.admin if caller == "the administrator" else newcomer("Mallory Archer")
    statuses: Counter[int] = Counter()
    asked = check_conformity(
        platform.babbage.url,
        who.tokens["access_token"],
        examples=5 if caller == "the administrator" else 2,
        skip=ENDING,
        every=lambda answer: statuses.update([answer.status_code]),
    )
    assert asked > 30
    assert not {status for status in statuses if status >= 500}
    assert statuses[200]
    assert who.is_let_in
