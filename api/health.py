"""Whether this process lives, and whether it can serve."""

from typing import Literal

from api.ports import Readiness
from api.routing import OPEN, Answer, Asked, Endpoint, View


class Alive(View):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(View):
    """Whether requests can be served; `reasons` says what is wrong, if something is."""

    status: Literal["starting", "ready", "degraded", "unavailable"]
    reasons: list[str]


def health_routes(readiness: Readiness) -> list[Endpoint]:
    """`/healthz` and `/readyz`."""

    async def healthz(_: Asked) -> Alive:
        """The process answers; says nothing about what it depends on."""
        return Alive()

    async def readyz(_: Asked) -> Answer:
        """503 only while starting, or without what nothing works without; `degraded` is still served."""
        health = await readiness.health()
        status = 200 if health.state in ("ready", "degraded") else 503
        return Answer(Ready(status=health.state, reasons=list(health.reasons)), status)

    return [
        Endpoint("GET", "/healthz", healthz, permission=OPEN, result=Alive, tag="operation"),
        Endpoint("GET", "/readyz", readyz, permission=OPEN, result=Ready, also=(503,), tag="operation"),
    ]
