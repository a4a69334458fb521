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
from domain.configuration.reference import SecretReference
from domain.configuration.schema import HIDDEN, DocumentSchema, FoundReference, Rule, Source, Upcast

__all__ = [
    "ABSENT",
    "HIDDEN",
    "Change",
    "DocumentSchema",
    "FoundReference",
    "InvalidDocument",
    "InvalidSchema",
    "Namespace",
    "NamespaceName",
    "NamespaceNotFound",
    "NamespaceReserved",
    "NewerDocument",
    "Rule",
    "SecretReference",
    "SecretStoreUnavailable",
    "Source",
    "TooManyNamespaces",
    "Upcast",
    "VersionNotFound",
    "canonical",
    "differences",
    "merge_patch",
]
