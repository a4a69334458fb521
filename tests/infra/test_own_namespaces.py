"""The platform's own namespaces, as they are made from the settings."""

import pytest

from domain.configuration import HIDDEN, DocumentSchema
from infra.configuration.schemas import SCHEMAS, file_values
from infra.settings import SETTINGS, Settings


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_its_schema_is_one_that_anybody_could_declare_and_its_defaults_fit_it(name):
    schema = SCHEMAS[name]
    DocumentSchema.declared(schema.json_schema)
    assert schema.check({}) == schema.defaults()
    assert set(schema.defaults()) == set(schema.properties)


def test_each_setting_is_a_key_of_one_namespace():
    keys = [key for schema in SCHEMAS.values() for key in schema.properties]
    assert sorted(keys) == sorted(SETTINGS)


def test_every_key_says_what_it_is_and_what_it_may_be():
    for schema in SCHEMAS.values():
        for key, said in schema.properties.items():
            assert said["description"], key
            assert said["type"] != "integer" or "minimum" in said, key
            assert bool(said.get("x-restart")) == (key in schema.restart_only)


def test_the_environment_is_a_layer_between_the_defaults_and_what_is_stored():
    settings = Settings(page_size=20, smtp_url="smtp://ada:hunter2@mail.example", mail_from="a@e.example")
    api, onboarding = file_values(settings, "api"), file_values(settings, "onboarding")
    assert SCHEMAS["api"].merged({"page_limit": 300}, api)["page_size"] == 20
    assert SCHEMAS["api"].sources({"page_limit": 300}, api)["page_size"] == "file"
    assert onboarding["smtp_url"] == HIDDEN
    SCHEMAS["onboarding"].check({}, onboarding)


def test_every_key_says_which_variable_sets_it():
    said = {key: text["x-variable"] for schema in SCHEMAS.values() for key, text in schema.properties.items()}
    assert said == {name: setting.variable for name, setting in SETTINGS.items()}
