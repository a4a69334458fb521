"""What a store needs before the parts can run on it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from commands.jobs.schedules import OwnSchedule, PlanRequest
from infra.settings import Settings, SettingsError
from runtime import modules
from runtime.cli import cli
from runtime.cli.wired import Wired
from runtime.core import open_core
from runtime.module import Module
from runtime.registry import Registry
from runtime.start import first_facts, migrate
from stream_apps.jobs.chores import TIMES

ADMIN = {"admin_email": "ada@engine.example", "admin_password": "analytical engine"}


def settings_of(database: str, folder: Path, **given: str) -> Settings:
    return Settings(postgres_url=database, data=folder, bcrypt_cost=4, **(ADMIN | given))


def topics(settings: Settings) -> list[str]:
    with open_core(settings) as core:
        return [recorded.topic for recorded in core.log.read(0, 1000)]


def test_migrate_apply_makes_a_store_that_the_parts_can_run_on(empty_database, tmp_path):
    settings = settings_of(empty_database, tmp_path)
    result = CliRunner().invoke(cli, ["migrate", "apply"], obj=Wired(settings))
    assert result.exit_code == 0, result.output
    with psycopg.connect(empty_database) as connection:
        active = {row[0] for row in connection.execute("select projection from projection_builds where active")}
    assert active == {projection.name for projection in modules.projections()}
    assert {"identity.KeyringStarted", "identity.UserRegistered", "access.RoleAssigned"} <= set(topics(settings))


def test_a_second_start_adds_no_fact(empty_database, tmp_path):
    settings = settings_of(empty_database, tmp_path)
    migrate(settings, lambda _: None)
    first_facts(settings, lambda _: None)
    before = topics(settings)
    first_facts(settings, lambda _: None)
    assert topics(settings) == before


def test_the_modules_schedules_are_created_once(empty_database, tmp_path, monkeypatch):
    settings = settings_of(empty_database, tmp_path)
    migrate(settings, lambda _: None)
    own = OwnSchedule("bakery.daily", PlanRequest(cron="0 5 * * *", type="muniment.noop"))
    whole = Registry(modules.MODULES, (Module("bakery", schedules=(own,)),))
    monkeypatch.setattr(modules, "registry", lambda: whole)
    for _ in range(2):
        first_facts(settings, lambda _: None)
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("select name, cron from job_schedules").fetchall()
    assert sorted(found) == sorted([("bakery.daily", "0 5 * * *"), *((each.name, each.plan.cron) for each in TIMES)])


def test_two_first_starts_at_once_make_one_administrator(empty_database, tmp_path):
    settings = settings_of(empty_database, tmp_path)
    migrate(settings, lambda _: None)
    with open_core(settings):
        pass  # the secrets lie in one folder; two hosts are given theirs
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: first_facts(settings, lambda _: None), range(2)))
    found = topics(settings)
    assert (found.count("identity.UserRegistered"), found.count("identity.KeyringStarted")) == (1, 1)


def test_the_keyring_is_made_whole_in_one_commit(empty_database, tmp_path):
    """Else two first starts with different secrets could each add a key that the other can't open."""
    settings = settings_of(empty_database, tmp_path)
    migrate(settings, lambda _: None)
    first_facts(settings, lambda _: None)
    with psycopg.connect(empty_database) as connection:
        commits = connection.execute(
            "select count(*), count(distinct convert_from(metadata, 'utf8')::jsonb ->> 'save')"
            " from stored_events where topic in ('identity.KeyringStarted', 'identity.KeyAdded')"
        ).fetchone()
    assert commits == (3, 1)


def test_a_generated_password_is_told_once(empty_database, tmp_path):
    settings = settings_of(empty_database, tmp_path, admin_password="")
    migrate(settings, lambda _: None)
    said: list[str] = []
    first_facts(settings, said.append)
    first_facts(settings, said.append)
    assert [line.partition(":")[0] for line in said] == ["administrator", "password (shown this once)"]


def test_a_weak_password_for_the_administrator_is_named(empty_database, tmp_path):
    settings = settings_of(empty_database, tmp_path, admin_password="short")
    migrate(settings, lambda _: None)
    with pytest.raises(SettingsError, match="MUNIMENT_ADMIN_PASSWORD: password: at least 10"):
        first_facts(settings, lambda _: None)


def test_a_store_with_facts_makes_no_new_secrets(empty_database, tmp_path):
    settings = settings_of(empty_database, tmp_path / "first")
    migrate(settings, lambda _: None)
    first_facts(settings, lambda _: None)
    with (
        pytest.raises(SettingsError, match="MUNIMENT_MASTER_KEY"),
        open_core(settings_of(empty_database, tmp_path / "b")),
    ):
        pass
