"""A bucket, for programs with asyncio. Needs the extra `asyncio` (aio-pika)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage

from .aio_lease import AsyncLease
from .aio_link import (
    PERSISTENT,
    Link,
    Token,
    about,
    close,
    consumes,
    count,
    forget,
    get,
    give_back,
    keep,
    link_to,
    patiently,
    whole,
)
from .bucket import deadline_of
from .errors import (
    AccessRefusedError,
    AcquireTimeoutError,
    BrokerUnreachableError,
    QueueMissingError,
    QueueUnavailableError,
    RefundRefusedError,
    RefundUnknownError,
    TokenBucketError,
)
from .naming import MOST_TOKENS, checked_count, queue_of, wanted_of
from .session import ANSWER_WITHIN, Broken
from .take import pauses

__all__ = ["AsyncTokenBucket", "acquire_all", "try_acquire_all"]

T = TypeVar("T")


class AsyncTokenBucket:
    """A bucket of token-bucket-operator. Tasks of one event loop may share one.

    Args:
        name: `spec.name` of the TokenBucket.
        broker: the URI of its broker, as kombu understands it, or a connection of aio-pika. Buckets of a loop with the
            same URI share a connection.
        prefetch: tokens that are held ahead of the calls, unacknowledged, for many callers. They come back to the
            bucket when the process ends, or after a minute without a caller. 0: none.

    Raises:
        ValueError: the name or a number cannot be right.
    """

    def __init__(self, name: str, broker: object, *, prefetch: int = 0) -> None:
        self.name = name
        self.queue = queue_of(name)
        if not 0 <= prefetch <= MOST_TOKENS:
            raise ValueError(f"prefetch={prefetch!r}: 0 to {MOST_TOKENS} tokens can be held")
        self._broker = broker
        self._prefetch = prefetch
        self._link: Link | None = None
        self._lease: AsyncLease | None = None

    def __repr__(self) -> str:
        return f"AsyncTokenBucket({self.name!r})"

    def _linked(self) -> Link:
        if self._link is None:
            self._link = link_to(self._broker)
            self._link.users += 1
            if self._prefetch:
                self._lease = AsyncLease(self._link, self.name, self._prefetch)
        return self._link

    async def try_acquire(self, tokens: int = 1) -> bool:
        """Takes tokens if they are there, all of them or none. Waits for nothing but the broker's answer.

        If it is cancelled in between, what it has taken is put back.

        Raises:
            QueueMissingError: there has been no queue for two seconds.
            TokenBucketError: the broker cannot be asked, or refuses.
        """
        checked_count(tokens)
        link = self._linked()
        if self._lease is not None and self._lease.at_once(tokens):
            await self._lease.take(tokens)
            return True
        return await _take(link, {self.name: tokens})

    async def acquire(self, tokens: int = 1, timeout: float | None = None) -> None:
        """Waits for tokens and takes them, all of them together.

        A task that waits for one token has a channel of its own for that time, and is woken by the broker. With
        `prefetch` all share one. For several tokens the broker is asked again, at most a second later.

        Args:
            tokens: how many.
            timeout: seconds; None: as long as it takes.

        Raises:
            AcquireTimeoutError: they were not there in time. It is a TimeoutError.
            QueueMissingError: there has been no queue for two seconds.
            TokenBucketError: the broker cannot be asked, or refuses.
        """
        checked_count(tokens)
        if not await self._acquire(tokens, deadline_of(timeout)):
            raise AcquireTimeoutError(self.name, timeout or 0.0)

    async def _acquire(self, tokens: int, deadline: float) -> bool:
        link = self._linked()

        async def attempt() -> bool:
            return await _take(link, {self.name: tokens})

        with suppress(AccessRefusedError, QueueUnavailableError):
            if self._lease is not None and tokens <= self._prefetch:
                return await _in_time(self._lease.take(tokens), deadline)
            if tokens == 1:
                return await attempt() or await _wait_for_token(link, self.name, deadline)
        return await _until(attempt, deadline)

    async def refund(self, tokens: int = 1) -> None:
        """Puts tokens back that were not used. What is above the bucket's maximum is dropped by the broker.

        Raises:
            QueueMissingError: there has been no queue for two seconds.
            RefundRefusedError: the queue takes none.
            RefundUnknownError: the connection broke in between.
            TokenBucketError: the broker cannot be asked, or refuses: it takes the permission `write` on `amq.default`.
        """
        await _refund(self._linked(), self.name, checked_count(tokens))

    async def available(self) -> int:
        """Tokens that are in the bucket now. Those that somebody holds ahead of calls are not counted."""
        link = self._linked()
        return await patiently(lambda: _twice(link, lambda channel: count(channel, self.name)))

    async def close(self) -> None:
        """Gives back what is held ahead of calls, and ends the connection that no other bucket uses."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._lease is not None:
            spare = await self._lease.close()
            if spare:
                with suppress(TokenBucketError):
                    await _refund(link, self.name, spare)
        link.users -= 1
        if not link.users:
            forget(link)
            await link.close()

    async def __aenter__(self) -> AsyncTokenBucket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


