"""What is kept of an error has no secrets in it, however long it is and whoever has written it."""

import time

import pytest

from domain.jobs.policy import ERROR_LIMIT_CHARS
from stream_apps.jobs.scrub import LEFT_OUT, SCRUBBED_CHARS, error_text, scrubbed

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
UNITS = (
    "eyJ-", "eyJaaaaaaaa.", "eyJaaaaaaaa.a-", "password ", "password:", 'password="', "password" + " " * 50, "://a:",
    "://:", "-----BEGIN ", "-----BEGIN KEY-----", "basic ", "api_key",
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"refused: {JWT}", f"refused: {LEFT_OUT}"),
        (f"/{JWT}/", f"/{LEFT_OUT}/"),
        (f"Authorization: Bearer {JWT}", f"Authorization: Bearer {LEFT_OUT}"),
        ("password=hunter2 at line 3", f"password={LEFT_OUT} at line 3"),
        ("postgresql://ada:engine@loom/db", f"postgresql://{LEFT_OUT}@loom/db"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", LEFT_OUT),
        ("reyJ and a plain word", "reyJ and a plain word"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(said, kept):
    assert scrubbed(said) == kept


@pytest.mark.parametrize("unit", UNITS)
def test_takes_time_as_the_text_is_long_whoever_has_written_it(unit):
    began = time.process_time()
    scrubbed(unit * (SCRUBBED_CHARS // len(unit)))
    assert time.process_time() - began < 2


def test_of_a_text_without_end_the_beginning_is_kept():
    assert len(error_text(ValueError("knot " * SCRUBBED_CHARS))) == ERROR_LIMIT_CHARS


def test_half_of_a_secret_isnt_kept_where_the_text_is_cut():
    letter = "dear ada, " * 500
    text = "x" * (SCRUBBED_CHARS - len(letter) // 2) + letter
    assert "dear" not in scrubbed(text, [letter])
    assert "dear" in scrubbed(text)
