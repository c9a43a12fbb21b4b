"""Lists, page by page."""

from datetime import timedelta

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from monitor.models import Agent, Project
from monitor.tenancy import tenant
from tests.monitor.api.conftest import now

AGENTS = "/api/v1/sample/agents"


def fill(project: Project, count: int) -> list[str]:
    """Agents of which several were seen at the same moment; their names in the order of the list."""
    at = now()
    with tenant(project.pk):
        made = [
            Agent.objects.create(
                project=project, name=f"a{n}", first_seen_at=at, last_seen_at=at - timedelta(seconds=n // 3)
            )
            for n in range(count)
        ]
    return [row.name for row in sorted(made, key=lambda row: (row.last_seen_at, row.pk), reverse=True)]


def walk(api: Client, url: str | None) -> list[str]:
    names: list[str] = []
    while url:
        page = api.get(url).json()
        names += [row["name"] for row in page["results"]]
        url = page["next"]
    return names


def test_the_pages_together_are_the_list(api: Client, project: Project) -> None:
    expected = fill(project, 10)
    for limit in (1, 3, 9, 10, 11):
        assert walk(api, f"{AGENTS}?limit={limit}") == expected


def test_a_page_that_is_the_last_has_no_next(api: Client, project: Project) -> None:
    fill(project, 2)
    assert api.get(f"{AGENTS}?limit=2").json()["next"] is None
    assert api.get(f"{AGENTS}?limit=1").json()["next"].startswith(f"{AGENTS}?limit=1&cursor=")


def test_filters_go_on_to_the_next_page(api: Client, project: Project) -> None:
    fill(project, 6)
    assert walk(api, f"{AGENTS}?limit=1&name=a4&name=a1") == ["a1", "a4"]


def test_what_is_added_in_front_moves_no_page(api: Client, project: Project) -> None:
    expected = fill(project, 4)
    first = api.get(f"{AGENTS}?limit=2").json()
    with tenant(project.pk):
        Agent.objects.create(project=project, name="new", first_seen_at=now(), last_seen_at=now())
    assert [row["name"] for row in api.get(first["next"]).json()["results"]] == expected[2:]


def test_a_page_is_one_query_with_a_bound(api: Client, project: Project) -> None:
    fill(project, 4)
    following = api.get(f"{AGENTS}?limit=2").json()["next"]
    with CaptureQueriesContext(
        connection,
    ) as seen:
        api.get(following)
    reads = [query["sql"] for query in seen if '"monitor_agent"' in query["sql"]]
    assert len(reads) == 1
    assert '"last_seen_at" <= ' in reads[0]
    assert "OFFSET" not in reads[0]
