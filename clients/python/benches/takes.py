"""Takes a second: as django-celery-token-bucket takes, one caller, and 16 callers with `prefetch`; in one run, as JSON.

AMQP_URL names a RabbitMQ; TAKES (1000) says how many are taken in the slowest of the ways.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable

import amqp
from kombu.connection import Connection
from kombu.entity import Queue

from token_bucket_client import TokenBucket

URL = os.environ["AMQP_URL"]
TAKES = int(os.environ.get("TAKES", "1000"))
CALLERS = 16
NAME = f"bench_{os.getpid()}"
QUEUE = f"token_bucket_{NAME}"


def fill(tokens: int) -> None:
    with Connection(URL) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-max-length": 10_000_000})
        channel.queue_purge(QUEUE)
        channel.confirm_select()
        for _ in range(tokens - 1):
            channel.basic_publish(amqp.Message(b"", delivery_mode=2), exchange="", routing_key=QUEUE)
        channel.basic_publish_confirm(amqp.Message(b"", delivery_mode=2), exchange="", routing_key=QUEUE)
        while channel.queue_declare(QUEUE, passive=True).message_count < tokens:
            pass


def as_the_library_does() -> None:
    """A connection for each call, as its decorator has it."""
    with Connection(URL) as connection:
        queue = Queue(QUEUE, max_length=10_000_000, durable=True)
        queue.maybe_bind(channel=connection.default_channel)
        assert queue.get(no_ack=True)


def rate(takes: int, run: Callable[[], None]) -> float:
    fill(takes + 1100)
    started = time.perf_counter()
    run()
    return round(takes / (time.perf_counter() - started), 1)


def repeat(times: int, take: Callable[[], object]) -> None:
    for _ in range(times):
        assert take() is not False


def in_threads(times: int, take: Callable[[], object]) -> None:
    threads = [threading.Thread(target=repeat, args=(times // CALLERS, take)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def in_tasks(times: int) -> None:
    from token_bucket_client.aio import AsyncTokenBucket

    async with AsyncTokenBucket(NAME, URL, prefetch=1000) as bucket:

        async def caller() -> None:
            for _ in range(times // CALLERS):
                await bucket.acquire()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


def main() -> None:
    bucket = TokenBucket(NAME, URL)
    with Connection(URL) as connection, TokenBucket(NAME, URL, prefetch=1000) as leased:
        try:
            library = rate(TAKES, lambda: repeat(TAKES, as_the_library_does))
            one = rate(5 * TAKES, lambda: repeat(5 * TAKES, bucket.try_acquire))
            leased_rate = rate(32 * TAKES, lambda: in_threads(32 * TAKES, leased.acquire))
            leased.close()
            tasks = rate(32 * TAKES, lambda: asyncio.run(in_tasks(32 * TAKES)))
        finally:
            connection.channel().queue_delete(QUEUE)
    rates = {"library": library, "one_caller": one, "threads_16_prefetch": leased_rate, "tasks_16_prefetch": tasks}
    times = {name: round(value / library, 1) for name, value in rates.items()}
    print(json.dumps({"takes_per_second": rates, "times_the_library": times}))


main()
