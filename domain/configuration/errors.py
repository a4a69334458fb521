"""What can go wrong with configuration."""

from domain.errors import Conflict, Invalid, NotFound, Unavailable


class NamespaceNotFound(NotFound):
    """There is no such namespace."""

    code = "namespace-not-found"


class NamespaceReserved(Conflict):
    """This namespace is the platform's own; its schema comes with the software."""

    code = "namespace-reserved"


class TooManyNamespaces(Conflict):
    """As many namespaces are declared as may be; withdraw one that nobody needs."""

    code = "too-many-namespaces"


class VersionNotFound(NotFound):
    """This namespace has no such version."""

    code = "config-version-not-found"


class InvalidSchema(Invalid):
    """This is no schema for configuration."""

    code = "invalid-schema"


class InvalidDocument(Invalid):
    """This document can't be taken."""

    code = "invalid-config"


class NewerDocument(Unavailable):
    """A newer release wrote this document; ask a process that runs it."""

    code = "newer-config"


class SecretStoreUnavailable(Unavailable):
    """The store of secrets doesn't answer, so a reference can't be checked."""

    code = "secret-store-unavailable"
