import asyncio
from collections.abc import Coroutine
from typing import Any

import aio_pika
import pytest
from conftest import SOON, Vhost, eventually

from token_bucket_client import (
    AccessRefusedError,
    AcquireTimeoutError,
    BrokerRefusedError,
    BrokerUnreachableError,
    QueueMissingError,
)
from token_bucket_client.aio import AsyncTokenBucket, acquire_all, try_acquire_all


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 2 * SOON))


def consumers(vhost: Vhost) -> int:
    return int(vhost.channel.queue_declare("token_bucket_x", passive=True).consumer_count)


async def until(what: str, holds: Any) -> None:
    await asyncio.to_thread(eventually, what, holds)


def test_tokens_are_taken_together_or_not_at_all(vhost: Vhost) -> None:
    vhost.declare("x", 5)
    vhost.declare("y", 2)

    async def main() -> None:
        async with AsyncTokenBucket("x", vhost.url) as x, AsyncTokenBucket("y", vhost.url) as y:
            assert await x.try_acquire()
            assert await x.try_acquire(2)
            assert not await x.try_acquire(3)
            assert await try_acquire_all([x, y])
            assert not await try_acquire_all({x: 1, y: 2})
            with pytest.raises(AcquireTimeoutError):
                await acquire_all({x: 1, y: 2}, timeout=0.1)
            assert (await x.available(), await y.available()) == (1, 1)
            await acquire_all([x, y])
            assert not await x.try_acquire()

    run(main())


def test_a_task_waits_until_a_token_comes(vhost: Vhost) -> None:
    vhost.declare("x")

    async def main() -> None:
        async with AsyncTokenBucket("x", vhost.url) as bucket:
            waiting = asyncio.ensure_future(bucket.acquire(timeout=SOON))
            await until("a consumer", lambda: consumers(vhost) == 1)
            await asyncio.to_thread(vhost.replace, "x", 7)
            await until("a consumer again", lambda: consumers(vhost) == 1)
            await asyncio.to_thread(vhost.add, "x", 2)
            await waiting
            await until("the consumer to be gone", lambda: consumers(vhost) == 0)
            assert await bucket.available() == 1

    run(main())


@pytest.mark.parametrize("quorum", [False, True])
def test_cancelled_tasks_take_nothing_with_them(vhost: Vhost, quorum: bool) -> None:
    vhost.declare("x", quorum=quorum)
    taken = 0

    async def main() -> None:
        nonlocal taken
        async with AsyncTokenBucket("x", vhost.url) as bucket, AsyncTokenBucket("x", vhost.url, prefetch=10) as leased:

            async def take(way: Any) -> None:
                nonlocal taken
                if await way() is not False:
                    taken += 1

            for turn in range(30):
                ways = (bucket.acquire, leased.acquire, bucket.try_acquire, lambda: bucket.try_acquire(2))
                tasks = [asyncio.ensure_future(take(ways[n % 3])) for n in range(12)]
                await asyncio.sleep(0.002 * turn)
                adding = asyncio.to_thread(vhost.add, "x", 3)
                await asyncio.gather(adding, asyncio.sleep(0.001 * turn))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    assert taken > 0
    eventually("every token to be taken or back", lambda: taken + vhost.depth("x") == 90)


def test_a_queue_that_stays_away_is_named(vhost: Vhost) -> None:
    async def main() -> None:
        async with AsyncTokenBucket("x", vhost.url) as bucket, AsyncTokenBucket("x", vhost.url, prefetch=5) as leased:
            for call in (bucket.try_acquire, bucket.acquire, bucket.refund, leased.acquire):
                with pytest.raises(QueueMissingError, match="bucket x has no queue token_bucket_x"):
                    await call()

    run(main())


def test_a_queue_that_is_missing_for_a_moment_is_no_error(vhost: Vhost) -> None:
    async def main() -> None:
        async with AsyncTokenBucket("x", vhost.url) as bucket:
            taking = asyncio.ensure_future(bucket.try_acquire())
            await asyncio.to_thread(vhost.declare, "x")
            assert await taking in (True, False)

    run(main())


def test_what_is_wrong_with_the_broker_is_said_without_the_password(vhost: Vhost, worker_user: str) -> None:
    vhost.declare("x", 1)
    vhost.declare("y", 1)
    texts = []

    async def main() -> None:
        for uri, error in (
            ("amqp://user:secret@127.0.0.1:1//", BrokerUnreachableError),
            (vhost.url_of("nobody", "secret"), BrokerRefusedError),
            (vhost.url + "_not", BrokerRefusedError),
            (worker_user, AccessRefusedError),
        ):
            async with AsyncTokenBucket("y", uri) as bucket:
                with pytest.raises(error) as caught:
                    await bucket.try_acquire()
                texts.append(str(caught.value))
        async with AsyncTokenBucket("x", worker_user) as bucket:
            assert await bucket.try_acquire()
            with pytest.raises(AccessRefusedError, match=r"write on amq.default"):
                await bucket.refund()

    run(main())
    assert "secret" not in " ".join(texts)
    assert worker_user.split(":")[2].split("@")[0] not in " ".join(texts)


def test_a_connection_of_aio_pika_can_be_used(vhost: Vhost) -> None:
    vhost.declare("x", 5)

    async def main() -> None:
        async with await aio_pika.connect(vhost.url) as connection:
            async with AsyncTokenBucket("x", connection) as bucket:
                assert await bucket.try_acquire()
                await bucket.refund()
                await bucket.acquire()
            assert not connection.is_closed

    run(main())


def test_many_tasks_share_what_is_held(vhost: Vhost) -> None:
    vhost.declare("x", 400)

    async def main() -> None:
        async with AsyncTokenBucket("x", vhost.url, prefetch=50) as bucket:

            async def caller() -> None:
                for _ in range(20):
                    await bucket.acquire(timeout=SOON)

            await asyncio.gather(*(caller() for _ in range(16)))
            assert await bucket.try_acquire()
            with pytest.raises(AcquireTimeoutError):
                await bucket.acquire(50, timeout=0.0)

    run(main())
    eventually("what was held to be back", lambda: vhost.depth("x") == 79)


def test_no_token_is_taken_twice_while_connections_end(vhost: Vhost) -> None:
    callers = 6
    vhost.declare("x")
    issued = taken = 0

    async def main() -> None:
        nonlocal issued, taken
        async with AsyncTokenBucket("x", vhost.url) as bucket, AsyncTokenBucket("x", vhost.url, prefetch=20) as leased:
            over = asyncio.Event()

            async def take() -> None:
                nonlocal taken
                while not over.is_set():
                    for way in (bucket.try_acquire(), leased.acquire(timeout=0.2), bucket.acquire(timeout=0.2)):
                        try:
                            if await way is not False:
                                taken += 1
                        except (AcquireTimeoutError, BrokerUnreachableError):
                            # The broker has ended the second connection of that call too, or there was none in time.
                            pass
                    await asyncio.sleep(0.01)

            tasks = [asyncio.ensure_future(take()) for _ in range(callers)]
            for turn in range(4):
                before = taken
                await asyncio.to_thread(vhost.add, "x", 50)
                issued += 50
                await until("takes", lambda before=before: taken > before + 20)
                if turn < 3:
                    await asyncio.to_thread(vhost.end_connections)
            over.set()
            await asyncio.gather(*tasks)

    run(main())
    eventually("what was held to be back", lambda: issued - taken - vhost.depth("x") <= 3 * 2 * callers)
    assert taken + vhost.depth("x") <= issued
