"""Problem details (RFC 9457): every refusal of the API, whoever raised it, in one shape.

Problem                        anything the API refuses, with its status
├── Unauthenticated    401     no key, or a dead one
├── Forbidden          403     the key or role lacks the scope
└── Throttled          429     too many requests, with Retry-After
"""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views import defaults
from rest_framework.exceptions import APIException

from monitor import faults
from monitor.patience import TookTooLong

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
# SQLSTATEs of values beyond a limit of PostgreSQL's, such as what an index takes. Its driver counts them among the
# troubles of the connection; sent again they would be refused again.
BEYOND_LIMITS = "54"
# Tables whose rows follow from what was told: no caller names them, so none is to blame for what is refused there.
FOLLOWING = frozenset(
    {
        "monitor_budgetwindow",
        "monitor_dirtyhour",
        "monitor_eventcounter",
        "monitor_ingestkey",
        "monitor_ledgerentry",
        "monitor_minuterollup",
        "monitor_queueevent",
        "monitor_queueitem",
        "monitor_run",
        "monitor_runquarter",
        "monitor_statechange",
        "monitor_trace",
        "monitor_trip",
    }
)
OF_A_DAY = re.compile(r"_p\d{8}$")
API_PATHS = ("/api/", "/v1/")
# Exporters try for 10 s in all, and give up at once when they are told to wait for longer than they have left.
RETRY_AFTER_S = 2


