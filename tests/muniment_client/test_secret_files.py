"""Secrets in a folder, as Docker and Kubernetes give them, and as somebody hostile would."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.configuration.reference import is_reference
from muniment_client.secrets import (
    Files,
    MalformedReference,
    Reference,
    SecretError,
    SecretNotFound,
    SecretUnusable,
    StoreUnavailable,
)


def read(folder: Path, text: str) -> str:
    return Files(folder).fetch(Reference.parse(text)).value.reveal()


def mounted(folder: Path, number: int, **secrets: str) -> None:
    """What the kubelet does for a new content of a Secret: everything appears at once, by the swap of one link."""
    former = (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    (folder / f"..{number}").mkdir()
    for name, value in secrets.items():
        (folder / f"..{number}" / name).write_text(value)
    (folder / "..data_tmp").symlink_to(f"..{number}")
    (folder / "..data_tmp").rename(folder / "..data")
    for name in secrets:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    if former:
        for each in (folder / former).iterdir():
            each.unlink()
        (folder / former).rmdir()


def test_reads_a_file_as_docker_mounts_it(tmp_path):
    (tmp_path / "smtp").write_text("tulip")
    assert read(tmp_path, "secret://smtp") == "tulip"


@pytest.mark.parametrize(
    ("written", "value"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b" a ", " a "), (b"-----BEGIN\nx\n-----END\n", None)],
)
def test_one_newline_at_the_end_is_no_part_of_the_value(tmp_path, written, value):
    (tmp_path / "key").write_bytes(written)
    assert read(tmp_path, "secret://key") == (value or "-----BEGIN\nx\n-----END")


def test_a_version_is_a_file_of_its_own_and_the_latest_is_the_highest(tmp_path):
    for version in ("v9", "v10", "vold", "v010"):
        (tmp_path / f"smtp.{version}").write_text(version)
    assert read(tmp_path, "secret://smtp#9") == "v9"
    assert Files(tmp_path).fetch(Reference("smtp")).version == "10"
    assert read(tmp_path, "secret://smtp#old") == "vold"
    (tmp_path / "smtp").write_text("plain")
    assert read(tmp_path, "secret://smtp") == "plain"
    with pytest.raises(SecretNotFound, match=r"no file smtp\.v11"):
        read(tmp_path, "secret://smtp#11")


def test_a_name_with_slashes_is_a_file_in_a_folder(tmp_path):
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "main").write_text("tulip")
    assert read(tmp_path, "secret://database/main") == "tulip"
    with pytest.raises(SecretUnusable, match="not a file"):
        read(tmp_path, "secret://database")


def test_follows_the_links_of_kubernetes(tmp_path):
    mounted(tmp_path, 1, smtp="one")
    assert read(tmp_path, "secret://smtp") == "one"
    mounted(tmp_path, 2, smtp="two")
    assert read(tmp_path, "secret://smtp") == "two"


def test_never_sees_half_of_a_swap(tmp_path):
    mounted(tmp_path, 0, smtp="tulip 0")
    done = threading.Event()
    seen, wrong = set(), []

    def look():
        while not done.is_set():
            try:
                seen.add(read(tmp_path, "secret://smtp"))
            except StoreUnavailable:
                continue  # swapped again and again while it was read: told so, and no half
            except SecretError as error:
                wrong.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for each in readers:
        each.start()
    for number in range(1, 300):
        mounted(tmp_path, number, smtp=f"tulip {number}")
    done.set()
    for each in readers:
        each.join(10)
    assert not wrong
    assert seen <= {f"tulip {number}" for number in range(300)}
    assert len(seen) > 1


@pytest.mark.parametrize(
    "text",
    [
        "secret://../../etc/passwd", "secret://..", "secret://.", "secret://a/../b", "secret:///etc/passwd",
        "secret://a//b", "secret://a/", "secret://..data/smtp", "secret://.hidden", "secret://a\0b", "secret://a b",
        "secret://%2e%2e/a", "secret://a\n", "secret://a#", "secret://a#1#2", "secret://a#1/../b", "secret://",
        "secret:a", "SECRET://a", " secret://a", "secret://ä", "secret://" + "a" * 300,
    ],
)  # fmt: skip
def test_a_name_leads_nowhere_else(text):
    with pytest.raises(MalformedReference) as refused:
        Reference.parse(text)
    assert text.removeprefix("secret://") not in str(refused.value) or len(text) < 12


@settings(max_examples=300)
@given(
    st.text(max_size=30)
    | st.from_regex(r"secret://[a-zA-Z0-9./_#\- ]{0,12}", fullmatch=True)
    | st.from_regex(r"secret://[A-Za-z0-9_][a-z._-]{0,9}(/[a-z0-9_]{1,3}){0,3}(#[a-z0-9._-]{1,4})?\n?", fullmatch=True)
    | st.integers(280, 320).map(lambda length: "secret://".ljust(length, "a"))
)
def test_the_platform_and_its_clients_mean_the_same_by_a_reference(text):
    """The rule stands in both, which don't know each other."""
    try:
        found = Reference.parse(text)
    except MalformedReference:
        assert not is_reference(text)
    else:
        assert is_reference(text)
        assert str(found) == text


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    inside, outside = tmp_path / "secrets", tmp_path / "master_key"
    inside.mkdir()
    outside.write_text("tulip")
    (inside / "smtp").symlink_to(outside)
    (inside / "other").symlink_to("../master_key")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "circle").symlink_to("circle")
    for name in ("smtp", "other", "folder/master_key"):
        with pytest.raises(SecretUnusable, match="leads out of"):
            read(inside, f"secret://{name}")
    with pytest.raises(SecretError):
        read(inside, "secret://circle")


