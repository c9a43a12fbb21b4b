"""A long-poll and a stream over the frame, and the web process that serves them to tests."""

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django
from django.conf import settings

django.setup()
settings.ROOT_URLCONF = __name__

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from config import operations, protocol
from config.asgi import Application
from dashboard.live import Events
from monitor import listen
from monitor.api import waiting
from monitor.api.caller import Caller
from monitor.api.waiting import Event, LongPoll, WaitQuery
from monitor.models import QueueEvent
from tests.monitor.api import sample_urls


class AfterQuery(WaitQuery, kw_only=True):
    after: int = 0


class SampleEvents(LongPoll):
    """What was announced. At an event `stuck` the database gives no answer."""

    query_type = AfterQuery

    def look(self, caller: Caller, query: AfterQuery, now: datetime) -> Any:
        found = list(QueueEvent.objects.filter(project_id=caller.project_id, seq__gt=query.after).order_by("seq"))
        if not found:
            return None
        if found[-1].kind == "stuck":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)")
        return {"events": [{"seq": event.seq, "kind": event.kind} for event in found], "cursor": found[-1].seq}

    def following(self, query: AfterQuery, result: Any) -> AfterQuery:
        return AfterQuery(after=result["cursor"])

    def events(self, result: Any) -> Iterable[Event]:
        for event in result["events"]:
            yield Event(event, id=str(event["seq"]))


def how_many_wait(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(sum(len(ears) for ears in listen.ears._by_channel.values())))


# Soon enough for a test.
protocol.WITHIN_S = 3.0
waiting.RECHECK_S = 1.0
listen.PATIENCE_S = float(os.environ.get("SAMPLE_PATIENCE_S", listen.PATIENCE_S))

urlpatterns = [
    *sample_urls.urlpatterns,
    path("api/v1/sample/events", SampleEvents.as_view()),
    path("api/v1/sample/waiting", how_many_wait),
    path("events/", Events.as_view()),
    path("health", operations.health),
]
handler400, handler404, handler500 = sample_urls.handler400, sample_urls.handler404, sample_urls.handler500
application = Application()