class Problem(Exception):
    """A refusal: what is wrong (`title`), what about it (`detail`), which fields. Members of `extra` are added."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(title)
        self.status = int(status)
        self.title = title
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.extra = extra

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        if self.errors:
            body["errors"] = self.errors
        return body | self.extra


class Unauthenticated(Problem):
    def __init__(self, detail: str) -> None:
        super().__init__(401, "Not signed in", detail, headers={"WWW-Authenticate": 'Bearer realm="handrail"'})


class Forbidden(Problem):
    def __init__(self, detail: str) -> None:
        super().__init__(403, "Not allowed", detail)


class Throttled(Problem):
    def __init__(self, bucket: str, per_minute: int, retry_after_s: int) -> None:
        super().__init__(
            429,
            "Too many requests",
            f"This key may make {per_minute} {bucket} requests a minute; try again in {retry_after_s} s.",
            headers={"Retry-After": str(retry_after_s)},
        )


def render(problem: Problem) -> HttpResponse:
    """The answer that a problem is."""
    body = orjson.dumps(problem.body(), default=_plain)
    return HttpResponse(body, status=problem.status, content_type=CONTENT_TYPE, headers=problem.headers)


def _plain(value: object) -> str:
    return f"{value:f}" if hasattr(value, "quantize") else str(value)


def bad_field(field: str, message: str) -> Problem:
    """A 400 that names the field, such as `calls[3].input_tokens`."""
    return Problem(400, "Bad request", f"{field}: {message}", errors=[{"field": field, "message": message}])


def of(error: Exception) -> Problem | None:
    """The problem that an exception is, or None: then it is a fault of ours."""
    match error:
        case Problem():
            return error
        case Http404():
            return Problem(404, "Not found")
        case IntegrityError():
            return _of_integrity(error)
        case _ if refuses(error):
            return Problem(400, "Bad request", f"A value cannot be stored: {_first_line(error)}")
        case OperationalError() | InterfaceError():
            log.warning("the database did not answer: %s", error)
            return unavailable("The database does not answer at the moment; nothing was stored.")
        case TookTooLong():
            return unavailable("It took too long; ask for a shorter time.")
        case RequestDataTooBig():
            return Problem(413, "Too large", "The body is larger than this server accepts.")
        case SuspiciousOperation():
            return Problem(400, "Bad request", "The request is malformed.")
        case APIException():
            return Problem(error.status_code, HTTPStatus(error.status_code).phrase, str(error.detail))
    return None


def refuses(error: Exception) -> bool:
    """Whether the database has answered, and does not take what it was given."""
    if isinstance(error, OperationalError):
        return (getattr(error.__cause__, "sqlstate", None) or "").startswith(BEYOND_LIMITS)
    return isinstance(error, DataError | IntegrityError)


def is_ours(error: Exception) -> bool:
    """Whether the database refuses a row that follows from what was told, so that whoever told it is not to blame."""
    diagnosis = getattr(error.__cause__, "diag", None)
    # The latter is a project that was deleted meanwhile.
    if not isinstance(error, IntegrityError) or diagnosis is None or diagnosis.sqlstate == "23503":
        return False
    # Without a name it is the day that has no partition yet.
    is_of_a_rule = bool(diagnosis.constraint_name or diagnosis.column_name)
    return is_of_a_rule and OF_A_DAY.sub("", diagnosis.table_name or "") in FOLLOWING


def unavailable(detail: str) -> Problem:
    """A 503 that asks to come back."""
    return Problem(503, "Unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def no_room() -> Problem:
    """A 503, which exporters send again: on a 507 they would drop what they hold."""
    return unavailable("The disk of the database is nearly full. Nothing was stored; send it again.")


def _of_integrity(error: IntegrityError) -> Problem | None:
    diagnosis = getattr(error.__cause__, "diag", None)
    state = getattr(diagnosis, "sqlstate", "") or ""
    # The constraint's name is a sentence.
    rule = (getattr(diagnosis, "constraint_name", "") or "").replace("_", " ")
    match state:
        case _ if is_ours(error):
            log.error("the database refuses what follows of a request: %s", faults.said(error))
            return unavailable("The server has a fault, which is logged; nothing was stored.")
        case "23505" | "23P01":
            return Problem(409, "Conflict", f"There is one already: {rule}.")
        case "23514" if not rule:
            # No constraint: there is no partition for the day, until the job or the next start has made it.
            log.error("a row has no partition to go to: %s", _first_line(error))
            return unavailable("The database has no room for this day yet; nothing was stored.")
        case "23514" if "moves only as listed" in rule or "append only" in rule:
            return Problem(409, "Conflict", f"The database refuses this change: {rule}.")
        case "23514":
            return Problem(400, "Bad request", f"The database refuses these values: {rule}.")
        case "23503":
            return Problem(409, "Conflict", "This refers to something that does not exist, or is still referred to.")
        case "23502":
            field = getattr(diagnosis, "column_name", "") or ""
            return bad_field(field, "is required")
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse | None:
    """What REST framework calls for an exception in a view; None lets Django answer 500."""
    problem = of(error)
    return render(problem) if problem else None


def is_api(request: HttpRequest) -> bool:
    return request.path.startswith(API_PATHS)


# What Django calls when no view could answer: problem details for the API, pages for people.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if is_api(request):
        return render(of(exception) or Problem(400, "Bad request", "The request is malformed."))
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if is_api(request):
        return render(Forbidden(str(exception)))
    return defaults.permission_denied(request, exception)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if is_api(request):
        return render(Problem(404, "Not found", "There is nothing at this address."))
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    # Django calls this while it handles what was raised.
    error = sys.exc_info()[1]
    problem = of(error) if isinstance(error, Exception) else None
    if problem is None or problem.status != HTTPStatus.SERVICE_UNAVAILABLE:
        problem = Problem(500, "Internal error", "This is a fault of the server; it has been logged.")
    if is_api(request):
        return render(problem)
    try:
        page = render_to_string(f"{problem.status}.html")
    except Exception:
        # The page that says so must not fail as well.
        log.exception("the page for faults has a fault")
        words = f"{problem.title}."
        return HttpResponse(words, status=problem.status, content_type="text/plain", headers=problem.headers)
    return HttpResponse(page, status=problem.status, headers=problem.headers)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if is_api(request):
        return render(Forbidden(f"CSRF check failed: {reason}"))
    return HttpResponse("CSRF check failed: reload the page and try again.", status=403, content_type="text/plain")
