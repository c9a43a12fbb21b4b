from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0004_room_for_sums"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("cpu_ms__isnull", False)),
                fields=["project", "started_at"],
                name="execution_measured",
            ),
        ),
    ]