def test_a_link_put_in_place_while_it_is_read_leads_nowhere(tmp_path):
    """Who may write into the folder swaps a file with a link to another of the platform's files, as fast as it can."""
    inside, outside = tmp_path / "secrets", tmp_path / "master_key"
    (inside / "a").mkdir(parents=True)
    outside.write_text("MASTER")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "smtp").write_text("MASTER")
    done = threading.Event()

    def swap():
        while not done.is_set():
            for make in (lambda p: p.write_text("tulip"), lambda p: p.symlink_to(outside)):
                make(inside / "a" / "new")
                (inside / "a" / "new").rename(inside / "a" / "smtp")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(2_000):
            try:
                seen.add(read(inside, "secret://a/smtp"))
            except SecretError:
                seen.add("refused")
    finally:
        done.set()
        swapping.join(10)
    assert "tulip" in seen
    assert "MASTER" not in seen


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b"", "empty"), (b"\n", "empty"), (b"tulip\0bulb", "NUL"), (b"\xff\xfe\x00tulip", "not UTF-8"),
        (b"x" * 65_537, "longer than 65,536 bytes"), (b"x" * 10_000_000, "longer than 65,536 bytes"),
        ("ä".encode() * 32_769, "longer than"),
    ],
)  # fmt: skip
def test_what_is_no_text_for_a_setting_is_refused_without_being_shown(tmp_path, written, why):
    (tmp_path / "smtp").write_bytes(written)
    with pytest.raises(SecretUnusable, match=why) as refused:
        read(tmp_path, "secret://smtp")
    assert "tulip" not in str(refused.value)


def test_as_long_as_may_be(tmp_path):
    (tmp_path / "smtp").write_bytes(b"x" * 65_536 + b"\r\n")
    assert len(read(tmp_path, "secret://smtp")) == 65_536


def test_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "smtp")
    with pytest.raises(SecretUnusable, match="not a file"):
        read(tmp_path, "secret://smtp")


def test_a_folder_that_isnt_there_is_a_store_that_is_down(tmp_path):
    with pytest.raises(StoreUnavailable, match="No such file"):
        read(tmp_path / "gone", "secret://smtp")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="not a folder"):
        Files(tmp_path / "file").maintain()
    with pytest.raises(SecretNotFound):
        read(tmp_path, "secret://smtp")
    with pytest.raises(SecretUnusable, match="too long"):
        read(tmp_path, "secret://" + "a" * 280)
