"""From what is stored to what a process runs with: precedence, refusals, and what counts in place of the refused."""

from dataclasses import replace
from typing import Any

import pytest

from domain.errors import FieldError
from infra.configuration import schemas
from infra.configuration.schemas import SCHEMAS
from infra.configuration.snapshot import Builder, Built, Document
from infra.mail import MailServer, MailUnavailable
from infra.settings import Settings
from muniment_client.secrets import Environment, Hidden, Patience, SecretStores, SecretValue, StoreUnavailable

SMTP = "smtp://mail:pa55word@mail.example:25"
BASE = Settings(page_limit=100, mail_from="engine@engine.example")


def document(namespace: str, version: int, values: dict[str, Any], schema_version: int = 1) -> Document:
    return Document(namespace, version, version * 10, schema_version, values)


def newest(*documents: Document) -> dict[str, Document]:
    return {each.namespace: each for each in documents}


def why(built: Built, namespace: str) -> list[str]:
    return [f"{each.field}: {each.message}" for each in built.refused[namespace].errors]


class Store:
    """A store of secrets that can be away."""

    kind = "store"

    def __init__(self, **values: str) -> None:
        self.values, self.is_away = values, False

    def fetch(self, reference: Any) -> SecretValue:
        if self.is_away:
            raise StoreUnavailable("the store is away")
        return SecretValue(Hidden(self.values[reference.name]))

    def maintain(self) -> None:
        """Nothing."""


def test_what_is_stored_comes_before_the_environment_and_that_before_the_default():
    built = Builder(BASE).build(newest(document("api", 3, {"page_size": 7}), document("identity", 5, {})))
    settings = built.snapshot.settings
    assert (settings.page_size, settings.page_limit, settings.bcrypt_cost) == (7, 100, Settings().bcrypt_cost)
    assert built.snapshot.version == 50
    assert {name: version for name, version in built.snapshot.running.items() if version} == {"api": 3, "identity": 5}
    assert set(built.snapshot.running) == set(SCHEMAS)


def test_nothing_stored_is_the_environment():
    built = Builder(BASE).build({})
    assert (built.snapshot.settings, built.snapshot.version, built.refused) == (BASE, 0, {})


def test_a_key_that_is_not_stored_any_more_is_as_the_environment_says():
    builder = Builder(BASE)
    before = builder.build(newest(document("api", 2, {"page_limit": 50})))
    after = builder.build(newest(document("api", 3, {})), before)
    assert (before.snapshot.settings.page_limit, after.snapshot.settings.page_limit) == (50, 100)


def test_a_whole_number_is_a_float_where_one_is_meant():
    built = Builder(BASE).build(newest(document("api", 1, {"slow_request_seconds": 2})))
    assert isinstance(built.snapshot.settings.slow_request_seconds, float)


def test_every_wrong_field_is_named_and_the_last_good_one_counts():
    builder = Builder(BASE)
    good = builder.build(newest(document("api", 2, {"page_size": 7})))
    bad = newest(document("api", 3, {"page_size": 0, "body_limit_bytes": "many", "no_such_key": 1}))
    built = builder.build(bad, good)
    assert {each.field for each in built.refused["api"].errors} == {"page_size", "body_limit_bytes", "no_such_key"}
    assert built.refused["api"].version == 3
    assert (built.snapshot.settings.page_size, built.snapshot.running["api"], built.snapshot.version) == (7, 2, 20)


def test_the_rules_across_fields_count_with_what_this_processs_own_environment_says():
    stored = newest(document("api", 1, {"page_size": 150}))
    assert why(Builder(BASE).build(stored), "api") == ["page_size: at most page_limit, which is 100"]
    assert Builder(replace(BASE, page_limit=200)).build(stored).refused == {}


def test_what_one_namespace_refuses_keeps_no_other_away():
    builder = Builder(BASE)
    first = builder.build(newest(document("api", 1, {"page_size": 0})))
    second = builder.build(
        newest(document("api", 1, {"page_size": 0}), document("identity", 9, {"bcrypt_cost": 6})), first
    )
    assert second.snapshot.settings.bcrypt_cost == 6
    assert set(second.refused) == {"api"}
    assert second.acknowledgement.running["identity"] == 9
    assert second.acknowledgement.running["api"] == 0


