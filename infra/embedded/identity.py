"""As whom PostgreSQL runs: it refuses to be root, and wants to find its user in the list of users."""

import os
import pwd


def postgres_identity() -> str:
    """An identity for launch.py: ourselves, or, for root and for nameless users, ourselves under another number."""
    mine = os.geteuid()
    names = {entry.pw_uid: entry for entry in pwd.getpwall()}
    if mine != 0 and mine in names:
        return "self"
    other = next(entry for uid, entry in sorted(names.items(), reverse=True) if uid != 0)
    return f"namespace:{other.pw_uid}:{other.pw_gid}"
