"""Messages that come as log records wait for their spans, and a project may mask personal data."""

import django.db.models.deletion
from django.db import migrations, models

from monitor.rowsecurity import project_table

SUBJECTS = ["execution", "conversation", "queue_item", "trip", "budget", "model", "job", "loop", "agent", "key"]
# With the key comes what its project masks: one query, before any project is known.
KEY_DOOR = """
CREATE FUNCTION handrail_key(wanted text) RETURNS TABLE (key monitor_apikey, mask_pii boolean, mask_ips boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS 'SELECT found, project.mask_pii, project.mask_ips FROM monitor_apikey AS found
      JOIN monitor_project AS project ON project.id = found.project_id WHERE found.prefix = wanted'
"""
PLAIN_KEY_DOOR = """
CREATE FUNCTION handrail_key(wanted text) RETURNS SETOF monitor_apikey
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS 'SELECT * FROM monitor_apikey WHERE prefix = wanted'
"""
GRANTS = [
    "REVOKE ALL ON FUNCTION handrail_key FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION handrail_key TO handrail_app, handrail_jobs",
]


class Migration(migrations.Migration):
    dependencies = [("monitor", "0016_fine_histograms")]

    operations = [
        migrations.AlterField(
            "statechange",
            "subject",
            models.CharField(max_length=16, choices=[(one, one.replace("_", " ").title()) for one in SUBJECTS]),
        ),
        migrations.AddField("project", "mask_pii", models.BooleanField(default=False, db_default=False)),
        migrations.AddField("project", "mask_ips", models.BooleanField(default=False, db_default=False)),
        migrations.CreateModel(
            "SpanLog",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "project_id",
                        "trace_id",
                        "span_id",
                        "digest",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("trace_id", models.UUIDField()),
                ("span_id", models.BigIntegerField()),
                ("digest", models.BinaryField(max_length=16)),
                ("at_ns", models.BigIntegerField()),
                ("place", models.IntegerField()),
                ("name", models.TextField()),
                ("said", models.TextField()),
                ("received_at", models.DateTimeField()),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, to="monitor.project"
                    ),
                ),
            ],
            options={"indexes": [models.Index(fields=["received_at"], name="span_log_by_age")]},
        ),
        project_table("monitor_spanlog"),
        migrations.RunSQL(
            ["DROP FUNCTION handrail_key(text)", KEY_DOOR, *GRANTS],
            ["DROP FUNCTION handrail_key(text)", PLAIN_KEY_DOOR, *GRANTS],
        ),
    ]
