"""The company that `muniment demo` fills in, on the platform as it runs."""

import json

import pytest
from click.testing import CliRunner, Result

from infra.settings import Settings
from runtime.cli import cli
from runtime.cli.wired import Wired
from runtime.demo.company import ATTEMPTS, BOSS, DOMAIN, HAPPENINGS, PASSWORD, PEOPLE, ROLES, Person
from tests.e2e.platform import ADMIN, Platform


def demo(url: str, *arguments: str, password: str = ADMIN[1]) -> Result:
    given = ["demo", "--url", url, "--email", ADMIN[0], "--password-stdin", *arguments]
    return CliRunner().invoke(cli, given, obj=Wired(Settings()), input=f"{password}\n")


@pytest.fixture(scope="module")
def filled(running_platform: Platform) -> Result:
    result = demo(running_platform.ada.url, "--json")
    assert result.exit_code == 0, result.output
    return result


def test_everybody_is_there(platform: Platform, filled: Result):
    assert json.loads(filled.stdout)["added"]["people"] == len(PEOPLE)
    platform.level()
    found = platform.admin.get("/api/v1/users", params={"q": f"@{DOMAIN}", "limit": 100}).json()["items"]
    assert {user["name"] for user in found} == {person.name for person in PEOPLE}
    assert [user["name"] for user in found if user["status"] == "suspended"] == ["Mallory Blackthorn"]


def test_twice_is_as_good_as_once(platform: Platform, filled: Result):
    before = platform.sql("select position from log_head")[0][0]
    again = demo(platform.ada.url, "--json")
    assert again.exit_code == 0
    said = json.loads(again.stdout)
    assert said["added"] == {}
    assert (said["present"]["people"], said["present"]["roles"]) == (len(PEOPLE), len(ROLES))
    topics = {row[0] for row in platform.sql("select topic from stored_events where notification_id > %s", before)}
    assert topics <= {"identity.SessionOpened", "identity.SessionEnded", "audit.LogReadRecorded"}
    assert "everything was there already" in demo(platform.ada.url).stderr


def test_the_boss_may_promise_the_weather_by_roles_within_roles(platform: Platform, filled: Result):
    boss = platform.ada.login(Person(BOSS, ()).email, PASSWORD)
    body = {"permission": "weather:promise", "scope": "/acme/eu/lisbon", "explain": True}
    answer = boss.done("POST", "/api/v1/access/check", body).json()
    assert answer["allowed"]
    assert [role["name"] for role in answer["because"]["roles"]] == ["rainmaker"]
    assert not boss.allowed(boss.me, "umbrella:open-indoors", "/acme")


def test_refusals_failures_and_the_till_are_in_the_audit_log(platform: Platform, filled: Result):
    platform.level()

    def entries(**filters: str) -> list[dict[str, object]]:
        return list(platform.admin.get("/api/v1/audit", params={"limit": 200} | filters).json()["items"])

    ids = {user["name"]: user["id"] for user in platform.admin.get(
        "/api/v1/users", params={"q": f"@{DOMAIN}", "limit": 100}).json()["items"]}  # fmt: skip
    for name, attempts in ATTEMPTS.items():
        assert len(entries(action="request.refused", actor=f"user:{ids[name]}")) == len(attempts)
    for happening in HAPPENINGS:
        [entry] = entries(action=happening.action, target=happening.target)
        assert (entry["outcome"], entry["actor"]) == (happening.outcome, f"user:{ids[happening.who]}")
        assert entry["recorded_by"] == f"user:{ids['Umbrella Till']}"
    assert len(entries(action="login.failed", target=f"user:{ids['Percy Gutterworth']}")) == 3


def test_it_says_what_to_try_next(platform: Platform, filled: Result):
    shown = demo(platform.ada.url).stdout
    assert f"curl -s {platform.ada.url}/api/v1/access/check" in shown
    assert "muniment audit list --outcome failure" in shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://prod.example", "--anywhere, if that is meant"),
        ("prod", "is another host"),
        ("http://127.0.0.1:1", "is it running?"),  # tcpmux: nobody listens there
    ],
)
def test_it_goes_nowhere_by_mistake(url: str, says: str):
    result = demo(url)
    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_password_is_one_line(platform: Platform):
    result = demo(platform.ada.url, password="the-eagle-has-crashed")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {ADMIN[0]} can't log in")
