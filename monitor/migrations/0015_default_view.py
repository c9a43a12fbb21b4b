"""A person's list of executions opens with the saved view of their choice."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitor", "0014_what_stands_still")]

    operations = [
        migrations.AddField("savedview", "is_default", models.BooleanField(default=False, db_default=False)),
        migrations.AddConstraint(
            "savedview",
            models.UniqueConstraint(
                fields=["project", "owner"],
                name="view_one_default_of_a_person",
                condition=models.Q(is_default=True),
            ),
        ),
    ]