Wanted = Mapping[AsyncTokenBucket, int] | Iterable[AsyncTokenBucket]


async def try_acquire_all(buckets: Wanted) -> bool:
    """Takes one token of each bucket (or as many as a mapping says), all of them or none.

    Raises:
        ValueError: there are none, or they are at different brokers.
        TokenBucketError: as `AsyncTokenBucket.try_acquire`.
    """
    return await _take(*wanted_of(buckets, lambda bucket: bucket._linked()))


async def acquire_all(buckets: Wanted, timeout: float | None = None) -> None:
    """Waits until each bucket has its tokens, and takes them together; none is held meanwhile.

    Args:
        buckets: buckets at one broker, or a mapping from these to numbers of tokens.
        timeout: seconds; None: as long as it takes.

    Raises:
        ValueError: there are none, or they are at different brokers.
        AcquireTimeoutError: they were not there in time.
        TokenBucketError: as `AsyncTokenBucket.acquire`.
    """
    link, wanted = wanted_of(buckets, lambda bucket: bucket._linked())
    if not await _until(lambda: _take(link, wanted), deadline_of(timeout)):
        raise AcquireTimeoutError(", ".join(sorted(wanted)), timeout or 0.0)


async def _twice(link: Link, action: Callable[[AbstractChannel], Coroutine[Any, Any, T]]) -> T:
    """The result of an action. One whose connection breaks is done once more on another."""
    try:
        async with link.channel() as channel:
            return await action(channel)
    except Broken:
        pass
    try:
        async with link.channel() as channel:
            return await action(channel)
    except Broken as error:
        raise BrokerUnreachableError(link.broker, error) from None


async def _take(link: Link, wanted: Mapping[str, int]) -> bool:
    # All take in the same order: nobody waits for what another one holds.
    ordered = sorted(wanted.items())

    def late(taken: bool) -> None:
        if taken:
            link.later(_put_back(link, wanted))

    async def take(channel: AbstractChannel) -> bool:
        if len(ordered) == 1 and ordered[0][1] == 1:
            return await get(channel, ordered[0][0], no_ack=True) is not None
        return await _take_all(channel, ordered)

    return await patiently(lambda: whole(link, _twice(link, take), late))


async def _take_all(channel: AbstractChannel, ordered: list[tuple[str, int]]) -> bool:
    # Most of the time this tells, without a token in anybody's hands.
    for bucket, tokens in ordered:
        if await count(channel, bucket) < tokens:
            return False
    held: dict[str, list[Token]] = {}
    last = 0
    for bucket, tokens in ordered:
        held[bucket] = []
        for _ in range(tokens):
            token = await get(channel, bucket, no_ack=False)
            if token is None:
                await give_back(channel, held)
                return False
            held[bucket].append(token)
            last = token.tag
    await keep(channel, ordered[-1][0], last)
    return True


async def _put_back(link: Link, wanted: Mapping[str, int]) -> None:
    # Nobody is there to be told; a token that does not come back is lost.
    with suppress(TokenBucketError):
        for bucket, tokens in wanted.items():
            await _refund(link, bucket, tokens)


