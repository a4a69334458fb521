"""`muniment up`, and the parts that also run alone."""

import click

from runtime.cli.wired import Wired

# ruff: noqa: PLC0415 - each part imports only what it runs


@click.command()
@click.option("--with-kafka", is_flag=True, help="Bring Apache Kafka along, too (needs Java 17 and Maven).")
@click.pass_obj
def up(wired: Wired, with_kafka: bool) -> None:
    """Run everything on one machine; Ctrl-C stops it cleanly.

    Brings PostgreSQL and Valkey along, unless MUNIMENT_POSTGRES_URL or MUNIMENT_REDIS_URL names others. Migrates, makes
    the first start's administrator and prints the password once, and starts again what dies. Where MUNIMENT_KAFKA names
    a Kafka, or with --with-kafka, the log also goes over the bus.

    \b
    Example:
      MUNIMENT_DATA=/var/lib/muniment MUNIMENT_PORT=8081 muniment up
    """
    from runtime.up import up as run

    run(wired.given, with_kafka=with_kafka)


@click.command()
@click.pass_obj
def api(wired: Wired) -> None:
    """Run the API alone.

    The database must have been migrated and the follower must run, here or elsewhere, for the views to follow.

    \b
    Example:
      MUNIMENT_POSTGRES_URL=postgresql://muniment@db/muniment MUNIMENT_REDIS_URL=redis://cache muniment api
    """
    from runtime.serve import serve

    wired.check(starts=True)
    serve(wired.settings)


@click.command()
@click.pass_obj
def follow(wired: Wired) -> None:
    """Run the follower alone: it feeds the views from the log.

    Any number may run: one feeds, the others take over when it dies.

    \b
    Example:
      MUNIMENT_POSTGRES_URL=postgresql://muniment@db/muniment muniment follow
    """
    from runtime.follow import follow as run

    wired.check(starts=True)
    run(wired.settings)


@click.command()
@click.pass_obj
def relay(wired: Wired) -> None:
    """Run the relay alone: it carries the log to Kafka.

    Any number may run: one carries, the others take over when it dies. Makes the topics, and makes those again that are
    missing.

    \b
    Example:
      MUNIMENT_POSTGRES_URL=postgresql://muniment@db/muniment MUNIMENT_KAFKA=kafka:9092 muniment relay
    """
    from runtime.relay import relay as run

    wired.check(starts=True)
    run(wired.settings)


@click.command()
@click.pass_obj
def stream(wired: Wired) -> None:
    """Run a stream worker alone: it feeds the views from Kafka.

    Any number may run, on any host: they share the partitions. Waits for the first relay. At its start it takes over
    the views whose feed nobody has chosen (`muniment projections feed`).

    \b
    Example:
      MUNIMENT_POSTGRES_URL=postgresql://muniment@db/muniment MUNIMENT_KAFKA=kafka:9092 muniment stream
    """
    from runtime.stream import stream as run

    wired.check(starts=True)
    run(wired.settings)


@click.command()
@click.pass_obj
def worker(wired: Wired) -> None:
    """Run a worker alone: it runs jobs.

    Any number may run, on any host: they share the queue. MUNIMENT_WORKER_QUEUES names the queues that it takes jobs
    from. On SIGTERM it finishes what it is at, or hands it back, within MUNIMENT_WORKER_DRAIN_SECONDS. With exit status
    75 it asks to be started again: a job won't end.

    \b
    Example:
      MUNIMENT_POSTGRES_URL=postgresql://muniment@db/muniment MUNIMENT_WORKER_QUEUES=mail muniment worker
    """
    from runtime.worker import worker as run

    wired.check(starts=True)
    run(wired.settings)


@click.command()
@click.pass_obj
def scheduler(wired: Wired) -> None:
    """Run the scheduler alone: it enqueues jobs when they are due.

    Any number may run: one schedules, the others take over when it dies.

    \b
    Example:
      MUNIMENT_POSTGRES_URL=postgresql://muniment@db/muniment muniment scheduler
    """
    from runtime.scheduler import scheduler as run

    wired.check(starts=True)
    run(wired.settings)
