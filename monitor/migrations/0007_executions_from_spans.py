"""Spans take what they leave unsaid from the spans above them, and agents' spans are executions."""

from django.db import migrations, models

from monitor.models.executions import MOVES
from monitor.rowsecurity import legal_moves

DEADLINE = "execution_has_a_deadline_while_it_is_watched"
WATCHED = ["running", "retrying"]


class Migration(migrations.Migration):
    dependencies = [("monitor", "0006_spans_of_conversations")]

    operations = [
        migrations.AddField("span", "service", models.TextField(db_default="")),
        migrations.AddField("span", "inherits", models.SmallIntegerField(db_default=0)),
        # The spans of one trace may belong to several runs; nobody read which one this was.
        migrations.RemoveField("trace", "run_id"),
        migrations.AddField("execution", "from_spans", models.BooleanField(default=False, db_default=False)),
        migrations.RemoveIndex("execution", "execution_by_trace"),
        migrations.AddIndex(
            "execution",
            models.Index(
                fields=["project", "trace_id"],
                name="execution_by_trace",
                condition=models.Q(trace_id__isnull=False, from_spans=False),
            ),
        ),
        migrations.RemoveConstraint("execution", DEADLINE),
        migrations.AddConstraint(
            "execution",
            models.CheckConstraint(
                condition=models.Q(status__in=WATCHED, from_spans=False, deadline_at__isnull=False)
                | (~models.Q(status__in=WATCHED, from_spans=False) & models.Q(deadline_at__isnull=True)),
                name=DEADLINE,
            ),
        ),
        legal_moves("monitor_execution", "status", MOVES, but="NEW.from_spans"),
    ]
