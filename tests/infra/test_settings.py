"""Settings as data: the environment, the schemas and the documentation say the same of them."""

from typing import Any

import pytest

from domain.configuration import InvalidDocument, NamespaceName
from infra.configuration.schemas import SCHEMAS
from infra.setting_rules import RULES
from infra.settings import SECTIONS, SETTINGS, Settings, SettingsError

HOT = [
    "bcrypt_cost", "access_token_seconds", "refresh_token_seconds", "session_limit_seconds",
    "refresh_grace_seconds", "password_least_chars", "lockout_failures", "lockout_first_seconds",
    "lockout_longest_seconds", "login_account_limit", "login_address_limit", "queue_limit", "body_limit_bytes",
    "commit_queue_limit", "live_readers", "session_cache_size", "token_cache_size", "access_cache_size",
    "user_cache_size", "cache_seconds", "shared_cache_seconds", "page_size", "page_limit", "worker_threads",
    "worker_async_tasks", "worker_claim_ahead", "retry_first_seconds", "retry_factor", "retry_longest_seconds",
    "log_level",
]  # fmt: skip
RESTART_ONLY = [
    "host", "port", "data", "postgres_url", "redis_url", "modules", "api_workers", "threads", "pool_size", "kafka",
    "worker_queues",
]  # fmt: skip


def of(name: str) -> str:
    return SETTINGS[name].section.namespace


def refused(namespace: str, **values: Any) -> set[str]:
    """The fields that the schema names."""
    try:
        SCHEMAS[namespace].check(values)
    except InvalidDocument as error:
        return {each.field for each in error.errors}
    return set()


def test_every_namespace_has_a_name_that_can_be_one_and_a_schema():
    assert [NamespaceName(section.namespace) for section in SECTIONS] == list(SCHEMAS)
    assert set(RULES) <= set(SCHEMAS)


@pytest.mark.parametrize("name", HOT)
def test_what_operators_tune_changes_at_once(name):
    assert SETTINGS[name].hot
    assert name not in SCHEMAS[of(name)].restart_only


@pytest.mark.parametrize("name", RESTART_ONLY)
def test_addresses_ports_folders_and_what_connections_are_made_with_change_at_a_restart_only(name):
    assert SCHEMAS[of(name)].restart_only[name] == f"MUNIMENT_{name.upper()}"


def test_a_secret_may_be_stored_by_reference_only_where_it_can_change_at_once():
    assert {each.name for each in SETTINGS.values() if each.reference} == {"smtp_url"}
    assert all(each.secret for each in SETTINGS.values() if each.reference)
    assert all(not each.hot or each.reference for each in SETTINGS.values() if each.secret)


def test_secrets_are_not_shown():
    secret = {each.name: f"hush-{each.name}" for each in SETTINGS.values() if each.secret}
    settings: Any = Settings(**secret)  # type: ignore[arg-type]
    assert "hush" not in repr(settings)
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({"MUNIMENT_SMTP_URL": "smtp://hush@mail.example"})
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("bcrypt_cost", 3, {}),
        ("bcrypt_cost", 17, {}),
        ("page_size", 300, {}),
        ("page_size", 20, {"page_limit": 10}),
        ("log_level", "loud", {}),
        ("login_account_limit", "often", {}),
        ("login_address_limit", "0/minute", {}),
        ("trusted_proxies", "home", {}),
        ("proxy_header", "x-real-ip", {}),
        ("allowed_origins", "shop.example", {}),
        ("default_role", "Captain!", {}),
        ("lockout_first_seconds", 600, {"lockout_longest_seconds": 60}),
        ("retry_first_seconds", 9.0, {"retry_longest_seconds": 3.0}),
        ("live_heartbeat_seconds", 0, {}),
        ("verification_link", "https://app.example/verify", {}),
        ("verification_link", "javascript:alert(1)//{token}", {}),
        ("verification_link", "https://app.example/{token}\r\n\r\nElsewhere: it goes on", {}),
        ("mail_from", "ada@engine.example\r\nBcc: everybody@engine.example", {}),
    ],
)
def test_the_environment_and_the_schema_refuse_the_same(name, value, others):
    variables = {f"MUNIMENT_{key.upper()}": str(given) for key, given in {name: value, **others}.items()}
    with pytest.raises(SettingsError, match=f"MUNIMENT_{name.upper()}: "):
        Settings.from_env(variables)
    assert name in refused(of(name), **{name: value}, **others)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("login_account_limit", "20/minute"),
        ("login_address_limit", "100/5 minutes"),
        ("allowed_origins", "https://a.example, http://b.example:8080"),
        ("default_role", "customer@/shop"),
        ("trusted_proxies", "10.0.0.0/8,::1"),
        ("verification_link", "shop-app://verify/{token}"),
        ("mail_from", "Ada Lovelace <ada@engine.example>"),
        ("log_level", "debug"),
        ("page_size", 200),
    ],
)
def test_the_environment_and_the_schema_take_the_same(name, value):
    settings = Settings.from_env({f"MUNIMENT_{name.upper()}": str(value)})
    assert getattr(settings, name) == value
    assert refused(of(name), **{name: value}) == set()


def test_what_the_environment_writes_in_capitals_is_as_the_schema_has_it():
    assert Settings.from_env({"MUNIMENT_LOG_LEVEL": "INFO"}) == Settings()


@pytest.mark.parametrize("name", [each.name for each in SETTINGS.values() if each.kind is float])
def test_no_bound_lets_pass_what_is_no_number(name):
    if SETTINGS[name].bounds:
        with pytest.raises(SettingsError):
            Settings.from_env({f"MUNIMENT_{name.upper()}": "nan"})


def test_every_key_of_a_schema_says_what_it_means_and_with_what_unit():
    for namespace, schema in SCHEMAS.items():
        for name, said in schema.properties.items():
            assert said["description"], name
            assert "default" in said, name
            assert SETTINGS[name].section.namespace == namespace
            if name.endswith("_seconds"):
                assert said["x-unit"] == "s"
