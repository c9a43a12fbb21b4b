"""Agents that people enter, edit and expect to hear from, and views of the list of executions that they save."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q

import monitor.ids
from monitor.models.agents import Mode
from monitor.models.changes import Subject
from monitor.rowsecurity import project_table


class Migration(migrations.Migration):
    dependencies = [("monitor", "0011_commands_and_stalls")]

    operations = [
        migrations.AlterField("statechange", "subject", models.CharField(max_length=16, choices=Subject.choices)),
        migrations.AlterField("agent", "first_seen_at", models.DateTimeField(null=True)),
        migrations.AlterField("agent", "last_seen_at", models.DateTimeField(null=True)),
        migrations.AddField(
            "agent",
            "mode",
            models.CharField(max_length=20, choices=Mode.choices, blank=True, default="", db_default=""),
        ),
        migrations.AddField("agent", "version", models.PositiveIntegerField(default=1, db_default=1)),
        migrations.AddField("agent", "expected_every_s", models.PositiveIntegerField(null=True)),
        migrations.AddField("agent", "expected_since", models.DateTimeField(null=True)),
        migrations.AddField("agent", "missed_at", models.DateTimeField(null=True)),
        migrations.AddConstraint(
            "agent",
            models.CheckConstraint(
                condition=Q(mode__in=["", "explore", "execute", "escalate"]), name="agent_mode_is_known"
            ),
        ),
        migrations.AddConstraint(
            "agent",
            models.CheckConstraint(
                condition=Q(expected_every_s__isnull=False, expected_since__isnull=False)
                | Q(expected_every_s__isnull=True, expected_since__isnull=True, missed_at__isnull=True),
                name="agent_is_missed_only_while_it_is_expected",
            ),
        ),
        migrations.AddIndex(
            "agent",
            models.Index(
                fields=["missed_at", "last_seen_at"],
                name="agent_expected",
                condition=Q(expected_every_s__isnull=False),
            ),
        ),
        migrations.CreateModel(
            "SavedView",
            [
                ("id", models.UUIDField(default=monitor.ids.uuid7, primary_key=True, serialize=False)),
                (
                    "project",
                    models.ForeignKey(
                        to="monitor.project", on_delete=django.db.models.deletion.CASCADE, db_index=False
                    ),
                ),
                ("owner", models.ForeignKey(to=settings.AUTH_USER_MODEL, on_delete=django.db.models.deletion.CASCADE)),
                ("name", models.CharField(max_length=60)),
                ("query", models.JSONField()),
                ("is_shared", models.BooleanField(default=False)),
                ("position", models.PositiveSmallIntegerField()),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=["project", "owner", "name"], name="view_one_per_name_of_a_person"),
                    models.UniqueConstraint(
                        fields=["project", "owner", "position"], name="view_one_per_place_of_a_person"
                    ),
                    models.CheckConstraint(condition=Q(position__lt=20), name="view_places_of_a_person_are_20"),
                ],
                "indexes": [models.Index(fields=["project"], name="view_shared", condition=Q(is_shared=True))],
            },
        ),
        project_table("monitor_savedview"),
    ]
