"""`muniment demo`: a small company, filled in through the API."""

import ipaddress
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from runtime.cli.options import as_json
from runtime.cli.output import print_json, say
from runtime.cli.wired import Wired
from runtime.demo.client import Client, DemoError, told
from runtime.demo.company import BOSS, CLERK, PASSWORD, PEOPLE, Person
from runtime.demo.fill import Filling

ADMIN_EMAIL = "admin@localhost"


@click.command()
@click.option("--url", metavar="URL", help="Where the API is; here, on MUNIMENT_PORT, unless said.")
@click.option("--email", metavar="ADDRESS", help="The administrator; MUNIMENT_ADMIN_EMAIL or admin@localhost.")
@click.option("--password-stdin", is_flag=True, help="Read the administrator's password from stdin.")
@click.option("--anywhere", is_flag=True, help="Also on another host: everybody knows these people's password.")
@as_json
@click.pass_obj
def demo(wired: Wired, url: str | None, email: str | None, password_stdin: bool, anywhere: bool, as_json: bool) -> None:
    """Fill a small company into the running platform.

    Acme Umbrellas: a few dozen people, nested roles, scopes, refusals, failed logins and what its till recorded. All of
    it goes through the HTTP API, as the administrator, whose password is MUNIMENT_ADMIN_PASSWORD or is asked for (the
    first start of `muniment up` has printed it). Run twice, it adds nothing.

    \b
    Example:
      muniment demo
      muniment users password admin@localhost --generate     # if you have lost it
    """
    settings = wired.given
    address = url or f"http://{_host(settings.host)}:{settings.port}"
    if not anywhere and not _is_here(address):
        raise click.ClickException(f"{address} is another host: --anywhere, if that is meant")
    try:
        with Client(address) as client:
            filling = _fill(client, email or settings.admin_email or ADMIN_EMAIL, password_stdin)
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json({"url": client.url, "added": dict(filling.added), "present": dict(filling.present)})
        return
    if not filling.added:
        say("everything was there already: nothing was added")
    click.echo(_what_next(client.url, filling.ids))


def _fill(client: Client, email: str, password_stdin: bool) -> Filling:
    health = client.ask("GET", "/readyz")
    if health.status != 200:
        raise DemoError(f"{client.url} isn't ready: {told(health) or health.body}")
    reply = client.log_in(email, _password(email, password_stdin))
    if reply.status != 200:
        raise DemoError(f"{email} can't log in at {client.url}: {told(reply)}")
    client.token = reply.body["access_token"]
    filling = Filling(client, say)
    try:
        filling.run()
    finally:
        client.ask("POST", "/api/v1/auth/logout")
    return filling


def _password(email: str, password_stdin: bool) -> str:
    if password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    given = os.environ.get("MUNIMENT_ADMIN_PASSWORD", "")
    if given:
        return given
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password: MUNIMENT_ADMIN_PASSWORD or --password-stdin")
    return str(click.prompt(f"Password of {email}", hide_input=True, err=True))


def _host(host: str) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to
    return f"[{reachable}]" if ":" in reachable else reachable


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ourselves() -> str:
    """How to type this program here."""
    program = Path(sys.argv[0])
    if program.name != "muniment" or shutil.which("muniment") == str(program):
        return "muniment"
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


def _what_next(url: str, ids: dict[str, str]) -> str:
    boss, clerk = Person(BOSS, ()).email, Person(CLERK, ()).email
    muniment = _ourselves()
    json = "-H 'Content-Type: application/json'"
    return f"""
{len(PEOPLE)} people work at Acme Umbrellas now; everybody's password is {PASSWORD}. Try next:

# Be {BOSS}, the director
TOKEN=$(curl -s {url}/api/v1/auth/login {json} \\
  -d '{{"email": "{boss}", "password": "{PASSWORD}"}}' \\
  | python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')

# May she promise the weather in Lisbon, and by which roles?
curl -s {url}/api/v1/access/check -H "Authorization: Bearer $TOKEN" {json} \\
  -d '{{"permission": "weather:promise", "scope": "/acme/eu/lisbon", "explain": true}}'

# May she found an empire? (403, and it is in the audit log)
curl -s {url}/api/v1/roles -H "Authorization: Bearer $TOKEN" {json} \\
  -d '{{"name": "empress", "permissions": ["*"]}}'

# As the operator at the machine, without a token
{muniment} audit list --outcome failure
{muniment} audit list --actor user:{ids[CLERK]}
{muniment} roles of {clerk}
{muniment} users suspend {clerk} --reason "ambition"
{muniment} events tail

The whole API: {url}/docs"""
