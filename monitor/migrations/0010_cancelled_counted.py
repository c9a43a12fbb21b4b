"""Rollups count cancelled executions by themselves; those of before stay among the completed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitor", "0009_old_rows_leave")]

    operations = [
        migrations.AddField("minuterollup", "cancelled", models.IntegerField(db_default=0)),
        migrations.AddField("hourrollup", "cancelled", models.IntegerField(db_default=0)),
    ]
