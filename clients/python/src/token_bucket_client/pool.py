"""Connections of one process to one broker, opened when they are needed and kept for the next call."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kombu.connection import Connection

from .errors import BucketError, RefundUnknownError
from .session import HEARTBEAT, Session

LIMIT = 10
"""Connections that calls of one process use at the same time; further calls wait for one, a millisecond or so."""

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_by_uri: dict[str, Pool] = {}
_by_app: weakref.WeakKeyDictionary[Any, Pool] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Pool:
    """Sessions at one broker. Any thread or greenlet may use it, and so may processes that are forked later."""

    def __init__(self, new: Callable[[], Connection], limit: int = LIMIT) -> None:
        self._new = new
        self._limit = limit
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._idle: deque[Session] = deque()
        self._free = threading.BoundedSemaphore(self._limit)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session for one call. It is kept for the next one, unless the call was interrupted."""
        with self._free:
            session = self._find()
            try:
                yield session
            except BaseException as error:
                # After an answer of the broker the session is as it was. In all other cases nobody knows what is under
                # way on it.
                if isinstance(error, BucketError) and not isinstance(error, RefundUnknownError):
                    self._idle.append(session)
                else:
                    session.drop()
                raise
            self._idle.append(session)

    def _find(self) -> Session:
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return Session(self._new().clone(heartbeat=0))
            if session.alive():
                return session
            session.drop()

    def open_to_wait(self) -> Session:
        """A session of one's own, which tells the broker that it lives; to be closed by the caller."""
        return Session(self._new().clone(heartbeat=HEARTBEAT))

    def close(self) -> None:
        """Closes the connections that no call uses at present."""
        while self._idle:
            self._idle.pop().close()


def pool_of(broker: object) -> Pool:
    """The pool of a broker's URI, of a kombu Connection, or of a Celery app: one for each in a process."""
    with _lock:
        if isinstance(broker, Pool):
            return broker
        if isinstance(broker, str):
            if broker not in _by_uri:
                _by_uri[broker] = Pool(lambda: Connection(broker))
            return _by_uri[broker]
        if isinstance(broker, Connection):
            uri = broker.as_uri(include_password=True)
            return _by_uri.setdefault(uri, Pool(broker.clone))
        if hasattr(broker, "connection_for_read"):
            if broker not in _by_app:
                # The pool must not keep the app that it belongs to.
                app = weakref.ref(broker)
                _by_app[broker] = Pool(lambda: app().connection_for_read())
            return _by_app[broker]
    raise TypeError(f"a broker is a URI, a kombu Connection or a Celery app, not {type(broker).__name__}")


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for pool in list(_pools):
        pool._reset()


os.register_at_fork(after_in_child=_after_fork)
