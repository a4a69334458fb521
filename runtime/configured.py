"""The configuration of a process, put together for its part: read before it begins, followed while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from infra.configuration.instance import Instance
from infra.configuration.telling import Acknowledgements
from infra.secret_stores import open_secret_stores
from infra.settings import Settings
from runtime.core import Core, build_core
from runtime.secret_gauges import show_secrets


def instance_of(settings: Settings, part: str) -> Instance:
    """This process, with what is stored now. Raises SettingsError."""
    stores = open_secret_stores(settings)
    show_secrets(stores)
    return Instance(settings, part, stores)


def begin(instance: Instance, core: Core) -> None:
    """Follows what is stored from now on, and tells what this process runs with."""
    lease_seconds = instance.live.value(lambda settings: settings.config_lease_seconds)
    tells = Acknowledgements(core.pool.connection, instance.presence, instance.namespaces, lease_seconds=lease_seconds)
    instance.start(tells)


@contextmanager
def configured(settings: Settings, part: str) -> Iterator[Core]:
    """All that a part is built from, with the configuration as it is stored, now and later. Raises SettingsError."""
    with instance_of(settings, part) as instance:
        core = build_core(instance.live)
        try:
            begin(instance, core)
            yield core
        finally:
            instance.stop()
            core.close()
