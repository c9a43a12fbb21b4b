"""Old alerts are found by when they were resolved."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("alerts", "0004_history_ends")]

    operations = [
        migrations.AddIndex(
            "alert", models.Index(fields=["resolved_at"], name="alert_by_age", condition=models.Q(status="resolved"))
        ),
    ]
