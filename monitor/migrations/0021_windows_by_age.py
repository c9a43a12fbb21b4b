"""The window of a run leaves with the run; all others are found by their age."""

from django.db import migrations, models

# From now on none is left behind.
WITHOUT_RUN = """
DELETE FROM monitor_budgetwindow AS held
 WHERE scope = 'run'
   AND NOT EXISTS (SELECT FROM monitor_run AS run WHERE run.project_id = held.project_id AND run.run_id = held.target)
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0020_run_quarters")]

    operations = [
        migrations.RunSQL(WITHOUT_RUN, migrations.RunSQL.noop),
        migrations.AddIndex(
            "budgetwindow",
            models.Index(
                condition=models.Q(("scope", "run"), _negated=True), fields=["starts_at"], name="budget_window_by_age"
            ),
        ),
    ]
