"""Taking tokens: one, or several of several buckets, all or nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from .errors import BrokerUnreachableError, QueueMissingError
from .pool import Pool
from .session import Broken, Held, Session

T = TypeVar("T")

MISSING_FOR = 2.0
"""Seconds for which a queue may be missing: it is replaced when the maximum of its bucket is raised."""


def pauses(first: float, most: float) -> Iterator[float]:
    """Seconds between attempts: twice as long each time, and different for all who wait for the same."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, most)


def patiently(call: Callable[[], T]) -> T:
    """The result of a call, which is repeated while a queue is missing."""
    deadline = time.monotonic() + MISSING_FOR
    for pause in pauses(0.005, 0.2):
        try:
            return call()
        except QueueMissingError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
    raise AssertionError


def call(pool: Pool, action: Callable[[Session], T]) -> T:
    """The result of an action. One whose connection breaks is done once more on another: a token of the first attempt
    is lost at most.
    """
    try:
        with pool.session() as session:
            return action(session)
    except Broken:
        pass
    with pool.session() as session:
        try:
            return action(session)
        except Broken as error:
            raise BrokerUnreachableError(session.broker, error) from None


def take(pool: Pool, wanted: Mapping[str, int]) -> str | None:
    """Takes so many tokens of each bucket, or none at all. Returns the name of a bucket that is short."""
    if len(wanted) == 1:
        (bucket,) = wanted
        if wanted[bucket] == 1:
            return None if patiently(lambda: call(pool, lambda session: session.take(bucket))) else bucket
    # All take in the same order: nobody waits for what another one holds.
    ordered = sorted(wanted.items())
    return patiently(lambda: call(pool, lambda session: _take_all(session, ordered)))


def _take_all(session: Session, ordered: list[tuple[str, int]]) -> str | None:
    # Most of the time this tells, without a token in anybody's hands.
    for bucket, tokens in ordered:
        if session.count(bucket) < tokens:
            return bucket
    held: dict[str, list[Held]] = {}
    last = 0
    for bucket, tokens in ordered:
        held[bucket] = []
        for _ in range(tokens):
            token = session.hold(bucket)
            if token is None:
                session.give_back(held)
                return bucket
            held[bucket].append(token)
            last = token.tag
    session.keep(last)
    return None


def count(pool: Pool, bucket: str) -> int:
    """Tokens in a bucket."""
    return patiently(lambda: call(pool, lambda session: session.count(bucket)))


def refund(pool: Pool, bucket: str, tokens: int) -> None:
    """Puts tokens back. Nothing is repeated that may have been done."""
    for _ in range(tokens):

        def publish() -> None:
            with pool.session() as session:
                session.publish(bucket)

        patiently(publish)
