"""The last good document on disk."""

import json
import os
import stat
from pathlib import Path

import pytest

from muniment_client.keeping import Document, Keeper

DOCUMENT = Document("weaving", 7, "7-0badc0de", {"rate": 3, "key": "secret://loom"})
ORIGIN = "https://muniment.example"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weaving.json"


@pytest.fixture
def keeper(path: Path) -> Keeper:
    return Keeper(path, ORIGIN, "weaving")


def test_what_is_kept_is_found_again_and_only_its_owner_may_read_it(keeper: Keeper, path: Path):
    before = os.umask(0)
    try:
        keeper.keep(DOCUMENT)
    finally:
        os.umask(before)
    assert keeper.load() == DOCUMENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_newer_one_takes_its_place_in_one_step(keeper: Keeper, path: Path):
    keeper.keep(DOCUMENT)
    with path.open("rb") as former:
        keeper.keep(Document("weaving", 8, "8-aa", {}))
        assert json.load(former)["version"] == 7  # who reads it now reads it whole
    found = keeper.load()
    assert found is not None
    assert found.version == 8


def test_nothing_is_kept_yet(keeper: Keeper, caplog):
    assert keeper.load() is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"origin": "https://elsewhere.example"}, "of another platform or namespace"),
        ({"namespace": "spinning"}, "of another platform or namespace"),
        ({"format": 2}, "not written by this release"),
        ({"version": "7"}, "incomplete"),
        ({"values": None}, "incomplete"),
    ],
    ids=["platform", "namespace", "format", "version", "values"],
)
def test_what_isnt_ours_is_not_used(keeper: Keeper, path: Path, caplog, change, why):
    keeper.keep(DOCUMENT)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert keeper.load() is None
    assert why in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=["empty", "torn", "list", "bytes", "deep"]
)
def test_what_is_no_document_is_not_used(keeper: Keeper, path: Path, caplog, content: bytes):
    path.write_bytes(content)
    path.chmod(0o600)
    assert keeper.load() is None
    assert "can't be used" in caplog.text


@pytest.mark.parametrize("mode", [0o620, 0o602], ids=["group", "others"])
def test_what_others_could_have_written_is_not_used(keeper: Keeper, path: Path, caplog, mode: int):
    keeper.keep(DOCUMENT)
    path.chmod(mode)
    assert keeper.load() is None
    assert "others could have written it" in caplog.text


def test_a_link_isnt_followed_and_what_it_leads_to_isnt_overwritten(keeper: Keeper, path: Path, tmp_path: Path):
    target = tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target)
    assert keeper.load() is None
    keeper.keep(DOCUMENT)
    assert target.read_text() == "precious"
    assert not path.is_symlink()
    assert keeper.load() == DOCUMENT


def test_a_pipe_keeps_nobody_waiting(keeper: Keeper, path: Path):
    os.mkfifo(path, 0o600)
    assert keeper.load() is None


def test_a_disk_that_takes_nothing_is_only_logged(tmp_path: Path, caplog):
    keeper = Keeper(tmp_path / "not there" / "weaving.json", ORIGIN, "weaving")
    keeper.keep(DOCUMENT)
    assert "can't be kept" in caplog.text
