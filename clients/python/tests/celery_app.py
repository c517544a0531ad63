"""A Celery app for `test_celery.py`. Each attempt of a task leaves a line in the file JOURNAL."""

import os

from celery import Celery
from celery.signals import task_postrun
from django.conf import settings

if os.environ["DECORATOR"] == "original":
    from celery.schedules import crontab
    from django_celery_token_bucket.bucket import TokenBucket

    buckets = {
        name: TokenBucket(name=name, schedule=crontab(minute=0), amount=1, maximum=100_000)
        for name in ("x", "empty", "none")
    }
    settings.configure(CELERY_TOKEN_BUCKETS=buckets)
    from django_celery_token_bucket.decorators import rate_limit
elif os.environ["DECORATOR"] == "django":
    settings.configure(CELERY_TOKEN_BUCKETS={name: {"name": name} for name in ("x", "empty", "none")})
    from token_bucket_client.django import rate_limit
else:
    from token_bucket_client import rate_limit

app = Celery("app", broker=os.environ["APP_URL"])
app.conf.task_acks_late = os.environ["ACKS_LATE"] == "True"
app.conf.broker_connection_retry_on_startup = True


@app.task(bind=True, max_retries=None)
@rate_limit(token_bucket_name="x", countdown=0.2)
def call(self, number):
    pass


@app.task(bind=True, max_retries=2)
@rate_limit("empty", 0, True)
def impatient(self):
    pass


@app.task(bind=True)
@rate_limit("none")
def lost(self):
    pass


@app.task(bind=True, max_retries=1, default_retry_delay=0)
@rate_limit(token_bucket_name="x", countdown=0.2, affect_task_retries=False)
def flaky(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0)


@task_postrun.connect
def note(task, state, args, retval, **_):
    error = type(retval).__name__ if state == "FAILURE" else ""
    with open(os.environ["JOURNAL"], "a") as journal:
        print(state, task.name.split(".")[-1], *args, task.request.retries, error, file=journal)
