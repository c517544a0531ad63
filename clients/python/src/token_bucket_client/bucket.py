"""A bucket, for programs with threads or greenlets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from types import TracebackType

from . import take
from .errors import AccessRefusedError, AcquireTimeoutError, QueueUnavailableError
from .lease import Lease
from .naming import MOST_TOKENS, checked_count, queue_of, wanted_of
from .pool import pool_of
from .wait import until_taken, wait_for_token


class TokenBucket:
    """A bucket of token-bucket-operator. Threads and greenlets may share one, and so may forked processes.

    Args:
        name: `spec.name` of the TokenBucket.
        broker: the URI of its broker (`amqp://user:password@host:5672/vhost`, as kombu understands it), a kombu
            Connection, or a Celery app. Connections are pooled for each of these in a process.
        prefetch: tokens that are held ahead of the calls, unacknowledged, for many callers in one process. They come
            back to the bucket when the process ends, or after a minute without a caller. 0: none.

    Raises:
        ValueError: the name or a number cannot be right.
    """

    def __init__(self, name: str, broker: object, *, prefetch: int = 0) -> None:
        self.name = name
        self.queue = queue_of(name)
        self._pool = pool_of(broker)
        if not 0 <= prefetch <= MOST_TOKENS:
            raise ValueError(f"prefetch={prefetch!r}: 0 to {MOST_TOKENS} tokens can be held")
        self._prefetch = prefetch
        self._lease = Lease(self._pool, name, prefetch) if prefetch else None

    def __repr__(self) -> str:
        return f"TokenBucket({self.name!r})"

    def try_acquire(self, tokens: int = 1) -> bool:
        """Takes tokens if they are there, all of them or none. Waits for nothing but the broker's answer.

        Raises:
            QueueMissingError: there has been no queue for two seconds.
            TokenBucketError: the broker cannot be asked, or refuses.
        """
        checked_count(tokens)
        if self._lease is not None and tokens <= self._prefetch and self._lease.take(tokens, None):
            return True
        return take.take(self._pool, {self.name: tokens}) is None

    def acquire(self, tokens: int = 1, timeout: float | None = None) -> None:
        """Waits for tokens and takes them, all of them together.

        A caller that waits for one token has a connection of its own for that time, and is woken by the broker. With
        `prefetch` all callers share one. For several tokens the broker is asked again, at most a second later.

        Args:
            tokens: how many.
            timeout: seconds; None: as long as it takes.

        Raises:
            AcquireTimeoutError: they were not there in time. It is a TimeoutError.
            QueueMissingError: there has been no queue for two seconds.
            TokenBucketError: the broker cannot be asked, or refuses.
        """
        checked_count(tokens)
        deadline = deadline_of(timeout)
        if not self._acquire(tokens, deadline):
            raise AcquireTimeoutError(self.name, timeout or 0.0)

    def _acquire(self, tokens: int, deadline: float) -> bool:
        def attempt() -> bool:
            return take.take(self._pool, {self.name: tokens}) is None

        if self._lease is not None and tokens <= self._prefetch:
            try:
                return self._lease.take(tokens, deadline)
            except (AccessRefusedError, QueueUnavailableError):
                return until_taken(attempt, deadline)
        if attempt():
            return True
        if time.monotonic() >= deadline:
            return False
        if tokens == 1:
            return wait_for_token(self._pool, self.name, attempt, deadline)
        return until_taken(attempt, deadline)

    def refund(self, tokens: int = 1) -> None:
        """Puts tokens back that were not used. What is above the bucket's maximum is dropped by the broker.

        Raises:
            QueueMissingError: there has been no queue for two seconds.
            RefundRefusedError: the queue takes none.
            RefundUnknownError: the connection broke in between.
            TokenBucketError: the broker cannot be asked, or refuses: it takes the permission `write` on `amq.default`.
        """
        take.refund(self._pool, self.name, checked_count(tokens))

    def available(self) -> int:
        """Tokens that are in the bucket now. Those that somebody holds ahead of calls are not counted."""
        return take.count(self._pool, self.name)

    def close(self) -> None:
        """Gives back what is held ahead of calls. The bucket can be used again."""
        if self._lease is not None:
            self._lease.close()

    def __enter__(self) -> TokenBucket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


Wanted = Mapping[TokenBucket, int] | Iterable[TokenBucket]


def try_acquire_all(buckets: Wanted) -> bool:
    """Takes one token of each bucket (or as many as a mapping says), all of them or none.

    Raises:
        ValueError: there are none, or they are at different brokers.
        TokenBucketError: as `TokenBucket.try_acquire`.
    """
    pool, wanted = wanted_of(buckets, lambda bucket: bucket._pool)
    return take.take(pool, wanted) is None


def acquire_all(buckets: Wanted, timeout: float | None = None) -> None:
    """Waits until each bucket has its tokens, and takes them together; none is held meanwhile.

    Args:
        buckets: buckets at one broker, or a mapping from these to numbers of tokens.
        timeout: seconds; None: as long as it takes.

    Raises:
        ValueError: there are none, or they are at different brokers.
        AcquireTimeoutError: they were not there in time.
        TokenBucketError: as `TokenBucket.acquire`.
    """
    pool, wanted = wanted_of(buckets, lambda bucket: bucket._pool)
    if not until_taken(lambda: take.take(pool, wanted) is None, deadline_of(timeout)):
        raise AcquireTimeoutError(", ".join(sorted(wanted)), timeout or 0.0)


def deadline_of(timeout: float | None) -> float:
    """When the time is over, by the monotonic clock."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout={timeout!r}: it is a number of seconds, or None")
    return math.inf if timeout is None else time.monotonic() + timeout
