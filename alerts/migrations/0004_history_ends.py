"""Old alerts leave with their history: the jobs' role may delete what nobody may change."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("alerts", "0003_snoozed_come_back")]

    operations = [
        migrations.RunSQL(
            "GRANT DELETE ON alerts_alertevent TO handrail_jobs",
            "REVOKE DELETE ON alerts_alertevent FROM handrail_jobs",
        ),
    ]
