"""The Celery app. Each attempt of a task leaves a line in the file JOURNAL: how it ended, the task, its arguments."""

import os

from amqp.exceptions import NotFound
from celery import Celery
from celery.signals import task_postrun
from django_celery_token_bucket.decorators import rate_limit
from kombu.exceptions import OperationalError

app = Celery("app")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


# A bucket's queue is missing for some milliseconds when its maximum is raised, and a busy broker can be late for the
# connection that the library makes for each call; it does not try again.
@app.task(bind=True, autoretry_for=(NotFound, OperationalError), default_retry_delay=0.2, max_retries=None)
@rate_limit("x", countdown=0.2)
def call(self, number):
    pass


@task_postrun.connect
def note(task, state, args, **_):
    with open(os.environ["JOURNAL"], "a") as journal:
        print(state, task.name, *args, file=journal)
