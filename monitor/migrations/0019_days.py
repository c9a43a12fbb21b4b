"""Days are summed from their hours, so that a chart of months reads few rows."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

from monitor.rowsecurity import project_table

# Every day that has hours is opened once; the job that closes them sums them up.
OPEN_ALL = """
INSERT INTO monitor_rolledday (project_id, starts_at, ends_at, time_zone)
SELECT DISTINCT project_id, starts_at, ends_at, time_zone
  FROM (SELECT project_id, time_zone, midnight AT TIME ZONE time_zone AS starts_at,
               (midnight + interval '1 day') AT TIME ZONE time_zone AS ends_at
          FROM (SELECT DISTINCT project_id, time_zone, date_trunc('day', hour AT TIME ZONE time_zone) AS midnight
                  FROM monitor_hourrollup JOIN monitor_project AS project ON project.id = project_id) AS placed) AS day
 WHERE date_trunc('hour', starts_at, 'UTC') = starts_at AND date_trunc('hour', ends_at, 'UTC') = ends_at
"""
KEY = ("agent", "department", "provider", "model", "kind")


def _usd() -> models.DecimalField:
    return models.DecimalField(db_default=0, decimal_places=10, max_digits=28)


def _project() -> models.ForeignKey:
    return models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to="monitor.project")


class Migration(migrations.Migration):
    dependencies = [("monitor", "0018_keeping_and_room")]

    operations = [
        migrations.CreateModel(
            "DayRollup",
            [
                ("kind", models.CharField(max_length=10)),
                ("agent", models.TextField()),
                ("department", models.TextField()),
                ("provider", models.TextField()),
                ("model", models.TextField()),
                ("count", models.IntegerField(db_default=0)),
                ("failed", models.IntegerField(db_default=0)),
                ("duration_ms", models.BigIntegerField(db_default=0)),
                ("input_tokens", models.BigIntegerField(db_default=0)),
                ("cache_read_tokens", models.BigIntegerField(db_default=0)),
                ("output_tokens", models.BigIntegerField(db_default=0)),
                ("cost_usd", _usd()),
                ("reported_usd", _usd()),
                ("computed_usd", _usd()),
                ("unpriced", models.IntegerField(db_default=0)),
                ("cancelled", models.IntegerField(db_default=0)),
                (
                    "latency",
                    django.contrib.postgres.fields.ArrayField(models.BigIntegerField(), default=list, size=None),
                ),
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project_id", "day", *KEY, blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("day", models.DateTimeField()),
                ("project", _project()),
            ],
            options={"abstract": False},
        ),
        migrations.CreateModel(
            "RolledDay",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project_id", "starts_at", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField()),
                ("time_zone", models.CharField(max_length=64)),
                ("closed_at", models.DateTimeField(null=True)),
                ("project", _project()),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("closed_at__isnull", True)),
                        fields=["project", "starts_at"],
                        name="rolled_day_open",
                    )
                ]
            },
        ),
        project_table("monitor_dayrollup"),
        project_table("monitor_rolledday"),
        migrations.RunSQL(OPEN_ALL, migrations.RunSQL.noop),
    ]
