"""A job's row says itself what was told of it last, instead of the journal of 400 days."""

from django.db import migrations, models

# What was told belongs to the instance and stands in its first project.
FILL = """
UPDATE monitor_jobheartbeat AS row SET reported_state = told.to_state
  FROM (SELECT DISTINCT ON (subject_id) subject_id, to_state FROM monitor_statechange
         WHERE subject = 'job' AND cause = 'heartbeat' AND project_id = (SELECT min(id) FROM monitor_project)
         ORDER BY subject_id, id DESC) AS told
 WHERE row.name = told.subject_id
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0007_executions_from_spans")]

    operations = [
        migrations.AddField(
            "jobheartbeat", "reported_state", models.CharField(db_default="alive", default="alive", max_length=6)
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
