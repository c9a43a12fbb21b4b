"""The types of alerts that there are, told without reading every alert."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("alerts", "0005_alerts_by_age")]

    operations = [
        migrations.AddIndex("alert", models.Index(fields=["project", "type"], name="alert_by_type")),
    ]
