"""The decorator without a worker: tasks that run eagerly or are called, and its options."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry
from celery.schedules import crontab
from conftest import Vhost

from token_bucket_client import NoTokenError, QueueMissingError, TokenBucketError, rate_limit
from token_bucket_client.countdown import countdown_of


@pytest.fixture
def app(vhost: Vhost) -> Celery:
    app = Celery("app", broker=vhost.url, set_as_current=False)
    app.conf.task_always_eager = True
    app.conf.task_eager_propagates = True
    return app


def limited(app: Celery, *args: Any, **options: Any) -> Any:
    def body(self: Any, number: int = 0) -> int:
        return number

    return app.task(bind=True, name=f"body_{id(args)}")(rate_limit(*args, **options)(body))


def test_an_eager_task_takes_a_token_and_fails_without_one(vhost: Vhost, app: Celery) -> None:
    vhost.declare("x", 1)
    task = limited(app, "x")
    assert task.delay(7).get() == 7
    with pytest.raises(
        NoTokenError, match="bucket x has no token, and a task that runs eagerly cannot be tried again later"
    ):
        task.delay(7)
    assert task.run.__wrapped__(task, 7) == 7


def test_a_task_that_is_called_directly_takes_a_token(vhost: Vhost, app: Celery) -> None:
    vhost.declare("x", 1)
    task = limited(app, "x")
    assert task(7) == 7
    with pytest.raises(Retry):
        task(7)


def test_one_token_of_each_bucket_is_taken_or_none(vhost: Vhost, app: Celery) -> None:
    vhost.declare("second", 5)
    vhost.declare("day", 1)
    task = limited(app, ["second", "day"])
    assert task.delay(1).get() == 1
    with pytest.raises(NoTokenError, match="bucket second, day has no token"):
        task.delay(1)
    assert (vhost.depth("second"), vhost.depth("day")) == (4, 0)


def test_a_task_can_weigh_more_than_one_token(vhost: Vhost, app: Celery) -> None:
    vhost.declare("x", 10)
    limited(app, "x", tokens=3).delay().get()
    assert vhost.depth("x") == 7
    by_argument = limited(app, token_bucket="x", tokens=lambda number: number)
    by_argument.delay(4).get()
    by_argument.delay(0).get()
    assert vhost.depth("x") == 3


def test_a_body_that_was_not_entered_costs_no_token(vhost: Vhost, app: Celery) -> None:
    vhost.declare("x", 1)
    task = limited(app, "x")
    with pytest.raises(TypeError):
        task.run(1, 2, 3, 4)
    assert vhost.depth("x") == 1


def test_a_body_that_fails_has_cost_its_token(vhost: Vhost, app: Celery) -> None:
    vhost.declare("x", 1)

    @app.task(bind=True)
    @rate_limit("x")
    def failing(self: Any) -> None:
        raise TypeError("from inside")

    with pytest.raises(TypeError, match="from inside"):
        failing.delay()
    assert vhost.depth("x") == 0


def test_a_missing_queue_is_named(vhost: Vhost, app: Celery) -> None:
    with pytest.raises(QueueMissingError, match="bucket x has no queue token_bucket_x"):
        limited(app, "x").delay()


def test_another_broker_can_be_named(vhost: Vhost) -> None:
    vhost.declare("x", 1)
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    limited(app, "x", broker_url=vhost.url).delay().get()
    assert vhost.depth("x") == 0


def test_a_task_that_is_not_bound_is_told_so() -> None:
    @rate_limit("x")
    def plain(number: int) -> None:
        pass

    with pytest.raises(TypeError, match=r"plain, which is not called as a bound task: write @app.task\(bind=True\)"):
        plain(1)


def test_buckets_of_django_settings_are_found_by_their_key(vhost: Vhost, app: Celery) -> None:
    from django.conf import settings

    from token_bucket_client.django import rate_limit as of_django

    if not settings.configured:
        settings.configure(CELERY_TOKEN_BUCKETS={"key": {"name": "x"}})
    vhost.declare("x", 1)

    @app.task(bind=True)
    @of_django("key")
    def known(self: Any) -> None:
        pass

    @app.task(bind=True)
    @of_django(token_bucket_name="other")
    def unknown(self: Any) -> None:
        pass

    known.delay()
    assert vhost.depth("x") == 0
    with pytest.raises(TokenBucketError, match="bucket 'other' is not registered"):
        unknown.delay()


def test_a_countdown_is_a_number_a_function_or_the_time_to_the_next_refill() -> None:
    assert countdown_of(7, None, 0)(1, b=2) == 7
    assert countdown_of(lambda number: 2 * number, None, 0)(4) == 8
    assert 7 <= countdown_of(7, None, 3)() <= 10
    assert 0 <= countdown_of("next-refill", "*/5 * * * *", 0)() <= 300
    assert 0 <= countdown_of("next-refill", crontab(minute=0), 0)() <= 3600
    due = datetime.now(timezone.utc) + timedelta(minutes=1)
    assert 50 < countdown_of("next-refill", lambda: due, 0)() <= 60


@pytest.mark.parametrize(
    ("countdown", "schedule", "jitter", "text"),
    [
        ("soon", None, 0, "it is a number of seconds, a function, or"),
        ("next-refill", None, 0, "takes a schedule"),
        ("next-refill", "@hourly", 0, "five fields"),
        ("next-refill", "0 0 1 * MON", 0, "means something else to Celery"),
        (60, "0 * * * *", 0, "schedule is for"),
        (60, None, -1, "jitter=-1"),
    ],
)
def test_a_countdown_that_cannot_be_right_is_refused(countdown: Any, schedule: Any, jitter: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        countdown_of(countdown, schedule, jitter)


def test_the_name_of_a_bucket_is_given_once() -> None:
    with pytest.raises(TypeError, match="once: token_bucket_name or token_bucket"):
        rate_limit("x", token_bucket="x")
    with pytest.raises(ValueError, match="name one at least"):
        rate_limit([])
