"""Where days were lengthened it is remembered from when on everything is there; what left before stays away."""

import django.db.models.deletion
from django.db import migrations, models

from monitor.rowsecurity import project_table

# Who lengthened what stands in the journal, back to where that is kept; of days that all share, every project is told.
REMEMBER = """
INSERT INTO monitor_wholesince (project_id, kind, at)
WITH edit AS MATERIALIZED (
    SELECT project_id, at, subject_id, data FROM monitor_statechange WHERE subject = 'keeping'
       AND subject_id IN ('spans', 'minutes', 'ledger', 'runs', 'executions', 'hours')
)
SELECT project.id, edit.subject_id, max(edit.at - make_interval(days => (edit.data->>'was')::int))
  FROM edit
  JOIN monitor_project AS project ON CASE WHEN edit.data->>'of' = 'project' THEN edit.project_id = project.id
       ELSE NOT EXISTS (SELECT FROM monitor_keeping AS own
                         WHERE own.project_id = project.id AND own.kind = edit.subject_id) END
 WHERE (edit.data->>'days')::int > (edit.data->>'was')::int
 GROUP BY project.id, edit.subject_id
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0022_dearest_runs")]

    operations = [
        migrations.CreateModel(
            "WholeSince",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project_id", "kind", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("kind", models.CharField(max_length=20)),
                ("at", models.DateTimeField()),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, to="monitor.project"
                    ),
                ),
            ],
        ),
        project_table("monitor_wholesince"),
        migrations.RunSQL(REMEMBER, migrations.RunSQL.noop),
    ]
