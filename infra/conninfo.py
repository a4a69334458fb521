"""Connection strings with time limits: a server that vanishes without a word is noticed within seconds."""

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CONNECT_SECONDS = 5
SILENCE_SECONDS = 15
"""How long a server may leave what was sent unacknowledged. Without this, the system waits for a quarter of an hour."""


def bounded(conninfo: str, connect_seconds: float = CONNECT_SECONDS) -> str:
    """The connection string with limits for connecting and for silence, where it doesn't set its own.

    Those for silence mean TCP only (libpq's documentation, 32.1.2); a local server's end is always noticed.
    """
    limits = {
        "connect_timeout": max(2, round(connect_seconds)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "tcp_user_timeout": SILENCE_SECONDS * 1000,
    }
    given = conninfo_to_dict(conninfo)
    return make_conninfo(conninfo, **{name: value for name, value in limits.items() if name not in given})
