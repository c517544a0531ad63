"""The decorator for Celery tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from types import FunctionType, TracebackType
from typing import Any, TypeVar, cast

from . import take
from .countdown import Countdown, countdown_of
from .errors import NoTokenError
from .naming import checked_count, queue_of
from .pool import Pool, pool_of

F = TypeVar("F", bound=Callable[..., Any])
Tokens = int | Callable[..., int]


def rate_limit(
    token_bucket_name: str | Sequence[str] | None = None,
    countdown: Countdown = 60,
    affect_task_retries: bool = False,
    *,
    token_bucket: str | Sequence[str] | None = None,
    tokens: Tokens = 1,
    jitter: float = 0,
    schedule: object = None,
    broker_url: str | None = None,
) -> Callable[[F], F]:
    """Runs a bound Celery task when there is a token in the bucket; otherwise the task is tried again later.

    Args:
        token_bucket_name: name of the bucket, or several names: then one token of each, or none. The name
            `token_bucket` means the same.
        countdown: seconds until the next try, a function of the task's arguments that returns them, or
            `"next-refill"`, with `schedule`.
        affect_task_retries: whether a try without a token counts towards the task's `max_retries`.
        tokens: how many of each bucket, or a function of the task's arguments that returns it. With 0 the task runs
            without a token.
        jitter: at most so many seconds are added to the countdown, at random.
        schedule: for `"next-refill"`: five fields in the time zone of the app, a schedule of Celery, or a function
            that returns the next refill's datetime.
        broker_url: URI of the broker; without it the app's.

    Raises:
        ValueError, TypeError: an argument cannot be right.
    """
    names = names_of(token_bucket_name, token_bucket, "name")
    for name in names:
        queue_of(name)
    return limiting(lambda: names, countdown, affect_task_retries, tokens, jitter, schedule, broker_url)


def names_of(first: str | Sequence[str] | None, second: str | Sequence[str] | None, what: str) -> list[str]:
    """The names, or the keys, that one of the two keywords has."""
    if (first is None) == (second is None):
        raise TypeError(f"rate_limit takes the {what} of a bucket, once: token_bucket_name or token_bucket")
    given = cast("str | Sequence[str]", first if second is None else second)
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise ValueError("rate_limit with no bucket: name one at least")
    return names


def limiting(
    names: Callable[[], list[str]],
    countdown: Countdown,
    affect_task_retries: bool,
    tokens: Tokens,
    jitter: float,
    schedule: object,
    broker_url: str | None,
) -> Callable[[F], F]:
    """The decorator, for names that are looked up at each call."""
    wait = countdown_of(countdown, schedule, jitter)
    if not callable(tokens):
        checked_count(tokens)

    def decorate(function: F) -> F:
        @wraps(function)
        def limited(task: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not hasattr(task, "retry"):
                raise TypeError(
                    f"rate_limit on {function.__qualname__}, which is not called as a bound task: "
                    "write @app.task(bind=True) above it"
                )
            count = tokens(*args, **kwargs) if callable(tokens) else tokens
            wanted = dict.fromkeys(names(), checked_count(count)) if count != 0 else {}
            pool = pool_of(broker_url or task.app)
            if wanted and take.take(pool, wanted) is not None:
                _try_again(task, list(wanted), affect_task_retries, lambda: wait(*args, **kwargs))
            try:
                return function(task, *args, **kwargs)
            except BaseException as error:
                if not _entered(function, error.__traceback__):
                    _give_back(pool, wanted)
                raise

        return cast("F", limited)

    return decorate


def _try_again(task: Any, names: list[str], affect_task_retries: bool, countdown: Callable[[], float]) -> None:
    if task.request.is_eager:
        # Celery would run it again at once, and for ever.
        raise NoTokenError(", ".join(names))
    if not affect_task_retries:
        task.request.retries -= 1
    raise task.retry(countdown=countdown())


def _entered(function: object, trace: TracebackType | None) -> bool:
    """Whether an exception comes from inside the function: wrong arguments and a signal before it do not."""
    if not isinstance(function, FunctionType):
        return True
    inner = trace.tb_next if trace else None
    return inner is not None and inner.tb_frame.f_code is function.__code__


def _give_back(pool: Pool, wanted: dict[str, int]) -> None:
    for name, count in wanted.items():
        take.refund(pool, name, count)
