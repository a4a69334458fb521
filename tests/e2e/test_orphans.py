"""What a killed process leaves behind: nothing."""

import signal

from tests.e2e.platform import Platform, eventually, family


def test_the_workers_of_an_api_that_is_killed_end_with_it(platform: Platform) -> None:
    api = platform.api("cecilia").start()
    try:
        api.wait_until_ready()
        master, *workers = family(api.process.pid)
        assert workers
        master.send_signal(signal.SIGKILL)
        api.process.wait(10)
        eventually(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    finally:
        api.kill()
        api.http.close()
