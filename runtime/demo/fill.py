"""Fills the company in. Looks first and adds only what isn't there: twice is as good as once."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from runtime.demo.client import Client, DemoError, told
from runtime.demo.company import (
    ATTEMPTS,
    DOMAIN,
    FORGETFUL,
    FORGOTTEN,
    HAPPENINGS,
    PASSWORD,
    PEOPLE,
    ROLES,
    STRANGER,
    SUSPENDED,
    TILL,
    Attempt,
    Held,
    Person,
)

Say = Callable[[str], None]

TOLD_EVERY = 10
"""Registrations after which it says how far it is."""

_NAME = re.compile(r"\{([^}]*)\}")


class Filling:
    """One run, as the administrator. `added` and `present` count what it did and what was there already."""

    def __init__(self, client: Client, say: Say) -> None:
        self.added: Counter[str] = Counter()
        self.present: Counter[str] = Counter()
        self.ids: dict[str, str] = {}
        self._client = client
        self._say = say
        self._known: dict[str, Any] = {}

    def run(self) -> None:
        """Adds what is missing. Raises DemoError."""
        for title, step in (
            ("roles", self._roles),
            ("people", self._people),
            ("assignments", self._assignments),
            ("suspensions", self._suspensions),
            ("failed logins", self._failed_logins),
            ("refusals", self._refusals),
            ("entries of the till", self._happenings),
        ):
            before = self.added[title]
            step(title)
            self._say(f"{title}: {self.added[title] - before} added, {self.present[title]} there already")

    def _roles(self, title: str) -> None:
        known = {role["name"] for role in self._client.list("/api/v1/roles")}
        for role in ROLES:
            if self._is_new(title, role.name not in known):
                body = {"name": role.name, "permissions": role.permissions, "includes": role.includes}
                self._client.do("POST", "/api/v1/roles", body)

    def _people(self, title: str) -> None:
        self._known = {user["email"]: user for user in self._client.list("/api/v1/users", q=f"@{DOMAIN}")}
        missing = [person for person in PEOPLE if person.email not in self._known]
        if missing:
            self._say(f"registering {len(missing)} people (each password is hashed slowly, on purpose)")
        for person in PEOPLE:
            if self._is_new(title, person in missing):
                body = {"email": person.email, "name": person.name, "password": PASSWORD}
                self._client.do("POST", "/api/v1/users", body)
                if self.added[title] % TOLD_EVERY == 0:
                    self._say(f"... {self.added[title]} of {len(missing)}")
        if missing:
            self._known = {user["email"]: user for user in self._client.list("/api/v1/users", q=f"@{DOMAIN}")}
        self.ids = {person.name: self._known[person.email]["id"] for person in PEOPLE}

    def _assignments(self, title: str) -> None:
        for person in PEOPLE:
            path = f"/api/v1/users/{self.ids[person.name]}/roles"
            held = {(each["role"], each["scope"]) for each in self._client.do("GET", path)["items"]}
            for each in person.held:
                body = {"role": each.role, "scope": each.scope, "expires_at": self._end(person, each)}
                if self._is_new(title, (each.role, each.scope) not in held and not _is_over(body["expires_at"])):
                    self._client.do("POST", path, body)

    def _suspensions(self, title: str) -> None:
        for name, reason in SUSPENDED.items():
            if self._is_new(title, self._user(name)["status"] != "suspended"):
                self._client.do("POST", f"/api/v1/users/{self.ids[name]}/suspend", {"reason": reason})

    def _failed_logins(self, title: str) -> None:
        """A stranger, a suspended one, and at last the forgetful: once he has failed, all have."""
        tries = [(STRANGER, PASSWORD)]
        tries += [(_email(name), PASSWORD) for name in SUSPENDED]
        tries += [(_email(FORGETFUL), wrong) for wrong in FORGOTTEN]
        failed = self._entries(action="login.failed", target=f"user:{self.ids[FORGETFUL]}")
        for email, password in tries:
            if self._is_new(title, not failed):
                reply = self._client.log_in(email, password)
                if reply.status not in {401, 403}:
                    raise DemoError(f"{email} should not have got in: {reply.status} {told(reply)}")

    def _refusals(self, title: str) -> None:
        for name, attempts in ATTEMPTS.items():
            refused = self._entries(action="request.refused", actor=f"user:{self.ids[name]}")
            token = "" if len(refused) >= len(attempts) else self._token(name)
            for attempt in attempts:
                if self._is_new(title, bool(token)):
                    self._try(attempt, token)

    def _try(self, attempt: Attempt, token: str) -> None:
        path = _NAME.sub(lambda found: self.ids[found.group(1)], attempt.path)
        reply = self._client.ask(attempt.method, path, attempt.body, token=token)
        if reply.status != 403:
            raise DemoError(f"{attempt.method} {path} should have been refused: {reply.status} {told(reply)}")

    def _happenings(self, title: str) -> None:
        token = ""
        for happening in HAPPENINGS:
            if self._is_new(title, not self._entries(action=happening.action, target=happening.target)):
                token = token or self._token(TILL)
                body = {
                    "action": happening.action,
                    "target": happening.target,
                    "outcome": happening.outcome,
                    "detail": happening.detail,
                    "actor": f"user:{self.ids[happening.who]}",
                }
                key = f"demo:{happening.action}:{happening.target}"
                self._client.do("POST", "/api/v1/audit/events", body, key=key, token=token)

    def _is_new(self, title: str, new: bool) -> bool:
        (self.added if new else self.present)[title] += 1
        return new

    def _entries(self, **filters: str) -> list[Any]:
        return self._client.list("/api/v1/audit", **filters)

    def _user(self, name: str) -> Any:
        return self._known[_email(name)]

    def _end(self, person: Person, held: Held) -> str | None:
        """From the registration on, so that it is the same whenever this runs."""
        if held.lasts is None:
            return None
        registered = datetime.fromisoformat(self._user(person.name)["registered_at"])
        return (registered + held.lasts).astimezone(UTC).isoformat()

    def _token(self, name: str) -> str:
        reply = self._client.log_in(_email(name), PASSWORD)
        if reply.status != 200:
            raise DemoError(f"{name} can't log in: {reply.status} {told(reply)} (was the password changed?)")
        return str(reply.body["access_token"])


def _email(name: str) -> str:
    return Person(name, ()).email


def _is_over(time: str | None) -> bool:
    return time is not None and datetime.fromisoformat(time) <= datetime.now(UTC)
