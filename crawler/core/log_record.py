"""What a log record carries beside its text."""

from __future__ import annotations

import logging
from typing import Any, Final

_ATTRIBUTES: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""Of every record."""


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that were given as ``extra``."""
    return {key: value for key, value in vars(record).items() if key not in _ATTRIBUTES}
