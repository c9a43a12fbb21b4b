"""`manage.py project`: what holds for a project's agents."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from monitor.models import Project
from monitor.tenancy import crossing


def run(*words: str) -> dict[str, str]:
    out = StringIO()
    call_command("project", *words, stdout=out)
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in out.getvalue().splitlines()}


@pytest.fixture
def shop(db: None) -> Project:
    with crossing():
        return Project.objects.create(name="shop")


def test_a_project_is_shown_and_stays_as_it_is(shop: Project) -> None:
    shown = run("shop")
    assert shown["time_zone"] == "UTC"
    assert shown["handover_phrases"].startswith("speak to human, ")
    assert (shown["handover_confidence_below"], shown["claim_within_s"]) == ("0.7", "120")


def test_options_change_what_they_name_and_nothing_else(shop: Project) -> None:
    before = run("shop")
    after = run(
        "shop", "--time-zone", "Europe/Berlin", "--handover-phrases", "operator, real person", "--timeout-s", "90"
    )
    changed = {"time_zone": "Europe/Berlin", "handover_phrases": "operator, real person", "timeout_s": "90"}
    assert after == before | changed == run("shop")


def test_off_ends_a_trigger_or_a_clock(shop: Project) -> None:
    off = run("shop", "--handover-phrases", "off", "--claim-within-s", "off", "--handover-confidence-below", "off")
    assert [name for name, value in off.items() if value == "off"] == [
        "stall_s",
        "handover_phrases",
        "handover_confidence_below",
        "claim_within_s",
        "mask_pii",
        "mask_ips",
    ]


def test_masking_is_switched_on_and_off(shop: Project) -> None:
    assert (run("shop", "--mask-pii", "on")["mask_pii"], run("shop")["mask_ips"]) == ("on", "off")
    assert run("shop", "--mask-pii", "off", "--mask-ips", "on")["mask_pii"] == "off"
    shop.refresh_from_db()
    assert (shop.mask_pii, shop.mask_ips) == (False, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shop", "--timeout-s", "off"], "--timeout-s 'off': Expected `int`, got `str`."),
        (["shop", "--max-retries", "-1"], "--max-retries '-1': Expected `int` >= 0."),
        (["shop", "--handover-confidence-below", "nan"], "--handover-confidence-below 'nan': Expected `float` >= 0.0."),
        (["shop", "--handover-phrases", "a,,b"], "Expected `str` of length >= 1"),
        (["shop", "--time-zone", "Berlin"], "--time-zone: there is no time zone 'Berlin'."),
        (["shop", "--mask-pii", "yes"], "--mask-pii 'yes': say on or off."),
        (["store"], "There is no project 'store'. There is: shop."),
    ],
)
def test_what_cannot_be_meant_changes_nothing(shop: Project, words: list[str], said: str) -> None:
    before = run("shop")
    with pytest.raises(CommandError) as refused:
        run(*words)
    assert said in str(refused.value)
    assert run("shop") == before
