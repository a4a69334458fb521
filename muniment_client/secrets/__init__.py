"""Secrets by reference: `secret://name#version` in a configuration, its value in a store.

    stores = open_stores("files:/run/secrets,environment")
    password = stores.resolve("secret://database/password").reveal()

For services of one's own as for the platform, which stores, logs and answers references only.
"""

from muniment_client.secrets.environment import Environment
from muniment_client.secrets.files import Files
from muniment_client.secrets.hidden import Hidden
from muniment_client.secrets.opening import Access, StoreMalformed, open_stores
from muniment_client.secrets.store import (
    MalformedReference,
    Reference,
    SecretError,
    SecretForbidden,
    SecretNotFound,
    SecretStore,
    SecretUnusable,
    SecretValue,
    StoreUnavailable,
)
from muniment_client.secrets.stores import Patience, SecretStores, Status, StoreStatus
from muniment_client.secrets.token import Token
from muniment_client.secrets.vault import Engine, Vault
from muniment_client.secrets.watch import Watch

__all__ = [
    "Access",
    "Engine",
    "Environment",
    "Files",
    "Hidden",
    "MalformedReference",
    "Patience",
    "Reference",
    "SecretError",
    "SecretForbidden",
    "SecretNotFound",
    "SecretStore",
    "SecretStores",
    "SecretUnusable",
    "SecretValue",
    "Status",
    "StoreMalformed",
    "StoreStatus",
    "StoreUnavailable",
    "Token",
    "Vault",
    "Watch",
    "open_stores",
]
