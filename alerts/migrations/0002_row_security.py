"""Row-level security, legal moves and the append-only history of alerts."""

from django.db import migrations

from alerts.models import DELIVERY_MOVES, MOVES
from monitor.rowsecurity import APPEND_ONLY, append_only, legal_moves, project_table


class Migration(migrations.Migration):
    dependencies = [("alerts", "0001_initial"), ("monitor", "0002_row_security")]

    operations = [
        project_table("alerts_alert"),
        project_table("alerts_channel"),
        project_table("alerts_delivery"),
        project_table("alerts_alertevent", rights=APPEND_ONLY),
        append_only("alerts_alertevent"),
        legal_moves("alerts_alert", "status", MOVES),
        legal_moves("alerts_delivery", "status", DELIVERY_MOVES),
    ]
