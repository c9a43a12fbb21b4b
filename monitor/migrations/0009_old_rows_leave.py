"""What is kept for a time is found by its age, and events of the queue may leave as well."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitor", "0008_reported_state")]

    operations = [
        migrations.AddIndex("message", models.Index(fields=["created_at"], name="message_by_age")),
        migrations.AddIndex(
            "execution",
            models.Index(fields=["ended_at"], name="execution_by_age", condition=models.Q(ended_at__isnull=False)),
        ),
        migrations.AddIndex("trace", models.Index(fields=["first_at"], name="trace_by_age")),
        migrations.AddIndex("queueevent", models.Index(fields=["at"], name="queue_event_by_age")),
        migrations.AddIndex(
            "queueitem",
            models.Index(fields=["closed_at"], name="queue_item_by_age", condition=models.Q(closed_at__isnull=False)),
        ),
        migrations.RunSQL(
            "GRANT DELETE ON monitor_queueevent TO handrail_jobs",
            "REVOKE DELETE ON monitor_queueevent FROM handrail_jobs",
        ),
    ]
