import pytest

from token_bucket_client import TokenBucket, rate_limit

NOWHERE = "amqp://user:secret@127.0.0.1:1//"


@pytest.mark.parametrize("name", ["", "a-b", "a.b", "ä", "x" * 201, "x\n", None, 3])
def test_a_name_that_no_bucket_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a bucket: it has 1 to 200 letters"):
        TokenBucket(name, NOWHERE)


def test_a_decorator_refuses_a_name_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="'a-b' is no name of a bucket"):
        rate_limit("a-b")


@pytest.mark.parametrize("tokens", [0, -1, 1001, True, 1.5])
def test_a_number_of_tokens_that_cannot_be_taken_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="ask for 1 to 1000"):
        TokenBucket("x", NOWHERE).try_acquire(tokens)


def test_a_prefetch_that_cannot_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 1000 tokens can be held"):
        TokenBucket("x", NOWHERE, prefetch=1001)


def test_a_broker_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="a broker is a URI, a kombu Connection or a Celery app, not int"):
        TokenBucket("x", 5)
    with pytest.raises(ValueError, match="takes an amqp:// or amqps:// URI, not memory"):
        TokenBucket("x", "memory://").try_acquire()
