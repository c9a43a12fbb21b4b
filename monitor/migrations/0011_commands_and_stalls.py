"""Commands are rows of their own, and an execution has a clock of progress beside those of life and time."""

import django.db.models.deletion
from django.db import migrations, models

from monitor.rowsecurity import project_table

VERDICTS = [
    ("zombie", "Zombie"),
    ("timed_out", "Timed Out"),
    ("not_picked_up", "Not Picked Up"),
    ("stalled", "Stalled"),
    ("error", "Error"),
]
WAYS = [("heartbeat", "Heartbeat"), ("agent-events", "Agent Events")]
ON_STALL = [("warn", "Warn"), ("retry", "Retry")]


class Migration(migrations.Migration):
    dependencies = [("monitor", "0010_cancelled_counted")]

    operations = [
        migrations.CreateModel(
            "Command",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project_id", "seq", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, to="monitor.project"
                    ),
                ),
                ("seq", models.BigIntegerField()),
                ("execution_id", models.UUIDField()),
                ("command", models.CharField(max_length=8)),
                ("reason", models.TextField(blank=True, default="")),
                ("actor", models.CharField(blank=True, default="", max_length=200)),
                ("attempt", models.PositiveSmallIntegerField()),
                ("issued_at", models.DateTimeField()),
                ("delivered_at", models.DateTimeField(null=True)),
                ("delivered_by", models.CharField(blank=True, choices=WAYS, default="", max_length=12)),
                ("acknowledged_at", models.DateTimeField(null=True)),
                ("acknowledged_attempt", models.PositiveSmallIntegerField(null=True)),
                ("effect", models.TextField(blank=True, default="")),
                ("outcome", models.CharField(blank=True, default="", max_length=100)),
                ("outcome_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["project", "execution_id", "seq"], name="command_of_execution"),
                    models.Index(fields=["issued_at"], name="command_by_age"),
                ],
            },
        ),
        project_table("monitor_command"),
        migrations.AddField("project", "stall_s", models.PositiveIntegerField(null=True)),
        migrations.AddField("agent", "stall_s", models.PositiveIntegerField(null=True)),
        migrations.AddField("execution", "command_seq", models.BigIntegerField(null=True)),
        migrations.AddField("execution", "command_told", models.BooleanField(db_default=False, default=False)),
        migrations.AddField("execution", "stall_s", models.PositiveIntegerField(null=True)),
        migrations.AddField(
            "execution",
            "on_stall",
            models.CharField(choices=ON_STALL, db_default="warn", default="warn", max_length=5),
        ),
        migrations.AddField("execution", "stalled_at", models.DateTimeField(null=True)),
        migrations.AddField("execution", "stall_due_at", models.DateTimeField(null=True)),
        migrations.AddField("execution", "stall_left_ms", models.BigIntegerField(null=True)),
        migrations.AlterField(
            "execution", "verdict", models.CharField(blank=True, choices=VERDICTS, default="", max_length=16)
        ),
        migrations.AddIndex(
            "execution",
            models.Index(
                fields=["stall_due_at"],
                name="execution_stall_due",
                condition=models.Q(stall_due_at__isnull=False),
            ),
        ),
        migrations.AddConstraint(
            "execution",
            models.CheckConstraint(
                condition=models.Q(stall_due_at__isnull=True)
                | models.Q(status="running", stalled_at__isnull=True, stall_s__isnull=False),
                name="execution_can_stall_while_it_runs",
            ),
        ),
        migrations.AddConstraint(
            "execution",
            models.CheckConstraint(
                condition=models.Q(on_stall__in=["warn", "retry"]), name="execution_on_stall_is_known"
            ),
        ),
    ]
