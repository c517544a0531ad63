"""One round of celery-beat over the periodic tasks that the library registers, all of them due."""

from datetime import datetime, timezone

import django

django.setup()

from app import app
from django.core.management import call_command
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

call_command("migrate", verbosity=0)
call_command("token_bucket_register_periodic_tasks")
PeriodicTask.objects.update(last_run_at=datetime(2000, 1, 1, tzinfo=timezone.utc))
DatabaseScheduler(app).tick()
