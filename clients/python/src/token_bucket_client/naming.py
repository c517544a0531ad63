"""Names of buckets and of their queues."""

import re

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
