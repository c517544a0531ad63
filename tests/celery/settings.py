"""Settings of a Django project with one bucket; what differs between tests comes from the environment."""

import os

from celery.schedules import crontab
from django_celery_token_bucket.bucket import TokenBucket

SECRET_KEY = "test"
USE_TZ = True
INSTALLED_APPS = ["django_celery_beat", "django_celery_token_bucket"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}

CELERY_BROKER_URL = os.environ["AMQP_URL"]
CELERY_TOKEN_BUCKETS = {
    "x": TokenBucket(
        name="x",
        # Any hour: celery-beat looks at tasks of a certain hour only around that hour.
        schedule=crontab(minute=0, day_of_month=1, month_of_year=1),
        amount=int(os.environ["AMOUNT"]),
        maximum=int(os.environ["MAXIMUM"]),
        token_refill_queue="token_buckets.refill",
    )
}
