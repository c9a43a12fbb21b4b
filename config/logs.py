"""The lines of the log: what they tell of an error quotes no row, whoever writes them."""

import logging
from collections.abc import Mapping
from copy import copy
from http import HTTPStatus
from typing import Any

from monitor import faults


class Lines(logging.Formatter):
    """Errors of the database by their class, code and place."""

    def format(self, record: logging.LogRecord) -> str:
        told = copy(record)
        told.msg, told.args = _quiet(record.msg), _quiet_all(record.args)
        # Another formatter may have left its own words there.
        told.exc_text = None
        if getattr(record, "status_code", None) == HTTPStatus.SERVICE_UNAVAILABLE:
            # Somebody is asked to come back: while a server is away that comes with every request.
            told.exc_info = None
        return super().format(told)

    def formatException(self, ei: Any) -> str:
        return faults.story(ei[1]) if ei[1] is not None else super().formatException(ei)


def _quiet(told: Any) -> Any:
    return faults.said(told) if isinstance(told, faults.DATABASE) else told


def _quiet_all(args: Any) -> Any:
    if isinstance(args, tuple):
        return tuple(map(_quiet, args))
    return {name: _quiet(one) for name, one in args.items()} if isinstance(args, Mapping) else args
