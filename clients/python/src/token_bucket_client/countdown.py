"""How long a task waits that found no token."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

NEXT_REFILL = "next-refill"

Countdown = float | str | Callable[..., float]


class Schedule(Protocol):
    """What says when the next refill is due, as a schedule of Celery does."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Time that is left until then."""


def countdown_of(countdown: Countdown, schedule: object, jitter: float) -> Callable[..., float]:
    """Makes a function of the task's arguments that tells the seconds.

    Raises:
        ValueError: one of the three cannot be right.
    """
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or jitter < 0:
        raise ValueError(f"jitter={jitter!r}: it is a number of seconds")
    seconds = _seconds(countdown, schedule)
    if not jitter:
        return seconds
    return lambda *args, **kwargs: seconds(*args, **kwargs) + random.uniform(0, jitter)


def _seconds(countdown: Countdown, schedule: object) -> Callable[..., float]:
    if countdown == NEXT_REFILL:
        return _until_refill(schedule)
    if schedule is not None:
        raise ValueError(f'schedule is for countdown="{NEXT_REFILL}" alone')
    if callable(countdown):
        return countdown
    if isinstance(countdown, str):
        raise ValueError(f'countdown={countdown!r}: it is a number of seconds, a function, or "{NEXT_REFILL}"')
    return lambda *args, **kwargs: countdown


def _until_refill(schedule: Any) -> Callable[..., float]:
    if isinstance(schedule, str):
        schedule = _crontab(schedule)
    if hasattr(schedule, "remaining_estimate"):
        return lambda *args, **kwargs: max(0.0, schedule.remaining_estimate(datetime.now(timezone.utc)).total_seconds())
    if callable(schedule):
        return lambda *args, **kwargs: _left(schedule())
    raise ValueError(
        f'countdown="{NEXT_REFILL}" takes a schedule: five fields as in spec.schedule, a schedule of Celery, '
        f"or a function that returns the next refill's datetime; not {schedule!r}"
    )


def _left(due: object) -> float:
    if not isinstance(due, datetime) or due.tzinfo is None:
        raise TypeError(f"the schedule has returned {due!r}: it has to be a datetime with a time zone")
    return max(0.0, (due - datetime.now(timezone.utc)).total_seconds())


def _crontab(expression: str) -> Schedule:
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(
            f"schedule={expression!r}: only the five fields of a crontab can be read here; give a function for others"
        )
    if "*" not in (fields[2], fields[4]):
        raise ValueError(
            f"schedule={expression!r}: with a day of the month and a day of the week it means something else to Celery; "
            "give a function that returns the next refill's datetime"
        )
    from celery.schedules import crontab

    names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    schedule: Schedule = crontab(**dict(zip(names, fields, strict=True)))
    return schedule
