"""Tokens that are held ahead of the calls, and handed out to many callers at the same time.

A thread of its own consumes the bucket. Until it acknowledges a token, that is the broker's and comes back to the
bucket when this process ends. It acknowledges for all callers that wait at that moment at once: a group commit.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .errors import BrokerUnreachableError, TokenBucketError
from .pool import Pool
from .session import Broken, Held, Session
from .take import patiently
from .wait import BEAT

IDLE = 60.0
"""Seconds without a caller after which the tokens go back. RabbitMQ ends a channel that holds one for half an hour."""

_leases: weakref.WeakSet[Lease] = weakref.WeakSet()


class _Request:
    __slots__ = ("committing", "done", "error", "expired", "now", "served", "tokens")

    def __init__(self, tokens: int, now: bool) -> None:
        self.tokens = tokens
        self.now = now
        self.done = threading.Lock()
        self.done.acquire()
        self.committing = self.expired = self.served = False
        self.error: TokenBucketError | None = None


class Lease:
    """At most `prefetch` tokens of one bucket, held unacknowledged."""

    def __init__(self, pool: Pool, bucket: str, prefetch: int) -> None:
        self._pool = pool
        self._bucket = bucket
        self._prefetch = prefetch
        self._reset()
        _leases.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[_Request] = deque()
        self._held: deque[Held] = deque()
        self._thread: threading.Thread | None = None
        self._closing = self._parked = self._consuming = False

    def take(self, tokens: int, deadline: float | None) -> bool:
        """Waits for tokens until the deadline (of the monotonic clock); None: takes what is held now."""
        request = _Request(tokens, now=deadline is None)
        with self._lock:
            self._requests.append(request)
            if self._thread is None:
                self._start()
        if self._parked:
            self._awaken()
        timeout = -1.0 if deadline is None else deadline - time.monotonic()
        if timeout > threading.TIMEOUT_MAX or deadline is None:
            timeout = -1.0
        elif timeout < 0:
            timeout = 0.0
        try:
            if not request.done.acquire(timeout=timeout):
                self._expire(request)
        except BaseException:
            self._withdraw(request)
            raise
        if request.error is not None:
            raise request.error
        return request.served

    def _expire(self, request: _Request) -> None:
        with self._lock:
            if not request.committing:
                with suppress(ValueError):
                    self._requests.remove(request)
                return
            request.expired = True
        # The broker is about to answer.
        request.done.acquire()

    def _withdraw(self, request: _Request) -> None:
        """The caller was interrupted. A token that was under way to it is lost; another is not taken."""
        with self._lock:
            request.expired = True
            if not request.committing:
                with suppress(ValueError):
                    self._requests.remove(request)

    def close(self) -> None:
        """Gives the tokens back and ends the thread."""
        with self._lock:
            thread, self._closing = self._thread, True
        if thread is not None:
            self._awaken()
            thread.join()
        self._closing = False

    def _start(self) -> None:
        reader, self._writer = socket.socketpair()
        reader.setblocking(False)
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._run, args=(reader,), name=f"token-bucket {self._bucket}", daemon=True)
        self._thread.start()

    def _awaken(self) -> None:
        # A full buffer wakes the thread as well; after its end there is nobody to wake.
        with suppress(OSError):
            self._writer.send(b"x")

    def _run(self, reader: socket.socket) -> None:
        with reader:
            try:
                while self._wanted():
                    self._work(reader)
            except TokenBucketError as error:
                self._fail(error)
            except BaseException as error:
                self._fail(BrokerUnreachableError("the broker", repr(error)))

    def _wanted(self) -> bool:
        """Whether a caller waits. If not, the thread ends, and the next caller starts another."""
        with self._lock:
            if self._requests and not self._closing:
                return True
            self._thread = None
            requests, self._requests = self._requests, deque()
        self._refuse(requests, TokenBucketError(f"bucket {self._bucket} is closed"))
        return False

    def _fail(self, error: TokenBucketError) -> None:
        with self._lock:
            self._thread = None
            requests, self._requests = self._requests, deque()
        self._refuse(requests, error)

    @staticmethod
    def _refuse(requests: Iterable[_Request], error: TokenBucketError) -> None:
        for request in requests:
            request.error = error
            request.done.release()

    def _work(self, reader: socket.socket) -> None:
        """Serves from one connection, until there is no caller for a while."""
        self._held.clear()
        self._consuming = False
        session = self._pool.open_to_wait()
        try:
            self._serve(session, reader)
            session.close()
        except Broken:
            # What was held is back in the bucket; what was being acknowledged is there or gone.
            session.drop()
        except BaseException:
            session.drop()
            raise

    def _serve(self, session: Session, reader: socket.socket) -> None:
        consumer, last = "", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(session.socket, selectors.EVENT_READ)
            selector.register(reader, selectors.EVENT_READ)
            while True:
                if not self._consuming:
                    self._consuming = True
                    consumer = patiently(lambda: self._consume(session))
                session.drain()
                if self._commit(session):
                    last = time.monotonic()
                    continue
                if self._closing or (not self._requests and time.monotonic() - last > IDLE):
                    session.cancel(consumer)
                    if self._held:
                        session.give_back({self._bucket: self._held})
                    self._held.clear()
                    return
                self._park(session, selector, reader)

    def _consume(self, session: Session) -> str:
        return session.consume(self._bucket, self._prefetch, self._deliver, self._cancelled)

    def _deliver(self, message: Any) -> None:
        self._held.append(Held(message))

    def _cancelled(self, _: object) -> None:
        self._consuming = False

    def _park(self, session: Session, selector: selectors.BaseSelector, reader: socket.socket) -> None:
        self._parked = True
        # Who comes after this line sees that the thread has to be woken.
        if not self._requests or any(not request.now for request in self._requests):
            selector.select(BEAT)
        self._parked = False
        with suppress(BlockingIOError):
            reader.recv(4096)
        session.beat()

    def _commit(self, session: Session) -> bool:
        """Acknowledges the tokens of those who come first, and hands them out. False: there is nothing to do."""
        group: list[_Request] = []
        count = 0
        with self._lock:
            for request in list(self._requests):
                if count + request.tokens <= len(self._held):
                    request.committing = True
                    group.append(request)
                    count += request.tokens
                elif request.now:
                    self._requests.remove(request)
                    request.done.release()
                else:
                    break
        if not group:
            return False
        try:
            session.keep(self._held[count - 1].tag, self._prefetch)
        except BaseException:
            self._not_committed(group)
            raise
        for _ in range(count):
            self._held.popleft()
        with self._lock:
            for request in group:
                self._requests.remove(request)
                request.served = True
        for request in group:
            request.done.release()
        return True

    def _not_committed(self, group: list[_Request]) -> None:
        with self._lock:
            for request in group:
                request.committing = False
                if request.expired or request.now:
                    self._requests.remove(request)
                    request.done.release()


def _after_fork() -> None:
    # The thread is the parent's, and so is what it holds.
    for lease in list(_leases):
        lease._reset()


os.register_at_fork(after_in_child=_after_fork)
