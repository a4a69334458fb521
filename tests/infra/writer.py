"""A process that saves as fast as it can and prints each position that it was promised: to be raced, and to be killed.

Usage: python -m tests.infra.writer CONNINFO THREADS SAVES
"""

import sys
from threading import Lock, Thread
from uuid import UUID, uuid4

from eventsourcing.persistence import StoredEvent

from infra.recorder import Limits, LogDatastore, LogRecorder, Save


def write(recorder: LogRecorder, stream: UUID, saves: int, printing: Lock) -> None:
    for version in range(1, saves + 1):
        committed = recorder.save(Save([StoredEvent(stream, version, "harbour.ShipArrived", b'{"name":"Argo"}')]))
        with printing:
            print(stream, version, committed.position, flush=True)


def main(conninfo: str, threads: int, saves: int) -> None:
    recorder = LogRecorder(LogDatastore(conninfo, Limits()))
    printing = Lock()
    writers = [Thread(target=write, args=(recorder, uuid4(), saves, printing), daemon=True) for _ in range(threads)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    recorder.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
