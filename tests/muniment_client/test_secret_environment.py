"""Secrets in environment variables."""

import pytest

from infra.settings import SETTINGS
from muniment_client.secrets import Environment, Reference, SecretNotFound, SecretUnusable
from muniment_client.secrets.environment import PREFIX

VARIABLES = {
    "MUNIMENT_SECRET_SMTP_MAIN": "tulip",
    "MUNIMENT_SECRET_SMTP_MAIN_V2": "bulb",
    "MUNIMENT_SECRET_DATABASE_V9": "nine",
    "MUNIMENT_SECRET_DATABASE_V10": "ten",
    "MUNIMENT_SECRET_EMPTY": "",
    "MUNIMENT_MASTER_KEY": "never",
}


@pytest.mark.parametrize(
    ("text", "value", "version"),
    [
        ("secret://smtp/main", "tulip", None), ("secret://smtp-main", "tulip", None),
        ("secret://smtp/main#2", "bulb", "2"), ("secret://database", "ten", "10"), ("secret://database#9", "nine", "9"),
    ],
)  # fmt: skip
def test_a_name_is_a_variable(text, value, version):
    found = Environment(VARIABLES).fetch(Reference.parse(text))
    assert (found.value.reveal(), found.version) == (value, version)


def test_names_the_variable_that_is_missing_or_empty():
    with pytest.raises(SecretNotFound, match="no variable MUNIMENT_SECRET_SMTP_V3"):
        Environment(VARIABLES).fetch(Reference("smtp", "3"))
    with pytest.raises(SecretUnusable, match="empty"):
        Environment(VARIABLES).fetch(Reference("empty"))
    with pytest.raises(SecretNotFound):
        Environment(VARIABLES).fetch(Reference("master_key"))


def test_no_setting_of_the_platform_can_be_named_as_a_secret():
    """Else whoever may change configuration could have Vault's own token sent to a mail server."""
    assert not [each.variable for each in SETTINGS.values() if each.variable.startswith(PREFIX)]
