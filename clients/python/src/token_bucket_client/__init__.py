"""Takes tokens from the buckets of token-bucket-operator."""

from .bucket import TokenBucket, acquire_all, try_acquire_all
from .decorator import rate_limit
from .errors import (
    AccessRefusedError,
    AcquireTimeoutError,
    BrokerRefusedError,
    BrokerUnreachableError,
    BucketError,
    NoTokenError,
    QueueMissingError,
    QueueUnavailableError,
    RefundRefusedError,
    RefundUnknownError,
    TokenBucketError,
)

__all__ = [
    "AccessRefusedError",
    "AcquireTimeoutError",
    "BrokerRefusedError",
    "BrokerUnreachableError",
    "BucketError",
    "NoTokenError",
    "QueueMissingError",
    "QueueUnavailableError",
    "RefundRefusedError",
    "RefundUnknownError",
    "TokenBucket",
    "TokenBucketError",
    "acquire_all",
    "rate_limit",
    "try_acquire_all",
]
