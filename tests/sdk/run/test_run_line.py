"""The line of a supervised execution, without a command at its end."""

import threading

import httpx
from handrail._run.line import Line
from handrail._run.news import News, Reported
from handrail._settings import Settings
from handrail._stand_in import until
from handrail._transport import Transport


def test_who_has_heard_the_last_answer_finds_nothing_unsent() -> None:
    seen: list[int] = []
    looking: list[threading.Thread] = []

    def look() -> None:
        seen.append(line.unsent)

    def heard(told: News) -> None:
        if isinstance(told, Reported):
            looking.append(threading.Thread(target=look))
            looking[0].start()
            # Time enough to find it unsent, where that can be found.
            looking[0].join(0.2)

    over = httpx.MockTransport(lambda _: httpx.Response(200, json={"status": "completed"}))
    line = Line(Transport(Settings(url="http://x", api_key="k"), over=over), "an-id", heard)
    line.report("complete", attempt=1)
    until(lambda: bool(seen), "it was looked at", 5)
    line.close()
    assert seen == [0]
