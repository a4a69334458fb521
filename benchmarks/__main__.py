"""Peer and ours side by side, as ratios.

    python -m benchmarks [NAME ...]

Without names: one script after the other, each in a process of its own that is ended when it takes too long.
"""

import os
import signal
import subprocess
import sys
import time

from benchmarks.common import ROOT

SCRIPTS = {
    "saves": "one-event saves beside the library's recorder and beside bare commits; lone saves",
    "commands": "whole commands, and what each layer costs",
    "warm_checks": "warm checks over HTTP beside an empty route, with 10,000 and 1,000,000 assignments",
    "logins": "logins beside bare bcrypt; checks during a storm of logins",
    "follower": "from save to visible, at 500 events a second",
    "stream": "a stream worker beside a bare Faust agent, on a real Kafka: visible, catching up",
    "relay": "the relay beside bare reading and mapping",
    "rebuild": "a rebuild beside the library's ProjectionRunner and its bare reading and mapping; memory",
    "catchup": "a stream worker 1,000,000 events behind, beside a bare Faust agent",
    "takeover": "taking over after a kill, on a real Kafka: relay, stream worker",
    "idleness": "relay and stream worker when nothing happens, beside a bare Faust worker",
    "snapshots": "loads of a stream of 10,000 events by its snapshot beside without; what looking for one costs",
    "backup": "backup and restore of 1,000,000 events beside PostgreSQL's own COPY",
    "export": "exports to JSON Lines and Parquet beside the library's bare reading and mapping",
    "rebuild_load": "checks while a view is rebuilt, beside checks without",
    "as_of": "checks as of random moments of a history of 1,000,000 events, inside the process and over HTTP",
    "live": "from save to reader over server-sent events: 100 readers at 100 events/s; 1,000 on one process",
    "jobs": "jobs enqueued and drained beside Procrastinate; from enqueueing to start; a long history; idleness",
    "configuration": "reading a value that can change; an update until eight processes run with it; eight idle ones",
    "config_watchers": "from an update to 500 watchers of a namespace on one process; their memory",
    "footprint": "start, memory, idleness of the whole platform",
}
FURTHER = {
    "seen_jobs": "lists and counts of jobs where 1,000,000 have ended and 100,000 wait",
    "stages": "from save to visible over the bus: each stage, and the processor time of each process",
    "checks": "a check inside the process, by where the answer comes from",
    "frame": "what the HTTP frame itself costs",
}
LIMIT_SECONDS = 240.0
LIMITS_SECONDS = {"jobs": 900.0, "as_of": 600.0, "rebuild": 600.0, "catchup": 480.0, "stream": 480.0, "takeover": 480.0}
STOP_SECONDS = 20.0


def run(name: str) -> bool:
    """Runs one script. Whether it came to its end."""
    print(f"\n== {name}: {(SCRIPTS | FURTHER)[name]}\n", flush=True)
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, start_new_session=True) as process:
        try:
            status = process.wait(LIMITS_SECONDS.get(name, LIMIT_SECONDS))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # its own cleaning up first
            status = _ended(process)
        except BaseException:
            process.send_signal(signal.SIGINT)
            _ended(process)
            raise
    print(f"\n({name}: {time.monotonic() - started:.0f} s, load average {os.getloadavg()[0]:.1f})", flush=True)
    return status == 0


def _ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_SECONDS) or 1
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def main(names: list[str]) -> int:
    """The exit status: 1 if a script failed. Goals that aren't reached don't fail: machines differ."""
    unknown = set(names) - (SCRIPTS | FURTHER).keys()
    if unknown:
        lines = [f"  {name:12} {what}" for name, what in (SCRIPTS | FURTHER).items()]
        print("\n".join([f"no such benchmark: {', '.join(sorted(unknown))}; there are", *lines]), file=sys.stderr)
        return 2
    failed = [name for name in names or SCRIPTS if not run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
