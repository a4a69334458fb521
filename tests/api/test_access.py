"""Roles, assignments and checks over HTTP, on the real log and the real view."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from api.access import ROUTES
from api.app import Application
from api.ports import Health, Services
from commands.access import DefineBuiltinRoles, define_builtin_roles
from domain.errors import Unauthenticated
from infra.dispatch import Dispatcher
from projections.access import ACCESS, Decisions
from projections.read import Answer as Found
from projections.read import Read, Reader
from tests.access_world import Process, World, process_of, world_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    session_id: UUID | None = None


@dataclass(frozen=True)
class Ports:
    decisions: Decisions


class House:
    """The services of the frame that these routes need: whoever names a user id is that user."""

    def __init__(self, world: World, process: Process) -> None:
        self.world, self.process = world, process
        self.refused: list[Any] = []
        self.dispatcher = Dispatcher(world.log)

    async def authenticate(self, token: str) -> Caller:
        try:
            return Caller(UUID(token))
        except ValueError:
            raise Unauthenticated from None

    def dispatch(self, handler: Any, command: Any, context: Any, *, if_match: Any = None, receipt: Any = None) -> Any:
        assert receipt is None
        outcome = self.dispatcher.dispatch(handler, command, context, if_match=if_match)
        self.world.feed()
        return outcome

    def look(self, query: Callable[[Read], Any], projections: Sequence[str]) -> Found[Any]:
        assert projections == ("access",)
        return Reader(lambda: psycopg.connect(self.world.database, autocommit=True)).run(query, ACCESS)

    async def record(self, refusal: Any) -> None:
        self.refused.append(refusal)

    async def health(self) -> Health:
        return Health("ready")

    def services(self) -> Services:
        return Services(
            authenticator=self,
            authoriser=self.process.decisions,
            dispatcher=self,
            receipts=self,  # type: ignore[arg-type]
            reader=self,
            positions=self.process.listener,
            refusals=self,
            readiness=self,
            ports=Ports(self.process.decisions),
        )


class Client:
    """Requests of one user, each after everything so far has been heard of."""

    def __init__(self, house: House, app: Application, user_id: UUID) -> None:
        self.house, self.user_id = house, user_id
        transport = httpx.ASGITransport(app, client=("192.0.2.7", 4321))
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://a.test", headers={"authorization": f"Bearer {user_id}"}
        )

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        await self.house.process.heard()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, f"/api/v1{path}", json=body, headers=named)


@dataclass
class Site:
    world: World
    house: House
    app: Application
    admin: Client
    ada: Client

    def client(self, user_id: UUID) -> Client:
        return Client(self.house, self.app, user_id)


@asynccontextmanager
async def site_of(world: World) -> AsyncIterator[Site]:
    async with process_of(world.database, None, world.log) as process:
        house = House(world, process)
        app = Application(ROUTES, house.services(), registry=CollectorRegistry())
        world.run(define_builtin_roles, DefineBuiltinRoles())
        admin, ada = world.user("admin"), world.user("ada")
        world.assign(admin, "admin")
        world.feed()
        clients = [Client(house, app, user) for user in (admin, ada)]
        yield Site(world, house, app, *clients)
        for client in clients:
            await client.http.aclose()
        app.close()


@pytest.fixture
async def site(database: str) -> AsyncIterator[Site]:
    with world_of(database) as world:
        async with site_of(world) as site:
            yield site


async def test_a_role_is_made_given_checked_and_taken_away(site):
    made = await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read"]})
    assert (made.status_code, made.json()) == (201, {"name": "viewer"})
    assert made.headers["location"] == "/api/v1/roles/viewer"
    given = await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "viewer", "scope": "/acme/"})
    assert given.status_code == 204
    position = given.headers["muniment-position"]
    answer = await site.ada("POST", "/access/check", {"permission": "page:read", "scope": "/acme/eu"})
    assert answer.json() == {"allowed": True, "position": int(position)}
    assert answer.headers["muniment-position"] == position
    taken = await site.admin("DELETE", f"/users/{site.ada.user_id}/roles/viewer?scope=/acme")
    assert taken.status_code == 204
    answer = await site.ada("POST", "/access/check", {"permission": "page:read", "scope": "/acme/eu"})
    assert answer.json()["allowed"] is False


async def test_explains_a_decision(site):
    await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read"]})
    await site.admin("POST", "/roles", {"name": "editor", "includes": ["viewer"]})
    await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "editor"})
    for consistency in ("fast", "full"):
        body = {"permission": "page:read", "explain": True, "consistency": consistency}
        because = (await site.ada("POST", "/access/check", body)).json()["because"]
        assert because["reason"] == "granted"
        assert because["assignment"]["name"] == "editor"
        assert because["assignment"]["by"] == f"user:{site.admin.user_id}"
        assert [step["name"] for step in because["roles"]] == ["viewer"]
        assert because["permission"]["name"] == "page:read"
    body = {"permission": "page:burn", "explain": True, "scope": "/acme"}
    because = (await site.ada("POST", "/access/check", body)).json()["because"]
    assert (because["reason"], because["missing"]) == (
        "not-granted",
        {"patterns": ["page:burn", "page:*", "*"], "scopes": ["/acme", "/"]},
    )
    (near,) = because["near"]
    assert (near["kind"], near["scope"], near["permission"]["name"]) == ("other-action", "/", "page:read")


async def test_checks_as_of_a_position_and_as_of_a_time(site):
    await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read"]})
    given = await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "viewer"})
    position = int(given.headers["muniment-position"])
    time = site.world.log.now().isoformat()
    await site.admin("DELETE", f"/users/{site.ada.user_id}/roles/viewer")

    async def allowed(as_of: Any) -> bool:
        body = {"permission": "page:read", "as_of": as_of}
        return (await site.ada("POST", "/access/check", body)).json()["allowed"]

    assert [await allowed(each) for each in (position - 1, position, str(position), time)] == [False, True, True, True]
    for nonsense in ("yesterday", "2026-01-01T00:00:00", -1):
        answer = await site.ada("POST", "/access/check", {"permission": "page:read", "as_of": nonsense})
        assert answer.status_code == 422
    answer = await site.ada("POST", "/access/check", {"permission": "page:read", "as_of": 10**6})
    assert (answer.status_code, answer.json()["code"]) == (422, "position-unknown")


async def test_many_checks_are_answered_in_their_order(site):
    checks = [{"permission": "page:read"}, {"permission": "page:read", "user_id": str(site.admin.user_id)}]
    assert (await site.ada("POST", "/access/check/batch", {"checks": checks})).status_code == 403
    answer = await site.admin(
        "POST",
        "/access/check/batch",
        {"checks": [{"permission": "page:read", "user_id": str(site.ada.user_id)}, {"permission": "page:read"}]},
    )
    assert answer.json()["results"] == [{"allowed": False}, {"allowed": True}]
    too_many = {"checks": [{"permission": "page:read"}] * 1001}
    assert (await site.ada("POST", "/access/check/batch", too_many)).status_code == 422
    assert (await site.ada("POST", "/access/check/batch", {"checks": []})).json()["results"] == []


async def test_checks_about_others_need_a_permission_at_that_scope(site):
    body = {"permission": "page:read", "user_id": str(site.admin.user_id), "scope": "/acme"}
    answer = await site.ada("POST", "/access/check", body)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert [refusal.action for refusal in site.house.refused] == ["POST /api/v1/access/check"]
    await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "auditor", "scope": "/acme"})
    assert (await site.ada("POST", "/access/check", body)).json()["allowed"] is True


async def test_waits_for_the_position_that_is_asked_for(site):
    answer = await site.ada("POST", "/access/check", {"permission": "page:read"}, Muniment_At_Least="999999")
    assert (answer.status_code, answer.json()["code"]) == (422, "position-unknown")


async def test_administration_is_delegated_by_scope(site):
    foreman = site.client(site.world.user("foreman"))
    await site.admin("POST", "/roles", {"name": "weaver", "permissions": ["loom:run"]})
    await site.admin("POST", "/roles", {"name": "foreman", "permissions": ["role:assign"], "includes": ["weaver"]})
    await site.admin("POST", f"/users/{foreman.user_id}/roles", {"role": "foreman", "scope": "/mill"})
    path = f"/users/{site.ada.user_id}/roles"
    assert (await foreman("POST", path, {"role": "weaver", "scope": "/mill/north"})).status_code == 204
    assert (await foreman("POST", path, {"role": "weaver"})).json()["code"] == "forbidden"
    assert (await foreman("POST", path, {"role": "admin", "scope": "/mill"})).json()["code"] == "not-held"
    assert (await foreman("DELETE", f"{path}/weaver?scope=/mill/north")).status_code == 204
    await foreman.http.aclose()


async def test_shows_what_a_user_may_do_and_where_it_comes_from(site):
    await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read"]})
    await site.admin("POST", "/roles", {"name": "editor", "permissions": ["page:*"], "includes": ["viewer"]})
    await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "editor", "scope": "/acme"})
    await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "viewer"})
    answer = await site.ada("GET", f"/users/{site.ada.user_id}/permissions?scope=/acme/eu")
    found = {
        each["permission"]: [source["roles"] for source in each["sources"]] for each in answer.json()["permissions"]
    }
    assert found == {"page:*": [["editor"]], "page:read": [["editor", "viewer"], ["viewer"]]}
    answer = await site.ada("GET", f"/users/{site.ada.user_id}/permissions")
    assert [each["permission"] for each in answer.json()["permissions"]] == ["page:read"]
    assert (await site.ada("GET", f"/users/{site.admin.user_id}/permissions")).status_code == 403


async def test_shows_which_roles_a_user_has(site):
    await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "auditor", "scope": "/acme"})
    (item,) = (await site.ada("GET", f"/users/{site.ada.user_id}/roles")).json()["items"]
    assert (item["role"], item["scope"], item["assigned_by"]) == ("auditor", "/acme", f"user:{site.admin.user_id}")


async def test_knows_who_may_do_something_page_by_page(site):
    others = [site.world.user(f"user{n}") for n in range(3)]
    for user in others:
        await site.admin("POST", f"/users/{user}/roles", {"role": "auditor", "scope": "/acme"})
    found, cursor = [], ""
    for _ in range(2):
        answer = await site.admin("GET", f"/access/who?permission=audit:read&scope=/acme/eu&limit=2{cursor}")
        found += [each["user_id"] for each in answer.json()["items"]]
        cursor = f"&cursor={answer.json()['next']}"
    assert answer.json()["next"] is None
    assert found == sorted(str(each) for each in [*others, site.admin.user_id])
    assert (await site.ada("GET", "/access/who?permission=audit:read")).status_code == 403
    before = await site.admin("GET", "/access/who?permission=audit:read&as_of=1")
    assert before.json()["items"] == []


async def test_shows_roles_and_changes_only_the_version_that_was_seen(site):
    await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read"]})
    shown = await site.admin("GET", "/roles/viewer")
    assert (shown.json()["permissions"], shown.headers["etag"]) == (["page:read"], '"1"')
    body = {"permissions": ["page:read", "page:print"]}
    assert (await site.admin("PUT", "/roles/viewer/permissions", body, If_Match='"1"')).status_code == 204
    assert (await site.admin("PUT", "/roles/viewer/permissions", body, If_Match='"1"')).status_code == 412
    assert (await site.admin("PUT", "/roles/viewer/includes", {"includes": ["auditor"]})).status_code == 204
    names = [each["name"] for each in (await site.admin("GET", "/roles")).json()["items"]]
    assert names == ["admin", "analyst", "auditor", "operator", "viewer"]
    assert (await site.admin("DELETE", "/roles/viewer")).status_code == 204
    assert (await site.admin("GET", "/roles/viewer")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/roles", {"name": "admin"}, 409, "role-taken"),
        ("POST", "/roles", {"name": "Not A Name"}, 422, "invalid"),
        ("POST", "/roles", {"name": "x", "permissions": ["fine:one", "nonsense"]}, 422, "invalid"),
        ("POST", "/roles", {"name": "x", "includes": ["ghost"]}, 404, "role-not-found"),
        ("POST", "/roles", {"name": "x", "includes": ["x"]}, 409, "role-cycle"),
        ("PUT", "/roles/admin/permissions", {"permissions": []}, 409, "role-built-in"),
        ("PUT", "/roles/ghost/permissions", {"permissions": []}, 404, "role-not-found"),
        ("DELETE", "/roles/admin", None, 409, "role-built-in"),
        ("POST", "/users/01998e2c-0000-7000-8000-00000000dead/roles", {"role": "auditor"}, 404, "user-not-found"),
        ("POST", "/users/ADA/roles", {"role": "ghost"}, 404, "role-not-found"),
        ("POST", "/users/ADA/roles", {"role": "auditor", "scope": "nowhere"}, 422, "invalid"),
        (
            "POST",
            "/users/ADA/roles",
            {"role": "auditor", "expires_at": "2020-01-01T00:00:00Z"},
            422,
            "expiry-in-the-past",
        ),
        ("POST", "/users/ADA/roles", {"role": "auditor", "expires_at": "2020-01-01T00:00:00"}, 422, "invalid"),
        ("DELETE", "/users/ADA/roles/auditor", None, 404, "role-not-assigned"),
        ("POST", "/access/check", {"permission": "page:*"}, 422, "invalid"),
        ("POST", "/access/check", {"permission": "page:read", "scope": "/../x"}, 422, "invalid"),
        ("POST", "/access/check", {"permission": "page:read", "consistency": "slow"}, 422, "invalid"),
        ("GET", "/access/who?permission=page", None, 422, "invalid"),
        ("GET", "/access/who?permission=page:read&as_of=99999", None, 422, "position-unknown"),
    ],
)
async def test_refuses_with_a_stable_code(site, method, path, body, status, code):
    answer = await site.admin(method, path.replace("ADA", str(site.ada.user_id)), body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_names_the_permission_that_is_wrong(site):
    answer = await site.admin("POST", "/roles", {"name": "x", "permissions": ["fine:one", "nonsense"]})
    assert [error["field"] for error in answer.json()["errors"]] == ["permissions[1]"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/roles", {"name": "x"}),
        ("PUT", "/roles/viewer/permissions", {"permissions": []}),
        ("PUT", "/roles/viewer/includes", {"includes": []}),
        ("DELETE", "/roles/viewer", None),
        ("GET", "/roles", None),
        ("GET", "/roles/admin", None),
        ("GET", "/access/who?permission=page:read", None),
    ],
)
async def test_without_the_permission_nothing_is_done_or_shown(site, method, path, body):
    head = site.world.log.head()
    answer = await site.ada(method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert site.world.log.head() == head


async def test_shows_a_role_as_it_was_and_says_when_it_wasn_t(site):
    made = await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read"]})
    defined = int(made.headers["muniment-position"])
    changed = await site.admin("PUT", "/roles/viewer/permissions", {"permissions": ["page:print"]})
    removed = int((await site.admin("DELETE", "/roles/viewer")).headers["muniment-position"])

    async def shown(as_of: Any) -> httpx.Response:
        return await site.admin("GET", f"/roles/viewer?as_of={as_of}")

    then = await shown(defined)
    assert (then.json()["permissions"], then.json()["version"]) == (["page:read"], 1)
    assert then.headers["muniment-position"] == str(defined)
    now = site.world.log.now().isoformat().replace("+00:00", "Z")
    assert (await shown(changed.headers["muniment-position"])).json()["permissions"] == ["page:print"]
    for as_of, said in ((defined - 1, f"later, at {defined}"), (removed, f"removed at {removed}"), (now, "removed at")):
        answer = await shown(as_of)
        assert (answer.status_code, answer.json()["code"]) == (404, "role-not-found")
        assert said in answer.json()["detail"]
    for nonsense in (removed + 1, -1, "yesterday", "2026-01-01T00:00:00", "2999-01-01T00:00:00Z", "9" * 40):
        assert (await shown(nonsense)).status_code == 422


async def test_shows_which_roles_a_user_had(site):
    path = f"/users/{site.ada.user_id}/roles"
    given = await site.admin("POST", path, {"role": "auditor", "scope": "/acme"})
    await site.admin("DELETE", f"{path}/auditor?scope=/acme")
    position = given.headers["muniment-position"]
    assert (await site.ada("GET", path)).json()["items"] == []
    assert [item["role"] for item in (await site.ada("GET", f"{path}?as_of={position}")).json()["items"]] == ["auditor"]


async def test_a_denial_says_who_took_it_away(site):
    await site.admin("POST", "/roles", {"name": "viewer", "permissions": ["page:read", "page:print"]})
    await site.admin("POST", f"/users/{site.ada.user_id}/roles", {"role": "viewer"})
    taken = await site.admin("PUT", "/roles/viewer/permissions", {"permissions": ["page:print"]})
    for consistency in ("fast", "full"):
        body = {"permission": "page:read", "explain": True, "consistency": consistency}
        lost, other = (await site.ada("POST", "/access/check", body)).json()["because"]["near"]
        assert (lost["kind"], lost["ended"]["name"]) == ("permission-removed", "page:read")
        assert lost["ended"]["by"] == f"user:{site.admin.user_id}"
        assert str(lost["ended"]["position"]) == taken.headers["muniment-position"]
        assert (other["kind"], other["permission"]["name"]) == ("other-action", "page:print")


async def test_what_is_no_moment_of_the_past_is_refused(site):
    nobody = f"/users/{site.ada.user_id}"
    for path in ("/access/who?permission=page:read", f"{nobody}/permissions?scope=/", f"{nobody}/roles?"):
        for as_of in ("2026-01-01T00:00:00", "yesterday", "-1", "2999-01-01T00:00:00Z", "9" * 30, ""):
            answer = await site.admin("GET", f"{path}&as_of={as_of}")
            assert answer.status_code == 422
            assert answer.json()["code"] in ("invalid", "position-unknown")
