"""A hidden value: nothing that is done to values by accident shows it."""

import copy
import dataclasses
import json
import logging
import pickle
import traceback

import msgspec
import orjson
import pytest

from muniment_client.secrets import Hidden, SecretValue

MARK = "tulip-marked-value"
HIDDEN = Hidden(MARK)


@pytest.mark.parametrize(
    "shown",
    [
        repr(HIDDEN), str(HIDDEN), f"{HIDDEN}", f"{HIDDEN!r:>40}", f"{HIDDEN:>10}", "%s %r" % (HIDDEN, HIDDEN),  # noqa: UP031
        repr([HIDDEN]), repr({"password": HIDDEN}), repr(SecretValue(HIDDEN, "3")),
        repr(dataclasses.asdict(SecretValue(HIDDEN))), str(ValueError(HIDDEN)), repr(copy.deepcopy({"a": HIDDEN})),
    ],
)  # fmt: skip
def test_is_shown_as_hidden(shown):
    assert MARK not in shown
    assert "(hidden)" in shown


@pytest.mark.parametrize("encode", [json.dumps, orjson.dumps, msgspec.json.encode, msgspec.msgpack.encode])
def test_no_serialiser_takes_it(encode):
    with pytest.raises(TypeError):
        encode({"password": HIDDEN})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_is_not_pickled(protocol):
    with pytest.raises(TypeError):
        pickle.dumps(HIDDEN, protocol)
    with pytest.raises(TypeError):
        pickle.dumps(SecretValue(HIDDEN), protocol)


def test_no_log_line_has_it(caplog):
    logging.getLogger("muniment").error("could not use %s and %r", HIDDEN, HIDDEN, exc_info=ValueError(HIDDEN))
    assert MARK not in caplog.text


def test_a_traceback_with_all_its_variables_doesnt_show_it():
    def fails(password):
        raise RuntimeError(f"no connection with {password}")

    try:
        fails(HIDDEN)
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "(hidden)" in shown
    assert MARK not in shown.replace("MARK = ", "")


def test_the_one_way_to_it():
    assert HIDDEN.reveal() == MARK
    assert Hidden(MARK) == HIDDEN
    assert Hidden("another") != HIDDEN
    assert HIDDEN != MARK
    assert len({HIDDEN, Hidden(MARK)}) == 1
    assert not Hidden("")
