"""What a child process is told: our settings, and nothing that it needn't know."""

import os
from dataclasses import replace

from infra.settings import Settings
from muniment_client.secrets.environment import PREFIX as SECRETS
from runtime import modules

KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE", "XDG_RUNTIME_DIR",
)  # fmt: skip


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a part with these settings. Modules of one's own say which variables they need beside."""
    kept = {name: os.environ[name] for name in (*KEPT, *modules.registry().variables) if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(SECRETS)}
    return kept | replace(settings, admin_password="").to_env() | {"PYTHONUNBUFFERED": "1"}
