"""JSON with whole numbers of any length: orjson reads those beyond 64 bits as floats, and writes none."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

_LONG: Final = re.compile(rb"[0-9]{19}")
"""In it a number may be beyond 64 bits; in few rows there is one."""


def loads(data: bytes) -> Any:
    """Raises orjson.JSONDecodeError, which is a ValueError."""
    value = orjson.loads(data)
    return json.loads(data) if _LONG.search(data) else value


def dumps(value: Any) -> bytes:
    """Raises TypeError: it cannot be written."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
