"""`muniment`, the command line: its table of contents.

Exit status 0: done; 1: refused or failed, and one line on stderr says why; 2: wrong usage; 3, of
`config`: it is stored, but somebody refuses to run with it.
"""

import click

from runtime.cli.lazy import Lazy
from runtime.cli.root import Root
from runtime.cli.wired import prepare

COMMANDS = {
    "up": Lazy("runtime.cli.parts:up", "Run everything on one machine; Ctrl-C stops it cleanly."),
    "api": Lazy("runtime.cli.parts:api", "Run the API alone."),
    "follow": Lazy("runtime.cli.parts:follow", "Run the follower alone: it feeds the views from the log."),
    "relay": Lazy("runtime.cli.parts:relay", "Run the relay alone: it carries the log to Kafka."),
    "stream": Lazy("runtime.cli.parts:stream", "Run a stream worker alone: it feeds the views from Kafka."),
    "worker": Lazy("runtime.cli.parts:worker", "Run a worker alone: it runs jobs."),
    "scheduler": Lazy("runtime.cli.parts:scheduler", "Run the scheduler alone: it enqueues jobs when they are due."),
    "status": Lazy("runtime.cli.status:status", "Tell the parts, the log, the views and the schema."),
    "migrate": Lazy("runtime.cli.migrate:migrate", "Bring the database's schema up to this release. Forward only."),
    "users": Lazy("runtime.cli.users:users", "Users, their passwords and their sessions."),
    "roles": Lazy("runtime.cli.roles:roles", "Roles, and who holds them where."),
    "who": Lazy("runtime.cli.asking:who", "List who may do something somewhere, and by which assignments."),
    "explain": Lazy(
        "runtime.cli.asking:explain",
        "Tell why a user may do something, or why not and what nearly would have done. Straight from the event store.",
    ),
    "schedules": Lazy("runtime.cli.schedules:schedules", "Which jobs are enqueued when, and what became of each time."),
    "keys": Lazy("runtime.cli.keys:keys", "The keys that sign and derive tokens. Their private parts are never shown."),
    "events": Lazy("runtime.cli.events:events", "Read the log; secrets are left out."),
    "projections": Lazy(
        "runtime.cli.projections:projections",
        "The views: how far they are, how to build one anew, and what they parked.",
    ),
    "reactions": Lazy(
        "runtime.cli.reactions:reactions",
        "What the platform does because of events: how far it is, and what it parked.",
    ),
    "jobs": Lazy(
        "runtime.cli.jobs:jobs", "Background jobs: what waits, what runs, what came of it, and what to do about it."
    ),
    "queues": Lazy(
        "runtime.cli.queues:queues", "The queues of background jobs: how they stand, and who may run from them."
    ),
    "config": Lazy(
        "runtime.cli.config:config",
        "Configuration: what holds, changing it while everything runs, and who runs with what.",
    ),
    "snapshots": Lazy(
        "runtime.cli.snapshots:snapshots", "Snapshots of long streams: a cache, which can be dropped at any time."
    ),
    "audit": Lazy("runtime.cli.audit:audit", "The audit log. Reading it is in it."),
    "backup": Lazy("runtime.cli.backup:backup", "Copy the log into one file, while the platform serves."),
    "restore": Lazy("runtime.cli.backup:restore", "Make a platform out of a backup of its log."),
    "analytics": Lazy("runtime.cli.analytics:analytics", "Views of the log for SQL tools, and who may read them."),
    "demo": Lazy("runtime.cli.demo:demo", "Fill a small company into the running platform."),
    "completion": Lazy("runtime.cli.completion:completion", "Print the script that completes commands in your shell."),
}


@click.group(
    cls=Root,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings are environment variables, MUNIMENT_...; docs/command-line.md tells more.",
)
@click.version_option(package_name="muniment")
@click.pass_context
def cli(context: click.Context) -> None:
    """Muniment: identity, access and audit on one event log."""
    prepare(context)


def main() -> None:
    """The entry point."""
    cli.main(prog_name="muniment")
