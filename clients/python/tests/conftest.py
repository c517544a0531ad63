"""A virtual host of a real RabbitMQ for each test. `clients/python/check` starts the broker and says where it is."""

import base64
import json
import os
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import quote

import amqp
import pytest
from kombu.connection import Connection

SOON = 60.0


def eventually(what: str, holds: Callable[[], object], seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


class Vhost:
    def __init__(self, name: str) -> None:
        self.name = name
        self.address = os.environ["AMQP_URL"].rsplit("@", 1)[1].split("/")[0]
        self.url = self.url_of(os.environ["RABBITMQ_USER"], os.environ["RABBITMQ_PASSWORD"])
        self.connection = Connection(self.url)

    def url_of(self, user: str, password: str) -> str:
        return f"amqp://{user}:{password}@{self.address}/{self.name}"

    @property
    def channel(self) -> amqp.Channel:
        return self.connection.default_channel

    def declare(self, bucket: str, tokens: int = 0, maximum: int = 100_000, quorum: bool = False) -> str:
        queue = f"token_bucket_{bucket}"
        arguments: dict[str, object] = {"x-max-length": maximum}
        if quorum:
            arguments["x-queue-type"] = "quorum"
        self.channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
        self.add(bucket, tokens)
        return queue

    def add(self, bucket: str, tokens: int) -> None:
        with self.connection.channel() as channel:
            channel.tx_select()
            for _ in range(tokens):
                message = amqp.Message(b"", delivery_mode=2)
                channel.basic_publish(message, exchange="", routing_key=f"token_bucket_{bucket}")
            channel.tx_commit()

    def depth(self, bucket: str) -> int:
        return int(self.channel.queue_declare(f"token_bucket_{bucket}", passive=True).message_count)

    def replace(self, bucket: str, maximum: int) -> None:
        """As the operator does: what is in the queue is counted and taken out, and put into the one in its place."""
        queue = f"token_bucket_{bucket}"
        carried = 0
        while self.channel.basic_get(queue, no_ack=True):
            carried += 1
        # Both in one write.
        self.channel.queue_delete(queue, nowait=True)
        self.declare(bucket, carried, maximum)

    def end_connections(self) -> None:
        """All of this virtual host, by the broker."""
        self.connection.release()
        control = [os.environ["RABBITMQCTL"], "close_all_connections", "-p", self.name, "ended by a test"]
        subprocess.run(control, check=True, capture_output=True)
        self.connection = Connection(self.url)


def manage(method: str, path: str, body: object = None) -> None:
    credentials = f"{os.environ['RABBITMQ_USER']}:{os.environ['RABBITMQ_PASSWORD']}".encode()
    request = urllib.request.Request(  # noqa: S310
        f"{os.environ['RABBITMQ_MANAGEMENT_URL']}/api/{path}",
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": f"Basic {base64.b64encode(credentials).decode()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request):  # noqa: S310
        pass


@pytest.fixture
def vhost() -> Iterator[Vhost]:
    name = f"python_{uuid.uuid4().hex}"
    manage("PUT", f"vhosts/{name}")
    manage(
        "PUT",
        f"permissions/{name}/{quote(os.environ['RABBITMQ_USER'])}",
        {"configure": ".*", "write": ".*", "read": ".*"},
    )
    vhost = Vhost(name)
    yield vhost
    vhost.connection.release()
    manage("DELETE", f"vhosts/{name}")


@pytest.fixture
def worker_user(vhost: Vhost) -> Iterator[str]:
    """URI of a user who may read the bucket x and nothing else, as the README has it for workers."""
    user, password = f"worker_{vhost.name}", uuid.uuid4().hex
    manage("PUT", f"users/{user}", {"password": password, "tags": ""})
    manage("PUT", f"permissions/{vhost.name}/{user}", {"configure": "^$", "write": "^$", "read": "^token_bucket_x$"})
    yield vhost.url_of(user, password)
    manage("DELETE", f"users/{user}")
