"""The stores that references to secrets (`secret://name#version`) are resolved by, as the settings say."""

from pathlib import Path
from typing import Any

from infra.setting import SettingsError, Values
from infra.settings import Settings
from muniment_client.secrets import Access, Engine, Patience, SecretStores, StoreMalformed, open_stores

__all__ = ["StoreMalformed", "open_secret_stores", "stores_of"]


def open_secret_stores(settings: Settings) -> SecretStores:
    """Opens no connection. Raises SettingsError, as `Settings.from_env` has done before (`infra.setting_rules`)."""
    try:
        return stores_of(vars(settings))
    except StoreMalformed as error:
        raise SettingsError(f"MUNIMENT_SECRETS_STORE: {error}") from None


def stores_of(values: Values) -> SecretStores:
    """The same, of the values of these settings by name. Raises StoreMalformed for such as can't be."""
    return open_stores(
        values["secrets_store"],
        Access(
            token=values["secrets_token"],
            token_file=_path(values["secrets_token_file"]),
            ca=_path(values["secrets_ca"]),
            engine=Engine(values["secrets_mount"], values["secrets_prefix"], values["secrets_namespace"]),
        ),
        Patience(
            refresh_seconds=values["secrets_refresh_seconds"],
            last_good_seconds=values["secrets_last_good_seconds"],
            timeout_seconds=values["secrets_timeout_seconds"],
        ),
    )


def _path(text: Any) -> Path | None:
    return Path(text) if text else None
