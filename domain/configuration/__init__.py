"""Configuration: namespaces, the schemas of their documents, and what is stored of these."""

from domain.configuration.document import ABSENT, Change, canonical, differences, merge_patch
from domain.configuration.errors import (
    InvalidDocument,
    InvalidSchema,
    NamespaceNotFound,
    NamespaceReserved,
    NewerDocument,
    SecretStoreUnavailable,
    TooManyNamespaces,
    VersionNotFound,
)
from domain.configuration.namespace import Namespace, NamespaceName
from domain.configuration.schema import HIDDEN, DocumentSchema, Rule, Source, Upcast

__all__ = [
    "ABSENT",
    "HIDDEN",
    "Change",
    "DocumentSchema",
    "InvalidDocument",
    "InvalidSchema",
    "Namespace",
    "NamespaceName",
    "NamespaceNotFound",
    "NamespaceReserved",
    "NewerDocument",
    "Rule",
    "SecretStoreUnavailable",
    "Source",
    "TooManyNamespaces",
    "Upcast",
    "VersionNotFound",
    "canonical",
    "differences",
    "merge_patch",
]
