"""Snoozed alerts come back: the index behind it, and the kinds of events by name."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("alerts", "0002_row_security")]

    operations = [
        migrations.AddIndex(
            model_name="alert",
            index=models.Index(
                condition=models.Q(snoozed_until__isnull=False), fields=["snoozed_until"], name="alert_snooze_over"
            ),
        ),
        migrations.AlterField(
            model_name="alertevent",
            name="kind",
            field=models.CharField(
                choices=[
                    ("fired", "Fired"),
                    ("repeated", "Repeated"),
                    ("raised", "Raised"),
                    ("escalated", "Escalated"),
                    ("acknowledged", "Acknowledged"),
                    ("snoozed", "Snoozed"),
                    ("woken", "Woken"),
                    ("resolved", "Resolved"),
                    ("reopened", "Reopened"),
                    ("noted", "Noted"),
                ],
                max_length=20,
            ),
        ),
    ]
