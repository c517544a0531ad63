"""`rate_limit` for projects that keep `CELERY_TOKEN_BUCKETS` in their Django settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .countdown import Countdown
from .decorator import Tokens, limiting, names_of
from .errors import TokenBucketError

F = TypeVar("F", bound=Callable[..., object])


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
    """As `token_bucket_client.rate_limit`, but buckets are named by their keys in `CELERY_TOKEN_BUCKETS`.

    Each value there has a `name`, as an attribute or a key; nothing else of it is read.
    """
    keys = names_of(token_bucket_name, token_bucket, "key")
    return limiting(
        lambda: [_registered(key) for key in keys],
        countdown,
        affect_task_retries,
        tokens,
        jitter,
        schedule,
        broker_url,
    )


def _registered(key: str) -> str:
    from django.conf import settings

    try:
        bucket = settings.CELERY_TOKEN_BUCKETS[key]
    except KeyError:
        raise TokenBucketError(f"bucket '{key}' is not registered: add it to CELERY_TOKEN_BUCKETS in the settings") from None
    name = bucket["name"] if isinstance(bucket, dict) else bucket.name
    return str(name)
