import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import Vhost, eventually
from kombu.connection import Connection

from token_bucket_client import (
    AccessRefusedError,
    AcquireTimeoutError,
    BrokerRefusedError,
    BrokerUnreachableError,
    QueueMissingError,
    TokenBucket,
    acquire_all,
    try_acquire_all,
)


def test_a_token_is_taken_while_there_is_one(vhost: Vhost) -> None:
    vhost.declare("x", 2)
    bucket = TokenBucket("x", vhost.url)
    assert [bucket.try_acquire() for _ in range(3)] == [True, True, False]
    assert bucket.available() == 0


def test_several_tokens_are_taken_together_or_not_at_all(vhost: Vhost) -> None:
    vhost.declare("x", 5)
    bucket = TokenBucket("x", vhost.connection)
    assert bucket.try_acquire(3)
    assert not bucket.try_acquire(3)
    assert bucket.available() == 2


def test_tokens_of_several_buckets_are_taken_together_or_not_at_all(vhost: Vhost) -> None:
    vhost.declare("second", 5)
    vhost.declare("day", 2)
    second, day = TokenBucket("second", vhost.url), TokenBucket("day", vhost.url)
    assert try_acquire_all([second, day])
    assert not try_acquire_all({second: 1, day: 2})
    assert (second.available(), day.available()) == (4, 1)
    acquire_all([second, day], timeout=5)
    with pytest.raises(AcquireTimeoutError, match=r"day, second did not have the tokens within 0\.1 s"):
        acquire_all([second, day], timeout=0.1)
    assert (second.available(), day.available()) == (3, 0)


def test_buckets_at_different_brokers_are_refused(vhost: Vhost) -> None:
    with pytest.raises(ValueError, match="at different brokers"):
        try_acquire_all([TokenBucket("x", vhost.url), TokenBucket("y", "amqp://elsewhere//")])


