"""What settings must say together, or what no pattern can tell: the same for the environment and for what is stored."""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network

from domain.errors import Invalid
from infra.setting import Problem, Rule, Values

RATE = r"[1-9][0-9]{0,8}/([1-9][0-9]{0,4} ?)?(second|minute|hour|day)s?"
"""So many in a time: `20/minute`, `100/5 minutes`."""
LINK = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+")
ORIGIN = r"https?://[^\s/,?#@]+"
ORIGINS = rf"(\s*{ORIGIN}\s*(,\s*{ORIGIN}\s*)*)?"


def listed(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def at_most(name: str, other: str) -> Rule:
    """One number isn't above another."""

    def rule(values: Values) -> Iterator[Problem]:
        if values[name] > values[other]:
            yield name, f"at most {other}, which is {values[other]}"

    return rule


def _proxies(values: Values) -> Iterator[Problem]:
    for proxy in listed(values["trusted_proxies"]):
        try:
            ip_network(proxy, strict=False)
        except ValueError as error:
            yield "trusted_proxies", str(error)


def _default_role(values: Values) -> Iterator[Problem]:
    # the rules of access are asked where there is something to ask: `muniment --help` needs none of them
    from domain.access import RoleName, Scope  # noqa: PLC0415

    if not (text := values["default_role"]):
        return
    name, _, scope = text.partition("@")
    try:
        RoleName(name), Scope(scope or "/")
    except Invalid as error:
        yield "default_role", f"name@scope, such as customer@/shop: {error}"


def _mail(values: Values) -> Iterator[Problem]:
    if values["smtp_url"] and "@" not in values["mail_from"]:
        yield "mail_from", "the address that mail comes from, needed with smtp_url"
    if not values["mail_from"].isprintable():
        yield "mail_from", "one line without control characters"
    link = values["verification_link"]
    if link and ("{token}" not in link or not LINK.fullmatch(link)):
        yield "verification_link", "an address such as https://app.example/verify?token={token}"


def _stores(values: Values) -> Iterator[Problem]:
    if values["secrets_store"] == "environment":
        return
    from infra.secret_stores import StoreMalformed, stores_of  # noqa: PLC0415 - as above

    try:
        stores_of(values)
    except StoreMalformed as error:
        yield "secrets_store", str(error)


RULES: Mapping[str, tuple[Rule, ...]] = {
    "api": (at_most("page_size", "page_limit"), _proxies),
    "identity": (at_most("lockout_first_seconds", "lockout_longest_seconds"),),
    "onboarding": (_default_role, _mail),
    "jobs": (at_most("retry_first_seconds", "retry_longest_seconds"),),
    "secrets": (_stores,),
}
"""By namespace. Each rule is given all values of its namespace."""
