"""`manage.py project --keep` and `manage.py retention`: how long things are kept, from a shell."""

import io
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from monitor import keeping
from monitor.models import Keeping, Project, StateChange, Subject
from monitor.tenancy import crossing, tenant
from tests.monitor.spending import a_project, a_span, accept

NOW = datetime.now(UTC)


def run(*words: str, says: str = "", monkeypatch: pytest.MonkeyPatch | None = None) -> str:
    out = StringIO()
    if monkeypatch is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(says))
    call_command(*words, stdout=out)
    return out.getvalue()


@pytest.fixture
def shop(db: None) -> Project:
    project = a_project("shop")
    accept(project, [a_span(ago, ago, started_at=NOW - timedelta(days=ago)) for ago in (1, 20, 21)], now=NOW)
    return project


def own(project: Project) -> dict[str, int]:
    with crossing():
        return dict(Keeping.objects.filter(project=project).values_list("kind", "days"))


def test_a_project_keeps_for_longer_and_shows_it(shop: Project) -> None:
    assert "keep_spans                 90 days\n" in run("project", "shop")
    shown = run("project", "shop", "--keep", "spans=120,minutes=122", "--timeout-s", "90")
    assert "keep_spans                 120 days (without this 90)\n" in shown
    assert "timeout_s                  90\n" in shown
    assert "leave" not in shown
    assert own(shop) == {"spans": 120, "minutes": 122}
    run("project", "shop", "--keep", "spans=off, minutes=off", "--yes")
    assert own(shop) == {}
    with tenant(shop.pk):
        told = StateChange.objects.filter(subject=Subject.KEEPING)
        assert set(told.values_list("actor", flat=True)) == {"manage.py"}


def test_what_deletes_is_said_and_asked(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for says in ("", "n\n", "what?\n"):
        with pytest.raises(CommandError, match="Nothing was changed"):
            run("project", "shop", "--keep", "spans=10", "--timeout-s", "9", says=says, monkeypatch=monkeypatch)
    assert own(shop) == {}
    with crossing():
        assert Project.objects.get(name="shop").timeout_s == 60
    told = run("project", "shop", "--keep", "spans=10", says="y\n", monkeypatch=monkeypatch)
    assert "spans: 90 days become 10; 4 rows leave, about " in told
    assert own(shop) == {"spans": 10}


def test_what_holds_for_all_is_changed_by_a_command_of_its_own(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    other = a_project("other")
    shown = run("retention", "--keep", "spans=150,minutes=152")
    assert "keep_spans                 150 days (without this 90)\n" in shown
    with tenant(other.pk):
        assert keeping.of_project(other.pk)["spans"].days == 150
    told = run("retention", "--keep", "spans=10", says="yes\n", monkeypatch=monkeypatch)
    assert "spans: 150 days become 10; 4 rows leave" in told


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("spans=2", "spans must be kept for 3 to 400 days"),
        ("spans=120", "spans can be kept for 90 days at most, with minute sums kept for 92"),
        ("spans", "give KIND=DAYS"),
        ("spans=ten", "give KIND=DAYS"),
        ("spans=-1", "give KIND=DAYS"),
        ("secrets=30", "is no kind that is kept"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(shop: Project, keep: str, said: str) -> None:
    for words in (("project", "shop"), ("retention",)):
        with pytest.raises(CommandError, match=said):
            run(*words, "--keep", keep, "--yes")
    with crossing():
        assert not Keeping.objects.exists()