def test_a_document_that_a_newer_release_wrote_is_refused_with_the_reason_and_the_last_good_one_counts():
    builder = Builder(BASE)
    good = builder.build(newest(document("api", 2, {"page_size": 7})))
    built = builder.build(newest(document("api", 3, {"page_size": 9, "of_tomorrow": 1}, schema_version=2)), good)
    assert built.snapshot.settings.page_size == 7
    assert why(built, "api") == [": this document was written for schema 2; this process knows 1"]


def test_a_document_of_an_older_schema_is_brought_up(monkeypatch):
    renamed = replace(
        SCHEMAS["api"], version=2, upcasts={1: lambda values: {"page_size": values.pop("items_of_a_page"), **values}}
    )
    monkeypatch.setitem(schemas.SCHEMAS, "api", renamed)
    built = Builder(BASE).build(newest(document("api", 2, {"items_of_a_page": 7}, schema_version=1)))
    assert (built.snapshot.settings.page_size, built.refused) == (7, {})


def test_an_upcast_that_fails_is_a_refusal(monkeypatch):
    broken = replace(SCHEMAS["api"], version=2, upcasts={1: lambda values: values["not there"]})
    monkeypatch.setitem(schemas.SCHEMAS, "api", broken)
    built = Builder(BASE).build(newest(document("api", 2, {"page_size": 7}, schema_version=1)))
    assert built.refused["api"].errors
    assert built.snapshot.settings == BASE


def test_at_the_start_the_newest_former_document_that_will_do_counts():
    past = [document("api", 4, {"page_size": -1}), document("api", 3, {"page_size": 9}), document("api", 2, {})]
    builder = Builder(BASE, earlier=lambda of: iter(past))
    built = builder.build(newest(document("api", 5, {"page_size": 0}), document("identity", 6, {"bcrypt_cost": 5})))
    assert (built.snapshot.settings.page_size, built.snapshot.running["api"]) == (9, 3)
    assert built.snapshot.settings.bcrypt_cost == 5
    assert built.refused["api"].version == 5


def test_a_good_version_that_was_missed_before_a_bad_one_counts():
    past = [document("api", version, {"page_size": size}) for version, size in ((5, -1), (4, 9), (3, 8), (2, 7))]
    builder = Builder(BASE, earlier=lambda of: iter(past))
    first = builder.build(newest(document("api", 3, {"page_size": 8})))
    second = builder.build(newest(document("api", 6, {"page_size": 0})), first)
    assert (second.snapshot.settings.page_size, second.snapshot.running["api"]) == (9, 4)
    assert second.refused["api"].version == 6
    third = builder.build(newest(document("api", 6, {"page_size": 0})), second)
    assert third.snapshot.running["api"] == 4


def test_without_any_that_will_do_the_environment_counts():
    builder = Builder(BASE, earlier=lambda of: [document("api", 1, {"page_size": -1})])
    built = builder.build(newest(document("api", 2, {"page_size": 0})))
    assert (built.snapshot.settings, built.snapshot.running["api"]) == (BASE, 0)


def test_what_has_not_changed_is_not_checked_again():
    builder = Builder(BASE)
    first = builder.build(newest(document("api", 1, {"page_size": 7})))
    second = builder.build(newest(document("api", 1, {"page_size": 7}), document("identity", 2, {})), first)
    assert second.taken["api"] is first.taken["api"]


def test_secrets_are_resolved_wherever_their_references_stand():
    stores = SecretStores([Environment({"MUNIMENT_SECRET_MAIL": SMTP})])
    stored = Builder(BASE, stores).build(newest(document("onboarding", 1, {"smtp_url": "secret://mail"})))
    given = Builder(replace(BASE, smtp_url="secret://mail"), stores).build({})
    for built in (stored, given):
        url: Any = built.snapshot.settings.smtp_url
        assert url.reveal() == SMTP
        assert "pa55word" not in repr(built)
        assert built.references == ["secret://mail"]


def test_a_secret_that_cannot_be_had_is_no_reason_to_take_the_rest_of_the_document_at_the_start():
    store = Store(mail=SMTP)
    store.is_away = True
    stored = newest(document("onboarding", 4, {"smtp_url": "secret://mail", "verification_seconds": 99}))
    built = Builder(BASE, SecretStores([store])).build(stored)
    assert built.snapshot.settings.verification_seconds == 99
    assert not built.snapshot.settings.smtp_url
    assert why(built, "onboarding") == ["smtp_url: the store is away"]
    assert built.lacks_secrets


