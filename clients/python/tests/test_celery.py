"""Real workers. What is expected of our decorator is expected of that of django-celery-token-bucket too."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Vhost, eventually

HERE = Path(__file__).parent


class Worker:
    def __init__(self, vhost: Vhost, folder: Path, decorator: str, pool: str, acks_late: bool) -> None:
        self.journal = folder / "journal"
        self.journal.touch()
        self.log = folder / "log"
        self.environment = {
            **os.environ,
            "APP_URL": vhost.url,
            "DECORATOR": decorator,
            "ACKS_LATE": str(acks_late),
            "JOURNAL": str(self.journal),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = ["celery", "-A", "celery_app", "worker", "--pool", pool, "-c", "4", "--loglevel", "INFO"]
        with self.log.open("w") as log:
            # Should the test process be killed, this one goes too.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", *command, "--without-gossip", "--without-mingle"],
                cwd=HERE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, code: str) -> None:
        code = f"from celery_app import *\n{code}"
        subprocess.run([sys.executable, "-c", code], cwd=HERE, env=self.environment, check=True)

    def lines(self, beginning: str) -> list[str]:
        return [line for line in self.journal.read_text().splitlines() if line.startswith(beginning)]

    def until(self, what: str, holds: Callable[[], object]) -> None:
        try:
            eventually(what, holds)
        except AssertionError:
            print(self.journal.read_text()[-2000:], self.log.read_text()[-6000:])
            raise

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


WORKERS = [
    ("original", "prefork", False),
    ("ours", "prefork", True),
    ("ours", "threads", False),
    ("ours", "gevent", True),
    ("django", "prefork", False),
]


@pytest.mark.parametrize(("decorator", "pool", "acks_late"), WORKERS)
def test_tasks_run_when_there_is_a_token_and_wait_otherwise(
    vhost: Vhost, tmp_path: Path, decorator: str, pool: str, acks_late: bool
) -> None:
    vhost.declare("x", 5)
    vhost.declare("empty")
    worker = Worker(vhost, tmp_path, decorator, pool, acks_late)
    try:
        worker.send("for n in range(9): call.delay(n)\nimpatient.delay()\nlost.delay()")
        worker.until("five to run", lambda: len(worker.lines("SUCCESS call")) == 5)
        worker.until("four to wait", lambda: len({line.split()[2] for line in worker.lines("RETRY call")}) == 4)
        worker.until("one to give up", lambda: worker.lines("FAILURE impatient 2 MaxRetriesExceededError"))
        worker.until("one to fail", lambda: worker.lines("FAILURE lost"))
        assert vhost.depth("x") == 0
        vhost.add("x", 4)
        worker.until("all to run", lambda: len(worker.lines("SUCCESS call")) == 9)
        # A try without a token does not count, though signal handlers see it as one before the first.
        assert {line.split()[3] for line in worker.lines("SUCCESS call")} == {"0"}
        assert {line.split()[3] for line in worker.lines("RETRY call")} == {"-1"}
        assert len(worker.lines("RETRY impatient")) == 2

        # A retry of the task itself counts, and takes another token.
        vhost.add("x", 2)
        worker.send("flaky.delay()")
        worker.until("the second try to run", lambda: worker.lines("SUCCESS flaky 1"))
        assert vhost.depth("x") == 0
        assert len({line.split()[2] for line in worker.lines("SUCCESS call")}) == 9
    finally:
        worker.end()


def test_a_prefork_worker_keeps_its_connections(vhost: Vhost, tmp_path: Path) -> None:
    vhost.declare("x", 200)
    worker = Worker(vhost, tmp_path, "ours", "prefork", False)
    try:
        worker.send("for n in range(100): call.delay(n)")
        worker.until("all to run", lambda: len(worker.lines("SUCCESS call")) == 100)
        assert vhost.depth("x") == 100
    finally:
        worker.end()