@pytest.mark.parametrize("quorum", [False, True])
@pytest.mark.parametrize("rounds", [50])
def test_rivals_that_are_short_give_back_what_they_hold(vhost: Vhost, quorum: bool, rounds: int) -> None:
    # Counts are checked first; rivals make the tokens go between that and the get.
    for name in ("x", "y"):
        vhost.declare(name, 7, quorum=quorum)
    taken = []

    def take(tokens: int) -> None:
        buckets = {TokenBucket("x", vhost.url): tokens, TokenBucket("y", vhost.url): tokens}
        taken.extend(tokens for _ in range(rounds) if try_acquire_all(buckets))

    threads = [threading.Thread(target=take, args=(tokens,)) for tokens in (2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = 7 - sum(taken)
    assert left >= 0
    # What goes back to a quorum queue takes a moment.
    eventually("tokens to be back", lambda: (vhost.depth("x"), vhost.depth("y")) == (left, left))


def test_a_token_that_goes_back_often_is_not_removed_by_a_quorum_queue(vhost: Vhost) -> None:
    from token_bucket_client.pool import pool_of

    vhost.declare("x", 1, quorum=True)
    with pool_of(vhost.url).session() as session:
        for _ in range(30):
            held = None
            while held is None:
                held = session.hold("x")
            session.give_back({"x": [held]})
    eventually("the token to be back", lambda: vhost.depth("x") == 1)


def test_who_may_only_read_gives_tokens_back_all_the_same(vhost: Vhost, worker_user: str) -> None:
    from token_bucket_client.pool import pool_of

    vhost.declare("x", 1, quorum=True)
    with pool_of(worker_user).session() as session:
        for _ in range(3):
            held = None
            while held is None:
                held = session.hold("x")
            session.give_back({"x": [held]})
    eventually("the token to be back", lambda: vhost.depth("x") == 1)


def consumers_become(vhost: Vhost, consumers: int) -> None:
    declare = vhost.channel.queue_declare
    eventually("the consumers", lambda: declare("token_bucket_x", passive=True).consumer_count == consumers)


@contextmanager
def waiting(vhost: Vhost) -> Iterator[None]:
    """Somebody waits for a token from before what is done in between until after it, and gets one."""
    done = []
    thread = threading.Thread(target=lambda: done.append(TokenBucket("x", vhost.url).acquire(timeout=60)))
    thread.start()
    consumers_become(vhost, 1)
    yield
    thread.join()
    assert done == [None]


def test_a_caller_waits_until_a_token_comes(vhost: Vhost) -> None:
    vhost.declare("x")
    with waiting(vhost):
        vhost.add("x", 2)
    consumers_become(vhost, 0)
    assert vhost.depth("x") == 1


def test_a_caller_that_waits_in_vain_takes_nothing(vhost: Vhost) -> None:
    vhost.declare("x")
    bucket = TokenBucket("x", vhost.url)
    with pytest.raises(TimeoutError, match=r"bucket x did not have the tokens within 0\.2 s"):
        bucket.acquire(timeout=0.2)
    vhost.add("x", 1)
    with pytest.raises(AcquireTimeoutError):
        bucket.acquire(2, timeout=0.2)
    assert bucket.available() == 1


def test_a_caller_waits_where_somebody_else_consumes_exclusively(vhost: Vhost) -> None:
    queue = vhost.declare("x")
    with vhost.connection.channel() as exclusive:
        exclusive.basic_qos(0, 1, False)
        held = []
        exclusive.basic_consume(queue, exclusive=True, callback=held.append)
        vhost.add("x", 2)
        # The consumer holds one of them.
        TokenBucket("x", vhost.url).acquire(timeout=60)


def test_a_queue_that_is_replaced_does_not_end_the_wait(vhost: Vhost) -> None:
    vhost.declare("x")
    with waiting(vhost):
        vhost.replace("x", 7)
        consumers_become(vhost, 1)
        vhost.add("x", 1)


def test_a_queue_that_is_missing_for_a_moment_is_no_error(vhost: Vhost) -> None:
    taken = []
    thread = threading.Thread(target=lambda: taken.append(TokenBucket("x", vhost.url).try_acquire()))
    thread.start()
    vhost.declare("x")
    thread.join()
    assert taken in ([True], [False])


def test_a_queue_that_stays_away_is_named(vhost: Vhost) -> None:
    bucket = TokenBucket("x", vhost.url)
    with pytest.raises(QueueMissingError, match="bucket x has no queue token_bucket_x: is there a TokenBucket") as caught:
        bucket.try_acquire()
    assert (caught.value.bucket, caught.value.queue) == ("x", "token_bucket_x")
    with pytest.raises(QueueMissingError):
        bucket.refund()
    with pytest.raises(QueueMissingError):
        TokenBucket("x", vhost.url, prefetch=5).acquire(timeout=30)


def test_a_refund_is_in_the_bucket_when_it_returns(vhost: Vhost) -> None:
    vhost.declare("x", 1, maximum=3)
    bucket = TokenBucket("x", vhost.url)
    bucket.refund()
    assert bucket.available() == 2
    bucket.refund(5)
    assert bucket.available() == 3


def test_what_a_user_lacks_is_named(vhost: Vhost, worker_user: str) -> None:
    vhost.declare("x", 1)
    vhost.declare("y", 1)
    assert TokenBucket("x", worker_user).try_acquire()
    with pytest.raises(AccessRefusedError, match=r"bucket y .* that takes the permission read") as refused:
        TokenBucket("y", worker_user).try_acquire()
    with pytest.raises(AccessRefusedError, match=r"bucket x .* the permission write on amq.default"):
        TokenBucket("x", worker_user).refund()
    assert worker_user.split(":")[2].split("@")[0] not in str(refused.value)


def test_no_error_shows_the_password(vhost: Vhost) -> None:
    with pytest.raises(BrokerUnreachableError, match=r"no connection to amqp://user:\*\*@127.0.0.1:1//") as unreachable:
        TokenBucket("x", "amqp://user:secret@127.0.0.1:1//").try_acquire()
    with pytest.raises(BrokerRefusedError, match=r"refused user name, password or virtual host") as refused:
        TokenBucket("x", vhost.url_of("nobody", "secret")).try_acquire()
    with pytest.raises(BrokerRefusedError):
        TokenBucket("x", vhost.url + "_not").try_acquire()
    assert "secret" not in str(unreachable.value) + str(refused.value)


def test_a_connection_that_the_broker_has_ended_is_replaced(vhost: Vhost) -> None:
    vhost.declare("x", 3)
    bucket = TokenBucket("x", vhost.url)
    assert bucket.try_acquire()
    vhost.end_connections()
    assert bucket.try_acquire()
    assert vhost.depth("x") == 1


def test_calls_share_connections(vhost: Vhost) -> None:
    vhost.declare("x", 200)
    bucket = TokenBucket("x", Connection(vhost.url))
    taken = []

    def take() -> None:
        taken.extend(bucket.try_acquire() for _ in range(10))

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [True] * 200
    assert len(bucket._pool._idle) <= 10
    assert vhost.depth("x") == 0
