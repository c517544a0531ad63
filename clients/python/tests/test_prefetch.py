"""Tokens that are held ahead of calls, and what becomes of them when a process, a connection or a queue ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import Vhost, eventually

from token_bucket_client import AcquireTimeoutError, BrokerUnreachableError, TokenBucket, lease


def in_threads(count: int, run: object) -> None:
    threads = [threading.Thread(target=run) for _ in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("quorum", [False, True])
def test_many_callers_share_what_is_held(vhost: Vhost, quorum: bool) -> None:
    vhost.declare("x", 400, quorum=quorum)
    with TokenBucket("x", vhost.url, prefetch=100) as bucket:
        in_threads(16, lambda: [bucket.acquire(timeout=60) for _ in range(20)])
        assert bucket.try_acquire()
    eventually("what was held to be back", lambda: vhost.depth("x") == 79)


def test_no_more_is_held_than_allowed(vhost: Vhost) -> None:
    vhost.declare("x", 50)
    with TokenBucket("x", vhost.url, prefetch=10) as bucket:
        bucket.acquire(timeout=60)
        eventually("ten to be held", lambda: vhost.depth("x") == 39)
    eventually("them to be back", lambda: vhost.depth("x") == 49)


def test_a_caller_that_gives_up_leaves_its_token_to_others(vhost: Vhost) -> None:
    vhost.declare("x")
    with TokenBucket("x", vhost.url, prefetch=5) as bucket:
        with pytest.raises(AcquireTimeoutError):
            bucket.acquire(timeout=0.1)
        with pytest.raises(AcquireTimeoutError):
            bucket.acquire(3, timeout=0.1)
        assert not bucket.try_acquire()
        vhost.add("x", 3)
        bucket.acquire(3, timeout=60)
    assert vhost.depth("x") == 0


def test_what_is_held_goes_back_after_a_while_without_callers(vhost: Vhost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "IDLE", 0.0)
    monkeypatch.setattr(lease, "BEAT", 0.05)
    vhost.declare("x", 10)
    bucket = TokenBucket("x", vhost.url, prefetch=5)
    bucket.acquire(timeout=60)
    eventually("all to be back", lambda: vhost.depth("x") == 9)
    bucket.acquire(timeout=60)


def test_what_a_killed_process_holds_comes_back(vhost: Vhost) -> None:
    vhost.declare("x", 50)
    code = f"""
import time
from token_bucket_client import TokenBucket
bucket = TokenBucket("x", {vhost.url!r}, prefetch=20)
bucket.acquire()
print("taken", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"taken\n"
    eventually("twenty to be held", lambda: vhost.depth("x") == 29)
    process.kill()
    process.wait()
    process.stdout.close()
    eventually("all but the one to be back", lambda: vhost.depth("x") == 49)


def test_no_token_is_taken_twice_while_connections_end_and_the_queue_is_replaced(vhost: Vhost) -> None:
    """An accountant: what was taken and what is left is what was issued, less what was under way when a connection ended."""
    issued, callers = 0, 6
    vhost.declare("x")
    taken: list[int] = []
    errors: list[Exception] = []
    over = threading.Event()
    bucket = TokenBucket("x", vhost.url)
    with TokenBucket("x", vhost.url, prefetch=20) as leased:

        def take() -> None:
            while not over.is_set():
                for way in (bucket.try_acquire, lambda: leased.acquire(timeout=0.2), lambda: bucket.acquire(timeout=0.2)):
                    try:
                        if way() is not False:
                            taken.append(1)
                    except AcquireTimeoutError:
                        pass
                    except BrokerUnreachableError:
                        # The broker has ended the second connection of that call too.
                        pass
                    except Exception as error:
                        errors.append(error)
                time.sleep(0.01)

        threads = [threading.Thread(target=take) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for maximum in (1000, 1100, 1200):
            for disturb in (vhost.end_connections, lambda maximum=maximum: vhost.replace("x", maximum)):
                before = len(taken)
                vhost.add("x", 50)
                issued += 50
                eventually("takes", lambda before=before: len(taken) > before + 20)
                disturb()
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []
    # Each caller has one under way at most, and a group of them one each, for each of the three times. What was held
    # when its queue was deleted is lost with it, unless it is handed out first.
    eventually("what was held to be back", lambda: issued - len(taken) - vhost.depth("x") <= 3 * (2 * callers + 20))
    assert len(taken) + vhost.depth("x") <= issued


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(vhost: Vhost) -> None:
    vhost.declare("x", 100)
    code = f"""
import os, sys
from token_bucket_client import TokenBucket
plain = TokenBucket("x", {vhost.url!r})
leased = TokenBucket("x", {vhost.url!r}, prefetch=10)
assert plain.try_acquire()
leased.acquire()
children = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        for _ in range(5):
            assert plain.try_acquire()
            leased.acquire(timeout=60)
        leased.close()
        sys.exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
session = plain._pool._idle[-1]
for _ in range(5):
    assert plain.try_acquire()
    leased.acquire(timeout=60)
assert plain._pool._idle[-1] is session
leased.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    eventually("what was held to be back", lambda: vhost.depth("x") == 100 - 2 - 4 * 10 - 10)


def test_an_interrupted_wait_takes_nothing(vhost: Vhost) -> None:
    vhost.declare("x")

    def interrupt() -> None:
        queue = "token_bucket_x"
        other = Vhost(vhost.name)
        eventually("a consumer", lambda: other.channel.queue_declare(queue, passive=True).consumer_count == 1)
        other.connection.release()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        TokenBucket("x", vhost.url).acquire(timeout=60)
    thread.join()
    vhost.add("x", 1)
    assert vhost.depth("x") == 1
