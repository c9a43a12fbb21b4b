"""What a batch touches of a long trace is found without the rest of it, and a run that its spans have left is known."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("monitor", "0025_lifetime_tallies")]

    operations = [
        migrations.AddField("run", "spans", models.IntegerField(null=True)),
        migrations.AddIndex(
            "span",
            models.Index(
                condition=models.Q(("parent_span_id__isnull", False)),
                fields=["project", "trace_id", "parent_span_id"],
                name="span_by_parent",
            ),
        ),
        migrations.AddIndex(
            "span",
            models.Index(
                condition=models.Q(("response_id", ""), _negated=True),
                fields=["project", "trace_id", "response_id"],
                name="span_by_response",
            ),
        ),
    ]
