"""One AMQP connection of one event loop, and its channels: what `session` and `pool` are for threads."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast
from urllib.parse import quote

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq import spec
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.abc import AbstractConnection as Wire
from kombu.connection import Connection as KombuConnection
from pamqp.exceptions import AMQPInternalError

from .errors import (
    AccessRefusedError,
    BrokerRefusedError,
    BrokerUnreachableError,
    QueueMissingError,
    QueueUnavailableError,
)
from .naming import queue_of
from .session import ANSWER_WITHIN, HEARTBEAT, Broken
from .take import MISSING_FOR, pauses

T = TypeVar("T")
CHANNELS = 16
"""Channels that calls of one loop use at the same time; further calls wait for one."""

BROKEN = (aiormq.AMQPConnectionError, aiormq.ChannelInvalidStateError, OSError, EOFError, asyncio.TimeoutError)

_links: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, Link]] = weakref.WeakKeyDictionary()


class Token:
    """A token that the broker has handed out and not yet let go of."""

    __slots__ = ("tag", "worn")

    def __init__(self, message: DeliveredMessage) -> None:
        self.tag: int = message.delivery_tag or 0
        headers: Any = message.header.properties.headers or {}
        self.worn = int(headers.get("x-delivery-count") or 0) >= 1


class Link:
    """A connection to one broker, made when it is needed, and again when it has ended."""

    def __init__(self, broker: object) -> None:
        self.broker = "the broker"
        self._given: AbstractConnection | None = None
        self._uri = ""
        if isinstance(broker, AbstractConnection):
            self._given = broker
        elif isinstance(broker, str):
            self._uri, self.broker = _uri_of(broker)
        else:
            raise TypeError(f"a broker is a URI or a connection of aio-pika, not {type(broker).__name__}")
        self._wire: Wire | None = None
        self._connecting = asyncio.Lock()
        self._free = asyncio.Semaphore(CHANNELS)
        self._idle: list[AbstractChannel] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self.users = 0

    async def open_channel(self, confirms: bool = False) -> AbstractChannel:
        """A channel of one's own."""
        try:
            if self._given is not None:
                given = await self._given.channel(publisher_confirms=confirms)
                channel: AbstractChannel = await given.get_underlay_channel()
                return channel
            wire = await self._connected()
            return await asyncio.wait_for(wire.channel(publisher_confirms=confirms), ANSWER_WITHIN)
        except (BrokerUnreachableError, BrokerRefusedError):
            raise
        except (*BROKEN, RuntimeError) as error:
            raise BrokerUnreachableError(self.broker, _words(error)) from None

    async def _connected(self) -> Wire:
        async with self._connecting:
            if self._wire is None or self._wire.is_closed:
                self._idle.clear()
                try:
                    self._wire = await asyncio.wait_for(aiormq.connect(self._uri), ANSWER_WITHIN)
                except (
                    aiormq.exceptions.AuthenticationError,
                    aiormq.exceptions.ProbableAuthenticationError,
                    aiormq.exceptions.ConnectionNotAllowed,
                    # That is what it makes of a virtual host that is not there.
                    aiormq.exceptions.InvalidFrameError,
                    AMQPInternalError,
                ) as error:
                    raise BrokerRefusedError(self.broker, _words(error)) from None
                except BROKEN as error:
                    raise BrokerUnreachableError(self.broker, _words(error)) from None
            return self._wire

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel for one call. After an error it is not used again."""
        async with self._free:
            channel = None
            while self._idle and channel is None:
                channel = self._idle.pop()
                if channel.is_closed or channel.connection.is_closed:
                    channel = None
            if channel is None:
                channel = await self.open_channel()
            try:
                yield channel
            except BaseException:
                self.later(close(channel))
                raise
            self._idle.append(channel)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something that nobody waits for before `close`."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends the connection, if it is ours."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for channel in self._idle:
            await close(channel)
        self._idle.clear()
        wire, self._wire = self._wire, None
        if wire is not None:
            with suppress(*BROKEN):
                await wire.close()


def link_to(broker: object) -> Link:
    """The link of this loop to a broker."""
    links = _links.setdefault(asyncio.get_running_loop(), {})
    if broker not in links:
        links[broker] = Link(broker)
    return links[broker]


def forget(link: Link) -> None:
    """The next call makes another one."""
    links = _links.get(asyncio.get_running_loop(), {})
    for broker in [broker for broker, its in links.items() if its is link]:
        del links[broker]


def consumes(channel: AbstractChannel, consumer: str) -> bool:
    """Whether the broker has not ended a consumer, or its channel."""
    return not channel.is_closed and consumer in cast("Any", channel).consumers


async def close(channel: AbstractChannel) -> None:
    """Ends a channel: what it holds is back in the bucket then."""
    with suppress(*BROKEN, aiormq.AMQPError, RuntimeError):
        await asyncio.wait_for(channel.close(), ANSWER_WITHIN)


async def whole(link: Link, work: Coroutine[Any, Any, T], late: Callable[[T], None]) -> T:
    """The result of something that goes on to its end when the caller is cancelled; `late` gets the result then."""
    task = asyncio.ensure_future(work)

    def done(task: asyncio.Future[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            late(task.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.done() and task.cancelled():
            # Not the caller but the AMQP library has been cancelled, by the end of a connection.
            raise BrokerUnreachableError(link.broker, "the connection was closed") from None
        task.add_done_callback(done)
        raise


@asynccontextmanager
async def about(bucket: str, needs: str = "the permission read") -> AsyncIterator[str]:
    """Turns errors of the AMQP library into ours."""
    queue = queue_of(bucket)
    try:
        yield queue
    except aiormq.ChannelNotFoundEntity as error:
        if "no queue" in str(error):
            raise QueueMissingError(bucket, queue) from None
        raise QueueUnavailableError(bucket, queue, _words(error)) from None
    except aiormq.ChannelLockedResource:
        # The operator is just making it.
        raise QueueMissingError(bucket, queue) from None
    except aiormq.ChannelAccessRefused as error:
        raise AccessRefusedError(bucket, queue, needs, _words(error)) from None
    except aiormq.ChannelClosed as error:
        raise QueueUnavailableError(bucket, queue, _words(error)) from None
    except BROKEN as error:
        raise Broken(_words(error)) from None


async def get(channel: AbstractChannel, bucket: str, *, no_ack: bool) -> Token | None:
    """Gets one token."""
    async with about(bucket) as queue:
        message = await asyncio.wait_for(channel.basic_get(queue, no_ack=no_ack), ANSWER_WITHIN)
        return Token(message) if isinstance(message.delivery, spec.Basic.GetOk) else None


async def count(channel: AbstractChannel, bucket: str) -> int:
    """Tokens in the bucket."""
    async with about(bucket, "a permission (read, or from RabbitMQ 4.2 on configure)") as queue:
        declared = await asyncio.wait_for(channel.queue_declare(queue, passive=True), ANSWER_WITHIN)
        return declared.message_count or 0


async def keep(channel: AbstractChannel, bucket: str, tag: int, prefetch: int = 0) -> None:
    """Acknowledges all that is held up to this tag. When it returns, the broker has let go of them."""
    async with about(bucket):
        await channel.basic_ack(tag, multiple=True, wait=False)
        await asyncio.wait_for(channel.basic_qos(prefetch_count=prefetch), ANSWER_WITHIN)


async def give_back(channel: AbstractChannel, held: Mapping[str, Iterable[Token]]) -> None:
    """Puts held tokens back, and ends the channel. One that has been put back before is replaced by a new one."""
    worn: list[tuple[str, Token]] = []
    # Who may not publish leaves it to the end of the channel.
    with suppress(AccessRefusedError):
        async with about(next(iter(held)), "the permission write on amq.default"):
            for bucket, tokens in held.items():
                for token in tokens:
                    if token.worn:
                        worn.append((bucket, token))
                    else:
                        await channel.basic_reject(token.tag, requeue=True, wait=False)
            if worn:
                # The new ones come and the old ones go in one transaction: there are never two for one.
                await channel.tx_select()
                for bucket, token in worn:
                    await channel.basic_publish(b"", routing_key=queue_of(bucket), properties=PERSISTENT)
                    await channel.basic_ack(token.tag, wait=False)
                await asyncio.wait_for(channel.tx_commit(), ANSWER_WITHIN)
            else:
                await asyncio.wait_for(channel.basic_qos(prefetch_count=0), ANSWER_WITHIN)
    await close(channel)


PERSISTENT = spec.Basic.Properties(delivery_mode=2)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call, which is repeated while a queue is missing."""
    deadline = time.monotonic() + MISSING_FOR
    for pause in pauses(0.005, 0.2):
        try:
            return await call()
        except QueueMissingError:
            if time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)
    raise AssertionError


def _uri_of(uri: str) -> tuple[str, str]:
    """What kombu understands, as the AMQP library of asyncio does; and the same without password."""
    connection = KombuConnection(uri)
    info = connection.info()
    scheme = "amqps" if info["ssl"] or info["transport"] == "amqps" else "amqp"
    if connection.transport_cls not in ("amqp", "amqps", "pyamqp", "librabbitmq"):
        raise ValueError(f"{connection.as_uri()}: buckets are queues of RabbitMQ, which takes an amqp:// or amqps:// URI")
    user, password = (quote(info[key] or "guest", safe="") for key in ("userid", "password"))
    vhost = "" if info["virtual_host"] in ("/", "", None) else quote(info["virtual_host"], safe="")
    host = info["hostname"] or "127.0.0.1"
    port = info["port"] or (5671 if scheme == "amqps" else 5672)
    return f"{scheme}://{user}:{password}@{host}:{port}/{vhost}?heartbeat={HEARTBEAT}", str(connection.as_uri())


def _words(error: BaseException) -> str:
    # The text of a refused connection may repeat the URI.
    return str(error.args[0] if isinstance(error, aiormq.AMQPError) and error.args else error) or type(error).__name__
