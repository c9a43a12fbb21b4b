"""What stands still is found along an index of its own."""

from django.db import migrations, models

Q = models.Q


class Migration(migrations.Migration):
    dependencies = [("monitor", "0013_loops_and_silent_traces")]

    operations = [
        migrations.AddIndex(
            "execution",
            models.Index(
                fields=["project", "-started_at", "-id"],
                name="execution_stands_still",
                condition=Q(status="running") & (Q(stalled_at__isnull=False) | Q(silent_at__isnull=False)),
            ),
        ),
    ]
