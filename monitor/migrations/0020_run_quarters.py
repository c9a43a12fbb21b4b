"""A day's runs are not counted one by one, nor a crew's executions looked for one by one."""

import django.db.models.deletion
from django.db import migrations, models

from monitor.rowsecurity import project_table

COUNT = """
INSERT INTO monitor_runquarter (project_id, at, begun, ended)
SELECT project_id, date_bin('15 minutes', at, '2000-01-01 00:00Z') AS quarter, sum(begins), sum(ends)
  FROM (SELECT project_id, first_at AS at, 1 AS begins, 0 AS ends FROM monitor_run
        UNION ALL SELECT project_id, last_at, 0, 1 FROM monitor_run) AS turns
 GROUP BY project_id, quarter
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0019_days")]

    operations = [
        migrations.AddField("run", "was_first_at", models.DateTimeField(null=True)),
        migrations.AddField("run", "was_last_at", models.DateTimeField(null=True)),
        migrations.CreateModel(
            "RunQuarter",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project_id", "at", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("at", models.DateTimeField()),
                ("begun", models.BigIntegerField(db_default=0)),
                ("ended", models.BigIntegerField(db_default=0)),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, to="monitor.project"
                    ),
                ),
            ],
        ),
        project_table("monitor_runquarter"),
        # Every batch with a new run adds to the row of its quarter.
        migrations.RunSQL("ALTER TABLE monitor_runquarter SET (fillfactor = 50)", migrations.RunSQL.noop),
        migrations.RunSQL(COUNT, migrations.RunSQL.noop),
        migrations.AddIndex(
            "execution",
            models.Index(
                condition=models.Q(("crew_id", ""), _negated=True),
                fields=["project", "crew_id"],
                name="execution_by_crew",
            ),
        ),
    ]
