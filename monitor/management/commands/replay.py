"""Feed recorded runs of real agents through the public API."""

from argparse import ArgumentParser
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from monitor import keys
from monitor.management.replaying.formats import Recording, UnknownFormat, recordings
from monitor.management.replaying.player import Outcome, Player, Refused
from monitor.models import ApiKey, Project
from monitor.tenancy import crossing

A_WEEK_S = 7 * 24 * 3600
SPREAD = timedelta(hours=24)
AT_ONCE = 4


class Command(BaseCommand):
    help = "Plays recorded conversations (tau-bench, tau2-bench) through the public API; again adds nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
        parser.add_argument("--project", default="replay")
        parser.add_argument("--speed", type=float, default=0.0, help="1 is the recorded pace, 0 as fast as possible")
        parser.add_argument("--url", default=f"http://127.0.0.1:{settings.PORT}")

    def handle(self, *, paths: list[Path], project: str, speed: float, url: str, **_: Any) -> None:
        try:
            found = _mixed(list(recordings(paths)))
        except (UnknownFormat, OSError) as error:
            raise CommandError(str(error)) from error
        key, secret = _prepare(project)
        try:
            with httpx.Client(base_url=url, headers={"authorization": f"Bearer {secret}"}, timeout=60) as client:
                outcomes = _play(Player(client, speed), found, now=datetime.now(UTC))
        except Refused as error:
            raise CommandError(str(error)) from error
        finally:
            with crossing():
                ApiKey.objects.filter(pk=key.pk).delete()
        self.stdout.write(
            f"{len(found)} conversations of {len({one.run for one in found})} runs in project {project}: "
            f"{sum(one.added for one in outcomes)} events added, {sum(one.repeated for one in outcomes)} known before, "
            f"{sum(one.handed_over for one in outcomes)} handed over to a person."
        )


def _prepare(name: str) -> tuple[ApiKey, str]:
    """The project in which only what was recorded happens, and a key for this replay."""
    with crossing():
        project, _ = Project.objects.update_or_create(
            name=name,
            defaults={
                "timeout_s": A_WEEK_S,
                "heartbeat_s": A_WEEK_S,
                "handover_confidence_below": None,
                "handover_phrases": [],
                "handover_errors_in_a_row": None,
                "claim_within_s": None,
            },
        )
        return keys.make(
            project,
            "replay",
            ["ingest", "read", "operate"],
            general_per_minute=1_000_000,
            ingest_per_minute=1_000_000,
            now=datetime.now(UTC),
        )


def _mixed(found: list[Recording]) -> list[Recording]:
    """Each in its own run's order, the runs mixed evenly, as a fleet would have worked."""
    sizes = Counter(one.run for one in found)
    seen: Counter[str] = Counter()
    places = []
    for one in found:
        places.append(seen[one.run] / sizes[one.run])
        seen[one.run] += 1
    return [one for _, _, one in sorted(zip(places, range(len(found)), found, strict=True), key=lambda row: row[:2])]


def _play(player: Player, found: list[Recording], *, now: datetime) -> list[Outcome]:
    """All recordings, spread over the day before `now`, a few side by side."""
    longest = timedelta(milliseconds=max((one.duration_ms for one in found), default=0))
    step = (SPREAD - longest) / max(len(found), 1)

    def play(place: int) -> Outcome:
        starts_at = datetime.now(UTC) if player.speed else now - SPREAD + step * place
        return player.play(found[place], starts_at=starts_at)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(play, range(len(found))))
