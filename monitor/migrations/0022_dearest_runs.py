"""The dearest runs are found by an index."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitor", "0021_windows_by_age")]

    operations = [
        migrations.AddIndex("run", models.Index(fields=["project", "-cost_usd", "-run_id"], name="run_dearest")),
    ]
