"""A project in which nothing has happened: make a key in the page, send with it, and the overview opens by itself."""

import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.windows import Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance
from tests.monitor.otlp_builders import as_protobuf, export, pairs

pytestmark = pytest.mark.browser


def test_the_first_trace_opens_the_overview(handrail: Instance, window: Callable[..., Window]) -> None:
    [ada] = make_project(handrail, "first-run").people
    here = window()
    page = here.sign_in(ada)
    expect(page.get_by_role("heading", name="Send your first trace")).to_be_visible()
    expect(page.locator("#code-otel")).to_contain_text("Bearer%20YOUR_KEY")

    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_text("is shown only now")).to_be_visible()
    key = page.locator("#snippets .callout code").inner_text()
    expect(page.locator("#code-otel")).to_contain_text(f"Bearer%20{key}")
    page.get_by_role("tab", name="curl").click()
    expect(page.locator("#code-curl")).to_contain_text(key)

    with api(handrail, key) as agent:
        sent = agent.post("/v1/traces", content=first_trace(), headers={"content-type": "application/x-protobuf"})
        assert (sent.status_code, sent.content) == (200, b"")
        # It may send and nothing else.
        assert agent.get("/api/v1/executions").status_code == 403

    expect(page.get_by_role("heading", name="Send your first trace")).to_have_count(0)
    expect(page.locator("#agents").get_by_text("greeter")).to_be_visible()
    expect(page).to_have_url(f"http://127.0.0.1:{handrail.port}/")


def first_trace() -> bytes:
    """What an exporter sends: an agent that has just answered, by one call of a model."""
    ended_ns, trace, agent = time.time_ns(), token_hex(16), token_hex(8)

    def span(name: str, number: str, **attributes: Any) -> dict[str, Any]:
        named = {"traceId": trace, "spanId": number, "name": name, "kind": 1}
        times = {"startTimeUnixNano": str(ended_ns - 2 * 10**9), "endTimeUnixNano": str(ended_ns)}
        return named | times | {"attributes": pairs({f"gen_ai.{key}": one for key, one in attributes.items()})}

    invoked = {"operation.name": "invoke_agent"}
    called = {"operation.name": "chat", "request.model": "gpt-4o-mini", "usage.input_tokens": 900}
    return as_protobuf(
        export(
            span("invoke_agent", agent, **invoked),
            span("chat gpt-4o-mini", token_hex(8), **called) | {"parentSpanId": agent},
            resource={"service.name": "greeter"},
        )
    )
