"""Names of buckets and of their queues, and numbers of tokens."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

_NAME = re.compile(r"[A-Za-z0-9_]{1,200}")

MOST_TOKENS = 1000
"""Tokens that one call can take or give back: they are held one by one until all are there."""


def queue_of(bucket: str) -> str:
    """Name of the queue of a bucket.

    Raises:
        ValueError: it is no name of a bucket.
    """
    if not isinstance(bucket, str) or not _NAME.fullmatch(bucket):
        raise ValueError(
            f"{bucket!r} is no name of a bucket: it has 1 to 200 letters, digits and underscores, "
            "as spec.name of its TokenBucket says"
        )
    return f"token_bucket_{bucket}"


def checked_count(tokens: int, most: int = MOST_TOKENS) -> int:
    """The number of tokens of one call.

    Raises:
        ValueError: it is none, or too large.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= most:
        raise ValueError(f"{tokens!r} tokens at one time: ask for 1 to {most}")
    return tokens


class Named(Protocol):
    """A bucket of either kind."""

    name: str


B = TypeVar("B", bound=Named)
P = TypeVar("P")


def wanted_of(buckets: Mapping[B, int] | Iterable[B], broker_of: Callable[[B], P]) -> tuple[P, dict[str, int]]:
    """The one broker at which all of the buckets are, and how many tokens of each are to be taken together.

    Raises:
        ValueError: there are none, or they are at different brokers.
    """
    counts = dict(buckets) if isinstance(buckets, Mapping) else dict.fromkeys(buckets, 1)
    if not counts:
        raise ValueError("no buckets: name one at least")
    brokers = {id(broker): broker for broker in map(broker_of, counts)}
    if len(brokers) > 1:
        raise ValueError("these buckets are at different brokers: tokens can be taken together at one only")
    wanted: dict[str, int] = {}
    for bucket, tokens in counts.items():
        wanted[bucket.name] = checked_count(wanted.get(bucket.name, 0) + checked_count(tokens))
    return next(iter(brokers.values())), wanted
