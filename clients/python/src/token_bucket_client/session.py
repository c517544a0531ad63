"""One AMQP connection with one channel, for one caller at a time: what is done with a bucket's queue, and nothing else."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import amqp
from amqp import exceptions as amqp_errors
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from .errors import (
    AccessRefusedError,
    BrokerRefusedError,
    BrokerUnreachableError,
    QueueMissingError,
    QueueUnavailableError,
    RefundRefusedError,
    RefundUnknownError,
)
from .naming import queue_of

ANSWER_WITHIN = 15.0
"""Seconds in which the broker answers; after that the connection counts as broken."""

HEARTBEAT = 30
"""Seconds between heartbeats where a connection is held while tokens are waited for."""

BROKEN = (amqp_errors.ConnectionError, OSError)
"""What says that a connection is of no use any more."""

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Broken(Exception):  # noqa: N818 - it never leaves the package
    """The connection broke in the middle of something."""


class Held:
    """A token that the broker has handed out and not yet let go of."""

    __slots__ = ("message", "tag")

    def __init__(self, message: Any) -> None:
        self.message = message
        self.tag: int = message.delivery_tag

    @property
    def returned_before(self) -> bool:
        """Whether it has been given back before: a quorum queue removes a message after some returns."""
        return int((self.message.headers or {}).get("x-delivery-count") or 0) >= 1


class Session:
    """A connection and its channel. After `Broken`, or any other interruption, it must be dropped."""

    def __init__(self, connection: Connection) -> None:
        self._kombu = connection
        self.broker = str(connection.as_uri())
        try:
            # One more try, at once: at the next host, if there are several.
            connection.ensure_connection(max_retries=max(1, len(connection.alt)), interval_start=0, interval_step=0.1)
            driver = connection.transport.driver_name
            if driver != "py-amqp":
                raise ValueError(
                    f"{self.broker}: buckets are queues of RabbitMQ, which takes an amqp:// or amqps:// URI, not {driver}"
                )
            self._amqp: amqp.Connection = connection.connection
            self.socket: socket.socket = self._amqp.sock
            self.socket.settimeout(ANSWER_WITHIN)
            self.channel: amqp.Channel = self._amqp.channel()
            self._confirms: amqp.Channel | None = None
        except (amqp_errors.AccessRefused, amqp_errors.NotAllowed) as error:
            raise BrokerRefusedError(self.broker, error) from None
        except (OperationalError, *BROKEN) as error:
            raise BrokerUnreachableError(self.broker, error) from None
        self._owner = os.getpid()
        _sessions.add(self)

    def alive(self) -> bool:
        """Whether the broker has not ended the connection meanwhile. Waits for nothing."""
        try:
            self.drain()
        except (Broken, amqp_errors.ChannelError):
            return False
        return bool(self._amqp.connected)

    def drain(self) -> None:
        """Handles what has arrived. Waits for nothing."""
        with self._unbroken():
            # Once for all that has arrived: py-amqp would do it twice for each frame.
            self.socket.settimeout(0)
            try:
                with suppress(TimeoutError):
                    while True:
                        self._amqp.drain_events(timeout=0)
            finally:
                self.socket.settimeout(ANSWER_WITHIN)

    def wait(self, seconds: float) -> None:
        """Handles what arrives next, or returns after that time. Keeps the heartbeats going."""
        with self._unbroken():
            with suppress(TimeoutError):
                self._amqp.drain_events(timeout=max(seconds, 0.001))
            self._amqp.heartbeat_tick()

    def beat(self) -> None:
        """Sends a heartbeat if one is due. No heartbeat of the broker for long means that the connection is broken."""
        with self._unbroken():
            self._amqp.heartbeat_tick()

    def take(self, bucket: str) -> bool:
        """Takes one token, which is gone from the broker then. False: there is none."""
        with self._about(bucket, "the permission read") as queue:
            return self.channel.basic_get(queue, no_ack=True) is not None

    def hold(self, bucket: str) -> Held | None:
        """Gets one token; it stays the broker's until `keep`."""
        with self._about(bucket, "the permission read") as queue:
            message = self.channel.basic_get(queue, no_ack=False)
            return None if message is None else Held(message)

    def count(self, bucket: str) -> int:
        """Tokens in the bucket."""
        with self._about(bucket, "a permission (read, or from RabbitMQ 4.2 on configure)") as queue:
            return int(self.channel.queue_declare(queue, passive=True).message_count)

    def keep(self, tag: int, prefetch: int = 0) -> None:
        """Acknowledges all that is held up to this tag. When it returns, the broker has let go of them.

        RabbitMQ carries out the methods of a channel one after the other, so the answer to the second says that the
        first is done.
        """
        with self._unbroken():
            self.channel.basic_ack(tag, multiple=True)
            self.channel.basic_qos(0, prefetch, False)

    def give_back(self, held: Mapping[str, Iterable[Held]]) -> None:
        """Puts held tokens of these buckets back. One that has been put back before is replaced by a new one."""
        worn: list[tuple[str, Held]] = []
        for bucket, tokens in held.items():
            for token in tokens:
                if token.returned_before:
                    worn.append((bucket, token))
                else:
                    with self._unbroken():
                        self.channel.basic_reject(token.tag, requeue=True)
        bucket = next(iter(held))
        # Who may not publish leaves it to the end of the channel, which the broker's refusal brings.
        with suppress(AccessRefusedError), self._about(bucket, "the permission write on amq.default"):
            self.channel.basic_qos(0, 0, False)
            if worn:
                self._replace(worn)

    def _replace(self, worn: list[tuple[str, Held]]) -> None:
        """The new ones come and the old ones go in one transaction: there are never two for one."""
        self.channel.tx_select()
        for bucket, token in worn:
            self.channel.basic_publish(_token(), exchange="", routing_key=queue_of(bucket))
            self.channel.basic_ack(token.tag)
        self.channel.tx_commit()
        self.channel.close()
        self.channel = self._amqp.channel()

    def publish(self, bucket: str) -> None:
        """Puts one new token into the bucket and awaits the broker's confirm."""
        queue, returned = queue_of(bucket), []

        def note(*_: object) -> None:
            returned.append(True)

        try:
            with self._about(bucket, "the permission write on amq.default"):
                if self._confirms is None or not self._confirms.is_open:
                    self._confirms = self._amqp.channel()
                # A message that is returned is confirmed after that, and the channel stays in use.
                self._confirms.events["basic_return"] = {note}
                self._confirms.basic_publish_confirm(
                    _token(), exchange="", routing_key=queue, mandatory=True, confirm_timeout=ANSWER_WITHIN
                )
        except Broken as error:
            raise RefundUnknownError(bucket, queue, error) from None
        except amqp_errors.MessageNacked:
            raise RefundRefusedError(bucket, queue) from None
        if returned:
            raise QueueMissingError(bucket, queue)

    def consume(self, bucket: str, prefetch: int, deliver: Callable[[Any], None], cancelled: Callable[[Any], None]) -> str:
        """Has at most `prefetch` tokens handed to `deliver`. `cancelled` is called when the broker ends that."""
        with self._about(bucket, "the permission read, and that nobody consumes the queue exclusively") as queue:
            self.channel.basic_qos(0, prefetch, False)
            return str(self.channel.basic_consume(queue, callback=deliver, on_cancel=cancelled))

    def cancel(self, consumer: str, answer: bool = True) -> None:
        """Ends a consumer."""
        with self._unbroken():
            self.channel.basic_cancel(consumer, nowait=not answer)

    def drop(self) -> None:
        """Ends the connection without another word: the broker takes back what was held."""
        self._kombu.collect()

    def close(self) -> None:
        """Ends the connection in order."""
        try:
            self._kombu.release()
        except BROKEN:
            self.drop()

    def abandon(self) -> None:
        """Lets go of the copy of a connection that belongs to the parent process, and leaves the connection as it is."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            fd = self.socket.detach()
            if fd >= 0:
                os.close(fd)

    @contextmanager
    def _about(self, bucket: str, needs: str) -> Iterator[str]:
        queue = queue_of(bucket)
        try:
            with self._unbroken():
                yield queue
        except amqp_errors.NotFound as error:
            self._reopen()
            if "no queue" in str(error):
                raise QueueMissingError(bucket, queue) from None
            raise QueueUnavailableError(bucket, queue, error) from None
        except amqp_errors.ResourceLocked:
            # The operator is just making it.
            self._reopen()
            raise QueueMissingError(bucket, queue) from None
        except amqp_errors.AccessRefused as error:
            self._reopen()
            raise AccessRefusedError(bucket, queue, needs, error) from None
        except amqp_errors.ChannelError as error:
            self._reopen()
            raise QueueUnavailableError(bucket, queue, error) from None

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as error:
            raise Broken(str(error) or type(error).__name__) from None

    def _reopen(self) -> None:
        """An error of a queue closes the channel; what it held is back in the bucket then."""
        with self._unbroken():
            if not self.channel.is_open:
                self.channel = self._amqp.channel()


def _token() -> amqp.Message:
    return amqp.Message(b"", delivery_mode=2)


def _after_fork() -> None:
    for session in list(_sessions):
        session.abandon()


os.register_at_fork(after_in_child=_after_fork)
