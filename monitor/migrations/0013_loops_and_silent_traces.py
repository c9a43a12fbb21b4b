"""Loops among tool calls are found and kept, and executions known from their traces alone are looked after."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

import monitor.ids
import monitor.models.projects
from monitor.rowsecurity import project_table

# Those that run are looked at first of all.
LOOK = "UPDATE monitor_execution SET look_at = started_at WHERE from_spans AND status = 'running'"
SUBJECTS = ["execution", "conversation", "queue_item", "trip", "budget", "model", "job", "loop", "agent"]
Q = models.Q


class Migration(migrations.Migration):
    dependencies = [("monitor", "0012_agents_expected_and_views")]

    operations = [
        migrations.CreateModel(
            "Loop",
            [
                ("id", models.UUIDField(default=monitor.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("place", models.CharField(max_length=240)),
                ("fingerprint", models.CharField(max_length=32)),
                ("execution_id", models.UUIDField(null=True)),
                ("trace_id", models.UUIDField()),
                ("agent", models.CharField(blank=True, default="", max_length=200)),
                ("run_id", models.CharField(blank=True, default="", max_length=200)),
                ("cycle", models.JSONField()),
                ("rounds", models.PositiveIntegerField()),
                ("calls", models.PositiveIntegerField()),
                ("answers_differ", models.BooleanField(default=False)),
                ("first_at", models.DateTimeField()),
                ("last_at", models.DateTimeField()),
                ("spans", django.contrib.postgres.fields.ArrayField(models.CharField(max_length=49), size=None)),
                ("found_at", models.DateTimeField()),
                ("moved_at", models.DateTimeField()),
                ("told_rounds", models.PositiveIntegerField()),
                ("ended_at", models.DateTimeField(null=True)),
                ("end", models.CharField(blank=True, default="", max_length=200)),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, to="monitor.project"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=["project", "place", "fingerprint"], name="loop_one_per_place_and_cycle"
                    ),
                    models.CheckConstraint(condition=Q(first_at__lte=models.F("last_at")), name="loop_begins_first"),
                ],
                "indexes": [
                    models.Index(fields=["project", "-found_at", "-id"], name="loop_newest"),
                    models.Index(
                        fields=["project", "execution_id"],
                        name="loop_by_execution",
                        condition=Q(execution_id__isnull=False),
                    ),
                    models.Index(fields=["moved_at"], name="loop_open", condition=Q(ended_at__isnull=True)),
                    models.Index(fields=["ended_at"], name="loop_by_age", condition=Q(ended_at__isnull=False)),
                ],
            },
        ),
        project_table("monitor_loop"),
        migrations.AlterField(
            "statechange",
            "subject",
            models.CharField(choices=[(name, name.replace("_", " ").title()) for name in SUBJECTS], max_length=16),
        ),
        migrations.AddField(
            "project",
            "loop_exempt_tools",
            django.contrib.postgres.fields.ArrayField(
                models.CharField(max_length=200), blank=True, default=monitor.models.projects.waiting_tools, size=None
            ),
        ),
        migrations.AddField(
            "project", "trace_silent_s", models.PositiveIntegerField(db_default=600, default=600, null=True)
        ),
        migrations.AddField(
            "project", "trace_lost_s", models.PositiveIntegerField(db_default=86_400, default=86_400, null=True)
        ),
        migrations.AddField("execution", "look_at", models.DateTimeField(null=True)),
        migrations.AddField("execution", "silent_at", models.DateTimeField(null=True)),
        migrations.AddField("execution", "lost_at", models.DateTimeField(null=True)),
        migrations.RunSQL(LOOK, migrations.RunSQL.noop),
        migrations.AddIndex(
            "execution",
            models.Index(fields=["look_at"], name="execution_looked_at", condition=Q(look_at__isnull=False)),
        ),
        migrations.AddConstraint(
            "execution",
            models.CheckConstraint(
                condition=Q(look_at__isnull=True) | Q(from_spans=True), name="execution_is_looked_at_only_if_traced"
            ),
        ),
        migrations.AddIndex(
            "span",
            models.Index(fields=["received_at"], name="span_loops", condition=Q(kind__in=["tool", "agent"])),
        ),
        migrations.AddIndex(
            "span",
            models.Index(fields=["project", "started_at"], name="span_operations", condition=Q(kind="operation")),
        ),
    ]
