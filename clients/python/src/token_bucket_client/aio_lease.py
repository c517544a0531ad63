"""Tokens that are held ahead of the calls, for the tasks of one event loop: what `lease` is for threads."""

from __future__ import annotations

import asyncio
from collections import deque

from aiormq.abc import AbstractChannel, DeliveredMessage

from .aio_link import Link, Token, about, close, consumes, give_back, keep, patiently
from .errors import BrokerUnreachableError, TokenBucketError
from .lease import IDLE
from .session import ANSWER_WITHIN, Broken


class AsyncLease:
    """At most `prefetch` tokens of one bucket, held unacknowledged."""

    def __init__(self, link: Link, bucket: str, prefetch: int) -> None:
        self._link = link
        self._bucket = bucket
        self._prefetch = prefetch
        self._requests: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._held: deque[Token] = deque()
        self._channel: AbstractChannel
        self._spare = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def at_once(self, tokens: int) -> bool:
        """Whether so many are held now that nobody waits for."""
        return not self._requests and len(self._held) + self._spare >= tokens

    async def take(self, tokens: int) -> None:
        """Waits for tokens. If it is cancelled, they are the next caller's."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests.append((tokens, done))
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())
        try:
            await done
        except asyncio.CancelledError:
            if done.done() and not done.cancelled() and done.exception() is None:
                # They had been handed out a moment ago.
                self._spare += tokens
                self._news.set()
            raise

    async def close(self) -> int:
        """Gives the tokens back. Returns how many were acknowledged for a caller that is gone."""
        self._closing = True
        self._news.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._closing = False
        spare, self._spare = self._spare, 0
        return spare

    async def _run(self) -> None:
        try:
            while self._requests and not self._closing:
                self._held.clear()
                self._channel = await self._link.open_channel()
                try:
                    await self._serve()
                except Broken:
                    # What was held is back in the bucket; what was being acknowledged is there or gone.
                    continue
                finally:
                    await close(self._channel)
        except TokenBucketError as error:
            self._fail(error)
        except Exception as error:
            self._fail(BrokerUnreachableError(self._link.broker, repr(error)))
        if self._closing:
            self._fail(TokenBucketError(f"bucket {self._bucket} is closed"))

    def _fail(self, error: TokenBucketError) -> None:
        while self._requests:
            _, done = self._requests.popleft()
            if not done.done():
                done.set_exception(error)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        last, consumer = loop.time(), ""
        while True:
            if not consumes(self._channel, consumer):
                if consumer and self._channel.is_closed:
                    raise Broken("the channel was closed")
                consumer = await patiently(self._consume)
            if await self._commit():
                last = loop.time()
                continue
            if self._closing or (not self._requests and loop.time() - last > IDLE):
                async with about(self._bucket):
                    await asyncio.wait_for(self._channel.basic_cancel(consumer), ANSWER_WITHIN)
                # Those that are on their way already are handled first.
                await asyncio.sleep(0)
                if self._held:
                    await give_back(self._channel, {self._bucket: self._held})
                return
            self._news.clear()
            if not self._ready():
                try:
                    await asyncio.wait_for(self._news.wait(), 1.0)
                except asyncio.TimeoutError:
                    # The end of a consumer is not told on older versions of aio-pika; hence a look now and then.
                    continue

    async def _consume(self) -> str:
        if self._channel.is_closed:
            # By the answer that there is no queue; it took along what was held.
            self._held.clear()
            self._channel = await self._link.open_channel()
        async with about(self._bucket, "the permission read, and that nobody consumes the queue exclusively") as queue:
            await self._channel.basic_qos(prefetch_count=self._prefetch)
            consumed = await self._channel.basic_consume(queue, self._deliver)
            return str(consumed.consumer_tag)

    async def _deliver(self, message: DeliveredMessage) -> None:
        self._held.append(Token(message))
        self._news.set()

    def _ready(self) -> bool:
        while self._requests and self._requests[0][1].done():
            self._requests.popleft()
        return bool(self._requests) and len(self._held) + self._spare >= self._requests[0][0]

    async def _commit(self) -> bool:
        """Acknowledges the tokens of those who come first, and hands them out. False: there is nothing to do."""
        if not self._ready():
            return False
        there = len(self._held) + self._spare
        wanted = 0
        for tokens, _ in self._requests:
            if wanted + tokens > there:
                break
            wanted += tokens
        count = wanted - min(wanted, self._spare)
        if count:
            await keep(self._channel, self._bucket, self._held[count - 1].tag, self._prefetch)
            for _ in range(count):
                self._held.popleft()
        self._spare += count
        while self._requests and self._requests[0][0] <= self._spare:
            tokens, done = self._requests.popleft()
            # Who was cancelled meanwhile leaves its tokens to the next one.
            if not done.done():
                self._spare -= tokens
                done.set_result(None)
        return True
