"""What was ever counted is kept beside the hours, so that no counter goes back when they leave."""

import django.contrib.postgres.fields
from django.db import migrations, models

COUNT = """
WITH sums AS (
    SELECT kind, agent, model, sum(count) AS count, sum(failed) AS failed, sum(cancelled) AS cancelled,
           sum(duration_ms) AS duration_ms, sum(input_tokens) AS input_tokens,
           sum(cache_read_tokens) AS cache_read_tokens, sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd
      FROM monitor_hourrollup GROUP BY kind, agent, model
), counted AS (
    SELECT kind, agent, model, number & 1023 AS bucket, sum(number >> 10)::bigint AS n
      FROM monitor_hourrollup, unnest(latency) AS number WHERE kind <> 'llm' GROUP BY kind, agent, model, bucket
), joined AS (
    SELECT kind, agent, model, array_agg((n << 10) + bucket ORDER BY bucket) AS latency
      FROM counted WHERE n <> 0 GROUP BY kind, agent, model
)
INSERT INTO monitor_lifetimetally (kind, agent, model, count, failed, cancelled, duration_ms, input_tokens,
    cache_read_tokens, output_tokens, cost_usd, latency)
SELECT kind, agent, model, count, failed, cancelled, duration_ms, input_tokens, cache_read_tokens, output_tokens,
       cost_usd, coalesce(latency, '{}')
  FROM sums LEFT JOIN joined USING (kind, agent, model)
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0024_first_midnights")]

    operations = [
        migrations.CreateModel(
            "LifetimeTally",
            [
                ("kind", models.CharField(max_length=10)),
                ("agent", models.TextField()),
                ("model", models.TextField()),
                ("count", models.BigIntegerField()),
                ("failed", models.BigIntegerField()),
                ("cancelled", models.BigIntegerField()),
                ("duration_ms", models.BigIntegerField()),
                ("input_tokens", models.BigIntegerField()),
                ("cache_read_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("cost_usd", models.DecimalField(decimal_places=10, max_digits=28)),
                (
                    "latency",
                    django.contrib.postgres.fields.ArrayField(models.BigIntegerField(), default=list, size=None),
                ),
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "kind", "agent", "model", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
            ],
        ),
        # It tells of all projects: no session of one may see it.
        migrations.RunSQL(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON monitor_lifetimetally TO handrail_jobs", migrations.RunSQL.noop
        ),
        migrations.RunSQL(COUNT, migrations.RunSQL.noop),
    ]
