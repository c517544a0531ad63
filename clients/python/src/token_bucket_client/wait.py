"""Waiting for a token as a consumer: the broker hands it over the moment it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .errors import AccessRefusedError, QueueUnavailableError
from .pool import Pool
from .session import Broken, Held, Session
from .take import patiently, pauses

BEAT = 5.0
"""Seconds between looks at the heartbeats of a connection on which nothing arrives."""


def until_taken(attempt: Callable[[], bool], deadline: float) -> bool:
    """Repeats an attempt with pauses until the deadline (of the monotonic clock) has passed."""
    for pause in pauses(0.01, 1.0):
        if attempt():
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
    return False


def wait_for_token(pool: Pool, bucket: str, attempt: Callable[[], bool], deadline: float) -> bool:
    """Waits for one token until the deadline (of the monotonic clock). Where the broker lets nobody else consume the
    queue, it is asked again and again.
    """
    while True:
        session = pool.open_to_wait()
        waiting = _Waiting(session, bucket)
        try:
            taken = waiting.until(deadline)
            session.close()
            return taken
        except (AccessRefusedError, QueueUnavailableError):
            session.close()
            return until_taken(attempt, deadline)
        except Broken:
            session.drop()
            # A token that was in our hands is lost if the broker has let go of it; then this one waits for another.
            if time.monotonic() >= deadline:
                return False
        except BaseException:
            # What was under way to us goes back with the connection.
            session.drop()
            raise


class _Waiting:
    """A consumer that is handed one token."""

    def __init__(self, session: Session, bucket: str) -> None:
        self.session = session
        self.bucket = bucket
        self.delivered: list[Held] = []
        self.consuming = False

    def deliver(self, message: Any) -> None:
        self.delivered.append(Held(message))

    def cancelled(self, _: object) -> None:
        self.consuming = False

    def until(self, deadline: float) -> bool:
        session = self.session
        while not self.delivered:
            if not self.consuming:
                # Again, if the broker has ended it: another queue is in the place of that one.
                self.consuming = True
                consumer = patiently(lambda: session.consume(self.bucket, 1, self.deliver, self.cancelled))
            left = deadline - time.monotonic()
            if left <= 0:
                # A token that has come before the answer is taken all the same.
                session.cancel(consumer)
                break
            session.wait(min(left, BEAT))
        if not self.delivered:
            return False
        # First, so that the broker sends no other one for it.
        session.cancel(consumer, answer=False)
        session.keep(self.delivered[0].tag)
        return True
