"""How long each kind is kept is a row that people change; the room that is left and its growth are remembered."""

import django.db.models.deletion
from django.db import migrations, models

from monitor.rowsecurity import project_table, shared_table

SUBJECTS = ["execution", "conversation", "queue_item", "trip", "budget", "model", "job", "loop", "agent", "key"]
LEVELS = ["roomy", "warned", "stopped"]


class Migration(migrations.Migration):
    dependencies = [("monitor", "0017_other_doors")]

    operations = [
        migrations.CreateModel(
            "Keeping",
            [
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=20)),
                ("days", models.PositiveSmallIntegerField()),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="monitor.project",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=["project", "kind"], nulls_distinct=False, name="keeping_one_per_project_and_kind"
                    ),
                    models.CheckConstraint(condition=models.Q(days__gte=1), name="keeping_lasts_a_day_at_least"),
                ]
            },
        ),
        migrations.CreateModel(
            "RoomState",
            [
                ("name", models.CharField(max_length=20, primary_key=True, serialize=False)),
                (
                    "level",
                    models.CharField(
                        choices=[(level, level.capitalize()) for level in LEVELS],
                        db_default="roomy",
                        default="roomy",
                        max_length=10,
                    ),
                ),
                ("used_bytes", models.BigIntegerField()),
                ("total_bytes", models.BigIntegerField()),
                ("measured_at", models.DateTimeField()),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(level__in=LEVELS), name="room_state_level_is_known")
                ]
            },
        ),
        migrations.CreateModel(
            "GrowthSample",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "on", "name", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("on", models.DateField()),
                ("name", models.CharField(max_length=20)),
                ("at", models.DateTimeField()),
                ("rows", models.BigIntegerField()),
                ("bytes", models.BigIntegerField()),
            ],
        ),
        migrations.AlterField(
            "statechange",
            "subject",
            models.CharField(
                choices=[(name, name.replace("_", " ").title()) for name in SUBJECTS]
                + [("keeping", "Keeping"), ("room", "Room")],
                max_length=16,
            ),
        ),
        project_table("monitor_keeping", also_reads="project_id IS NULL"),
        shared_table("monitor_roomstate"),
        shared_table("monitor_growthsample"),
        # A project that keeps its ledger for less time than others has its rows taken out of the days it shares.
        migrations.RunSQL(
            "GRANT DELETE ON monitor_ledgerentry TO handrail_jobs",
            "REVOKE DELETE ON monitor_ledgerentry FROM handrail_jobs",
        ),
    ]
