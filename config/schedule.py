"""Every periodic job on one page: name -> task and period in seconds."""

from typing import Any

SCHEDULE: dict[str, dict[str, Any]] = {}
