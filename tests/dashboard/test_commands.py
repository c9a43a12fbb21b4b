"""What a page tells of commands, of stalls, of parents and of children."""

import re
from contextlib import suppress

import pytest
from django.test import Client
from django.utils.html import strip_tags

from dashboard import listing
from monitor import commands, executions, families, transitions
from monitor.models import Execution
from monitor.tenancy import tenant
from tests.dashboard.test_executions import LIST, before, page, signed_in
from tests.monitor.fleets import a_project, act, an_execution, beat, look, tick


def spoken(text: str) -> str:
    """A page as it is read: no tags, what stands apart is a space apart."""
    apart = re.sub(r"</(span|td|dt|dd|a|div|p)>", " ", text)
    return re.sub(r"\s+", " ", strip_tags(apart).replace("\xa0", " "))


def timeline(browser: Client, one: object) -> str:
    return spoken(page(browser, f"{LIST}/{one}?tab=moves"))


def test_the_timeline_tells_how_a_command_reached_the_agent_and_what_it_did(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(60), timeout_s=600)
    browser = signed_in(project)
    act("pause", project, one, now=before(50), note="look at it first")
    assert re.search(r"Paused look at it first Pause, not heard yet\.", timeline(browser, one))
    act("cancel", project, one, now=before(40), note="enough")
    beat(project, one, now=before(37), attempt=1)
    with tenant(project):
        commands.acknowledge(project, one, 2, now=before(36), effect="<b>stopped</b> its work", attempt=1)
    text = timeline(browser, one)
    clock = r"\d\d:\d\d:\d\d"
    assert re.search(rf"Pause, not heard; superseded by cancel {clock}\.", text)
    assert re.search(
        rf"Cancelled enough Cancel, heard {clock} by heartbeat, acknowledged {clock} by try 1: "
        r"&lt;b&gt;stopped&lt;/b&gt; its work\. Cancelled, Ann, try 1 Ann 1",
        text,
    )


def test_a_command_that_was_read_as_an_event_says_so(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(60), timeout_s=600)
    act("retry", project, one, now=before(50))
    with tenant(project):
        commands.deliver_by_events(project, [1], now=before(49))
    beat(project, one, now=before(45), attempt=2)
    browser = signed_in(project)
    text = timeline(browser, one)
    assert re.search(r"Retry, heard [\d:]+ as an event; attempt 2 was picked up [\d:]+\.", text)
    assert "Try 1, given up for the next" in spoken(page(browser, f"{LIST}/{one}/spans/try-1"))


def test_a_report_of_a_try_that_was_given_up_is_told_plainly(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(100), timeout_s=600)
    tick(now=before(50))
    with tenant(project), suppress(transitions.StaleAttempt):
        executions.complete(project, one, now=before(30), actor="key:agents", attempt=1)
    assert (
        "A try that was given up reported, and was refused "
        "attempt 1 reported completed after it was given up; refused "
        "Retrying, key “agents”, try 1 key “agents” 1"
    ) in timeline(signed_in(project), one)


def test_a_stalled_execution_is_amber_in_the_list_and_on_its_page(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(400), task="Book a room", timeout_s=6000, heartbeat_s=600, stall_s=300)
    browser = signed_in(project)
    assert "Progress clock" in page(browser, f"{LIST}/{one}")
    assert tick(now=before(90)) == 1
    text = page(browser, LIST)
    assert re.search(r"is-amber[^>]*>(?:(?!</td>).)*Stalled", text, re.DOTALL)
    detail = spoken(page(browser, f"{LIST}/{one}"))
    for shown in ("Stalled", "Progress clock stalled", "beats, no progress for", "Made no progress"):
        assert shown in detail
    assert "alive but makes no progress for 5 min" in timeline(browser, one)
    # The try goes on: it has not ended in the waterfall either.
    assert "Try 1, running" in spoken(page(browser, f"{LIST}/{one}/spans/try-1"))
    beat(project, one, now=before(10), progress=5)
    assert "Stalled" not in spoken(page(browser, f"{LIST}/{one}?part=state"))
    assert "moves again after" in timeline(browser, one)


def test_parent_and_children_are_linked_with_their_states(db: None) -> None:
    project = a_project()
    top = an_execution(project, now=before(9), task="Plan the trip", timeout_s=600)
    child = an_execution(project, now=before(8), task="Book a room", parent_id=top, timeout_s=600)
    done = an_execution(project, now=before(7), task="Find a train", parent_id=top)
    act("complete", project, done, now=before(6))
    browser = signed_in(project)
    text = page(browser, f"{LIST}/{top}")
    assert "2 1 open" in spoken(text)
    assert "?tab=children" in text
    below = page(browser, f"{LIST}/{top}?tab=children")
    for shown in (f"{LIST}/{child}", f"{LIST}/{done}", "Book a room", "Find a train"):
        assert shown in below
    assert re.search(r"Running Book a room .*Completed Find a train", spoken(below))
    above = page(browser, f"{LIST}/{child}")
    assert f'href="{LIST}/{top}"' in above
    assert "Part of Plan the trip Running" in spoken(above)
    assert "?tab=children" not in above


def test_cancel_says_how_many_end_with_it(db: None) -> None:
    project = a_project()
    top = an_execution(project, now=before(9), timeout_s=600)
    child = an_execution(project, now=before(8), parent_id=top, timeout_s=600)
    browser = signed_in(project)
    assert "It ends, and so does 1 open execution below it." in page(browser, f"{LIST}/{top}")
    an_execution(project, now=before(7), parent_id=child, timeout_s=600)
    assert "It ends, and so do 2 open executions below it." in page(browser, f"{LIST}/{top}?part=commands")
    act("cancel", project, child, now=before(5))
    assert "It ends. Nothing below it is open." in page(browser, f"{LIST}/{top}")
    assert "It ends" not in page(signed_in(project, "viewer", name="eve"), f"{LIST}/{top}")


def test_what_is_below_is_counted_only_so_far(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "COUNTED_TO", 3)
    project = a_project()
    top = an_execution(project, now=before(9), timeout_s=600)
    for _ in range(3):
        below = an_execution(project, now=before(8), parent_id=top, timeout_s=600)
    browser = signed_in(project)
    assert "3 3 open" in spoken(page(browser, f"{LIST}/{top}?part=state"))
    assert "It ends, and so do 3 open executions below it." in page(browser, f"{LIST}/{top}?part=commands")
    an_execution(project, now=before(7), parent_id=below, timeout_s=600)
    assert "3 3 open" in spoken(page(browser, f"{LIST}/{top}?part=state"))
    words = "It ends, and so does all that is open of the 3+ executions below it."
    assert words in page(browser, f"{LIST}/{top}?part=commands")
    an_execution(project, now=before(6), parent_id=top, timeout_s=600)
    whole = spoken(page(browser, f"{LIST}/{top}"))
    assert re.search(r"Children 3\+ (?!\d+ open)", whole)
    # A circle of parents is no end of work.
    with tenant(project):
        Execution.objects.filter(id=top).update(parent_id=below)
        assert families.count_below(project, below, most=100) == (5, 5)


def test_a_note_goes_with_a_command_for_many(db: None) -> None:
    project = a_project()
    both = [an_execution(project, now=before(9), timeout_s=600) for _ in range(2)]
    signed_in(project).post(f"{LIST}/act", {"command": "pause", "id": both, "note": "the hotel is closed"})
    assert [look(project, one).command_reason for one in both] == ["the hotel is closed"] * 2
    with tenant(project):
        assert [one.reason for one in commands.of(project, both[0])] == ["the hotel is closed"]
