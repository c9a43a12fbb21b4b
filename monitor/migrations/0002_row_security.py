"""Row-level security, legal moves, append-only journals, partitions and the door for keys."""

from django.db import migrations

from monitor.models.conversations import MOVES as CONVERSATION_MOVES
from monitor.models.executions import MOVES as EXECUTION_MOVES
from monitor.models.queue import ITEM_MOVES
from monitor.rowsecurity import (
    APPEND_ONLY,
    append_only,
    leaf_guard,
    legal_moves,
    partition_functions,
    project_table,
    refuse_function,
    shared_table,
)

PROJECT_TABLES = [
    "agent",
    "apikey",
    "conversation",
    "dirtyhour",
    "eventcounter",
    "execution",
    "hourrollup",
    "humanagent",
    "ingestkey",
    "membership",
    "message",
    "minuterollup",
    "queueitem",
    "run",
    "span",
    "statechange",
    "trace",
]
SHARED_TABLES = [
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "django_content_type",
    "django_session",
    "monitor_jobheartbeat",
    "monitor_person",
]
KEY_DOOR = """
CREATE FUNCTION handrail_key(wanted text) RETURNS SETOF monitor_apikey
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS 'SELECT * FROM monitor_apikey WHERE prefix = wanted'
"""


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("sessions", "0001_initial"),
    ]

    operations = [
        *(project_table(f"monitor_{name}") for name in PROJECT_TABLES),
        *(shared_table(name) for name in SHARED_TABLES),
        shared_table("django_migrations", "SELECT"),
        project_table("monitor_project", column="id"),
        project_table("monitor_budget", also_reads="project_id IS NULL"),
        project_table("monitor_price", also_reads="project_id IS NULL"),
        project_table("monitor_budgetwindow", also_writes="project_id = 0"),
        project_table("monitor_trip", also_writes="project_id IS NULL"),
        project_table("monitor_ledgerentry", rights=APPEND_ONLY),
        project_table("monitor_queueevent", rights=APPEND_ONLY),
        migrations.RunSQL("GRANT USAGE ON SEQUENCE monitor_statechange_id_seq TO handrail_app, handrail_jobs"),
        refuse_function(),
        append_only("monitor_ledgerentry"),
        append_only("monitor_queueevent"),
        append_only("monitor_statechange", except_columns=["judged_at"]),
        legal_moves("monitor_execution", "status", EXECUTION_MOVES),
        legal_moves("monitor_conversation", "state", CONVERSATION_MOVES),
        legal_moves("monitor_queueitem", "status", ITEM_MOVES),
        leaf_guard("monitor_span"),
        leaf_guard("monitor_ledgerentry"),
        partition_functions(),
        migrations.RunSQL(
            [
                KEY_DOOR,
                "REVOKE ALL ON FUNCTION handrail_key FROM PUBLIC",
                "GRANT EXECUTE ON FUNCTION handrail_key TO handrail_app, handrail_jobs",
                "SELECT handrail_make_partitions(parent, current_date - 8, current_date + 3) FROM unnest("
                "ARRAY['monitor_span', 'monitor_ledgerentry', 'monitor_statechange']::regclass[]) AS parent",
                "ALTER TABLE monitor_run SET (fillfactor = 80)",
                "ALTER TABLE monitor_minuterollup SET (fillfactor = 70)",
                "ALTER TABLE monitor_budgetwindow SET (fillfactor = 50)",
                "ALTER TABLE monitor_execution SET (fillfactor = 80)",
                "ALTER TABLE monitor_eventcounter SET (fillfactor = 20)",
                "CREATE INDEX span_by_time ON monitor_span USING brin (started_at)",
            ],
            migrations.RunSQL.noop,
        ),
    ]
