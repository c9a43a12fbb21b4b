"""A day begins at its first midnight, also where clocks are put back to it: days cut at the second are cut anew."""

from django.db import migrations

TWICE = "(({0} - interval '1 hour') AT TIME ZONE time_zone)::date = ({0} AT TIME ZONE time_zone)::date"
CUT_ANEW = [
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
]


class Migration(migrations.Migration):
    dependencies = [("monitor", "0020_run_quarters")]

    operations = [migrations.RunSQL(CUT_ANEW, migrations.RunSQL.noop)]
