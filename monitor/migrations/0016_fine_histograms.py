"""One list of finely counted durations in the place of 32 coarse columns."""

import django.contrib.postgres.fields
from django.db import migrations, models

from monitor.latency import SHIFT, bucket

COARSE = [f"h{n:02d}" for n in range(32)]
# The coarse buckets ended at 10 ms · 1.6^n, the last one was open; the middle of each stands for it.
MIDDLES_MS = [10 * 1.6 ** (n - 0.5) for n in range(32)]
GATHERED = ", ".join(
    f"CASE WHEN {name} <> 0 THEN ({name}::bigint << {SHIFT}) + {bucket(round(middle_ms))} END"
    for name, middle_ms in zip(COARSE, MIDDLES_MS, strict=True)
)


def _into_one(table: str) -> str:
    # Each table is written anew once; an UPDATE would leave it twice as large.
    dropped = ", ".join(f"DROP COLUMN {name}" for name in COARSE[1:])
    return f"""
ALTER TABLE {table} ALTER COLUMN h00 DROP DEFAULT,
    ALTER COLUMN h00 TYPE bigint[] USING array_remove(ARRAY[{GATHERED}], NULL);
ALTER TABLE {table} RENAME COLUMN h00 TO latency;
ALTER TABLE {table} {dropped};
"""


class Migration(migrations.Migration):
    dependencies = [("monitor", "0015_default_view")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(_into_one("monitor_minuterollup")),
                migrations.RunSQL(_into_one("monitor_hourrollup")),
            ],
            state_operations=[
                operation
                for model in ("minuterollup", "hourrollup")
                for operation in (
                    *(migrations.RemoveField(model, name) for name in COARSE),
                    migrations.AddField(
                        model,
                        "latency",
                        django.contrib.postgres.fields.ArrayField(models.BigIntegerField(), default=list, size=None),
                    ),
                )
            ],
        )
    ]
