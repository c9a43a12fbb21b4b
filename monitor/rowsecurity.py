"""Migration operations that make PostgreSQL itself refuse: row-level security, legal moves, partitions."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState

ROLES = """
DO $$
DECLARE wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['handrail_app', 'handrail_jobs'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', wanted);
        END IF;
        IF NOT pg_has_role(current_user, wanted, 'MEMBER') OR current_setting('server_version_num')::int >= 160000
        THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
    END LOOP;
END $$
"""
READ_WRITE = "SELECT, INSERT, UPDATE, DELETE"
APPEND_ONLY = "SELECT, INSERT"
BOTH_ROLES = "handrail_app, handrail_jobs"
# Unset and reset both read as "no project": then no row matches.
PROJECT = "nullif(current_setting('app.project', true), '')::int"
GUARD = "only_for_its_project"


class CreatePartitioned(migrations.CreateModel):
    """CreateModel for a table partitioned by range of `partition_by`, a timestamp of its primary key."""

    def __init__(self, *args: Any, partition_by: str, **options: Any) -> None:
        self.partition_by = partition_by
        super().__init__(*args, **options)

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        plain = schema_editor.sql_create_table
        schema_editor.sql_create_table = f"{plain} PARTITION BY RANGE ({self.partition_by})"
        try:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        finally:
            schema_editor.sql_create_table = plain


def roles() -> migrations.RunSQL:
    """The two roles of every session, made once a cluster and granted to whoever migrates."""
    return migrations.RunSQL(ROLES, migrations.RunSQL.noop)


def shared_table(table: str, rights: str = READ_WRITE) -> migrations.RunSQL:
    """A table without a project: both roles read and write it."""
    return migrations.RunSQL(f"GRANT {rights} ON {table} TO {BOTH_ROLES}", migrations.RunSQL.noop)


def project_table(
    table: str,
    *,
    rights: str = READ_WRITE,
    column: str = "project_id",
    also_reads: str = "",
    also_writes: str = "",
) -> migrations.RunSQL:
    """A table whose rows belong to a project: the application's role sees one project at a time.

    `also_reads` and `also_writes` are conditions for rows that projects share, such as global budgets.
    """
    own = f"{column} = {PROJECT}" + (f" OR {also_writes}" if also_writes else "")
    statements: list[Any] = [
        f"GRANT {rights} ON {table} TO {BOTH_ROLES}",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY {table}_one_project ON {table} TO handrail_app USING ({own}) WITH CHECK ({own})",
        f"CREATE POLICY {table}_crossing ON {table} TO handrail_jobs USING (true) WITH CHECK (true)",
    ]
    if also_reads:
        statements.append(f"CREATE POLICY {table}_shared ON {table} FOR SELECT TO handrail_app USING ({also_reads})")
    return migrations.RunSQL(statements, migrations.RunSQL.noop)


def leaf_guard(table: str) -> migrations.RunSQL:
    """An inherited CHECK that lets a COPY into a partition write rows of the bound project only.

    A check that is NULL passes, hence the coalesce: without a project nothing may be written.
    """
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_{GUARD} CHECK (project_id = coalesce({PROJECT}, -1))",
        migrations.RunSQL.noop,
    )


def refuse_function() -> migrations.RunSQL:
    """The trigger function behind `legal_moves` and `append_only`."""
    return migrations.RunSQL(
        """
        CREATE FUNCTION handrail_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% refuses this change', TG_TABLE_NAME
                USING ERRCODE = 'check_violation', CONSTRAINT = TG_ARGV[0];
        END $$
        """,
        "DROP FUNCTION handrail_refuse",
    )


def legal_moves(table: str, column: str, moves: Mapping[str, Iterable[str]], *, but: str = "") -> migrations.RunSQL:
    """A trigger that refuses every change of `column` that `moves` ({to: {from, …}}) does not list.

    `but` is a condition for rows that it leaves alone.
    """
    bound = f"NOT ({but}) AND " if but else ""
    pairs = sorted((old, new) for new, olds in moves.items() for old in olds)
    listed = ", ".join(f"('{old}', '{new}')" for old, new in pairs)
    name = f"{table}_moves_only_as_listed"
    return migrations.RunSQL(
        [
            f"DROP TRIGGER IF EXISTS {name} ON {table}",
            f"CREATE TRIGGER {name} BEFORE UPDATE OF {column} ON {table} FOR EACH ROW "
            f"WHEN ({bound}OLD.{column} <> NEW.{column} AND (OLD.{column}, NEW.{column}) NOT IN ({listed})) "
            f"EXECUTE FUNCTION handrail_refuse('{name}')",
        ],
        migrations.RunSQL.noop,
    )


def append_only(table: str, *, except_columns: Iterable[str] = ()) -> migrations.RunSQL:
    """A trigger that refuses every update of `table`, but for the columns named, and nothing else."""
    name = f"{table}_is_append_only"
    kept = list(except_columns)
    condition = (
        "WHEN ((to_jsonb(OLD) - ARRAY[{0}]) IS DISTINCT FROM (to_jsonb(NEW) - ARRAY[{0}]))".format(
            ", ".join(f"'{column}'" for column in kept)
        )
        if kept
        else ""
    )
    return migrations.RunSQL(
        f"CREATE TRIGGER {name} BEFORE UPDATE ON {table} FOR EACH ROW {condition} "
        f"EXECUTE FUNCTION handrail_refuse('{name}')",
        f"DROP TRIGGER {name} ON {table}",
    )


def partition_functions() -> migrations.RunSQL:
    """`handrail_make_partitions` and `handrail_drop_partitions`: the jobs' role may run them, and nothing more.

    A partition is one UTC day, named <table>_pYYYYMMDD. It is made like its table and then attached, under the lock
    that attaching takes: to be created as a part of it would take one that waits for all who read the table, and all
    others would wait behind. Nobody reads or writes it directly, but that the application's role may INSERT where
    `leaf_guard` stands (COPY is refused on tables under policy).
    """
    return migrations.RunSQL(
        [
            """
            CREATE OR REPLACE FUNCTION handrail_make_partitions(parent regclass, first_day date, last_day date)
            RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
            DECLARE a_day date := first_day; name text; made int := 0;
            BEGIN
                IF parent NOT IN (SELECT partrelid FROM pg_partitioned_table) THEN
                    RAISE EXCEPTION '% is not partitioned', parent;
                END IF;
                WHILE a_day <= last_day LOOP
                    name := parent::text || '_p' || to_char(a_day, 'YYYYMMDD');
                    IF to_regclass(name) IS NULL THEN
                        EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
                    END IF;
                    IF to_regclass(name) IS NULL THEN
                        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)', name, parent);
                        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, name,
                            a_day::timestamp AT TIME ZONE 'UTC', (a_day + 1)::timestamp AT TIME ZONE 'UTC');
                        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC, handrail_app, handrail_jobs', name);
                        IF EXISTS (SELECT 1 FROM pg_constraint WHERE conrelid = parent
                                   AND conname = parent::text || '_only_for_its_project') THEN
                            EXECUTE format('GRANT INSERT ON %I TO handrail_app', name);
                        END IF;
                        made := made + 1;
                    END IF;
                    a_day := a_day + 1;
                END LOOP;
                RETURN made;
            END $$
            """,
            """
            CREATE OR REPLACE FUNCTION handrail_drop_partitions(parent regclass, before_day date)
            RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
            DECLARE name text; dropped int := 0;
            BEGIN
                FOR name IN
                    SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = parent
                    AND inhrelid::regclass::text ~ '_p[0-9]{8}$'
                    AND to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') < before_day
                LOOP
                    EXECUTE format('DROP TABLE %I', name);
                    dropped := dropped + 1;
                END LOOP;
                RETURN dropped;
            END $$
            """,
            "REVOKE ALL ON FUNCTION handrail_make_partitions, handrail_drop_partitions FROM PUBLIC",
            "GRANT EXECUTE ON FUNCTION handrail_make_partitions TO handrail_app, handrail_jobs",
            "GRANT EXECUTE ON FUNCTION handrail_drop_partitions TO handrail_jobs",
        ],
        migrations.RunSQL.noop,
    )
