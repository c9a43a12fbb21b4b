"""What a program tells arrives as it was meant, and what it gets wrong harms nobody."""

import asyncio
import logging
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum

import handrail
import handrail.testing
import httpx
import pytest
from handrail._plain import plain
from handrail.testing import Captured
from opentelemetry import trace


def test_a_block_that_is_left_is_completed(captured: Captured) -> None:
    with handrail.execution("planner", run_id="trip-7", task="Book a room", metadata={"tier": "gold"}) as ex:
        ex.progress(40, "comparing prices")
    (work,) = captured.executions
    assert (work.agent, work.status, work.progress, work.message) == ("planner", "completed", 40, "comparing prices")
    assert {name: work.said[name] for name in ("run_id", "task", "metadata")} == {
        "run_id": "trip-7",
        "task": "Book a room",
        "metadata": {"tier": "gold"},
    }
    assert uuid.UUID(ex.id).version == 7


def test_an_exception_fails_the_execution_and_goes_on_to_the_caller(captured: Captured) -> None:
    with pytest.raises(ZeroDivisionError), handrail.execution("planner") as ex:
        1 / 0  # noqa: B018
    work = captured.execution(ex)
    assert (work.status, work.error) == ("failed", "ZeroDivisionError: division by zero")


def test_the_first_word_on_the_end_counts(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        ex.complete({"room": 7})
        ex.fail("too late")
        ex.complete("later still")
    work = captured.execution(ex)
    assert (work.status, work.output) == ("completed", {"room": 7})
    assert [one["type"] for one in captured.events] == ["execution.started", "execution.completed"]


@pytest.mark.parametrize(("code", "status"), [(0, "completed"), (None, "completed"), (2, "failed")])
def test_leaving_the_program_within_a_block(captured: Captured, code: int | None, status: str) -> None:
    with pytest.raises(SystemExit), handrail.execution("planner") as ex:
        raise SystemExit(code)
    assert captured.execution(ex).status == status


def test_the_command_of_a_supervised_program_works_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with handrail.testing.capture() as elsewhere:
        url = elsewhere.client.settings.url
    monkeypatch.setenv("HANDRAIL_URL", url)
    monkeypatch.setenv("HANDRAIL_EXECUTION_ID", "0190F2D0-0000-7000-8000-000000000001")
    monkeypatch.setenv("HANDRAIL_RUN_ID", "nightly")
    with handrail.testing.capture() as captured:
        with handrail.execution("planner") as ex, handrail.execution("helper") as below:
            pass
        said, said_below = captured.execution(ex).said, captured.execution(below).said
        assert (said["parent_id"], said["run_id"]) == ("0190f2d0-0000-7000-8000-000000000001", "nightly")
        assert (said_below["parent_id"], said_below["run_id"]) == (ex.id, "nightly")
        with handrail.execution("planner", run_id="own", parent_id=below.id) as own:
            pass
        assert (captured.execution(own).said["parent_id"], own.run_id) == (below.id, "own")
    # What another server's supervisor said is nothing to this one, and what is no id names nobody.
    for name, value in (("HANDRAIL_URL", "http://elsewhere"), ("HANDRAIL_EXECUTION_ID", "the last one")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with handrail.testing.capture() as captured:
                with handrail.execution("planner") as ex:
                    pass
                assert "parent_id" not in captured.execution(ex).said


def test_nested_work_is_a_child_and_says_what_its_parent_said(captured: Captured) -> None:
    async def helper(name: str) -> str:
        async with handrail.execution(name) as ex:
            await asyncio.sleep(0)
            assert handrail.current() is ex
            return ex.id

    async def main() -> tuple[str, list[str]]:
        async with handrail.execution("crew", run_id="r-1", conversation_id="c-1") as ex:
            return ex.id, list(await asyncio.gather(helper("left"), helper("right")))

    crew, helpers = asyncio.run(main())
    for one in helpers:
        said = captured.execution(one).said
        assert (said["parent_id"], said["run_id"], said["conversation_id"]) == (crew, "r-1", "c-1")
    assert handrail.current() is None


def test_calls_tools_steps_operations_and_messages(captured: Captured) -> None:
    with handrail.execution("clerk", run_id="r-1", conversation_id="c-9") as ex:
        ex.call(model="gpt-4o", input_tokens=10, output_tokens=2, cost_usd=Decimal("0.0123"), response_id="resp-1")
        ex.call(model="gpt-4o", error=TimeoutError("30 s"))
        with ex.tool("search", {"q": "lamp"}) as tool:
            tool.output = ["a", "b"]
        with pytest.raises(KeyError), ex.tool("broken"):
            raise KeyError("no such tool")
        ex.tool("quick", {"n": 1}, output="done", duration_ms=12)
        with ex.step("plan", index=1):
            pass
        ex.step("check", success=False)
        ex.operation("cache.warm", duration_ms=7, metadata={"hits": 3})
        ex.message("How can I help?")
    good, bad = captured.calls
    assert (good["cost_usd"], good["response_id"], good["success"]) == ("0.0123", "resp-1", True)
    assert (bad["success"], bad["error"]) == (False, "TimeoutError: 30 s")
    search, broken, quick = captured.tools
    assert (search["output"], search["success"], search["arguments"]) == (["a", "b"], True, {"q": "lamp"})
    assert (broken["success"], broken["error"]) == (False, "KeyError: 'no such tool'")
    assert (quick["output"], quick["duration_ms"]) == ("done", 12)
    assert [(one["name"], one["success"]) for one in captured.steps] == [("plan", True), ("check", False)]
    assert captured.operations[0]["metadata"] == {"hits": 3}
    (message,) = captured.messages
    assert (message["conversation_id"], message["role"]) == ("c-9", "assistant")
    reports = [*captured.calls, *captured.tools, *captured.steps, *captured.operations]
    assert all((one["execution_id"], one["agent"], one["run_id"]) == (ex.id, "clerk", "r-1") for one in reports)
    assert len({one["id"] for one in reports}) == len(reports)


def test_what_is_reported_is_as_it_was_then(captured: Captured) -> None:
    arguments = {"items": [1]}
    with handrail.execution("clerk") as ex:
        ex.tool("add", arguments, duration_ms=1)
        arguments["items"].append(2)
    assert captured.tools[0]["arguments"] == {"items": [1]}


class Colour(Enum):
    RED = "red"


class Secret:
    def __repr__(self) -> str:
        raise RuntimeError("nobody may look at this")


@pytest.mark.parametrize(
    ("value", "copy"),
    [
        ({1: (2, {3})}, {"1": [2, [3]]}),
        (float("nan"), "nan"),
        (2**70, hex(2**70)),
        (b"abc", "<3 bytes>"),
        (Colour.RED, "red"),
        (Secret(), "<Secret>"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ("a\0b", "a\ufffdb"),
        (ValueError("no"), "ValueError: no"),
    ],
)
def test_anything_becomes_json(value: object, copy: object) -> None:
    assert plain(value) == copy


class Moving(dict[str, int]):
    """Somebody else writes to it while it is read."""

    def items(self):  # type: ignore[no-untyped-def]
        for name in list(self):
            self[name + "x"] = 1
            yield name, 1
            raise RuntimeError("dictionary changed size during iteration")


class Nameless:
    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_what_cannot_be_copied_stands_as_its_type(captured: Captured) -> None:
    with handrail.execution("planner", inputs={"a": Moving(a=1), "b": 2}, metadata={Nameless(): 1}) as ex:
        ex.call(model="m", latency_ms=float("nan"))  # type: ignore[arg-type]
        ex.tool("t", duration_ms=float("inf"))  # type: ignore[arg-type]
    said = captured.execution(ex).said
    assert (said["inputs"], said["metadata"]) == ({"a": "<Moving>", "b": 2}, {"Nameless": 1})
    assert ["latency_ms" in one for one in captured.calls] == [False]
    assert ["duration_ms" in one for one in captured.tools] == [False]


def test_a_copy_is_bounded() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "…" in str(plain(endless))
    assert len(str(plain(["x" * 1_000_000] * 100))) < 300_000
    assert len(plain(list(range(100_000)))) < 1_100


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timeout_s": "5m"}, TypeError, "timeout_s is a whole number, not '5m'"),
        ({"timeout_s": 0}, ValueError, "timeout_s lies between 1 and 2592000, 0 does not"),
        ({"heartbeat_s": 1.5}, TypeError, "heartbeat_s is a whole number"),
        ({"heartbeat_s": float("nan")}, TypeError, "heartbeat_s is a whole number"),
        ({"max_retries": True}, TypeError, "max_retries is a whole number"),
        ({"stall_s": -1}, ValueError, "stall_s lies between 0"),
        ({"on_stall": "panic"}, ValueError, "on_stall is 'warn' or 'retry', not 'panic'"),
    ],
)
def test_a_clock_that_no_server_takes_is_refused_where_it_is_written(
    captured: Captured, options: dict[str, object], error: type[Exception], words: str
) -> None:
    for open_one in (handrail.execution, handrail.supervised, handrail.attempts):
        with pytest.raises(error, match=words):
            open_one("planner", **options)
    with handrail.execution("planner", timeout_s=60.0) as ex:
        pass
    assert captured.execution(ex).said["timeout_s"] == 60


def test_our_requests_leave_no_line_in_the_log_of_a_program_that_keeps_one(
    captured: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="httpx")
    with handrail.execution("planner"):
        pass
    assert handrail.flush()
    assert [one.getMessage() for one in caplog.records if one.name == "httpx"] == []
    with httpx.Client(transport=httpx.MockTransport(lambda asked: httpx.Response(204))) as own:
        own.get("http://example.org")
    assert [one.name for one in caplog.records if one.name == "httpx"] == ["httpx"]


def test_wrong_use_is_told_where_it_is_written(captured: Captured) -> None:
    with pytest.raises(ValueError, match="agent"):
        handrail.execution("")
    with pytest.raises(ValueError, match="agent"):
        handrail.supervised("")
    with pytest.raises(TypeError, match=r"supervised\(\"name\"\)"):
        handrail.supervised(print)
    with pytest.raises(TypeError, match="generator"):

        @handrail.supervised("reader")
        def read():  # type: ignore[no-untyped-def]
            yield 1


def test_a_mistake_of_ours_is_not_the_programs(captured: Captured, caplog: pytest.LogCaptureFixture) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    with handrail.execution("planner") as ex:
        ex.progress("half")  # type: ignore[arg-type]
        ex.progress(message=Unprintable())  # type: ignore[arg-type]
        ex.call(model="m", input_tokens=object())  # type: ignore[arg-type]
        ex.fail(Unprintable())  # type: ignore[arg-type]
    assert "progress did not work" in caplog.text


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_without_words_stays_the_programs_own(captured: Captured) -> None:
    with pytest.raises(Mute), handrail.execution("planner") as ex, ex.tool("search"):
        ex.call(model="m", error=Mute())
        raise Mute
    assert (captured.execution(ex).status, captured.execution(ex).error) == ("failed", "Mute")
    assert [one["error"] for one in (*captured.calls, *captured.tools)] == ["Mute", "Mute"]
    for attempt in handrail.attempts("planner"):
        with attempt as again:
            if again.attempt == 1:
                raise Mute
    assert captured.execution(again).states == ["running", "retrying", "completed"]
    assert plain([Mute()]) == ["Mute"]


@pytest.mark.parametrize("attempted", [False, True])
def test_a_coroutine_needs_no_event_loop_of_asyncio(captured: Captured, attempted: bool) -> None:
    async def work() -> str:
        if attempted:
            async for attempt in handrail.attempts("planner"):
                async with attempt as ex:
                    ex.progress(50)
        else:
            async with handrail.execution("planner") as ex:
                ex.progress(50)
        return ex.id

    with pytest.raises(StopIteration) as ended:
        work().send(None)
    assert captured.execution(ended.value.value).status == "completed"


def test_work_without_a_block_is_current_nowhere(captured: Captured) -> None:
    ex = handrail.execution("planner").start()
    assert handrail.current() is None
    with handrail.execution("helper", parent_id=ex.id) as helper:
        ex.complete({"room": 7})
    with handrail.execution("next") as following:
        pass
    assert (captured.execution(ex).status, captured.execution(ex).output) == ("completed", {"room": 7})
    assert captured.execution(helper).said["parent_id"] == ex.id
    assert "parent_id" not in captured.execution(following).said
    assert not trace.get_current_span().get_span_context().is_valid


def test_without_a_server_the_program_just_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HANDRAIL_URL", raising=False)
    monkeypatch.delenv("HANDRAIL_API_KEY", raising=False)
    caplog.set_level(logging.INFO, "handrail")
    client = handrail.Client(haste=0.001)
    tries = 0

    @client.supervised("planner", attempts=3)
    def work() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("again")
        with client.execution("inner") as ex:
            ex.call(model="m")
            ex.check()
            with ex.tool("t"):
                return "done"

    assert work() == "done"
    assert client.flush()
    assert (client.pending, client.dropped) == (0, 0)
    assert [one.getMessage() for one in caplog.records if one.name == "handrail"] == [
        "handrail: nothing is reported: HANDRAIL_URL and HANDRAIL_API_KEY are not both set"
    ]
