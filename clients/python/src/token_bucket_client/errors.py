"""What can go wrong, in words for the person who has to do something about it. No message has a password in it."""


class TokenBucketError(Exception):
    """All errors of this package but ValueError and TypeError for wrong arguments."""


class BrokerUnreachableError(TokenBucketError):
    """No AMQP connection, or it broke and could not be made again."""

    def __init__(self, broker: str, reason: object) -> None:
        super().__init__(
            f"no connection to {broker}: {reason}. Is the broker running, and is this its AMQP address "
            "(usually 5672, by TLS 5671)?"
        )
        self.broker = broker


class BrokerRefusedError(TokenBucketError):
    """The broker lets nobody in by this user name and password, or not to this virtual host."""

    def __init__(self, broker: str, reason: object) -> None:
        super().__init__(f"{broker} refused user name, password or virtual host: {reason}")
        self.broker = broker


class BucketError(TokenBucketError):
    """About one bucket: `bucket` and `queue` are its names."""

    def __init__(self, message: str, bucket: str, queue: str) -> None:
        super().__init__(message)
        self.bucket = bucket
        self.queue = queue


class QueueMissingError(BucketError):
    """There is no such queue, and has been none for two seconds."""

    def __init__(self, bucket: str, queue: str) -> None:
        super().__init__(
            f"bucket {bucket} has no queue {queue}: is there a TokenBucket with that spec.name, is it Ready, and at "
            "this broker and virtual host? (kubectl get tokenbuckets --all-namespaces)",
            bucket,
            queue,
        )


class AccessRefusedError(BucketError):
    """The user lacks a permission."""

    def __init__(self, bucket: str, queue: str, needs: str, reason: object) -> None:
        super().__init__(
            f"the broker does not let bucket {bucket} (queue {queue}) be used: that takes {needs} ({reason})",
            bucket,
            queue,
        )


class QueueUnavailableError(BucketError):
    """The queue is there and cannot be used at present."""

    def __init__(self, bucket: str, queue: str, reason: object) -> None:
        super().__init__(f"bucket {bucket}: queue {queue} is not available: {reason}", bucket, queue)


class RefundRefusedError(BucketError):
    """The queue does not take the token back."""

    def __init__(self, bucket: str, queue: str) -> None:
        super().__init__(
            f"queue {queue} of bucket {bucket} takes no token back: a policy limits it with reject-publish",
            bucket,
            queue,
        )


class RefundUnknownError(BucketError):
    """The connection broke while a token was on its way back. It is not sent again: there could be two then."""

    def __init__(self, bucket: str, queue: str, reason: object) -> None:
        super().__init__(
            f"bucket {bucket} (queue {queue}) may have its token back or not: the connection broke in between ({reason})",
            bucket,
            queue,
        )


class AcquireTimeoutError(TokenBucketError, TimeoutError):
    """The time is over, and the tokens were not there."""

    def __init__(self, buckets: str, timeout: float) -> None:
        super().__init__(f"bucket {buckets} did not have the tokens within {timeout:g} s")


class NoTokenError(TokenBucketError):
    """A task that runs eagerly found no token. It cannot be tried again later, as nobody waits for it."""

    def __init__(self, buckets: str) -> None:
        super().__init__(
            f"bucket {buckets} has no token, and a task that runs eagerly cannot be tried again later: "
            "put tokens into the bucket of the test, or call the task's function without its limit (task.run.__wrapped__)"
        )