async def _refund(link: Link, bucket: str, tokens: int) -> None:
    async def publish() -> None:
        queue = queue_of(bucket)
        channel = await link.open_channel(confirms=True)
        try:
            async with about(bucket, "the permission write on amq.default"):
                sent = channel.basic_publish(b"", routing_key=queue, properties=PERSISTENT, mandatory=True)
                confirm = await asyncio.wait_for(sent, ANSWER_WITHIN)
            if isinstance(confirm, aiormq.spec.Basic.Nack):
                raise RefundRefusedError(bucket, queue)
        except aiormq.exceptions.PublishError:
            raise QueueMissingError(bucket, queue) from None
        except aiormq.exceptions.DeliveryError:
            raise RefundRefusedError(bucket, queue) from None
        except Broken as error:
            raise RefundUnknownError(bucket, queue, error) from None
        finally:
            await close(channel)

    for _ in range(tokens):
        await patiently(publish)


async def _until(attempt: Callable[[], Awaitable[bool]], deadline: float) -> bool:
    for pause in pauses(0.01, 1.0):
        if await attempt():
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
    return False


async def _in_time(waiting: Coroutine[Any, Any, object], deadline: float) -> bool:
    try:
        await asyncio.wait_for(waiting, None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:
        return False
    return True


async def _wait_for_token(link: Link, bucket: str, deadline: float) -> bool:
    """Waits for one token as a consumer: the broker hands it over the moment it is there."""
    while time.monotonic() < deadline:
        try:
            waiting = await patiently(lambda: whole(link, _consuming(link, bucket), _end))
        except Broken:
            continue
        try:
            return await waiting.until(deadline)
        except Broken:
            # A token that was in our hands is lost if the broker has let go of it; then this one waits for another.
            continue
        finally:
            # Also when the caller was cancelled. What has come for it goes back.
            _end(waiting)
    return False


def _end(waiting: _Waiting) -> None:
    waiting.link.later(waiting.end())


async def _consuming(link: Link, bucket: str) -> _Waiting:
    channel = await link.open_channel()
    waiting = _Waiting(link, channel, bucket)
    try:
        async with about(bucket, "the permission read, and that nobody consumes the queue exclusively") as queue:
            await channel.basic_qos(prefetch_count=1)
            consumed = await channel.basic_consume(queue, waiting.deliver)
            waiting.consumer = str(consumed.consumer_tag)
    except BaseException:
        link.later(close(channel))
        raise
    return waiting


class _Waiting:
    """A consumer that is handed one token."""

    def __init__(self, link: Link, channel: AbstractChannel, bucket: str) -> None:
        self.link = link
        self.channel = channel
        self.bucket = bucket
        self.consumer = ""
        self.delivered: list[Token] = []
        self.news = asyncio.Event()
        self.taking: asyncio.Future[None] | None = None
        self.orphaned = False

    async def deliver(self, message: DeliveredMessage) -> None:
        self.delivered.append(Token(message))
        self.news.set()

    async def until(self, deadline: float) -> bool:
        while not self.delivered:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            # The end of a consumer is not told on older versions of aio-pika; hence a look now and then.
            await _in_time(self.news.wait(), time.monotonic() + min(left, 0.5))
            if not self.delivered and not consumes(self.channel, self.consumer):
                raise Broken("the consumer was cancelled")
        self.taking = asyncio.ensure_future(self._take())
        try:
            await asyncio.shield(self.taking)
        except asyncio.CancelledError:
            self.orphaned = True
            raise
        return True

    async def _take(self) -> None:
        async with about(self.bucket):
            # First, so that the broker sends no other one for it.
            await asyncio.wait_for(self.channel.basic_cancel(self.consumer), ANSWER_WITHIN)
            await keep(self.channel, self.bucket, self.delivered[0].tag)

    async def end(self) -> None:
        """Ends the consumer, and gives back what nobody has got."""
        with suppress(Broken, TokenBucketError, asyncio.CancelledError):
            if self.taking is not None:
                await self.taking
                if self.orphaned:
                    await _refund(self.link, self.bucket, 1)
            elif not self.channel.is_closed:
                async with about(self.bucket):
                    await asyncio.wait_for(self.channel.basic_cancel(self.consumer), ANSWER_WITHIN)
                # What came before the answer is handled first.
                await asyncio.sleep(0)
                if self.delivered:
                    await give_back(self.channel, {self.bucket: self.delivered})
        await close(self.channel)
