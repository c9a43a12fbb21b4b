"""A day begins at its first midnight, also where clocks are put back to it: days cut at the second are cut anew.

Days that begin or end within an hour are summed too, by their whole hours: they are opened once.
"""

from django.db import migrations

TWICE = "(({0} - interval '1 hour') AT TIME ZONE time_zone)::date = ({0} AT TIME ZONE time_zone)::date"
CUT_ANEW = (
    f"""
DELETE FROM monitor_dayrollup AS held USING monitor_rolledday AS day
 WHERE held.project_id = day.project_id AND held.day = day.starts_at AND {TWICE.format("starts_at")}
""",  # noqa: S608
    f"""
UPDATE monitor_rolledday SET starts_at = starts_at - interval '1 hour', closed_at = NULL
 WHERE {TWICE.format("starts_at")}
""",  # noqa: S608
    f"""
UPDATE monitor_rolledday SET ends_at = ends_at - interval '1 hour', closed_at = NULL
 WHERE {TWICE.format("ends_at")}
""",  # noqa: S608
)
# Where midnight divides an hour it comes once.
OPEN_DIVIDED = """
INSERT INTO monitor_rolledday (project_id, starts_at, ends_at, time_zone)
SELECT DISTINCT project_id, date_trunc('hour', starts_at + interval '59 minutes 59 seconds', 'UTC'),
       date_trunc('hour', ends_at, 'UTC'), time_zone
  FROM (SELECT project_id, time_zone, midnight AT TIME ZONE time_zone AS starts_at,
               (midnight + interval '1 day') AT TIME ZONE time_zone AS ends_at
          FROM (SELECT DISTINCT project_id, time_zone, date_trunc('day', hour AT TIME ZONE time_zone) AS midnight
                  FROM monitor_hourrollup JOIN monitor_project AS project ON project.id = project_id) AS placed) AS day
 WHERE date_trunc('hour', starts_at, 'UTC') <> starts_at OR date_trunc('hour', ends_at, 'UTC') <> ends_at
    ON CONFLICT DO NOTHING
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0023_whole_since")]

    operations = [
        migrations.RunSQL(CUT_ANEW, migrations.RunSQL.noop),
        migrations.RunSQL(OPEN_DIVIDED, migrations.RunSQL.noop),
    ]