def test_a_document_whose_secret_cannot_be_had_waits_while_another_is_in_use():
    store, now = Store(mail=SMTP), [0.0]
    builder = Builder(BASE, SecretStores([store], Patience(refresh_seconds=0), clock=lambda: now[0]))
    first = builder.build(newest(document("onboarding", 1, {"smtp_url": "secret://mail"})))
    store.is_away = True
    other = newest(document("onboarding", 2, {"smtp_url": "secret://other", "verification_seconds": 99}))
    second = builder.build(other, first)
    url: Any = second.snapshot.settings.smtp_url
    assert (url.reveal(), second.snapshot.running["onboarding"]) == (SMTP, 1)  # the last good value stands for a time
    assert why(second, "onboarding") == ["smtp_url: the store is away"]
    assert second.lacks_secrets
    store.is_away, now[0] = False, 600.0
    store.values["other"] = SMTP.replace("mail:", "post:")
    third = builder.build(other, second)
    assert (third.refused, third.lacks_secrets) == ({}, False)
    assert third.snapshot.running["onboarding"] == 2


def test_after_its_time_the_last_good_value_is_used_no_more_until_it_can_be_had_again():
    store, now = Store(mail=SMTP), [0.0]
    stores = SecretStores([store], Patience(refresh_seconds=30, last_good_seconds=100), clock=lambda: now[0])
    builder = Builder(BASE, stores)
    stored = newest(document("onboarding", 1, {"smtp_url": "secret://mail", "verification_seconds": 99}))
    built = builder.build(stored)
    store.is_away = True
    for now[0], is_used in ((60.0, True), (160.0, False)):
        assert bool(stores.changed()) is not is_used
        built = builder.build(stored, built)
        assert bool(built.snapshot.settings.smtp_url) is is_used
        assert built.snapshot.settings.verification_seconds == 99
    with pytest.raises(MailUnavailable):
        MailServer.of(built.snapshot.settings)
    store.is_away, now[0] = False, 260.0
    assert stores.changed()
    built = builder.build(stored, built)
    assert (built.snapshot.settings.smtp_url, built.refused) == (Hidden(SMTP), {})


def test_a_secret_that_is_no_address_is_refused_without_being_told():
    stores = SecretStores([Environment({"MUNIMENT_SECRET_MAIL": "gopher://pa55word"})])
    built = Builder(BASE, stores).build(newest(document("onboarding", 1, {"smtp_url": "secret://mail"})))
    assert [each.field for each in built.refused["onboarding"].errors] == ["smtp_url"]
    assert "pa55word" not in repr(built)


def test_a_secret_that_is_rotated_to_no_address_is_refused_and_its_last_good_value_counts():
    environ = {"MUNIMENT_SECRET_MAIL": SMTP}
    builder = Builder(BASE, SecretStores([Environment(environ)], Patience(refresh_seconds=0)))
    stored = newest(document("onboarding", 1, {"smtp_url": "secret://mail"}))
    first = builder.build(stored)
    environ["MUNIMENT_SECRET_MAIL"] = "gopher://t00lip"
    second = builder.build(stored, first)
    url: Any = second.snapshot.settings.smtp_url
    assert (url.reveal(), second.snapshot.running["onboarding"]) == (SMTP, 1)
    assert [each.field for each in second.refused["onboarding"].errors] == ["smtp_url"]
    assert "t00lip" not in repr(second)
    environ["MUNIMENT_SECRET_MAIL"] = SMTP.replace("mail:", "post:")
    third = builder.build(stored, second)
    assert (third.snapshot.settings.smtp_url.reveal(), third.refused) == (environ["MUNIMENT_SECRET_MAIL"], {})


def test_a_value_in_place_of_a_reference_is_refused_without_being_told():
    built = Builder(BASE).build(newest(document("onboarding", 1, {"smtp_url": SMTP})))
    assert [each.field for each in built.refused["onboarding"].errors] == ["smtp_url"]
    assert "pa55word" not in repr(built.refused)


@pytest.mark.parametrize("namespace", sorted(SCHEMAS))
def test_the_defaults_of_a_namespace_fit_its_own_schema(namespace):
    SCHEMAS[namespace].check_defaults()
    assert Builder(Settings()).build(newest(document(namespace, 1, {}))).refused == {}


def test_restart_only_keys_are_refused_naming_the_variable():
    built = Builder(BASE).build(newest(document("platform", 1, {"port": 9})))
    (error,) = built.refused["platform"].errors
    assert isinstance(error, FieldError)
    assert (error.field, "MUNIMENT_PORT" in error.message) == ("port", True)
