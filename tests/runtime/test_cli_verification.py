"""`muniment projections verify` and `repair`, and the standing look at a few streams at a time."""

import json
import time
from threading import Event
from uuid import uuid4

import psycopg
import pytest

from projections.identity import USERS
from projections.verification import totals
from runtime.cli.projections.verification import Share
from runtime.core import open_core
from runtime.verifying import look_around, standing
from tests.runtime.cli_site import Site


@pytest.fixture
def database(cli_site: Site):
    with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def broken(cli_site: Site, database):
    """A user whose row was damaged by hand."""
    user = cli_site.user(f"{uuid4().hex}@engine.example")
    cli_site.done("users", "list")  # waits for the view
    damage = "update identity_users_v1_b1 set name = 'Nobody', suspended_reason = 'by hand' where id = %s"
    assert database.execute(damage, (user,)).rowcount == 1
    yield user
    cli_site.done("projections", "repair", "identity", "--stream", user)


class TestVerify:
    @pytest.mark.parametrize("view", ["identity", "access", "audit"])
    def test_of_a_sound_view_finds_nothing(self, cli_site: Site, view):
        found = cli_site.json("projections", "verify", view, "--all")
        assert (found["differing_streams"], found["differences"], found["sample"]) == (0, [], "all")
        assert found["streams"] > 0

    @pytest.mark.parametrize(("sample", "said"), [("1%", "1 %"), ("12.5%", "12.5 %"), ("30%", "30 %"), ("100%", "all")])
    def test_says_which_share_it_looked_at(self, cli_site: Site, sample, said):
        assert cli_site.json("projections", "verify", "identity", "--sample", sample)["sample"] == said

    def test_a_sample_without_any_stream_is_said_to_be_none(self, cli_site: Site):
        result = cli_site.done("projections", "verify", "identity", "--sample", "0.0001%")
        assert "no stream fell into the sample; --all looks at every one" in result.stderr
        assert "as of position" not in result.stderr

    def test_names_the_row_and_what_it_should_say_without_what_is_personal(self, cli_site: Site, broken):
        result = cli_site.call("projections", "verify", "identity", "--stream", broken)
        assert result.exit_code == 1
        assert f"stream {broken}: users id={broken}: " in result.output
        assert "suspended_reason is by hand, should be" in result.output
        assert "name differs (personal)" in result.output
        assert "Nobody" not in result.output
        assert "@engine.example" not in cli_site.call("projections", "verify", "identity", "--all", "--json").output

    def test_records_what_it_finds_for_the_first_time_and_only_then(self, cli_site: Site, broken):
        def findings():
            return [e for e in cli_site.events("projections.DifferencesFound") if broken in map(str, e.event.streams)]

        for _ in range(2):
            cli_site.call("projections", "verify", "identity", "--stream", broken, "--as", "grace")
        (finding,) = findings()
        assert (finding.event.projection, finding.event.rows) == ("identity", 1)
        assert finding.metadata.actor == "operator:grace"
        cli_site.done("projections", "repair", "identity", "--stream", broken)
        listed = cli_site.json("audit", "list", "--action", "projection.differences-found")
        assert broken in [stream for entry in listed["items"] for stream in entry["detail"]["streams"]]

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (("nowhere",), 1, "no projection 'nowhere'"),
            (("identity", "--sample", "150%"), 2, "no share"),
            (("identity", "--sample", "nan"), 2, "no share"),
            (("identity", "--sample", "1%", "--all"), 2, "not several"),
            (("identity", "--stream", "me"), 2, "not a valid UUID"),
        ],
    )
    def test_says_in_one_line_what_is_wrong(self, cli_site: Site, arguments, code, says):
        result = cli_site.call("projections", "verify", *arguments)
        assert (result.exit_code, says in result.output) == (code, True), result.output

    def test_of_a_stream_that_does_not_exist_finds_nothing(self, cli_site: Site):
        found = cli_site.json("projections", "verify", "access", "--stream", uuid4())
        assert (found["streams"], found["events"], found["differing"]) == (1, 0, [])


class TestRepair:
    def test_writes_the_row_anew_and_says_that_it_is_sound(self, cli_site: Site, broken, database):
        result = cli_site.done("projections", "repair", "identity", "--stream", broken, "--as", "grace")
        assert "no rows of no streams differ" in result.output
        row = database.execute("select name, suspended_reason from identity_users_v1_b1 where id = %s", (broken,))
        assert row.fetchone() == ("Ada Byron", None)
        assert cli_site.events("projections.StreamRepaired")[-1].metadata.actor == "operator:grace"

    def test_of_the_audit_log_is_refused(self, cli_site: Site):
        before = len(cli_site.events("projections.StreamRepaired"))
        result = cli_site.call("projections", "repair", "audit", "--stream", uuid4())
        assert (result.exit_code, "only ever rebuilt" in result.output) == (1, True)
        assert len(cli_site.events("projections.StreamRepaired")) == before

    def test_takes_away_a_role_that_nobody_defined(self, cli_site: Site, database):
        cli_site.done("roles", "list")
        database.execute(
            "insert into access_permissions_v1_b1 (role, pattern, from_position, from_at, from_by)"
            " values ('backdoor', '*', 1, now(), 'nobody')"
        )
        result = cli_site.call("projections", "verify", "access", "--all", "--json")
        assert result.exit_code == 1
        (difference,) = json.loads(result.stdout)["differences"]
        assert (difference["live"]["role"], difference["folded"]) == ("backdoor", None)
        cli_site.done("projections", "repair", "access", "--stream", difference["stream"])
        assert cli_site.json("projections", "verify", "access", "--all")["differing_streams"] == 0


class TestTheStandingLook:
    def test_comes_to_every_stream_in_turn_and_finds_what_is_wrong(self, cli_site: Site, broken, database):
        with open_core(cli_site.settings) as core:
            seen = set()
            for _ in range(60):
                for found in look_around(core, 10):
                    seen.update(found.differing)
                if broken in map(str, seen):
                    break
            assert broken in map(str, seen)
            (known,) = [each for each in totals(database) if each.projection == "identity"]
            assert (known.open, known.differences_total >= 1) == (1, True)

    def test_goes_on_where_it_was_and_begins_anew_after_the_end(self, cli_site: Site, database):
        with open_core(cli_site.settings) as core:
            before = {each.projection: each.rounds_total for each in totals(database)}
            while {each.projection: each.rounds_total for each in totals(database)}.get("identity", 0) == before.get(
                "identity", 0
            ):
                assert all(found.streams <= 40 for found in look_around(core, 10))

    def test_waits_for_the_lease_and_for_its_time(self, cli_site: Site, database):
        def looked_at():
            return sum(each.streams_total for each in totals(database))

        leading = Event()
        with open_core(cli_site.settings) as core, standing(core, leading, round_seconds=0.05):
            before = looked_at()
            time.sleep(0.3)
            assert looked_at() == before
            leading.set()
            deadline = time.monotonic() + 20
            while looked_at() == before:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_share_is_written_in_either_way():
    assert [Share().convert(text, None, None) for text in ("1%", "0.5%", "0.25", "100%")] == [0.01, 0.005, 0.25, 1.0]


def test_all_views_of_the_platform_say_who_owns_their_rows():
    from projections.verification import is_verifiable
    from runtime import modules

    assert all(is_verifiable(projection) for projection in modules.projections())
    assert USERS in modules.projections()
